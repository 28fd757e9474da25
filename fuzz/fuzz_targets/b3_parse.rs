//! A context that parses comes back equal after it was written in either encoding, and both
//! encodings of the same fields are judged alike.
#![no_main]

mod edits;

use libfuzzer_sys::fuzz_target;
use meshweft_telemetry::b3::{self, MultiHeaders, Received};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&edits::apply(
        b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90",
        data,
    ));
    check(&edits::apply(b"64fe8b2a57d3eff7-e457b5a2e4d86bd1-d", data));
    check_multi(data);
    check_multi(&edits::apply(
        b"64fe8b2a57d3eff7\ne457b5a2e4d86bd1\ntrue\n05e3ac9a4f6e3b90\n1",
        data,
    ));
});

fn check(value: &[u8]) {
    let Ok(received) = b3::parse(value) else {
        return;
    };
    check_received(received);
    let trimmed = value.trim_ascii();
    let fields: Vec<&[u8]> = trimmed.split(|byte| *byte == b'-').collect();
    let multi = match fields.as_slice() {
        [state] => MultiHeaders {
            sampled: Some(state),
            ..MultiHeaders::default()
        },
        [trace, span, rest @ ..] => MultiHeaders {
            trace_id: Some(trace),
            span_id: Some(span),
            sampled: rest.first().copied().filter(|state| state.len() == 1),
            parent_span_id: rest.last().copied().filter(|parent| parent.len() == 16),
            flags: None,
        },
        [] => unreachable!("split gives one field at least"),
    };
    // Debug is a header of its own there.
    let debug = multi.sampled == Some(b"d");
    let sampled = multi.sampled.filter(|_| !debug);
    let multi = MultiHeaders {
        sampled,
        flags: debug.then_some(b"1"),
        ..multi
    };
    assert_eq!(b3::parse_multi(&multi), Ok(received));
}

/// Lines are the headers.
fn check_multi(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').map(Some).chain([None; 5]);
    let mut next = || lines.next().flatten();
    let headers = MultiHeaders {
        trace_id: next(),
        span_id: next(),
        sampled: next(),
        parent_span_id: next(),
        flags: next(),
    };
    if let Ok(received) = b3::parse_multi(&headers) {
        assert_eq!(received.context.is_some(), headers.trace_id.is_some());
        check_received(received);
    }
}

fn check_received(received: Received) {
    let Some(context) = received.context else {
        return;
    };
    assert_eq!(
        context.flags.sampled(),
        received.sampling.is_some_and(b3::Sampling::sampled)
    );
    assert_eq!(
        b3::parse(&b3::format(&context)).map(|again| again.context),
        Ok(Some(context))
    );
    let values = b3::format_multi(&context);
    let again = b3::parse_multi(&MultiHeaders {
        trace_id: Some(&values.trace_id),
        span_id: Some(&values.span_id),
        sampled: Some(&values.sampled),
        ..MultiHeaders::default()
    });
    assert_eq!(again.map(|again| again.context), Ok(Some(context)));
}
