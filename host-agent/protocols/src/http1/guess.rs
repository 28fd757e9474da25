//! Whether bytes begin like a message.

use super::Peer;

/// What a buffer begins like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guess {
    /// A request of a client, or a response of a server.
    From(Peer),
    /// Maybe one of them: so far nothing speaks against it. At most 33 bytes, empty
    /// lines before them not counted.
    TooShort,
    /// Neither.
    No,
}

/// Most bytes that are too short to tell: the longest method and an absolute-form's scheme.
pub(super) const TOO_SHORT: usize = MAX_METHOD + " https://".len();

/// No registered method is longer than 17 bytes (UPDATEREDIRECTREF).
const MAX_METHOD: usize = 24;

/// IANA's registry of methods without `PRI` (HTTP/2's preface), and what caches and `UPnP` use.
const METHODS: &[&[u8]] = &[
    b"ACL",
    b"BAN",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"NOTIFY",
    b"OPTIONS",
    b"ORDERPATCH",
    b"PATCH",
    b"POST",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SUBSCRIBE",
    b"TRACE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
];

/// Whether a buffer begins like a message, with a method that is commonly known.
///
/// A request line or status line that is in the buffer as a whole is checked as a whole, with its
/// version; of one that is cut, what is there. Empty lines before it are passed over (RFC 9112
/// section 2.2).
#[must_use]
pub fn guess(bytes: &[u8]) -> Guess {
    // Where a message may begin by chance, in the middle of a body, only known methods count.
    begins(
        bytes,
        |method| METHODS.contains(&method),
        |start| METHODS.iter().any(|method| method.starts_with(start)),
    )
}

/// The same where a message has to begin: any token that begins with a letter may be a method.
pub(super) fn guess_at_boundary(bytes: &[u8]) -> Guess {
    let letter_first = |method: &[u8]| method.first().is_some_and(u8::is_ascii_alphabetic);
    // RFC 9113 section 11.6: PRI is reserved, no request uses it. It begins HTTP/2's preface.
    begins(bytes, |method| letter_first(method) && method != b"PRI", letter_first)
}

/// `bytes` without the empty lines that some clients send after a body.
pub(super) fn skip_empty_lines(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

fn begins(bytes: &[u8], is_method: impl Fn(&[u8]) -> bool, begins_method: impl Fn(&[u8]) -> bool) -> Guess {
    let bytes = skip_empty_lines(bytes);
    if bytes.is_empty() {
        return Guess::TooShort;
    }
    match (request_line(bytes, is_method, begins_method), status_line(bytes)) {
        (Guess::From(peer), _) | (_, Guess::From(peer)) => Guess::From(peer),
        (Guess::TooShort, _) | (_, Guess::TooShort) => Guess::TooShort,
        (Guess::No, Guess::No) => Guess::No,
    }
}

fn request_line(
    bytes: &[u8],
    is_method: impl Fn(&[u8]) -> bool,
    begins_method: impl Fn(&[u8]) -> bool,
) -> Guess {
    let Some(end) = bytes.iter().position(|byte| !is_token(*byte)) else {
        return if bytes.len() <= MAX_METHOD && begins_method(bytes) { Guess::TooShort } else { Guess::No };
    };
    let (method, rest) = bytes.split_at(end);
    if method.len() > MAX_METHOD || !is_method(method) {
        return Guess::No;
    }
    let Some(rest) = rest.strip_prefix(b" ") else { return Guess::No };
    // RFC 9112 section 3.2: origin-form, asterisk-form, authority-form (CONNECT alone), absolute-form.
    match rest.first() {
        None => return Guess::TooShort,
        Some(b'/' | b'*') => {}
        Some(byte) if method == b"CONNECT" && (byte.is_ascii_alphanumeric() || *byte == b'[') => {}
        Some(_) => match scheme(rest) {
            Guess::From(_) => {}
            other => return other,
        },
    }
    let Some(end) = rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return Guess::From(Peer::Client);
    };
    let fits = rest
        .get(end..)
        .is_some_and(|version| is_prefix(version, b" HTTP/1.", |minor| minor == b'\r' || minor == b'\n'));
    if fits { Guess::From(Peer::Client) } else { Guess::No }
}

fn scheme(target: &[u8]) -> Guess {
    let mut guess = Guess::No;
    for scheme in [&b"http://"[..], b"https://"] {
        let seen = target.len().min(scheme.len());
        if target.iter().zip(scheme).all(|(byte, expected)| byte.eq_ignore_ascii_case(expected)) {
            if seen == scheme.len() {
                return Guess::From(Peer::Client);
            }
            guess = Guess::TooShort;
        }
    }
    guess
}

fn status_line(bytes: &[u8]) -> Guess {
    if !is_prefix(bytes, b"HTTP/1.", |after| after == b' ') {
        return Guess::No;
    }
    // RFC 9112 section 4: a space and three digits follow the version.
    let status = bytes.get(b"HTTP/1.1 ".len()..).unwrap_or_default();
    if !status.iter().take(3).all(u8::is_ascii_digit) {
        return Guess::No;
    }
    if status.is_empty() { Guess::TooShort } else { Guess::From(Peer::Server) }
}

/// Whether `bytes`, as far as they go, are `start`, a minor version that exists, and a byte that may
/// follow it.
fn is_prefix(bytes: &[u8], start: &[u8], may_follow: impl Fn(u8) -> bool) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
        && bytes.get(start.len()).is_none_or(|minor| matches!(minor, b'0' | b'1'))
        && bytes.get(start.len() + 1).is_none_or(|after| may_follow(*after))
}

/// RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: Guess = Guess::From(Peer::Client);
    const SERVER: Guess = Guess::From(Peer::Server);

    #[test]
    fn message_starts_are_told_apart() {
        for request in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\r\nGET / HTTP/1.0\n",
            b"OPTIONS * HTTP/1.1\r\n",
            b"CONNECT db.shop:443 HTTP/1.1\r\n",
            b"CONNECT [::1]:443",
            b"GET http://shop/orders HTTP/1.1\r\n",
            b"GET HTTPS://",
            b"VERSION-CONTROL /a",
            b"POST /a-long-path-that-was-cut",
        ] {
            assert_eq!(guess(request), CLIENT, "{}", request.escape_ascii());
        }
        for response in [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.0 404\r\n", b"HTTP/1.1 2"] {
            assert_eq!(guess(response), SERVER, "{}", response.escape_ascii());
        }
        for other in [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01",
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO shop\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"OPTIONS * RTSP/1.0\r\n",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1 OK\r\n",
            b"GET / HTTP/1.11\r\n",
            b"{\"n\": 1}",
            b"hello",
            b"SEARCHING /",
        ] {
            assert_eq!(guess(other), Guess::No, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn an_unknown_method_counts_only_at_a_boundary() {
        assert_eq!(guess(b"FROB /a HTTP/1.1\r\n"), Guess::No);
        assert_eq!(guess_at_boundary(b"FROB /a HTTP/1.1\r\n"), CLIENT);
        assert_eq!(guess_at_boundary(b"PRI * HTTP/2.0\r\n"), Guess::No);
        assert_eq!(guess_at_boundary(b"see /etc for more"), Guess::No);
    }

    #[test]
    fn no_prefix_of_a_start_is_refused() {
        for start in [
            &b"UPDATEREDIRECTREF https://shop/ HTTP/1.1\r\n"[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HEAD / HTTP/1.0\n",
            b"CONNECT shop:1 HTTP/1.1\r\n",
        ] {
            for length in 0..=start.len() {
                let guess = guess(&start[..length]);
                assert_ne!(guess, Guess::No, "{}", start[..length].escape_ascii());
                assert!(guess != Guess::TooShort || length <= TOO_SHORT);
            }
        }
        assert_eq!(guess(b"G"), Guess::TooShort);
        assert_eq!(guess(b"\r\n"), Guess::TooShort);
    }

    proptest! {
        #[test]
        fn too_short_is_bounded(bytes in "[A-Za-z /:*HTPS.1-]{0,64}") {
            for guess in [guess(bytes.as_bytes()), guess_at_boundary(bytes.as_bytes())] {
                prop_assert!(guess != Guess::TooShort || bytes.len() <= TOO_SHORT);
            }
        }
    }
}
