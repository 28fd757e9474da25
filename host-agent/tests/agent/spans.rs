//! Spans to send.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// A span with this number as its id.
pub(crate) fn span(number: u64) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: number.to_be_bytes().to_vec(),
        name: format!("span {number}"),
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_004_000_000,
        ..Span::default()
    }
}

/// Spans with the numbers `first` and up, of one service.
pub(crate) fn request(first: u64, count: u64) -> ExportTraceServiceRequest {
    request_of(
        Resource { attributes: vec![text("service.name", "orders")], ..Resource::default() },
        (first..first + count).map(span).collect(),
    )
}

pub(crate) fn request_of(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

/// The numbers of all spans.
pub(crate) fn numbers(request: &ExportTraceServiceRequest) -> Vec<u64> {
    let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
    let spans = groups.flat_map(|group| &group.spans);
    spans.map(|span| u64::from_be_bytes(span.span_id.as_slice().try_into().unwrap())).collect()
}
