//! Modes: who writes the context, and whose span it is.

use super::*;

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
