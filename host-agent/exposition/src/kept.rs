//! The exemplars that are kept from one scrape to the next.

use crate::exemplars::{Candidate, Exemplar};
use crate::fingerprint::{Fingerprint, FingerprintMap};
use crate::series::{Metric, PerMetric, Series};

/// The newest request of each bucket, for the series that are on the page.
#[derive(Debug)]
pub(crate) struct Kept {
    tables: PerMetric<FingerprintMap<Fingerprint, State>>,
    max_series: usize,
    max_exemplars: usize,
    /// Series in all tables.
    series: usize,
    /// Exemplars of all series.
    exemplars: usize,
}

/// What is remembered of a series that a request was matched to.
#[derive(Debug)]
struct State {
    /// What it had counted on the last page.
    total: f64,
    /// The last page that it was on.
    seen: u64,
    /// The page that showed that it had restarted; 0 for never.
    restarted: u64,
    /// With the upper bound of the bucket; ascending.
    buckets: Vec<(f64, Exemplar)>,
}

/// What became of a request whose series is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    Attached,
    Superseded,
    Restarted,
    TableFull,
    /// The bucket has not counted anything yet, so not this request either.
    Uncounted,
}

impl Kept {
    pub(crate) fn new(max_series: usize, max_exemplars: usize) -> Self {
        Self { tables: Default::default(), max_series, max_exemplars, series: 0, exemplars: 0 }
    }

    /// Drops what a new page, the `scrape`-th, shows to be gone: series that are not on it, and
    /// the exemplars of series that restarted.
    pub(crate) fn refresh(&mut self, on_page: &PerMetric<Option<Vec<Series<'_, '_>>>>, scrape: u64) {
        for (table, series) in self.tables.iter_mut().zip(on_page) {
            for series in series.iter().flatten() {
                if let Some(state) = table.get_mut(&series.key()) {
                    state.refresh(series, scrape);
                }
            }
            table.retain(|_, state| state.seen == scrape);
        }
        let states = || self.tables.iter().flat_map(FingerprintMap::values);
        self.series = states().count();
        self.exemplars = states().map(|state| state.buckets.len()).sum();
    }

    /// Offers a request to its bucket. [`Kept::refresh`] has seen the page of the series.
    pub(crate) fn place(
        &mut self,
        metric: Metric,
        series: &Series<'_, '_>,
        candidate: &Candidate,
        value: u64,
    ) -> Placed {
        let Some(table) = self.tables.get_mut(metric as usize) else {
            return Placed::TableFull;
        };
        let key = series.key();
        if !table.contains_key(&key) {
            if self.series >= self.max_series {
                return Placed::TableFull;
            }
            self.series += 1;
        }
        // A state without exemplars is made too: it notices a restart while a request waits.
        let state = table.entry(key).or_insert_with(|| State::new(series));
        // The restart fell between two pages. What was recorded between them may be from before
        // or after, and stays; what was recorded earlier is from before.
        if candidate.recorded.saturating_add(1) < state.restarted {
            return Placed::Restarted;
        }
        let Some(bucket) = series.bucket_of(value).filter(|bucket| bucket.is_hit) else {
            return Placed::Uncounted;
        };
        #[expect(clippy::cast_precision_loss, reason = "durations and sizes stay far below 2^53")]
        let exemplar = Exemplar {
            candidate: *candidate,
            // OpenMetrics, "Exemplars": the value MUST be within the bucket's range. Envoy counts
            // by bins (`buckets`), so a value may exceed the bound that it is counted under, by
            // less than a tenth.
            value: (value as f64).min(bucket.upper),
        };
        match state.buckets.binary_search_by(|(upper, _)| upper.total_cmp(&bucket.upper)) {
            Ok(found) => match state.buckets.get_mut(found) {
                Some((_, kept)) if kept.candidate.timestamp <= candidate.timestamp => {
                    *kept = exemplar;
                    Placed::Attached
                }
                _ => Placed::Superseded,
            },
            Err(_) if self.exemplars >= self.max_exemplars => Placed::TableFull,
            Err(position) => {
                state.buckets.insert(position, (bucket.upper, exemplar));
                self.exemplars += 1;
                Placed::Attached
            }
        }
    }

    /// The exemplar of the bucket with this upper bound.
    pub(crate) fn get(&self, metric: Metric, series: Fingerprint, upper: f64) -> Option<&Exemplar> {
        let state = self.tables.get(metric as usize)?.get(&series)?;
        let found = state.buckets.binary_search_by(|(kept, _)| kept.total_cmp(&upper)).ok()?;
        state.buckets.get(found).map(|(_, exemplar)| exemplar)
    }
}

impl State {
    fn new(series: &Series<'_, '_>) -> Self {
        Self { total: series.total(), seen: 0, restarted: 0, buckets: Vec::new() }
    }

    fn refresh(&mut self, series: &Series<'_, '_>, scrape: u64) {
        let total = series.total();
        let is_hit = |upper| series.bucket_at(upper).is_some_and(|bucket| bucket.is_hit);
        // A bucket that counted and does not any more restarted too, though the series may have
        // counted more in all since.
        if total < self.total || !self.buckets.iter().all(|(upper, _)| is_hit(*upper)) {
            self.buckets.clear();
            self.restarted = scrape;
        }
        self.total = total;
        self.seen = scrape;
    }
}
