use super::*;
use crate::context::TraceFlags;
use crate::error::Part;
use crate::id::IdGenerator;
use proptest::prelude::*;

const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const B3: &str = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0";
const MULTI: [(&str, &str); 2] = [(b3::TRACE_ID, "463ac35c9f6413ad"), (b3::SPAN_ID, "a2fb4a1d1a96d312")];
const ALL: &[Format] = &[Format::W3c, Format::B3, Format::B3Multi];

fn extract<'a>(headers: &[(&'a str, &'a str)], formats: &[Format]) -> Extraction<'a> {
    super::extract(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), formats)
}

fn errors(extraction: &Extraction<'_>) -> Vec<Error> {
    extraction.errors.iter().collect()
}

#[test]
fn formats_have_the_names_of_otel_propagators() {
    assert_eq!(ALL, Format::ALL);
    let names: Vec<_> = ALL.iter().map(|format| format.as_str()).collect();
    assert_eq!(names, ["tracecontext", "b3", "b3multi"]);
}

#[test]
fn a_request_without_headers_of_ours_gives_nothing() {
    assert_eq!(extract(&[], ALL), Extraction::default());
    let others =
        [(":path", "/"), ("trace-parent", W3C), ("trace.parent", W3C), ("b4", "0"), ("tracestate", "a=1")];
    assert_eq!(extract(&others, ALL), Extraction::default());
}

#[test]
fn names_are_compared_without_case() {
    for name in ["traceparent", "TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        let extraction = extract(&[(name, W3C), ("TraceState", "foo=1")], ALL);
        assert_eq!(extraction.format, Some(Format::W3c), "{name}");
        assert_eq!(extraction.tracestate.unwrap().as_str(), "foo=1");
    }
    let headers = [("X-B3-TraceId", MULTI[0].1), ("X-B3-SpanId", MULTI[1].1), ("X-B3-Sampled", "1")];
    assert_eq!(extract(&headers, ALL).sampled, Some(true));
    assert_eq!(extract(&[("B3", "0")], ALL).sampled, Some(false));
}

#[test]
fn every_header_of_a_format_is_recognised() {
    for format in ALL {
        for name in format.headers() {
            let header = Header::from_name(name.to_uppercase().as_bytes()).unwrap();
            assert_eq!(header.format(), *format, "{name}");
        }
    }
}

#[test]
fn the_first_format_with_a_context_wins() {
    let mut headers = vec![("b3", B3), ("traceparent", W3C)];
    headers.extend(MULTI);
    for formats in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let formats = formats.map(|n| ALL[n]);
        assert_eq!(extract(&headers, &formats).format, Some(formats[0]));
    }
    assert_eq!(extract(&headers, &[]), Extraction::default());
    let bad_b3 = [("b3", "x"), ("traceparent", W3C)];
    let extraction = extract(&bad_b3, &[Format::B3, Format::W3c]);
    assert_eq!(extraction.format, Some(Format::W3c));
    assert_eq!(errors(&extraction), [Error::Malformed { header: "b3", part: Part::TraceId }]);
    // What was not tried is not judged.
    assert!(extract(&bad_b3, &[Format::W3c, Format::B3]).errors.is_empty());
    assert!(extract(&bad_b3, &[Format::W3c]).errors.is_empty());
}

#[test]
fn several_traceparents_are_refused_and_tracestate_with_them() {
    let joined = format!("{W3C},{W3C}");
    for headers in [&[("traceparent", W3C), ("Traceparent", W3C)][..], &[("traceparent", &joined)]] {
        let headers = [headers, &[("tracestate", "foo=1,foo=1")]].concat();
        let extraction = extract(&headers, ALL);
        assert_eq!((extraction.context, extraction.tracestate.as_ref()), (None, None));
        assert_eq!(errors(&extraction), [Error::Duplicate { header: "traceparent" }]);
    }
    let extraction = extract(&[("b3", B3), ("b3", B3), MULTI[0], MULTI[1]], ALL);
    assert_eq!(extraction.format, Some(Format::B3Multi));
    assert_eq!(errors(&extraction), [Error::Duplicate { header: "b3" }]);
}

#[test]
fn an_invalid_tracestate_leaves_traceparent_alone() {
    // "failure to parse tracestate MUST NOT affect the parsing of traceparent"
    let extraction = extract(&[("traceparent", W3C), ("tracestate", "foo=1"), ("tracestate", "foo=2")], ALL);
    assert_eq!(extraction.context, Some(traceparent::parse(W3C.as_bytes()).unwrap()));
    assert_eq!(extraction.tracestate, None);
    assert_eq!(errors(&extraction), [Error::DuplicateKey]);
}

#[test]
fn tracestate_is_combined_in_order_and_only_goes_with_traceparent() {
    let headers =
        [("tracestate", "a=1"), ("tracestate", ""), ("traceparent", W3C), ("tracestate", "b=2 , c=3")];
    assert_eq!(extract(&headers, ALL).tracestate.unwrap().as_str(), "a=1,b=2,c=3");
    assert_eq!(extract(&[("tracestate", "a=1"), ("b3", B3)], ALL).tracestate, None);
    assert_eq!(extract(&[("tracestate", " "), ("traceparent", W3C)], ALL).tracestate, None);
    let mut many = vec![("tracestate", ","); 1000];
    many.push(("traceparent", W3C));
    assert_eq!(errors(&extract(&many, ALL)), [Error::TooManyMembers]);
}

#[test]
fn a_decision_without_ids_is_kept_unless_a_context_has_its_own() {
    let extraction = extract(&[("b3", "0")], ALL);
    assert_eq!(
        (extraction.context, extraction.sampled, extraction.format),
        (None, Some(false), Some(Format::B3))
    );
    let extraction = extract(&[("b3", "d"), (b3::SAMPLED, "0")], ALL);
    assert_eq!((extraction.sampled, extraction.format), (Some(true), Some(Format::B3)));
    let extraction = extract(&[("b3", "0"), ("traceparent", W3C)], &[Format::B3, Format::W3c]);
    assert_eq!((extraction.sampled, extraction.format), (Some(true), Some(Format::W3c)));
    // B3 without sampling state defers the decision.
    let extraction = extract(&MULTI, ALL);
    assert_eq!((extraction.context.is_some(), extraction.sampled), (true, None));
}

#[test]
fn the_first_of_repeated_multi_headers_counts() {
    let headers = [MULTI[0], MULTI[1], (b3::TRACE_ID, "nonsense"), (b3::SAMPLED, "0"), (b3::SAMPLED, "1")];
    let extraction = extract(&headers, ALL);
    assert_eq!(extraction.sampled, Some(false));
    assert!(extraction.errors.is_empty());
}

#[test]
fn every_header_that_is_wrong_is_reported_once() {
    let headers = [("traceparent", "x"), ("b3", "x"), (b3::SAMPLED, "x")];
    let formats = [ALL, ALL].concat();
    let found: Vec<_> = extract(&headers, &formats).errors.iter().map(Error::header).collect();
    assert_eq!(found, ["traceparent", "b3", "x-b3-sampled"]);
}

#[test]
fn the_configured_headers_are_written() {
    let context = traceparent::parse(W3C.as_bytes()).unwrap();
    let state = tracestate::parse([&b"foo=1"[..]]).unwrap();
    let injection = inject(&context, Some(&state), ALL);
    let text = |value| str::from_utf8(value).unwrap();
    let written: Vec<_> = injection.iter().map(|(name, value)| (name, text(value))).collect();
    assert_eq!(
        written,
        [
            ("traceparent", W3C),
            ("tracestate", "foo=1"),
            ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
            ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
            ("x-b3-spanid", "b7ad6b7169203331"),
            ("x-b3-sampled", "1"),
        ]
    );
    assert_eq!(inject(&context, Some(&TraceState::default()), &[Format::W3c]).iter().count(), 1);
    assert_eq!(inject(&context, Some(&state), &[Format::B3]).iter().count(), 1);
    assert_eq!(inject(&context, Some(&state), &[]).iter().count(), 0);
}

fn name() -> impl Strategy<Value = String> {
    let known: Vec<_> =
        ALL.iter().flat_map(|format| format.headers()).map(|name| (*name).to_owned()).collect();
    prop_oneof![prop::sample::select(known), "[a-zA-Z0-9-]{0,17}"]
}

proptest! {
    #[test]
    fn what_is_injected_is_extracted(seed: u64, sampled: bool, n in 0..3_usize, state in "[a-z]{1,5}=[a-z]{1,5}") {
        let mut ids = IdGenerator::new(seed);
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::NONE };
        let context = SpanContext { trace_id: ids.trace_id(), span_id: ids.span_id(), flags };
        let state = tracestate::parse([state.as_bytes()]).unwrap();
        let injection = inject(&context, Some(&state), &[ALL[n]]);
        let headers = injection.iter().map(|(name, value)| (name.as_bytes(), value));
        let extraction = super::extract(headers, ALL);
        prop_assert_eq!(extraction.context, Some(context));
        prop_assert_eq!(extraction.sampled, Some(sampled));
        prop_assert_eq!(extraction.format, Some(ALL[n]));
        prop_assert_eq!(extraction.tracestate.as_ref(), Some(&state).filter(|_| n == 0));
    }

    #[test]
    fn no_headers_panic(headers in prop::collection::vec((name(), any::<Vec<u8>>()), 0..12)) {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        let extraction = super::extract(headers, ALL);
        prop_assert!(extraction.context.is_none() || extraction.format.is_some());
    }
}
