//! What holds for whatever a connection carries.

use meshweft_protocols::http1::{Chunk, Connection, Event, MAX_HEAD, Peer, UNKNOWN};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;
use std::ops::Range;

/// One request and its response, as bytes and as what has to be found.
#[derive(Clone, Debug)]
struct Exchange {
    request: Vec<u8>,
    response: Vec<u8>,
    method: &'static str,
    target: String,
    request_body: u64,
    status: u16,
    response_body: u64,
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Nothing,
    Length,
    Chunks,
}

/// A body in its framing: its field, its bytes, its length.
fn body(sent: Sent, length: usize, piece: usize) -> (String, Vec<u8>, u64) {
    let data = vec![b'x'; length];
    match sent {
        Sent::Nothing => (String::new(), Vec::new(), 0),
        Sent::Length => (format!("Content-Length: {length}\r\n"), data, length as u64),
        Sent::Chunks => {
            let mut bytes = Vec::new();
            for chunk in data.chunks(piece) {
                bytes.extend(format!("{:x};a=\"b\"\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\nSum: 1\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), bytes, length as u64)
        }
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let sent = || (select(vec![Sent::Nothing, Sent::Length, Sent::Chunks]), 0usize..200, 1usize..80);
    (
        select(vec!["GET", "HEAD", "POST", "DELETE", "FROB"]),
        "[a-z]{0,12}",
        sent(),
        select(vec![200u16, 204, 304, 404, 500]),
        sent(),
        vec(select(vec![100u16, 102, 103]), 0..3),
        select(vec!["\r\n", "\n"]),
    )
        .prop_map(|(method, path, request, status, response, interim, line)| {
            let (field, bytes, request_body) = body(request.0, request.1, request.2);
            let head =
                format!("{method} /{path} HTTP/1.1\r\nHost: shop\r\n{field}\r\n").replace("\r\n", line);
            let request = [head.as_bytes(), &bytes].concat();
            let without_body = method == "HEAD" || status == 204 || status == 304;
            // Without a length the response would end with the connection.
            let sent = match response.0 {
                Sent::Nothing if !without_body => Sent::Length,
                sent => sent,
            };
            let (field, bytes, response_body) = body(sent, response.1, response.2);
            let mut head: String =
                interim.iter().map(|status| format!("HTTP/1.1 {status} Wait\r\nA: b\r\n\r\n")).collect();
            head += &format!("HTTP/1.1 {status} Text\r\n{field}\r\n");
            let head = head.replace("\r\n", line);
            let (bytes, response_body) = if without_body { (Vec::new(), 0) } else { (bytes, response_body) };
            Exchange {
                request,
                response: [head.as_bytes(), &bytes].concat(),
                method,
                target: format!("/{path}"),
                request_body,
                status,
                response_body,
            }
        })
}

/// Batches of exchanges: a batch is pipelined, the next one waits for it.
fn conversation(batch: Range<usize>) -> impl Strategy<Value = Vec<Vec<Exchange>>> {
    vec(vec(exchange(), batch), 1..5)
}

/// The system calls: whose, and what they carried. `cuts` says where messages are cut, in turn.
fn calls(batches: &[Vec<Exchange>], cuts: &[usize]) -> Vec<(Peer, Vec<u8>)> {
    let mut cuts = cuts.iter().cycle();
    let mut calls = Vec::new();
    for batch in batches {
        for (peer, bytes) in [
            (Peer::Client, batch.iter().flat_map(|exchange| exchange.request.clone()).collect::<Vec<u8>>()),
            (Peer::Server, batch.iter().flat_map(|exchange| exchange.response.clone()).collect()),
        ] {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (call, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                calls.push((peer, call.to_vec()));
                rest = after;
            }
        }
    }
    calls
}

/// Which ordinals requests and responses have, and that nothing ends that did not begin.
#[derive(Default)]
struct Ledger {
    last: u64,
    sending: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    receiving: Option<u64>,
}

impl Ledger {
    fn note(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Request { ordinal, .. } => {
                prop_assert!(*ordinal > self.last, "{:?}", event);
                self.last = *ordinal;
                self.sending.insert(*ordinal);
                self.waiting.insert(*ordinal);
            }
            Event::RequestEnd { ordinal, .. } => prop_assert!(self.sending.remove(ordinal), "{:?}", event),
            Event::Response { ordinal, .. } => {
                prop_assert_eq!(self.waiting.first(), Some(ordinal));
                prop_assert_eq!(self.receiving.replace(*ordinal), None);
            }
            Event::ResponseEnd { ordinal, .. } => {
                prop_assert_eq!(self.waiting.first(), Some(ordinal));
                prop_assert!(self.receiving.is_none_or(|receiving| receiving == *ordinal));
                self.receiving = None;
                self.waiting.remove(ordinal);
            }
            Event::Upgraded { ordinal } => prop_assert!(*ordinal <= self.last),
            Event::Lost { .. } => {}
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.sending.is_empty() && self.waiting.is_empty() && self.receiving.is_none()
    }
}

fn checked(events: &[Event]) -> Result<(), TestCaseError> {
    let mut ledger = Ledger::default();
    events.iter().try_for_each(|event| ledger.note(event))?;
    prop_assert!(ledger.is_settled());
    Ok(())
}

/// When a request began, its target, when its response began, its status. Each call has its own time.
type Pair = (u64, Vec<u8>, u64, u16);

fn pairs(events: &[Event]) -> Vec<Pair> {
    let mut sent = std::collections::BTreeMap::new();
    let mut pairs = Vec::new();
    for event in events {
        match event {
            Event::Request { ordinal, started, head } => {
                sent.insert(*ordinal, (*started, head.target.clone()));
            }
            Event::Response { ordinal, started, head } => {
                let (request, target) = sent[ordinal].clone();
                pairs.push((request, target, *started, head.status));
            }
            _ => {}
        }
    }
    pairs
}

/// How much of a call was captured, and whether the length of the rest is known.
#[derive(Clone, Copy, Debug)]
enum Capture {
    All,
    Prefix(prop::sample::Index),
    Unknown(prop::sample::Index),
}

fn capture() -> impl Strategy<Value = Capture> {
    prop_oneof![
        4 => Just(Capture::All),
        1 => any::<prop::sample::Index>().prop_map(Capture::Prefix),
        1 => any::<prop::sample::Index>().prop_map(Capture::Unknown),
    ]
}

fn play(mut connection: Connection, calls: &[(Peer, Vec<u8>)], captures: &[Capture]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut captures = captures.iter().cycle();
    for (index, (from, bytes)) in calls.iter().enumerate() {
        let (length, unknown) = match captures.next() {
            None | Some(Capture::All) => (bytes.len(), false),
            Some(Capture::Prefix(index)) => (index.index(bytes.len()), false),
            Some(Capture::Unknown(index)) => (index.index(bytes.len()), true),
        };
        let missing = if unknown { UNKNOWN } else { (bytes.len() - length) as u64 };
        connection.feed(*from, Chunk { bytes: &bytes[..length], missing, at: index as u64 + 1 }, &mut events);
    }
    connection.end(None, calls.len() as u64 + 1, &mut events);
    events
}

/// All captured; the exchanges are those that were made.
fn truth(batches: &[Vec<Exchange>], calls: &[(Peer, Vec<u8>)]) -> Result<Vec<Pair>, TestCaseError> {
    let events = play(Connection::new(), calls, &[]);
    checked(&events)?;
    let mut found = std::collections::BTreeMap::<u64, (String, Vec<u8>, u64, u16, u64, bool)>::new();
    for event in &events {
        match event {
            Event::Request { ordinal, head, .. } => {
                found.insert(*ordinal, (head.method.to_string(), head.target.clone(), 0, 0, 0, false));
            }
            Event::RequestEnd { ordinal, body, .. } => found.get_mut(ordinal).unwrap().2 = *body,
            Event::Response { ordinal, head, .. } => found.get_mut(ordinal).unwrap().3 = head.status,
            Event::ResponseEnd { ordinal, body, complete, .. } => {
                let exchange = found.get_mut(ordinal).unwrap();
                (exchange.4, exchange.5) = (*body, *complete);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
    let expected: Vec<_> = batches
        .iter()
        .flatten()
        .map(|exchange| {
            let Exchange { method, target, request_body, status, response_body, .. } = exchange;
            ((*method).to_owned(), target.clone().into_bytes(), *request_body, *status, *response_body, true)
        })
        .collect();
    prop_assert!(found.keys().copied().eq(1..=expected.len() as u64));
    prop_assert_eq!(found.into_values().collect::<Vec<_>>(), expected);
    Ok(pairs(&events))
}

/// Bytes that look like messages often enough to get somewhere.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let token = select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"HEAD http://a@b/c HTTP/1.0\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 Go\r\n",
        b"HTTP/1.1 100 Go\r\n\r\n",
        b"HTTP/1.1 304\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        b"\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"G",
        b"\n",
        b"\x00",
    ])
    .prop_map(<[u8]>::to_vec);
    let piece = prop_oneof![6 => token, 1 => vec(any::<u8>(), 0..8), 1 => (1usize..5000).prop_map(|length| vec![b'a'; length])];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn arbitrary_chunks_keep_the_ledger_and_the_memory(
        middle in any::<bool>(),
        chunks in vec((any::<bool>(), hostile(), prop_oneof![3 => Just(0u64), 2 => 1u64..20, 1 => any::<u64>(), 1 => Just(UNKNOWN)]), 0..40),
        ends in vec((0usize..40, any::<Option<bool>>()), 0..2),
    ) {
        let peer = |client| if client { Peer::Client } else { Peer::Server };
        let mut connection = if middle { Connection::in_the_middle() } else { Connection::new() };
        let mut events = Vec::new();
        for (index, (client, bytes, missing)) in chunks.iter().enumerate() {
            let chunk = Chunk { bytes, missing: *missing, at: index as u64 };
            connection.feed(peer(*client), chunk, &mut events);
            prop_assert!(connection.buffered() <= 2 * MAX_HEAD);
            for (_, from) in ends.iter().filter(|(end, _)| *end == index) {
                connection.end(from.map(peer), index as u64, &mut events);
            }
        }
        connection.end(None, 1000, &mut events);
        if connection.is_hopeless() {
            prop_assert_eq!(events.len(), events.iter().position(|event| matches!(event, Event::Lost { reason, .. } if reason.as_str() == "unknown_protocol")).unwrap() + 1);
        }
        checked(&events)?;
    }

    #[test]
    fn a_conversation_in_any_chunks_yields_its_exchanges(
        batches in conversation(1..6),
        cuts in vec(prop_oneof![1usize..8, 1usize..400], 1..20),
    ) {
        truth(&batches, &calls(&batches, &cuts))?;
    }

    #[test]
    fn holes_never_pair_wrongly_where_the_client_waits(
        batches in conversation(1..2),
        cuts in vec(prop_oneof![1usize..60, 1usize..400], 1..20),
        captures in vec(capture(), 1..30),
        middle in any::<bool>(),
    ) {
        let calls = calls(&batches, &cuts);
        let truth = truth(&batches, &calls)?;
        let events = play(if middle { Connection::in_the_middle() } else { Connection::new() }, &calls, &captures);
        checked(&events)?;
        for pair in pairs(&events) {
            prop_assert!(truth.contains(&pair), "{:?} of {:?}", pair, events);
        }
    }

    #[test]
    fn holes_never_pair_wrongly_where_pipelining_was_seen(
        first in vec(exchange(), 2..4),
        batches in conversation(1..5),
        cuts in vec(prop_oneof![1usize..60, 1usize..400], 1..20),
        captures in vec(capture(), 1..30),
    ) {
        let first = [first];
        // The first batch in one call each, so that the client does not wait.
        let before = calls(&first, &[usize::MAX]);
        let after = calls(&batches, &cuts);
        let all: Vec<_> = first.into_iter().chain(batches).collect();
        let calls: Vec<_> = before.iter().chain(&after).cloned().collect();
        let truth = truth(&all, &calls)?;
        let captures: Vec<_> = [Capture::All; 2].into_iter().chain(captures.into_iter().cycle().take(after.len())).collect();
        let events = play(Connection::new(), &calls, &captures);
        checked(&events)?;
        for pair in pairs(&events) {
            prop_assert!(truth.contains(&pair), "{:?} of {:?}", pair, events);
        }
    }

    #[test]
    fn a_hole_in_a_body_of_known_length_costs_nothing(
        batches in conversation(1..2),
        captured in any::<prop::sample::Index>(),
    ) {
        let calls = calls(&batches, &[usize::MAX]);
        let expected = play(Connection::new(), &calls, &[]);
        let mut connection = Connection::new();
        let mut events = Vec::new();
        for (index, (from, bytes)) in calls.iter().enumerate() {
            // Data is `x` alone at the end of a message that has its length.
            let body = bytes.iter().rev().take_while(|byte| **byte == b'x').count();
            let length = bytes.len() - captured.index(body + 1);
            let chunk = Chunk { bytes: &bytes[..length], missing: (bytes.len() - length) as u64, at: index as u64 + 1 };
            connection.feed(*from, chunk, &mut events);
        }
        connection.end(None, calls.len() as u64 + 1, &mut events);
        prop_assert_eq!(events, expected);
    }
}
