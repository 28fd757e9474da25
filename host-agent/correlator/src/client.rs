//! A request that an app sends.

use meshweft_telemetry::{Evidence, Hop, SpanContext};

use crate::{
    Correlator, ExchangeId, Link, Request,
    exchanges::Exchange,
    sockets::{Entry, request_line},
};

/// Confidence of a link by thread: the process has never been seen to multiplex, but a thread may
/// send a request that has nothing to do with the one it serves.
const THREAD_CONFIDENCE: f64 = 0.95;

/// Confidence of a link by `x-request-id`: one request of the process carries it, and the app
/// copied it on purpose.
const REQUEST_ID_CONFIDENCE: f64 = 0.98;

impl<P> Correlator<P> {
    /// An app sends a request. Returns the context of its span. An exchange that is reported twice
    /// keeps its first context.
    pub fn client_request(&mut self, id: ExchangeId, request: Request<'_>) -> SpanContext {
        if let Some(known) = self.exchanges.get(id) {
            return known.context;
        }
        let span_id = self.ids.span_id();
        let (context, link, tracestate) = match (request.wire, self.server_of(&request)) {
            // The app copied the headers of the request that it serves.
            (Some(wire), Some((_, link))) => {
                (SpanContext { span_id, ..wire }, Some(link), request.tracestate)
            }
            // The wire names a trace: it is what the proxies and all behind them go by.
            (Some(wire), None) => {
                let link = Link { parent: wire.span_id, evidence: Evidence::Traceparent, confidence: 1.0 };
                (SpanContext { span_id, ..wire }, Some(link), request.tracestate)
            }
            (None, Some((server, link))) => {
                (SpanContext { span_id, ..server.context }, Some(link), server.tracestate.clone())
            }
            (None, None) => (self.new_trace(), None, None),
        };
        self.sockets.sent(Entry {
            id,
            connection: request.connection,
            line: request_line(request.method, request.target),
            context,
            wire: request.wire,
            started: request.started,
            ended: None,
            from_start: request.from_start,
        });
        self.open_exchange(
            id,
            Exchange {
                hop: Hop::AppClient,
                context,
                link,
                thread: request.thread,
                tracestate,
                wire: request.wire,
                request_id: None,
                late_parent: None,
            },
        );
        context
    }

    /// The request that the app was serving when it sent this one, by the strongest evidence.
    fn server_of(&self, request: &Request<'_>) -> Option<(&Exchange, Link)> {
        let process = request.thread.process;
        let copied = request
            .wire
            .and_then(|wire| self.exchanges.server_by_wire(process, wire))
            .map(|id| (id, Evidence::Traceparent, 1.0));
        // A context that no request of this process came with was made in the process: by an SDK,
        // whose span then stands between.
        if request.wire.is_some() && copied.is_none() {
            return None;
        }
        let by_request_id = || {
            let id = self.exchanges.server_by_request_id(process, request.request_id?)?;
            Some((id, Evidence::RequestId, REQUEST_ID_CONFIDENCE))
        };
        let by_thread = || Some((self.threads.serving(request.thread)?, Evidence::Thread, THREAD_CONFIDENCE));
        let (id, evidence, confidence) = copied.or_else(by_request_id).or_else(by_thread)?;
        let server = self.exchanges.get(id)?;
        Some((server, Link { parent: server.context.span_id, evidence, confidence }))
    }
}
