//! `meshweft_capture_*`: what the probes saw and what they lost.

use meshweft_telemetry::DropReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::ReasonLabel;

/// Handles of the capture.
#[derive(Debug)]
pub struct Capture {
    /// Events that were read from the ring.
    pub events: Counter,
    /// Connections that are tracked.
    pub connections: Gauge,
    /// Processes that are instrumented.
    pub processes: Gauge,
    lost: Family<ReasonLabel, Counter>,
}

impl Capture {
    /// Reasons for which something that was to be seen is not.
    const REASONS: [DropReason; 9] = [
        DropReason::RingFull,
        DropReason::MemoryFault,
        DropReason::TableFull,
        DropReason::UnknownProtocol,
        DropReason::HeadTooLarge,
        DropReason::Malformed,
        DropReason::Gap,
        DropReason::Incomplete,
        DropReason::TooLarge,
    ];

    /// Registers the families.
    pub fn register(registry: &mut Registry) -> Self {
        let capture = Self {
            events: Counter::default(),
            connections: Gauge::default(),
            processes: Gauge::default(),
            lost: Family::default(),
        };
        registry.register("capture_events", "Events that were read from the kernel", capture.events.clone());
        registry.register(
            "capture_connections",
            "Connections of apps that are tracked",
            capture.connections.clone(),
        );
        registry.register("capture_processes", "Processes that are instrumented", capture.processes.clone());
        registry.register(
            "capture_lost",
            "Events, messages and connections that were given up, by reason",
            capture.lost.clone(),
        );
        for reason in Self::REASONS {
            capture.lost(reason, 0);
        }
        capture
    }

    /// Counts what was given up.
    pub fn lost(&self, reason: DropReason, count: u64) {
        self.lost.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc_by(count);
    }
}
