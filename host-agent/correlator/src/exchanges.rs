//! The requests of apps that are under way.

use std::collections::{HashMap, VecDeque};

use meshweft_telemetry::{Connection, Hop, SpanContext, SpanId, TraceId};

use crate::{Link, Nanos, Thread};

/// A request of a connection, as the probes count them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ExchangeId {
    /// The caller's number for the connection; never used twice.
    pub connection: u64,
    /// Which request of it, from 1.
    pub ordinal: u64,
}

/// What is known of an app's request when its head is complete.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The app's end is the local one.
    pub connection: Connection,
    /// Whether the connection was seen from its beginning.
    pub from_start: bool,
    /// The thread that read or writes the end of the head.
    pub thread: Thread,
    /// When the first byte was read or written.
    pub started: Nanos,
    /// Method.
    pub method: &'a [u8],
    /// Origin-form target.
    pub target: &'a [u8],
    /// The context in the request's headers: written by a proxy, copied by the app, or made by an
    /// SDK.
    pub wire: Option<SpanContext>,
    /// The `tracestate` in the request's headers, as one value.
    pub tracestate: Option<Vec<u8>>,
    /// A decision about sampling that came without ids (B3 `0`). Of a request that an app serves;
    /// what an app sends is decided about by what it serves.
    pub sampled: Option<bool>,
    /// `x-request-id`.
    pub request_id: Option<&'a [u8]>,
}

/// One request under way.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) hop: Hop,
    pub(crate) context: SpanContext,
    pub(crate) link: Option<Link>,
    pub(crate) thread: Thread,
    pub(crate) tracestate: Option<Vec<u8>>,
    /// What the request's own headers named.
    pub(crate) wire: Option<SpanContext>,
    pub(crate) request_id: Option<Vec<u8>>,
    /// Set when another observer found the true parent after the exchange began.
    pub(crate) late_parent: Option<SpanContext>,
}

/// All requests under way, with the two ways to find a server's: by the context that was handed to
/// it, and by its `x-request-id`.
#[derive(Debug)]
pub(crate) struct Exchanges {
    open: HashMap<ExchangeId, Exchange>,
    order: VecDeque<ExchangeId>,
    by_wire: HashMap<(TraceId, SpanId), ExchangeId>,
    by_request_id: HashMap<(u32, Vec<u8>), Vec<ExchangeId>>,
    max: usize,
}

impl Exchanges {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            open: HashMap::new(),
            order: VecDeque::new(),
            by_wire: HashMap::new(),
            by_request_id: HashMap::new(),
            max: max.max(1),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.open.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.open.get_mut(&id)
    }

    /// Adds an exchange. Returns the oldest one, where it had to make room.
    pub(crate) fn insert(&mut self, id: ExchangeId, exchange: Exchange) -> Option<ExchangeId> {
        if exchange.hop == Hop::AppServer {
            if let Some(wire) = exchange.wire {
                self.by_wire.insert((wire.trace_id, wire.span_id), id);
            }
            if let Some(request_id) = &exchange.request_id {
                self.by_request_id.entry((exchange.thread.process, request_id.clone())).or_default().push(id);
            }
        }
        self.open.insert(id, exchange);
        self.order.push_back(id);
        self.forget_finished();
        if self.open.len() > self.max { self.oldest() } else { None }
    }

    pub(crate) fn remove(&mut self, id: ExchangeId) -> Option<Exchange> {
        let exchange = self.open.remove(&id)?;
        if let Some(wire) = exchange.wire {
            let key = (wire.trace_id, wire.span_id);
            if self.by_wire.get(&key) == Some(&id) {
                self.by_wire.remove(&key);
            }
        }
        if let Some(request_id) = &exchange.request_id {
            let key = (exchange.thread.process, request_id.clone());
            if let Some(ids) = self.by_request_id.get_mut(&key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_request_id.remove(&key);
                }
            }
        }
        Some(exchange)
    }

    /// The open server exchange of this process whose request carried exactly this context.
    pub(crate) fn server_by_wire(&self, process: u32, wire: SpanContext) -> Option<ExchangeId> {
        let id = *self.by_wire.get(&(wire.trace_id, wire.span_id))?;
        (self.open.get(&id)?.thread.process == process).then_some(id)
    }

    /// The open server exchange of this process with this `x-request-id`, where there is just one.
    pub(crate) fn server_by_request_id(&self, process: u32, request_id: &[u8]) -> Option<ExchangeId> {
        match self.by_request_id.get(&(process, request_id.to_vec()))?.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }

    fn oldest(&self) -> Option<ExchangeId> {
        self.order.iter().find(|id| self.open.contains_key(id)).copied()
    }

    /// Keeps the order's length within twice the number of open exchanges.
    fn forget_finished(&mut self) {
        while self.order.front().is_some_and(|id| !self.open.contains_key(id)) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.open.len() + 64 {
            self.order.retain(|id| self.open.contains_key(id));
        }
    }
}
