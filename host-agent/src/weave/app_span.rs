//! The span of a request that was seen in an app's process (OpenTelemetry semantic conventions for
//! HTTP spans, 1.27).

use meshweft_correlator::Woven;
use meshweft_telemetry::{Connection, Hop, attributes};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};

use super::identity::{int, string};
use crate::capture::connections::Exchange;

/// Methods that RFC 9110 and RFC 5789 define; others are told as `_OTHER`, so that a client
/// cannot fill a backend with names.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Longest attribute that is taken from a request, in bytes.
const MAX_TEXT: usize = 1_024;

/// `error.type` of a request whose connection ended before its response did.
const CONNECTION_CLOSED: &str = "connection_closed";

/// Builds the span, but for its place in the trace.
pub(super) fn build<P>(woven: &Woven<P>, seen: &Exchange, connection: Connection) -> Span {
    let server = seen.hop == Hop::AppServer;
    let head = &*seen.head;
    let known = METHODS.contains(&&*head.method);
    let method = if known { &*head.method } else { "_OTHER" };
    let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let path = bounded(path);
    let mut list = vec![
        string(attributes::HTTP_REQUEST_METHOD, method),
        string(attributes::URL_SCHEME, "http"),
        string(attributes::NETWORK_PROTOCOL_VERSION, format!("1.{}", head.minor)),
        string(attributes::NETWORK_PEER_ADDRESS, connection.remote().ip().to_string()),
        int(attributes::NETWORK_PEER_PORT, connection.remote().port().into()),
        int(attributes::HTTP_REQUEST_BODY_SIZE, size(seen.request_body)),
    ];
    if !known {
        list.push(string(attributes::HTTP_REQUEST_METHOD_ORIGINAL, bounded(head.method.as_bytes())));
    }
    let host = head.host.as_deref().map(bounded).filter(|host| !host.is_empty());
    let end = if server { connection.local() } else { connection.remote() };
    let (address, port) = host.as_deref().map_or((None, None), split_authority);
    list.push(string(
        attributes::SERVER_ADDRESS,
        address.map_or_else(|| end.ip().to_string(), str::to_owned),
    ));
    list.push(int(
        attributes::SERVER_PORT,
        port.unwrap_or(if host.is_some() { 80 } else { end.port() }).into(),
    ));
    if !server {
        let authority = host.unwrap_or_else(|| end.to_string());
        list.push(string(attributes::URL_FULL, format!("http://{authority}{path}")));
    }
    list.push(string(attributes::URL_PATH, path));
    if let Some(agent) = &head.user_agent {
        list.push(string(attributes::USER_AGENT_ORIGINAL, bounded(agent)));
    }
    if let Some(id) = &head.request_id {
        list.push(string(attributes::REQUEST_ID, bounded(id)));
    }
    let mut error = None;
    if let Some(status) = seen.status {
        list.push(int(attributes::HTTP_RESPONSE_STATUS_CODE, status.into()));
        list.push(int(attributes::HTTP_RESPONSE_BODY_SIZE, size(seen.response_body)));
        if status >= if server { 500 } else { 400 } {
            error = Some(status.to_string());
        }
    } else if !seen.complete {
        error = Some(CONNECTION_CLOSED.to_owned());
    }
    let status = error.map(|kind| {
        list.push(string(attributes::ERROR_TYPE, kind));
        Status { code: StatusCode::Error.into(), ..Status::default() }
    });
    Span {
        trace_id: woven.trace_id.to_bytes().to_vec(),
        span_id: woven.span_id.to_bytes().to_vec(),
        name: if known { method.to_owned() } else { "HTTP".to_owned() },
        kind: if server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: seen.started,
        end_time_unix_nano: seen.ended.max(seen.started),
        attributes: list,
        status,
        ..Span::default()
    }
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Text of bytes from the wire: cut, and with what is not UTF-8 replaced.
fn bounded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..MAX_TEXT).unwrap_or(bytes)).into_owned()
}

/// Host and port of an authority (RFC 3986, section 3.2).
fn split_authority(authority: &str) -> (Option<&str>, Option<u16>) {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').unwrap_or((rest, ""));
        return (Some(address), rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => (Some(host), port.parse().ok()),
        None => (Some(authority), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_split_into_host_and_port() {
        assert_eq!(split_authority("orders:8080"), (Some("orders"), Some(8080)));
        assert_eq!(split_authority("orders"), (Some("orders"), None));
        assert_eq!(split_authority("[::1]:80"), (Some("::1"), Some(80)));
        assert_eq!(split_authority("[::1"), (Some("::1"), None));
        assert_eq!(split_authority("orders:http"), (Some("orders"), None));
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_cut() {
        assert_eq!(bounded(b"/a\xff"), "/a\u{fffd}");
        assert_eq!(bounded(&[b'a'; 2 * MAX_TEXT]).len(), MAX_TEXT);
    }
}
