//! What holds for every page.

use crate::openmetrics;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, UNIX_EPOCH};

use meshweft_exposition::{Error, Exemplars, Limits, Request, Summary, render};
use meshweft_telemetry::{SpanId, TraceId};
use proptest::prelude::*;

/// A sample as it is meant, beside how it is written.
#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: &'static str,
    timestamp: Option<i32>,
    /// Blanks and a comma at the end of the label set.
    untidy: bool,
}

impl Sample {
    fn write(&self) -> String {
        let blank = if self.untidy { "\t " } else { "" };
        let mut labels: Vec<_> = self
            .labels
            .iter()
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{blank}{name}{blank}={blank}\"{value}\"{blank}")
            })
            .collect();
        if self.untidy && !labels.is_empty() {
            labels.push(blank.into());
        }
        let timestamp = self.timestamp.map_or(String::new(), |at| format!(" {at}"));
        format!("{blank}{}{{{}}} {}{timestamp}{blank}\n", self.name, labels.join(","), self.value)
    }
}

#[derive(Debug, Clone)]
enum Line {
    Sample(Sample),
    Metadata(String),
    Broken(&'static str),
}

fn name() -> impl Strategy<Value = String> {
    let base = prop_oneof![
        Just("a"),
        Just("a_total"),
        Just("b:c"),
        Just("istio_requests_total"),
        Just("istio_request_bytes")
    ];
    let suffix = prop_oneof![
        3 => Just(""),
        1 => Just("_bucket"),
        1 => Just("_sum"),
        1 => Just("_count"),
        1 => Just("_total"),
        1 => Just("_created"),
    ];
    (base, suffix).prop_map(|(base, suffix)| format!("{base}{suffix}"))
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let name = prop_oneof![Just("x"), Just("y_1"), Just("le"), Just("quantile"), Just("Z")];
    let value = prop_oneof![
        Just(String::new()),
        Just("0.5".to_owned()),
        Just("1".to_owned()),
        Just("+Inf".to_owned()),
        Just("unknown".to_owned()),
        "[a\\\\\",{}\n =#ü]{0,4}",
        any::<String>(),
    ];
    prop::collection::btree_map(name.prop_map(str::to_owned), value, 0..4)
}

fn sample() -> impl Strategy<Value = Sample> {
    let value = prop::sample::select(vec![
        "0", "1", "2", "3.5", "1e3", "-1", "NaN", "+Inf", "-Inf", "00", "+2", "7.",
    ]);
    let timestamp = prop_oneof![3 => Just(None), 1 => any::<i32>().prop_map(Some)];
    (name(), labels(), value, timestamp, any::<bool>()).prop_map(
        |(name, labels, value, timestamp, untidy)| Sample { name, labels, value, timestamp, untidy },
    )
}

fn line() -> impl Strategy<Value = Line> {
    let kind = prop::sample::select(vec!["counter", "gauge", "histogram", "summary", "untyped"]);
    prop_oneof![
        6 => sample().prop_map(Line::Sample),
        3 => (name(), kind).prop_map(|(name, kind)| Line::Metadata(format!("# TYPE {name} {kind}\n"))),
        1 => (name(), "[^\n]{0,9}").prop_map(|(name, text)| Line::Metadata(format!("# HELP {name} {text}\n"))),
        1 => prop::sample::select(vec![
            "\n", "# EOF\n", "a{x=\"1} 1\n", "a{x=\"1\"} 1x\n", "a 1 2 3\n", "{} 1\n", "a{x=1} 1\n", "a{__x=\"\"} 1\n",
        ]).prop_map(Line::Broken),
    ]
}

/// Histograms and counters that are whole, so that the types survive.
fn whole_page() -> impl Strategy<Value = String> {
    let counts = prop::collection::vec(0..3u32, 4);
    let series = prop::collection::vec(("[ab]", prop::sample::select(vec!["1", "2"]), counts), 0..5);
    series.prop_map(|series| {
        let mut page = String::new();
        let mut seen = HashMap::new();
        for (app, code, counts) in series {
            if seen.insert((app.clone(), code), ()).is_some() {
                continue;
            }
            let labels = format!("app=\"{app}\",code=\"{code}\"");
            let name = "istio_request_bytes";
            page += &format!("# TYPE {name} histogram\n");
            let mut total = 0;
            for (le, count) in ["0.5", "10", "1000", "+Inf"].iter().zip(&counts) {
                total += count;
                page += &format!("{name}_bucket{{{labels},le=\"{le}\"}} {total}\n");
            }
            page += &format!("{name}_sum{{{labels}}} 7.25\n{name}_count{{{labels}}} {total}\n\n");
            page += "# TYPE istio_requests_total counter\n";
            page += &format!("istio_requests_total{{{labels}}} {total}\n");
        }
        page
    })
}

fn request() -> impl Strategy<Value = Request> {
    let label = (prop::sample::select(vec!["app", "code", "x"]), "[ab12]?");
    let labels = prop::collection::vec(label, 0..4);
    let bytes = prop::option::of(prop_oneof![0..2000u64, any::<u64>()]);
    (labels, 1..=u8::MAX, bytes).prop_map(|(labels, id, request_bytes)| Request {
        labels: labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        trace_id: TraceId::from_bytes([id; 16]).unwrap(),
        span_id: SpanId::from_bytes([id; 8]).unwrap(),
        timestamp: UNIX_EPOCH + Duration::from_millis(u64::from(id)),
        duration_ms: Some(3),
        request_bytes,
        response_bytes: None,
    })
}

fn rendered(page: &[u8], exemplars: &mut Exemplars) -> (Result<Summary, Error>, Vec<u8>) {
    let mut out = Vec::new();
    let result = render(page, exemplars, &mut out);
    (result, out)
}

proptest! {
    #[test]
    fn arbitrary_bytes_give_valid_openmetrics_or_nothing(
        page in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(b"# TYPEHLcountergauge{}=\"\\, \n\n_01:".to_vec()),
        ], 0..300),
        requests in prop::collection::vec(request(), 0..4),
    ) {
        let mut exemplars = Exemplars::new(Limits::default());
        requests.into_iter().for_each(|request| exemplars.record(request));
        match rendered(&page, &mut exemplars) {
            (Ok(summary), out) => {
                let samples = openmetrics::check(&out).map_err(TestCaseError::fail)?;
                prop_assert_eq!(samples.len() as u64, summary.samples);
            }
            (Err(_), out) => prop_assert!(out.is_empty()),
        }
    }

    #[test]
    fn series_and_values_survive(
        lines in prop::collection::vec(line(), 0..30),
        requests in prop::collection::vec(request(), 0..4),
    ) {
        let page: String = lines.iter().map(|line| match line {
            Line::Sample(sample) => sample.write(),
            Line::Metadata(text) => text.clone(),
            Line::Broken(text) => (*text).to_owned(),
        }).collect();
        let mut expected = HashMap::new();
        for line in &lines {
            if let Line::Sample(sample) = line {
                let mut labels = sample.labels.clone();
                labels.retain(|_, value| !value.is_empty());
                // The first of a series holds.
                expected.entry((sample.name.clone(), labels)).or_insert((sample.value, sample.timestamp));
            }
        }
        let mut exemplars = Exemplars::new(Limits::default());
        requests.into_iter().for_each(|request| exemplars.record(request));
        let (result, out) = rendered(page.as_bytes(), &mut exemplars);
        let Ok(summary) = result else {
            prop_assert!(expected.is_empty());
            return Ok(());
        };
        let samples = openmetrics::check(&out).map_err(TestCaseError::fail)?;
        prop_assert_eq!(samples.len() as u64, summary.samples);
        let written: HashMap<_, _> = samples.iter().map(|sample| {
            let millis = sample.timestamp.as_ref().map(|at| (at.parse::<f64>().unwrap() * 1000.0).round() as i32);
            (sample.series(), (sample.value.as_str(), millis))
        }).collect();
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn whole_families_keep_their_types_and_lines(page in whole_page()) {
        let (result, out) = rendered(page.as_bytes(), &mut Exemplars::new(Limits::default()));
        prop_assert_eq!(result.unwrap().retyped, 0);
        let samples = openmetrics::check(&out).map_err(TestCaseError::fail)?;
        let mut written: Vec<_> = std::str::from_utf8(&out).unwrap()
            .lines().filter(|line| !line.starts_with('#')).collect();
        let mut read: Vec<_> = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        written.sort_unstable();
        read.sort_unstable();
        prop_assert_eq!(written, read);
        prop_assert!(samples.iter().all(|sample| sample.kind == "counter" || sample.kind == "histogram"));
    }

    /// Compared with each request held against each series.
    #[test]
    fn exemplars_stand_where_exactly_one_series_fits(
        page in whole_page(),
        requests in prop::collection::vec(request(), 1..20),
    ) {
        let mut exemplars = Exemplars::new(Limits::default());
        requests.iter().for_each(|request| exemplars.record(request.clone()));
        let (_, out) = rendered(page.as_bytes(), &mut exemplars);
        let samples = openmetrics::check(&out).map_err(TestCaseError::fail)?;
        let counters: Vec<_> = samples.iter().filter(|sample| sample.kind == "counter").collect();
        let mut newest: HashMap<usize, u8> = HashMap::new();
        for request in &requests {
            let mut names: Vec<_> = request.labels.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names.dedup();
            if names.len() < request.labels.len() {
                continue;
            }
            let fitting: Vec<_> = (0..counters.len()).filter(|index| {
                request.labels.iter().all(|(name, value)| {
                    counters[*index].labels.get(&**name).is_none_or(|has| **has == **value)
                })
            }).collect();
            if let [only] = fitting[..] && counters[only].number() > 0.0 {
                let id = request.trace_id.to_bytes()[0];
                let newest = newest.entry(only).or_default();
                *newest = id.max(*newest);
            }
        }
        for (index, counter) in counters.iter().enumerate() {
            let trace = counter.exemplar.as_ref().map(|exemplar| exemplar.labels["trace_id"].clone());
            let expected = newest.get(&index).map(|id| format!("{id:02x}").repeat(16));
            prop_assert_eq!(trace, expected);
        }
        let stats = exemplars.stats();
        prop_assert_eq!(stats.observations, stats.attached + stats.superseded + stats.ambiguous
            + stats.unmatched + stats.metric_absent + stats.uncounted + stats.restarted
            + stats.table_full + stats.evicted + stats.pending);
    }
}
