//! Where both sides meet: events of the kernel and spans of the filter go in, woven spans go out.
//!
//! One mutex guards the whole state. Three kinds of threads take it, each for a bounded piece of
//! work: the watcher, every few milliseconds; the receiver, for a batch of spans; and the context
//! endpoint, for one question. Whoever takes it drains the kernel's ring first, so that what an app
//! has written is known before anything is said about it.

mod app_span;
mod identity;
mod mesh_span;
pub mod metrics;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use meshweft_abi::{EventHeader, EventKind, Loss};
use meshweft_correlator::{self as correlator, Correlator, Request, Thread, Woven};
use meshweft_telemetry::{Connection, DropReason, Hop, SpanId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tracing::{error, info, warn};

use crate::capture::clock::Clock;
use crate::capture::connections::{Connections, Exchange, Observed};
use crate::capture::probes::Probes;
use crate::config::{Config, SamplerName, Sampling};
use crate::discovery::{Change, Discoverer, Outcome, Process, Processes};
use crate::intake::{self, Answer, ExportSpan, Full, Intake, Question};
use crate::metrics::Metrics;
use crate::otlp::Exporter;

use identity::Identities;

/// How often the watcher looks at the ring by itself. Events wait no longer than this; a ring of
/// some megabytes does not fill in that time, and if it does, the kernel wakes the watcher.
const WATCH_EVERY: Duration = Duration::from_millis(10);

/// Events that are taken in under one hold of the mutex: some milliseconds of work at most.
const MAX_DRAIN: usize = 4_096;

/// Changes of processes that may wait for discovery. It takes a millisecond for one at worst; a
/// storm of new processes beyond this leads to one look at all of them instead.
const MAX_CHANGES: usize = 4_096;

/// Name of the instrumentation scope of app spans.
const SCOPE: &str = "meshweft.probes";

/// What goes through the correlator with a span.
enum Payload {
    App { seen: Box<Exchange>, connection: Connection, process: Arc<Process> },
    Reported { resource: Arc<Resource>, scope: Arc<InstrumentationScope>, span: Span },
}

struct State {
    probes: Probes,
    connections: Connections,
    correlator: Correlator<Payload>,
    clock: Clock,
    identities: Identities,
    processes: Processes,
    changes: mpsc::SyncSender<Change>,
    /// Set where a change was lost: discovery then looks at every process.
    rescan: Arc<AtomicBool>,
    lost: [u64; Loss::COUNT as usize],
    sampling: Sampling,
    scope: Arc<InstrumentationScope>,
    observed: Vec<Observed>,
    leaving: Vec<ExportSpan>,
    metrics: Arc<Metrics>,
    exporter: Exporter,
}

/// The running weave.
pub struct Weave {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

impl Weave {
    /// Loads the probes, looks at the processes that are there, and begins to watch.
    ///
    /// # Errors
    /// Where the kernel refuses the probes, with what is missing.
    pub fn start(config: &Config, metrics: Arc<Metrics>, exporter: Exporter) -> anyhow::Result<Self> {
        let ring = u32::try_from(config.capture.ring_bytes.0).unwrap_or(u32::MAX);
        let (probes, table) = Probes::load(ring).context("cannot see the apps")?;
        let mut discoverer = Discoverer::new(config.discovery.clone(), table);
        let (changes, changed) = mpsc::sync_channel(MAX_CHANGES);
        let rescan = Arc::new(AtomicBool::new(false));
        let clock = Clock::new();
        let mut state = State {
            probes,
            connections: Connections::default(),
            correlator: Correlator::new(limits(config), seed(&clock)),
            sampling: config.sampling,
            clock,
            identities: Identities::default(),
            processes: discoverer.processes(),
            changes,
            rescan: Arc::clone(&rescan),
            lost: [0; Loss::COUNT as usize],
            scope: Arc::new(InstrumentationScope {
                name: SCOPE.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            }),
            observed: Vec::new(),
            leaving: Vec::new(),
            metrics,
            exporter,
        };
        for (id, process) in discoverer.scan().context("cannot instrument the running processes")? {
            state.process_began(id, &process);
        }
        let poll_fd = state.probes.poll_fd();
        let state = Arc::new(Mutex::new(state));
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = {
            let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
            thread::Builder::new().name("watch".to_owned()).spawn(move || watch(&state, poll_fd, &stop))?
        };
        // Not joined at the end: it may wait for a change that never comes.
        let discovering = Arc::clone(&state);
        thread::Builder::new()
            .name("discovery".to_owned())
            .spawn(move || discover(&mut discoverer, &changed, &rescan, &discovering))?;
        Ok(Self { state, stop, watcher: Mutex::new(Some(watcher)) })
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if watcher.is_some_and(|watcher| watcher.join().is_err()) {
            error!("the watcher had panicked; its last events are missing");
        }
        let mut state = lock(&self.state);
        state.drain();
        state.flush();
    }
}

impl Intake for Weave {
    fn accept(&self, request: ExportTraceServiceRequest) -> Result<(), Full> {
        let mut state = lock(&self.state);
        state.drain();
        state.accept(request);
        Ok(())
    }

    fn context(&self, question: &Question<'_>) -> Option<Answer> {
        let mut state = lock(&self.state);
        state.drain();
        let (context, tracestate) = state.correlator.question(correlator::Question {
            source: question.source,
            destination: question.destination,
            ordinal: question.ordinal,
            line: question.request_line,
        })?;
        Some(Answer { context, tracestate })
    }

    fn close(&self) {
        self.stop();
    }
}

/// The correlator's limits, from the configuration.
fn limits(config: &Config) -> correlator::Config {
    let Sampling { sampler, ratio } = config.sampling;
    correlator::Config {
        window: config.correlation.window,
        max_held: config.correlation.max_spans,
        sampling_ratio: match sampler {
            SamplerName::AlwaysOn | SamplerName::ParentBasedAlwaysOn => 1.0,
            SamplerName::AlwaysOff | SamplerName::ParentBasedAlwaysOff => 0.0,
            SamplerName::TraceIdRatio | SamplerName::ParentBasedTraceIdRatio => ratio,
        },
        ..correlator::Config::default()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A poisoned state has lost at most one event; going on serves the user better than stopping.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids of two agents, and of one before and after a restart, must not repeat.
fn seed(clock: &Clock) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // RandomState is seeded from the system's randomness.
    RandomState::new().hash_one((clock.now(), std::process::id()))
}

fn watch(state: &Mutex<State>, ring: i32, stop: &AtomicBool) {
    let timeout = i32::try_from(WATCH_EVERY.as_millis()).unwrap_or(10);
    while !stop.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: ring, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid structure, whose count is given. The descriptor lives in the state,
        // which this thread's owner keeps.
        unsafe { libc::poll(&raw mut poll, 1, timeout) };
        let mut state = lock(state);
        state.drain();
        state.tick();
    }
}

/// Runs as long as the agent: the state, which holds the sending end, is kept by this thread too.
fn discover(
    discoverer: &mut Discoverer,
    changed: &mpsc::Receiver<Change>,
    rescan: &AtomicBool,
    state: &Mutex<State>,
) {
    while let Ok(change) = changed.recv() {
        match discoverer.change(change) {
            Ok(Outcome::Began(process)) => {
                let (Change::Exec(id)
                | Change::Listen(id)
                | Change::Fork { child: id, .. }
                | Change::Exit(id)) = change;
                lock(state).process_began(id, &process);
            }
            Ok(Outcome::Ended | Outcome::Same) => {}
            Err(error) => warn!(%error, ?change, "cannot instrument a process"),
        }
        if rescan.swap(false, Ordering::Relaxed) {
            match discoverer.scan() {
                Ok(found) => found.iter().for_each(|(id, process)| lock(state).process_began(*id, process)),
                Err(error) => warn!(%error, "cannot instrument a process"),
            }
        }
    }
}

impl State {
    /// Takes in every event that is in the ring now.
    fn drain(&mut self) {
        loop {
            let Self {
                probes, connections, clock, observed, changes, rescan, correlator, identities, ..
            } = self;
            let mut events = 0u64;
            let count = probes.drain(MAX_DRAIN, |header, data| {
                events += 1;
                let at = clock.wall(header.at);
                match EventKind::from_u8(header.kind) {
                    Some(
                        kind @ (EventKind::Fork | EventKind::Exec | EventKind::Exit | EventKind::Listen),
                    ) => {
                        if kind == EventKind::Exit {
                            correlator.thread_exit(Thread { process: header.tgid, thread: header.tid });
                        }
                        let ends =
                            kind == EventKind::Exec || (kind == EventKind::Exit && header.tgid == header.tid);
                        if ends {
                            connections.process_exit(header.tgid, at, observed);
                            correlator.process_exit(header.tgid);
                            identities.forget(header.tgid);
                        }
                        if let Some(change) = change(kind, header)
                            && changes.try_send(change).is_err()
                        {
                            rescan.store(true, Ordering::Relaxed);
                        }
                    }
                    _ => connections.event(header, data, at, observed),
                }
            });
            self.metrics.capture.events.inc_by(events);
            self.observe();
            if count < MAX_DRAIN {
                return;
            }
        }
    }

    /// What comes with time alone.
    fn tick(&mut self) {
        self.clock.refresh();
        let lost = self.probes.lost();
        let new = |loss: Loss| lost[loss as usize].saturating_sub(self.lost[loss as usize]);
        for (loss, reason) in [
            (Loss::RingFull, DropReason::RingFull),
            (Loss::MemoryFault, DropReason::MemoryFault),
            (Loss::TableFull, DropReason::TableFull),
        ] {
            self.metrics.capture.lost(reason, new(loss));
        }
        let events_lost = new(Loss::RingFull) + new(Loss::TableFull) > 0;
        self.lost = lost;
        if events_lost {
            self.connections.events_lost(self.clock.now(), &mut self.observed);
            self.observe();
        }
        let now = self.clock.now();
        self.release(|correlator, leave| correlator.poll(now, leave));
        self.metrics.capture.connections.set(self.connections.len().try_into().unwrap_or(i64::MAX));
        let processes = self.processes.read().unwrap_or_else(PoisonError::into_inner).len();
        self.metrics.capture.processes.set(processes.try_into().unwrap_or(i64::MAX));
        self.metrics.correlation.update(
            self.correlator.stats(),
            self.correlator.held(),
            self.correlator.open(),
        );
    }

    fn flush(&mut self) {
        self.release(|correlator, leave| correlator.flush(leave));
    }

    fn release(&mut self, take: impl FnOnce(&mut Correlator<Payload>, &mut dyn FnMut(Woven<Payload>))) {
        let Self { correlator, identities, scope, leaving, metrics, exporter, sampling, .. } = self;
        take(correlator, &mut |woven| {
            if !sampling.keeps(woven.trace_id, Some(woven.sampled)) {
                metrics.spans.dropped(DropReason::NotSampled, 1);
                return;
            }
            leaving.push(finish(woven, identities, scope));
        });
        if !leaving.is_empty() {
            exporter.offer(std::mem::take(leaving));
        }
    }

    /// Tells the correlator what the events amount to.
    fn observe(&mut self) {
        for observed in std::mem::take(&mut self.observed) {
            match observed {
                Observed::Request { exchange, connection, from_start, hop, thread, started, head } => {
                    let extraction = &head.extraction;
                    let request = Request {
                        connection,
                        from_start,
                        thread,
                        started,
                        method: head.method.as_bytes(),
                        target: &head.target,
                        wire: extraction.context,
                        tracestate: extraction
                            .tracestate
                            .as_ref()
                            .map(|list| list.as_str().as_bytes().to_vec()),
                        sampled: extraction.sampled,
                        request_id: head.request_id.as_deref(),
                    };
                    if hop == Hop::AppServer {
                        self.correlator.server_request(exchange, request);
                    } else {
                        self.correlator.client_request(exchange, request);
                    }
                }
                Observed::Response { exchange, thread } => self.correlator.server_response(exchange, thread),
                Observed::PositionLost { exchange } => self.correlator.position_lost(exchange),
                Observed::End { exchange, connection, seen } => {
                    let (now, ended) = (self.clock.now(), seen.ended);
                    self.metrics.spans.seen(Some(seen.hop), 1);
                    let process = self.process(seen.process);
                    let payload = Payload::App { seen, connection, process };
                    if !self.correlator.end(exchange, connection, ended, now, payload) {
                        // The correlator's table was full and gave this exchange up.
                        self.metrics.spans.dropped(DropReason::TableFull, 1);
                    }
                }
                Observed::Lost(reason) => self.metrics.capture.lost(reason, 1),
                Observed::Ignore(socket) => self.probes.ignore(&socket),
            }
        }
    }

    fn accept(&mut self, request: ExportTraceServiceRequest) {
        let now = self.clock.now();
        let mut learned: Option<Arc<Resource>> = None;
        for ExportSpan { resource, scope, span } in intake::take_apart(request, &self.metrics) {
            if !learned.as_ref().is_some_and(|learned| Arc::ptr_eq(learned, &resource)) {
                self.identities.learn(&resource);
                learned = Some(Arc::clone(&resource));
            }
            // Those without valid ids were counted and left out above.
            let Some(context) = intake::context(&span) else { continue };
            match mesh_span::hop(&span) {
                Some(hop) => {
                    let described = mesh_span::describe(&span, context, hop);
                    self.correlator.mesh_span(&described, now, Payload::Reported { resource, scope, span });
                }
                None => {
                    let parent = SpanId::from_slice(&span.parent_span_id);
                    let payload = Payload::Reported { resource, scope, span };
                    self.correlator.foreign_span(context, parent, now, payload);
                }
            }
        }
    }

    fn process_began(&mut self, id: u32, process: &Arc<Process>) {
        info!(process = id, name = process.name, executable = process.executable, "instrumented");
        if process.is_go {
            self.correlator.distrust_threads(id);
        }
    }

    /// What is known of a process; its number where it came and went too fast to be looked at.
    fn process(&self, id: u32) -> Arc<Process> {
        let known = self.processes.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        known.unwrap_or_else(|| {
            let name = format!("process-{id}");
            Arc::new(Process { executable: name.clone(), name, is_go: false })
        })
    }
}

const fn change(kind: EventKind, header: &EventHeader) -> Option<Change> {
    Some(match kind {
        EventKind::Fork => Change::Fork { parent: header.tgid, child: header.length as u32 },
        EventKind::Exec => Change::Exec(header.tgid),
        EventKind::Listen => Change::Listen(header.tgid),
        EventKind::Exit if header.tgid == header.tid => Change::Exit(header.tgid),
        _ => return None,
    })
}

/// A span that leaves the correlator, as it goes to the exporter.
fn finish(
    woven: Woven<Payload>,
    identities: &mut Identities,
    scope: &Arc<InstrumentationScope>,
) -> ExportSpan {
    let (placed, payload) = woven.split();
    match payload {
        Payload::App { seen, connection, process } => {
            let mut span = app_span::build(&placed, &seen, connection);
            mesh_span::place(&placed, &mut span);
            let resource = identities.resource(seen.process, &process, connection.local().ip());
            ExportSpan { resource, scope: Arc::clone(scope), span }
        }
        Payload::Reported { resource, scope, mut span } => {
            mesh_span::place(&placed, &mut span);
            ExportSpan { resource, scope, span }
        }
    }
}
