use super::*;
use crate::id::IdGenerator;
use proptest::prelude::*;

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";
const PARENT: &str = "05e3ac9a4f6e3b90";

fn parse(value: &str) -> Result<Received, Error> {
    super::parse(value.as_bytes())
}

fn part(value: &str) -> Part {
    match parse(value) {
        Err(Error::Malformed { header: NAME, part }) => part,
        other => panic!("{value:?}: {other:?}"),
    }
}

fn multi<'a>(headers: &[(&str, &'a str)]) -> MultiHeaders<'a> {
    let find = |name| headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_bytes());
    MultiHeaders {
        trace_id: find(TRACE_ID),
        span_id: find(SPAN_ID),
        parent_span_id: find(PARENT_SPAN_ID),
        sampled: find(SAMPLED),
        flags: find(FLAGS),
    }
}

#[test]
fn all_fields_of_the_single_header_are_read() {
    for (state, sampling, sampled) in [
        ("-1", Some(Sampling::Accept), true),
        ("-0", Some(Sampling::Deny), false),
        ("-d", Some(Sampling::Debug), true),
        ("", None, false),
    ] {
        for parent in ["", "-05e3ac9a4f6e3b90"] {
            let received = parse(&format!(" {TRACE}-{SPAN}{state}{parent}\t")).unwrap();
            let context = received.context.unwrap();
            assert_eq!(context.trace_id.to_string(), TRACE);
            assert_eq!(context.span_id.to_string(), SPAN);
            assert_eq!(context.flags.sampled(), sampled);
            assert!(!context.flags.random());
            assert_eq!(received.sampling, sampling);
        }
    }
}

#[test]
fn a_decision_can_stand_alone() {
    // "A deny decision may omit identifiers and look like this: b3: 0".
    for (value, sampling) in [("0", Sampling::Deny), ("1", Sampling::Accept), ("d", Sampling::Debug)] {
        assert_eq!(parse(value), Ok(Received { context: None, sampling: Some(sampling) }));
    }
}

#[test]
fn a_trace_id_of_64_bits_gets_zeros_before_it() {
    let context = parse(&format!("64fe8b2a57d3eff7-{SPAN}-1")).unwrap().context.unwrap();
    assert_eq!(context.trace_id.to_string(), "000000000000000064fe8b2a57d3eff7");
}

#[test]
fn a_malformed_single_header_is_refused() {
    for id in
        ["", "D", "2", "true", "0000000000000000", "80F198EE56343BA864FE8B2A57D3EFF7", "80f198ee56343ba8 "]
    {
        assert_eq!(part(&format!("{id}-{SPAN}-1")), Part::TraceId, "{id}");
    }
    assert_eq!(part(""), Part::TraceId);
    assert_eq!(part("0-"), Part::TraceId);
    for id in ["", "0000000000000000", "E457B5A2E4D86BD1", TRACE, "e457b5a2e4d86bd"] {
        assert_eq!(part(&format!("{TRACE}-{id}-1")), Part::SpanId, "{id}");
    }
    assert_eq!(part(TRACE), Part::SpanId);
    for state in ["2", "D", "", "true"] {
        assert_eq!(part(&format!("{TRACE}-{SPAN}-{state}-{PARENT}")), Part::Sampling, "{state}");
    }
    assert_eq!(part(&format!("{TRACE}-{SPAN}-2")), Part::Sampling);
    for tail in ["1-", "1--", "1-0000000000000000", "", "true", "1-05e3ac9a4f6e3b9g"] {
        assert_eq!(part(&format!("{TRACE}-{SPAN}-{tail}")), Part::ParentSpanId, "{tail}");
    }
    assert_eq!(part(&format!("{TRACE}-{SPAN}-1-{PARENT}-")), Part::End);
    assert_eq!(part(&format!("{TRACE}-{SPAN}-{PARENT}-1")), Part::Sampling);
}

#[test]
fn joined_and_endless_headers_are_refused() {
    let one = format!("{TRACE}-{SPAN}-1");
    assert_eq!(parse(&format!("{one},{one}")), Err(Error::Duplicate { header: NAME }));
    assert_eq!(parse(&" ".repeat(MAX_LEN + 1)), Err(Error::TooLarge { header: NAME, limit: MAX_LEN }));
    let long = "0".repeat(MAX_LEN + 1);
    for name in [TRACE_ID, SPAN_ID, PARENT_SPAN_ID, SAMPLED, FLAGS] {
        let error = Error::TooLarge { header: name, limit: MAX_LEN };
        assert_eq!(parse_multi(&multi(&[(name, &long)])), Err(error));
    }
}

#[test]
fn several_headers_say_the_same_as_the_single_one() {
    // The specification's own example of one state in both encodings.
    let headers = multi(&[(TRACE_ID, TRACE), (PARENT_SPAN_ID, PARENT), (SPAN_ID, SPAN), (SAMPLED, "1")]);
    let received = parse_multi(&headers).unwrap();
    assert_eq!(parse(&format!("{TRACE}-{SPAN}-1-{PARENT}")), Ok(received));
    let MultiValues { trace_id, span_id, sampled } = format_multi(&received.context.unwrap());
    assert_eq!((&trace_id[..], &span_id[..], &sampled[..]), (TRACE.as_bytes(), SPAN.as_bytes(), &b"1"[..]));
}

#[test]
fn sampled_and_flags_make_the_decision() {
    for (headers, sampling) in [
        (&[(SAMPLED, "1")][..], Some(Sampling::Accept)),
        (&[(SAMPLED, "0")], Some(Sampling::Deny)),
        (&[(SAMPLED, "true")], Some(Sampling::Accept)),
        (&[(SAMPLED, " false ")], Some(Sampling::Deny)),
        (&[(FLAGS, "1")], Some(Sampling::Debug)),
        (&[(FLAGS, "1"), (SAMPLED, "0")], Some(Sampling::Debug)),
        (&[(FLAGS, "0")], None),
        (&[(FLAGS, "nonsense"), (SAMPLED, "1")], Some(Sampling::Accept)),
        (&[], None),
    ] {
        assert_eq!(parse_multi(&multi(headers)), Ok(Received { context: None, sampling }), "{headers:?}");
        let with_ids = [headers, &[(TRACE_ID, TRACE), (SPAN_ID, SPAN)]].concat();
        let received = parse_multi(&multi(&with_ids)).unwrap();
        assert_eq!(received.sampling, sampling);
        assert_eq!(received.context.unwrap().flags.sampled(), sampling.is_some_and(Sampling::sampled));
    }
}

#[test]
fn malformed_and_missing_headers_are_refused_by_name() {
    for (headers, header, part) in [
        (&[(SAMPLED, "")][..], SAMPLED, Part::Sampling),
        (&[(SAMPLED, "yes"), (TRACE_ID, TRACE), (SPAN_ID, SPAN)], SAMPLED, Part::Sampling),
        (&[(PARENT_SPAN_ID, "-"), (TRACE_ID, TRACE), (SPAN_ID, SPAN)], PARENT_SPAN_ID, Part::ParentSpanId),
        (&[(PARENT_SPAN_ID, PARENT)], TRACE_ID, Part::TraceId),
        (&[(SPAN_ID, SPAN)], TRACE_ID, Part::TraceId),
        (&[(TRACE_ID, TRACE)], SPAN_ID, Part::SpanId),
        (&[(TRACE_ID, "0"), (SPAN_ID, SPAN)], TRACE_ID, Part::TraceId),
        (&[(TRACE_ID, TRACE), (SPAN_ID, "0000000000000000")], SPAN_ID, Part::SpanId),
    ] {
        assert_eq!(parse_multi(&multi(headers)), Err(Error::Malformed { header, part }), "{headers:?}");
    }
}

#[test]
fn the_first_of_joined_values_counts() {
    let ids = format!("{TRACE}, ffffffffffffffff");
    let received = parse_multi(&multi(&[(TRACE_ID, &ids), (SPAN_ID, SPAN), (SAMPLED, "0,1")])).unwrap();
    assert_eq!(received.context.unwrap().trace_id.to_string(), TRACE);
    assert_eq!(received.sampling, Some(Sampling::Deny));
}

proptest! {
    #[test]
    fn what_is_written_parses_to_the_same_context(seed: u64, sampled: bool) {
        let mut ids = IdGenerator::new(seed);
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::NONE };
        let context = SpanContext { trace_id: ids.trace_id(), span_id: ids.span_id(), flags };
        let value = format(&context);
        prop_assert_eq!(super::parse(&value).unwrap().context, Some(context));
        // Up to the sampling state, which may be absent. A first digit alone can be a decision.
        for len in (0..LEN - 2).filter(|len| *len != 1) {
            prop_assert!(super::parse(&value[..len]).is_err());
        }
        let values = format_multi(&context);
        let headers = MultiHeaders {
            trace_id: Some(&values.trace_id),
            span_id: Some(&values.span_id),
            sampled: Some(&values.sampled),
            ..MultiHeaders::default()
        };
        prop_assert_eq!(parse_multi(&headers).unwrap().context, Some(context));
    }

    #[test]
    fn no_bytes_panic(values: [Vec<u8>; 5]) {
        let [a, b, c, d, e] = &values;
        let _ = super::parse(a);
        let _ = parse_multi(&MultiHeaders {
            trace_id: Some(a),
            span_id: Some(b),
            parent_span_id: Some(c),
            sampled: Some(d),
            flags: Some(e),
        });
    }

    #[test]
    fn what_parses_is_written_as_an_equal_context(
        value in "([0-9a-f]{16}|[0-9a-f]{32})-[0-9a-f]{16}(-[01d])?(-[0-9a-f]{16})?"
    ) {
        let Ok(Received { context: Some(context), .. }) = parse(&value) else { return Ok(()) };
        prop_assert_eq!(super::parse(&format(&context)).unwrap().context, Some(context));
    }
}
