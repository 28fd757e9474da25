//! Whatever a connection carries, in whatever calls: a request is reported once, ends once, and is
//! answered at most once and in order; what is kept stays bounded; the connection's end settles all;
//! and a copy of the state goes on as the original does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshweft_protocols::http1::{self, Chunk, Connection, Event, Guess, MAX_HEAD, MAX_PIPELINED, Peer};
use std::collections::BTreeSet;

/// What a call may begin with, so that the fuzzer need not find it byte by byte.
const STARTS: [&[u8]; 8] = [
    b"",
    b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"POST /a HTTP/1.1\r\nContent-Length: 9\r\n",
    b"CONNECT db:1 HTTP/1.1\r\n\r\n",
    b"HEAD http://a@b/c HTTP/1.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
];

// A call is a byte that says whose it is, how it starts and whether bytes are missing; how many
// bytes follow; how many are missing; and the bytes.
fuzz_target!(|data: &[u8]| {
    let [first, rest @ ..] = data else { return };
    let mut rest = rest;
    let mut connection = if first & 1 == 0 { Connection::new() } else { Connection::in_the_middle() };
    let mut ledger = Ledger::default();
    let mut at = 0;
    while let [what, length, missing, after @ ..] = rest {
        let (own, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        at += 1;
        let from = if what & 1 == 0 { Peer::Client } else { Peer::Server };
        let bytes = [STARTS[usize::from(what >> 1 & 7)], own].concat();
        let missing = match what >> 4 & 3 {
            0 | 1 => 0,
            2 => u64::from(*missing),
            _ => u64::MAX - u64::from(*missing),
        };
        if let Guess::TooShort = http1::guess(&bytes) {
            assert!(bytes.iter().filter(|byte| !b"\r\n".contains(byte)).count() <= 64);
        }
        let mut events = Vec::new();
        let mut copy = connection.clone();
        if what >> 6 == 3 {
            connection.end(Some(from), at, &mut events);
        } else {
            let chunk = Chunk { bytes: &bytes, missing, at };
            connection.feed(from, chunk, &mut events);
            let mut again = Vec::new();
            copy.feed(from, chunk, &mut again);
            assert_eq!(events, again);
        }
        assert!(connection.buffered() <= 2 * MAX_HEAD);
        ledger.note(&events);
    }
    let mut events = Vec::new();
    connection.end(None, at + 1, &mut events);
    ledger.note(&events);
    assert!(ledger.sending.is_empty() && ledger.waiting.is_empty() && ledger.receiving.is_none());
});

#[derive(Default)]
struct Ledger {
    last: u64,
    sending: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    receiving: Option<u64>,
}

impl Ledger {
    fn note(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Request { ordinal, .. } => {
                    assert!(*ordinal > self.last);
                    self.last = *ordinal;
                    self.sending.insert(*ordinal);
                    self.waiting.insert(*ordinal);
                }
                Event::RequestEnd { ordinal, .. } => assert!(self.sending.remove(ordinal)),
                Event::Response { ordinal, .. } => {
                    assert_eq!(self.waiting.first(), Some(ordinal));
                    assert_eq!(self.receiving.replace(*ordinal), None);
                }
                Event::ResponseEnd { ordinal, .. } => {
                    assert!(self.receiving.is_none_or(|receiving| receiving == *ordinal));
                    assert_eq!(self.waiting.pop_first(), Some(*ordinal));
                    self.receiving = None;
                }
                Event::Upgraded { ordinal } => assert!(*ordinal <= self.last),
                Event::Lost { .. } => {}
            }
        }
        // One more may be receiving its response.
        assert!(self.waiting.len() <= MAX_PIPELINED + 1);
    }
}
