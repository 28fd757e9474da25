//! A finished request as a span.

use crate::batch::Queue;
use crate::connections::Connections;
use crate::facts::{Fact, Facts};
use crate::head::{MAX_AUTHORITY, MAX_PATH, MAX_REQUEST_ID, MAX_USER_AGENT};
use crate::host::Host;
use crate::labels::{self, Side};
use crate::node::Node;
use crate::peer;
use crate::semantics::{self, Method};
use crate::span::{Attributes, Kind, SPAN_ATTRIBUTES, Span};
use crate::stream::Request;
use crate::table::Table;
use crate::trace::Trace;
use crate::{facts, flags};
use meshweft_telemetry::{Hop, attributes};
use std::io::Write;

/// How long the attributes of an upstream host or cluster are reused, in nanoseconds. An address
/// can pass to another pod, and istiod can change a cluster's metadata.
const FRESH: u64 = 10_000_000_000;

/// Makes spans of finished requests.
#[derive(Debug)]
pub(crate) struct Reports {
    upstreams: Table<Vec<u8>, Cached>,
    clusters: Table<Vec<u8>, Cached>,
    /// Reused from span to span.
    attributes: Attributes,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Cached {
    attributes: Attributes,
    read_at: u64,
}

impl Reports {
    /// Remembers at most so many upstream hosts and clusters.
    pub(crate) fn new(upstreams: usize, clusters: usize) -> Self {
        Self {
            upstreams: Table::new(upstreams),
            clusters: Table::new(clusters),
            attributes: Attributes::new(SPAN_ATTRIBUTES),
            text: Vec::new(),
        }
    }

    /// Adds the span of `request` to `queue`. Returns whether there was room for it.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the VM's state")]
    pub(crate) fn push(
        &mut self,
        host: &impl Host,
        node: &Node,
        connections: &mut Connections,
        queue: &mut Queue,
        request: &Request,
        trace: &Trace,
        facts: &Facts,
    ) -> bool {
        let (start, end, estimated) = times(host, facts);
        let kind = if request.hop == Hop::MeshOutbound { Kind::Client } else { Kind::Server };
        let method = Method::new(request.head.method());

        self.attributes.clear();
        match request.connection {
            Some(id) => connections.describe(host, node, id, &mut self.attributes),
            None => self.attributes.string(attributes::HOP, request.hop.as_str().as_bytes()),
        }
        if let Some(ordinal) = request.ordinal {
            self.attributes.int(attributes::CONNECTION_ORDINAL, i64::try_from(ordinal).unwrap_or(i64::MAX));
        }
        self.attributes.string(attributes::CONTEXT_ORIGIN, trace.origin.as_str().as_bytes());
        if estimated {
            self.attributes.bool(attributes::DURATION_ESTIMATED, true);
        }
        self.describe_request(request, method);
        let error = self.describe_response(host, request, kind, facts);
        self.describe_upstream(host, request.hop, facts, start);

        let span = Span {
            context: trace.context,
            parent: trace.parent,
            tracestate: &trace.tracestate,
            name: method.span_name,
            kind,
            start,
            end,
            error,
        };
        let attributes = &self.attributes;
        queue.push(|out| span.encode(attributes, out))
    }

    fn describe_request(&mut self, request: &Request, method: Method) {
        let (head, out) = (&request.head, &mut self.attributes);
        out.string(attributes::HTTP_REQUEST_METHOD, method.method.as_bytes());
        if method.is_other() {
            out.string(attributes::HTTP_REQUEST_METHOD_ORIGINAL, head.method());
        }
        out.text(attributes::URL_PATH, head.path(), MAX_PATH);
        out.string(attributes::URL_SCHEME, head.scheme());
        let (server, port) = semantics::server(head.authority(), head.scheme());
        out.text(attributes::SERVER_ADDRESS, server, MAX_AUTHORITY);
        if let Some(port) = port.filter(|_| !server.is_empty()) {
            out.int(attributes::SERVER_PORT, port.into());
        }
        out.text(attributes::USER_AGENT_ORIGINAL, head.user_agent(), MAX_USER_AGENT);
        out.text(attributes::REQUEST_ID, head.request_id(), MAX_REQUEST_ID);
        let protocol: &[u8] = if head.grpc() { b"grpc" } else { b"http" };
        out.string(labels::REQUEST_PROTOCOL, protocol);
    }

    /// Returns whether the response is an error.
    fn describe_response(&mut self, host: &impl Host, request: &Request, kind: Kind, facts: &Facts) -> bool {
        let (out, text) = (&mut self.attributes, &mut self.text);
        for (name, fact) in [
            (attributes::REQUEST_TOTAL_SIZE, Fact::RequestSize),
            (attributes::RESPONSE_TOTAL_SIZE, Fact::ResponseSize),
        ] {
            if let Some(size) = facts.number(fact) {
                out.int(name, size);
            }
        }
        // Envoy has no code, or 0, where no response was sent; Istio's label is 0 then.
        let code = facts.number(Fact::Code).filter(|code| *code != 0);
        text.clear();
        let _ = write!(text, "{}", code.unwrap_or(0));
        out.string(labels::RESPONSE_CODE, text);
        let mut error = semantics::is_http_error(kind, code);
        if let Some(code) = code {
            out.int(attributes::HTTP_RESPONSE_STATUS_CODE, code);
            if error {
                out.string(attributes::ERROR_TYPE, text);
            }
        }
        let details = facts.bytes(Fact::CodeDetails);
        if code.is_none() {
            out.string(attributes::ERROR_TYPE, if details.is_empty() { b"no_response" } else { details });
        }
        // Nearly all responses came from the upstream; saying so each time would tell nothing.
        if details != b"via_upstream" {
            out.string(attributes::RESPONSE_CODE_DETAILS, details);
        }
        if let Some(mask) = facts.number(Fact::Flags) {
            text.clear();
            flags::append_short(mask.cast_unsigned(), text);
            out.string(attributes::RESPONSE_FLAGS, text);
            out.string(labels::RESPONSE_FLAGS, text);
        }
        let grpc_status = if request.head.grpc() { host.property(b"response\0grpc_status") } else { None };
        if let Some(status) = grpc_status.and_then(|status| facts::number(&status)) {
            text.clear();
            let _ = write!(text, "{status}");
            out.int(attributes::RPC_GRPC_STATUS_CODE, status);
            out.string(labels::GRPC_RESPONSE_STATUS, text);
            if semantics::is_grpc_error(kind, status) {
                if !error {
                    out.string(attributes::ERROR_TYPE, text);
                }
                error = true;
            }
        }
        error
    }

    fn describe_upstream(&mut self, host: &impl Host, hop: Hop, facts: &Facts, now: u64) {
        let upstream = facts.bytes(Fact::Upstream);
        self.attributes.string(attributes::UPSTREAM, upstream);
        self.attributes.string(attributes::UPSTREAM_LOCAL, facts.bytes(Fact::UpstreamLocal));
        // An inbound sidecar's upstream is its own workload.
        if hop != Hop::MeshInbound && !upstream.is_empty() {
            let described = cached(&mut self.upstreams, upstream, now, |out| {
                out.string(
                    labels::SOURCE_PRINCIPAL,
                    &match hop {
                        // A waypoint's own name is not that of the source.
                        Hop::MeshWaypoint => Vec::new(),
                        _ => host.property(b"upstream\0uri_san_local_certificate").unwrap_or_default(),
                    },
                );
                let peer = host.property(b"upstream\0uri_san_peer_certificate");
                out.string(labels::DESTINATION_PRINCIPAL, &peer.unwrap_or_default());
                if let Some(peer) = peer::upstream(host) {
                    peer.describe(Side::Destination, out);
                }
            });
            self.attributes.extend(described);
        }
        let cluster = facts.bytes(Fact::Cluster);
        if !cluster.is_empty() {
            let described =
                cached(&mut self.clusters, cluster, now, |out| labels::describe_service(host, cluster, out));
            self.attributes.extend(described);
        }
    }
}

/// The attributes of `key`, read again where they are older than [`FRESH`].
fn cached<'a>(
    table: &'a mut Table<Vec<u8>, Cached>,
    key: &[u8],
    now: u64,
    read: impl FnOnce(&mut Attributes),
) -> &'a Attributes {
    const NONE: &Attributes = &Attributes::new(SPAN_ATTRIBUTES);
    let fresh = table.get(key).is_some_and(|entry| now.saturating_sub(entry.read_at) < FRESH);
    if !fresh {
        let mut attributes = Attributes::new(SPAN_ATTRIBUTES);
        read(&mut attributes);
        table.insert(key.to_vec(), Cached { attributes, read_at: now });
    }
    table.get(key).map_or(NONE, |entry| &entry.attributes)
}

/// Start and end as the proxy has them, in nanoseconds since the Unix epoch, and whether the end
/// had to be taken from the clock.
fn times(host: &impl Host, facts: &Facts) -> (u64, u64, bool) {
    let number = |fact| facts.number(fact).and_then(|number| u64::try_from(number).ok());
    match (number(Fact::Time), number(Fact::Duration)) {
        (Some(start), Some(duration)) => (start, start.saturating_add(duration), false),
        (start, _) => {
            let now = host.now();
            let start = start.unwrap_or(now);
            (start, now.max(start), true)
        }
    }
}
