//! The last spans, for `/debug/traces`.

use crate::intake::ExportSpan;
use crate::otlp::Exported;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use prost::Message as _;
use serde_json::{Map, json};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Most spans that are kept: some hundred traces.
const MAX_SPANS: usize = 2_000;
/// Most bytes that are kept, as encoded, so that large spans do not add up.
const MAX_BYTES: usize = 8 << 20;
/// Deepest attribute value that is shown; deeper ones are left out.
const MAX_DEPTH: usize = 8;

/// A ring of the last spans that left the agent, or would have.
#[derive(Default)]
pub struct Recent {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    spans: VecDeque<Kept>,
    bytes: usize,
}

struct Kept {
    span: ExportSpan,
    bytes: usize,
    exported: bool,
}

impl Recent {
    fn keep(&self, spans: &[ExportSpan], exported: bool) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = spans.len().saturating_sub(MAX_SPANS);
        for span in spans.iter().skip(skipped) {
            let bytes = span.span.encoded_len();
            if bytes > MAX_BYTES {
                continue;
            }
            while (ring.spans.len() >= MAX_SPANS || ring.bytes + bytes > MAX_BYTES)
                && let Some(oldest) = ring.spans.pop_front()
            {
                ring.bytes -= oldest.bytes;
            }
            ring.bytes += bytes;
            ring.spans.push_back(Kept { span: span.clone(), bytes, exported });
        }
    }

    /// The last `limit` spans, newest first, as a JSON array.
    pub(super) fn to_json(&self, limit: usize) -> Vec<u8> {
        // Copied out, so that the exporter does not wait for the JSON.
        let kept: Vec<_> = {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.spans.iter().rev().take(limit).map(|kept| (kept.span.clone(), kept.exported)).collect()
        };
        let list: Vec<_> = kept.iter().map(|(span, exported)| span_json(span, *exported)).collect();
        serde_json::Value::Array(list).to_string().into_bytes()
    }
}

impl Exported for Recent {
    fn exported(&self, spans: &[ExportSpan]) {
        self.keep(spans, true);
    }

    fn unexported(&self, spans: &[ExportSpan]) {
        self.keep(spans, false);
    }
}

fn span_json(ExportSpan { resource, scope, span }: &ExportSpan, exported: bool) -> serde_json::Value {
    json!({
        "trace_id": hex(&span.trace_id),
        "span_id": hex(&span.span_id),
        "parent_span_id": hex(&span.parent_span_id),
        "name": span.name,
        "kind": span.kind().as_str_name(),
        "start_unix_nano": span.start_time_unix_nano,
        "end_unix_nano": span.end_time_unix_nano,
        "status": span.status.as_ref().map(|status| status.code().as_str_name()),
        "scope": scope.name,
        "resource": attributes_json(&resource.attributes, 0),
        "attributes": attributes_json(&span.attributes, 0),
        "exported": exported,
    })
}

fn attributes_json(attributes: &[KeyValue], depth: usize) -> serde_json::Value {
    let pairs = attributes.iter().map(|pair| (pair.key.clone(), value_json(pair.value.as_ref(), depth)));
    serde_json::Value::Object(pairs.collect::<Map<_, _>>())
}

fn value_json(value: Option<&AnyValue>, depth: usize) -> serde_json::Value {
    if depth > MAX_DEPTH {
        return serde_json::Value::Null;
    }
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(value)) => json!(value),
        Some(Value::IntValue(number)) => json!(number),
        Some(Value::DoubleValue(number)) => json!(number),
        Some(Value::BytesValue(bytes)) => json!(hex(bytes)),
        Some(Value::ArrayValue(list)) => {
            list.values.iter().map(|value| value_json(Some(value), depth + 1)).collect()
        }
        Some(Value::KvlistValue(list)) => attributes_json(&list.values, depth + 1),
        // An index into a table that traces do not have.
        Some(Value::StringValueStrindex(_)) | None => serde_json::Value::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use std::sync::Arc;

    fn span(name: &str) -> ExportSpan {
        ExportSpan {
            resource: Arc::new(Resource::default()),
            scope: Arc::new(InstrumentationScope::default()),
            span: Span { name: name.to_owned(), span_id: vec![0xab; 8], ..Span::default() },
        }
    }

    #[test]
    fn the_newest_come_first_and_the_ring_is_bounded() {
        let recent = Recent::default();
        for index in 0..MAX_SPANS + 5 {
            recent.exported(&[span(&index.to_string())]);
        }
        recent.unexported(&[span("last")]);
        let list: Vec<serde_json::Value> = serde_json::from_slice(&recent.to_json(2)).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((&list[0]["name"], &list[0]["exported"]), (&json!("last"), &json!(false)));
        assert_eq!(list[1]["span_id"], "abababababababab");
        let all: Vec<serde_json::Value> = serde_json::from_slice(&recent.to_json(usize::MAX)).unwrap();
        assert_eq!(all.len(), MAX_SPANS);
    }

    #[test]
    fn large_spans_do_not_add_up() {
        let recent = Recent::default();
        for _ in 0..10 {
            recent.exported(&[span(&"x".repeat(MAX_BYTES / 3))]);
        }
        recent.exported(&[span(&"x".repeat(MAX_BYTES + 1))]);
        assert_eq!(recent.ring.lock().unwrap().spans.len(), 2);
    }
}
