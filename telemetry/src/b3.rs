//! Zipkin's B3 propagation, in one header (`b3`) and in several (`X-B3-*`).
//!
//! The quoted sentences are those of the specification in `openzipkin/b3-propagation`.
//!
//! ```
//! use meshweft_telemetry::b3;
//!
//! let received = b3::parse(b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")?;
//! let context = received.context.unwrap();
//! assert_eq!(received.sampling, Some(b3::Sampling::Accept));
//! assert_eq!(&b3::format(&context), b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
//! # Ok::<(), meshweft_telemetry::Error>(())
//! ```

use crate::context::{SpanContext, TraceFlags};
use crate::error::{Error, Part};
use crate::hex;
use crate::id::{SpanId, TraceId};

/// Name of the single header, in lowercase.
pub const NAME: &str = "b3";
/// `X-B3-TraceId` in lowercase.
pub const TRACE_ID: &str = "x-b3-traceid";
/// `X-B3-SpanId` in lowercase.
pub const SPAN_ID: &str = "x-b3-spanid";
/// `X-B3-ParentSpanId` in lowercase.
pub const PARENT_SPAN_ID: &str = "x-b3-parentspanid";
/// `X-B3-Sampled` in lowercase.
pub const SAMPLED: &str = "x-b3-sampled";
/// `X-B3-Flags` in lowercase.
pub const FLAGS: &str = "x-b3-flags";
/// Length of the value that [`format()`] makes, in bytes.
pub const LEN: usize = 51;
/// Longest value of any B3 header that is looked at, in bytes. The longest valid one has 68; the
/// rest is left for whitespace and for values that a proxy has joined.
pub const MAX_LEN: usize = 256;

/// A sampling decision. Its absence leaves the decision to the receiver ("defer").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sampling {
    /// Do not record.
    Deny,
    /// Record.
    Accept,
    /// Record in any case: "an emphasized accept decision". The formats written here know accept
    /// alone, because [`SpanContext`] has no place for the emphasis.
    Debug,
}

impl Sampling {
    /// Whether to record.
    #[must_use]
    pub const fn sampled(self) -> bool {
        matches!(self, Self::Accept | Self::Debug)
    }
}

/// What a request's B3 headers say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Received {
    /// The ids, and the sampled flag of [`Self::sampling`]. A trace id of 64 bits has zeros before
    /// it. B3 does not say whether an id is random, so that flag is never set.
    pub context: Option<SpanContext>,
    /// The decision, which may stand without ids ("a predefined decision").
    pub sampling: Option<Sampling>,
}

/// The `X-B3-*` headers of a request. Each is the first one of its name: "When extracting state
/// headers, the first value wins."
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MultiHeaders<'a> {
    /// `X-B3-TraceId`
    pub trace_id: Option<&'a [u8]>,
    /// `X-B3-SpanId`
    pub span_id: Option<&'a [u8]>,
    /// `X-B3-ParentSpanId`
    pub parent_span_id: Option<&'a [u8]>,
    /// `X-B3-Sampled`
    pub sampled: Option<&'a [u8]>,
    /// `X-B3-Flags`
    pub flags: Option<&'a [u8]>,
}

/// The values of the `X-B3-*` headers that hand a context on. `X-B3-ParentSpanId` is not among
/// them: "may be present", and no one but Zipkin's shared spans needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiValues {
    /// `X-B3-TraceId`: 32 lowercase hex digits.
    pub trace_id: [u8; 32],
    /// `X-B3-SpanId`: 16 lowercase hex digits.
    pub span_id: [u8; 16],
    /// `X-B3-Sampled`: `0` or `1`.
    pub sampled: [u8; 1],
}

/// Parses the value of the single header: `0`, `1` or `d` alone, or
/// `{TraceId}-{SpanId}-{SamplingState}-{ParentSpanId}`, "where the last two fields are optional".
/// Optional whitespace around it is ignored.
///
/// # Errors
/// [`Error::Duplicate`] where a proxy has joined several headers by commas, [`Error::TooLarge`]
/// where the value exceeds [`MAX_LEN`], else [`Error::Malformed`].
pub fn parse(value: &[u8]) -> Result<Received, Error> {
    let value = bounded(NAME, value)?;
    if value.contains(&b',') {
        return Err(Error::Duplicate { header: NAME });
    }
    let malformed = |part| Error::Malformed { header: NAME, part };

    // "When only propagating a sampling decision, the header is still named b3, but only contains
    // the sampling state."
    if let Some(sampling) = single_sampling(value) {
        return Ok(Received { context: None, sampling: Some(sampling) });
    }
    // "Unless propagating only the Sampling State, the TraceId is required", and so is the SpanId.
    let mut fields = value.split(|byte| *byte == b'-');
    let trace_id = fields.next().and_then(trace_id).ok_or(malformed(Part::TraceId))?;
    let span_id = fields.next().and_then(span_id).ok_or(malformed(Part::SpanId))?;

    // "Defer is absence of the sampling field." The parent can then still follow: one is a single
    // character, the other has sixteen.
    let (sampling, parent) = match (fields.next(), fields.next()) {
        (Some(state), None) if state.len() != 1 => (None, Some(state)),
        (Some(state), parent) => (Some(single_sampling(state).ok_or(malformed(Part::Sampling))?), parent),
        (None, _) => (None, None),
    };
    if parent.is_some_and(|parent| self::span_id(parent).is_none()) {
        return Err(malformed(Part::ParentSpanId));
    }
    if fields.next().is_some() {
        return Err(malformed(Part::End));
    }
    Ok(Received { context: Some(context(trace_id, span_id, sampling)), sampling })
}

/// Parses the `X-B3-*` headers. None at all gives neither context nor decision.
///
/// Of a value that a proxy has joined by commas, the first counts.
///
/// # Errors
/// [`Error::TooLarge`] where a value exceeds [`MAX_LEN`], else [`Error::Malformed`], also where an
/// id is missing although another is there.
pub fn parse_multi(headers: &MultiHeaders<'_>) -> Result<Received, Error> {
    let first = |header, value: Option<_>| value.map(|value| first_value(header, value)).transpose();
    let malformed = |header, part| Error::Malformed { header, part };

    // "Debug is encoded as X-B3-Flags: 1. Absent or any other value can be ignored. Debug implies
    // an accept decision."
    let debug = first(FLAGS, headers.flags)?.is_some_and(|value| value == b"1");
    // "An empty header (ex. X-B3-Sampled: ) or an arbitrary nonsense value (ex
    // X-B3-ParentSpanId: -) are examples of malformed data." `true` and `false`: "a lenient
    // implementation may accept them".
    let sampling = match first(SAMPLED, headers.sampled)? {
        Some(b"1" | b"true") => Some(Sampling::Accept),
        Some(b"0" | b"false") => Some(Sampling::Deny),
        Some(_) => return Err(malformed(SAMPLED, Part::Sampling)),
        None => None,
    };
    let sampling = if debug { Some(Sampling::Debug) } else { sampling };
    let parent = first(PARENT_SPAN_ID, headers.parent_span_id)?;
    if parent.is_some_and(|parent| span_id(parent).is_none()) {
        return Err(malformed(PARENT_SPAN_ID, Part::ParentSpanId));
    }

    let ids = (first(TRACE_ID, headers.trace_id)?, first(SPAN_ID, headers.span_id)?);
    if ids == (None, None) && parent.is_none() {
        return Ok(Received { context: None, sampling });
    }
    let trace_id = ids.0.and_then(trace_id).ok_or(malformed(TRACE_ID, Part::TraceId))?;
    let span_id = ids.1.and_then(span_id).ok_or(malformed(SPAN_ID, Part::SpanId))?;
    Ok(Received { context: Some(context(trace_id, span_id, sampling)), sampling })
}

/// The value of the single header: trace id, span id and sampling state.
#[must_use]
pub fn format(context: &SpanContext) -> [u8; LEN] {
    let MultiValues { trace_id, span_id, sampled } = format_multi(context);
    hex::concat(&[&trace_id, b"-", &span_id, b"-", &sampled])
}

/// The values of the `X-B3-*` headers.
#[must_use]
pub fn format_multi(context: &SpanContext) -> MultiValues {
    MultiValues {
        trace_id: context.trace_id.to_hex(),
        span_id: context.span_id.to_hex(),
        sampled: if context.flags.sampled() { *b"1" } else { *b"0" },
    }
}

fn bounded<'a>(header: &'static str, value: &'a [u8]) -> Result<&'a [u8], Error> {
    if value.len() > MAX_LEN {
        return Err(Error::TooLarge { header, limit: MAX_LEN });
    }
    Ok(hex::trim_ows(value))
}

fn first_value<'a>(header: &'static str, value: &'a [u8]) -> Result<&'a [u8], Error> {
    let value = bounded(header, value)?;
    Ok(value.split(|byte| *byte == b',').next().map(hex::trim_ows).unwrap_or_default())
}

/// "32 or 16 lower-hex characters"
fn trace_id(digits: &[u8]) -> Option<TraceId> {
    let bytes = if digits.len() == 16 {
        u128::from(u64::from_be_bytes(hex::decode(digits)?)).to_be_bytes()
    } else {
        hex::decode(digits)?
    };
    TraceId::from_bytes(bytes)
}

/// "16 lower-hex characters"
fn span_id(digits: &[u8]) -> Option<SpanId> {
    SpanId::from_bytes(hex::decode(digits)?)
}

/// "Accept: 1, Deny: 0, Debug: d"
fn single_sampling(state: &[u8]) -> Option<Sampling> {
    match state {
        b"0" => Some(Sampling::Deny),
        b"1" => Some(Sampling::Accept),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

fn context(trace_id: TraceId, span_id: SpanId, sampling: Option<Sampling>) -> SpanContext {
    let sampled = sampling.is_some_and(Sampling::sampled);
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::NONE };
    SpanContext { trace_id, span_id, flags }
}

#[cfg(test)]
mod tests;
