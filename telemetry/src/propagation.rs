//! A request's headers to a context, and a context to headers, in the formats that are configured.
//!
//! ```
//! use meshweft_telemetry::propagation::{self, Format};
//!
//! let headers = [
//!     (&b":path"[..], &b"/"[..]),
//!     (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
//! ];
//! let received = propagation::extract(headers, &[Format::W3c, Format::B3]);
//! let context = received.context.unwrap();
//! for (name, value) in propagation::inject(&context, received.tracestate.as_ref(), &[Format::B3]).iter() {
//!     assert_eq!((name, value), ("b3", &b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"[..]));
//! }
//! ```

use crate::context::SpanContext;
use crate::error::Error;
use crate::hop::names;
use crate::tracestate::TraceState;
use crate::{b3, hex, traceparent, tracestate};
use core::fmt;

names! {
    /// A propagation format, under its name in OpenTelemetry's `OTEL_PROPAGATORS`.
    Format {
        /// W3C Trace Context: `traceparent` and `tracestate`.
        W3c = "tracecontext",
        /// Zipkin B3 in one header. Unlike OpenTelemetry's, it does not read the headers of
        /// [`Self::B3Multi`] too; name both where both are wanted.
        B3 = "b3",
        /// Zipkin B3 in several headers.
        B3Multi = "b3multi",
    }
}

impl Format {
    /// Every header that this format reads or writes, in lowercase. Whoever hands a context on in
    /// this format has to remove those that [`inject`] does not write: they speak of another span.
    #[must_use]
    pub const fn headers(self) -> &'static [&'static str] {
        match self {
            Self::W3c => &[traceparent::NAME, tracestate::NAME],
            Self::B3 => &[b3::NAME],
            Self::B3Multi => &[b3::TRACE_ID, b3::SPAN_ID, b3::PARENT_SPAN_ID, b3::SAMPLED, b3::FLAGS],
        }
    }
}

/// What a request's headers say about its trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extraction<'a> {
    /// The context, where a format had a valid one.
    pub context: Option<SpanContext>,
    /// The members of `tracestate`; only with a context from `traceparent`, and never empty.
    pub tracestate: Option<TraceState<'a>>,
    /// The caller's sampling decision. With a context it is that context's; without, one that came
    /// without ids (B3's `0`). `None` where the caller leaves the decision to us.
    pub sampled: Option<bool>,
    /// The format that the context, or else the decision, came in.
    pub format: Option<Format>,
    /// Which headers of the formats that were tried were there, but invalid.
    pub errors: Errors,
}

/// At most one error for each of `traceparent`, `tracestate`, `b3` and `x-b3-*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errors([Option<Error>; 4]);

impl Errors {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The errors, in the order in which the headers were tried.
    pub fn iter(&self) -> impl Iterator<Item = Error> {
        self.0.iter().flatten().copied()
    }

    fn push(&mut self, error: Error) {
        // The same error again comes from a format that was named twice.
        if self.iter().any(|other| other == error) {
            return;
        }
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(error);
        }
    }
}

/// Reads a request's headers, all of them, in one pass, and takes the context of the first of
/// `formats` that has a valid one. Names are compared without regard to case; headers of formats
/// that are not named are not looked at.
///
/// Where no format has a context, the first decision without ids counts. Allocates where
/// `tracestate` is split or needs cleaning, and nowhere else.
pub fn extract<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    formats: &[Format],
) -> Extraction<'a> {
    let mut found = Found::default();
    let mut any = false;
    for (name, value) in headers {
        if let Some(header) = Header::from_name(name)
            && formats.contains(&header.format())
        {
            found.record(header, value);
            any = true;
        }
    }
    let mut extraction = Extraction::default();
    if !any {
        return extraction;
    }
    for format in formats {
        match found.parse(*format) {
            Ok(b3::Received { context: Some(context), sampling }) => {
                extraction.context = Some(context);
                extraction.sampled = sampling.map(b3::Sampling::sampled);
                extraction.format = Some(*format);
                break;
            }
            Ok(b3::Received { context: None, sampling }) => {
                if extraction.sampled.is_none() && sampling.is_some() {
                    extraction.sampled = sampling.map(b3::Sampling::sampled);
                    extraction.format = Some(*format);
                }
            }
            Err(error) => extraction.errors.push(error),
        }
    }
    // 3.3: "If the vendor failed to parse traceparent, it MUST NOT attempt to parse tracestate.
    // Note that the opposite is not true."
    if extraction.context.is_some() && extraction.format == Some(Format::W3c) {
        match tracestate::parse(found.tracestate.iter()) {
            Ok(state) if state.is_empty() => {}
            Ok(state) => extraction.tracestate = Some(state),
            Err(error) => extraction.errors.push(error),
        }
    }
    extraction
}

/// The headers that hand a context on. Holds their values itself, so that nothing is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Injection<'a> {
    traceparent: Option<[u8; traceparent::LEN]>,
    tracestate: Option<&'a str>,
    b3: Option<[u8; b3::LEN]>,
    b3_multi: Option<b3::MultiValues>,
}

impl Injection<'_> {
    /// Names, in lowercase, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let traceparent = self.traceparent.as_ref().map(|value| (traceparent::NAME, value.as_slice()));
        let tracestate = self.tracestate.map(|value| (tracestate::NAME, value.as_bytes()));
        let b3 = self.b3.as_ref().map(|value| (b3::NAME, value.as_slice()));
        let b3_multi = self.b3_multi.as_ref().map(|values| {
            [
                (b3::TRACE_ID, values.trace_id.as_slice()),
                (b3::SPAN_ID, values.span_id.as_slice()),
                (b3::SAMPLED, values.sampled.as_slice()),
            ]
        });
        [traceparent, tracestate, b3].into_iter().flatten().chain(b3_multi.into_iter().flatten())
    }
}

/// The headers that hand `context` on in all of `formats`. `tracestate` goes with
/// [`Format::W3c`] alone, and not where it is empty (3.3.2: "SHOULD avoid sending them").
#[must_use]
pub fn inject<'a>(
    context: &SpanContext,
    tracestate: Option<&'a TraceState<'_>>,
    formats: &[Format],
) -> Injection<'a> {
    let mut injection = Injection::default();
    for format in formats {
        match format {
            Format::W3c => {
                injection.traceparent = Some(traceparent::format(context));
                injection.tracestate = tracestate.map(TraceState::as_str).filter(|list| !list.is_empty());
            }
            Format::B3 => injection.b3 = Some(b3::format(context)),
            Format::B3Multi => injection.b3_multi = Some(b3::format_multi(context)),
        }
    }
    injection
}

/// A header that some format reads.
#[derive(Clone, Copy)]
enum Header {
    Traceparent,
    Tracestate,
    B3,
    B3TraceId,
    B3SpanId,
    B3ParentSpanId,
    B3Sampled,
    B3Flags,
}

impl Header {
    /// 3.2.1: "The header name is ASCII case-insensitive." The length is compared first, because
    /// most headers of a request are none of these.
    fn from_name(name: &[u8]) -> Option<Self> {
        let candidates: &[(&str, Self)] = match name.len() {
            2 => &[(b3::NAME, Self::B3)],
            10 => &[(tracestate::NAME, Self::Tracestate), (b3::FLAGS, Self::B3Flags)],
            11 => &[(traceparent::NAME, Self::Traceparent), (b3::SPAN_ID, Self::B3SpanId)],
            12 => &[(b3::TRACE_ID, Self::B3TraceId), (b3::SAMPLED, Self::B3Sampled)],
            17 => &[(b3::PARENT_SPAN_ID, Self::B3ParentSpanId)],
            _ => return None,
        };
        candidates.iter().find_map(|(candidate, header)| {
            name.eq_ignore_ascii_case(candidate.as_bytes()).then_some(*header)
        })
    }

    const fn format(self) -> Format {
        match self {
            Self::Traceparent | Self::Tracestate => Format::W3c,
            Self::B3 => Format::B3,
            Self::B3TraceId | Self::B3SpanId | Self::B3ParentSpanId | Self::B3Sampled | Self::B3Flags => {
                Format::B3Multi
            }
        }
    }
}

/// The headers found in one pass, not yet parsed: nothing is parsed that a better format makes
/// needless.
#[derive(Default)]
struct Found<'a> {
    traceparent: Single<'a>,
    tracestate: Lines<'a>,
    b3: Single<'a>,
    b3_multi: b3::MultiHeaders<'a>,
}

impl<'a> Found<'a> {
    fn record(&mut self, header: Header, value: &'a [u8]) {
        let multi = &mut self.b3_multi;
        let first = match header {
            Header::Traceparent => return self.traceparent.record(value),
            Header::Tracestate => return self.tracestate.record(value),
            Header::B3 => return self.b3.record(value),
            Header::B3TraceId => &mut multi.trace_id,
            Header::B3SpanId => &mut multi.span_id,
            Header::B3ParentSpanId => &mut multi.parent_span_id,
            Header::B3Sampled => &mut multi.sampled,
            Header::B3Flags => &mut multi.flags,
        };
        first.get_or_insert(value);
    }

    fn parse(&self, format: Format) -> Result<b3::Received, Error> {
        match format {
            Format::W3c => {
                let context =
                    self.traceparent.parse(traceparent::NAME, traceparent::parse_possibly_joined)?;
                let sampling = context.map(|context| {
                    if context.flags.sampled() { b3::Sampling::Accept } else { b3::Sampling::Deny }
                });
                Ok(b3::Received { context, sampling })
            }
            Format::B3 => Ok(self.b3.parse(b3::NAME, b3::parse)?.unwrap_or_default()),
            Format::B3Multi => b3::parse_multi(&self.b3_multi),
        }
    }
}

/// A header that may stand once.
#[derive(Default)]
enum Single<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    Several,
}

impl<'a> Single<'a> {
    fn record(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Several => Self::Several,
        };
    }

    fn parse<T>(
        &self,
        header: &'static str,
        parse: fn(&[u8]) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match self {
            Self::Absent => Ok(None),
            Self::Once(value) => parse(value).map(Some),
            Self::Several => Err(Error::Duplicate { header }),
        }
    }
}

/// A header that may be split into several.
#[derive(Default)]
struct Lines<'a> {
    first: Option<&'a [u8]>,
    /// Usually empty, and then without memory of its own.
    rest: Vec<&'a [u8]>,
}

impl<'a> Lines<'a> {
    /// Blank headers hold no member. One more than [`tracestate::MAX_MEMBERS`] is kept of the
    /// others, which is enough for the parser to refuse them.
    fn record(&mut self, value: &'a [u8]) {
        if value.len() <= tracestate::MAX_LEN && hex::trim_ows(value).is_empty() {
            return;
        }
        if self.first.is_none() {
            self.first = Some(value);
        } else if self.rest.len() < tracestate::MAX_MEMBERS {
            self.rest.push(value);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.first.iter().chain(&self.rest).copied()
    }
}

#[cfg(test)]
mod tests;
