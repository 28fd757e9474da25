//! Spans out: a bounded queue, batches, retries, and a count for everything that is dropped.

mod backoff;
mod client;
mod encode;

use crate::config::{Config, Retry};
use crate::intake::ExportSpan;
use crate::metrics::Metrics;
use backoff::Backoff;
use client::{Client, Verdict};
use meshweft_telemetry::DropReason;
use meshweft_telemetry::id::IdGenerator;
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

/// A batch is cut at this many bytes as encoded: gRPC receivers refuse more than 4 MiB unless they
/// are told otherwise.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// Learns what became of spans.
pub trait Exported: Send + Sync + 'static {
    /// A receiver has acknowledged all of these spans. Called on an async worker thread: must be
    /// quick.
    fn exported(&self, spans: &[ExportSpan]);

    /// No exporter is configured, and these spans go no further.
    fn unexported(&self, _spans: &[ExportSpan]) {}
}

/// Takes spans; cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something changed for the worker: the first span of a batch, the last one, the end.
    changed: Notify,
    limits: Limits,
    metrics: Arc<Metrics>,
    observers: Vec<Arc<dyn Exported>>,
}

struct Limits {
    spans: usize,
    bytes: usize,
    batch: usize,
    delay: Duration,
}

#[derive(Default)]
struct Queue {
    spans: VecDeque<(ExportSpan, usize)>,
    bytes: usize,
    /// When the oldest span came, as far as it matters: never too late.
    since: Option<Instant>,
    closed: Closed,
}

/// Whether spans are taken, and if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Closed {
    #[default]
    No,
    NoExporter,
    Shutdown,
}

/// The worker behind an [`Exporter`].
pub struct Running {
    shared: Arc<Shared>,
    worker: Option<(oneshot::Sender<Duration>, JoinHandle<()>)>,
}

impl Exporter {
    /// Starts an exporter on the current runtime. Without an endpoint it takes nothing, and each
    /// span is counted as dropped.
    ///
    /// # Errors
    /// Names the key where the certificates of an `https` endpoint cannot be loaded.
    pub fn start(
        config: &Config,
        metrics: Arc<Metrics>,
        observers: Vec<Arc<dyn Exported>>,
    ) -> anyhow::Result<(Self, Running)> {
        let export = &config.export;
        let client = Client::new(export)?;
        let closed = if client.is_some() { Closed::No } else { Closed::NoExporter };
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { closed, ..Queue::default() }),
            changed: Notify::new(),
            limits: Limits {
                spans: export.queue,
                bytes: export.queue_bytes.0,
                batch: export.batch,
                delay: export.delay,
            },
            metrics,
            observers,
        });
        let worker = client.map(|client| {
            let (close, closing) = oneshot::channel();
            let worker = Worker {
                sender: Arc::new(Sender {
                    shared: Arc::clone(&shared),
                    client,
                    resource: config.resource.clone(),
                    retry: export.retry,
                    failing: AtomicBool::new(false),
                    seeds: Mutex::new(IdGenerator::new(RandomState::new().hash_one(std::process::id()))),
                }),
                concurrency: export.concurrency,
            };
            (close, tokio::spawn(worker.run(closing)))
        });
        Ok((Self { shared: Arc::clone(&shared) }, Running { shared, worker }))
    }

    /// Checks what [`Exporter::start`] would need, without starting anything.
    ///
    /// # Errors
    /// As [`Exporter::start`].
    pub fn check(config: &Config) -> anyhow::Result<()> {
        Client::new(&config.export).map(drop)
    }

    /// Takes spans that were counted as seen. Does not block: what does not fit is dropped and
    /// counted. May be called from any thread.
    pub fn offer(&self, spans: Vec<ExportSpan>) {
        let Shared { limits, metrics, observers, changed, .. } = &*self.shared;
        let mut queue = self.shared.queue();
        let refused = match queue.closed {
            Closed::No => None,
            Closed::NoExporter => Some(DropReason::NoExporter),
            Closed::Shutdown => Some(DropReason::Shutdown),
        };
        if let Some(reason) = refused {
            drop(queue);
            metrics.spans.dropped(reason, spans.len() as u64);
            if reason == DropReason::NoExporter {
                for observer in observers {
                    observer.unexported(&spans);
                }
            }
            return;
        }
        let before = queue.spans.len();
        let mut full = 0;
        for span in spans {
            let bytes = span.span.encoded_len();
            if queue.spans.len() < limits.spans && queue.bytes.saturating_add(bytes) <= limits.bytes {
                queue.bytes += bytes;
                queue.spans.push_back((span, bytes));
            } else {
                full += 1;
            }
        }
        let after = queue.spans.len();
        if before == 0 && after > 0 {
            queue.since = Some(Instant::now());
        }
        self.shared.show(&queue);
        drop(queue);
        if full > 0 {
            metrics.spans.dropped(DropReason::QueueFull, full);
        }
        if (before == 0 && after > 0) || (before < limits.batch && after >= limits.batch) {
            changed.notify_one();
        }
    }
}

impl Running {
    /// Whether spans go anywhere.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.worker.is_some()
    }

    /// Sends what is queued. What is not acknowledged after `deadline` is counted as dropped, as
    /// is everything that is offered from now on.
    pub async fn shutdown(mut self, deadline: Duration) {
        if let Some((close, worker)) = self.worker.take() {
            self.shared.close();
            // A worker that is gone cannot be told; then there is only the queue to count.
            let _ = close.send(deadline);
            let _ = worker.await;
        }
        self.shared.abandon();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((_, worker)) = &self.worker {
            worker.abort();
            self.shared.abandon();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements of its holders.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, queue: &Queue) {
        self.metrics.export.queue_spans.set(queue.spans.len().try_into().unwrap_or(i64::MAX));
        self.metrics.export.queue_bytes.set(queue.bytes.try_into().unwrap_or(i64::MAX));
    }

    /// Takes nothing more.
    fn close(&self) {
        let mut queue = self.queue();
        if queue.closed == Closed::No {
            queue.closed = Closed::Shutdown;
        }
    }

    /// Takes nothing more and drops what is there.
    fn abandon(&self) {
        self.close();
        let mut queue = self.queue();
        let left = std::mem::take(&mut queue.spans).len();
        queue.bytes = 0;
        self.show(&queue);
        drop(queue);
        if left > 0 {
            self.metrics.spans.dropped(DropReason::Shutdown, left as u64);
        }
    }

    /// The next batch, however small; `None` where nothing is queued.
    fn take(self: &Arc<Self>) -> Option<Batch> {
        let mut queue = self.queue();
        let mut spans = Vec::with_capacity(queue.spans.len().min(self.limits.batch));
        let mut bytes = 0;
        while spans.len() < self.limits.batch
            && let Some((span, size)) =
                queue.spans.pop_front_if(|(_, size)| spans.is_empty() || bytes + *size <= MAX_BATCH_BYTES)
        {
            bytes += size;
            spans.push(span);
        }
        queue.bytes -= bytes;
        // What is left may have come just now; waiting once more for it is never too long by more
        // than the delay.
        queue.since = (!queue.spans.is_empty()).then(Instant::now);
        self.show(&queue);
        (!spans.is_empty()).then(|| Batch { shared: Arc::clone(self), spans })
    }

    /// Waits until a batch is full or its oldest span has waited long enough. Nothing is lost if
    /// the future is dropped.
    async fn next(self: &Arc<Self>) -> Batch {
        loop {
            let (queued, since) = {
                let queue = self.queue();
                (queue.spans.len(), queue.since)
            };
            let due = since.map(|since| since + self.limits.delay);
            if queued >= self.limits.batch || due.is_some_and(|due| due <= Instant::now()) {
                if let Some(batch) = self.take() {
                    return batch;
                }
                continue;
            }
            match due {
                Some(due) => {
                    // Either way the queue is looked at again.
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }
}

/// Spans on their way. Whatever happens to it, each of them is counted.
struct Batch {
    shared: Arc<Shared>,
    spans: Vec<ExportSpan>,
}

impl Batch {
    fn exported(mut self, rejected: u64) {
        let spans = std::mem::take(&mut self.spans);
        let count = spans.len() as u64;
        let rejected = rejected.min(count);
        self.shared.metrics.spans.exported(count - rejected);
        if rejected > 0 {
            // Nobody says which ones: none of them may be pointed at.
            self.shared.metrics.spans.dropped(DropReason::ExportFailed, rejected);
            return;
        }
        for observer in &self.shared.observers {
            observer.exported(&spans);
        }
    }

    fn failed(mut self) {
        let count = std::mem::take(&mut self.spans).len() as u64;
        self.shared.metrics.spans.dropped(DropReason::ExportFailed, count);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.spans.is_empty() {
            self.shared.metrics.spans.dropped(DropReason::Shutdown, self.spans.len() as u64);
        }
    }
}

struct Worker {
    sender: Arc<Sender>,
    concurrency: usize,
}

impl Worker {
    async fn run(self, mut closing: oneshot::Receiver<Duration>) {
        let shared = &self.sender.shared;
        let mut flights = JoinSet::new();
        let deadline = loop {
            tokio::select! {
                deadline = &mut closing => break deadline.unwrap_or_default(),
                Some(_) = flights.join_next() => {}
                batch = shared.next(), if flights.len() < self.concurrency => {
                    flights.spawn(Arc::clone(&self.sender).deliver(batch));
                }
            }
        };
        let flush = async {
            loop {
                while flights.len() < self.concurrency
                    && let Some(batch) = shared.take()
                {
                    flights.spawn(Arc::clone(&self.sender).deliver(batch));
                }
                if flights.join_next().await.is_none() {
                    break;
                }
            }
        };
        // What is left is counted by the batches themselves and by the owner of the queue.
        let _ = tokio::time::timeout(deadline, flush).await;
        flights.shutdown().await;
    }
}

struct Sender {
    shared: Arc<Shared>,
    client: Client,
    resource: BTreeMap<String, String>,
    retry: Retry,
    /// Whether the last attempt failed: only changes are logged.
    failing: AtomicBool,
    seeds: Mutex<IdGenerator>,
}

impl Sender {
    async fn deliver(self: Arc<Self>, batch: Batch) {
        let body = self.client.body(encode::request(&batch.spans, &self.resource));
        let started = Instant::now();
        let seed = self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
        let mut backoff = Backoff::new(self.retry, seed);
        let metrics = &self.shared.metrics.export;
        loop {
            let attempt = Instant::now();
            let verdict = self.client.send(body.clone()).await;
            metrics.seconds.observe(attempt.elapsed().as_secs_f64());
            match verdict {
                Verdict::Accepted { rejected: 0, .. } => {
                    metrics.attempt("accepted");
                    self.log(None);
                    return batch.exported(0);
                }
                Verdict::Accepted { rejected, message } => {
                    metrics.attempt("partial");
                    self.log(Some(&format!("{rejected} spans rejected: {message}")));
                    return batch.exported(rejected);
                }
                Verdict::Refused { cause } => {
                    metrics.attempt("refused");
                    self.log(Some(&cause));
                    return batch.failed();
                }
                Verdict::Retry { after, cause } => {
                    metrics.attempt("retryable");
                    self.log(Some(&cause));
                    match backoff.pause(started.elapsed(), after) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return batch.failed(),
                    }
                }
            }
        }
    }

    fn log(&self, failure: Option<&str>) {
        let failed_before = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(cause) if !failed_before => {
                warn!(cause, "cannot export spans; see meshweft_export_attempts_total");
            }
            None if failed_before => info!("spans are exported again"),
            _ => {}
        }
    }
}
