//! What proxies ask and report.

use std::net::SocketAddr;

use meshweft_telemetry::{Evidence, Hop, SpanContext, SpanId};

use crate::{Correlator, Link, Nanos, Woven, sockets::Entry};

/// How far the clocks of a proxy's span and of the probes may differ: both are read on this node,
/// one as wall clock, one as monotonic time plus an offset that is measured once a second.
const CLOCK_SLACK: Nanos = 500_000;

/// The port of a source that the proxy was not told: where a request carries `x-forwarded-for`,
/// Envoy takes the source's address from there.
const UNKNOWN_PORT: u16 = 0;

/// Confidence of a link by connection, method, path and position.
const TUPLE_CONFIDENCE: f64 = 0.99;

/// The filter's question: what is the context of this request?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The app's own end of the connection; with port 0 where the proxy knows the pod alone.
    pub source: SocketAddr,
    /// Whom the app meant to reach, where the proxy knows.
    pub destination: Option<SocketAddr>,
    /// Which request of the connection, from 1, where the proxy knows.
    pub ordinal: Option<u64>,
    /// `METHOD SP path`, possibly cut.
    pub line: &'a [u8],
}

/// A span that the filter reported.
#[derive(Clone, Debug)]
pub struct MeshSpan {
    /// Its own context.
    pub context: SpanContext,
    /// The parent that it was given.
    pub parent: Option<SpanId>,
    /// Where it was made.
    pub hop: Hop,
    /// Whether the filter began the trace, for want of any context.
    pub began_trace: bool,
    /// Whether the filter got its parent from this node's agent.
    pub asked: bool,
    /// Downstream remote address: for `mesh.outbound` the app's own end.
    pub source: Option<SocketAddr>,
    /// Downstream local address: whom the client meant to reach.
    pub destination: Option<SocketAddr>,
    /// Local address of the upstream connection: for `mesh.inbound` the app's other end.
    pub upstream_local: Option<SocketAddr>,
    /// Which request of the downstream connection, from 1.
    pub ordinal: Option<u64>,
    /// [`request_line`](crate::request_line) of its method and path, without the query.
    pub line: Box<[u8]>,
    /// When the request began.
    pub started: Nanos,
    /// When it ended.
    pub ended: Nanos,
}

impl<P> Correlator<P> {
    /// Answers a proxy's question with the context of the request that the app is sending, and the
    /// `tracestate` that belongs to it. `None` where that request is not known for certain.
    pub fn question(&mut self, question: Question<'_>) -> Option<(SpanContext, Option<Vec<u8>>)> {
        let fits = |entry: &&Entry| {
            entry.ended.is_none()
                && *entry.line == *question.line
                && question.destination.is_none_or(|destination| destination == entry.connection.remote())
        };
        // One request is under way on a connection, unless the app pipelines; then the ordinal
        // tells, where both sides have counted from the connection's beginning.
        let entry = if question.source.port() == UNKNOWN_PORT {
            only(self.sockets.sent_to(question.source.ip(), question.destination?).filter(fits))
        } else {
            let under_way = self.sockets.sent_from(question.source).filter(fits);
            only(under_way.clone()).or_else(|| {
                under_way.clone().find(|entry| entry.from_start && question.ordinal == Some(entry.id.ordinal))
            })
        }?;
        let (id, context) = (entry.id, entry.context);
        let tracestate = self.exchanges.get(id).and_then(|exchange| exchange.tracestate.clone());
        Some((context, tracestate))
    }

    /// Takes in a span of the filter, and finds its place.
    pub fn mesh_span(&mut self, span: &MeshSpan, now: Nanos, payload: P) {
        let mut woven = Woven {
            trace_id: span.context.trace_id,
            span_id: span.context.span_id,
            link: span.parent.map(|parent| Link {
                parent,
                evidence: if span.asked { Evidence::Tuple } else { Evidence::Traceparent },
                confidence: 1.0,
            }),
            late_parent: None,
            sampled: span.context.flags.sampled(),
            hop: Some(span.hop),
            payload,
        };
        match span.hop {
            Hop::MeshOutbound if !span.asked => self.under_client(span, &mut woven),
            Hop::MeshInbound => self.over_server(span),
            _ => {}
        }
        self.hold(now, woven);
    }

    /// An outbound span belongs under the app's request of the same connection.
    fn under_client(&mut self, span: &MeshSpan, woven: &mut Woven<P>) {
        let Some(source) = span.source else { return };
        let entry = if source.port() == UNKNOWN_PORT {
            let Some(destination) = span.destination else { return };
            let fits = |entry: &&Entry| same_line(&entry.line, &span.line) && around(entry, span);
            only(self.sockets.sent_to(source.ip(), destination).filter(fits))
        } else {
            same_request(self.sockets.sent_from(source), span)
        };
        let Some(entry) = entry else { return };
        let (client, wire) = (entry.context, entry.wire);
        let link = Link { parent: client.span_id, evidence: Evidence::Tuple, confidence: TUPLE_CONFIDENCE };
        if span.began_trace {
            // Nobody could answer in time. The trace that the proxy began is a part of the app's.
            self.adopt(span.context, client, |link_or_late| match link_or_late {
                Ok(()) => woven.link = Some(link),
                Err(late) => woven.late_parent = Some(late),
            });
        } else if wire
            .is_some_and(|wire| wire.trace_id == span.context.trace_id && Some(wire.span_id) == span.parent)
        {
            // The app copied the headers of the request that it serves, or an SDK wrote them: its
            // own request stands between what they name and the proxy.
            woven.link = Some(link);
        }
    }

    /// A server's span that came without a context belongs under the proxy's of its connection.
    fn over_server(&mut self, span: &MeshSpan) {
        let Some(local) = span.upstream_local else { return };
        let Some(entry) = same_request(self.sockets.received_from(local), span) else { return };
        let (id, server) = (entry.id, entry.context);
        let link =
            Link { parent: span.context.span_id, evidence: Evidence::Tuple, confidence: TUPLE_CONFIDENCE };
        let mut found = Ok(());
        self.adopt(server, span.context, |result| found = result);
        let (link, late) = match found {
            Ok(()) => (Some(link), None),
            Err(late) => (None, Some(late)),
        };
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.link = link;
            exchange.late_parent = late;
        } else if let Some(held) = self.held.find(server.span_id) {
            held.link = link;
            held.late_parent = late;
        }
    }

    /// Makes the trace of `root` a part of `parent`'s, or tells the parent's context where it is
    /// too late for that.
    fn adopt(&mut self, root: SpanContext, parent: SpanContext, found: impl FnOnce(Result<(), SpanContext>)) {
        if self.traces.join(root.trace_id, parent.trace_id) {
            self.stats.repaired += 1;
            found(Ok(()));
        } else {
            self.stats.late += 1;
            found(Err(SpanContext { trace_id: self.traces.resolve(parent.trace_id), ..parent }));
        }
    }
}

/// Of the requests of a connection, the one that a proxy reported.
///
/// By ordinal where both counted from the connection's beginning. Else by time: the next request
/// begins only after the proxy has sent the response of the one before, so that the last request
/// which the app began before the proxy did is the one.
fn same_request<'a>(entries: impl Iterator<Item = &'a Entry> + Clone, span: &MeshSpan) -> Option<&'a Entry> {
    let fits = |entry: &&Entry| same_line(&entry.line, &span.line);
    if let Some(ordinal) = span.ordinal
        && let Some(entry) = entries
            .clone()
            .filter(fits)
            .find(|entry| entry.from_start && entry.id.ordinal == ordinal && near(entry, span))
    {
        return Some(entry);
    }
    let outbound = span.hop == Hop::MeshOutbound;
    let limit = span.started.saturating_add(CLOCK_SLACK);
    if outbound {
        entries.filter(fits).filter(|entry| entry.started <= limit && near(entry, span)).last()
    } else {
        // The app reads the request after the proxy began with it.
        entries
            .filter(fits)
            .find(|entry| entry.started.saturating_add(CLOCK_SLACK) >= span.started && near(entry, span))
    }
}

/// The element, where there is just one.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// Whether the proxy's span lies within the app's, as it must.
fn around(entry: &Entry, span: &MeshSpan) -> bool {
    entry.started <= span.started.saturating_add(CLOCK_SLACK)
        && entry.ended.is_none_or(|ended| ended.saturating_add(CLOCK_SLACK) >= span.started)
}

/// Whether the two were under way at one time.
fn near(entry: &Entry, span: &MeshSpan) -> bool {
    entry.started <= span.ended.saturating_add(CLOCK_SLACK)
        && entry.ended.is_none_or(|ended| ended.saturating_add(CLOCK_SLACK) >= span.started)
}

/// Compares a request line with one that lacks the query.
fn same_line(line: &[u8], without_query: &[u8]) -> bool {
    let path = line.split(|byte| *byte == b'?').next().unwrap_or(line);
    path == without_query
}
