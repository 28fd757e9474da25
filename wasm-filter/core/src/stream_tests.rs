//! Whole streams over a host of the tests' own.

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

#[test]
fn an_outbound_request_with_a_context_becomes_a_client_span_under_it() {
    let proxy = Proxy::new("");
    let sent = proxy.run(&[("traceparent", PARENT), ("tracestate", "a=1")]).unwrap();
    let spans = proxy.exported();
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(sent, format!("00-{}-{}-01", span.trace, span.span));
    assert_eq!((span.trace.as_str(), span.parent.as_str()), (&PARENT[3..35], &PARENT[36..52]));
    let proto = &span.span_proto;
    assert_eq!(
        (proto.name.as_str(), proto.kind, proto.trace_state.as_str()),
        ("GET", SpanKind::Client as i32, "a=1")
    );
    assert_eq!((proto.start_time_unix_nano, proto.end_time_unix_nano), (START, START + 7 * MS));
    assert!(proto.status.is_none());
    expect(
        &span.attributes,
        &[
            (attributes::HOP, "mesh.outbound"),
            (attributes::CONTEXT_ORIGIN, "wire"),
            (attributes::SOURCE, "10.0.0.7:40000"),
            (attributes::DESTINATION, "10.96.0.1:80"),
            (attributes::UPSTREAM, "10.0.0.9:8080"),
            (attributes::UPSTREAM_LOCAL, "10.0.0.7:41000"),
            (attributes::CONNECTION_ID, "1"),
            (attributes::CONNECTION_ORDINAL, "1"),
            (attributes::REQUEST_ID, "cc189107-a7f4-95fc-84ee-74702421d0d0"),
            (attributes::REQUEST_TOTAL_SIZE, "300"),
            (attributes::RESPONSE_TOTAL_SIZE, "400"),
            (attributes::RESPONSE_FLAGS, "-"),
            (attributes::HTTP_REQUEST_METHOD, "GET"),
            (attributes::URL_PATH, "/stock/7"),
            (attributes::URL_SCHEME, "http"),
            (attributes::SERVER_ADDRESS, "stock.shop"),
            (attributes::SERVER_PORT, "80"),
            (attributes::HTTP_RESPONSE_STATUS_CODE, "200"),
            (attributes::NETWORK_PROTOCOL_VERSION, "1.1"),
            (attributes::USER_AGENT_ORIGINAL, "curl/8"),
            ("istio.reporter", "source"),
            ("istio.source_workload", "orders-v1"),
            ("istio.source_workload_namespace", "shop"),
            ("istio.source_canonical_service", "orders"),
            ("istio.source_canonical_revision", "v1"),
            ("istio.source_app", "orders"),
            ("istio.source_version", "v1"),
            ("istio.source_cluster", "Kubernetes"),
            ("istio.source_principal", "spiffe://cluster.local/ns/shop/sa/orders"),
            ("istio.destination_workload", "stock-v2"),
            ("istio.destination_workload_namespace", "shop"),
            ("istio.destination_canonical_service", "stock"),
            ("istio.destination_canonical_revision", "v2"),
            ("istio.destination_cluster", "Kubernetes"),
            ("istio.destination_principal", "spiffe://cluster.local/ns/shop/sa/stock"),
            ("istio.destination_service", "stock.shop.svc.cluster.local"),
            ("istio.destination_service_name", "stock"),
            ("istio.destination_service_namespace", "shop"),
            ("istio.request_protocol", "http"),
            ("istio.response_code", "200"),
            ("istio.response_flags", "-"),
            ("istio.connection_security_policy", "unknown"),
        ],
    );
    // Unknown labels are left out.
    assert!(!span.attributes.contains_key("istio.destination_app"));
    assert!(!span.attributes.values().any(|value| value.contains("secret")));
    expect(
        &span.resource,
        &[
            (attributes::SERVICE_NAME, "orders"),
            (attributes::SERVICE_NAMESPACE, "shop"),
            (attributes::SERVICE_VERSION, "v1"),
            ("k8s.pod.name", "orders-0"),
            (attributes::PROXY_ID, "sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local"),
        ],
    );
    assert_eq!((proxy.metric("meshweft_spans_total"), proxy.metric("meshweft_exported_total")), (1, 1));
}

#[test]
fn an_inbound_request_over_mtls_names_its_peer() {
    let proxy = Proxy::new("");
    let host = proxy.host();
    proxy.direction(1);
    host.set("connection\0mtls", [1]);
    host.set("connection\0uri_san_peer_certificate", "spiffe://cluster.local/ns/shop/sa/storefront");
    host.set("connection\0uri_san_local_certificate", "spiffe://cluster.local/ns/shop/sa/orders");
    for (field, value) in [("workload", "storefront-v1"), ("namespace", "shop"), ("service", "storefront")] {
        host.set(&format!("filter_state\0downstream_peer\0{field}"), value);
    }
    host.set("upstream\0local_address", "127.0.0.6:40001");
    proxy.run(&[("traceparent", PARENT)]);
    let span = proxy.exported().remove(0);
    assert_eq!(span.span_proto.kind, SpanKind::Server as i32);
    expect(
        &span.attributes,
        &[
            (attributes::HOP, "mesh.inbound"),
            (attributes::UPSTREAM_LOCAL, "127.0.0.6:40001"),
            ("istio.reporter", "destination"),
            ("istio.connection_security_policy", "mutual_tls"),
            ("istio.source_workload", "storefront-v1"),
            ("istio.source_principal", "spiffe://cluster.local/ns/shop/sa/storefront"),
            ("istio.destination_workload", "orders-v1"),
            ("istio.destination_principal", "spiffe://cluster.local/ns/shop/sa/orders"),
            ("istio.destination_app", "orders"),
        ],
    );
}

#[test]
fn an_inbound_request_without_a_context_starts_a_trace_and_asks_nobody() {
    let proxy = Proxy::new("");
    proxy.direction(1);
    let sent = proxy.run(&[("tracestate", "a=1")]).unwrap();
    assert!(sent.ends_with("-03"), "{sent}");
    assert_eq!(proxy.host().request_header("tracestate"), None, "it belongs to another trace");
    let span = proxy.exported().remove(0);
    assert_eq!(span.parent, "");
    expect(
        &span.attributes,
        &[(attributes::CONTEXT_ORIGIN, "new"), ("istio.connection_security_policy", "none")],
    );
}

#[test]
fn a_known_connection_and_upstream_cost_few_host_calls() {
    for (expressions, budget) in [(true, STEADY_CALLS), (false, STEADY_CALLS_WITHOUT_EXPRESSIONS)] {
        for direction in [1, 2] {
            let proxy = Proxy::new("");
            proxy.direction(direction);
            proxy.host().expressions.set(expressions);
            // The peer of an inbound connection is looked for again a few times.
            for _ in 0..5 {
                proxy.run(&[("traceparent", PARENT)]);
            }
            let before = proxy.filter.host.calls();
            proxy.run(&[("traceparent", PARENT)]);
            assert_eq!(proxy.filter.host.calls() - before, budget, "direction {direction}");
            if expressions {
                proxy.host().unset("upstream\0local_address");
                let before = proxy.filter.host.calls();
                proxy.run(&[("traceparent", PARENT)]);
                assert_eq!(proxy.filter.host.calls() - before, LOCAL_REPLY_CALLS, "direction {direction}");
            }
        }
    }
}

#[test]
fn a_question_costs_few_host_calls() {
    let proxy = Proxy::new("");
    for n in 0..2 {
        let before = proxy.filter.host.calls();
        let (mut stream, _) = proxy.start(&[]);
        proxy.answer(&[(":status", "200"), ("traceparent", PARENT)]);
        stream.call_response(proxy.token());
        stream.log();
        if n == 1 {
            assert_eq!(proxy.filter.host.calls() - before, STEADY_CALLS + QUESTION_CALLS);
        }
    }
}

#[test]
fn idle_ticks_call_the_host_for_nothing() {
    let proxy = Proxy::new("");
    proxy.filter.tick();
    let before = proxy.filter.host.calls();
    proxy.filter.tick();
    assert_eq!(proxy.filter.host.calls(), before);
}

#[test]
fn an_outbound_request_without_a_context_takes_the_agents() {
    let proxy = Proxy::new(r#"{"agent":{"cluster":"c","authority":"a"},"context":{"deadline_ms":7}}"#);
    proxy.run(&[("traceparent", PARENT)]);
    let (mut stream, verdict) = proxy.start(&[]);
    assert_eq!(verdict, Verdict::Pause);
    let call = proxy.calls().remove(0);
    assert_eq!((call.cluster.as_str(), call.timeout_ms, call.header(":authority")), ("c", 7, Some("a")));
    assert_eq!((call.header(":method"), call.header(":path")), (Some("GET"), Some(question::PATH)));
    assert_eq!(call.header(question::SOURCE), Some("10.0.0.7:40000"));
    assert_eq!(call.header(question::DESTINATION), Some("10.96.0.1:80"));
    assert_eq!(call.header(question::ORDINAL), Some("2"));
    assert_eq!(call.header(question::REQUEST_LINE), Some("GET /stock/7?secret=1"));

    proxy.answer(&[(":status", "200"), ("traceparent", PARENT), ("tracestate", "b=2")]);
    stream.call_response(proxy.token() + 1);
    assert_eq!(proxy.host().resumed.get(), 0, "another call's end is not the answer");
    stream.call_response(proxy.token());
    assert_eq!(proxy.host().resumed.get(), 1);
    assert_eq!(proxy.host().request_header("tracestate").as_deref(), Some("b=2"));
    stream.log();
    let span = proxy.exported().remove(1);
    assert_eq!((span.trace.as_str(), span.parent.as_str()), (&PARENT[3..35], &PARENT[36..52]));
    expect(&span.attributes, &[(attributes::CONTEXT_ORIGIN, "agent"), (attributes::CONNECTION_ORDINAL, "2")]);
    assert_eq!(proxy.metric("meshweft_context_answered_total"), 1);
}

#[test]
fn whatever_else_the_agent_says_the_request_goes_on_with_a_new_trace() {
    for (answer, counter) in [
        (&[(":status", "204")][..], "meshweft_context_unknown_total"),
        (&[(":status", "404")], "meshweft_context_unknown_total"),
        (&[(":status", "200")], "meshweft_context_failed_total"),
        (&[(":status", "200"), ("traceparent", "00-0-0-0")], "meshweft_context_failed_total"),
        (
            &[(":status", "200"), ("traceparent", PARENT), ("traceparent", PARENT)],
            "meshweft_context_failed_total",
        ),
        (&[(":status", "x")], "meshweft_context_timeout_total"),
        (&[(":status", "500")], "meshweft_context_failed_total"),
        (&[(":status", "503")], "meshweft_context_failed_total"),
        (&[(":status", "504")], "meshweft_context_timeout_total"),
        (&[], "meshweft_context_timeout_total"),
    ] {
        let proxy = Proxy::new("");
        let (mut stream, verdict) = proxy.start(&[]);
        assert_eq!(verdict, Verdict::Pause);
        proxy.host().clock.set(START + 5 * MS);
        proxy.answer(answer);
        stream.call_response(proxy.token());
        stream.log();
        assert_eq!(proxy.host().resumed.get(), 1, "{answer:?}");
        assert!(proxy.host().request_header("traceparent").unwrap().ends_with("-03"));
        assert_eq!(proxy.metric(counter), 1, "{answer:?}");
        assert_eq!(proxy.metric("meshweft_spans_total"), 1);
    }
}

#[test]
fn a_call_that_ends_early_without_a_status_is_a_broken_connection() {
    let proxy = Proxy::new("");
    let (mut stream, _) = proxy.start(&[]);
    proxy.host().clock.set(START + MS);
    proxy.answer(&[]);
    stream.call_response(proxy.token());
    assert_eq!(proxy.metric("meshweft_context_failed_total"), 1);
    assert_eq!(proxy.metric("meshweft_breaker_open"), 1);
}

#[test]
fn a_dead_agent_is_left_alone_until_a_probe_is_answered() {
    let proxy = Proxy::new("");
    let (mut stream, _) = proxy.start(&[]);
    proxy.answer(&[(":status", "503")]);
    stream.call_response(proxy.token());
    stream.log();
    // Nobody asks, nothing is exported, and the spans are kept.
    for _ in 0..3 {
        proxy.run(&[]);
    }
    assert_eq!(proxy.metric("meshweft_breaker_open"), 1);
    assert_eq!(proxy.metric("meshweft_context_skipped_total"), 3);
    assert_eq!(proxy.calls().len(), 1);

    proxy.host().clock.set(START + 250 * MS);
    proxy.filter.tick();
    let probe = proxy.calls().remove(1);
    assert_eq!((probe.header(":path"), probe.header(question::SOURCE)), (Some(question::PATH), None));
    proxy.answer(&[(":status", "503")]);
    proxy.filter.call_response(2);
    proxy.host().clock.set(START + 749 * MS);
    proxy.filter.tick();
    assert_eq!(proxy.calls().len(), 2, "the second probe is due after 500 ms more");
    proxy.host().clock.set(START + 750 * MS);
    proxy.filter.tick();
    proxy.answer(&[(":status", "400")]);
    proxy.filter.call_response(3);
    assert_eq!(proxy.exported().len(), 4);
    assert_eq!(proxy.metric("meshweft_breaker_open"), 0);
    assert_eq!(proxy.start(&[]).1, Verdict::Pause);
}

#[test]
fn without_the_agents_cluster_a_request_goes_on_at_once() {
    let proxy = Proxy::new("");
    proxy.host().refuse_calls.set(true);
    proxy.run(&[]).unwrap();
    assert_eq!(proxy.metric("meshweft_context_failed_total"), 1);
    assert_eq!(proxy.metric("meshweft_breaker_open"), 1);
}

#[test]
fn a_request_that_is_reset_while_it_waits_is_not_resumed() {
    let proxy = Proxy::new("");
    let (mut stream, _) = proxy.start(&[]);
    proxy.host().unset("response\0code");
    proxy.host().unset("response\0code_details");
    proxy.host().unset("request\0duration");
    proxy.number("response\0flags", 0x4000);
    proxy.host().clock.set(START + 3 * MS);
    stream.log();
    proxy.answer(&[(":status", "200"), ("traceparent", PARENT)]);
    stream.call_response(1);
    stream.log();
    assert_eq!(proxy.host().resumed.get(), 0);
    let spans = proxy.exported();
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(span.span_proto.end_time_unix_nano, START + 3 * MS);
    assert!(span.span_proto.status.is_some());
    expect(
        &span.attributes,
        &[
            (attributes::DURATION_ESTIMATED, "true"),
            (attributes::RESPONSE_FLAGS, "DC"),
            (attributes::ERROR_TYPE, "no_response"),
            ("istio.response_code", "0"),
        ],
    );
}

#[test]
fn a_context_that_is_not_sampled_passes_untouched_and_unreported() {
    let proxy = Proxy::new("");
    let parent = format!("{}00", &PARENT[..53]);
    assert_eq!(proxy.run(&[("traceparent", &parent), ("tracestate", "a=1")]), Some(parent));
    assert_eq!(proxy.host().writes.get(), 0);
    assert!(proxy.exported().is_empty());
    assert_eq!((proxy.metric("meshweft_not_sampled_total"), proxy.metric("meshweft_spans_total")), (1, 0));
}

#[test]
fn b3_is_read_and_its_decision_without_ids_is_honoured() {
    let proxy = Proxy::new(r#"{"propagation":{"inject":["tracecontext","b3"]}}"#);
    let b3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    let sent = proxy.run(&[("b3", b3)]).unwrap();
    assert_eq!(sent[3..35], b3[..32]);
    assert_eq!(proxy.host().request_header("b3").unwrap(), format!("{}-{}-1", &sent[3..35], &sent[36..52]));
    assert_eq!(proxy.exported().remove(0).parent, b3[33..49]);

    let (mut stream, verdict) = proxy.start(&[("b3", "0")]);
    assert_eq!(verdict, Verdict::Continue, "a denied trace is not worth a question");
    assert!(proxy.host().request_header("traceparent").unwrap().ends_with("-02"));
    stream.log();
    assert!(proxy.exported().is_empty());
}

#[test]
fn nothing_is_sampled_at_ratio_zero_and_the_decision_is_handed_on() {
    let proxy = Proxy::new(r#"{"sampling":{"ratio":0},"context":{"enabled":false}}"#);
    assert!(proxy.run(&[]).unwrap().ends_with("-02"));
    assert!(proxy.run(&[("b3", "1")]).unwrap().ends_with("-03"), "the caller has decided");
    assert_eq!(proxy.exported().len(), 1);
}

#[test]
fn headers_that_are_wrong_are_replaced_removed_and_counted() {
    let proxy = Proxy::new(r#"{"context":{"enabled":false}}"#);
    for (headers, reason) in [
        (&[("traceparent", "00-xyz"), ("tracestate", "a=1")][..], "malformed"),
        (&[("traceparent", PARENT), ("traceparent", PARENT)], "duplicate"),
        (&[("traceparent", PARENT), ("tracestate", "a=1,a=2")], "duplicate"),
    ] {
        let counter = format!("meshweft_context_invalid_{reason}_total");
        let before = proxy.metric(&counter);
        let sent = proxy.run(headers).unwrap();
        assert_ne!(sent, PARENT);
        assert_eq!(proxy.host().request_header("tracestate"), None);
        assert_eq!(proxy.metric(&counter), before + 1, "{headers:?}");
    }
}

#[test]
fn a_valid_tracestate_is_not_written_again() {
    let proxy = Proxy::new("");
    proxy.run(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]);
    assert_eq!(proxy.host().writes.get(), 1, "traceparent alone");
    proxy.run(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
    assert_eq!(proxy.host().request_header("tracestate").as_deref(), Some("a=1,b=2"));
}

#[test]
fn hostile_headers_hurt_nothing() {
    let proxy = Proxy::new(r#"{"context":{"enabled":false}}"#);
    let mut request: Headers = vec![
        (b":method".to_vec(), b"G\xffT".to_vec()),
        (b":path".to_vec(), [&b"/\xc3\x28"[..], &[b'p'; 60 << 10]].concat()),
        (b":authority".to_vec(), b"\xfe:99999999".to_vec()),
        (b"user-agent".to_vec(), vec![0xff; 60 << 10]),
        (b"traceparent".to_vec(), vec![b'0'; 60 << 10]),
        (b"x-request-id".to_vec(), Vec::new()),
    ];
    request.extend((0..1000).map(|n| (format!("x-{n}").into_bytes(), vec![b'x'; 60])));
    *proxy.host().request.borrow_mut() = request;
    let mut stream = proxy.filter.stream();
    assert_eq!(stream.request_headers(), Verdict::Continue);
    stream.log();
    let span = proxy.exported().remove(0);
    assert_eq!(span.span_proto.name, "HTTP");
    expect(
        &span.attributes,
        &[
            (attributes::HTTP_REQUEST_METHOD, "_OTHER"),
            (attributes::HTTP_REQUEST_METHOD_ORIGINAL, "G\u{fffd}T"),
            (attributes::SERVER_ADDRESS, "\u{fffd}"),
        ],
    );
    assert!(span.attributes[attributes::USER_AGENT_ORIGINAL].chars().count() <= 256);
    assert_eq!(proxy.metric("meshweft_context_invalid_too_large_total"), 1);
}

#[test]
fn a_tracer_of_the_proxys_own_is_found_out_and_its_span_taken_over() {
    let proxy = Proxy::new("");
    let tracer = format!("{}-{}-01", &PARENT[..35], "1111111111111111");
    let (mut stream, _) = proxy.start(&[("traceparent", PARENT)]);
    proxy.request(&[("traceparent", &tracer)]);
    stream.log();
    let span = proxy.exported().remove(0);
    assert_eq!((span.span.as_str(), span.parent.as_str()), ("1111111111111111", &PARENT[36..52]));
    // It will start traces of its own: no use to ask for a context that would be overwritten.
    let (mut stream, verdict) = proxy.start(&[]);
    assert_eq!(verdict, Verdict::Continue);
    proxy.request(&[("traceparent", &tracer)]);
    stream.log();
    let span = proxy.exported().remove(0);
    assert_eq!((span.span.as_str(), span.parent.as_str()), ("1111111111111111", ""));
    assert_eq!(proxy.metric("meshweft_adopted_total"), 2);
    // The tracer was switched off.
    proxy.run(&[("traceparent", PARENT)]);
    assert_eq!(proxy.start(&[]).1, Verdict::Pause);
}

#[test]
fn mode_adopt_writes_nothing_and_takes_the_tracers_ids_and_decision() {
    let proxy = Proxy::new(r#"{"mode":"adopt"}"#);
    for (flags, expected) in [("01", 1), ("00", 0)] {
        let (mut stream, verdict) = proxy.start(&[("traceparent", PARENT)]);
        assert_eq!((verdict, proxy.host().writes.get()), (Verdict::Continue, 0));
        proxy.request(&[("traceparent", &format!("{}-1111111111111111-{flags}", &PARENT[..35]))]);
        stream.log();
        let spans = proxy.exported();
        assert_eq!(spans.len(), expected);
        for span in spans {
            assert_eq!((span.span.as_str(), span.parent.as_str()), ("1111111111111111", &PARENT[36..52]));
        }
    }
    // Without a tracer, the request goes out as it came in.
    proxy.run(&[("traceparent", PARENT)]);
    let span = proxy.exported().remove(0);
    assert_eq!(span.parent, PARENT[36..52]);
    assert_ne!(span.span, PARENT[36..52]);
}

#[test]
fn mode_propagate_keeps_its_own_span() {
    let proxy = Proxy::new(r#"{"mode":"propagate"}"#);
    let (mut stream, _) = proxy.start(&[("traceparent", PARENT)]);
    let sent = proxy.host().request_header("traceparent").unwrap();
    proxy.request(&[("traceparent", &format!("{}-1111111111111111-01", &PARENT[..35]))]);
    stream.log();
    assert_eq!(proxy.exported().remove(0).span, sent[36..52]);
}

#[test]
fn a_grpc_status_is_an_error_of_the_client_though_http_says_200() {
    let proxy = Proxy::new("");
    proxy.number("response\0grpc_status", 5);
    proxy.run(&[("traceparent", PARENT), ("content-type", "application/grpc")]);
    let span = proxy.exported().remove(0);
    assert!(span.span_proto.status.is_some());
    expect(
        &span.attributes,
        &[
            ("istio.request_protocol", "grpc"),
            ("istio.grpc_response_status", "5"),
            (attributes::RPC_GRPC_STATUS_CODE, "5"),
            (attributes::ERROR_TYPE, "5"),
        ],
    );
}

#[test]
fn gateways_and_waypoints_are_servers_with_their_own_reporter() {
    for (id, hop, reporter) in
        [("router~a~b~c", "mesh.gateway", "source"), ("waypoint~a~b~c", "mesh.waypoint", "waypoint")]
    {
        let host = FakeHost::default();
        host.set("xds\0node\0id", id);
        let filter = Filter::new(host);
        assert!(filter.configure());
        let proxy = Proxy { filter };
        proxy.connection(3);
        proxy.direction(2);
        proxy.host().set("upstream\0address", "10.0.0.9:8080");
        proxy.host().set("xds\0upstream_host_metadata\0filter_metadata\0istio\0workload", "stock-v2;shop");
        assert_eq!(proxy.start(&[]).1, Verdict::Continue, "nobody asks for {hop}");
        proxy.run(&[]);
        let span = proxy.exported().remove(0);
        assert_eq!(span.span_proto.kind, SpanKind::Server as i32);
        let expected = [
            (attributes::HOP, hop),
            ("istio.reporter", reporter),
            ("istio.destination_workload", "stock-v2"),
        ];
        expect(&span.attributes, &expected);
    }
}

#[test]
fn an_upstream_is_described_again_when_its_address_may_have_passed_on() {
    let proxy = Proxy::new("");
    let workload = "xds\0upstream_host_metadata\0filter_metadata\0istio\0workload";
    let seen = |seconds: u64, name: &str| {
        proxy.number("request\0time", START + seconds * 1000 * MS);
        proxy.host().set(workload, name);
        proxy.run(&[("traceparent", PARENT)]);
        proxy.exported().remove(0).attributes["istio.destination_workload"].clone()
    };
    assert_eq!((seen(0, "old"), seen(9, "new"), seen(10, "new")), ("old".into(), "old".into(), "new".into()));
}

#[test]
fn a_full_queue_drops_the_newest_and_all_spans_are_accounted_for() {
    let proxy = Proxy::new(r#"{"export":{"max_batch":2,"max_queue":5}}"#);
    for _ in 0..7 {
        proxy.run(&[("traceparent", PARENT)]);
    }
    assert_eq!(proxy.exported().len(), 5);
    let [spans, exported, dropped] = ["spans_total", "exported_total", "dropped_queue_full_total"]
        .map(|name| proxy.metric(&format!("meshweft_{name}")));
    assert_eq!((spans, exported, dropped), (7, 5, 2));
}

#[test]
fn a_refused_export_is_sent_again_once_and_a_failed_one_dropped() {
    let proxy = Proxy::new("");
    proxy.run(&[("traceparent", PARENT)]);
    for (status, token, exported, dropped) in [("429", 1, 0, 0), ("429", 2, 0, 1)] {
        proxy.filter.tick();
        assert_eq!(proxy.calls().len(), token);
        proxy.answer(&[(":status", status)]);
        proxy.filter.call_response(u32::try_from(token).unwrap());
        assert_eq!(proxy.metric("meshweft_exported_total"), exported);
        assert_eq!(proxy.metric("meshweft_dropped_export_failed_total"), dropped);
    }
    proxy.run(&[("traceparent", PARENT)]);
    proxy.filter.tick();
    proxy.answer(&[(":status", "400")]);
    proxy.filter.call_response(3);
    assert_eq!(proxy.metric("meshweft_dropped_export_failed_total"), 2);
    assert_eq!(proxy.metric("meshweft_breaker_open"), 0, "an agent that says no is alive");
}

#[test]
fn the_end_waits_for_the_last_export() {
    let proxy = Proxy::new("");
    assert!(proxy.filter.shutdown(), "nothing is left");
    let proxy = Proxy::new("");
    proxy.run(&[("traceparent", PARENT)]);
    assert!(!proxy.filter.shutdown());
    proxy.answer(&[(":status", "200")]);
    proxy.filter.call_response(1);
    assert!(proxy.host().done.get());
    assert_eq!(proxy.host().metric("meshweft_exported_total"), 1);
    // With the agent gone there is nobody to wait for.
    let proxy = Proxy::new("");
    proxy.host().refuse_calls.set(true);
    proxy.run(&[("traceparent", PARENT)]);
    assert!(proxy.filter.shutdown());
    assert_eq!(proxy.host().metric("meshweft_dropped_shutdown_total"), 1);
}

#[test]
fn a_wrong_configuration_is_refused_and_traffic_passes() {
    let host = FakeHost::default();
    *host.configuration.borrow_mut() = r#"{"mod":"auto"}"#.to_owned();
    let filter = Filter::new(host);
    assert!(!filter.configure());
    let (level, message) = filter.host.uncounted().logs.borrow()[0].clone();
    assert_eq!(level, LogLevel::Error);
    assert!(message.contains("pluginConfig.mod"), "{message}");
    let mut stream = filter.stream();
    assert_eq!(stream.request_headers(), Verdict::Continue);
    stream.log();
    filter.tick();
    filter.call_response(1);
    assert!(filter.shutdown());
}

#[test]
fn two_workers_of_two_pods_make_different_ids() {
    let ids: Vec<_> = (0..2)
        .flat_map(|_| {
            let proxy = Proxy::new(r#"{"context":{"enabled":false}}"#);
            // A second worker of the same proxy, started in the same nanosecond.
            let first = proxy.run(&[]).unwrap();
            assert!(proxy.filter.configure());
            [first, proxy.run(&[]).unwrap()]
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
    // Two pods with all things equal but the request: its id parts them.
    let [a, b] = ["r-1", "r-2"].map(|id| {
        let proxy = Proxy::new(r#"{"context":{"enabled":false}}"#);
        proxy.request(&[]);
        proxy.host().request.borrow_mut().retain(|(name, _)| name != b"x-request-id");
        proxy.host().request.borrow_mut().push((b"x-request-id".to_vec(), id.into()));
        let _ = proxy.filter.stream().request_headers();
        proxy.calls();
        proxy.host().request_header("traceparent").unwrap()
    });
    assert_ne!(a, b);
}

#[test]
fn a_log_without_headers_reports_nothing() {
    let proxy = Proxy::new("");
    proxy.filter.stream().log();
    assert!(proxy.exported().is_empty());
}
