//! One VM: its configuration, its ticks, and what its streams share.

use crate::batch::{Delivery, Queue};
use crate::breaker::{Breaker, Outcome};
use crate::config::Config;
use crate::connections::Connections;
use crate::facts::Reader;
use crate::host::{Call, Counted, HeaderMap, Host, LogLevel};
use crate::metrics::{Counter, Metrics};
use crate::node::Node;
use crate::question;
use crate::report::Reports;
use crate::span::{self, Attributes};
use crate::stream::Stream;
use crate::trace;
use core::cell::RefCell;
use meshweft_telemetry::id::IdGenerator;
use std::rc::Rc;

/// Deadline of an export, in milliseconds. An agent on the same node that needs longer for one
/// batch is no agent to wait for: the batches after it would pile up.
const EXPORT_DEADLINE_MS: u32 = 2000;

/// The filter in one VM, shared by its root context and its streams.
#[derive(Debug)]
pub struct Filter<H> {
    pub(crate) host: Counted<H>,
    /// `None` until it is configured. Borrowed for the length of one callback at most; callbacks
    /// do not nest.
    pub(crate) state: RefCell<Option<State>>,
}

/// What the streams of a VM share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) node: Node,
    pub(crate) ids: IdGenerator,
    pub(crate) connections: Connections,
    pub(crate) breaker: Breaker,
    pub(crate) metrics: Metrics,
    pub(crate) facts: Reader,
    pub(crate) reports: Reports,
    pub(crate) queue: Queue,
    /// In mode `auto`: whether the last stream's context came from the proxy's own tracer.
    pub(crate) tracer_seen: bool,
    resource: Attributes,
    probe: Option<u32>,
    closing: bool,
}

impl<H: Host> Filter<H> {
    /// A filter without configuration, which lets everything pass.
    pub fn new(host: H) -> Rc<Self> {
        Rc::new(Self { host: Counted::new(host), state: RefCell::new(None) })
    }

    /// A new stream.
    #[must_use]
    pub fn stream(self: &Rc<Self>) -> Stream<H> {
        Stream::new(Rc::clone(self))
    }

    /// Reads the plugin's configuration. Returns whether it is right; what is wrong is in the log.
    /// A wrong one leaves the filter as it was.
    pub fn configure(&self) -> bool {
        let host = &self.host;
        let config = match Config::parse(&host.configuration()) {
            Ok(config) => config,
            Err(error) => {
                host.log(LogLevel::Error, &error.to_string());
                return false;
            }
        };
        let now = host.now();
        let node = Node::read(host);
        let (connections, vm) = Connections::new(host, limit(config.limits.connections), now);
        let mut ids = IdGenerator::new(now);
        ids.mix(vm);
        ids.mix(trace::hash(&node.id));
        for path in [&b"plugin_root_id"[..], b"plugin_vm_id", b"plugin_name"] {
            ids.mix(trace::hash(&host.property(path).unwrap_or_default()));
        }
        host.set_tick(config.export.interval_ms);
        let state = State {
            resource: node.resource(),
            node,
            ids,
            connections,
            breaker: Breaker::default(),
            metrics: Metrics::define(host),
            facts: Reader::new(host),
            reports: Reports::new(limit(config.limits.upstreams), limit(config.limits.clusters)),
            queue: Queue::new(config.export),
            tracer_seen: false,
            probe: None,
            closing: false,
            config,
        };
        self.with_state(|slot| *slot = Some(state)).is_some()
    }

    /// Probes the agent where that is due, exports what there is, hands the metrics on.
    pub fn tick(&self) {
        self.with(|state| {
            if state.breaker.is_open() {
                self.probe(state);
            }
            self.export(state);
            self.flush_metrics(state);
        });
    }

    /// A call of the root context ended: a probe or an export.
    pub fn call_response(&self, token: u32) {
        self.with(|state| {
            let now = self.host.now();
            let status = question::status(&self.host.headers(HeaderMap::CallResponse));
            if state.probe == Some(token) {
                state.probe = None;
                let outcome = match status {
                    Some(504) => Outcome::Timeout { since: now },
                    Some(..500) => Outcome::Answered,
                    _ => Outcome::Failed,
                };
                state.breaker = state.breaker.probed(outcome, now);
            } else {
                self.exported(state, token, status, now);
            }
            if state.closing && self.close(state) {
                self.host.done();
            }
        });
    }

    /// The VM is about to end. Sends what is left, and returns whether nothing is under way any
    /// more; if something is, [`Host::done`] follows.
    pub fn shutdown(&self) -> bool {
        self.with(|state| {
            state.closing = true;
            self.close(state)
        })
        .unwrap_or(true)
    }

    fn probe(&self, state: &mut State) {
        let now = self.host.now();
        let Some(probing) = state.breaker.probe(now) else { return };
        state.breaker = probing;
        state.probe = question::probe(&self.host, &state.config);
        if state.probe.is_none() {
            state.breaker = state.breaker.probed(Outcome::Failed, now);
        }
    }

    /// The export `token`, if it is one, ended with this status.
    fn exported(&self, state: &mut State, token: u32, status: Option<u16>, now: u64) {
        let delivery = match status {
            Some(200..300) => Delivery::Taken,
            // The proxy could not reach the agent (503), or the agent is full (429, 503).
            Some(429 | 503) => Delivery::Refused,
            _ => Delivery::Lost,
        };
        // Also a missed deadline: one of seconds is no accident.
        let failed = !matches!(status, Some(..500));
        if let Some((exported, dropped)) = state.queue.ended(token, delivery) {
            // An agent that takes spans may still be too slow for questions.
            if failed {
                state.breaker = state.breaker.ended(Outcome::Failed, now);
            }
            state.metrics.add(Counter::Exported, exported.into());
            state.metrics.add(Counter::DroppedExportFailed, dropped.into());
            // At rates beyond a few batches an interval, the timer alone would fall behind.
            if delivery == Delivery::Taken && state.queue.is_behind() {
                self.export(state);
            }
        }
    }

    fn close(&self, state: &mut State) -> bool {
        self.export(state);
        let over = state.queue.in_flight() == 0;
        if over {
            // What a breaker or a refusal has kept back.
            let left = state.queue.spans();
            state.metrics.add(Counter::DroppedShutdown, left.into());
            state.queue = Queue::new(state.config.export);
        }
        self.flush_metrics(state);
        over
    }

    fn export(&self, state: &mut State) {
        while state.breaker.may_export()
            && let Some(batch) = state.queue.take()
        {
            let body = span::request(&state.resource, &batch.bytes);
            let headers = [
                (":method", "POST"),
                (":path", "/v1/traces"),
                (":authority", state.config.agent.authority.as_str()),
                ("content-type", "application/x-protobuf"),
            ];
            let call = Call {
                cluster: &state.config.agent.cluster,
                headers: &headers,
                body: &body,
                timeout_ms: EXPORT_DEADLINE_MS,
            };
            match self.host.call(&call) {
                Some(token) => state.queue.sent(token, batch),
                None => {
                    let dropped = state.queue.refused(batch);
                    state.metrics.add(Counter::DroppedExportFailed, dropped.into());
                    state.breaker = state.breaker.ended(Outcome::Failed, self.host.now());
                }
            }
        }
    }

    fn flush_metrics(&self, state: &mut State) {
        state.metrics.flush(&self.host, state.breaker.is_open(), self.host.calls());
    }

    /// Runs `work` on the state, where the filter is configured.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.with_state(|state| state.as_mut().map(work)).flatten()
    }

    fn with_state<T>(&self, work: impl FnOnce(&mut Option<State>) -> T) -> Option<T> {
        self.state.try_borrow_mut().ok().map(|mut state| work(&mut state))
    }
}

fn limit(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
