//! The question to the node's agent, for outbound requests that carry no context: "what is the
//! context of the request that connection ip:port sent as its n-th?"

use crate::config::Config;
use crate::head::Head;
use crate::host::{Call, HeaderMap, Host};
use crate::node::Node;
use crate::pairs::Pairs;
use meshweft_telemetry::propagation::{self, Format};
use meshweft_telemetry::{SpanContext, question};

/// What the agent said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The context that the request would have carried.
    Context {
        /// Trace, the span that sent the request, flags.
        context: SpanContext,
        /// Members of `tracestate`; empty for none.
        tracestate: String,
    },
    /// It knows of no such request.
    Unknown,
    /// It is there, but what it said is no answer.
    Malformed,
    /// It did not answer before the deadline.
    Timeout,
    /// It could not be reached.
    Failed,
    /// The call ended without an answer of anybody: a deadline or a broken connection.
    Ended,
}

/// Why no question was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAsked {
    /// The connection has no addresses that could be told.
    NoAddress,
    /// The proxy cannot start the call: it has no such cluster.
    Refused,
}

/// Asks, and returns the token of the call.
///
/// # Errors
/// See [`NotAsked`].
pub fn ask(
    host: &impl Host,
    config: &Config,
    node: &Node,
    head: &Head,
    ordinal: Option<u64>,
) -> Result<u32, NotAsked> {
    let address = |path: &[u8]| host.property(path).ok_or(NotAsked::NoAddress);
    let text = |address| String::from_utf8(address).map_err(|_| NotAsked::NoAddress);
    let source = text(node.outbound_source(address(b"source\0address")?))?;
    let destination = text(address(b"destination\0address")?)?;
    let line = head.request_line(question::MAX_REQUEST_LINE);
    let ordinal = ordinal.map(|ordinal| ordinal.to_string());
    let mut headers = Vec::with_capacity(7);
    headers.extend([
        (":method", "GET"),
        (":path", question::PATH),
        (":authority", config.agent.authority.as_str()),
        (question::SOURCE, source.as_str()),
        (question::DESTINATION, destination.as_str()),
        (question::REQUEST_LINE, line.as_str()),
    ]);
    headers.extend(ordinal.as_deref().map(|ordinal| (question::ORDINAL, ordinal)));
    call(host, config, &headers).ok_or(NotAsked::Refused)
}

/// Asks nothing in particular, to see whether the agent is there again.
pub fn probe(host: &impl Host, config: &Config) -> Option<u32> {
    let authority = config.agent.authority.as_str();
    call(host, config, &[(":method", "GET"), (":path", question::PATH), (":authority", authority)])
}

fn call(host: &impl Host, config: &Config, headers: &[(&str, &str)]) -> Option<u32> {
    host.call(&Call {
        cluster: &config.agent.cluster,
        headers,
        body: &[],
        timeout_ms: config.context.deadline_ms,
    })
}

/// Reads the answer of the call whose callback runs.
pub fn answer(host: &impl Host) -> Answer {
    let raw = host.headers(HeaderMap::CallResponse);
    match status(&raw) {
        Some(200) => {
            let received = propagation::extract(Pairs::new(&raw), &[Format::W3c]);
            received.context.map_or(Answer::Malformed, |context| Answer::Context {
                context,
                tracestate: received.tracestate.map(|state| state.as_str().to_owned()).unwrap_or_default(),
            })
        }
        // The proxy itself answers 504 when the deadline is over, 503 when nobody listens.
        Some(504) => Answer::Timeout,
        Some(500..) => Answer::Failed,
        Some(_) => Answer::Unknown,
        None => Answer::Ended,
    }
}

/// `:status` of a serialized header map.
#[must_use]
pub fn status(raw: &[u8]) -> Option<u16> {
    let (_, value) = Pairs::new(raw).find(|(name, _)| *name == b":status")?;
    core::str::from_utf8(value).ok()?.parse().ok()
}
