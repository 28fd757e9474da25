//! What can be wrong with a propagated context, as one small `Copy` type: it holds no byte of the
//! header, so it can be logged and counted without leaking what a client sent.

use crate::hop::names;
use core::fmt;

names! {
    /// Why a header was refused: the label of a counter.
    Reason {
        /// It violates its grammar.
        Malformed = "malformed",
        /// It was given more than once, so nobody can say which one is meant.
        Duplicate = "duplicate",
        /// It is longer, or has more members, than its limit.
        TooLarge = "too_large",
    }
}

names! {
    /// The part of a header that is malformed.
    Part {
        /// `version` of traceparent.
        Version = "version",
        /// The trace id.
        TraceId = "trace id",
        /// The id of the sending span (`parent-id` of traceparent, `SpanId` of B3).
        SpanId = "span id",
        /// The id of the sending span's own parent, which B3 alone carries.
        ParentSpanId = "parent span id",
        /// `trace-flags` of traceparent.
        Flags = "flags",
        /// The sampling state of B3.
        Sampling = "sampling state",
        /// What follows the last field.
        End = "end",
        /// A member of tracestate as a whole: not `key=value`, or not text.
        Member = "member",
        /// A key of tracestate.
        Key = "key",
        /// A value of tracestate.
        Value = "value",
    }
}

/// Why a header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Error {
    /// A part of the header violates its grammar.
    Malformed {
        /// Lowercase name of the header.
        header: &'static str,
        /// The first part that is wrong.
        part: Part,
    },
    /// A header that may stand once was given more than once.
    Duplicate {
        /// Lowercase name of the header.
        header: &'static str,
    },
    /// Two members of tracestate have the same key.
    DuplicateKey,
    /// The header's values are longer than its parser reads.
    TooLarge {
        /// Lowercase name of the header.
        header: &'static str,
        /// The limit that was exceeded, in bytes.
        limit: usize,
    },
    /// tracestate has more than [`crate::tracestate::MAX_MEMBERS`] members, or stands in more headers
    /// than that.
    TooManyMembers,
}

impl Error {
    /// Lowercase name of the header that was refused. Of the headers of multi-header B3, the one
    /// that is wrong or missing.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Malformed { header, .. } | Self::Duplicate { header } | Self::TooLarge { header, .. } => {
                header
            }
            Self::DuplicateKey | Self::TooManyMembers => crate::tracestate::NAME,
        }
    }

    /// The reason to count it under.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Malformed { .. } => Reason::Malformed,
            Self::Duplicate { .. } | Self::DuplicateKey => Reason::Duplicate,
            Self::TooLarge { .. } | Self::TooManyMembers => Reason::TooLarge,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { header, part } => write!(f, "{header}: malformed {part}"),
            Self::Duplicate { header } => write!(f, "{header}: given more than once"),
            Self::DuplicateKey => f.write_str("tracestate: two members have the same key"),
            Self::TooLarge { header, limit } => write!(f, "{header}: longer than {limit} bytes"),
            Self::TooManyMembers => {
                write!(f, "tracestate: more than {} members", crate::tracestate::MAX_MEMBERS)
            }
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_header_and_its_reason() {
        let cases = [
            (Error::Malformed { header: "b3", part: Part::TraceId }, "b3: malformed trace id", "malformed"),
            (Error::Duplicate { header: "traceparent" }, "traceparent: given more than once", "duplicate"),
            (Error::DuplicateKey, "tracestate: two members have the same key", "duplicate"),
            (Error::TooLarge { header: "b3", limit: 9 }, "b3: longer than 9 bytes", "too_large"),
            (Error::TooManyMembers, "tracestate: more than 32 members", "too_large"),
        ];
        for (error, text, reason) in cases {
            assert_eq!(error.to_string(), text);
            assert!(text.starts_with(error.header()));
            assert_eq!(error.reason().as_str(), reason);
        }
    }
}
