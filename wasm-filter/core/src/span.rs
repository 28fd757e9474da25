//! Spans as bytes of OTLP (`opentelemetry/proto/trace/v1/trace.proto`, version 1.3 and later).
//!
//! A span is written once, straight into the bytes that go out. What does not change from request
//! to request (the node, the connection, the upstream host, its cluster) is kept as encoded
//! attributes and copied.

use meshweft_telemetry::{SpanContext, SpanId};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::borrow::Cow;

/// Longest string value of an attribute, in bytes. Values that the filter reads from headers have
/// smaller limits of their own.
pub const MAX_VALUE: usize = 1024;
/// Longest `tracestate` that a span carries, in bytes: what section 3.3.1.5 of W3C Trace Context
/// asks everyone to hand on. The request carries all of it in any case.
const MAX_TRACESTATE: usize = 512;

/// Field of attributes in a span.
pub const SPAN_ATTRIBUTES: u32 = 9;
/// Field of attributes in a resource.
pub const RESOURCE_ATTRIBUTES: u32 = 1;

/// `SpanKind` of OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The proxy stands for the server.
    Server = 2,
    /// The proxy stands for the client.
    Client = 3,
}

/// Encoded attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    bytes: Vec<u8>,
    field: u32,
}

impl Attributes {
    /// No attributes yet, of a message in which they stand under `field`.
    #[must_use]
    pub const fn new(field: u32) -> Self {
        Self { bytes: Vec::new(), field }
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets all attributes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds attributes that are encoded already.
    pub fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// Adds a string, cut after `max` bytes, with U+FFFD for what is not UTF-8 (a protobuf string
    /// must be UTF-8). An empty value is left out: it says nothing.
    pub fn text(&mut self, key: &str, value: &[u8], max: usize) {
        let value = utf8(value, max);
        if value.is_empty() {
            return;
        }
        let any = 1_usize.saturating_add(encoded_len_varint(value.len() as u64)).saturating_add(value.len());
        self.pair(key, any);
        bytes_field(1, value.as_bytes(), &mut self.bytes);
    }

    /// [`Self::text`] with the general limit.
    pub fn string(&mut self, key: &str, value: &[u8]) {
        self.text(key, value, MAX_VALUE);
    }

    /// Adds an integer.
    pub fn int(&mut self, key: &str, value: i64) {
        let value = value.cast_unsigned();
        self.pair(key, 1_usize.saturating_add(encoded_len_varint(value)));
        encode_key(3, WireType::Varint, &mut self.bytes);
        encode_varint(value, &mut self.bytes);
    }

    /// Adds a boolean.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.pair(key, 2);
        encode_key(2, WireType::Varint, &mut self.bytes);
        encode_varint(value.into(), &mut self.bytes);
    }

    /// The head of a `KeyValue` whose `AnyValue` has `any` bytes.
    fn pair(&mut self, key: &str, any: usize) {
        let len = bytes_len(key.len()).saturating_add(bytes_len(any));
        encode_key(self.field, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(len as u64, &mut self.bytes);
        bytes_field(1, key.as_bytes(), &mut self.bytes);
        encode_key(2, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(any as u64, &mut self.bytes);
    }
}

/// What a span is, apart from its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Trace, the span's own id, flags.
    pub context: SpanContext,
    /// The span's parent, where it has one; it is in another process.
    pub parent: Option<SpanId>,
    /// Members of `tracestate`; empty for none.
    pub tracestate: &'a str,
    /// Name of the span.
    pub name: &'a str,
    /// Its side.
    pub kind: Kind,
    /// Start, in nanoseconds since the Unix epoch.
    pub start: u64,
    /// End, likewise.
    pub end: u64,
    /// Whether the span's status is an error.
    pub error: bool,
}

impl Span<'_> {
    /// Appends the span, as a member of `ScopeSpans.spans`, to `out`.
    pub fn encode(&self, attributes: &Attributes, out: &mut Vec<u8>) {
        let tracestate = if self.tracestate.len() <= MAX_TRACESTATE { self.tracestate } else { "" };
        let optional = |len: usize| if len == 0 { 0 } else { bytes_len(len) };
        let parent = self.parent.map(SpanId::to_bytes);
        let len = [
            bytes_len(16),
            bytes_len(8),
            optional(tracestate.len()),
            parent.map_or(0, |id| bytes_len(id.len())),
            bytes_len(self.name.len()),
            KIND_LEN,
            TIME_LEN,
            TIME_LEN,
            attributes.bytes.len(),
            if self.error { STATUS_LEN } else { 0 },
            FLAGS_LEN,
        ]
        .iter()
        .fold(0_usize, |sum, part| sum.saturating_add(*part));

        out.reserve(bytes_len(len));
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(len as u64, out);
        bytes_field(1, &self.context.trace_id.to_bytes(), out);
        bytes_field(2, &self.context.span_id.to_bytes(), out);
        if !tracestate.is_empty() {
            bytes_field(3, tracestate.as_bytes(), out);
        }
        if let Some(parent) = parent {
            bytes_field(4, &parent, out);
        }
        bytes_field(5, self.name.as_bytes(), out);
        encode_key(6, WireType::Varint, out);
        encode_varint(self.kind as u64, out);
        for (field, time) in [(7, self.start), (8, self.end)] {
            encode_key(field, WireType::SixtyFourBit, out);
            out.extend_from_slice(&time.to_le_bytes());
        }
        out.extend_from_slice(&attributes.bytes);
        if self.error {
            // Status { code: STATUS_CODE_ERROR }
            bytes_field(15, &[0x18, 2], out);
        }
        // trace.proto: bits 0 to 7 are the W3C flags, bit 8 says that bit 9 is valid, bit 9 that
        // the parent is remote.
        let remote = if parent.is_some() { 0x300 } else { 0x100 };
        encode_key(16, WireType::ThirtyTwoBit, out);
        out.extend_from_slice(&(u32::from(self.context.flags.bits()) | remote).to_le_bytes());
    }
}

const KIND_LEN: usize = 2;
const TIME_LEN: usize = 9;
const STATUS_LEN: usize = 4;
const FLAGS_LEN: usize = 6;

/// Length of a length-delimited field with a number below 16.
fn bytes_len(len: usize) -> usize {
    1_usize.saturating_add(encoded_len_varint(len as u64)).saturating_add(len)
}

fn bytes_field(field: u32, value: &[u8], out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn utf8(value: &[u8], max: usize) -> Cow<'_, str> {
    let cut = value.get(..max).unwrap_or(value);
    match core::str::from_utf8(cut) {
        Ok(text) => Cow::Borrowed(text),
        // The cut went through a character.
        Err(error) if error.error_len().is_none() && cut.len() < value.len() => {
            let whole = cut.get(..error.valid_up_to()).unwrap_or_default();
            Cow::Borrowed(core::str::from_utf8(whole).unwrap_or_default())
        }
        Err(_) => String::from_utf8_lossy(cut),
    }
}

/// The body of an export (`ExportTraceServiceRequest`): one resource, one scope, `spans` as
/// [`Span::encode`] made them.
#[must_use]
pub fn request(resource: &Attributes, spans: &[u8]) -> Vec<u8> {
    const SCOPE: &[u8] = b"\x0a\x08meshweft";
    let scope_spans = bytes_len(SCOPE.len()).saturating_add(spans.len());
    let resource_spans = bytes_len(resource.bytes.len()).saturating_add(bytes_len(scope_spans));
    let mut out = Vec::with_capacity(bytes_len(resource_spans));
    let parts: [(u32, usize, &[u8]); 4] = [
        (1, resource_spans, &[]),
        (1, resource.bytes.len(), &resource.bytes),
        (2, scope_spans, &[]),
        (1, SCOPE.len(), SCOPE),
    ];
    for (field, len, bytes) in parts {
        encode_key(field, WireType::LengthDelimited, &mut out);
        encode_varint(len as u64, &mut out);
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(spans);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshweft_telemetry::TraceFlags;
    use meshweft_telemetry::id::IdGenerator;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1 as otlp;
    use proptest::prelude::*;
    use prost::Message;

    fn context() -> SpanContext {
        let mut ids = IdGenerator::new(1);
        SpanContext { trace_id: ids.trace_id(), span_id: ids.span_id(), flags: TraceFlags::SAMPLED }
    }

    fn decode(resource: &Attributes, spans: &[u8]) -> (Vec<(String, Value)>, Vec<otlp::Span>) {
        let mut request = ExportTraceServiceRequest::decode(request(resource, spans).as_slice()).unwrap();
        let mut resource_spans = request.resource_spans.remove(0);
        let scope_spans = resource_spans.scope_spans.remove(0);
        assert_eq!(scope_spans.scope.unwrap().name, "meshweft");
        (pairs(resource_spans.resource.unwrap().attributes), scope_spans.spans)
    }

    fn pairs(attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> Vec<(String, Value)> {
        attributes.into_iter().map(|pair| (pair.key, pair.value.unwrap().value.unwrap())).collect()
    }

    #[test]
    fn a_batch_decodes_as_what_was_put_in() {
        let mut resource = Attributes::new(RESOURCE_ATTRIBUTES);
        resource.string("service.name", b"orders");
        let mut attributes = Attributes::new(SPAN_ATTRIBUTES);
        attributes.int("status", -1);
        attributes.string("path", "/é".as_bytes());
        attributes.bool("open", true);
        let parent = IdGenerator::new(9).span_id();
        let mut out = Vec::new();
        let span = Span {
            context: context(),
            parent: Some(parent),
            tracestate: "a=1",
            name: "GET",
            kind: Kind::Client,
            start: 5,
            end: 9,
            error: true,
        };
        span.encode(&attributes, &mut out);
        Span { parent: None, tracestate: "", kind: Kind::Server, error: false, ..span }
            .encode(&attributes, &mut out);

        let (resource, spans) = decode(&resource, &out);
        assert_eq!(resource, [("service.name".to_owned(), Value::StringValue("orders".to_owned()))]);
        let [first, second] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!(first.trace_id, context().trace_id.to_bytes());
        assert_eq!(first.span_id, context().span_id.to_bytes());
        assert_eq!(first.parent_span_id, parent.to_bytes());
        assert_eq!((first.name.as_str(), first.trace_state.as_str()), ("GET", "a=1"));
        assert_eq!((first.start_time_unix_nano, first.end_time_unix_nano), (5, 9));
        assert_eq!((first.kind, first.flags), (otlp::span::SpanKind::Client as i32, 0x301));
        assert_eq!(first.status.as_ref().unwrap().code, otlp::status::StatusCode::Error as i32);
        assert_eq!(
            pairs(first.attributes.clone()),
            [
                ("status".to_owned(), Value::IntValue(-1)),
                ("path".to_owned(), Value::StringValue("/é".to_owned())),
                ("open".to_owned(), Value::BoolValue(true)),
            ]
        );
        assert!(second.parent_span_id.is_empty() && second.status.is_none() && second.trace_state.is_empty());
        assert_eq!((second.kind, second.flags), (otlp::span::SpanKind::Server as i32, 0x101));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(utf8("aéz".as_bytes(), 2), "a");
        assert_eq!(utf8("aéz".as_bytes(), 3), "aé");
        assert_eq!(utf8(b"a\xc3", 2), "a\u{fffd}");
        assert_eq!(utf8(b"\xffab", 2), "\u{fffd}a");
    }

    #[test]
    fn a_tracestate_beyond_the_limit_is_left_out() {
        let tracestate = format!("a={}", "x".repeat(MAX_TRACESTATE));
        let mut out = Vec::new();
        Span {
            context: context(),
            parent: None,
            tracestate: &tracestate,
            name: "GET",
            kind: Kind::Server,
            start: 0,
            end: 0,
            error: false,
        }
        .encode(&Attributes::new(SPAN_ATTRIBUTES), &mut out);
        assert_eq!(decode(&Attributes::new(RESOURCE_ATTRIBUTES), &out).1[0].trace_state, "");
    }

    proptest! {
        #[test]
        fn any_value_gives_a_batch_that_decodes(values: Vec<(String, Vec<u8>)>, numbers: Vec<i64>, name in ".*") {
            let mut attributes = Attributes::new(SPAN_ATTRIBUTES);
            for (key, value) in &values {
                attributes.text(key, value, 64);
            }
            for number in &numbers {
                attributes.int("n", *number);
            }
            let mut out = Vec::new();
            Span {
                context: context(), parent: None, tracestate: "", name: &name, kind: Kind::Server,
                start: u64::MAX, end: 0, error: true,
            }.encode(&attributes, &mut out);
            let (_, spans) = decode(&Attributes::new(RESOURCE_ATTRIBUTES), &out);
            let filled = values.iter().filter(|(_, value)| !value.is_empty()).count();
            prop_assert_eq!(spans[0].attributes.len(), filled + numbers.len());
            prop_assert_eq!(&spans[0].name, &name);
        }
    }
}
