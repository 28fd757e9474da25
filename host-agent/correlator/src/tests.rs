//! Whole requests, from what the probes and proxies see to the tree.

use std::net::SocketAddr;

use meshweft_telemetry::{Connection, Evidence, Hop, SpanContext, SpanId, TraceFlags, id::IdGenerator};

use crate::{
    Config, Correlator, ExchangeId, MeshSpan, Nanos, Question, Request, Thread, Woven, request_line,
};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The app's connection to its callee.
fn outbound() -> Connection {
    Connection::new(address("10.0.0.2:40000"), address("10.0.1.1:8080"))
}

/// The sidecar's connection to the app.
fn inbound() -> Connection {
    Connection::new(address("10.0.0.2:8080"), address("127.0.0.6:50000"))
}

fn exchange(connection: u64, ordinal: u64) -> ExchangeId {
    ExchangeId { connection, ordinal }
}

fn thread(thread: u32) -> Thread {
    Thread { process: 100, thread }
}

struct World {
    correlator: Correlator<&'static str>,
    ids: IdGenerator,
    now: Nanos,
}

impl World {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        Self { correlator: Correlator::new(config, 1), ids: IdGenerator::new(2), now: 1_000 * SECOND }
    }

    fn context(&mut self) -> SpanContext {
        SpanContext { trace_id: self.ids.trace_id(), span_id: self.ids.span_id(), flags: TraceFlags::SAMPLED }
    }

    fn server(&mut self, id: ExchangeId, on: Thread, wire: Option<SpanContext>) -> SpanContext {
        self.now += MS;
        self.correlator.server_request(
            id,
            Request {
                connection: inbound(),
                from_start: true,
                thread: on,
                started: self.now,
                method: b"GET",
                target: b"/checkout/1?x=y",
                wire,
                tracestate: None,
                sampled: None,
                request_id: Some(b"r-1"),
            },
        )
    }

    fn client(&mut self, id: ExchangeId, on: Thread, wire: Option<SpanContext>) -> SpanContext {
        self.client_with(id, on, wire, None)
    }

    fn client_with(
        &mut self,
        id: ExchangeId,
        on: Thread,
        wire: Option<SpanContext>,
        request_id: Option<&[u8]>,
    ) -> SpanContext {
        self.now += MS;
        self.correlator.client_request(
            id,
            Request {
                connection: outbound(),
                from_start: true,
                thread: on,
                started: self.now,
                method: b"GET",
                target: b"/orders/1?x=y",
                wire,
                tracestate: None,
                sampled: None,
                request_id,
            },
        )
    }

    fn end_server(&mut self, id: ExchangeId) {
        self.now += MS;
        assert!(self.correlator.end(id, inbound(), self.now, self.now, "server"));
    }

    fn end_client(&mut self, id: ExchangeId) {
        self.now += MS;
        assert!(self.correlator.end(id, outbound(), self.now, self.now, "client"));
    }

    fn ask(&mut self, ordinal: Option<u64>, line: &[u8]) -> Option<SpanContext> {
        let question =
            Question { source: outbound().local(), destination: Some(outbound().remote()), ordinal, line };
        self.correlator.question(question).map(|(context, _)| context)
    }

    fn mesh(&mut self, hop: Hop, context: SpanContext, parent: Option<SpanId>, origin: &str, started: Nanos) {
        let path: &[u8] = if hop == Hop::MeshOutbound { b"/orders/1" } else { b"/checkout/1" };
        let span = MeshSpan {
            context,
            parent,
            hop,
            began_trace: origin == "new",
            asked: origin == "agent",
            source: Some(outbound().local()),
            destination: Some(outbound().remote()),
            upstream_local: Some(inbound().remote()),
            ordinal: None,
            line: request_line(b"GET", path),
            started,
            ended: self.now,
        };
        self.correlator.mesh_span(
            &span,
            self.now,
            if hop == Hop::MeshOutbound { "outbound" } else { "inbound" },
        );
    }

    fn flush(&mut self) -> Vec<Woven<&'static str>> {
        let mut spans = Vec::new();
        self.correlator.flush(|span| spans.push(span));
        spans
    }
}

fn find<'a>(spans: &'a [Woven<&'static str>], payload: &str) -> &'a Woven<&'static str> {
    spans.iter().find(|span| span.payload == payload).unwrap()
}

fn parent(span: &Woven<&'static str>) -> Option<(SpanId, Evidence)> {
    span.link.map(|link| (link.parent, link.evidence))
}

#[test]
fn a_server_is_under_the_proxy_that_its_headers_name() {
    let mut world = World::new();
    let proxy = world.context();
    let server = world.server(exchange(1, 1), thread(1), Some(proxy));
    assert_eq!(server.trace_id, proxy.trace_id);
    world.end_server(exchange(1, 1));
    assert_eq!(parent(&world.flush()[0]), Some((proxy.span_id, Evidence::Traceparent)));
}

#[test]
fn a_client_is_under_the_server_that_its_thread_serves_and_the_proxy_is_told_so() {
    let mut world = World::new();
    let proxy = world.context();
    let server = world.server(exchange(1, 1), thread(1), Some(proxy));
    let client = world.client(exchange(2, 1), thread(1), None);
    assert_eq!(world.ask(Some(1), b"GET /orders/1?x=y"), Some(client));
    world.end_client(exchange(2, 1));
    assert_eq!(world.ask(Some(1), b"GET /orders/1?x=y"), None, "the request is over");
    world.end_server(exchange(1, 1));
    let spans = world.flush();
    assert_eq!(parent(find(&spans, "client")), Some((server.span_id, Evidence::Thread)));
    assert!(spans.iter().all(|span| span.trace_id == proxy.trace_id));
}

#[test]
fn another_request_line_or_destination_is_no_answer() {
    let mut world = World::new();
    world.client(exchange(2, 1), thread(1), None);
    assert_eq!(world.ask(None, b"GET /orders/2"), None);
    let elsewhere = Question {
        source: outbound().local(),
        destination: Some(address("10.0.1.9:8080")),
        ordinal: None,
        line: b"GET /orders/1?x=y",
    };
    assert_eq!(world.correlator.question(elsewhere), None);
}

#[test]
fn without_the_port_an_answer_is_given_where_only_one_request_fits() {
    let mut world = World::new();
    let pod = SocketAddr::new(outbound().local().ip(), 0);
    let client = world.client(exchange(2, 1), thread(1), None);
    let question = Question {
        source: pod,
        destination: Some(outbound().remote()),
        ordinal: Some(1),
        line: b"GET /orders/1?x=y",
    };
    assert_eq!(world.correlator.question(question).map(|(context, _)| context), Some(client));
    assert_eq!(world.correlator.question(Question { destination: None, ..question }), None);
    world.client(exchange(2, 2), thread(2), None);
    assert_eq!(world.correlator.question(question), None, "two requests fit");
}

#[test]
fn of_pipelined_requests_the_ordinal_tells_or_nothing_does() {
    let mut world = World::new();
    let first = world.client(exchange(2, 1), thread(1), None);
    let second = world.client(exchange(2, 2), thread(1), None);
    assert_eq!(world.ask(None, b"GET /orders/1?x=y"), None);
    assert_eq!(world.ask(Some(1), b"GET /orders/1?x=y"), Some(first));
    assert_eq!(world.ask(Some(2), b"GET /orders/1?x=y"), Some(second));
}

#[test]
fn a_thread_with_several_requests_is_no_evidence_ever_after() {
    let mut world = World::new();
    let (a, b) = (world.context(), world.context());
    world.server(exchange(1, 1), thread(1), Some(a));
    world.server(exchange(3, 1), thread(1), Some(b));
    let client = world.client(exchange(2, 1), thread(1), None);
    assert!(client.trace_id != a.trace_id && client.trace_id != b.trace_id);
    world.end_client(exchange(2, 1));
    world.end_server(exchange(3, 1));
    world.client(exchange(2, 2), thread(1), None);
    world.end_client(exchange(2, 2));
    let spans = world.flush();
    assert!(spans.iter().filter(|span| span.payload == "client").all(|span| span.link.is_none()));
    assert_eq!(world.correlator.stats().multiplexing, 1);
}

#[test]
fn a_response_from_another_thread_ends_the_trust_in_threads() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    world.correlator.server_response(exchange(1, 1), thread(2));
    let client = world.client(exchange(2, 1), thread(1), None);
    assert_ne!(client.trace_id, proxy.trace_id);
}

#[test]
fn pipelined_requests_of_one_connection_do_not_end_the_trust_in_threads() {
    let mut world = World::new();
    let (a, b) = (world.context(), world.context());
    let first = world.server(exchange(1, 1), thread(1), Some(a));
    world.server(exchange(1, 2), thread(1), Some(b));
    world.client(exchange(2, 1), thread(1), None);
    world.end_client(exchange(2, 1));
    assert_eq!(parent(find(&world.flush(), "client")), Some((first.span_id, Evidence::Thread)));
}

#[test]
fn a_thread_or_process_that_is_gone_is_forgotten() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    world.correlator.thread_exit(thread(1));
    assert_ne!(world.client(exchange(2, 1), thread(1), None).trace_id, proxy.trace_id);
    world.server(exchange(1, 2), thread(2), Some(proxy));
    world.correlator.process_exit(100);
    assert_ne!(world.client(exchange(2, 2), thread(2), None).trace_id, proxy.trace_id);
}

#[test]
fn headers_copied_by_hand_give_the_same_tree() {
    let mut world = World::new();
    let proxy = world.context();
    let server = world.server(exchange(1, 1), thread(1), Some(proxy));
    // Another thread sends it: the copied headers tell all the same.
    let client = world.client(exchange(2, 1), thread(9), Some(proxy));
    let started = world.now;
    let outbound_span = SpanContext { span_id: world.ids.span_id(), ..proxy };
    world.end_client(exchange(2, 1));
    world.mesh(Hop::MeshOutbound, outbound_span, Some(proxy.span_id), "wire", started);
    world.end_server(exchange(1, 1));
    let spans = world.flush();
    assert_eq!(parent(find(&spans, "client")), Some((server.span_id, Evidence::Traceparent)));
    assert_eq!(parent(find(&spans, "outbound")), Some((client.span_id, Evidence::Tuple)));
    assert!(spans.iter().all(|span| span.trace_id == proxy.trace_id));
}

#[test]
fn a_context_that_an_sdk_made_keeps_its_place() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    let sdk = SpanContext { span_id: world.ids.span_id(), ..proxy };
    world.client(exchange(2, 1), thread(1), Some(sdk));
    world.end_client(exchange(2, 1));
    assert_eq!(parent(find(&world.flush(), "client")), Some((sdk.span_id, Evidence::Traceparent)));
}

#[test]
fn a_copied_request_id_tells_where_the_thread_does_not() {
    let mut world = World::new();
    let proxy = world.context();
    let server = world.server(exchange(1, 1), thread(1), Some(proxy));
    world.client_with(exchange(2, 1), thread(9), None, Some(b"r-1"));
    world.client_with(exchange(2, 2), thread(9), None, Some(b"r-2"));
    world.end_client(exchange(2, 1));
    world.end_client(exchange(2, 2));
    let spans = world.flush();
    assert_eq!(parent(&spans[0]), Some((server.span_id, Evidence::RequestId)));
    assert_eq!(parent(&spans[1]), None);
}

#[test]
fn a_trace_that_a_proxy_had_to_begin_is_joined_with_all_that_followed() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    let client = world.client(exchange(2, 1), thread(1), None);
    let started = world.now;
    let begun = world.context();
    // The callee's server, in the trace that the proxy began, ends before the proxy reports.
    let callee = Thread { process: 200, thread: 7 };
    world.server(exchange(5, 1), callee, Some(begun));
    world.end_server(exchange(5, 1));
    world.end_client(exchange(2, 1));
    world.mesh(Hop::MeshOutbound, begun, None, "new", started);
    world.end_server(exchange(1, 1));
    let spans = world.flush();
    assert!(spans.iter().all(|span| span.trace_id == proxy.trace_id), "{spans:?}");
    assert_eq!(parent(find(&spans, "outbound")), Some((client.span_id, Evidence::Tuple)));
    assert_eq!(world.correlator.stats().repaired, 1);
}

#[test]
fn a_trace_of_which_a_part_has_left_is_linked_and_not_joined() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    let client = world.client(exchange(2, 1), thread(1), None);
    let started = world.now;
    let begun = world.context();
    world.server(exchange(5, 1), Thread { process: 200, thread: 7 }, Some(begun));
    world.end_server(exchange(5, 1));
    world.now += 10 * SECOND;
    world.correlator.poll(world.now, |_| {});
    world.end_client(exchange(2, 1));
    world.mesh(Hop::MeshOutbound, begun, None, "new", started);
    let spans = world.flush();
    let outbound = find(&spans, "outbound");
    assert_eq!(outbound.trace_id, begun.trace_id);
    assert_eq!(outbound.late_parent, Some(client));
    assert_eq!(world.correlator.stats().late, 1);
}

#[test]
fn a_server_without_context_is_put_under_its_proxy_before_and_after_its_end() {
    for ended_first in [false, true] {
        let mut world = World::new();
        let proxy = world.context();
        let started = world.now;
        world.server(exchange(1, 1), thread(1), None);
        if ended_first {
            world.end_server(exchange(1, 1));
        }
        world.mesh(Hop::MeshInbound, proxy, None, "new", started);
        if !ended_first {
            world.end_server(exchange(1, 1));
        }
        let spans = world.flush();
        let server = find(&spans, "server");
        assert_eq!(server.trace_id, proxy.trace_id);
        assert_eq!(parent(server), Some((proxy.span_id, Evidence::Tuple)));
    }
}

#[test]
fn of_equal_requests_of_one_connection_the_proxy_belongs_to_its_own() {
    let mut world = World::new();
    let mut clients = Vec::new();
    for ordinal in 1..=3 {
        let client = world.client(exchange(2, ordinal), thread(1), None);
        let begun = world.context();
        clients.push((client, begun, world.now + MS / 10));
        world.end_client(exchange(2, ordinal));
    }
    for (_, begun, started) in clients.clone() {
        world.mesh(Hop::MeshOutbound, begun, None, "new", started);
    }
    let spans = world.flush();
    let outbound: Vec<_> = spans.iter().filter(|span| span.payload == "outbound").collect();
    for (span, (client, ..)) in outbound.iter().zip(&clients) {
        assert_eq!(parent(span), Some((client.span_id, Evidence::Tuple)));
    }
    assert_eq!(outbound.len(), 3);
}

#[test]
fn spans_wait_for_the_window_and_no_longer() {
    let mut world = World::new();
    let proxy = world.context();
    world.server(exchange(1, 1), thread(1), Some(proxy));
    world.end_server(exchange(1, 1));
    let mut left = 0;
    world.correlator.poll(world.now + SECOND, |_| left += 1);
    assert_eq!(left, 0);
    world.correlator.poll(world.now + 2 * SECOND, |_| left += 1);
    assert_eq!(left, 1);
}

#[test]
fn too_many_waiting_spans_leave_early_and_are_counted() {
    let mut world = World::with(Config { max_held: 2, ..Config::default() });
    for ordinal in 1..=5 {
        let proxy = world.context();
        world.server(exchange(1, ordinal), thread(1), Some(proxy));
        world.end_server(exchange(1, ordinal));
    }
    let mut left = 0;
    world.correlator.poll(world.now, |_| left += 1);
    assert_eq!((left, world.correlator.stats().hurried), (3, 3));
}

#[test]
fn the_oldest_exchange_is_given_up_when_too_many_are_open() {
    let mut world = World::with(Config { max_open: 2, ..Config::default() });
    for ordinal in 1..=3 {
        let proxy = world.context();
        world.server(exchange(1, ordinal), thread(1), Some(proxy));
    }
    assert_eq!((world.correlator.open(), world.correlator.stats().given_up), (2, 1));
    assert!(!world.correlator.end(exchange(1, 1), inbound(), 0, 0, "server"));
}

#[test]
fn an_exchange_that_is_told_twice_keeps_its_context() {
    let mut world = World::new();
    let proxy = world.context();
    let first = world.server(exchange(1, 1), thread(1), Some(proxy));
    assert_eq!(world.server(exchange(1, 1), thread(1), Some(proxy)), first);
    let client = world.client(exchange(2, 1), thread(1), None);
    assert_eq!(world.client(exchange(2, 1), thread(1), None), client);
}

#[test]
fn the_ratio_decides_for_traces_that_begin_here() {
    for (ratio, low, high) in [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)] {
        let mut world = World::with(Config { sampling_ratio: ratio, ..Config::default() });
        let sampled = (1..=1000)
            .filter(|ordinal| {
                let context = world.client(exchange(9, *ordinal), thread(1), None);
                world.end_client(exchange(9, *ordinal));
                context.flags.sampled()
            })
            .count();
        assert!((low..=high).contains(&sampled), "{sampled} of 1000 at {ratio}");
    }
}

#[test]
fn a_trace_that_is_not_sampled_stays_so() {
    let mut world = World::new();
    let proxy = SpanContext { flags: TraceFlags::NONE, ..world.context() };
    world.server(exchange(1, 1), thread(1), Some(proxy));
    let client = world.client(exchange(2, 1), thread(1), None);
    assert!(!client.flags.sampled());
    world.end_server(exchange(1, 1));
    assert!(!world.flush()[0].sampled);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Server(u64, u32, bool),
        Client(u64, u32, bool),
        EndServer(u64),
        EndClient(u64),
        Mesh(bool, bool),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u64, 0..3u32, any::<bool>()).prop_map(|(id, thread, wire)| Step::Server(id, thread, wire)),
            (0..6u64, 0..3u32, any::<bool>()).prop_map(|(id, thread, wire)| Step::Client(id, thread, wire)),
            (0..6u64).prop_map(Step::EndServer),
            (0..6u64).prop_map(Step::EndClient),
            (any::<bool>(), any::<bool>()).prop_map(|(outbound, new)| Step::Mesh(outbound, new)),
            (0..3u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: what goes in comes out once, and no span is its own ancestor.
        #[test]
        fn every_span_leaves_once_and_links_make_no_circle(steps in prop::collection::vec(step(), 0..60)) {
            let mut world = World::new();
            let (mut took, mut left) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Server(id, on, wire) => {
                        let wire = wire.then(|| world.context());
                        world.server(exchange(id, 1), thread(on), wire);
                    }
                    Step::Client(id, on, wire) => {
                        let wire = wire.then(|| world.context());
                        world.client(exchange(id + 10, 1), thread(on), wire);
                    }
                    Step::EndServer(id) => {
                        let now = world.now;
                        took += usize::from(world.correlator.end(exchange(id, 1), inbound(), now, now, "server"));
                    }
                    Step::EndClient(id) => {
                        let now = world.now;
                        took += usize::from(world.correlator.end(exchange(id + 10, 1), outbound(), now, now, "client"));
                    }
                    Step::Mesh(is_outbound, new) => {
                        let context = world.context();
                        let hop = if is_outbound { Hop::MeshOutbound } else { Hop::MeshInbound };
                        let started = world.now;
                        world.mesh(hop, context, None, if new { "new" } else { "wire" }, started);
                        took += 1;
                    }
                    Step::Wait(seconds) => {
                        world.now += seconds * SECOND;
                        let now = world.now;
                        world.correlator.poll(now, |span| left.push(span));
                    }
                }
            }
            world.correlator.flush(|span| left.push(span));
            prop_assert_eq!(left.len(), took);
            let parents: std::collections::HashMap<SpanId, SpanId> =
                left.iter().filter_map(|span| Some((span.span_id, span.link?.parent))).collect();
            for span in &left {
                let (mut at, mut steps) = (span.span_id, 0);
                while let Some(parent) = parents.get(&at) {
                    at = *parent;
                    steps += 1;
                    prop_assert!(steps <= left.len(), "a circle at {:?}", span);
                }
            }
        }
    }
}
