//! A page as metric families of the types that OpenMetrics lets them have.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use crate::fingerprint::{Fingerprint, FingerprintMap, FingerprintSet, Keys};
use crate::labels::BoundKind;
use crate::line::{Kind, Line, LineDrop, LineReader, Reading};

/// How many lines of a page were dropped, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DroppedLines([u64; LineDrop::ALL.len()]);

impl DroppedLines {
    /// The lines that were dropped for this reason.
    #[must_use]
    pub fn get(&self, reason: LineDrop) -> u64 {
        self.iter().find_map(|(other, count)| (other == reason).then_some(count)).unwrap_or(0)
    }

    /// All lines that were dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its number of lines.
    pub fn iter(&self) -> impl Iterator<Item = (LineDrop, u64)> {
        LineDrop::ALL.into_iter().zip(self.0)
    }

    fn count(&mut self, reason: LineDrop) {
        for (other, count) in LineDrop::ALL.into_iter().zip(&mut self.0) {
            if other == reason {
                *count += 1;
            }
        }
    }
}

/// The part that a sample plays in its family. The order is that of the output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Role {
    /// `_bucket` of a histogram.
    Bucket,
    /// Of a summary.
    Quantile,
    /// The one sample of a counter, gauge or unknown.
    Value,
    Sum,
    Count,
    /// Named like a histogram, without a suffix: no type allows that.
    Stray,
}

/// A sample in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'p> {
    pub(crate) reading: Reading<'p>,
    pub(crate) role: Role,
    /// Index of the family, while the page is being put in order.
    family: u32,
    /// Samples of one family with the same number make up one metric, for example all buckets of
    /// a series of a histogram.
    pub(crate) metric: u32,
}

impl Sample<'_> {
    pub(crate) fn value(&self) -> f64 {
        self.reading.number.value()
    }

    /// OpenMetrics, "Exemplars": only the totals of counters and the buckets of histograms have
    /// them. A counter with a label `le` is none of Istio's, and gets none.
    pub(crate) fn has_exemplar(&self) -> bool {
        match self.role {
            Role::Bucket => true,
            Role::Value => self.reading.labels.bound().is_none(),
            Role::Quantile | Role::Sum | Role::Count | Role::Stray => false,
        }
    }

    /// Upper bound of a bucket; infinity for what is none.
    pub(crate) fn upper(&self) -> f64 {
        match self.reading.labels.bound() {
            Some(bound) if self.role == Role::Bucket => bound.value,
            _ => f64::INFINITY,
        }
    }
}

/// A metric family, as OpenMetrics names it.
#[derive(Debug, Clone)]
pub(crate) struct Family<'p> {
    pub(crate) name: &'p str,
    pub(crate) kind: Kind,
    /// As it was read.
    pub(crate) help: Option<&'p str>,
    samples: Range<usize>,
}

/// A page, its lines put in order.
#[derive(Debug)]
pub(crate) struct Page<'p> {
    samples: Vec<Sample<'p>>,
    pub(crate) families: Vec<Family<'p>>,
    pub(crate) dropped: DroppedLines,
    /// Families of the page that could not keep their type.
    pub(crate) retyped: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Declaration<'p> {
    kind: Option<Kind>,
    help: Option<&'p str>,
}

impl<'p> Page<'p> {
    pub(crate) fn read(text: &'p [u8], keys: &Keys, max_line_bytes: usize) -> Self {
        let mut dropped = DroppedLines::default();
        let mut lines = LineReader::new(keys, max_line_bytes);
        let mut declarations: HashMap<&str, Declaration<'_>> = HashMap::new();
        let mut readings = Vec::new();
        let mut seen = FingerprintSet::default();
        for line in text.split(|byte| *byte == b'\n') {
            let result = match lines.read(line) {
                Ok(Line::Nothing) => Ok(()),
                Ok(Line::Type { name, kind }) => {
                    declare(&mut declarations.entry(name).or_default().kind, kind)
                }
                Ok(Line::Help { name, text }) => {
                    declare(&mut declarations.entry(name).or_default().help, text)
                }
                Ok(Line::Sample(sample)) => {
                    let labels = sample.labels.full_fingerprint(keys);
                    if seen.insert(keys.name(sample.name) + labels) {
                        readings.push(sample);
                        Ok(())
                    } else {
                        Err(LineDrop::DuplicateSample)
                    }
                }
                Err(drop) => Err(drop),
            };
            if let Err(drop) = result {
                dropped.count(drop);
            }
        }
        drop(seen);
        let mut page =
            Self { samples: Vec::with_capacity(readings.len()), families: Vec::new(), dropped, retyped: 0 };
        page.assign(&readings, &declarations);
        page.samples.sort_by(in_order_of_output);
        page.delimit();
        page.retype();
        page
    }

    pub(crate) fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// The samples of a family, those of each metric together.
    pub(crate) fn samples(&self, family: &Family<'p>) -> &[Sample<'p>] {
        self.samples.get(family.samples.clone()).unwrap_or_default()
    }

    /// Gives each sample its family, wherever on the page it stands.
    fn assign(&mut self, readings: &[Reading<'p>], declarations: &HashMap<&'p str, Declaration<'p>>) {
        // Family and role by sample name.
        let mut places: HashMap<&str, (u32, Role)> = HashMap::new();
        let mut families: HashMap<&str, u32> = HashMap::new();
        let mut metrics: FingerprintMap<(u32, Fingerprint), u32> = FingerprintMap::default();
        let mut last: Option<(&str, (u32, Role))> = None;
        for reading in readings {
            let name = reading.name;
            let place = match last {
                Some((last, place)) if last == name => place,
                _ => *places.entry(name).or_insert_with(|| {
                    let (family, kind, role) = resolve(name, declarations);
                    let index = *families.entry(family).or_insert_with(|| {
                        let help = declarations.get(family).and_then(|found| found.help);
                        let (name, kind) = openmetrics_name(family, kind);
                        self.families.push(Family { name, kind, help, samples: 0..0 });
                        // More families than lines of a page below 4 GiB there cannot be.
                        u32::try_from(self.families.len() - 1).unwrap_or(u32::MAX)
                    });
                    (index, role)
                }),
            };
            last = Some((name, place));
            let (family, role) = place;
            let next = u32::try_from(self.samples.len()).unwrap_or(u32::MAX);
            let metric = if role == Role::Value {
                next
            } else {
                *metrics.entry((family, reading.labels.fingerprint())).or_insert(next)
            };
            self.samples.push(Sample { reading: *reading, role, family, metric });
        }
    }

    /// Tells the families, whose samples now stand together, which are theirs.
    fn delimit(&mut self) {
        let mut start = 0;
        let mut families = self.families.iter_mut();
        for run in self.samples.chunk_by(|a, b| a.family == b.family) {
            // Families were numbered by their first sample, and each has one.
            if let Some(family) = families.next() {
                family.samples = start..start + run.len();
            }
            start += run.len();
        }
    }

    /// Makes families `unknown` whose type OpenMetrics would not allow.
    fn retype(&mut self) {
        let mut retype: Vec<bool> =
            self.families.iter().map(|family| !is_well_formed(family.kind, self.samples(family))).collect();

        // OpenMetrics, "Metric Family": the name "MUST NOT result in a potential clash for sample
        // metric names" with another family. Retyping a family only takes claims away, so one
        // pass is enough; and names that clash without being suffixed there are none, because
        // each sample name has exactly one family.
        let mut claims: HashMap<String, u32> = HashMap::new();
        for (family, retype) in self.families.iter().zip(&retype) {
            if *retype {
                for run in self.samples(family).chunk_by(same_name) {
                    claim(&mut claims, run.first().map(|sample| sample.reading.name), "");
                }
            } else {
                for suffix in suffixes(family.kind) {
                    claim(&mut claims, Some(family.name), suffix);
                }
            }
        }
        for (family, retype) in self.families.iter().zip(&mut retype) {
            *retype |= suffixes(family.kind).len() > 1
                && suffixes(family.kind)
                    .iter()
                    .any(|suffix| claims.get(&format!("{}{suffix}", family.name)) != Some(&1));
        }
        drop(claims);

        let mut families = Vec::with_capacity(self.families.len());
        for (family, retype) in std::mem::take(&mut self.families).into_iter().zip(retype) {
            if !retype {
                families.push(family);
                continue;
            }
            self.retyped += 1;
            let Some(samples) = self.samples.get_mut(family.samples.clone()) else {
                continue;
            };
            samples.sort_by_key(|sample| sample.role);
            let mut start = family.samples.start;
            for run in samples.chunk_by(same_name) {
                let end = start + run.len();
                families.extend(run.first().map(|sample| Family {
                    name: sample.reading.name,
                    kind: Kind::Unknown,
                    help: family.help,
                    samples: start..end,
                }));
                start = end;
            }
        }
        self.families = families;
    }
}

fn declare<T>(place: &mut Option<T>, declared: T) -> Result<(), LineDrop> {
    if place.is_some() {
        return Err(LineDrop::DuplicateMetadata);
    }
    *place = Some(declared);
    Ok(())
}

/// The family of a sample, in the words of the text format.
fn resolve<'p>(name: &'p str, declarations: &HashMap<&'p str, Declaration<'p>>) -> (&'p str, Kind, Role) {
    let kind_of = |name: &str| declarations.get(name).and_then(|found| found.kind);
    if let Some(kind) = kind_of(name) {
        let role = match kind {
            Kind::Histogram => Role::Stray,
            Kind::Summary => Role::Quantile,
            Kind::Counter | Kind::Gauge | Kind::Unknown => Role::Value,
        };
        return (name, kind, role);
    }
    for (suffix, role) in [("_bucket", Role::Bucket), ("_sum", Role::Sum), ("_count", Role::Count)] {
        if let Some(family) = name.strip_suffix(suffix)
            && let Some(kind) = kind_of(family)
            && (kind == Kind::Histogram || kind == Kind::Summary && role != Role::Bucket)
        {
            return (family, kind, role);
        }
    }
    (name, Kind::Unknown, Role::Value)
}

/// OpenMetrics, "Counter": the samples of a counter `x` are named `x_total`.
fn openmetrics_name(name: &str, kind: Kind) -> (&str, Kind) {
    if kind != Kind::Counter {
        return (name, kind);
    }
    match name.strip_suffix("_total") {
        Some(stripped) if !stripped.is_empty() => (stripped, kind),
        _ => (name, Kind::Unknown),
    }
}

/// What the samples of a family may be called, apart from its name ("Suffixes" of each type).
fn suffixes(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Counter => &["", "_total", "_created"],
        Kind::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
        Kind::Summary => &["", "_sum", "_count", "_created"],
        Kind::Gauge | Kind::Unknown => &[""],
    }
}

fn claim(claims: &mut HashMap<String, u32>, name: Option<&str>, suffix: &str) {
    let Some(name) = name else { return };
    match claims.entry(format!("{name}{suffix}")) {
        Entry::Occupied(mut claimed) => *claimed.get_mut() += 1,
        Entry::Vacant(free) => {
            free.insert(1);
        }
    }
}

fn same_name(a: &Sample<'_>, b: &Sample<'_>) -> bool {
    a.reading.name == b.reading.name
}

fn in_order_of_output(a: &Sample<'_>, b: &Sample<'_>) -> Ordering {
    let bound = |sample: &Sample<'_>| match sample.reading.labels.bound() {
        Some(bound) => bound.value,
        None => f64::INFINITY,
    };
    (a.family, a.metric, a.role).cmp(&(b.family, b.metric, b.role)).then_with(|| match a.role {
        Role::Bucket | Role::Quantile => bound(a).total_cmp(&bound(b)),
        _ => Ordering::Equal,
    })
}

/// Whether OpenMetrics allows these samples under this type.
fn is_well_formed(kind: Kind, samples: &[Sample<'_>]) -> bool {
    match kind {
        Kind::Gauge | Kind::Unknown => true,
        // "A Total is a non-NaN value that starts at zero and only grows."
        Kind::Counter => samples.iter().all(|sample| sample.value() >= 0.0),
        Kind::Histogram => samples.chunk_by(|a, b| a.metric == b.metric).all(is_histogram),
        Kind::Summary => samples.chunk_by(|a, b| a.metric == b.metric).all(is_summary),
    }
}

/// OpenMetrics, "Histogram": cumulative whole counts under ascending bounds up to `+Inf`, which
/// agrees with the count; a sum and a count, or neither; no sum where values may be negative.
fn is_histogram(metric: &[Sample<'_>]) -> bool {
    let bucket_end = metric.partition_point(|sample| sample.role == Role::Bucket);
    let Some((buckets, rest)) = metric.split_at_checked(bucket_end) else {
        return false;
    };
    let Some(last) = buckets.last() else {
        return false;
    };
    let bounded = buckets.iter().all(|bucket| {
        let bound = bucket.reading.labels.bound();
        bound.is_some_and(|bound| bound.kind == BoundKind::Le && !bound.value.is_nan())
            && bucket.reading.number.is_count()
    });
    let ascending = buckets.is_sorted_by(|a, b| a.upper() < b.upper() && a.value() <= b.value());
    let infinite = last.reading.labels.bound().map(|bound| bound.text) == Some("+Inf");
    let negative = buckets.first().is_some_and(|first| first.upper() < 0.0);
    let complete = match rest {
        [] => true,
        [sum, count] => {
            sum.role == Role::Sum
                && count.role == Role::Count
                && !negative
                && is_plain_total(sum)
                && is_plain_total(count)
                && count.value() == last.value()
        }
        _ => false,
    };
    bounded && ascending && infinite && complete && same_timestamps(metric)
}

/// OpenMetrics, "Summary": quantiles between 0 and 1, none of them negative.
fn is_summary(metric: &[Sample<'_>]) -> bool {
    let quantile_of = |sample: &Sample<'_>| sample.reading.labels.bound().map(|bound| bound.value);
    let end = metric.partition_point(|sample| sample.role == Role::Quantile);
    let Some((quantiles, rest)) = metric.split_at_checked(end) else {
        return false;
    };
    let bounded = quantiles.iter().all(|sample| {
        let bound = sample.reading.labels.bound();
        bound.is_some_and(|bound| bound.kind == BoundKind::Quantile && (0.0..=1.0).contains(&bound.value))
            && (sample.value().is_nan() || sample.value() >= 0.0)
    });
    let ascending = quantiles.is_sorted_by(|a, b| quantile_of(a) < quantile_of(b));
    let totals = rest.iter().all(is_plain_total)
        && rest.iter().all(|sample| sample.role != Role::Count || sample.reading.number.is_count());
    bounded && ascending && totals && same_timestamps(metric)
}

/// A sum or count has no bound, and is not negative.
fn is_plain_total(sample: &Sample<'_>) -> bool {
    sample.reading.labels.bound().is_none() && sample.value() >= 0.0
}

/// OpenMetrics, "Timestamps": all samples of a point have the same one, or none.
fn same_timestamps(metric: &[Sample<'_>]) -> bool {
    metric.windows(2).all(|pair| pair.first().map(stamp) == pair.last().map(stamp))
}

fn stamp(sample: &Sample<'_>) -> Option<i64> {
    sample.reading.timestamp
}
