//! Whole streams over a host of the tests' own.

mod context;
mod delivery;
mod spans;
mod tracers;

use crate::fake::{FakeHost, Headers, RecordedCall};
use crate::host::LogLevel;
use crate::{Filter, Stream, Verdict};
use meshweft_telemetry::{attributes, question};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use std::collections::BTreeMap;
use std::rc::Rc;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const START: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

/// Host calls of one request on a known connection, to a known upstream, with its context on the
/// wire: headers, connection, the new `traceparent`, and the facts of the finished stream.
const STEADY_CALLS: u64 = 4;
/// A request that no upstream answered needs the second expression.
const LOCAL_REPLY_CALLS: u64 = STEADY_CALLS + 1;
/// The steady state where the host cannot evaluate expressions, so that each fact is a call of its own.
const STEADY_CALLS_WITHOUT_EXPRESSIONS: u64 = 14;
/// What a question adds: the two addresses, the call, its start, its answer, its end, the resume.
const QUESTION_CALLS: u64 = 7;

type Attributes = BTreeMap<String, String>;

#[derive(Debug)]
struct Exported {
    trace: String,
    span: String,
    parent: String,
    span_proto: opentelemetry_proto::tonic::trace::v1::Span,
    attributes: Attributes,
    resource: Attributes,
}

struct Proxy {
    filter: Rc<Filter<FakeHost>>,
}

impl Proxy {
    fn new(configuration: &str) -> Self {
        let host = FakeHost::default();
        *host.configuration.borrow_mut() = configuration.to_owned();
        host.clock.set(START);
        host.expressions.set(true);
        host.functions.borrow_mut().insert("declare_property".to_owned(), Vec::new());
        host.set("xds\0node\0id", "sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local");
        for (key, value) in [
            ("NAME", "orders-0"),
            ("WORKLOAD_NAME", "orders-v1"),
            ("NAMESPACE", "shop"),
            ("CLUSTER_ID", "Kubernetes"),
            ("LABELS\0app", "orders"),
            ("LABELS\0version", "v1"),
            ("LABELS\0service.istio.io/canonical-name", "orders"),
            ("LABELS\0service.istio.io/canonical-revision", "v1"),
        ] {
            host.set(&format!("xds\0node\0metadata\0{key}"), value);
        }
        let proxy = Self { filter: Filter::new(host) };
        assert!(proxy.filter.configure(), "{:?}", proxy.host().logs);
        proxy.connection(1);
        proxy.direction(2);
        let host = proxy.host();
        for (path, value) in [
            ("source\0address", "10.0.0.7:40000"),
            ("destination\0address", "10.96.0.1:80"),
            ("request\0protocol", "HTTP/1.1"),
            ("response\0code_details", "via_upstream"),
            ("xds\0cluster_name", "outbound|80||stock.shop.svc.cluster.local"),
            ("upstream\0address", "10.0.0.9:8080"),
            ("upstream\0local_address", "10.0.0.7:41000"),
            ("upstream\0uri_san_local_certificate", "spiffe://cluster.local/ns/shop/sa/orders"),
            ("upstream\0uri_san_peer_certificate", "spiffe://cluster.local/ns/shop/sa/stock"),
            (
                "xds\0upstream_host_metadata\0filter_metadata\0istio\0workload",
                "stock-v2;shop;stock;v2;Kubernetes",
            ),
            (
                "xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0host",
                "stock.shop.svc.cluster.local",
            ),
            ("xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0name", "stock"),
            ("xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0namespace", "shop"),
        ] {
            host.set(path, value);
        }
        for (path, value) in [
            ("request\0time", START),
            ("request\0duration", 7 * MS),
            ("request\0total_size", 300),
            ("response\0total_size", 400),
            ("response\0code", 200),
            ("response\0flags", 0),
        ] {
            proxy.number(path, value);
        }
        proxy
    }

    fn host(&self) -> &FakeHost {
        self.filter.host.uncounted()
    }

    fn number(&self, path: &str, value: u64) {
        self.host().set(path, value.to_le_bytes());
    }

    fn connection(&self, id: u64) {
        self.host().connection.set(id);
        self.number("connection\0id", id);
    }

    fn direction(&self, direction: u64) {
        self.number("xds\0listener_direction", direction);
    }

    fn request(&self, headers: &[(&str, &str)]) {
        let mut request: Headers = [
            (":method", "GET"),
            (":path", "/stock/7?secret=1"),
            (":authority", "stock.shop:80"),
            (":scheme", "http"),
            ("user-agent", "curl/8"),
            ("x-request-id", "cc189107-a7f4-95fc-84ee-74702421d0d0"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        request.extend(headers.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        *self.host().request.borrow_mut() = request;
    }

    fn start(&self, headers: &[(&str, &str)]) -> (Stream<FakeHost>, Verdict) {
        self.request(headers);
        let mut stream = self.filter.stream();
        let verdict = stream.request_headers();
        (stream, verdict)
    }

    /// A whole request that does not wait. Returns the `traceparent` that it went on with.
    fn run(&self, headers: &[(&str, &str)]) -> Option<String> {
        let (mut stream, verdict) = self.start(headers);
        assert_eq!(verdict, Verdict::Continue);
        let sent = self.host().request_header("traceparent");
        stream.log();
        sent
    }

    fn answer(&self, headers: &[(&str, &str)]) {
        *self.host().response.borrow_mut() =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    }

    fn calls(&self) -> Vec<RecordedCall> {
        self.host().calls.borrow().clone()
    }

    /// Token of the last call.
    fn token(&self) -> u32 {
        u32::try_from(self.host().calls.borrow().len()).unwrap()
    }

    /// Exports, and lets the agent take all.
    fn exported(&self) -> Vec<Exported> {
        let before = self.calls().len();
        self.filter.tick();
        let calls = self.calls();
        let mut spans = Vec::new();
        for (n, call) in calls.iter().enumerate().skip(before) {
            assert_eq!((call.header(":method"), call.header(":path")), (Some("POST"), Some("/v1/traces")));
            assert_eq!(call.header("content-type"), Some("application/x-protobuf"));
            spans.extend(decode(&call.body));
            self.answer(&[(":status", "200")]);
            self.filter.call_response(u32::try_from(n).unwrap() + 1);
        }
        spans
    }

    fn metric(&self, name: &str) -> i64 {
        self.filter.tick();
        self.host().metric(name)
    }
}

fn decode(body: &[u8]) -> Vec<Exported> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let [resource_spans] = request.resource_spans.as_slice() else { panic!("{request:?}") };
    let resource = attributes(&resource_spans.resource.as_ref().unwrap().attributes);
    let [scope_spans] = resource_spans.scope_spans.as_slice() else { panic!("{resource_spans:?}") };
    let exported = scope_spans.spans.iter().map(|span| Exported {
        trace: hex(&span.trace_id),
        span: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: attributes(&span.attributes),
        resource: resource.clone(),
        span_proto: span.clone(),
    });
    exported.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let map: Attributes = pairs
        .iter()
        .map(|pair| {
            let value = match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
                Value::StringValue(text) => text.clone(),
                Value::IntValue(number) => number.to_string(),
                Value::BoolValue(truth) => truth.to_string(),
                other => panic!("{other:?}"),
            };
            (pair.key.clone(), value)
        })
        .collect();
    assert_eq!(map.len(), pairs.len(), "an attribute stands twice: {pairs:?}");
    map
}

fn expect(attributes: &Attributes, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(attributes.get(*key).map(String::as_str), Some(*value), "{key} in {attributes:#?}");
    }
}
