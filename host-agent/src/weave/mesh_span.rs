//! From the filter's span, as OTLP carries it, to what the correlator needs, and back.

use std::net::SocketAddr;

use meshweft_correlator::{MeshSpan, Woven, request_line};
use meshweft_telemetry::{Hop, SpanContext, SpanId, attributes, join};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, span};

use super::identity::{double, string};
use crate::intake::{self, integer_attribute as number, text_attribute as text};

/// Where the filter says it made the span; `None` for a span that is not the filter's.
pub(super) fn hop(span: &Span) -> Option<Hop> {
    intake::hop(span).filter(|hop| hop.is_mesh())
}

/// What the correlator needs of a filter's span.
pub(super) fn describe(span: &Span, context: SpanContext, hop: Hop) -> MeshSpan {
    let list = &span.attributes;
    let origin = text(list, attributes::CONTEXT_ORIGIN);
    let method = text(list, attributes::HTTP_REQUEST_METHOD_ORIGINAL)
        .or_else(|| text(list, attributes::HTTP_REQUEST_METHOD))
        .unwrap_or_default();
    let path = text(list, attributes::URL_PATH).unwrap_or_default();
    MeshSpan {
        context,
        parent: SpanId::from_slice(&span.parent_span_id),
        hop,
        began_trace: origin == Some("new"),
        asked: origin == Some("agent"),
        source: address(list, attributes::SOURCE),
        destination: address(list, attributes::DESTINATION),
        upstream_local: address(list, attributes::UPSTREAM_LOCAL),
        ordinal: number(list, attributes::CONNECTION_ORDINAL).and_then(|ordinal| ordinal.try_into().ok()),
        line: request_line(method.as_bytes(), path.as_bytes()),
        started: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
    }
}

fn address(list: &[KeyValue], key: &str) -> Option<SocketAddr> {
    text(list, key)?.parse().ok().map(join::canonical)
}

/// Writes the place that was found into the span.
pub(super) fn place<P>(woven: &Woven<P>, span: &mut Span) {
    span.trace_id = woven.trace_id.to_bytes().to_vec();
    span.parent_span_id = woven.link.map(|link| link.parent.to_bytes().to_vec()).unwrap_or_default();
    if let Some(hop) = woven.hop {
        if !span.attributes.iter().any(|pair| pair.key == attributes::HOP) {
            span.attributes.push(string(attributes::HOP, hop.as_str()));
        }
        if let Some(link) = woven.link {
            span.attributes.push(string(attributes::LINK_EVIDENCE, link.evidence.as_str()));
            span.attributes.push(double(attributes::LINK_CONFIDENCE, link.confidence));
        }
    }
    if let Some(parent) = woven.late_parent {
        span.links.push(span::Link {
            trace_id: parent.trace_id.to_bytes().to_vec(),
            span_id: parent.span_id.to_bytes().to_vec(),
            ..span::Link::default()
        });
    }
}
