//! Whatever a scrape target answers, the output is valid OpenMetrics of as many samples as were
//! counted, or nothing; and a request ends somewhere or still waits.
#![no_main]

mod edits;
#[path = "../../host-agent/exposition/tests/pages/openmetrics.rs"]
#[expect(dead_code, reason = "the crate's tests look at more of each sample")]
mod openmetrics;

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use meshweft_exposition::{Exemplars, Limits, Request, render};
use meshweft_telemetry::{SpanId, TraceId};

const COUNTERS: &[u8] = b"# TYPE istio_requests_total counter
istio_requests_total{app=\"a\",code=\"200\"} 2
istio_requests_total{app=\"b\",code=\"\"} 1
# TYPE x gauge
x{} 1 5

";
const HISTOGRAM: &[u8] = b"# HELP istio_request_bytes say \"so\\n\"
# TYPE istio_request_bytes histogram
istio_request_bytes_bucket{app=\"a\",le=\"10\"} 1
istio_request_bytes_bucket{app=\"a\",le=\"1000\"} 2
istio_request_bytes_bucket{app=\"a\",le=\"+Inf\"} 3
istio_request_bytes_sum{app=\"a\"} 2010.5
istio_request_bytes_count{app=\"a\"} 3
";

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[&edits::apply(COUNTERS, data), HISTOGRAM].concat());
    check(&[COUNTERS, &edits::apply(HISTOGRAM, data)].concat());
});

fn check(page: &[u8]) {
    let mut exemplars = Exemplars::new(Limits { max_scrapes: 2, ..Limits::default() });
    let ids = TraceId::from_bytes([1; 16]).zip(SpanId::from_bytes([1; 8]));
    let Some((trace_id, span_id)) = ids else {
        return;
    };
    for (app, bytes) in [("a", 5), ("a", 1050), ("b", 0)] {
        exemplars.record(Request {
            labels: vec![("app".into(), app.into())],
            trace_id,
            span_id,
            timestamp: UNIX_EPOCH + Duration::from_millis(bytes),
            duration_ms: Some(bytes),
            request_bytes: Some(bytes),
            response_bytes: None,
        });
    }
    // The second page is the first restarted, cut in the middle.
    for page in [page, page.get(..page.len() / 2).unwrap_or_default()] {
        let mut out = Vec::new();
        match render(page, &mut exemplars, &mut out) {
            Ok(summary) => {
                let samples = openmetrics::check(&out).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(samples.len() as u64, summary.samples);
                let attached = samples.iter().filter(|sample| sample.exemplar.is_some());
                assert_eq!(attached.count() as u64, summary.exemplars);
            }
            Err(_) => assert!(out.is_empty()),
        }
        let stats = exemplars.stats();
        let ended = stats.attached
            + stats.superseded
            + stats.ambiguous
            + stats.unmatched
            + stats.metric_absent
            + stats.uncounted
            + stats.restarted
            + stats.table_full
            + stats.evicted;
        assert_eq!(stats.observations, ended + stats.pending);
    }
}
