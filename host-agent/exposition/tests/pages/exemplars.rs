//! Which requests become the exemplars of which buckets.

use crate::openmetrics;

use std::time::{Duration, UNIX_EPOCH};

use meshweft_exposition::{Exemplars, Limits, Request, Stats, render};
use meshweft_telemetry::{SpanId, TraceId};

fn labelled(number: u8, labels: &[(&str, &str)]) -> Request {
    Request {
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        trace_id: TraceId::from_bytes([number; 16]).unwrap(),
        span_id: SpanId::from_bytes([number; 8]).unwrap(),
        timestamp: UNIX_EPOCH + Duration::from_secs(u64::from(number)),
        duration_ms: None,
        request_bytes: None,
        response_bytes: None,
    }
}

fn timed(number: u8, duration_ms: u64) -> Request {
    Request { duration_ms: Some(duration_ms), ..labelled(number, &[("app", "a")]) }
}

/// Renders a page; returns `name{le}` or `name{app}` and the number of the request of each
/// exemplar.
fn scrape(exemplars: &mut Exemplars, page: &str) -> Vec<(String, u8)> {
    let mut out = Vec::new();
    let summary = render(page.as_bytes(), exemplars, &mut out).unwrap();
    let samples = openmetrics::check(&out).unwrap();
    let found: Vec<_> = samples
        .into_iter()
        .filter_map(|sample| {
            let exemplar = sample.exemplar?;
            let trace = &exemplar.labels["trace_id"];
            assert_eq!(trace[..16], exemplar.labels["span_id"]);
            let number = u8::from_str_radix(&trace[..2], 16).unwrap();
            assert_eq!(exemplar.timestamp, Some(format!("{number}.000")));
            let label = sample.labels.get("le").or_else(|| sample.labels.get("app"));
            let label = label.map_or("", String::as_str);
            Some((format!("{}{{{label}}}", sample.name), number))
        })
        .collect();
    assert_eq!(summary.exemplars, found.len() as u64);
    found
}

fn at(place: &str, number: u8) -> (String, u8) {
    (place.to_owned(), number)
}

fn bucket(le: &str, number: u8) -> (String, u8) {
    at(&format!("istio_request_duration_milliseconds_bucket{{{le}}}"), number)
}

/// `istio_requests_total` with one sample for each set of labels.
fn counters(series: &[(&str, u64)]) -> String {
    let mut page = "# TYPE istio_requests_total counter\n".to_owned();
    for (labels, count) in series {
        page += &format!("istio_requests_total{{{labels}}} {count}\n");
    }
    page
}

/// A duration histogram of app a, with the counts of the buckets 1, 10, 1000 and +Inf themselves.
fn durations(own: [u64; 4]) -> String {
    let name = "istio_request_duration_milliseconds";
    let mut page = format!("# TYPE {name} histogram\n");
    let mut total = 0;
    for (le, own) in ["1", "10", "1000", "+Inf"].iter().zip(own) {
        total += own;
        page += &format!("{name}_bucket{{app=\"a\",le=\"{le}\"}} {total}\n");
    }
    page + &format!("{name}_sum{{app=\"a\"}} 0\n{name}_count{{app=\"a\"}} {total}\n")
}

fn new() -> Exemplars {
    Exemplars::new(Limits::default())
}

/// Everything that was seen ended somewhere.
fn assert_balanced(stats: &Stats) {
    let ends = [
        stats.attached,
        stats.superseded,
        stats.ambiguous,
        stats.unmatched,
        stats.metric_absent,
        stats.uncounted,
        stats.restarted,
        stats.table_full,
        stats.evicted,
        stats.pending,
    ];
    assert_eq!(stats.observations, ends.iter().sum::<u64>(), "{stats:?}");
}

#[test]
fn a_request_goes_to_the_series_with_its_labels() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "b"), ("code", "200")]));
    let page =
        counters(&[(r#"app="a",code="200""#, 1), (r#"code="200",app="b""#, 1), (r#"app="b",code="500""#, 1)]);
    let mut out = Vec::new();
    render(page.as_bytes(), &mut exemplars, &mut out).unwrap();
    let attached: Vec<_> = openmetrics::check(&out)
        .unwrap()
        .into_iter()
        .filter(|sample| sample.exemplar.is_some())
        .map(|sample| (sample.labels["app"].clone(), sample.labels["code"].clone()))
        .collect();
    assert_eq!(attached, [("b".to_owned(), "200".to_owned())]);
}

#[test]
fn labels_that_only_one_side_has_constrain_nothing() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a"), ("code", "200")]));
    let page = counters(&[(r#"app="a",version="v1""#, 1), (r#"app="b",version="v1""#, 1)]);
    assert_eq!(scrape(&mut exemplars, &page), [at("istio_requests_total{a}", 1)]);
}

#[test]
fn series_of_different_shapes_are_all_looked_at() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a"), ("code", "200")]));
    let page = counters(&[(r#"app="a""#, 1), (r#"app="a",code="200""#, 1)]);
    assert_eq!(scrape(&mut exemplars, &page), []);
    assert_eq!(exemplars.stats().ambiguous, 1);
}

#[test]
fn a_request_that_fits_two_series_gets_none() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a")]));
    let page = counters(&[(r#"app="a",code="200""#, 1), (r#"app="a",code="500""#, 1)]);
    assert_eq!(scrape(&mut exemplars, &page), []);
    let stats = exemplars.stats();
    assert_eq!((stats.ambiguous, stats.pending), (1, 0));
}

#[test]
fn unknown_and_empty_equal_each_other_and_nothing_known() {
    let page = counters(&[(r#"app="a",version="unknown""#, 1), (r#"app="b",version="""#, 1)]);
    for (version, app, fits) in [
        ("unknown", "a", true),
        ("", "a", true),
        ("unknown", "b", true),
        ("", "b", true),
        ("v1", "a", false),
        ("v1", "b", false),
    ] {
        let mut exemplars = new();
        exemplars.record(labelled(1, &[("app", app), ("version", version)]));
        assert_eq!(scrape(&mut exemplars, &page).len(), usize::from(fits));
    }
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a"), ("version", "unknown")]));
    assert_eq!(scrape(&mut exemplars, &counters(&[(r#"app="a",version="v1""#, 1)])), []);
}

#[test]
fn values_are_compared_unescaped() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a\"\\\n,}")]));
    let page = counters(&[(r#"app="a\"\\\n,}""#, 1), (r#"app="a""#, 1)]);
    assert_eq!(scrape(&mut exemplars, &page).len(), 1);
}

#[test]
fn a_duration_goes_to_the_one_bucket_that_envoy_counted_it_in() {
    for (duration, le) in [
        (0, "1"),
        (1, "1"),
        (2, "10"),
        (10, "10"),
        (11, "1000"),
        (1000, "1000"),
        (1001, "1000"),
        (1099, "1000"),
        (1100, "+Inf"),
        (u64::MAX, "+Inf"),
    ] {
        let mut exemplars = new();
        exemplars.record(timed(1, duration));
        assert_eq!(scrape(&mut exemplars, &durations([1, 1, 1, 1])), [bucket(le, 1)], "{duration}");
    }
}

#[test]
fn the_value_never_exceeds_the_bound_it_was_counted_under() {
    let mut exemplars = new();
    exemplars.record(timed(1, 1050));
    let mut out = Vec::new();
    render(durations([0, 0, 1, 0]).as_bytes(), &mut exemplars, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("le=\"1000\"} 1 # {trace_id=\"01010101"), "{text}");
    assert!(text.contains("\"} 1000 1.000\n"), "{text}");
}

#[test]
fn sizes_go_to_their_own_metrics() {
    let mut exemplars = new();
    exemplars.record(Request { request_bytes: Some(100), response_bytes: Some(5000), ..labelled(1, &[]) });
    let mut page = String::new();
    for name in ["istio_request_bytes", "istio_response_bytes"] {
        page += &format!(
            "# TYPE {name} histogram\n{name}_bucket{{le=\"1000\"}} 1\n\
             {name}_bucket{{le=\"+Inf\"}} 2\n{name}_sum 1\n{name}_count 2\n"
        );
    }
    assert_eq!(
        scrape(&mut exemplars, &page),
        [at("istio_request_bytes_bucket{1000}", 1), at("istio_response_bytes_bucket{+Inf}", 1)]
    );
}

#[test]
fn the_newest_request_of_a_bucket_is_shown_whatever_the_order_of_reports() {
    let mut exemplars = new();
    for (number, duration) in [(2, 5), (4, 6), (3, 7), (1, 0)] {
        exemplars.record(timed(number, duration));
    }
    assert_eq!(scrape(&mut exemplars, &durations([1, 3, 0, 0])), [bucket("1", 1), bucket("10", 4)]);
    assert_eq!(exemplars.stats().superseded, 1);
}

#[test]
fn exemplars_stay_until_a_newer_one_comes() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    let page = durations([0, 1, 0, 0]);
    assert_eq!(scrape(&mut exemplars, &page), [bucket("10", 1)]);
    assert_eq!(scrape(&mut exemplars, &page), [bucket("10", 1)]);
    exemplars.record(timed(2, 5));
    assert_eq!(scrape(&mut exemplars, &durations([0, 2, 0, 0])), [bucket("10", 2)]);
}

#[test]
fn a_request_that_envoy_has_not_counted_waits() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    // No metric, no series, no count in the bucket.
    assert_eq!(scrape(&mut exemplars, ""), []);
    let page = durations([1, 0, 0, 0]);
    assert_eq!(scrape(&mut exemplars, &page.replace("\"a\"", "\"b\"")), []);
    assert_eq!(scrape(&mut exemplars, &page), []);
    assert_eq!(exemplars.stats().pending, 2);
    assert_eq!(scrape(&mut exemplars, &durations([1, 1, 0, 0])), [bucket("10", 1)]);
}

#[test]
fn waiting_ends_after_the_limit_with_a_reason() {
    let limits = Limits { max_scrapes: 2, ..Limits::default() };
    let mut exemplars = Exemplars::new(limits);
    exemplars.record(Request { request_bytes: Some(1), ..timed(1, 5) });
    let page = durations([1, 0, 0, 0]) + &counters(&[(r#"app="b""#, 1)]);
    assert_eq!(scrape(&mut exemplars, &page), []);
    assert_eq!(exemplars.stats().pending, 3);
    assert_eq!(scrape(&mut exemplars, &page), []);
    let stats = exemplars.stats();
    assert_balanced(&stats);
    assert_eq!((stats.uncounted, stats.unmatched, stats.metric_absent, stats.pending), (1, 1, 1, 0));
}

#[test]
fn a_series_that_vanishes_takes_its_exemplars_along() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    let page = durations([0, 1, 0, 0]);
    assert_eq!(scrape(&mut exemplars, &page).len(), 1);
    assert_eq!(scrape(&mut exemplars, ""), []);
    assert_eq!(scrape(&mut exemplars, &page), []);
}

#[test]
fn a_series_that_restarts_keeps_nothing_older() {
    // Fewer in all; or as many, but a bucket lost its count.
    for after in [durations([0, 1, 0, 0]), durations([2, 0, 1, 0])] {
        let mut exemplars = new();
        exemplars.record(timed(1, 5));
        assert_eq!(scrape(&mut exemplars, &durations([0, 2, 0, 0])), [bucket("10", 1)]);
        assert_eq!(scrape(&mut exemplars, &after), []);
        exemplars.record(timed(2, 5));
        assert_eq!(scrape(&mut exemplars, &durations([2, 2, 2, 0])), [bucket("10", 2)]);
    }
}

#[test]
fn a_request_from_before_a_restart_is_not_attached_after_it() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    assert_eq!(scrape(&mut exemplars, &durations([9, 0, 0, 0])), []);
    // Waited through this scrape; then the proxy restarted.
    assert_eq!(scrape(&mut exemplars, &durations([9, 0, 0, 0])), []);
    exemplars.record(timed(2, 0));
    assert_eq!(scrape(&mut exemplars, &durations([1, 1, 0, 0])), [bucket("1", 2)]);
    assert_eq!(exemplars.stats().restarted, 1);
    assert_balanced(&exemplars.stats());
}

#[test]
fn the_oldest_requests_go_when_too_many_wait() {
    let limits = Limits { max_pending: 2, ..Limits::default() };
    let mut exemplars = Exemplars::new(limits);
    for number in 1..=3 {
        exemplars.record(labelled(number, &[("app", &number.to_string())]));
    }
    let page = counters(&[(r#"app="1""#, 1), (r#"app="2""#, 1), (r#"app="3""#, 1)]);
    assert_eq!(
        scrape(&mut exemplars, &page),
        [at("istio_requests_total{2}", 2), at("istio_requests_total{3}", 3)]
    );
    assert_eq!(exemplars.stats().evicted, 1);
    assert_balanced(&exemplars.stats());
}

#[test]
fn tables_have_a_limit() {
    for limits in
        [Limits { max_series: 1, ..Limits::default() }, Limits { max_exemplars: 1, ..Limits::default() }]
    {
        let mut exemplars = Exemplars::new(limits);
        for number in 1..=2 {
            exemplars.record(labelled(number, &[("app", &number.to_string())]));
        }
        let page = counters(&[(r#"app="1""#, 1), (r#"app="2""#, 1)]);
        assert_eq!(scrape(&mut exemplars, &page), [at("istio_requests_total{1}", 1)]);
        assert_eq!(exemplars.stats().table_full, 1);
        assert_balanced(&exemplars.stats());
    }
}

#[test]
fn requests_with_absurd_labels_are_refused() {
    let mut exemplars = new();
    let many: Vec<String> = (0..65).map(|i| format!("l{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    exemplars.record(labelled(1, &many));
    exemplars.record(labelled(2, &[("app", "a"), ("app", "b")]));
    exemplars.record(labelled(3, &[(&"n".repeat(1000), "a")]));
    assert_eq!(exemplars.stats().refused, 3);
    assert_eq!(exemplars.stats().observations, 0);
}

#[test]
fn shapes_of_label_sets_have_a_limit_and_come_free_again() {
    let mut exemplars = new();
    let names: Vec<String> = (0..17).map(|i| format!("l{i}")).collect();
    for (number, name) in (1..).zip(&names) {
        exemplars.record(labelled(number, &[(name, "x")]));
    }
    assert_eq!(exemplars.stats().refused, 1);
    assert_eq!(scrape(&mut exemplars, &counters(&[("", 1)])).len(), 1);
    exemplars.record(labelled(99, &[("other", "x")]));
    assert_eq!(exemplars.stats().refused, 1);
}

#[test]
fn a_metric_with_series_of_too_many_shapes_claims_no_match() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a")]));
    let mut series: Vec<String> = (0..16).map(|i| format!("l{i}=\"x\",app=\"b\"")).collect();
    series.push("app=\"a\"".into());
    let series: Vec<_> = series.iter().map(|labels| (labels.as_str(), 1)).collect();
    assert_eq!(scrape(&mut exemplars, &counters(&series)), []);
    assert_eq!(exemplars.stats().ambiguous, 1);
    exemplars.record(labelled(2, &[("app", "a")]));
    assert_eq!(scrape(&mut exemplars, &counters(&series[1..])).len(), 1);
}

#[test]
fn metrics_of_the_wrong_type_get_none() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    let page = counters(&[(r#"app="a""#, 1)]).replace("counter", "gauge")
        + &durations([1, 1, 0, 0]).replace("+Inf", "5000");
    assert_eq!(scrape(&mut exemplars, &page), []);
    assert_eq!(exemplars.stats().pending, 2);
}

#[test]
fn a_counter_with_a_label_le_cannot_borrow_anothers_exemplar() {
    let mut exemplars = new();
    exemplars.record(labelled(1, &[("app", "a"), ("le", "1")]));
    let page = counters(&[(r#"app="a",le="1""#, 1), (r#"app="a",le="2""#, 1), (r#"app="a""#, 1)]);
    let mut out = Vec::new();
    render(page.as_bytes(), &mut exemplars, &mut out).unwrap();
    for sample in openmetrics::check(&out).unwrap() {
        assert!(sample.exemplar.is_none() || !sample.labels.contains_key("le"));
    }
}

#[test]
fn a_refused_page_changes_nothing() {
    let mut exemplars = new();
    exemplars.record(timed(1, 5));
    let page = durations([0, 1, 0, 0]);
    assert_eq!(scrape(&mut exemplars, &page).len(), 1);
    let before = exemplars.stats();
    assert!(render(b"upstream connect error", &mut exemplars, &mut Vec::new()).is_err());
    assert_eq!(exemplars.stats(), before);
    assert_eq!(scrape(&mut exemplars, &page).len(), 1);
}
