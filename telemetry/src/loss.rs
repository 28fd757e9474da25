//! Every reason for which Meshweft drops something. Each drop increments one counter, labelled
//! with the reason; at shutdown `seen = exported + dropped` holds for spans.

use crate::hop::names;
use core::fmt;

names! {
    /// The `reason` label of the `dropped` counters.
    DropReason {
        /// A bounded queue was full.
        QueueFull = "queue_full",
        /// The receiver of an export refused the data for good, or kept failing until the retries
        /// were used up.
        ExportFailed = "export_failed",
        /// The process ended before the queue was empty.
        Shutdown = "shutdown",
        /// The trace is not sampled.
        NotSampled = "not_sampled",
        /// A received span had no usable trace or span id.
        InvalidSpan = "invalid_span",
        /// The same span was reported already, by another observer of the same request.
        Duplicate = "duplicate",
        /// The kernel's ring buffer was full.
        RingFull = "ring_full",
        /// A process's memory could not be read.
        MemoryFault = "memory_fault",
        /// The bytes on a connection are no protocol that is known.
        UnknownProtocol = "unknown_protocol",
        /// A message head is longer than is kept.
        HeadTooLarge = "head_too_large",
        /// A message violates its protocol.
        Malformed = "malformed",
        /// Bytes of a connection were not seen, so its position was lost until the next message.
        Gap = "gap",
        /// A connection ended, or was given up, in the middle of an exchange.
        Incomplete = "incomplete",
        /// A table of open things (connections, requests) was full and its oldest entry went.
        TableFull = "table_full",
        /// No exporter is configured.
        NoExporter = "no_exporter",
        /// A received message exceeds the size limit.
        TooLarge = "too_large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
