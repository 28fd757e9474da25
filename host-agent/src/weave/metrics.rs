//! `meshweft_correlation_*`: what the correlator holds and what it found.

use meshweft_correlator::Stats;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Handles of the correlator.
#[derive(Debug)]
pub struct Correlation {
    held: Gauge,
    open: Gauge,
    given_up: Counter,
    hurried: Counter,
    repaired: Counter,
    late: Counter,
    multiplexing: Counter,
}

impl Correlation {
    /// Registers the families.
    pub fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, Gauge::clone(&gauge));
            gauge
        };
        let held = gauge("correlation_held", "Finished spans that wait for what others report");
        let open = gauge("correlation_open", "Requests of apps that are under way");
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, Counter::clone(&counter));
            counter
        };
        Self {
            held,
            open,
            given_up: counter("correlation_given_up", "Requests under way that were given up to make room"),
            hurried: counter("correlation_hurried", "Spans that left early because too many waited"),
            repaired: counter("correlation_repaired", "Traces that were joined to another after the fact"),
            late: counter("correlation_late", "Parents that were found too late to join the traces"),
            multiplexing: counter(
                "correlation_multiplexing",
                "Processes whose threads were found to be no evidence",
            ),
        }
    }

    /// Brings the families to what the correlator says.
    pub fn update(&self, stats: Stats, held: usize, open: usize) {
        self.held.set(held.try_into().unwrap_or(i64::MAX));
        self.open.set(open.try_into().unwrap_or(i64::MAX));
        let Stats { given_up, hurried, repaired, late, multiplexing } = stats;
        for (counter, value) in [
            (&self.given_up, given_up),
            (&self.hurried, hurried),
            (&self.repaired, repaired),
            (&self.late, late),
            (&self.multiplexing, multiplexing),
        ] {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }
}
