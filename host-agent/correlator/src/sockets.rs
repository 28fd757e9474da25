//! Requests by the app's own address, which is what its proxy sees of a connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

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
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Requests that apps sent, by their own end.
    sent: HashMap<SocketAddr, VecDeque<Entry>>,
    /// Requests that apps received, by the other end, where a root without context waits for its
    /// proxy's span.
    received: HashMap<SocketAddr, VecDeque<Entry>>,
    /// Own ends of the connections on which requests were sent, by the address of the app and whom
    /// it called: for proxies that were not told the port.
    callers: HashMap<(IpAddr, SocketAddr), HashSet<SocketAddr>>,
    /// Where the entries are, oldest first.
    order: VecDeque<(Side, SocketAddr)>,
    max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Sent,
    Received,
}

/// A request line in the form in which it is compared: `METHOD SP target`, cut to
/// [`MAX_REQUEST_LINE`].
#[must_use]
pub fn request_line(method: &[u8], target: &[u8]) -> Box<[u8]> {
    let mut line = Vec::with_capacity((method.len() + 1 + target.len()).min(MAX_REQUEST_LINE));
    line.extend_from_slice(method);
    line.push(b' ');
    line.extend_from_slice(target);
    line.truncate(MAX_REQUEST_LINE);
    line.into_boxed_slice()
}

impl Sockets {
    /// Remembers up to `max` requests.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            sent: HashMap::new(),
            received: HashMap::new(),
            callers: HashMap::new(),
            order: VecDeque::new(),
            max: max.max(1),
        }
    }

    pub(crate) fn sent(&mut self, entry: Entry) {
        let (own, callee) = (entry.connection.local(), entry.connection.remote());
        self.callers.entry((own.ip(), callee)).or_default().insert(own);
        push(self.sent.entry(own).or_default(), entry);
        self.remember(Side::Sent, own);
    }

    pub(crate) fn received(&mut self, entry: Entry) {
        let other = entry.connection.remote();
        push(self.received.entry(other).or_default(), entry);
        self.remember(Side::Received, other);
    }

    fn remember(&mut self, side: Side, address: SocketAddr) {
        self.order.push_back((side, address));
        while self.order.len() > self.max
            && let Some((side, address)) = self.order.pop_front()
        {
            let table = if side == Side::Sent { &mut self.sent } else { &mut self.received };
            if let Some(entries) = table.get_mut(&address) {
                entries.pop_front();
                if entries.is_empty() {
                    table.remove(&address);
                }
            }
        }
    }

    pub(crate) fn sent_from(&self, source: SocketAddr) -> impl Iterator<Item = &Entry> + Clone {
        self.sent.get(&source).into_iter().flatten()
    }

    /// Requests that apps at this address sent to this callee, over whichever connection.
    pub(crate) fn sent_to(&self, app: IpAddr, callee: SocketAddr) -> impl Iterator<Item = &Entry> {
        let own = self.callers.get(&(app, callee)).into_iter().flatten();
        own.flat_map(|own| self.sent_from(*own)).filter(move |entry| entry.connection.remote() == callee)
    }

    pub(crate) fn received_from(&self, source: SocketAddr) -> impl Iterator<Item = &Entry> + Clone {
        self.received.get(&source).into_iter().flatten()
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
        let sent = &self.sent;
        self.callers.retain(|_, own| {
            own.retain(|own| sent.contains_key(own));
            !own.is_empty()
        });
        let (sent, received) = (&self.sent, &self.received);
        self.order.retain(|(side, address)| match side {
            Side::Sent => sent.contains_key(address),
            Side::Received => received.contains_key(address),
        });
    }
}

fn push(entries: &mut VecDeque<Entry>, entry: Entry) {
    if entries.len() >= MAX_PER_CONNECTION {
        entries.pop_front();
    }
    entries.push_back(entry);
}
