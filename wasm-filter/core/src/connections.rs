//! What is known of a downstream connection, and which request of it is the n-th.

use crate::facts::number;
use crate::host::Host;
use crate::labels::{self, Side};
use crate::node::Node;
use crate::peer;
use crate::semantics;
use crate::span::{Attributes, SPAN_ATTRIBUTES};
use crate::table::Table;
use meshweft_telemetry::{Hop, attributes};

/// Property, of the life of a connection, that says that a filter has seen a request of it.
const MARK: &str = "meshweft.seen";
/// VMs that start within this time of the first one, in nanoseconds, are the workers of a proxy
/// that starts, not the successors of others.
const FIRST_GENERATION: u64 = 5_000_000_000;
const GENERATION_KEY: &str = "meshweft.generation";

/// The connections of one VM.
///
/// # Which request is the n-th
/// The n is counted here, from the first request that this VM saw. It is right only if that was
/// the first request of the connection, and a wrong n is worse than none. So it is told only where
/// nothing speaks against it:
/// - Envoy can keep a property for the life of a connection. The first filter that sees a request
///   marks the connection. A connection that is new to this VM but has a mark was counted by
///   another one (the module or its configuration was exchanged), or by this one before its entry
///   had to go: its n is unknown for good.
/// - Requests that no filter saw leave no mark. With a filter in the listener from the start there
///   are none, except while a VM was down and requests passed it by (fail open). So only VMs of
///   the proxy's first generation trust a missing mark. For later ones, and for hosts without such
///   properties, a connection must in addition have a higher id than every one that this VM saw
///   before: ids of connections rise in the order of their accept. The very first connection of
///   such a VM stays without n. What remains is a connection that served requests while the VM was
///   down, was idle until after a connection accepted before it was seen, and then went on.
#[derive(Debug)]
pub struct Connections {
    table: Table<u64, Connection>,
    highest: Option<u64>,
    first_generation: bool,
    marks: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    hop: Hop,
    ordinal: Option<u64>,
    logged: u32,
    described: Option<Described>,
}

#[derive(Debug)]
struct Described {
    attributes: Attributes,
    peer_known: bool,
}

impl Connections {
    /// An empty table of at most `limit` connections, of a VM that starts at `now`. Also returns a
    /// number that no other VM of this proxy has.
    pub fn new(host: &impl Host, limit: usize, now: u64) -> (Self, u64) {
        let (first_start, vm) = enroll(host, now);
        let this = Self {
            table: Table::new(limit),
            highest: None,
            first_generation: now.saturating_sub(first_start) < FIRST_GENERATION,
            marks: host.function("declare_property", &declaration()).is_some(),
        };
        (this, vm)
    }

    /// Takes note of a request on connection `id`: its hop, and which request of the connection it
    /// is, counted from 1, where that is known.
    pub fn request(&mut self, host: &impl Host, node: &Node, id: u64) -> (Hop, Option<u64>) {
        if let Some(connection) = self.table.get(&id) {
            connection.ordinal = connection.ordinal.and_then(|ordinal| ordinal.checked_add(1));
            return (connection.hop, connection.ordinal);
        }
        let marked = self.marks && host.property(MARK.as_bytes()).is_some_and(|mark| !mark.is_empty());
        if self.marks && !marked {
            host.set_property(MARK.as_bytes(), b"1");
        }
        let newest = self.highest.is_some_and(|highest| id > highest);
        self.highest = self.highest.max(Some(id));
        let new = !marked && (newest || (self.marks && self.first_generation));
        let connection = Connection::read(host, node, new.then_some(1));
        let answer = (connection.hop, connection.ordinal);
        self.table.insert(id, connection);
        answer
    }

    /// The attributes of connection `id`, whose stream was just finished. They are read at the
    /// connection's first log, when the proxy knows all of them.
    pub fn describe(&mut self, host: &impl Host, node: &Node, id: u64, attributes: &mut Attributes) {
        if self.table.get(&id).is_none() {
            // Its entry had to go while the request was under way.
            self.table.insert(id, Connection::read(host, node, None));
        }
        let Some(connection) = self.table.get(&id) else { return };
        connection.logged = connection.logged.saturating_add(1);
        // A peer can become known later, but looking for one in vain at each request would cost
        // more than all the rest; so it is looked for at the 1st, 2nd, 4th, 8th ... request.
        let again = connection.logged.is_power_of_two();
        match &connection.described {
            Some(described) if described.peer_known || !again => attributes.extend(&described.attributes),
            _ => {
                let described = connection.read_description(host, node, id);
                attributes.extend(&described.attributes);
                connection.described = Some(described);
            }
        }
    }
}

impl Connection {
    fn read(host: &impl Host, node: &Node, ordinal: Option<u64>) -> Self {
        let direction = host.property(b"xds\0listener_direction").and_then(|direction| number(&direction));
        Self { hop: node.hop(direction), ordinal, logged: 0, described: None }
    }

    fn read_description(&self, host: &impl Host, node: &Node, id: u64) -> Described {
        let mut out = Attributes::new(SPAN_ATTRIBUTES);
        let property = |path: &[u8]| host.property(path).unwrap_or_default();
        out.string(attributes::HOP, self.hop.as_str().as_bytes());
        out.int(attributes::CONNECTION_ID, i64::try_from(id).unwrap_or(i64::MAX));
        let source = property(b"source\0address");
        let source = if self.hop == Hop::MeshOutbound { node.outbound_source(source) } else { source };
        out.string(attributes::SOURCE, &source);
        out.string(attributes::DESTINATION, &property(b"destination\0address"));
        let version = semantics::protocol_version(&property(b"request\0protocol"));
        out.string(attributes::NETWORK_PROTOCOL_VERSION, version.as_bytes());
        out.string(labels::REPORTER, labels::reporter(self.hop).as_bytes());

        let mut peer_known = true;
        if matches!(self.hop, Hop::MeshOutbound | Hop::MeshGateway) {
            node.local.describe(Side::Source, &mut out);
            out.string(labels::CONNECTION_SECURITY_POLICY, b"unknown");
        } else {
            let mutual = property(b"connection\0mtls").first().is_some_and(|mtls| *mtls != 0);
            let policy: &[u8] = match (self.hop, mutual) {
                (_, true) => b"mutual_tls",
                (Hop::MeshInbound, false) => b"none",
                // The TLS of a waypoint ends outside of the connection that it sees.
                _ => b"",
            };
            out.string(labels::CONNECTION_SECURITY_POLICY, policy);
            // At a waypoint, the peer's certificate was seen by the tunnel's listener, and Istio
            // keeps its name in the filter state.
            let peer: &[u8] = if mutual {
                b"connection\0uri_san_peer_certificate"
            } else {
                b"filter_state\0io.istio.peer_principal"
            };
            out.string(labels::SOURCE_PRINCIPAL, &property(peer));
            if mutual && self.hop == Hop::MeshInbound {
                out.string(
                    labels::DESTINATION_PRINCIPAL,
                    &property(b"connection\0uri_san_local_certificate"),
                );
            }
            if self.hop == Hop::MeshInbound {
                node.local.describe(Side::Destination, &mut out);
            }
            match peer::downstream(host) {
                Some(peer) => peer.describe(Side::Source, &mut out),
                None => peer_known = false,
            }
        }
        Described { attributes: out, peer_known }
    }
}

/// `DeclarePropertyArguments` of Envoy (`source/extensions/common/wasm/ext/declare_property.proto`):
/// a string of the life of the downstream connection.
fn declaration() -> Vec<u8> {
    let len = u8::try_from(MARK.len()).unwrap_or(0);
    [&[0x0a, len][..], MARK.as_bytes(), &[0x18, 1, 0x28, 2]].concat()
}

/// Adds this VM to those of the proxy. Returns when the first of them started, in nanoseconds
/// since the Unix epoch, and how many came before this one.
fn enroll(host: &impl Host, now: u64) -> (u64, u64) {
    // Workers start at the same time; each lost race lets another one through.
    for _ in 0..64 {
        let (value, version) = host.shared_data(GENERATION_KEY);
        let (first_start, before) = value.as_deref().and_then(generation).unwrap_or((now, 0));
        let next = [first_start.to_le_bytes(), before.saturating_add(1).to_le_bytes()].concat();
        if host.set_shared_data(GENERATION_KEY, &next, version) {
            return (first_start, before);
        }
    }
    // Without proof, this VM counts as a successor.
    (0, now)
}

fn generation(value: &[u8]) -> Option<(u64, u64)> {
    let (first_start, before) = value.split_at_checked(8)?;
    Some((u64::from_le_bytes(first_start.try_into().ok()?), u64::from_le_bytes(before.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    const SECOND: u64 = 1_000_000_000;

    struct Vm {
        host: FakeHost,
        node: Node,
        connections: Connections,
    }

    /// A VM that starts so many seconds after the first one; `marks` is whether its host can mark.
    fn vm(limit: usize, start: u64, marks: bool) -> Vm {
        let host = FakeHost::default();
        if marks {
            host.functions.borrow_mut().insert("declare_property".to_owned(), Vec::new());
        }
        host.set_shared_data(GENERATION_KEY, &[SECOND.to_le_bytes(), 1_u64.to_le_bytes()].concat(), 0);
        let (connections, number) = Connections::new(&host, limit, start * SECOND + SECOND);
        assert_eq!(number, 1);
        Vm { node: Node::read(&host), host, connections }
    }

    impl Vm {
        fn request(&mut self, id: u64) -> Option<u64> {
            self.host.connection.set(id);
            self.connections.request(&self.host, &self.node, id).1
        }
    }

    #[test]
    fn requests_are_counted_for_each_connection() {
        let mut vm = vm(100, 0, true);
        assert_eq!([7, 7, 3, 7, 3].map(|id| vm.request(id)), [Some(1), Some(2), Some(1), Some(3), Some(2)]);
    }

    #[test]
    fn a_connection_that_another_filter_has_marked_has_no_number_for_good() {
        let mut vm = vm(100, 0, true);
        vm.host.connection.set(9);
        vm.host.set_property(MARK.as_bytes(), b"1");
        assert_eq!([9, 9, 10].map(|id| vm.request(id)), [None, None, Some(1)]);
    }

    #[test]
    fn a_connection_whose_entry_went_has_no_number() {
        for marks in [true, false] {
            let mut vm = vm(4, 0, marks);
            vm.request(0);
            for id in 1..20 {
                assert_eq!(vm.request(id), Some(1), "{id}");
            }
            assert_eq!(vm.request(1), None);
            assert_eq!(vm.request(1), None);
        }
    }

    #[test]
    fn a_later_vm_does_not_trust_its_first_connection_nor_older_ones() {
        for (start, marks) in [(60, true), (60, false), (0, false)] {
            let mut vm = vm(100, start, marks);
            assert_eq!([5, 3, 6, 4, 6].map(|id| vm.request(id)), [None, None, Some(1), None, Some(2)]);
        }
    }

    #[test]
    fn each_vm_of_a_proxy_has_its_own_number() {
        let host = FakeHost::default();
        let numbers: Vec<_> = (0..4).map(|_| Connections::new(&host, 2, SECOND).1).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
    }
}
