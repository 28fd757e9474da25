//! Events as the kernel sends them, without a kernel.

use super::*;

const SERVER: u32 = 100;
const REQUEST: &[u8] = b"GET /orders/1 HTTP/1.1\r\nHost: orders\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

struct Node {
    connections: Connections,
    observed: Vec<Observed>,
    at: Nanos,
}

/// A socket at this place in the kernel's memory, with this remote port.
fn socket(pointer: u64, remote_port: u16) -> SocketId {
    let mut local = [0; 16];
    local[..4].copy_from_slice(&[10, 0, 0, 2]);
    let mut remote = [0; 16];
    remote[..4].copy_from_slice(&[127, 0, 0, 6]);
    SocketId { pointer, local, remote, local_port: 8080, remote_port, family: 2, reserved: 0 }
}

impl Node {
    fn new() -> Self {
        Self { connections: Connections::default(), observed: Vec::new(), at: 1_000 }
    }

    fn event(&mut self, kind: EventKind, of: SocketId, thread: u32, data: &[u8], length: u64) {
        self.event_of(SERVER, kind, of, thread, data, length);
    }

    fn event_of(
        &mut self,
        process: u32,
        kind: EventKind,
        of: SocketId,
        thread: u32,
        data: &[u8],
        length: u64,
    ) {
        self.at += 10;
        let header = EventHeader {
            at: self.at,
            tgid: process,
            tid: thread,
            socket: of,
            length,
            captured: u32::try_from(data.len()).unwrap(),
            fd: 4,
            kind: kind as u8,
            reserved: [0; 7],
        };
        self.connections.event(&header, data, self.at, &mut self.observed);
    }

    fn read(&mut self, of: SocketId, data: &[u8]) {
        self.event(EventKind::Read, of, 1, data, data.len() as u64);
    }

    fn write(&mut self, of: SocketId, data: &[u8]) {
        self.event(EventKind::Write, of, 1, data, data.len() as u64);
    }

    fn requests(&self) -> Vec<(Hop, bool)> {
        let request = |observed: &Observed| match observed {
            Observed::Request { hop, from_start, .. } => Some((*hop, *from_start)),
            _ => None,
        };
        self.observed.iter().filter_map(request).collect()
    }

    fn ends(&self) -> Vec<&Exchange> {
        let mut ends = Vec::new();
        for observed in &self.observed {
            if let Observed::End { seen, .. } = observed {
                ends.push(&**seen);
            }
        }
        ends
    }

    fn lost(&self) -> Vec<DropReason> {
        let lost = |observed: &Observed| match observed {
            Observed::Lost(reason) => Some(*reason),
            _ => None,
        };
        self.observed.iter().filter_map(lost).collect()
    }
}

#[test]
fn an_accepted_connection_makes_a_server_and_a_connected_one_a_client() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    node.event(EventKind::Connect, socket(2, 8080), 1, b"", 0);
    node.write(socket(2, 8080), REQUEST);
    node.read(socket(2, 8080), RESPONSE);
    node.write(socket(1, 50_000), RESPONSE);
    assert_eq!(node.requests(), [(Hop::AppServer, true), (Hop::AppClient, true)]);
    let ends = node.ends();
    assert_eq!(ends.iter().map(|end| end.hop).collect::<Vec<_>>(), [Hop::AppClient, Hop::AppServer]);
    for end in ends {
        assert_eq!((end.status, end.response_body, end.complete), (Some(200), 5, true));
        assert!(end.started < end.ended);
    }
}

#[test]
fn a_connection_that_was_open_before_is_understood_from_its_next_message_on() {
    let mut node = Node::new();
    node.write(socket(1, 50_000), b"the rest of some response");
    assert!(node.requests().is_empty());
    node.read(socket(1, 50_000), REQUEST);
    node.write(socket(1, 50_000), RESPONSE);
    assert_eq!(node.requests(), [(Hop::AppServer, false)]);
    assert_eq!(node.ends().len(), 1);
}

#[test]
fn a_write_that_was_cut_short_is_taken_as_far_as_it_went() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    // Nothing went, then a part, then the rest.
    node.write(socket(1, 50_000), RESPONSE);
    assert_eq!(node.ends().len(), 1, "told at the entry");
    let mut node = Node::new();
    node.event(EventKind::Connect, socket(2, 8080), 1, b"", 0);
    node.write(socket(2, 8080), REQUEST);
    node.event(EventKind::WriteResult, socket(2, 8080), 1, b"", 0);
    node.write(socket(2, 8080), REQUEST);
    node.event(EventKind::WriteResult, socket(2, 8080), 1, b"", 10);
    node.write(socket(2, 8080), &REQUEST[10..]);
    assert_eq!(node.requests(), [(Hop::AppClient, true)], "one request, told once");
    node.read(socket(2, 8080), RESPONSE);
    node.write(socket(2, 8080), REQUEST);
    node.read(socket(2, 8080), RESPONSE);
    assert_eq!(node.ends().len(), 2);
    assert!(node.lost().is_empty(), "{:?}", node.lost());
}

#[test]
fn the_result_of_another_threads_write_changes_nothing() {
    let mut node = Node::new();
    node.event(EventKind::Connect, socket(2, 8080), 1, b"", 0);
    node.write(socket(2, 8080), REQUEST);
    node.event(EventKind::WriteResult, socket(2, 8080), 7, b"", 0);
    node.read(socket(2, 8080), RESPONSE);
    assert_eq!(node.ends().len(), 1);
}

#[test]
fn a_close_by_a_process_that_only_inherited_the_socket_does_not_end_it() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    node.event_of(SERVER + 1, EventKind::Close, socket(1, 50_000), 9, b"", 0);
    node.write(socket(1, 50_000), RESPONSE);
    assert!(node.ends()[0].complete);
    node.event(EventKind::Close, socket(1, 50_000), 1, b"", 0);
    assert!(node.connections.is_empty());
}

#[test]
fn a_new_connection_at_the_same_place_in_memory_is_another() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    node.read(socket(1, 50_001), REQUEST);
    assert_eq!(node.requests(), [(Hop::AppServer, true), (Hop::AppServer, false)]);
    assert_eq!(node.ends().len(), 1, "the first was given up");
    assert!(!node.ends()[0].complete);
}

#[test]
fn garbage_is_counted_and_not_wanted_any_more() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    assert_eq!(node.lost(), [DropReason::UnknownProtocol]);
    assert!(matches!(node.observed.last(), Some(Observed::Ignore(ignored)) if ignored.pointer == 1));
}

#[test]
fn after_lost_events_the_next_message_is_found() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    let at = node.at;
    node.connections.events_lost(at, &mut node.observed);
    assert!(node.lost().contains(&DropReason::Gap));
    node.read(socket(1, 50_000), REQUEST);
    node.write(socket(1, 50_000), RESPONSE);
    assert_eq!(node.ends().iter().filter(|end| end.complete).count(), 1);
}

#[test]
fn the_end_of_a_process_ends_its_requests() {
    let mut node = Node::new();
    node.event(EventKind::Accept, socket(1, 50_000), 1, b"", 0);
    node.read(socket(1, 50_000), REQUEST);
    let at = node.at + 10;
    node.connections.process_exit(SERVER, at, &mut node.observed);
    assert_eq!(
        node.ends().iter().map(|end| (end.status, end.complete, end.ended)).collect::<Vec<_>>(),
        [(None, false, at)]
    );
}

#[test]
fn the_table_is_bounded() {
    let mut node = Node::new();
    for pointer in 0..MAX_CONNECTIONS as u64 + 1 {
        node.event(EventKind::Accept, socket(pointer + 1, 50_000), 1, b"", 0);
    }
    assert!(node.connections.len() <= MAX_CONNECTIONS);
    assert!(node.lost().contains(&DropReason::TableFull));
}
