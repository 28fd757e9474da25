//! The boundary between what comes in (spans, the filter's questions) and what is made of it.

use crate::config::Sampling;
use crate::metrics::Metrics;
use crate::otlp::Exporter;
use meshweft_telemetry::{DropReason, Hop, SpanContext, SpanId, TraceFlags, TraceId, attributes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::SocketAddr;
use std::sync::Arc;

/// A span on its way out, with what it belongs to.
#[derive(Clone, Debug)]
pub struct ExportSpan {
    /// Who reported it.
    pub resource: Arc<Resource>,
    /// With what.
    pub scope: Arc<InstrumentationScope>,
    /// The span. Its ids are valid.
    pub span: Span,
}

/// What the filter asks about a request that arrived without a context.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The app's own end of the connection, IPv4 where it was IPv4 mapped into IPv6.
    pub source: SocketAddr,
    /// Whom the app meant to reach.
    pub destination: Option<SocketAddr>,
    /// Which request of that connection it is, counted from 1.
    pub ordinal: Option<u64>,
    /// `METHOD SP path`, at most [`meshweft_telemetry::question::MAX_REQUEST_LINE`] bytes; empty
    /// where the filter did not say.
    pub request_line: &'a [u8],
}

/// The context of the request that a [`Question`] is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its trace, and the app's client span as parent.
    pub context: SpanContext,
    /// `tracestate` of the trace, as it is to be written.
    pub tracestate: Option<Vec<u8>>,
}

/// The intake holds as much as it may. Nothing of the request was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Takes what the receivers received.
pub trait Intake: Send + Sync + 'static {
    /// Spans from the filter or an SDK. Must not block for long: called on an async worker thread.
    ///
    /// # Errors
    /// [`Full`], which the receiver answers so that the sender's retry policy decides. Nothing was
    /// taken or counted then.
    fn accept(&self, request: ExportTraceServiceRequest) -> Result<(), Full>;

    /// The filter's question. Must be quick; called on an async worker thread, may take a mutex.
    /// Answers only about connections of this node.
    fn context(&self, question: &Question<'_>) -> Option<Answer>;

    /// Called once at shutdown, after the receivers closed and before the exporter's last batch:
    /// everything that is still held is handed to the exporter.
    fn close(&self) {}
}

/// Takes a request apart. Counts every span as seen, and as dropped what has no usable ids; a parent
/// of zeros is none.
pub fn take_apart(request: ExportTraceServiceRequest, metrics: &Metrics) -> Vec<ExportSpan> {
    let mut taken = Vec::new();
    for resource_spans in request.resource_spans {
        let resource = Arc::new(resource_spans.resource.unwrap_or_default());
        for scope_spans in resource_spans.scope_spans {
            let scope = Arc::new(scope_spans.scope.unwrap_or_default());
            for mut span in scope_spans.spans {
                metrics.spans.seen(hop(&span), 1);
                if span.parent_span_id.iter().all(|byte| *byte == 0) {
                    span.parent_span_id.clear();
                }
                let parent_is_usable =
                    span.parent_span_id.is_empty() || SpanId::from_slice(&span.parent_span_id).is_some();
                if parent_is_usable && context(&span).is_some() {
                    let (resource, scope) = (Arc::clone(&resource), Arc::clone(&scope));
                    taken.push(ExportSpan { resource, scope, span });
                } else {
                    metrics.spans.dropped(DropReason::InvalidSpan, 1);
                }
            }
        }
    }
    taken
}

/// As [`take_apart`], and counts as dropped what is not sampled: the rest is owed to the exporter.
pub fn admit(request: ExportTraceServiceRequest, metrics: &Metrics, sampling: &Sampling) -> Vec<ExportSpan> {
    let mut admitted = take_apart(request, metrics);
    let taken = admitted.len();
    // Whoever sends a span has sampled it.
    admitted.retain(|taken| {
        context(&taken.span).is_some_and(|context| sampling.keeps(context.trace_id, Some(true)))
    });
    metrics.spans.dropped(DropReason::NotSampled, (taken - admitted.len()) as u64);
    admitted
}

/// Ids and flags of a span, or `None` where they are not valid.
#[must_use]
pub fn context(span: &Span) -> Option<SpanContext> {
    Some(SpanContext {
        trace_id: TraceId::from_slice(&span.trace_id)?,
        span_id: SpanId::from_slice(&span.span_id)?,
        // The lower eight bits are the W3C flags (OTLP, trace.proto).
        flags: TraceFlags::from_bits((span.flags & 0xff) as u8),
    })
}

/// The attribute [`attributes::HOP`]. `None` for spans that are neither a proxy's nor a probe's.
#[must_use]
pub fn hop(span: &Span) -> Option<Hop> {
    text_attribute(&span.attributes, attributes::HOP).and_then(Hop::from_name)
}

/// Value of the first attribute with this key, where it is text.
#[must_use]
pub fn text_attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Value of the first attribute with this key, where it is an integer.
#[must_use]
pub fn integer_attribute(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

/// Hands every span on as it came and knows no contexts.
pub struct PassThrough {
    /// Where the spans go.
    pub exporter: Exporter,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Which are kept.
    pub sampling: Sampling,
}

impl Intake for PassThrough {
    fn accept(&self, request: ExportTraceServiceRequest) -> Result<(), Full> {
        self.exporter.offer(admit(request, &self.metrics, &self.sampling));
        Ok(())
    }

    fn context(&self, _question: &Question<'_>) -> Option<Answer> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SamplerName;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
    use prometheus_client::registry::Registry;

    fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }
    }

    fn span(trace_id: &[u8], span_id: &[u8], parent: &[u8]) -> Span {
        Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id.to_vec(),
            parent_span_id: parent.to_vec(),
            ..Span::default()
        }
    }

    #[test]
    fn spans_without_usable_ids_are_counted_and_go_no_further() {
        let metrics = Metrics::register(&mut Registry::default());
        let good = span(&[1; 16], &[1; 8], &[]);
        let spans = vec![
            good.clone(),
            span(&[1; 16], &[1; 8], &[0; 8]),
            span(&[0; 16], &[1; 8], &[]),
            span(&[1; 17], &[1; 8], &[]),
            span(&[1; 16], &[], &[]),
            span(&[1; 16], &[1; 8], &[1; 7]),
        ];
        let admitted = admit(request(spans), &metrics, &Sampling::default());
        assert_eq!(admitted.iter().map(|span| &span.span).collect::<Vec<_>>(), [&good, &good]);
        let totals = metrics.spans.totals();
        assert_eq!((totals.seen, totals.dropped), (6, 4));
        assert_eq!(metrics.spans.dropped_for(DropReason::InvalidSpan), 4);
    }

    #[test]
    fn always_off_drops_everything_with_its_reason() {
        let metrics = Metrics::register(&mut Registry::default());
        let sampling = Sampling { sampler: SamplerName::AlwaysOff, ratio: 1.0 };
        let admitted = admit(request(vec![span(&[1; 16], &[1; 8], &[])]), &metrics, &sampling);
        assert!(admitted.is_empty());
        assert_eq!(metrics.spans.dropped_for(DropReason::NotSampled), 1);
    }
}
