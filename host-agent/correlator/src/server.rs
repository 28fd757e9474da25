//! A request that an app serves.

use meshweft_telemetry::{Connection, Evidence, Hop, SpanContext};

use crate::{
    Correlator, ExchangeId, Link, Nanos, Request, Thread, Woven,
    exchanges::Exchange,
    sockets::{Entry, request_line},
};

impl<P> Correlator<P> {
    /// An app begins to serve a request. Returns the context of its span. An exchange that is
    /// reported twice keeps its first context.
    pub fn server_request(&mut self, id: ExchangeId, request: Request<'_>) -> SpanContext {
        if let Some(known) = self.exchanges.get(id) {
            return known.context;
        }
        let (context, link) = match request.wire {
            Some(wire) => (
                SpanContext { span_id: self.ids.span_id(), ..wire },
                Some(Link { parent: wire.span_id, evidence: Evidence::Traceparent, confidence: 1.0 }),
            ),
            None => (self.root(request.sampled), None),
        };
        if request.wire.is_none() {
            self.sockets.received(Entry {
                id,
                connection: request.connection,
                line: request_line(request.method, request.target),
                context,
                wire: None,
                started: request.started,
                ended: None,
                from_start: request.from_start,
            });
        }
        if self.threads.begin(request.thread, id) {
            self.stats.multiplexing += 1;
        }
        self.open_exchange(
            id,
            Exchange {
                hop: Hop::AppServer,
                context,
                link,
                thread: request.thread,
                tracestate: request.tracestate,
                wire: request.wire,
                request_id: request.request_id.map(<[u8]>::to_vec),
                late_parent: None,
            },
        );
        context
    }

    /// The response's head is on its way, written by this thread.
    pub fn server_response(&mut self, id: ExchangeId, writer: Thread) {
        if let Some(exchange) = self.exchanges.get(id)
            && self.threads.answer(exchange.thread, writer)
        {
            self.stats.multiplexing += 1;
        }
    }

    /// Nothing is known any more about where the exchange stands (bytes were not seen): its thread
    /// is taken to be free, so that the next request it serves is not mistaken for a second one.
    pub fn position_lost(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.exchanges.get(id) {
            self.threads.end(exchange.thread, id);
        }
    }

    /// The exchange is over, of either kind. Returns whether it was known.
    pub fn end(&mut self, id: ExchangeId, connection: Connection, at: Nanos, now: Nanos, payload: P) -> bool {
        let Some(exchange) = self.exchanges.remove(id) else { return false };
        self.threads.end(exchange.thread, id);
        self.sockets.end(connection, id, at);
        self.hold(
            now,
            Woven {
                trace_id: exchange.context.trace_id,
                span_id: exchange.context.span_id,
                link: exchange.link,
                late_parent: exchange.late_parent,
                sampled: exchange.context.flags.sampled(),
                hop: Some(exchange.hop),
                payload,
            },
        );
        true
    }

    /// The thread is gone.
    pub fn thread_exit(&mut self, thread: Thread) {
        self.threads.exit(thread);
    }

    /// The process is gone, or runs another program.
    pub fn process_exit(&mut self, process: u32) {
        self.threads.exit_process(process);
    }

    /// Nothing is to be believed of this process's threads: its runtime is known to multiplex.
    pub fn distrust_threads(&mut self, process: u32) {
        self.threads.distrust(process);
    }

    fn root(&mut self, sampled: Option<bool>) -> SpanContext {
        use meshweft_telemetry::TraceFlags;
        let context = self.new_trace();
        match sampled {
            None => context,
            Some(true) => SpanContext { flags: context.flags.with(TraceFlags::SAMPLED), ..context },
            Some(false) => SpanContext { flags: TraceFlags::RANDOM, ..context },
        }
    }

    pub(crate) fn open_exchange(&mut self, id: ExchangeId, exchange: Exchange) {
        if let Some(oldest) = self.exchanges.insert(id, exchange)
            && let Some(given_up) = self.exchanges.remove(oldest)
        {
            self.threads.end(given_up.thread, oldest);
            self.stats.given_up += 1;
        }
    }
}
