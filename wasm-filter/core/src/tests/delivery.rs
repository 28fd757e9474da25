//! From the queue to the agent; the filter's own life.

use super::*;

#[test]
fn idle_ticks_call_the_host_for_nothing() {
    let proxy = Proxy::new("");
    proxy.filter.tick();
    let before = proxy.filter.host.calls();
    proxy.filter.tick();
    assert_eq!(proxy.filter.host.calls(), before);
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
fn whole_batches_that_wait_are_sent_when_another_has_arrived() {
    // Four calls may be under way; the fifth batch waits for one of them, not for the timer.
    let proxy = Proxy::new(r#"{"export":{"max_batch":1}}"#);
    for _ in 0..5 {
        proxy.run(&[("traceparent", PARENT)]);
    }
    proxy.filter.tick();
    assert_eq!(proxy.calls().len(), 4);
    proxy.answer(&[(":status", "200")]);
    proxy.filter.call_response(1);
    assert_eq!(proxy.calls().len(), 5);
    proxy.filter.call_response(2);
    assert_eq!(proxy.calls().len(), 5, "nothing is left");
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
fn a_log_without_headers_reports_nothing() {
    let proxy = Proxy::new("");
    proxy.filter.stream().log();
    assert!(proxy.exported().is_empty());
}
