//! Spans as an `ExportTraceServiceRequest`, grouped by resource and scope, without a copy of them.

use crate::intake::ExportSpan;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{self, WireType};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

// Field numbers of opentelemetry/proto/collector/trace/v1/trace_service.proto and
// opentelemetry/proto/trace/v1/trace.proto.
const REQUEST_RESOURCE_SPANS: u32 = 1;
const RESOURCE_SPANS_RESOURCE: u32 = 1;
const RESOURCE_SPANS_SCOPE_SPANS: u32 = 2;
const SCOPE_SPANS_SCOPE: u32 = 1;
const SCOPE_SPANS_SPANS: u32 = 2;

/// Groups in the order of their first span.
#[derive(Default)]
struct Groups {
    groups: Vec<Group>,
    by_pointer: HashMap<(usize, usize), usize>,
    by_content: HashMap<(Vec<u8>, Vec<u8>), usize>,
}

struct Group {
    resource: usize,
    scope: Vec<u8>,
    spans: Vec<usize>,
}

/// Encodes a request. `extra` are attributes for each resource that does not have them.
pub(super) fn request(spans: &[ExportSpan], extra: &BTreeMap<String, String>) -> Vec<u8> {
    // Each request of each proxy brings an Arc of its own, with equal content: the pointer is the
    // quick way, the encoded form the thorough one.
    let mut groups = Groups::default();
    let mut resources: Vec<Vec<u8>> = Vec::new();
    let mut resource_by_content: HashMap<Vec<u8>, usize> = HashMap::new();
    for (index, span) in spans.iter().enumerate() {
        let pointers = (Arc::as_ptr(&span.resource).addr(), Arc::as_ptr(&span.scope).addr());
        let group = *groups.by_pointer.entry(pointers).or_insert_with(|| {
            let resource = resource(&span.resource, extra);
            let scope = InstrumentationScope::encode_to_vec(&span.scope);
            *groups.by_content.entry((resource.clone(), scope.clone())).or_insert_with(|| {
                let resource = *resource_by_content.entry(resource).or_insert_with_key(|encoded| {
                    resources.push(encoded.clone());
                    resources.len() - 1
                });
                groups.groups.push(Group { resource, scope, spans: Vec::new() });
                groups.groups.len() - 1
            })
        });
        if let Some(group) = groups.groups.get_mut(group) {
            group.spans.push(index);
        }
    }

    let mut out = Vec::with_capacity(spans.len() * 512);
    for (index, resource) in resources.iter().enumerate() {
        let scopes: Vec<Vec<u8>> = groups
            .groups
            .iter()
            .filter(|group| group.resource == index)
            .map(|group| scope_spans(group, spans))
            .collect();
        let length = field_len(RESOURCE_SPANS_RESOURCE, resource.len())
            + scopes.iter().map(|scope| field_len(RESOURCE_SPANS_SCOPE_SPANS, scope.len())).sum::<usize>();
        encoding::encode_key(REQUEST_RESOURCE_SPANS, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(length as u64, &mut out);
        field(RESOURCE_SPANS_RESOURCE, resource, &mut out);
        for scope in &scopes {
            field(RESOURCE_SPANS_SCOPE_SPANS, scope, &mut out);
        }
    }
    out
}

fn scope_spans(group: &Group, spans: &[ExportSpan]) -> Vec<u8> {
    let mut out = Vec::with_capacity(group.scope.len() + group.spans.len() * 512);
    field(SCOPE_SPANS_SCOPE, &group.scope, &mut out);
    for span in group.spans.iter().filter_map(|index| spans.get(*index)) {
        encoding::message::encode(SCOPE_SPANS_SPANS, &span.span, &mut out);
    }
    out
}

fn resource(resource: &Resource, extra: &BTreeMap<String, String>) -> Vec<u8> {
    let missing: Vec<_> = extra
        .iter()
        .filter(|(key, _)| resource.attributes.iter().all(|attribute| attribute.key != **key))
        .map(|(key, value)| KeyValue {
            key: key.clone(),
            value: Some(AnyValue { value: Some(Value::StringValue(value.clone())) }),
            ..KeyValue::default()
        })
        .collect();
    if missing.is_empty() {
        return resource.encode_to_vec();
    }
    let mut resource = resource.clone();
    resource.attributes.extend(missing);
    resource.encode_to_vec()
}

fn field(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn field_len(tag: u32, length: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;

    fn text(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    fn span(resource: u8, scope: u8, id: u8) -> ExportSpan {
        ExportSpan {
            resource: Arc::new(Resource {
                attributes: vec![text("r", &resource.to_string())],
                ..Resource::default()
            }),
            scope: Arc::new(InstrumentationScope {
                name: scope.to_string(),
                ..InstrumentationScope::default()
            }),
            span: Span { span_id: vec![id; 8], ..Span::default() },
        }
    }

    #[test]
    fn missing_resource_attributes_are_added_and_present_ones_kept() {
        let extra = [("r", "9"), ("cluster", "c")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let request =
            ExportTraceServiceRequest::decode(request(&[span(1, 1, 1)], &extra).as_slice()).unwrap();
        let resource = request.resource_spans[0].resource.as_ref().unwrap();
        assert_eq!(resource.attributes, [text("r", "1"), text("cluster", "c")]);
    }

    proptest! {
        #[test]
        fn every_span_arrives_once_below_its_own_resource_and_scope(
            spans in prop::collection::vec((0u8..4, 0u8..3), 0..40)
        ) {
            let spans: Vec<_> = spans.iter().zip(1u8..).map(|((r, s), id)| span(*r, *s, id)).collect();
            let bytes = request(&spans, &BTreeMap::new());
            let decoded = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(decoded.encode_to_vec(), bytes, "canonical");
            let mut ids: Vec<u8> = Vec::new();
            let mut resources = Vec::new();
            for group in &decoded.resource_spans {
                let resource = group.resource.clone().unwrap();
                prop_assert!(!resources.contains(&resource), "one group for each resource");
                for scope in &group.scope_spans {
                    for span in &scope.spans {
                        let original = &spans[usize::from(span.span_id[0]) - 1];
                        prop_assert_eq!(&*original.resource, &resource);
                        prop_assert_eq!(Some(&*original.scope), scope.scope.as_ref());
                        ids.push(span.span_id[0]);
                    }
                }
                resources.push(resource);
            }
            ids.sort_unstable();
            prop_assert_eq!(ids, (1..).take(spans.len()).collect::<Vec<u8>>());
        }
    }
}
