//! The series of Istio's standard metrics that exemplars are attached to.

use std::borrow::Cow;

use crate::buckets::lower_edge;
use crate::exemplars::Request;
use crate::fingerprint::Fingerprint;
use crate::line::Kind;
use crate::page::{Family, Page, Role, Sample};

/// A metric whose samples get exemplars.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Metric {
    Requests,
    Duration,
    RequestBytes,
    ResponseBytes,
}

/// One value for each [`Metric`].
pub(crate) type PerMetric<T> = [T; Metric::ALL.len()];

impl Metric {
    pub(crate) const ALL: [Self; 4] =
        [Self::Requests, Self::Duration, Self::RequestBytes, Self::ResponseBytes];

    /// The metric that a family of the page is, if it has the metric's type.
    pub(crate) fn of(family: &Family<'_>) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| (family.name, family.kind) == metric.family())
    }

    /// The metric's family in OpenMetrics.
    fn family(self) -> (&'static str, Kind) {
        match self {
            Self::Requests => ("istio_requests", Kind::Counter),
            Self::Duration => ("istio_request_duration_milliseconds", Kind::Histogram),
            Self::RequestBytes => ("istio_request_bytes", Kind::Histogram),
            Self::ResponseBytes => ("istio_response_bytes", Kind::Histogram),
        }
    }

    /// What a request adds to the metric, in the metric's own unit; `None` where that is not
    /// known.
    pub(crate) fn value(self, request: &Request) -> Option<u64> {
        match self {
            Self::Requests => Some(1),
            Self::Duration => request.duration_ms,
            Self::RequestBytes => request.request_bytes,
            Self::ResponseBytes => request.response_bytes,
        }
    }
}

/// A series: the one sample of a counter, or all samples of a histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series<'a, 'p> {
    samples: &'a [Sample<'p>],
    /// Its first sample, of which there is always one.
    first: &'a Sample<'p>,
}

/// What a series counted under one bound. A counter has one bucket, without a bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Upper bound, inclusive.
    pub(crate) upper: f64,
    /// Whether this bucket itself, not those below it, counted anything.
    pub(crate) is_hit: bool,
}

impl<'a, 'p> Series<'a, 'p> {
    /// All series of a family that [`Metric::of`] knows.
    pub(crate) fn all(page: &'a Page<'p>, family: &Family<'p>) -> Vec<Self> {
        page.samples(family)
            .chunk_by(|a, b| a.metric == b.metric)
            .filter_map(|samples| {
                let first = samples.first().filter(|first| first.has_exemplar())?;
                Some(Self { samples, first })
            })
            .collect()
    }

    /// Identity within its metric.
    pub(crate) fn key(&self) -> Fingerprint {
        self.first.reading.labels.fingerprint()
    }

    /// Names and values of its labels, `le` left out.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&'p str, Cow<'p, str>)> {
        let has_bound = self.first.role == Role::Bucket;
        self.first.reading.labels.iter().filter(move |(name, _)| !(has_bound && *name == "le"))
    }

    /// How much it counted in all.
    pub(crate) fn total(&self) -> f64 {
        self.counting().last().map_or(0.0, Sample::value)
    }

    /// The bucket that Envoy counts a value in.
    pub(crate) fn bucket_of(&self, value: u64) -> Option<Bucket> {
        let edge = lower_edge(value);
        self.bucket(self.counting().partition_point(|sample| sample.upper() < edge))
    }

    /// The bucket with this very bound.
    pub(crate) fn bucket_at(&self, upper: f64) -> Option<Bucket> {
        self.bucket(self.counting().partition_point(|sample| sample.upper() < upper))
            .filter(|bucket| bucket.upper.total_cmp(&upper).is_eq())
    }

    fn bucket(&self, index: usize) -> Option<Bucket> {
        let counting = self.counting();
        let sample = counting.get(index)?;
        let below = index.checked_sub(1).and_then(|below| counting.get(below)).map_or(0.0, Sample::value);
        Some(Bucket { upper: sample.upper(), is_hit: sample.value() > below })
    }

    /// The counter's sample, or the buckets in ascending order.
    fn counting(&self) -> &'a [Sample<'p>] {
        let end = self.samples.partition_point(|sample| matches!(sample.role, Role::Bucket | Role::Value));
        self.samples.get(..end).unwrap_or_default()
    }
}
