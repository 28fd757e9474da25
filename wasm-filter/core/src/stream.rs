//! One request, from its headers to its log.

use crate::breaker::Outcome;
use crate::config::Mode;
use crate::facts::{Fact, Facts, number};
use crate::filter::{Filter, State};
use crate::head::Head;
use crate::host::{Counted, HeaderMap, Host};
use crate::metrics::Counter;
use crate::pairs::Pairs;
use crate::question::{self, Answer, NotAsked};
use crate::trace::{self, Origin, Trace};
use meshweft_telemetry::error::Reason;
use meshweft_telemetry::propagation::{self, Format};
use meshweft_telemetry::{Hop, SpanContext, SpanId, traceparent};
use std::rc::Rc;

/// What the proxy does with the request next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It waits, headers and body, for [`Host::resume`].
    Pause,
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) hop: Hop,
    pub(crate) connection: Option<u64>,
    pub(crate) ordinal: Option<u64>,
}

/// How far a stream has come.
///
/// ```text
///            context on the wire, or none to be had
///   Fresh ───────────────────────────────────────────▶ Traced ──▶ Over
///     │                                                   ▲         ▲
///     └── outbound, none on the wire ──▶ Asking ──────────┘         │
///                                          │   answer or deadline   │
///                                          └────────────────────────┘ reset
/// ```
#[derive(Debug)]
enum Phase {
    Fresh,
    Asking { request: Request, token: u32, since: u64, sampled: Option<bool> },
    Traced { request: Request, trace: Trace },
    Over,
}

/// One HTTP stream.
#[derive(Debug)]
pub struct Stream<H> {
    filter: Rc<Filter<H>>,
    phase: Phase,
}

impl<H: Host> Stream<H> {
    pub(crate) const fn new(filter: Rc<Filter<H>>) -> Self {
        Self { filter, phase: Phase::Fresh }
    }

    /// The request's headers are there.
    pub fn request_headers(&mut self) -> Verdict {
        if !matches!(self.phase, Phase::Fresh) {
            return Verdict::Continue;
        }
        let host = &self.filter.host;
        let Some(phase) = self.filter.with(|state| begin(host, state)) else { return Verdict::Continue };
        self.phase = phase;
        if matches!(self.phase, Phase::Asking { .. }) { Verdict::Pause } else { Verdict::Continue }
    }

    /// A call of this stream ended: its question.
    pub fn call_response(&mut self, token: u32) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over);
        let (request, since, sampled) = match phase {
            Phase::Asking { request, token: asked, since, sampled } if asked == token => {
                (request, since, sampled)
            }
            other => {
                self.phase = other;
                return;
            }
        };
        let host = &self.filter.host;
        let traced = self.filter.with(|state| {
            let trace = answered(host, state, since, sampled);
            hand_on(host, state, request, trace)
        });
        self.phase = traced.unwrap_or(Phase::Over);
        host.resume();
    }

    /// The stream is over.
    pub fn log(&mut self) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over);
        let host = &self.filter.host;
        self.filter.with(|state| match phase {
            Phase::Fresh | Phase::Over => {}
            // It was reset while it waited. There will be no answer, and it went nowhere.
            Phase::Asking { request, sampled, .. } => {
                let trace = Trace::new(sampled, state.config.sampling.ratio, &mut state.ids);
                finish(host, state, &request, trace);
            }
            Phase::Traced { request, trace } => finish(host, state, &request, trace),
        });
    }
}

fn begin<H: Host>(host: &Counted<H>, state: &mut State) -> Phase {
    state.metrics.add(Counter::Requests, 1);
    let head = Head::new(host.headers(HeaderMap::Request));
    let connection = host.property(b"connection\0id").and_then(|id| number(&id)).map(i64::cast_unsigned);
    // A stream without a connection (of another kind of listener) still has a direction.
    let (hop, ordinal) = match connection {
        Some(id) => state.connections.request(host, &state.node, id),
        None => {
            let direction =
                host.property(b"xds\0listener_direction").and_then(|direction| number(&direction));
            (state.node.hop(direction), None)
        }
    };
    // Two workers whose generators ever came to the same state part ways here.
    state.ids.mix(trace::hash(head.request_id()) ^ connection.unwrap_or_default().rotate_left(32));

    let received = propagation::extract(head.pairs(), &state.config.propagation.extract);
    for error in received.errors.iter() {
        let counter = match error.reason() {
            Reason::Malformed => Counter::InvalidMalformed,
            Reason::Duplicate => Counter::InvalidDuplicate,
            Reason::TooLarge => Counter::InvalidTooLarge,
        };
        state.metrics.add(counter, 1);
    }
    let (parent, sampled) = (received.context, received.sampled);
    let tracestate = received.tracestate.map(|list| list.as_str().to_owned()).unwrap_or_default();
    let request = Request { head, hop, connection, ordinal };
    let trace = match parent {
        Some(parent) => Trace::continued(parent, tracestate, Origin::Wire, &mut state.ids),
        None => match ask(host, state, &request, sampled) {
            Some((token, since)) => return Phase::Asking { request, token, since, sampled },
            None => Trace::new(sampled, state.config.sampling.ratio, &mut state.ids),
        },
    };
    hand_on(host, state, request, trace)
}

/// Asks the agent for the context of a request that carries none, where that can help.
fn ask<H: Host>(
    host: &Counted<H>,
    state: &mut State,
    request: &Request,
    sampled: Option<bool>,
) -> Option<(u32, u64)> {
    // Only a sidecar's outbound side has the app that sent the request on its own node.
    let useful = request.hop == Hop::MeshOutbound && state.config.context.enabled && sampled != Some(false);
    // The proxy's own tracer has begun its trace before any filter could say a word.
    let tracer = match state.config.mode {
        Mode::Propagate => false,
        Mode::Auto => state.tracer_seen,
        Mode::Adopt => true,
    };
    if !useful || tracer {
        return None;
    }
    if state.breaker.is_open() {
        state.metrics.add(Counter::ContextSkipped, 1);
        return None;
    }
    match question::ask(host, &state.config, &state.node, &request.head, request.ordinal) {
        Ok(token) => Some((token, host.now())),
        Err(NotAsked::NoAddress) => None,
        Err(NotAsked::Refused) => {
            state.metrics.add(Counter::ContextFailed, 1);
            state.breaker = state.breaker.ended(Outcome::Failed, host.now());
            None
        }
    }
}

/// What the answer to the question, asked at `since`, makes of the trace.
fn answered<H: Host>(host: &Counted<H>, state: &mut State, since: u64, sampled: Option<bool>) -> Trace {
    let mut answer = question::answer(host);
    let now = host.now();
    if answer == Answer::Ended {
        let deadline = u64::from(state.config.context.deadline_ms).saturating_mul(1_000_000);
        answer = if now.saturating_sub(since) >= deadline { Answer::Timeout } else { Answer::Failed };
    }
    let (counter, outcome) = match answer {
        Answer::Context { .. } => (Counter::ContextAnswered, Outcome::Answered),
        Answer::Unknown => (Counter::ContextUnknown, Outcome::Answered),
        Answer::Malformed => (Counter::ContextFailed, Outcome::Answered),
        Answer::Timeout => (Counter::ContextTimeout, Outcome::Timeout { since }),
        Answer::Failed | Answer::Ended => (Counter::ContextFailed, Outcome::Failed),
    };
    state.metrics.add(counter, 1);
    state.breaker = state.breaker.ended(outcome, now);
    match answer {
        Answer::Context { context, tracestate } => {
            Trace::continued(context, tracestate, Origin::Agent, &mut state.ids)
        }
        _ => Trace::new(sampled, state.config.sampling.ratio, &mut state.ids),
    }
}

fn hand_on<H: Host>(host: &Counted<H>, state: &State, mut request: Request, trace: Trace) -> Phase {
    if state.config.mode != Mode::Adopt {
        trace::hand_on(host, &state.config, &request.head, &trace);
    }
    request.head.compact();
    Phase::Traced { request, trace }
}

fn finish<H: Host>(host: &Counted<H>, state: &mut State, request: &Request, mut trace: Trace) {
    // In mode adopt, the decision is the tracer's, which is not known yet.
    if state.config.mode != Mode::Adopt && !trace.context.flags.sampled() {
        state.metrics.add(Counter::NotSampled, 1);
        return;
    }
    let facts = state.facts.read(host);
    if let Some(tracer) = tracers_context(host, state, &trace, &facts) {
        adopt(&mut trace, tracer);
        state.metrics.add(Counter::Adopted, 1);
        state.tracer_seen = true;
    } else if !facts.bytes(Fact::UpstreamLocal).is_empty() {
        state.tracer_seen = false;
    }
    if !trace.context.flags.sampled() {
        state.metrics.add(Counter::NotSampled, 1);
        return;
    }
    state.metrics.add(Counter::Spans, 1);
    let State { reports, connections, node, queue, .. } = state;
    if !reports.push(host, node, connections, queue, request, &trace, &facts) {
        state.metrics.add(Counter::DroppedQueueFull, 1);
    }
}

/// The context that the proxy's own tracer has put in place of ours, where it did: the router
/// writes the tracer's into the request when it connects, and the log's headers are what it sent.
fn tracers_context<H: Host>(
    host: &Counted<H>,
    state: &State,
    trace: &Trace,
    facts: &Facts,
) -> Option<SpanContext> {
    match state.config.mode {
        Mode::Propagate => None,
        Mode::Auto => {
            let sent = facts.bytes(Fact::Traceparent);
            let ours = traceparent::format(&trace.context);
            let written = state.config.propagation.inject.contains(&Format::W3c);
            if !written || sent.is_empty() || sent == ours {
                return None;
            }
            traceparent::parse(sent).ok()
        }
        Mode::Adopt => {
            let raw = host.headers(HeaderMap::Request);
            let sent = propagation::extract(Pairs::new(&raw), &state.config.propagation.extract).context?;
            // Without a tracer the request goes out as it came in.
            (Some(sent.span_id) != trace.parent).then_some(sent)
        }
    }
}

/// Makes the tracer's span the span of this hop, so that what is reported here and what the tracer
/// reports are one span, with one id. The parent stays where the tracer has continued the trace
/// that came in; a trace that the tracer began has none.
fn adopt(trace: &mut Trace, tracer: SpanContext) {
    let parent: Option<SpanId> = trace.parent.filter(|_| trace.context.trace_id == tracer.trace_id);
    if parent.is_none() {
        trace.origin = Origin::New;
        trace.tracestate = String::new();
    }
    trace.parent = parent;
    trace.context = tracer;
}
