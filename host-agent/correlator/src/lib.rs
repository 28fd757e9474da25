//! Observations in, spans with parents out. Pure: time is a parameter, nothing is read or sent.
//!
//! Where a parent is chosen:
//!
//! | span | parent | evidence | file |
//! |---|---|---|---|
//! | `app.server` | the context in its request's headers | `traceparent` | [`server`] |
//! | `app.server` without one | the `mesh.inbound` of the same connection | `tuple` | [`mesh`] |
//! | `app.client` | the `app.server` whose headers the app copied | `traceparent`, `request_id` | [`client`] |
//! | `app.client` | the one `app.server` that its thread serves | `thread` | [`client`], [`threads`] |
//! | `mesh.outbound` | the `app.client` of the same request of the same connection | `tuple` | [`mesh`] |
//! | any other mesh span | the context in its request's headers | `traceparent` | [`mesh`] |
//!
//! A link that cannot be shown is not claimed: such a span keeps the parent that its headers name,
//! or begins a trace.
//!
//! Spans wait for [`Config::window`] before they leave, so that what the other side of a proxy
//! reports a moment later can still move them into their trace ([`traces`]).

mod client;
mod exchanges;
mod held;
mod mesh;
mod server;
mod sockets;
mod threads;
mod traces;

#[cfg(test)]
mod tests;

use std::time::Duration;

use meshweft_telemetry::{Evidence, Hop, SpanContext, SpanId, TraceId, id::IdGenerator, sampling};

pub use exchanges::{ExchangeId, Request};
pub use mesh::{MeshSpan, Question};
pub use sockets::request_line;
pub use threads::Thread;

use exchanges::Exchanges;
use held::Held;
use sockets::Sockets;
use threads::Threads;
use traces::Traces;

/// Nanoseconds since the Unix epoch.
pub type Nanos = u64;

/// How many windows a request of an app is remembered after its end: a proxy whose report comes
/// late still finds its parent then, even where the parent's own span has left.
const REMEMBERED_WINDOWS: u64 = 8;

/// How often what is remembered for too long is looked for: a walk over all connections.
const EXPIRE_EVERY: Nanos = 1_000_000_000;

/// Limits and times.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a finished span waits for what others report about its request. The filter reports
    /// every 200 ms; a second or two covers a slow tick on a busy node.
    pub window: Duration,
    /// Finished spans that may wait at once; beyond it the oldest leave before their time.
    pub max_held: usize,
    /// Exchanges of apps that may be open at once; beyond it the oldest is given up.
    pub max_open: usize,
    /// Traces that are remembered as gone, and traces that are remembered as renamed.
    pub max_traces: usize,
    /// Fraction of the traces that begin here which are sampled, 0 to 1.
    pub sampling_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(2),
            max_held: 262_144,
            max_open: 65_536,
            max_traces: 65_536,
            sampling_ratio: 1.0,
        }
    }
}

/// Why a span's parent is its parent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// The parent's id.
    pub parent: SpanId,
    /// What the link rests on.
    pub evidence: Evidence,
    /// 0 to 1.
    pub confidence: f64,
}

/// A span that leaves.
#[derive(Clone, PartialEq, Debug)]
pub struct Woven<P> {
    /// Its trace, which may differ from the one under which it came in.
    pub trace_id: TraceId,
    /// Its own id.
    pub span_id: SpanId,
    /// Its parent, or `None` for the root of a trace.
    pub link: Option<Link>,
    /// The true parent, where it was found when parts of this span's trace had already left: to be
    /// told as an OpenTelemetry span link, because two traces cannot be made one any more.
    pub late_parent: Option<SpanContext>,
    /// Whether the trace is sampled.
    pub sampled: bool,
    /// Where the span was seen; `None` for a span of an SDK.
    pub hop: Option<Hop>,
    /// What the caller gave with it.
    pub payload: P,
}

impl<P> Woven<P> {
    /// The span's place, and what the caller gave with it.
    pub fn split(self) -> (Woven<()>, P) {
        let Self { trace_id, span_id, link, late_parent, sampled, hop, payload } = self;
        (Woven { trace_id, span_id, link, late_parent, sampled, hop, payload: () }, payload)
    }
}

/// What was found and given up, for counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Exchanges given up because the table was full.
    pub given_up: u64,
    /// Spans that left before their time because too many waited.
    pub hurried: u64,
    /// Traces that were joined to another after the fact.
    pub repaired: u64,
    /// Parents that were found too late to join the traces.
    pub late: u64,
    /// Processes found to serve several requests on one thread, or one request on several.
    pub multiplexing: u64,
}

/// The state of all requests of this node.
#[derive(Debug)]
pub struct Correlator<P> {
    config: Config,
    ids: IdGenerator,
    exchanges: Exchanges,
    threads: Threads,
    sockets: Sockets,
    traces: Traces,
    held: Held<P>,
    stats: Stats,
    expired: Nanos,
}

impl<P> Correlator<P> {
    /// An empty state. `seed` fixes the ids that it makes.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            ids: IdGenerator::new(seed),
            exchanges: Exchanges::new(config.max_open),
            threads: Threads::default(),
            sockets: Sockets::new(config.max_open),
            traces: Traces::new(config.max_traces),
            held: Held::new(),
            stats: Stats::default(),
            expired: 0,
            config,
        }
    }

    /// Takes in a span that is neither the filter's nor the probes': it keeps its ids and follows
    /// its trace.
    pub fn foreign_span(&mut self, context: SpanContext, parent: Option<SpanId>, now: Nanos, payload: P) {
        let link = parent.map(|parent| Link { parent, evidence: Evidence::Sdk, confidence: 1.0 });
        self.hold(
            now,
            Woven {
                trace_id: context.trace_id,
                span_id: context.span_id,
                link,
                late_parent: None,
                sampled: true,
                hop: None,
                payload,
            },
        );
    }

    /// The spans whose time has come, oldest first.
    pub fn poll(&mut self, now: Nanos, leave: impl FnMut(Woven<P>)) {
        if now.saturating_sub(self.expired) >= EXPIRE_EVERY {
            self.expired = now;
            self.sockets.expire(now.saturating_sub(self.window().saturating_mul(REMEMBERED_WINDOWS)));
        }
        self.release(now, leave);
    }

    /// All spans that wait, whatever their time: for the shutdown.
    pub fn flush(&mut self, leave: impl FnMut(Woven<P>)) {
        self.release(Nanos::MAX, leave);
    }

    /// What was found and given up so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Finished spans that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Exchanges that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.exchanges.len()
    }

    fn window(&self) -> Nanos {
        u64::try_from(self.config.window.as_nanos()).unwrap_or(u64::MAX)
    }

    fn hold(&mut self, now: Nanos, span: Woven<P>) {
        self.held.push(now.saturating_add(self.window()), span);
    }

    fn release(&mut self, now: Nanos, mut leave: impl FnMut(Woven<P>)) {
        while let Some(mut span) = self.held.pop_due(now, self.config.max_held, &mut self.stats.hurried) {
            span.trace_id = self.traces.resolve(span.trace_id);
            self.traces.left(span.trace_id);
            leave(span);
        }
    }

    /// A context for the root of a new trace.
    fn new_trace(&mut self) -> SpanContext {
        use meshweft_telemetry::TraceFlags;
        let trace_id = self.ids.trace_id();
        let flags = if sampling::keeps(trace_id, self.config.sampling_ratio) {
            TraceFlags::RANDOM.with(TraceFlags::SAMPLED)
        } else {
            TraceFlags::RANDOM
        };
        SpanContext { trace_id, span_id: self.ids.span_id(), flags }
    }
}
