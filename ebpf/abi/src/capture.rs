//! How much of a buffer is worth copying.

/// Most bytes that are copied of one system call: a message's head with a large cookie or token.
/// A power of two less one, so that a mask bounds it for the verifier.
pub const MAX_CAPTURE: u32 = 16_383;

/// Most bytes that are copied of a buffer that does not begin like a message: the rest of a head
/// that came in pieces, or body bytes, of which the parser needs only the framing.
pub const MAX_PLAIN_CAPTURE: u32 = 4_095;

/// Whether a buffer begins like an HTTP/1 message: a method's first letters or `HTTP/1.`.
///
/// A hint that decides how much is copied, no more; the parser makes up its own mind.
#[must_use]
#[inline(always)]
pub const fn begins_like_http(start: [u8; 8]) -> bool {
    // Compared as integers: a byte loop costs the verifier more than it is worth.
    let word = u64::from_be_bytes(start);
    const fn text(bytes: &[u8]) -> u64 {
        let mut value = 0;
        let mut i = 0;
        while i < bytes.len() {
            value = value << 8 | bytes[i] as u64;
            i += 1;
        }
        value
    }
    word >> 8 == text(b"HTTP/1.")
        || word >> 32 == text(b"GET ")
        || word >> 24 == text(b"POST ")
        || word >> 32 == text(b"PUT ")
        || word >> 24 == text(b"HEAD ")
        || word >> 8 == text(b"DELETE ")
        || word >> 16 == text(b"PATCH ")
        || word == text(b"OPTIONS ")
        || word == text(b"CONNECT ")
        || word >> 16 == text(b"TRACE ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_starts_are_recognised() {
        for start in [
            b"HTTP/1.1",
            b"GET / HT",
            b"POST /a ",
            b"PUT /a H",
            b"HEAD / H",
            b"DELETE /",
            b"PATCH /a",
            b"OPTIONS ",
            b"CONNECT ",
            b"TRACE / ",
        ] {
            assert!(begins_like_http(*start), "{start:?}");
        }
    }

    #[test]
    fn other_bytes_are_not() {
        for start in
            [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"HTTP/2.0", b"GETAWAY ", b"{\"a\": 1}", b"        "]
        {
            assert!(!begins_like_http(*start), "{start:?}");
        }
    }
}
