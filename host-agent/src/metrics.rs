//! The agent's own metrics, `meshweft_*`.
//!
//! [`Metrics`] is a bundle of handles that all parts share; the registry itself belongs to the
//! admin server. A part that counts something of its own adds a struct with a `register` function
//! and a field here.

use crate::capture::metrics::Capture;
use crate::weave::metrics::Correlation;
use meshweft_telemetry::{DropReason, Hop};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Prefix of every name.
pub const PREFIX: &str = "meshweft";

/// A label set of one label, `reason`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Name of a [`DropReason`] or of a cause of failure.
    pub reason: &'static str,
}

/// A label set of one label, `outcome`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// How it went.
    pub outcome: &'static str,
}

/// A label set of one label, `hop`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct HopLabel {
    /// Name of a [`Hop`], or `other` for spans of an SDK.
    pub hop: &'static str,
}

/// Protocol and outcome of a received request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RequestLabel {
    /// `grpc` or `http`.
    pub protocol: &'static str,
    /// How it went.
    pub outcome: &'static str,
}

/// Every handle.
#[derive(Debug)]
pub struct Metrics {
    /// What became of spans.
    pub spans: Spans,
    /// The exporter.
    pub export: Export,
    /// The receivers.
    pub receiver: Receiver,
    /// The filter's questions.
    pub context: Context,
    /// `/scrape`.
    pub scrape: Scrape,
    /// What the probes saw and lost.
    pub capture: Capture,
    /// What the correlator holds and found.
    pub correlation: Correlation,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        registry.register("build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            spans: Spans::register(registry),
            export: Export::register(registry),
            receiver: Receiver::register(registry),
            context: Context::register(registry),
            scrape: Scrape::register(registry),
            capture: Capture::register(registry),
            correlation: Correlation::register(registry),
        }
    }
}

/// Sums over all labels of [`Spans`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Spans that entered the agent or were made by it.
    pub seen: u64,
    /// Spans that a receiver acknowledged.
    pub exported: u64,
    /// Spans that were dropped, for whatever reason.
    pub dropped: u64,
}

/// `meshweft_spans_*_total`. At shutdown, seen = exported + dropped.
#[derive(Debug)]
pub struct Spans {
    seen: Family<HopLabel, Counter>,
    exported: Counter,
    dropped: Family<ReasonLabel, Counter>,
}

impl Spans {
    /// Reasons for which a span can be dropped; the others are about what never became a span.
    const REASONS: [DropReason; 8] = [
        DropReason::QueueFull,
        DropReason::ExportFailed,
        DropReason::Shutdown,
        DropReason::NotSampled,
        DropReason::InvalidSpan,
        DropReason::Duplicate,
        DropReason::TableFull,
        DropReason::NoExporter,
    ];

    fn register(registry: &mut Registry) -> Self {
        let spans =
            Self { seen: Family::default(), exported: Counter::default(), dropped: Family::default() };
        registry.register("spans_seen", "Spans that were received or made", spans.seen.clone());
        registry.register("spans_exported", "Spans that a receiver acknowledged", spans.exported.clone());
        registry.register("spans_dropped", "Spans that were dropped, by reason", spans.dropped.clone());
        // A series that appears with its first increment is missed by rate().
        for hop in Hop::ALL {
            spans.seen(Some(*hop), 0);
        }
        spans.seen(None, 0);
        for reason in Self::REASONS {
            spans.dropped(reason, 0);
        }
        spans
    }

    /// Counts spans that entered the agent or were made by it. Whoever calls this owes each of
    /// them to the exporter or to [`Spans::dropped`].
    pub fn seen(&self, hop: Option<Hop>, count: u64) {
        self.seen.get_or_create(&HopLabel { hop: hop_name(hop) }).inc_by(count);
    }

    /// Counts spans that a receiver acknowledged.
    pub fn exported(&self, count: u64) {
        self.exported.inc_by(count);
    }

    /// Counts spans that were dropped.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        self.dropped.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc_by(count);
    }

    /// How many spans were dropped for this reason so far.
    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(&ReasonLabel { reason: reason.as_str() }).map_or(0, |counter| counter.get())
    }

    /// The sums so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let hops = Hop::ALL.iter().copied().map(Some).chain([None]);
        let seen = |hop| self.seen.get(&HopLabel { hop: hop_name(hop) }).map_or(0, |counter| counter.get());
        Totals {
            seen: hops.map(seen).sum(),
            exported: self.exported.get(),
            dropped: DropReason::ALL.iter().map(|reason| self.dropped_for(*reason)).sum(),
        }
    }
}

fn hop_name(hop: Option<Hop>) -> &'static str {
    hop.map_or("other", Hop::as_str)
}

/// `meshweft_export_*`.
#[derive(Debug)]
pub struct Export {
    /// Spans that wait, without those on their way.
    pub queue_spans: Gauge,
    /// Their bytes, as encoded.
    pub queue_bytes: Gauge,
    attempts: Family<OutcomeLabel, Counter>,
    /// Time of one attempt.
    pub seconds: Histogram,
}

impl Export {
    fn register(registry: &mut Registry) -> Self {
        let export = Self {
            queue_spans: Gauge::default(),
            queue_bytes: Gauge::default(),
            attempts: Family::default(),
            seconds: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
        };
        registry.register("export_queue_spans", "Spans that wait for export", export.queue_spans.clone());
        registry.register_with_unit(
            "export_queue",
            "Bytes that wait for export",
            Unit::Bytes,
            export.queue_bytes.clone(),
        );
        registry.register(
            "export_attempts",
            "Attempts to export a batch, by outcome",
            export.attempts.clone(),
        );
        registry.register_with_unit("export", "Time of one attempt", Unit::Seconds, export.seconds.clone());
        for outcome in ["accepted", "partial", "retryable", "refused"] {
            drop(export.attempts.get_or_create(&OutcomeLabel { outcome }));
        }
        export
    }

    /// Counts an attempt: `accepted`, `partial`, `retryable` or `refused`.
    pub fn attempt(&self, outcome: &'static str) {
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// How many attempts had this outcome so far.
    #[must_use]
    pub fn attempts(&self, outcome: &'static str) -> u64 {
        self.attempts.get(&OutcomeLabel { outcome }).map_or(0, |counter| counter.get())
    }
}

/// `meshweft_receiver_*`.
#[derive(Debug)]
pub struct Receiver {
    requests: Family<RequestLabel, Counter>,
    /// Open connections of all listeners.
    pub connections: Gauge,
    /// Connections that were closed at once because too many were open.
    pub connections_refused: Counter,
}

impl Receiver {
    fn register(registry: &mut Registry) -> Self {
        let receiver = Self {
            requests: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
        };
        registry.register(
            "receiver_requests",
            "Export requests, by protocol and outcome",
            receiver.requests.clone(),
        );
        registry.register("receiver_connections", "Open connections", receiver.connections.clone());
        registry.register(
            "receiver_connections_refused",
            "Connections that were closed at once because too many were open",
            receiver.connections_refused.clone(),
        );
        receiver
    }

    /// Counts an export request.
    pub fn request(&self, protocol: &'static str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabel { protocol, outcome }).inc();
    }

    /// How many export requests had this outcome so far.
    #[must_use]
    pub fn requests(&self, protocol: &'static str, outcome: &'static str) -> u64 {
        self.requests.get(&RequestLabel { protocol, outcome }).map_or(0, |counter| counter.get())
    }
}

/// `meshweft_context_*`. Plain handles: a look-up by label would cost as much as the rest.
#[derive(Debug)]
pub struct Context {
    /// Questions with an answer.
    pub answered: Counter,
    /// Questions about something that the agent does not know.
    pub unknown: Counter,
    /// Questions that could not be understood.
    pub invalid: Counter,
    /// Time from the question's headers to its answer.
    pub seconds: Histogram,
}

impl Context {
    fn register(registry: &mut Registry) -> Self {
        let family = Family::<OutcomeLabel, Counter>::default();
        let counter = |outcome| family.get_or_create_owned(&OutcomeLabel { outcome });
        let context = Self {
            answered: counter("answered"),
            unknown: counter("unknown"),
            invalid: counter("invalid"),
            // The filter's deadline is 5 ms; most answers take microseconds.
            seconds: Histogram::new([
                0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.1,
            ]),
        };
        registry.register("context_questions", "Questions of the filter, by outcome", family.clone());
        registry.register_with_unit(
            "context",
            "Time to answer the filter",
            Unit::Seconds,
            context.seconds.clone(),
        );
        context
    }
}

/// `meshweft_scrape*`.
#[derive(Debug)]
pub struct Scrape {
    outcomes: Family<OutcomeLabel, Counter>,
    observations: Family<OutcomeLabel, Counter>,
    lines_dropped: Family<ReasonLabel, Counter>,
    /// Exemplars written into pages.
    pub exemplars: Counter,
    /// Proxies for which exemplars are kept.
    pub proxies: Gauge,
}

impl Scrape {
    fn register(registry: &mut Registry) -> Self {
        let scrape = Self {
            outcomes: Family::default(),
            observations: Family::default(),
            lines_dropped: Family::default(),
            exemplars: Counter::default(),
            proxies: Gauge::default(),
        };
        registry.register("scrapes", "Scrapes of proxies, by outcome", scrape.outcomes.clone());
        registry.register(
            "scrape_observations",
            "Requests for each metric that they could be an exemplar of, by what became of them",
            scrape.observations.clone(),
        );
        registry.register(
            "scrape_lines_dropped",
            "Lines of proxies' pages that could not be converted, by reason",
            scrape.lines_dropped.clone(),
        );
        registry.register("scrape_exemplars", "Exemplars written into pages", scrape.exemplars.clone());
        registry.register("scrape_proxies", "Proxies for which exemplars are kept", scrape.proxies.clone());
        scrape
    }

    /// Counts a scrape.
    pub fn outcome(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts what became of requests that could have been exemplars.
    pub fn observations(&self, outcome: &'static str, count: u64) {
        self.observations.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
    }

    /// Counts lines of a page that could not be converted.
    pub fn lines_dropped(&self, reason: &'static str, count: u64) {
        self.lines_dropped.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// How many lines were dropped for this reason so far.
    #[must_use]
    pub fn lines_dropped_for(&self, reason: &'static str) -> u64 {
        self.lines_dropped.get(&ReasonLabel { reason }).map_or(0, |counter| counter.get())
    }

    /// How many scrapes had this outcome so far.
    #[must_use]
    pub fn outcomes(&self, outcome: &'static str) -> u64 {
        self.outcomes.get(&OutcomeLabel { outcome }).map_or(0, |counter| counter.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix_and_totals_sum_over_labels() {
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Metrics::register(&mut registry);
        metrics.spans.seen(Some(Hop::AppServer), 2);
        metrics.spans.seen(None, 1);
        metrics.spans.exported(1);
        metrics.spans.dropped(DropReason::QueueFull, 2);
        assert_eq!(metrics.spans.totals(), Totals { seen: 3, exported: 1, dropped: 2 });

        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        assert!(page.contains("meshweft_spans_seen_total{hop=\"app.server\"} 2"), "{page}");
        assert!(page.contains("meshweft_spans_dropped_total{reason=\"no_exporter\"} 0"), "{page}");
        assert!(page.contains("meshweft_build_info{version="), "{page}");
        assert!(
            page.lines().filter(|line| !line.starts_with('#')).all(|line| line.starts_with("meshweft_")),
            "{page}"
        );
    }
}
