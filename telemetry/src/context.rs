//! The propagated context of a request.

use crate::id::{SpanId, TraceId};

/// `trace-flags` of W3C Trace Context level 2, section 3.2.2.5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TraceFlags(u8);

impl TraceFlags {
    /// The caller may have recorded this trace.
    pub const SAMPLED: Self = Self(0x01);
    /// The right-most seven bytes of the trace id were made at random (level 2).
    pub const RANDOM: Self = Self(0x02);
    /// Neither.
    pub const NONE: Self = Self(0);

    /// Flags from the byte on the wire. Bits that level 2 does not define are cleared, as
    /// section 3.2.2.5.3 asks of those who write the header on.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & (Self::SAMPLED.0 | Self::RANDOM.0))
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets of flags together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sampled flag is set.
    #[must_use]
    pub const fn sampled(self) -> bool {
        self.0 & Self::SAMPLED.0 != 0
    }

    /// Whether the random flag is set.
    #[must_use]
    pub const fn random(self) -> bool {
        self.0 & Self::RANDOM.0 != 0
    }
}

/// What is handed on from one span to the next: the trace, the span that is the parent, the flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that sent this context.
    pub span_id: SpanId,
    /// Its flags.
    pub flags: TraceFlags,
}
