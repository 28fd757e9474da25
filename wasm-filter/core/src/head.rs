//! A request's headers, as far as the filter needs them.

use crate::pairs::Pairs;
use core::ops::Range;
use std::borrow::Cow;

/// Raw header maps above this size are not kept for the length of the request, only what is used
/// of them: a long-lived stream must not hold 60 KiB of foreign headers a second time.
const MAX_KEPT: usize = 8 << 10;
/// Longest values that are reported; more is cut. Paths and hosts are what users search for;
/// `user-agent` is cut where OpenTelemetry's examples end.
pub const MAX_PATH: usize = 1024;
/// See [`MAX_PATH`].
pub const MAX_AUTHORITY: usize = 256;
/// See [`MAX_PATH`].
pub const MAX_USER_AGENT: usize = 256;
/// See [`MAX_PATH`]. A UUID has 36.
pub const MAX_REQUEST_ID: usize = 128;
const MAX_METHOD: usize = 32;
const MAX_SCHEME: usize = 16;

/// The headers that describe a request, without copies of their values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    raw: Vec<u8>,
    method: Range<usize>,
    path: Range<usize>,
    authority: Range<usize>,
    scheme: Range<usize>,
    user_agent: Range<usize>,
    request_id: Range<usize>,
    grpc: bool,
    compacted: bool,
}

impl Head {
    /// Reads a serialized header map (see [`crate::pairs`]) in one pass.
    #[must_use]
    pub fn new(raw: Vec<u8>) -> Self {
        let mut head = Self::default();
        let mut pairs = Pairs::new(&raw);
        while let Some((name, value)) = pairs.next_ranges() {
            let Some(name) = raw.get(name) else { break };
            // The proxy gives names in lowercase. The length is compared first, because most
            // headers are none of these.
            let (slot, max) = match name {
                b":method" => (&mut head.method, MAX_METHOD),
                b":path" => (&mut head.path, MAX_PATH),
                b":authority" => (&mut head.authority, MAX_AUTHORITY),
                b":scheme" => (&mut head.scheme, MAX_SCHEME),
                b"user-agent" => (&mut head.user_agent, MAX_USER_AGENT),
                b"x-request-id" => (&mut head.request_id, MAX_REQUEST_ID),
                b"content-type" => {
                    head.grpc = raw.get(value).is_some_and(|value| value.starts_with(b"application/grpc"));
                    continue;
                }
                _ => continue,
            };
            *slot = value.start..value.end.min(value.start.saturating_add(max));
        }
        head.raw = raw;
        head
    }

    /// Gives up what is not needed once the trace context was read.
    pub fn compact(&mut self) {
        if self.raw.len() <= MAX_KEPT {
            return;
        }
        let mut kept = Vec::new();
        for range in [
            &mut self.method,
            &mut self.path,
            &mut self.authority,
            &mut self.scheme,
            &mut self.user_agent,
            &mut self.request_id,
        ] {
            let start = kept.len();
            kept.extend_from_slice(self.raw.get(range.clone()).unwrap_or_default());
            *range = start..kept.len();
        }
        self.raw = kept;
        self.compacted = true;
    }

    /// All headers. Empty after [`Self::compact`] had to give them up.
    #[must_use]
    pub fn pairs(&self) -> Pairs<'_> {
        Pairs::new(if self.compacted { &[] } else { &self.raw })
    }

    /// `:method`.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.value(&self.method)
    }

    /// `:path`, with its query.
    #[must_use]
    pub fn path_and_query(&self) -> &[u8] {
        self.value(&self.path)
    }

    /// `:path` without query and fragment.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let path = self.value(&self.path);
        let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
        path.get(..end).unwrap_or_default()
    }

    /// `:authority`.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.value(&self.authority)
    }

    /// `:scheme`.
    #[must_use]
    pub fn scheme(&self) -> &[u8] {
        self.value(&self.scheme)
    }

    /// `user-agent`.
    #[must_use]
    pub fn user_agent(&self) -> &[u8] {
        self.value(&self.user_agent)
    }

    /// `x-request-id`.
    #[must_use]
    pub fn request_id(&self) -> &[u8] {
        self.value(&self.request_id)
    }

    /// Whether it is a gRPC request, by its content type.
    #[must_use]
    pub const fn grpc(&self) -> bool {
        self.grpc
    }

    /// `METHOD SP path`, at most `max` bytes of it before bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn request_line(&self, max: usize) -> String {
        let mut line = Vec::with_capacity(max);
        line.extend_from_slice(self.method());
        line.push(b' ');
        line.extend_from_slice(self.path_and_query());
        line.truncate(max);
        match String::from_utf8_lossy(&line) {
            Cow::Borrowed(_) => String::from_utf8(line).unwrap_or_default(),
            Cow::Owned(lossy) => lossy,
        }
    }

    fn value(&self, range: &Range<usize>) -> &[u8] {
        self.raw.get(range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::serialize;

    #[test]
    fn values_are_found_and_the_query_is_left_out() {
        let mut head = Head::new(serialize(&[
            (":authority", "shop:80"),
            (":path", "/checkout/1?card=4111#x"),
            (":method", "GET"),
            (":scheme", "http"),
            ("x-request-id", "r-1"),
            ("cookie", "secret"),
            ("user-agent", "curl/8"),
            ("content-type", "application/grpc+proto"),
        ]));
        assert_eq!(head.path(), b"/checkout/1");
        assert_eq!(head.request_line(256), "GET /checkout/1?card=4111#x");
        assert_eq!(head.request_line(9), "GET /chec");
        assert_eq!((head.method(), head.authority()), (&b"GET"[..], &b"shop:80"[..]));
        assert_eq!((head.user_agent(), head.request_id()), (&b"curl/8"[..], &b"r-1"[..]));
        assert!(head.grpc());
        head.compact();
        assert_eq!(head.pairs().count(), 8);
    }

    #[test]
    fn a_huge_head_is_cut_down_to_what_is_used() {
        let huge = vec![b'x'; 60 << 10];
        let mut head =
            Head::new(serialize(&[(&b":path"[..], &huge[..]), (b"user-agent", &huge), (b":method", b"GET")]));
        head.compact();
        assert_eq!(head.raw.len(), MAX_PATH + MAX_USER_AGENT + 3);
        assert_eq!((head.path().len(), head.method()), (MAX_PATH, &b"GET"[..]));
        assert_eq!((head.authority(), head.pairs().count()), (&b""[..], 0));
        assert_eq!(head.request_line(8), "GET xxxx");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced_in_the_request_line() {
        let head = Head::new(serialize(&[(&b":path"[..], &b"/\xff"[..]), (b":method", b"GET")]));
        assert_eq!(head.request_line(256), "GET /\u{fffd}");
    }
}
