//! Where a request's context comes from, and what is handed on.

use crate::config::Config;
use crate::head::Head;
use crate::host::Host;
use meshweft_telemetry::id::IdGenerator;
use meshweft_telemetry::propagation;
use meshweft_telemetry::{SpanContext, SpanId, TraceFlags, sampling, tracestate};

/// How the proxy came by the context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The request carried it.
    Wire,
    /// The agent knew it.
    Agent,
    /// The trace begins here.
    New,
}

impl Origin {
    /// Value of the attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Agent => "agent",
            Self::New => "new",
        }
    }
}

/// The context of a hop's span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// Trace, the span of this hop, flags: what the next hop gets as its parent.
    pub context: SpanContext,
    /// The span that sent the request.
    pub parent: Option<SpanId>,
    /// Where it comes from.
    pub origin: Origin,
    /// Members of `tracestate`; empty for none.
    pub tracestate: String,
}

impl Trace {
    /// The trace goes on. Where it is not sampled there is no span of this hop, so the parent
    /// stays the one that is handed on.
    pub fn continued(parent: SpanContext, tracestate: String, origin: Origin, ids: &mut IdGenerator) -> Self {
        let span_id = if parent.flags.sampled() { ids.span_id() } else { parent.span_id };
        Self { context: SpanContext { span_id, ..parent }, parent: Some(parent.span_id), origin, tracestate }
    }

    /// The trace begins here. `sampled` is a decision that came without ids; else the ratio decides.
    pub fn new(sampled: Option<bool>, ratio: f64, ids: &mut IdGenerator) -> Self {
        let trace_id = ids.trace_id();
        let sampled = sampled.unwrap_or_else(|| sampling::keeps(trace_id, ratio));
        let flags = if sampled { TraceFlags::RANDOM.with(TraceFlags::SAMPLED) } else { TraceFlags::RANDOM };
        let context = SpanContext { trace_id, span_id: ids.span_id(), flags };
        Self { context, parent: None, origin: Origin::New, tracestate: String::new() }
    }
}

/// Writes `trace` into the request. A header is only written where its value changes, because a
/// write makes Envoy choose the route again.
pub fn hand_on(host: &impl Host, config: &Config, head: &Head, trace: &Trace) {
    let state = tracestate::parse([trace.tracestate.as_bytes()]).ok();
    let injection = propagation::inject(&trace.context, state.as_ref(), &config.propagation.inject);
    for format in &config.propagation.inject {
        for name in format.headers() {
            let wanted = injection.iter().find(|(header, _)| header == name).map(|(_, value)| value);
            let mut present =
                head.pairs().filter(|(header, _)| *header == name.as_bytes()).map(|(_, value)| value);
            let first = present.next();
            match (wanted, first) {
                (Some(wanted), Some(first)) if wanted == first && present.next().is_none() => {}
                (Some(wanted), _) => host.replace_header(name, wanted),
                // It speaks of another span, or is not valid.
                (None, Some(_)) => host.remove_header(name),
                (None, None) => {}
            }
        }
    }
}

/// 64 bits that depend on all of `bytes` (FNV-1a), to seed ids from what a host knows.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_as_many_traces_are_sampled_as_the_ratio_says() {
        let mut ids = IdGenerator::new(4);
        let sampled = (0..10_000).filter(|_| Trace::new(None, 0.1, &mut ids).context.flags.sampled()).count();
        assert!((900..1100).contains(&sampled), "{sampled}");
    }

    #[test]
    fn an_unsampled_trace_keeps_its_parent() {
        let mut ids = IdGenerator::new(4);
        let parent = Trace::new(Some(false), 1.0, &mut ids).context;
        let trace = Trace::continued(parent, String::new(), Origin::Wire, &mut ids);
        assert_eq!(trace.context, parent);
    }
}
