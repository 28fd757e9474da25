//! Both directions of a connection, and which response answers which request.

use super::body::{Body, Framing};
use super::guess::{TOO_SHORT, guess_at_boundary, skip_empty_lines};
use super::half::{Half, Message, Partial, Phase};
use super::head::{self, Method};
use super::waiting::{Answer, Exchange, Waiting};
use super::{Chunk, Event, Guess, MAX_HEAD, Peer, guess};
use meshweft_telemetry::DropReason;
use std::mem;

/// After so many changes of direction without a single message the connection is taken not to be
/// HTTP/1: there, nearly each change of direction is where a message begins.
const MAX_TURNS: u16 = 256;

/// One connection, as far as it was seen. See the [module](super) for its states.
///
/// Cloning it is cheap: it allocates only for a head of which a part is there, and for requests that
/// wait for their response.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Half,
    server: Half,
    waiting: Waiting,
    next_ordinal: u64,
    standing: Standing,
}

/// What is known about the connection as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// No message was seen yet.
    Unproven { positioned: bool, turns: u16, last: Option<Peer> },
    /// A message was.
    Proven,
    /// This is not HTTP/1.
    Hopeless,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// A connection that is seen from its first byte, or that is at a message's boundary in both
    /// directions.
    #[must_use]
    pub const fn new() -> Self {
        Self::at(Phase::Head(Partial::EMPTY), Phase::Head(Partial::EMPTY), true)
    }

    /// A connection whose position is not known: each direction is followed from the first chunk that
    /// begins like a message, and ordinals count from there.
    #[must_use]
    pub const fn in_the_middle() -> Self {
        Self::at(Phase::Lost(Partial::EMPTY), Phase::Lost(Partial::EMPTY), false)
    }

    const fn at(client: Phase, server: Phase, positioned: bool) -> Self {
        Self {
            client: Half::new(client),
            server: Half::new(server),
            waiting: Waiting::new(positioned),
            next_ordinal: 1,
            standing: Standing::Unproven { positioned, turns: 0, last: None },
        }
    }

    /// Whether this is not HTTP/1: nothing more will come of it, and [`Event::Lost`] said so.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.standing == Standing::Hopeless
    }

    /// Bytes that are kept of heads whose end has not been seen: at most [`MAX_HEAD`] for each
    /// direction.
    #[must_use]
    pub fn buffered(&self) -> usize {
        [&self.client, &self.server]
            .map(|half| match &half.phase {
                Phase::Head(partial) | Phase::Lost(partial) => partial.bytes.len(),
                _ => 0,
            })
            .iter()
            .sum()
    }

    /// Takes in the data of one system call.
    pub fn feed(&mut self, from: Peer, chunk: Chunk<'_>, events: &mut Vec<Event>) {
        if self.is_hopeless() || (chunk.bytes.is_empty() && chunk.missing == 0) {
            return;
        }
        if from == Peer::Server {
            self.waiting.server_spoke();
        }
        self.count_turn(from, events);
        self.half(from).resynchronise(from, chunk);
        self.notice_unsent_body(from, chunk.bytes, events);
        let mut rest = chunk.bytes;
        while !rest.is_empty() {
            rest = match &mut self.half(from).phase {
                Phase::Head(_) => self.read_head(from, rest, chunk.at, events),
                Phase::Body(_) => self.read_body(from, rest, chunk.at, events),
                Phase::Held { touched } => {
                    *touched = true;
                    &[]
                }
                Phase::Lost(_) | Phase::Tunnel | Phase::Ended => &[],
            };
        }
        if chunk.missing > 0 {
            self.skip(from, chunk.missing, chunk.at, events);
        }
        self.half(from).heard_at = chunk.at;
    }

    /// One direction was closed, or, with `None`, the connection is gone. `at` in ns.
    ///
    /// A response whose body ends with the connection is complete in both cases: the protocol does
    /// not tell a server that is done from one that broke off.
    pub fn end(&mut self, from: Option<Peer>, at: u64, events: &mut Vec<Event>) {
        if self.is_hopeless() {
            return;
        }
        if from != Some(Peer::Server) {
            if let Phase::Head(partial) = mem::replace(&mut self.client.phase, Phase::Ended)
                && !partial.bytes.is_empty()
            {
                events.push(Event::Lost { from: Peer::Client, reason: DropReason::Incomplete });
            }
            self.finish_request(events);
        }
        if from != Some(Peer::Client) {
            let phase = mem::replace(&mut self.server.phase, Phase::Ended);
            if let Phase::Head(partial) = &phase
                && !partial.bytes.is_empty()
            {
                events.push(Event::Lost { from: Peer::Server, reason: DropReason::Incomplete });
            }
            // RFC 9112 section 6.3, rule 8.
            let complete = matches!(phase, Phase::Body(Body::UntilClose));
            if complete {
                self.server.count(0, at);
            }
            self.finish_response(complete, events);
            for exchange in self.waiting.take() {
                self.abandon(exchange, at, events);
            }
        }
    }

    const fn half(&mut self, from: Peer) -> &mut Half {
        match from {
            Peer::Client => &mut self.client,
            Peer::Server => &mut self.server,
        }
    }

    fn count_turn(&mut self, from: Peer, events: &mut Vec<Event>) {
        if let Standing::Unproven { turns, last, .. } = &mut self.standing
            && *last != Some(from)
        {
            *last = Some(from);
            *turns += 1;
            if *turns > MAX_TURNS {
                self.give_up(from, events);
            }
        }
    }

    /// RFC 9110 section 10.1.1: a client that waits for 100 (Continue) and gets the final response
    /// instead may keep the body to itself; then its next bytes are the next request.
    fn notice_unsent_body(&mut self, from: Peer, bytes: &[u8], events: &mut Vec<Event>) {
        if let (Peer::Client, Phase::Body(_), Some(Message { ordinal, body: 0, expects_continue: true, .. })) =
            (from, &self.client.phase, self.client.message)
            && self.server.message.is_none_or(|response| response.ordinal != ordinal)
            && !ordinal.is_some_and(|ordinal| self.waiting.contains(ordinal))
            && guess(bytes) == Guess::From(Peer::Client)
        {
            self.client.phase = Phase::Head(Partial::EMPTY);
            self.finish_request(events);
        }
    }

    /// Takes bytes of a head, and gives back those after it.
    fn read_head<'a>(&mut self, from: Peer, bytes: &'a [u8], at: u64, events: &mut Vec<Event>) -> &'a [u8] {
        let Phase::Head(partial) = &mut self.half(from).phase else { return &[] };
        let mut partial = mem::take(partial);
        let known = partial.bytes.len();
        let bytes = if known == 0 { skip_empty_lines(bytes) } else { bytes };
        if bytes.is_empty() {
            return bytes;
        }
        let whole = if known == 0 {
            partial.started = at;
            bytes
        } else {
            let room = bytes.len().min((MAX_HEAD + 1).saturating_sub(known));
            partial.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
            &partial.bytes
        };
        // Once that much was looked at, it is a message's first line or nothing.
        if known < TOO_SHORT {
            let guess = guess_at_boundary(whole);
            if guess != Guess::TooShort && guess != Guess::From(from) {
                self.refuse(from, events);
                return &[];
            }
        }
        match head::find_end(whole, partial.searched) {
            Ok(end) if end <= MAX_HEAD => {
                let head = whole.get(..end).unwrap_or_default();
                match from {
                    Peer::Client => self.request(head, partial.started, at, events),
                    Peer::Server => self.response(head, partial.started, at, events),
                }
                bytes.get(end.saturating_sub(known)..).unwrap_or_default()
            }
            Err(searched) if whole.len() <= MAX_HEAD => {
                partial.searched = searched;
                if known == 0 {
                    partial.bytes = bytes.to_vec();
                }
                self.half(from).phase = Phase::Head(partial);
                &[]
            }
            _ => {
                self.lose_head(from, DropReason::HeadTooLarge, events);
                &[]
            }
        }
    }

    /// Takes bytes of a body, and gives back those after it.
    fn read_body<'a>(&mut self, from: Peer, bytes: &'a [u8], at: u64, events: &mut Vec<Event>) -> &'a [u8] {
        let half = self.half(from);
        let Phase::Body(body) = &mut half.phase else { return &[] };
        let Ok(progress) = body.read(bytes) else {
            half.count(0, at);
            self.lose(from, DropReason::Malformed, events);
            return &[];
        };
        half.count(progress.data, at);
        if progress.done {
            half.phase = Phase::Head(Partial::EMPTY);
            self.finish(from, events);
        }
        // Not more than `bytes` holds, so it fits.
        bytes.get(usize::try_from(progress.consumed).unwrap_or(usize::MAX)..).unwrap_or_default()
    }

    /// Passes over bytes that were not captured.
    fn skip(&mut self, from: Peer, missing: u64, at: u64, events: &mut Vec<Event>) {
        let half = self.half(from);
        match &mut half.phase {
            Phase::Head(_) => self.lose_head(from, DropReason::Gap, events),
            Phase::Body(body) => {
                let Ok(progress) = body.skip(missing) else {
                    half.count(0, at);
                    self.lose(from, DropReason::Gap, events);
                    return;
                };
                half.count(progress.data, at);
                if progress.done {
                    half.phase = Phase::Head(Partial::EMPTY);
                    self.finish(from, events);
                    if progress.consumed < missing {
                        self.lose_head(from, DropReason::Gap, events);
                    }
                }
            }
            Phase::Held { touched } => *touched = true,
            Phase::Lost(_) | Phase::Tunnel | Phase::Ended => {}
        }
    }

    fn request(&mut self, bytes: &[u8], started: u64, at: u64, events: &mut Vec<Event>) {
        let request = match head::request(bytes) {
            Ok(request) => request,
            Err(reason) => return self.lose_head(Peer::Client, reason, events),
        };
        self.standing = Standing::Proven;
        self.finish_request(events);
        self.settle(events);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let method = request.head.kind();
        let reported = self.waiting.push(ordinal, started, method);
        events.push(if reported {
            Event::Request { ordinal, started, head: request.head }
        } else {
            Event::Lost { from: Peer::Client, reason: DropReason::QueueFull }
        });
        self.client.message = Some(Message {
            ordinal: reported.then_some(ordinal),
            last: at,
            body: 0,
            expects_continue: request.expects_continue,
        });
        if method == Method::Connect {
            // RFC 9110 section 9.3.6: what follows is a tunnel's if the response is 2xx.
            self.finish_request(events);
            self.client.phase =
                if reported { Phase::Held { touched: false } } else { Phase::Lost(Partial::EMPTY) };
            return;
        }
        match (request.framing, Body::new(request.framing)) {
            (Framing::Faulty, _) => self.lose(Peer::Client, DropReason::Malformed, events),
            (_, Some(body)) => self.client.phase = Phase::Body(body),
            (_, None) => self.finish_request(events),
        }
    }

    fn response(&mut self, bytes: &[u8], started: u64, at: u64, events: &mut Vec<Event>) {
        let (head, by_fields) = match head::response(bytes) {
            Ok(response) => response,
            Err(reason) => return self.lose_head(Peer::Server, reason, events),
        };
        self.standing = Standing::Proven;
        // Its end was lost, or it would have been reported.
        self.finish_response(false, events);
        if matches!(head.status, 100 | 102..=199) {
            return;
        }
        let exchange = match self.waiting.answer() {
            Answer::To(exchange) => exchange,
            Answer::Unknown(given_up) => {
                for exchange in given_up {
                    self.abandon(exchange, self.server.heard_at, events);
                }
                events.push(Event::Lost { from: Peer::Server, reason: DropReason::Incomplete });
                if head.status == 101 {
                    self.tunnel(events);
                } else {
                    // Without its request nobody knows whether a body follows (HEAD).
                    self.server.phase = Phase::Lost(Partial::EMPTY);
                }
                return;
            }
        };
        let is_connect = exchange.method == Method::Connect;
        let upgraded = head.status == 101 || (is_connect && matches!(head.status, 200..=299));
        if upgraded {
            self.finish_request(events);
        }
        let ordinal = exchange.ordinal;
        events.push(Event::Response { ordinal, started, head });
        self.server.message =
            Some(Message { ordinal: Some(ordinal), last: at, body: 0, expects_continue: false });
        if upgraded {
            self.finish_response(true, events);
            events.push(Event::Upgraded { ordinal });
            self.tunnel(events);
            return;
        }
        if is_connect && let Phase::Held { touched } = self.client.phase {
            self.client.phase = Phase::Head(Partial::EMPTY);
            if touched {
                self.lose(Peer::Client, DropReason::Gap, events);
            }
        }
        let framing = head::response_framing(exchange.method, head.status, by_fields);
        match (framing, Body::new(framing)) {
            (Framing::Faulty, _) => self.lose(Peer::Server, DropReason::Malformed, events),
            (_, Some(body)) => self.server.phase = Phase::Body(body),
            (_, None) => self.finish_response(true, events),
        }
    }

    /// A request begins: what does that say about those before it?
    fn settle(&mut self, events: &mut Vec<Event>) {
        if self.waiting.is_empty() && self.server.message.is_none() {
            return;
        }
        if matches!(self.server.phase, Phase::Lost(_)) && self.waiting.client_waited() {
            // Their responses are over; they were in what was not seen.
            self.finish_response(false, events);
            self.abandon_all(events);
        } else {
            self.waiting.client_pipelines();
        }
    }

    fn abandon_all(&mut self, events: &mut Vec<Event>) {
        for exchange in self.waiting.take() {
            self.abandon(exchange, self.server.heard_at, events);
        }
    }

    /// Ends an exchange whose response was not seen, or not known to be its own.
    fn abandon(&mut self, exchange: Exchange, at: u64, events: &mut Vec<Event>) {
        let Exchange { ordinal, started, method, .. } = exchange;
        self.finish_lost_request(ordinal, events);
        events.push(Event::ResponseEnd { ordinal, at: at.max(started), body: 0, complete: false });
        if method == Method::Connect && matches!(self.client.phase, Phase::Held { .. }) {
            self.client.phase = Phase::Lost(Partial::EMPTY);
            self.waiting.requests_lost();
        }
    }

    fn finish(&mut self, from: Peer, events: &mut Vec<Event>) {
        match from {
            Peer::Client => self.finish_request(events),
            Peer::Server => self.finish_response(true, events),
        }
    }

    fn finish_request(&mut self, events: &mut Vec<Event>) {
        if let Some(Message { ordinal: Some(ordinal), last, body, .. }) = self.client.message.take() {
            events.push(Event::RequestEnd { ordinal, at: last, body });
        }
    }

    /// Of a request whose end was lost no more is seen once its response is over.
    fn finish_lost_request(&mut self, ordinal: u64, events: &mut Vec<Event>) {
        if matches!(self.client.phase, Phase::Lost(_))
            && self.client.message.is_some_and(|message| message.ordinal == Some(ordinal))
        {
            self.finish_request(events);
        }
    }

    fn finish_response(&mut self, complete: bool, events: &mut Vec<Event>) {
        if let Some(Message { ordinal: Some(ordinal), last, body, .. }) = self.server.message.take() {
            self.finish_lost_request(ordinal, events);
            events.push(Event::ResponseEnd { ordinal, at: last, body, complete });
        }
    }

    /// What has to be the beginning of a message is none.
    fn refuse(&mut self, from: Peer, events: &mut Vec<Event>) {
        if matches!(self.standing, Standing::Unproven { positioned: true, .. }) {
            self.give_up(from, events);
        } else {
            self.lose_head(from, DropReason::Malformed, events);
        }
    }

    fn give_up(&mut self, from: Peer, events: &mut Vec<Event>) {
        events.push(Event::Lost { from, reason: DropReason::UnknownProtocol });
        self.client = Half::new(Phase::Ended);
        self.server = Half::new(Phase::Ended);
        self.standing = Standing::Hopeless;
    }

    /// The position is lost at a boundary or in a head: that was a message, and a request counts.
    fn lose_head(&mut self, from: Peer, reason: DropReason, events: &mut Vec<Event>) {
        if from == Peer::Client {
            self.next_ordinal += 1;
        }
        self.lose(from, reason, events);
    }

    fn lose(&mut self, from: Peer, reason: DropReason, events: &mut Vec<Event>) {
        events.push(Event::Lost { from, reason });
        self.half(from).phase = Phase::Lost(Partial::EMPTY);
        match from {
            Peer::Client => self.waiting.requests_lost(),
            Peer::Server => self.waiting.responses_lost(),
        }
        if let Standing::Unproven { positioned, .. } = &mut self.standing {
            *positioned = false;
        }
    }

    /// The connection leaves HTTP/1; requests that were sent behind the one that asked for it get no
    /// answer.
    fn tunnel(&mut self, events: &mut Vec<Event>) {
        self.finish_request(events);
        self.abandon_all(events);
        self.client.phase = Phase::Tunnel;
        self.server.phase = Phase::Tunnel;
    }
}
