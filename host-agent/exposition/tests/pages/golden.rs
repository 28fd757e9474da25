//! A page as Envoy 1.40 prints it, with Istio's standard metrics, and what is made of it.

use crate::openmetrics;

use std::time::{Duration, UNIX_EPOCH};

use meshweft_exposition::{Exemplars, Limits, Request, render};
use meshweft_telemetry::{SpanId, TraceId};

const PAGE: &str = include_str!("../../testdata/envoy.prom.txt");
const CONVERTED: &str = include_str!("../../testdata/envoy.openmetrics.txt");

/// A request whose labels are those of one of the page's series of `istio_requests_total`.
fn request(series: usize, number: u8, duration_ms: u64, bytes: Option<u64>) -> Request {
    let line = PAGE.lines().filter(|line| line.starts_with("istio_requests_total{")).nth(series).unwrap();
    let labels = line.split_once('{').unwrap().1.split_once('}').unwrap().0;
    let labels = labels
        .split(',')
        .map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            (name.into(), value.trim_matches('"').into())
        })
        .collect();
    Request {
        labels,
        trace_id: TraceId::from_bytes([number; 16]).unwrap(),
        span_id: SpanId::from_bytes([number; 8]).unwrap(),
        timestamp: UNIX_EPOCH + Duration::from_millis(1_763_665_000_000 + u64::from(number)),
        duration_ms: Some(duration_ms),
        request_bytes: bytes,
        response_bytes: None,
    }
}

#[test]
fn a_page_of_envoy_with_istio_metrics_is_converted_with_its_exemplars() {
    let mut exemplars = Exemplars::new(Limits::default());
    for request in [
        request(0, 1, 0, Some(720)),
        request(0, 2, 3, Some(1043)),
        request(0, 3, 12, Some(1043)),
        request(0, 4, 104, Some(1210)),
        request(1, 5, 1, None),
        request(2, 6, 2, None),
        request(2, 7, 3, None),
        request(2, 8, 60_001, None),
    ] {
        exemplars.record(request);
    }
    let mut out = Vec::new();
    let summary = render(PAGE.as_bytes(), &mut exemplars, &mut out).unwrap();
    assert_eq!(std::str::from_utf8(&out).unwrap(), CONVERTED);

    let samples = openmetrics::check(&out).unwrap();
    assert_eq!(summary.samples, samples.len() as u64);
    let lines = |line: &&str| !line.is_empty() && !line.starts_with('#');
    assert_eq!(samples.len(), PAGE.lines().filter(lines).count());
    assert_eq!(summary.dropped.total(), 0);
    // envoy_cluster_upstream_rq_total, beside envoy_cluster_upstream_rq.
    assert_eq!(summary.retyped, 1);
    let with_exemplar = samples.iter().filter(|sample| sample.exemplar.is_some());
    assert_eq!(summary.exemplars, with_exemplar.count() as u64);
    let stats = exemplars.stats();
    // The second series has no histogram on this page, so its duration waits.
    assert_eq!((stats.pending, stats.unmatched), (1, 0));
}

#[test]
fn without_requests_the_same_page_has_no_exemplars() {
    let mut out = Vec::new();
    let mut exemplars = Exemplars::new(Limits::default());
    let summary = render(PAGE.as_bytes(), &mut exemplars, &mut out).unwrap();
    let stripped: String =
        CONVERTED.lines().map(|line| line.split(" # {").next().unwrap().to_owned() + "\n").collect();
    assert_eq!(std::str::from_utf8(&out).unwrap(), stripped);
    assert_eq!(summary.exemplars, 0);
}

#[test]
fn every_prefix_of_the_page_is_converted_or_refused() {
    for end in (0..PAGE.len()).step_by(499) {
        let mut out = Vec::new();
        let mut exemplars = Exemplars::new(Limits::default());
        exemplars.record(request(0, 1, 3, Some(720)));
        if render(&PAGE.as_bytes()[..end], &mut exemplars, &mut out).is_ok() {
            openmetrics::check(&out).unwrap();
        } else {
            assert!(out.is_empty());
        }
    }
}
