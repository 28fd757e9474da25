//! Requests by the app's own address, which is what its proxy sees of a connection.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use meshweft_telemetry::{Connection, SpanContext, question::MAX_REQUEST_LINE};

use crate::{ExchangeId, Nanos};

/// Requests that are remembered of one connection: more than can be under way between two reports
/// of the filter on a connection that is used without pause.
const MAX_PER_CONNECTION: usize = 512;

/// A request that an app sent or received, as a proxy on its connection would describe it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: ExchangeId,
    pub(crate) connection: Connection,
    /// `METHOD SP target`, cut to [`MAX_REQUEST_LINE`].
    pub(crate) line: Box<[u8]>,
    pub(crate) context: SpanContext,
    pub(crate) wire: Option<SpanContext>,
    pub(crate) started: Nanos,
    /// When its last byte was seen.
    pub(crate) ended: Option<Nanos>,
    /// Whether the connection was seen from its beginning, so that ordinals agree with the proxy's.
    pub(crate) from_start: bool,
}

/// Requests by the end of the connection that tells it apart on this node.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Requests that apps sent, by their own end.
    sent: HashMap<SocketAddr, VecDeque<Entry>>,
    /// Requests that apps received, by the other end, where a root without context waits for its
    /// proxy's span.
    received: HashMap<SocketAddr, VecDeque<Entry>>,
}

/// The request line in the form in which it is compared.
pub(crate) fn request_line(method: &[u8], target: &[u8]) -> Box<[u8]> {
    let mut line = Vec::with_capacity((method.len() + 1 + target.len()).min(MAX_REQUEST_LINE));
    line.extend_from_slice(method);
    line.push(b' ');
    line.extend_from_slice(target);
    line.truncate(MAX_REQUEST_LINE);
    line.into_boxed_slice()
}

impl Sockets {
    pub(crate) fn sent(&mut self, entry: Entry) {
        push(self.sent.entry(entry.connection.local()).or_default(), entry);
    }

    pub(crate) fn received(&mut self, entry: Entry) {
        push(self.received.entry(entry.connection.remote()).or_default(), entry);
    }

    pub(crate) fn sent_from(&mut self, source: SocketAddr) -> Option<&mut VecDeque<Entry>> {
        self.sent.get_mut(&source)
    }

    pub(crate) fn received_from(&mut self, source: SocketAddr) -> Option<&mut VecDeque<Entry>> {
        self.received.get_mut(&source)
    }

    /// The request is over.
    pub(crate) fn end(&mut self, connection: Connection, id: ExchangeId, at: Nanos) {
        for entries in [self.sent.get_mut(&connection.local()), self.received.get_mut(&connection.remote())]
            .into_iter()
            .flatten()
        {
            for entry in entries.iter_mut().filter(|entry| entry.id == id) {
                entry.ended = Some(at);
            }
        }
    }

    /// Forgets requests that ended before `before`.
    pub(crate) fn expire(&mut self, before: Nanos) {
        for table in [&mut self.sent, &mut self.received] {
            table.retain(|_, entries| {
                while entries.front().is_some_and(|entry| entry.ended.is_some_and(|ended| ended < before)) {
                    entries.pop_front();
                }
                !entries.is_empty()
            });
        }
    }
}

fn push(entries: &mut VecDeque<Entry>, entry: Entry) {
    if entries.len() >= MAX_PER_CONNECTION {
        entries.pop_front();
    }
    entries.push_back(entry);
}
