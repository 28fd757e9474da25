//! Message heads: the request line or status line, and the header fields.

use super::body::Framing;
use super::{MAX_HEAD, MAX_HEADERS};
use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use meshweft_telemetry::DropReason;
use meshweft_telemetry::propagation::{Extraction, Format, extract};

/// What is kept of a request's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// The method, as sent.
    pub method: Box<str>,
    /// Path and query (origin-form). Absolute-form is reduced to it; `*` stays; for CONNECT, the
    /// authority.
    pub target: Vec<u8>,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// The authority of an absolute-form target or of CONNECT, without user and password; else the
    /// first `Host`. `None` where there is none, or an empty one.
    pub host: Option<Vec<u8>>,
    /// The propagated trace context.
    pub extraction: Extraction<'static>,
    /// The first `X-Request-Id`.
    pub request_id: Option<Vec<u8>>,
    /// The first `User-Agent`.
    pub user_agent: Option<Vec<u8>>,
    /// `Content-Length`, where it is valid and no `Transfer-Encoding` overrides it.
    pub content_length: Option<u64>,
}

/// What is kept of a response's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// The status code, 100 to 999.
    pub status: u16,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// `Content-Length`, where it is valid and no `Transfer-Encoding` overrides it. For HEAD and 304
    /// it is what the response to a GET would have.
    pub content_length: Option<u64>,
}

/// As far as the method decides how messages end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Head,
    Connect,
    Other,
}

impl RequestHead {
    pub(super) fn kind(&self) -> Method {
        match &*self.method {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }
}

/// A request's head, and what it says about the bytes after it.
pub(super) struct Request {
    pub(super) head: RequestHead,
    pub(super) framing: Framing,
    /// The client sends the body when it is told to (RFC 9110 section 10.1.1).
    pub(super) expects_continue: bool,
}

/// Looks for the empty line that ends a head. `from` is where the search goes on. `Err` is the
/// `from` of the next search, when there are more bytes.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Result<usize, usize> {
    let mut from = from;
    while let Some(found) = bytes.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
        let line_feed = from + found;
        match (bytes.get(line_feed + 1), bytes.get(line_feed + 2)) {
            (Some(b'\n'), _) => return Ok(line_feed + 2),
            (Some(b'\r'), Some(b'\n')) => return Ok(line_feed + 3),
            (None, _) | (Some(b'\r'), None) => return Err(line_feed),
            _ => from = line_feed + 1,
        }
    }
    Err(bytes.len())
}

/// Parses a whole request head, its empty line included.
///
/// # Errors
/// `HeadTooLarge` beyond [`MAX_HEADERS`], `Malformed` where httparse refuses the request line.
pub(super) fn request(bytes: &[u8]) -> Result<Request, DropReason> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    // The app decides what it takes; a line that is no header field does not make it another
    // request. That covers folded lines, too.
    let parsed =
        ParserConfig::default().ignore_invalid_headers_in_requests(true).parse_request(&mut request, bytes);
    complete(parsed)?;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(DropReason::Malformed);
    };
    let headers = &*request.headers;
    let (target, authority) = split_target(method, target.as_bytes());
    let fields = Fields::new(headers);
    let head = RequestHead {
        method: method.into(),
        target,
        minor,
        host: authority
            .or_else(|| first(headers, "host"))
            .filter(|host| !host.is_empty())
            .map(<[u8]>::to_vec),
        extraction: extraction(headers),
        request_id: first(headers, "x-request-id").map(<[u8]>::to_vec),
        user_agent: first(headers, "user-agent").map(<[u8]>::to_vec),
        content_length: fields.content_length(),
    };
    let expects_continue =
        first(headers, "expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    Ok(Request { head, framing: fields.of_request(), expects_continue })
}

/// Parses a whole response head, its empty line included. The framing does not know of the request:
/// see [`response_framing`].
///
/// # Errors
/// As [`request`].
pub(super) fn response(bytes: &[u8]) -> Result<(ResponseHead, Framing), DropReason> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response(&mut response, bytes);
    complete(parsed)?;
    let (Some(status @ 100..), Some(minor)) = (response.code, response.version) else {
        return Err(DropReason::Malformed);
    };
    let fields = Fields::new(response.headers);
    let head = ResponseHead { status, minor, content_length: fields.content_length() };
    Ok((head, fields.of_response()))
}

/// RFC 9112 section 6.3, rules 1 and 2, and for CONNECT what RFC 9110 section 9.3.6 says.
pub(super) const fn response_framing(method: Method, status: u16, by_fields: Framing) -> Framing {
    match (method, status) {
        (Method::Head, _) | (_, 100..=199 | 204 | 304) | (Method::Connect, 200..=299) => Framing::Length(0),
        _ => by_fields,
    }
}

fn complete(parsed: httparse::Result<usize>) -> Result<(), DropReason> {
    match parsed {
        Ok(Status::Complete(_)) => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(DropReason::HeadTooLarge),
        Ok(Status::Partial) | Err(_) => Err(DropReason::Malformed),
    }
}

fn first<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn extraction(headers: &[Header<'_>]) -> Extraction<'static> {
    let fields = headers.iter().map(|header| (header.name.as_bytes(), header.value));
    let found = extract(fields, &[Format::W3c, Format::B3, Format::B3Multi]);
    Extraction {
        context: found.context,
        tracestate: found.tracestate.map(|state| state.into_owned()),
        sampled: found.sampled,
        format: found.format,
        errors: found.errors,
    }
}

/// Path and query of a target, and the authority if it names one (RFC 9112 section 3.2).
fn split_target<'a>(method: &str, target: &'a [u8]) -> (Vec<u8>, Option<&'a [u8]>) {
    if method == "CONNECT" {
        return (target.to_vec(), Some(target));
    }
    let after_scheme = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let Some(rest) = after_scheme else { return (target.to_vec(), None) };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or_default();
    // A user and a password before the host are nobody else's business.
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    let path = match path.first() {
        Some(b'/') => path.to_vec(),
        // 3.2.4: an OPTIONS for the server as a whole, as a proxy receives it.
        None if method == "OPTIONS" => b"*".to_vec(),
        _ => [b"/", path].concat(),
    };
    (path, Some(host).filter(|host| !host.is_empty()))
}

/// The fields that decide how long a body is.
struct Fields {
    length: Length,
    coding: Coding,
}

enum Length {
    Absent,
    Valid(u64),
    Invalid,
}

enum Coding {
    Absent,
    Chunked,
    Other,
}

impl Fields {
    fn new(headers: &[Header<'_>]) -> Self {
        let mut fields = Self { length: Length::Absent, coding: Coding::Absent };
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                // 6.3 rule 5: a list of the same value, or the field repeated, is that value;
                // anything else is an error. RFC 9110 section 8.6: digits alone.
                for value in header.value.split(|byte| *byte == b',') {
                    fields.length = match (fields.length, decimal(value.trim_ascii())) {
                        (Length::Absent, Some(length)) => Length::Valid(length),
                        (Length::Valid(before), Some(length)) if before == length => Length::Valid(length),
                        _ => Length::Invalid,
                    };
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                // 6.3 rule 4: only the final coding counts.
                let last = header
                    .value
                    .rsplit(|byte| *byte == b',')
                    .map(<[u8]>::trim_ascii)
                    .find(|coding| !coding.is_empty());
                fields.coding = match last {
                    Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                    _ => Coding::Other,
                };
            }
        }
        fields
    }

    const fn content_length(&self) -> Option<u64> {
        match (&self.coding, &self.length) {
            (Coding::Absent, Length::Valid(length)) => Some(*length),
            _ => None,
        }
    }

    /// Section 6.3, rules 3 to 5 and 7.
    const fn of_request(&self) -> Framing {
        match (&self.coding, &self.length) {
            // Rule 3: "the Transfer-Encoding overrides the Content-Length".
            (Coding::Chunked, _) => Framing::Chunked,
            // Rule 4: "the message body length cannot be determined reliably".
            (Coding::Other, _) | (Coding::Absent, Length::Invalid) => Framing::Faulty,
            (Coding::Absent, Length::Valid(length)) => Framing::Length(*length),
            (Coding::Absent, Length::Absent) => Framing::Length(0),
        }
    }

    /// Section 6.3, rules 3 to 5 and 8.
    const fn of_response(&self) -> Framing {
        match (&self.coding, &self.length) {
            (Coding::Chunked, _) => Framing::Chunked,
            (Coding::Other, _) | (Coding::Absent, Length::Absent) => Framing::UntilClose,
            (Coding::Absent, Length::Invalid) => Framing::Faulty,
            (Coding::Absent, Length::Valid(length)) => Framing::Length(*length),
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

// A head is parsed from one buffer, so its parts are bounded by it.
const _: () = assert!(MAX_HEADERS < MAX_HEAD);

#[cfg(test)]
mod tests {
    use super::*;
    use meshweft_telemetry::TraceId;

    fn parse(text: &str) -> (RequestHead, Framing) {
        let request = request(text.as_bytes()).unwrap();
        (request.head, request.framing)
    }

    fn framing_of_request(fields: &str) -> Framing {
        parse(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")).1
    }

    fn framing_of_response(fields: &str) -> Framing {
        response(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()).unwrap().1
    }

    #[test]
    fn a_request_head_gives_what_spans_need() {
        let (head, framing) = parse(
            "POST /orders?n=1 HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: Ruby\r\nX-Request-ID: 7\r\nContent-Length: 3\r\n\
             Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: es=s:1\r\n\r\n",
        );
        assert_eq!((&*head.method, &head.target[..], head.minor), ("POST", &b"/orders?n=1"[..], 1));
        assert_eq!(head.host.as_deref(), Some(&b"shop:80"[..]));
        assert_eq!(head.user_agent.as_deref(), Some(&b"Ruby"[..]));
        assert_eq!(head.request_id.as_deref(), Some(&b"7"[..]));
        let trace =
            TraceId::from_bytes(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()).unwrap();
        assert_eq!(head.extraction.context.unwrap().trace_id, trace);
        assert_eq!(head.extraction.tracestate.unwrap().as_str(), "es=s:1");
        assert_eq!((head.content_length, framing), (Some(3), Framing::Length(3)));
    }

    #[test]
    fn absolute_form_is_reduced_to_path_and_authority() {
        for (line, target, host) in [
            ("GET http://shop/orders?n=1", "/orders?n=1", Some("shop")),
            ("GET HTTPS://user:secret@shop:8443", "/", Some("shop:8443")),
            ("GET http://shop?n=1", "/?n=1", Some("shop")),
            ("GET http:///orders", "/orders", Some("other")),
            ("OPTIONS http://shop", "*", Some("shop")),
            ("OPTIONS *", "*", Some("other")),
            ("CONNECT db:5432", "db:5432", Some("db:5432")),
            ("GET /http://shop/", "/http://shop/", Some("other")),
        ] {
            let (head, _) = parse(&format!("{line} HTTP/1.1\r\nHost: other\r\n\r\n"));
            assert_eq!(head.target, target.as_bytes(), "{line}");
            assert_eq!(head.host.as_deref(), host.map(str::as_bytes), "{line}");
        }
        assert_eq!(parse("GET / HTTP/1.0\r\nHost:\r\n\r\n").0.host, None);
    }

    #[test]
    fn transfer_encoding_overrides_content_length() {
        let both = "Content-Length: 3\r\nTransfer-Encoding: gzip, Chunked";
        assert_eq!(framing_of_request(both), Framing::Chunked);
        assert_eq!(framing_of_response(both), Framing::Chunked);
        assert_eq!(parse(&format!("POST / HTTP/1.1\r\n{both}\r\n\r\n")).0.content_length, None);
        // Split over two fields, the last one counts.
        let split = "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip";
        assert_eq!(framing_of_request(split), Framing::Faulty);
        assert_eq!(framing_of_response(split), Framing::UntilClose);
        assert_eq!(
            framing_of_request("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
            Framing::Chunked
        );
    }

    #[test]
    fn lengths_that_agree_are_one_and_others_are_faulty() {
        for good in ["Content-Length: 5", "Content-Length: 5, 5", "Content-Length: 5\r\ncontent-length: 05"] {
            assert_eq!(framing_of_request(good), Framing::Length(5), "{good}");
            assert_eq!(framing_of_response(good), Framing::Length(5), "{good}");
        }
        for bad in [
            "Content-Length: 5, 6",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 5,",
            "Content-Length: 0x5",
            "Content-Length: 18446744073709551616",
        ] {
            assert_eq!(framing_of_request(bad), Framing::Faulty, "{bad}");
            assert_eq!(framing_of_response(bad), Framing::Faulty, "{bad}");
        }
        assert_eq!(framing_of_request("A: b"), Framing::Length(0));
        assert_eq!(framing_of_response("A: b"), Framing::UntilClose);
    }

    #[test]
    fn folded_lines_and_bare_line_feeds_are_taken() {
        let (head, framing) = parse("GET / HTTP/1.1\nHost: shop\nX: a\n b: c\nContent-Length: 2\n\n");
        assert_eq!((head.host.as_deref(), framing), (Some(&b"shop"[..]), Framing::Length(2)));
        assert_eq!(framing_of_response("X: a\r\n b\r\nContent-Length: 2\r\n "), Framing::Length(2));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for bad in ["GET /\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n"] {
            assert_eq!(request(bad.as_bytes()).err(), Some(DropReason::Malformed), "{bad}");
        }
        for bad in ["HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 No\r\n\r\n"] {
            assert_eq!(response(bad.as_bytes()).unwrap_err(), DropReason::Malformed, "{bad}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(request(many.as_bytes()).err(), Some(DropReason::HeadTooLarge));
        let enough = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS));
        assert!(request(enough.as_bytes()).is_ok());
    }

    #[test]
    fn the_end_of_a_head_is_found_across_splits() {
        for head in ["GET / HTTP/1.1\r\nA: b\r\n\r\n", "GET / HTTP/1.1\nA: b\n\n", "GET / HTTP/1.1\r\n\n"] {
            let all = format!("{head}rest");
            for split in 0..head.len() {
                let from = find_end(&all.as_bytes()[..split], 0).unwrap_err();
                assert_eq!(find_end(all.as_bytes(), from), Ok(head.len()), "{split} of {head:?}");
            }
        }
    }
}
