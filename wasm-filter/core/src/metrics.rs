//! The filter's own counters.
//!
//! Streams add to plain numbers; the tick hands the sums to the proxy. So a metric costs a request
//! no host call. The proxy adds up its workers and serves the metrics on its Prometheus page under
//! the names given here. Labels would need tag rules in the proxy's bootstrap, so a reason is part
//! of the name.

use crate::host::{Host, MetricKind};
use core::array;

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A counter.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter { $($(#[$doc])* $variant,)+ }

        impl Counter {
            /// Every counter.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

counters! {
    /// Requests whose headers the filter saw.
    Requests = "meshweft_requests_total",
    /// Calls into the proxy.
    HostCalls = "meshweft_host_calls_total",
    /// Finished spans. Equals exported and dropped ones together once the queue is empty.
    Spans = "meshweft_spans_total",
    /// Spans that the agent took.
    Exported = "meshweft_exported_total",
    /// Spans for which the queue had no room.
    DroppedQueueFull = "meshweft_dropped_queue_full_total",
    /// Spans that the agent did not take.
    DroppedExportFailed = "meshweft_dropped_export_failed_total",
    /// Spans that were waiting when the VM ended.
    DroppedShutdown = "meshweft_dropped_shutdown_total",
    /// Finished requests without a span, because their trace is not sampled.
    NotSampled = "meshweft_not_sampled_total",
    /// Questions that were answered with a context.
    ContextAnswered = "meshweft_context_answered_total",
    /// Questions to which the agent knew no answer.
    ContextUnknown = "meshweft_context_unknown_total",
    /// Questions that were not answered in time.
    ContextTimeout = "meshweft_context_timeout_total",
    /// Questions that did not reach the agent, or whose answer was no answer.
    ContextFailed = "meshweft_context_failed_total",
    /// Requests that would have asked, but for the open breaker.
    ContextSkipped = "meshweft_context_skipped_total",
    /// Propagation headers that violate their grammar.
    InvalidMalformed = "meshweft_context_invalid_malformed_total",
    /// Propagation headers that stood more than once.
    InvalidDuplicate = "meshweft_context_invalid_duplicate_total",
    /// Propagation headers that are too long.
    InvalidTooLarge = "meshweft_context_invalid_too_large_total",
    /// Spans that took over the ids of the proxy's own tracer.
    Adopted = "meshweft_adopted_total",
}

const COUNTERS: usize = Counter::ALL.len();

/// Name of the gauge: how many workers have an open breaker.
pub const BREAKER_OPEN: &str = "meshweft_breaker_open";

/// The counters of one VM.
#[derive(Debug)]
pub struct Metrics {
    pending: [u64; COUNTERS],
    ids: [Option<u32>; COUNTERS],
    breaker: Option<u32>,
    breaker_open: bool,
    host_calls: u64,
}

impl Metrics {
    /// Defines the metrics in the proxy.
    pub fn define(host: &impl Host) -> Self {
        let ids = array::from_fn(|n| host.define_metric(MetricKind::Counter, Counter::ALL.get(n)?.name()));
        let breaker = host.define_metric(MetricKind::Gauge, BREAKER_OPEN);
        Self { pending: [0; COUNTERS], ids, breaker, breaker_open: false, host_calls: 0 }
    }

    /// Adds to a counter.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        if let Some(pending) = self.pending.get_mut(counter as usize) {
            *pending = pending.saturating_add(amount);
        }
    }

    /// Hands the sums to the proxy. `calls` are all host calls so far.
    pub fn flush(&mut self, host: &impl Host, breaker_open: bool, calls: u64) {
        // An idle worker's ticks are not worth calls that only count themselves.
        if self.pending.iter().any(|pending| *pending > 0) {
            self.add(Counter::HostCalls, calls.saturating_sub(self.host_calls));
            self.host_calls = calls;
        }
        for (pending, id) in self.pending.iter_mut().zip(self.ids) {
            let amount = core::mem::take(pending);
            if let (Some(id), 1..) = (id, amount) {
                host.add_metric(id, i64::try_from(amount).unwrap_or(i64::MAX));
            }
        }
        if let Some(id) = self.breaker
            && breaker_open != self.breaker_open
        {
            // The workers share the gauge, so each adds and takes back its own part.
            host.add_metric(id, if breaker_open { 1 } else { -1 });
            self.breaker_open = breaker_open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_end_in_total() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert!(names.iter().all(|name| name.starts_with("meshweft_") && name.ends_with("_total")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNTERS);
        for (n, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, n);
        }
    }
}
