//! From the kernel's events to the requests of each connection.
//!
//! One [`Tracked`] per TCP socket of an instrumented process. It knows which side the app is, feeds
//! the parser, and undoes what a write announced but did not deliver.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use meshweft_abi::{EventHeader, EventKind, SocketId};
use meshweft_correlator::{ExchangeId, Nanos, Thread};
use meshweft_protocols::http1::{self, Chunk, Event, Guess, Peer, RequestHead};
use meshweft_telemetry::{Connection, DropReason, Hop};

/// Connections that are tracked at once. A connection costs a few hundred bytes while it is idle.
const MAX_CONNECTIONS: usize = 65_536;

/// Chunks without any sign of a known protocol after which a connection that was met in the middle
/// is given up: a large download that was under way shows some thousand of them.
const MAX_UNKNOWN_CHUNKS: u32 = 16_384;

/// What the events of the kernel amount to.
#[derive(Debug)]
pub enum Observed {
    /// The head of a request is complete.
    Request {
        /// Which.
        exchange: ExchangeId,
        /// Its connection.
        connection: Connection,
        /// Whether the connection was seen from its beginning.
        from_start: bool,
        /// [`Hop::AppServer`] or [`Hop::AppClient`].
        hop: Hop,
        /// The thread that moved the end of the head.
        thread: Thread,
        /// When its first byte was moved.
        started: Nanos,
        /// Its head.
        head: Arc<RequestHead>,
    },
    /// The head of a response that the app writes is complete.
    Response {
        /// To which request.
        exchange: ExchangeId,
        /// The thread that wrote it.
        thread: Thread,
    },
    /// Bytes of the connection were missed while this exchange was open.
    PositionLost {
        /// Which.
        exchange: ExchangeId,
    },
    /// The exchange is over.
    End {
        /// Which.
        exchange: ExchangeId,
        /// Its connection.
        connection: Connection,
        /// All that was seen of it.
        seen: Box<Exchange>,
    },
    /// Something was given up.
    Lost(DropReason),
    /// No bytes of this socket are wanted any more.
    Ignore(SocketId),
}

/// One request and its response, as seen in an app's process.
#[derive(Debug)]
pub struct Exchange {
    /// [`Hop::AppServer`] or [`Hop::AppClient`].
    pub hop: Hop,
    /// The process.
    pub process: u32,
    /// When the request's first byte was moved.
    pub started: Nanos,
    /// When the response's last byte was moved.
    pub ended: Nanos,
    /// The request's head.
    pub head: Arc<RequestHead>,
    /// Bytes of its body.
    pub request_body: u64,
    /// The response's status, where one was seen.
    pub status: Option<u16>,
    /// Bytes of its body.
    pub response_body: u64,
    /// Whether the response was seen to its end.
    pub complete: bool,
}

/// What the parser knew before a write that may turn out shorter than announced.
#[derive(Debug)]
struct BeforeWrite {
    thread: u32,
    http: http1::Connection,
    bytes: Vec<u8>,
    at: Nanos,
}

#[derive(Debug)]
struct Tracked {
    number: u64,
    connection: Connection,
    socket: SocketId,
    from_start: bool,
    hop: Option<Hop>,
    http: http1::Connection,
    before_write: Option<BeforeWrite>,
    /// The process that used the connection last. Others that inherited the descriptor may close
    /// their copies without ending it.
    process: u32,
    unknown_chunks: u32,
    done: bool,
    open: Vec<(u64, Box<Exchange>)>,
    last_used: u64,
}

/// All connections of the instrumented processes.
#[derive(Debug, Default)]
pub struct Connections {
    by_socket: HashMap<u64, Tracked>,
    next: u64,
    uses: u64,
    events: Vec<Event>,
}

impl Connections {
    /// Connections that are tracked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_socket.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_socket.is_empty()
    }

    /// Takes in one event of a socket. `at` is its time as wall time.
    pub fn event(&mut self, header: &EventHeader, data: &[u8], at: Nanos, out: &mut Vec<Observed>) {
        match EventKind::from_u8(header.kind) {
            Some(EventKind::Accept) => self.begin(header, Some(Hop::AppServer), at, out),
            Some(EventKind::Connect) => self.begin(header, Some(Hop::AppClient), at, out),
            Some(EventKind::Read) => self.bytes(header, data, at, false, out),
            Some(EventKind::Write) => self.bytes(header, data, at, true, out),
            Some(EventKind::WriteResult) => self.write_result(header, out),
            // Another process may close its copy of a socket that it inherited.
            Some(EventKind::Close) if self.is_users(header) => self.end(header.socket.pointer, at, out),
            _ => {}
        }
    }

    /// Whether the event's process is the one that uses the connection.
    fn is_users(&self, header: &EventHeader) -> bool {
        self.by_socket.get(&header.socket.pointer).is_some_and(|known| known.process == header.tgid)
    }

    /// A process is gone: so are its connections.
    pub fn process_exit(&mut self, process: u32, at: Nanos, out: &mut Vec<Observed>) {
        let gone: Vec<u64> = self
            .by_socket
            .iter()
            .filter(|(_, tracked)| tracked.process == process)
            .map(|(socket, _)| *socket)
            .collect();
        for socket in gone {
            self.end(socket, at, out);
        }
    }

    /// Events were lost, of which connections nobody knows: all look for their next message.
    pub fn events_lost(&mut self, at: Nanos, out: &mut Vec<Observed>) {
        let Self { by_socket, events, .. } = self;
        for tracked in by_socket.values_mut() {
            tracked.before_write = None;
            for from in [Peer::Client, Peer::Server] {
                tracked.http.feed(from, Chunk { bytes: &[], missing: u64::MAX, at }, events);
            }
            let thread = Thread { process: tracked.process, thread: 0 };
            tracked.observe(events, thread, out);
        }
    }

    fn tracked(&mut self, socket: SocketId, process: u32, from_start: bool) -> Tracked {
        self.next += 1;
        self.uses += 1;
        Tracked {
            number: self.next,
            connection: connection(&socket),
            socket,
            from_start,
            hop: None,
            http: if from_start { http1::Connection::new() } else { http1::Connection::in_the_middle() },
            before_write: None,
            process,
            unknown_chunks: 0,
            done: false,
            open: Vec::new(),
            last_used: self.uses,
        }
    }

    fn begin(&mut self, header: &EventHeader, hop: Option<Hop>, at: Nanos, out: &mut Vec<Observed>) {
        let socket = header.socket.pointer;
        self.end(socket, at, out);
        if self.by_socket.len() >= MAX_CONNECTIONS {
            self.make_room(at, out);
        }
        let mut tracked = self.tracked(header.socket, header.tgid, hop.is_some());
        tracked.hop = hop;
        self.by_socket.insert(socket, tracked);
    }

    /// Gives up the connections that were used longest ago: a sixteenth at once, so that the search
    /// for them is rare.
    fn make_room(&mut self, at: Nanos, out: &mut Vec<Observed>) {
        let mut by_use: Vec<(u64, u64)> =
            self.by_socket.iter().map(|(socket, tracked)| (tracked.last_used, *socket)).collect();
        let count = by_use.len() / 16;
        by_use.select_nth_unstable(count);
        for (_, socket) in by_use.into_iter().take(count) {
            self.end(socket, at, out);
            out.push(Observed::Lost(DropReason::TableFull));
        }
    }

    fn bytes(
        &mut self,
        header: &EventHeader,
        data: &[u8],
        at: Nanos,
        is_write: bool,
        out: &mut Vec<Observed>,
    ) {
        let socket = header.socket.pointer;
        let same = |known: &Tracked| known.socket.fingerprint() == header.socket.fingerprint();
        if !self.by_socket.get(&socket).is_some_and(same) {
            self.begin(header, None, at, out);
        }
        self.uses += 1;
        let Some(tracked) = self.by_socket.get_mut(&socket) else { return };
        tracked.last_used = self.uses;
        tracked.process = header.tgid;
        if tracked.done {
            return;
        }
        let Some(hop) = tracked.hop.or_else(|| guess_hop(data, is_write)) else {
            tracked.unknown_chunks += 1;
            if tracked.unknown_chunks > MAX_UNKNOWN_CHUNKS {
                tracked.done = true;
                out.push(Observed::Lost(DropReason::UnknownProtocol));
                out.push(Observed::Ignore(tracked.socket));
            }
            return;
        };
        tracked.hop = Some(hop);
        let from = if is_write == (hop == Hop::AppClient) { Peer::Client } else { Peer::Server };
        if is_write {
            let mut bytes = tracked.before_write.take().map(|before| before.bytes).unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(data);
            tracked.before_write =
                Some(BeforeWrite { thread: header.tid, http: tracked.http.clone(), bytes, at });
        }
        if header.length == 0 && !is_write {
            tracked.http.end(Some(from), at, &mut self.events);
        } else {
            let missing = header.length.saturating_sub(data.len() as u64);
            tracked.http.feed(from, Chunk { bytes: data, missing, at }, &mut self.events);
        }
        let thread = Thread { process: header.tgid, thread: header.tid };
        tracked.observe(&mut self.events, thread, out);
    }

    fn write_result(&mut self, header: &EventHeader, out: &mut Vec<Observed>) {
        let Some(tracked) = self.by_socket.get_mut(&header.socket.pointer) else { return };
        let Some(before) = tracked.before_write.take_if(|before| before.thread == header.tid) else { return };
        let Some(hop) = tracked.hop else { return };
        let from = if hop == Hop::AppClient { Peer::Client } else { Peer::Server };
        tracked.http = before.http;
        if header.length == 0 {
            return;
        }
        let taken = usize::try_from(header.length).unwrap_or(usize::MAX).min(before.bytes.len());
        let bytes = before.bytes.get(..taken).unwrap_or_default();
        let missing = header.length - taken as u64;
        tracked.http.feed(from, Chunk { bytes, missing, at: before.at }, &mut self.events);
        let thread = Thread { process: header.tgid, thread: header.tid };
        tracked.observe(&mut self.events, thread, out);
    }

    fn end(&mut self, socket: u64, at: Nanos, out: &mut Vec<Observed>) {
        let Some(mut tracked) = self.by_socket.remove(&socket) else { return };
        tracked.http.end(None, at, &mut self.events);
        let thread = Thread { process: tracked.process, thread: 0 };
        tracked.observe(&mut self.events, thread, out);
        for (ordinal, mut seen) in std::mem::take(&mut tracked.open) {
            seen.ended = seen.ended.max(at);
            out.push(Observed::End {
                exchange: tracked.exchange(ordinal),
                connection: tracked.connection,
                seen,
            });
        }
    }
}

impl Tracked {
    const fn exchange(&self, ordinal: u64) -> ExchangeId {
        ExchangeId { connection: self.number, ordinal }
    }

    fn open_mut(&mut self, ordinal: u64) -> Option<&mut Exchange> {
        self.open.iter_mut().find(|(open, _)| *open == ordinal).map(|(_, exchange)| &mut **exchange)
    }

    /// Turns what the parser found into observations. A write that was rolled back may repeat what
    /// it found before; what is known already is passed over.
    fn observe(&mut self, events: &mut Vec<Event>, thread: Thread, out: &mut Vec<Observed>) {
        for event in events.drain(..) {
            match event {
                Event::Request { ordinal, started, head } => {
                    self.request(ordinal, started, head, thread, out);
                }
                Event::RequestEnd { ordinal, body, .. } => {
                    if let Some(open) = self.open_mut(ordinal) {
                        open.request_body = body;
                    }
                }
                Event::Response { ordinal, started, head } => {
                    if let Some(open) = self.open_mut(ordinal) {
                        open.status = Some(head.status);
                        open.ended = started;
                        if open.hop == Hop::AppServer {
                            out.push(Observed::Response { exchange: self.exchange(ordinal), thread });
                        }
                    }
                }
                Event::ResponseEnd { ordinal, at, body, complete } => {
                    self.response_end(ordinal, at, body, complete, out);
                }
                Event::Upgraded { ordinal } => {
                    let at = self.open_mut(ordinal).map_or(0, |open| open.ended);
                    self.response_end(ordinal, at, 0, true, out);
                    self.done = true;
                    out.push(Observed::Ignore(self.socket));
                }
                Event::Lost { reason, .. } => {
                    out.push(Observed::Lost(reason));
                    out.extend(
                        self.open
                            .iter()
                            .map(|(ordinal, _)| Observed::PositionLost { exchange: self.exchange(*ordinal) }),
                    );
                }
            }
        }
        if self.http.is_hopeless() && !self.done {
            self.done = true;
            out.push(Observed::Ignore(self.socket));
        }
    }

    fn request(
        &mut self,
        ordinal: u64,
        started: Nanos,
        head: RequestHead,
        thread: Thread,
        out: &mut Vec<Observed>,
    ) {
        let Some(hop) = self.hop else { return };
        if self.open_mut(ordinal).is_some() {
            return;
        }
        let head = Arc::new(head);
        self.open.push((
            ordinal,
            Box::new(Exchange {
                hop,
                process: thread.process,
                started,
                ended: started,
                head: Arc::clone(&head),
                request_body: 0,
                status: None,
                response_body: 0,
                complete: false,
            }),
        ));
        out.push(Observed::Request {
            exchange: self.exchange(ordinal),
            connection: self.connection,
            from_start: self.from_start,
            hop,
            thread,
            started,
            head,
        });
    }

    fn response_end(&mut self, ordinal: u64, at: Nanos, body: u64, complete: bool, out: &mut Vec<Observed>) {
        let Some(index) = self.open.iter().position(|(open, _)| *open == ordinal) else { return };
        let (_, mut seen) = self.open.remove(index);
        seen.ended = at.max(seen.started);
        seen.response_body = body;
        seen.complete = complete;
        out.push(Observed::End { exchange: self.exchange(ordinal), connection: self.connection, seen });
    }
}

/// Which side the app is, from bytes that begin like a message.
fn guess_hop(data: &[u8], is_write: bool) -> Option<Hop> {
    match http1::guess(data) {
        Guess::From(Peer::Client) => Some(if is_write { Hop::AppClient } else { Hop::AppServer }),
        Guess::From(Peer::Server) => Some(if is_write { Hop::AppServer } else { Hop::AppClient }),
        _ => None,
    }
}

fn connection(socket: &SocketId) -> Connection {
    const AF_INET: u16 = 2;
    let address = |bytes: [u8; 16], port| {
        let [a, b, c, d, ..] = bytes;
        let ip = if socket.family == AF_INET {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes))
        };
        SocketAddr::new(ip, port)
    };
    Connection::new(address(socket.local, socket.local_port), address(socket.remote, socket.remote_port))
}

#[cfg(test)]
mod tests;
