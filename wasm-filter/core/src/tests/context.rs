//! Where a request's context comes from, and what is handed on.

use super::*;

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
