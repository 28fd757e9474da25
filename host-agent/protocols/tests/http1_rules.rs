//! What RFC 9110 and RFC 9112 ask for, and what happens where bytes were not seen.

use meshweft_protocols::http1::{
    Chunk, Connection, Event, MAX_HEAD, MAX_HEADERS, MAX_PIPELINED, Peer, Peer::Client, Peer::Server, UNKNOWN,
};
use meshweft_telemetry::DropReason;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Feeds a connection; each call is 10 ns after the one before.
struct Feed {
    connection: Connection,
    events: Vec<Event>,
    at: u64,
}

impl Feed {
    fn new() -> Self {
        Self { connection: Connection::new(), events: Vec::new(), at: 0 }
    }

    fn in_the_middle() -> Self {
        Self { connection: Connection::in_the_middle(), ..Self::new() }
    }

    fn cut(&mut self, from: Peer, bytes: impl AsRef<[u8]>, missing: u64) -> &mut Self {
        self.at += 10;
        self.connection.feed(from, Chunk { bytes: bytes.as_ref(), missing, at: self.at }, &mut self.events);
        self
    }

    fn client(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.cut(Client, bytes, 0)
    }

    fn server(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.cut(Server, bytes, 0)
    }

    fn end(&mut self, from: Option<Peer>) -> &mut Self {
        self.at += 10;
        self.connection.end(from, self.at, &mut self.events);
        self
    }

    /// The events since the last call, in short.
    #[track_caller]
    fn gives(&mut self, expected: &[&str]) -> &mut Self {
        let found: Vec<String> = self.events.drain(..).map(|event| short(&event)).collect();
        assert_eq!(found, expected);
        self
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::Request { ordinal, head, .. } => {
            format!("{ordinal} {} {}", head.method, head.target.escape_ascii())
        }
        Event::RequestEnd { ordinal, body, .. } => format!("{ordinal} sent {body}"),
        Event::Response { ordinal, head, .. } => format!("{ordinal} {}", head.status),
        Event::ResponseEnd { ordinal, body, complete: true, .. } => format!("{ordinal} got {body}"),
        Event::ResponseEnd { ordinal, body, complete: false, .. } => format!("{ordinal} cut at {body}"),
        Event::Upgraded { ordinal } => format!("{ordinal} upgraded"),
        Event::Lost { from, reason } => format!("{from:?} {reason}"),
    }
}

fn response(status: u16, fields: &str) -> String {
    format!("HTTP/1.1 {status} Text\r\n{fields}\r\n")
}

#[test]
fn times_are_those_of_the_first_and_the_last_byte() {
    let mut feed = Feed::new();
    feed.client(b"\r\n").client(b"G").client(&GET[1..]).server(&OK[..5]).server(&OK[5..38]).server(&OK[38..]);
    let times: Vec<u64> = feed
        .events
        .iter()
        .map(|event| match event {
            Event::Request { started, .. } | Event::Response { started, .. } => *started,
            Event::RequestEnd { at, .. } | Event::ResponseEnd { at, .. } => *at,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [20, 30, 40, 60]);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let mut feed = Feed::new();
    feed.client(
        [GET, b"HEAD /b HTTP/1.1\r\n\r\n", b"POST /c HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"].concat(),
    );
    feed.server(OK).server(response(200, "Content-Length: 9\r\n")).client(b"GET /d HTTP/1.1\r\n\r\n");
    feed.server([response(204, "").as_bytes(), OK].concat());
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "2 HEAD /b",
        "2 sent 0",
        "3 POST /c",
        "3 sent 1",
        "1 200",
        "1 got 2",
        "2 200",
        "2 got 0",
        "4 GET /d",
        "4 sent 0",
        "3 204",
        "3 got 0",
        "4 200",
        "4 got 2",
    ]);
}

#[test]
fn interim_responses_are_skipped() {
    let mut feed = Feed::new();
    feed.client(b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    feed.server(response(100, "")).client(b"abc");
    feed.server(
        [
            response(102, "Content-Length: 5\r\n"),
            response(103, "Link: </a>\r\n"),
            response(201, "Content-Length: 0\r\n"),
        ]
        .concat(),
    );
    feed.gives(&["1 PUT /a", "1 sent 3", "1 201", "1 got 0"]);
}

#[test]
fn a_response_may_come_before_the_request_is_sent() {
    let mut feed = Feed::new();
    feed.client(b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
        .server(response(413, "Content-Length: 0\r\n"));
    feed.client(b"cd").client(GET).server(OK);
    feed.gives(&["1 POST /a", "1 413", "1 got 0", "1 sent 4", "2 GET /a", "2 sent 0", "2 200", "2 got 2"]);
}

#[test]
fn a_client_that_waited_to_send_its_body_may_keep_it() {
    let mut feed = Feed::new();
    feed.client(b"PUT /a HTTP/1.1\r\nContent-Length: 30\r\nExpect: 100-Continue\r\n\r\n");
    feed.server(response(401, "Content-Length: 0\r\n")).client(GET).server(OK);
    feed.gives(&["1 PUT /a", "1 401", "1 got 0", "1 sent 0", "2 GET /a", "2 sent 0", "2 200", "2 got 2"]);
    // Without that wait it is the body, whatever it looks like.
    feed.client(b"PUT /b HTTP/1.1\r\nContent-Length: 30\r\n\r\n")
        .server(response(401, "Content-Length: 0\r\n"))
        .client(GET);
    feed.gives(&["3 PUT /b", "3 401", "3 got 0", "3 sent 30"]);
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    for end in [Some(Server), None] {
        let mut feed = Feed::new();
        feed.client(GET).server(b"HTTP/1.0 200 OK\r\n\r\nab").cut(Server, b"c", 5).end(end).end(None);
        feed.gives(&["1 GET /a", "1 sent 0", "1 200", "1 got 8"]);
    }
}

#[test]
fn a_body_cut_by_the_end_is_not_complete() {
    for fields in ["Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut feed = Feed::new();
        let body = if fields.starts_with('C') { "abc" } else { "3\r\nabc\r\n" };
        feed.client(GET).server(response(200, fields) + body);
        feed.end(Some(Server)).gives(&["1 GET /a", "1 sent 0", "1 200", "1 cut at 3"]);
    }
}

#[test]
fn a_request_without_response_ends_with_the_connection() {
    let mut feed = Feed::new();
    feed.client([GET, GET].concat()).client(b"GET /never").end(Some(Client));
    feed.gives(&["1 GET /a", "1 sent 0", "2 GET /a", "2 sent 0", "Client incomplete"]);
    feed.server(OK).gives(&["1 200", "1 got 2"]);
    feed.end(None);
    assert_eq!(feed.events, [Event::ResponseEnd { ordinal: 2, at: feed.at, body: 0, complete: false }]);
    feed.events.clear();
    feed.end(None).gives(&[]);
}

#[test]
fn upgrades_and_tunnels_end_http() {
    let mut feed = Feed::new();
    feed.client(b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    feed.server([response(101, "").as_bytes(), b"\x81\x02hi"].concat())
        .client(GET)
        .server(OK)
        .cut(Client, b"\x81", 9)
        .end(None);
    feed.gives(&["1 GET /ws", "1 sent 0", "1 101", "1 got 0", "1 upgraded"]);

    let mut feed = Feed::new();
    // Eager clients do not wait for the tunnel; they see a Content-Length in its 200, too.
    feed.client(b"CONNECT db:1 HTTP/1.1\r\n\r\n")
        .client(b"\x16\x03\x01")
        .server(response(200, "Content-Length: 7\r\n"));
    feed.client(GET).server(OK).end(None);
    feed.gives(&["1 CONNECT db:1", "1 sent 0", "1 200", "1 got 0", "1 upgraded"]);
}

#[test]
fn after_a_refused_tunnel_http_goes_on() {
    let mut feed = Feed::new();
    let refused = response(407, "Content-Length: 2\r\n") + "no";
    feed.client(b"CONNECT db:1 HTTP/1.1\r\n\r\n").server(&refused).client(GET).server(OK);
    feed.gives(&[
        "1 CONNECT db:1",
        "1 sent 0",
        "1 407",
        "1 got 2",
        "2 GET /a",
        "2 sent 0",
        "2 200",
        "2 got 2",
    ]);
    // What was sent for the tunnel is lost.
    feed.client(b"CONNECT db:1 HTTP/1.1\r\n\r\n")
        .client(b"\x16\x03")
        .server(&refused)
        .client(b"\x01")
        .client(GET)
        .server(OK);
    feed.gives(&[
        "3 CONNECT db:1",
        "3 sent 0",
        "3 407",
        "Client gap",
        "3 got 2",
        "4 GET /a",
        "4 sent 0",
        "4 200",
        "4 got 2",
    ]);
}

#[test]
fn a_length_that_nobody_can_tell_loses_the_position_but_not_the_exchange() {
    let mut feed = Feed::new();
    feed.client(
        b"POST /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxGET /b HTTP/1.1\r\n\r\n",
    );
    feed.server(response(400, "Content-Length: 0\r\n")).client(GET).server(OK);
    feed.gives(&[
        "1 POST /a",
        "Client malformed",
        "1 400",
        "1 sent 0",
        "1 got 0",
        "2 GET /a",
        "2 sent 0",
        "2 200",
        "2 got 2",
    ]);
    feed.client(GET).server(response(200, "Content-Length: 1, 2\r\n") + "x").client(GET).server(OK);
    feed.gives(&[
        "3 GET /a",
        "3 sent 0",
        "3 200",
        "Server malformed",
        "3 cut at 0",
        "4 GET /a",
        "4 sent 0",
        "4 200",
        "4 got 2",
    ]);
}

#[test]
fn missing_bytes_of_a_body_are_counted() {
    let mut feed = Feed::new();
    feed.cut(Client, b"POST /a HTTP/1.1\r\nContent-Length: 9000\r\n\r\nab", 4998).cut(Client, b"", 4000);
    feed.cut(Server, response(200, "Transfer-Encoding: chunked\r\n") + "1000\r\nabc", 4093 + 2);
    feed.cut(Server, b"10\r\n", 16 + 7).client(GET);
    feed.gives(&["1 POST /a", "1 sent 9000", "1 200", "1 got 4112", "2 GET /a", "2 sent 0"]);
}

#[test]
fn a_gap_ends_the_exchange_at_its_last_byte_and_the_next_is_followed() {
    let mut feed = Feed::new();
    feed.client(GET).cut(Server, response(200, "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n", 100);
    feed.server(b"more\r\n").gives(&["1 GET /a", "1 sent 0", "1 200", "Server gap"]);
    feed.client(GET);
    assert_eq!(feed.events[0], Event::ResponseEnd { ordinal: 1, at: 30, body: 5, complete: false });
    feed.server(OK).gives(&["1 cut at 5", "2 GET /a", "2 sent 0", "2 200", "2 got 2"]);
    assert!(!feed.connection.is_hopeless());
}

#[test]
fn a_message_that_begins_in_small_reads_gives_the_position_back() {
    let mut feed = Feed::new();
    feed.client(GET).cut(Server, b"HTTP/1.1 200 OK\r\nServ", 9).gives(&[
        "1 GET /a",
        "1 sent 0",
        "Server gap",
    ]);
    feed.client(GET);
    for byte in OK {
        feed.server([*byte]);
    }
    feed.gives(&["1 cut at 0", "2 GET /a", "2 sent 0", "2 200", "2 got 2"]);
    feed.cut(Client, b"", 1);
    for byte in b"GGET /b HTTP/1.1\r\n\r\n" {
        feed.client([*byte]);
    }
    // `GG` begins no method, so the first G was the end of something else.
    feed.gives(&["Client gap", "4 GET /b", "4 sent 0"]);
}

#[test]
fn a_lost_request_head_counts_and_its_response_belongs_to_nobody() {
    let mut feed = Feed::new();
    feed.client(GET).server(OK).cut(Client, &GET[..20], 900).server(OK).client(GET).server(OK);
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "1 200",
        "1 got 2",
        "Client gap",
        "Server incomplete",
        "3 GET /a",
        "3 sent 0",
        "3 200",
        "3 got 2",
    ]);
}

#[test]
fn a_lost_response_does_not_shift_the_next() {
    let mut feed = Feed::new();
    feed.client(GET).cut(Server, b"", UNKNOWN).client(GET).server(OK).client(GET).server(OK);
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "Server gap",
        "1 cut at 0",
        "2 GET /a",
        "2 sent 0",
        "2 200",
        "2 got 2",
        "3 GET /a",
        "3 sent 0",
        "3 200",
        "3 got 2",
    ]);
}

#[test]
fn lost_on_both_sides_nothing_is_paired_that_could_be_wrong() {
    let mut feed = Feed::new();
    feed.client(GET).cut(Server, b"", UNKNOWN).cut(Client, b"", UNKNOWN).server(OK);
    feed.gives(&["1 GET /a", "1 sent 0", "Server gap", "Client gap", "1 cut at 0", "Server incomplete"]);
    feed.client(GET).server(OK).gives(&["3 GET /a", "3 sent 0", "3 200", "3 got 2"]);
}

#[test]
fn with_pipelining_a_gap_gives_up_what_is_open() {
    let mut feed = Feed::new();
    feed.client([GET, GET, GET].concat()).server(OK).cut(Server, &OK[..10], 500).server(OK);
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "2 GET /a",
        "2 sent 0",
        "3 GET /a",
        "3 sent 0",
        "1 200",
        "1 got 2",
        "Server gap",
        "2 cut at 0",
        "3 cut at 0",
        "Server incomplete",
    ]);
    // The last one may still be answered: the next response may be its own.
    feed.client(GET).server(OK).gives(&["4 GET /a", "4 sent 0", "4 cut at 0", "Server incomplete"]);
}

#[test]
fn with_pipelining_one_open_request_is_certain() {
    let mut feed = Feed::new();
    feed.client([GET, GET].concat()).server(OK).cut(Server, b"", 3).server(OK);
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "2 GET /a",
        "2 sent 0",
        "1 200",
        "1 got 2",
        "Server gap",
        "2 200",
        "2 got 2",
    ]);
}

#[test]
fn in_the_middle_the_first_message_of_each_direction_is_the_first_that_counts() {
    let mut feed = Feed::in_the_middle();
    feed.server(b"rest of a body").server(OK).client(b"\x00body").gives(&["Server incomplete"]);
    feed.client(GET).server(OK).gives(&["1 GET /a", "1 sent 0", "1 200", "1 got 2"]);
}

#[test]
fn a_response_that_nobody_asked_for_belongs_to_nobody() {
    let mut feed = Feed::new();
    feed.client(GET).server(OK).server(response(408, "Content-Length: 2\r\n") + "no").end(None);
    feed.gives(&["1 GET /a", "1 sent 0", "1 200", "1 got 2", "Server incomplete"]);
}

#[test]
fn what_never_was_http_is_hopeless() {
    for (from, bytes) in [
        (Client, &b"\x16\x03\x01\x02\x00\x01\x00"[..]),
        (Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (Server, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (Client, OK),
        (Server, GET),
    ] {
        let mut feed = Feed::new();
        feed.cut(from, bytes, 0);
        let lost = Event::Lost { from, reason: DropReason::UnknownProtocol };
        assert_eq!(
            (&feed.events[..], feed.connection.is_hopeless()),
            (&[lost][..], true),
            "{}",
            bytes.escape_ascii()
        );
        feed.events.clear();
        feed.client(GET).server(OK).end(None).gives(&[]);
    }
}

#[test]
fn garbage_after_a_message_is_malformed_and_the_next_message_is_followed() {
    let mut feed = Feed::new();
    feed.client(GET).server(OK).client(b"\x00garbage").client(b"garbage").client(GET).server(OK);
    feed.gives(&[
        "1 GET /a",
        "1 sent 0",
        "1 200",
        "1 got 2",
        "Client malformed",
        "3 GET /a",
        "3 sent 0",
        "3 200",
        "3 got 2",
    ]);
    feed.client(GET)
        .server(response(200, "Transfer-Encoding: chunked\r\n") + "zz\r\n")
        .client(GET)
        .server(OK);
    feed.gives(&[
        "4 GET /a",
        "4 sent 0",
        "4 200",
        "Server malformed",
        "4 cut at 0",
        "5 GET /a",
        "5 sent 0",
        "5 200",
        "5 got 2",
    ]);
    assert!(!feed.connection.is_hopeless());
}

#[test]
fn a_conversation_without_any_message_is_given_up() {
    let mut feed = Feed::in_the_middle();
    let mut turns = 0;
    while !feed.connection.is_hopeless() {
        feed.client(b"\x17\x03\x03").server(b"\x17\x03\x03");
        turns += 1;
        assert!(turns < 1000);
    }
    feed.gives(&["Client unknown_protocol"]);
    // A long upload is no conversation.
    let mut feed = Feed::in_the_middle();
    for _ in 0..10_000 {
        feed.client(b"\x17\x03\x03");
    }
    feed.client(GET).gives(&["1 GET /a", "1 sent 0"]);
}

#[test]
fn a_head_of_the_greatest_size_is_taken_and_a_larger_one_is_not() {
    let head = |length: usize| {
        let frame = "GET /b HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET /b HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - frame))
    };
    for pieces in [1, 1000, MAX_HEAD + 1] {
        let mut feed = Feed::new();
        for piece in head(MAX_HEAD).as_bytes().chunks(pieces) {
            feed.client(piece);
            assert!(feed.connection.buffered() <= MAX_HEAD);
        }
        feed.gives(&["1 GET /b", "1 sent 0"]).server(OK).gives(&["1 200", "1 got 2"]);
        for piece in head(MAX_HEAD + 1).as_bytes().chunks(pieces) {
            feed.client(piece);
            assert!(feed.connection.buffered() <= MAX_HEAD);
        }
        feed.gives(&["Client head_too_large"]);
        feed.server(response(431, "Content-Length: 0\r\n")).client(GET).server(OK);
        feed.gives(&["Server incomplete", "3 GET /a", "3 sent 0", "3 200", "3 got 2"]);
    }
    let mut feed = Feed::new();
    feed.client(format!("GET /b HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1)));
    feed.gives(&["Client head_too_large"]);
}

#[test]
fn requests_beyond_the_depth_are_not_reported_and_never_paired() {
    let mut feed = Feed::new();
    feed.client(GET.repeat(MAX_PIPELINED + 2));
    let lost = feed.events.iter().filter(|event| short(event) == "Client queue_full").count();
    assert_eq!((lost, feed.events.len()), (2, 2 * MAX_PIPELINED + 2));
    feed.events.clear();
    feed.server(OK.repeat(MAX_PIPELINED));
    assert_eq!(feed.events.len(), 2 * MAX_PIPELINED);
    feed.events.clear();
    feed.server(OK).gives(&["Server incomplete"]);
    feed.client(GET).server(OK).gives(&["67 GET /a", "67 sent 0", "67 cut at 0", "Server incomplete"]);
}

#[test]
fn a_short_write_is_taken_back_by_a_snapshot() {
    let request = b"POST /a HTTP/1.1\r\nContent-Length: 8\r\n\r\n";
    let mut feed = Feed::new();
    feed.client(request);
    let before = feed.connection.clone();
    feed.client(b"abcdefgh").gives(&["1 POST /a", "1 sent 8"]);
    feed.connection = before;
    feed.client(b"abcde").gives(&[]).client(b"fgh").gives(&["1 sent 8"]);
}
