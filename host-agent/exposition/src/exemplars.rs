//! The requests of one proxy that may become exemplars.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use meshweft_telemetry::{SpanId, TraceId};

use crate::fingerprint::Keys;
use crate::kept::{Kept, Placed};
use crate::matching::{LabelSets, Match, Matches, SetKey};
use crate::page::{Page, Sample};
use crate::series::{Metric, PerMetric, Series};

/// What the filter reported of one request, whose trace was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Labels of Istio's standard metrics, as far as they are known, without the `istio.` prefix.
    /// A label that is given as `unknown` or empty is one that Istio does not know either; a label
    /// that is left out may have any value.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The trace that the exemplar points to.
    pub trace_id: TraceId,
    /// The proxy's span in it.
    pub span_id: SpanId,
    /// When the request ended. Written in seconds with three decimals; a time before the Unix
    /// epoch is written as 0. Of two requests in one bucket the later is shown, so the caller must
    /// not let in times of the far future.
    pub timestamp: SystemTime,
    /// Duration in whole milliseconds, truncated as Envoy counts them.
    pub duration_ms: Option<u64>,
    /// Size of the request in bytes, as Envoy counts it.
    pub request_bytes: Option<u64>,
    /// Size of the response in bytes, as Envoy counts it.
    pub response_bytes: Option<u64>,
}

/// Bounds on what one proxy's exemplars and pages may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that wait for a scrape; beyond it the oldest goes. The default, 16,384, is what
    /// a proxy with a thousand requests a second reports in a scrape interval of 15 s.
    pub max_pending: usize,
    /// Scrapes for which a request waits until Envoy has counted it. Envoy shows histograms only
    /// after it merged them, every 5 s, and a proxy may be scraped every second or by several
    /// Prometheus servers: 32.
    pub max_scrapes: u64,
    /// Series that are remembered between scrapes: 16,384.
    pub max_series: usize,
    /// Exemplars that are kept between scrapes: 65,536, about 5 MiB.
    pub max_exemplars: usize,
    /// Longest line of a page, in bytes, that is converted. Istio's have about 1,200: 32 KiB.
    pub max_line_bytes: usize,
    /// Longest page, in bytes, that is converted: 64 MiB. Never more than 4 GiB.
    pub max_page_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pending: 16_384,
            max_scrapes: 32,
            max_series: 16_384,
            max_exemplars: 65_536,
            max_line_bytes: 32 << 10,
            max_page_bytes: 64 << 20,
        }
    }
}

/// What became of the requests.
///
/// But for [`Stats::requests`] and [`Stats::refused`], which count requests, the unit is one
/// request for one of the four metrics, so a request with all values counts as four. Each of them
/// ends in one of the fields from `attached` to `evicted`, or is still `pending`:
/// `observations` is their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that were recorded, those that were refused included.
    pub requests: u64,
    /// Requests that were refused: too many labels, or a label twice.
    pub refused: u64,
    /// Requests, each once for every metric that it has a value for.
    pub observations: u64,
    /// Became the exemplar of their bucket.
    pub attached: u64,
    /// Their bucket had the exemplar of a later request already.
    pub superseded: u64,
    /// Their labels fit several series.
    pub ambiguous: u64,
    /// Waited in vain for a series that their labels fit.
    pub unmatched: u64,
    /// Waited in vain for their metric to be on the page at all.
    pub metric_absent: u64,
    /// Waited in vain for their bucket to count something.
    pub uncounted: u64,
    /// Were older than a restart of their series.
    pub restarted: u64,
    /// Too many series or exemplars are kept.
    pub table_full: u64,
    /// Went because too many requests waited.
    pub evicted: u64,
    /// Wait for a scrape now.
    pub pending: u64,
}

/// The requests of one proxy, waiting for a scrape, and the exemplars that were made of them.
#[derive(Debug)]
pub struct Exemplars {
    limits: Limits,
    keys: Keys,
    pending: VecDeque<Pending>,
    sets: LabelSets,
    kept: Kept,
    /// Pages that were rendered.
    scrapes: u64,
    stats: Stats,
}

#[derive(Debug)]
struct Pending {
    labels: SetKey,
    candidate: Candidate,
    /// What is not placed yet.
    values: PerMetric<Option<u64>>,
}

/// A request on its way to being an exemplar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp: u64,
    /// How many pages had been rendered when it was recorded.
    pub(crate) recorded: u64,
}

/// An exemplar of a bucket or counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exemplar {
    pub(crate) candidate: Candidate,
    /// In the metric's own unit.
    pub(crate) value: f64,
}

impl Exemplars {
    /// No requests yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: Keys::default(),
            pending: VecDeque::new(),
            sets: LabelSets::default(),
            kept: Kept::new(limits.max_series, limits.max_exemplars),
            scrapes: 0,
            stats: Stats::default(),
        }
    }

    /// Queues a request for the next [`crate::render`].
    pub fn record(&mut self, request: Request) {
        self.stats.requests += 1;
        let values = Metric::ALL.map(|metric| metric.value(&request));
        let Some(labels) = self.sets.intern(&self.keys, request.labels) else {
            self.stats.refused += 1;
            return;
        };
        self.stats.observations += waiting(&values);
        self.pending.push_back(Pending {
            labels,
            candidate: Candidate {
                trace_id: request.trace_id,
                span_id: request.span_id,
                timestamp: unix_millis(request.timestamp),
                recorded: self.scrapes,
            },
            values,
        });
        if self.pending.len() > self.limits.max_pending
            && let Some(oldest) = self.pending.pop_front()
        {
            self.sets.release(oldest.labels);
            self.stats.evicted += waiting(&oldest.values);
        }
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let pending = self.pending.iter().map(|pending| waiting(&pending.values));
        Stats { pending: pending.sum(), ..self.stats }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Places the requests that this page counted.
    pub(crate) fn settle(&mut self, page: &Page<'_>) {
        self.scrapes += 1;
        let mut on_page: PerMetric<Option<Vec<Series<'_, '_>>>> = Default::default();
        for family in &page.families {
            if let Some(metric) = Metric::of(family)
                && let Some(place) = on_page.get_mut(metric as usize)
            {
                *place = Some(Series::all(page, family));
            }
        }
        self.kept.refresh(&on_page, self.scrapes);
        if self.pending.is_empty() {
            return;
        }
        let matches = on_page.each_ref().map(|series| {
            let series = series.as_deref()?;
            Some((series, Matches::find(&self.keys, &self.sets, series)))
        });
        let (scrapes, max_scrapes) = (self.scrapes, self.limits.max_scrapes);
        self.pending.retain_mut(|pending| {
            for (metric, (value, matches)) in
                Metric::ALL.into_iter().zip(pending.values.iter_mut().zip(&matches))
            {
                let Some(observed) = *value else { continue };
                let outcome = place(
                    &mut self.kept,
                    metric,
                    matches.as_ref(),
                    pending.labels,
                    &pending.candidate,
                    observed,
                );
                let is_over = match outcome {
                    Outcome::Done(_) => true,
                    Outcome::Waiting(_) => scrapes.saturating_sub(pending.candidate.recorded) >= max_scrapes,
                };
                if is_over {
                    *value = None;
                    let (Outcome::Done(counter) | Outcome::Waiting(counter)) = outcome;
                    *counter(&mut self.stats) += 1;
                }
            }
            let keep = waiting(&pending.values) > 0;
            if !keep {
                self.sets.release(pending.labels);
            }
            keep
        });
    }

    /// The exemplar of a sample on the page that was settled last.
    pub(crate) fn of(&self, metric: Metric, sample: &Sample<'_>) -> Option<&Exemplar> {
        if !sample.has_exemplar() {
            return None;
        }
        let series = sample.reading.labels.fingerprint();
        self.kept.get(metric, series, sample.upper())
    }
}

type Counter = fn(&mut Stats) -> &mut u64;

/// What a page says about a request, and how it is counted.
enum Outcome {
    Done(Counter),
    /// How it is counted if it has waited for long enough.
    Waiting(Counter),
}

fn place(
    kept: &mut Kept,
    metric: Metric,
    matches: Option<&(&[Series<'_, '_>], Matches)>,
    labels: SetKey,
    candidate: &Candidate,
    value: u64,
) -> Outcome {
    let Some((all, matches)) = matches else {
        return Outcome::Waiting(|stats| &mut stats.metric_absent);
    };
    let series = match matches.get(labels) {
        Match::Several => return Outcome::Done(|stats| &mut stats.ambiguous),
        Match::None => None,
        Match::One(index) => all.get(index),
    };
    let Some(series) = series else {
        return Outcome::Waiting(|stats| &mut stats.unmatched);
    };
    match kept.place(metric, series, candidate, value) {
        Placed::Attached => Outcome::Done(|stats| &mut stats.attached),
        Placed::Superseded => Outcome::Done(|stats| &mut stats.superseded),
        Placed::Restarted => Outcome::Done(|stats| &mut stats.restarted),
        Placed::TableFull => Outcome::Done(|stats| &mut stats.table_full),
        Placed::Uncounted => Outcome::Waiting(|stats| &mut stats.uncounted),
    }
}

fn waiting(values: &PerMetric<Option<u64>>) -> u64 {
    values.iter().map(|value| u64::from(value.is_some())).sum()
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
