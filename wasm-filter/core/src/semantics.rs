//! OpenTelemetry's semantic conventions for HTTP (version 1.23 and later), as far as they need
//! thought.

use crate::span::Kind;

/// The methods that `http.request.method` may name; all others are `_OTHER`.
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// A request's method in its two spellings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Method {
    /// Value of `http.request.method`.
    pub method: &'static str,
    /// Name of the span: `{method}`, and `HTTP` where that is `_OTHER`.
    pub span_name: &'static str,
}

impl Method {
    /// The method on the wire; methods are case-sensitive (RFC 9110 section 9.1).
    #[must_use]
    pub fn new(wire: &[u8]) -> Self {
        match METHODS.iter().find(|method| method.as_bytes() == wire) {
            Some(method) => Self { method, span_name: method },
            None => Self { method: "_OTHER", span_name: "HTTP" },
        }
    }

    /// Whether `http.request.method_original` is to be told.
    #[must_use]
    pub fn is_other(self) -> bool {
        self.method == "_OTHER"
    }
}

/// `server.address` and `server.port` of an authority. The port is the scheme's where the
/// authority has none.
#[must_use]
pub fn server<'a>(authority: &'a [u8], scheme: &[u8]) -> (&'a [u8], Option<u16>) {
    let default = match scheme {
        b"http" => Some(80),
        b"https" => Some(443),
        _ => None,
    };
    // `[` IPv6 `]`, and a port that follows.
    let end = match authority.first() {
        Some(b'[') => authority.iter().position(|byte| *byte == b']').map(|end| end.saturating_add(1)),
        _ => authority.iter().position(|byte| *byte == b':'),
    };
    let (host, rest) = authority.split_at_checked(end.unwrap_or(authority.len())).unwrap_or((authority, b""));
    let port = match rest {
        [] => default,
        [b':', digits @ ..] => core::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()),
        _ => None,
    };
    (host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host), port)
}

/// `network.protocol.version` of Envoy's `request.protocol`.
#[must_use]
pub fn protocol_version(protocol: &[u8]) -> &'static str {
    match protocol {
        b"HTTP/1.0" => "1.0",
        b"HTTP/1.1" => "1.1",
        b"HTTP/2" => "2",
        b"HTTP/3" => "3",
        _ => "",
    }
}

/// Whether a response status is an error: for a server from 500, for a client from 400. No
/// response at all is one for both.
#[must_use]
pub const fn is_http_error(kind: Kind, status: Option<i64>) -> bool {
    match (kind, status) {
        (_, None) => true,
        (Kind::Server, Some(status)) => status >= 500,
        (Kind::Client, Some(status)) => status >= 400,
    }
}

/// Whether a gRPC status is an error: for a client all but OK, for a server those that tell of
/// its own failure (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS).
#[must_use]
pub const fn is_grpc_error(kind: Kind, status: i64) -> bool {
    match kind {
        Kind::Server => matches!(status, 2 | 4 | 12 | 13 | 14 | 15),
        Kind::Client => status != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_are_other_and_lower_case_is_unknown() {
        assert_eq!(Method::new(b"GET").span_name, "GET");
        for wire in [&b"get"[..], b"PROPFIND", b"", b"\xff"] {
            let method = Method::new(wire);
            assert_eq!((method.method, method.span_name, method.is_other()), ("_OTHER", "HTTP", true));
        }
    }

    #[test]
    fn authorities_split_into_host_and_port() {
        for (authority, scheme, host, port) in [
            ("orders", "http", "orders", Some(80)),
            ("orders", "https", "orders", Some(443)),
            ("orders", "", "orders", None),
            ("orders.shop:8080", "http", "orders.shop", Some(8080)),
            ("[::1]:8080", "http", "::1", Some(8080)),
            ("[::1]", "http", "::1", Some(80)),
            ("[::1]x", "http", "::1", None),
            ("a:99999", "http", "a", None),
            ("a:", "http", "a", None),
            ("[", "http", "[", Some(80)),
            ("", "http", "", Some(80)),
        ] {
            assert_eq!(
                server(authority.as_bytes(), scheme.as_bytes()),
                (host.as_bytes(), port),
                "{authority}"
            );
        }
    }

    #[test]
    fn errors_are_told_from_either_side() {
        assert!(!is_http_error(Kind::Server, Some(404)) && is_http_error(Kind::Client, Some(404)));
        assert!(is_http_error(Kind::Server, Some(503)) && is_http_error(Kind::Server, None));
        assert!(
            !is_grpc_error(Kind::Server, 5)
                && is_grpc_error(Kind::Client, 5)
                && is_grpc_error(Kind::Server, 14)
        );
    }
}
