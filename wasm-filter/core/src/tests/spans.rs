//! What a finished request's span says, and what it costs.

use super::*;

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
