//! Lowercase hex of fixed width, and fixed-width headers put together from it.

/// A bit that no digit has, so that one test after the loop finds any of them.
const NO_DIGIT: u8 = 0x80;

/// The bytes that exactly `2 * N` lowercase hex digits spell, else `None`.
pub(crate) fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    let mut out = [0; N];
    let mut seen = 0;
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let (high, low) = (nibble(*high), nibble(*low));
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen & NO_DIGIT == 0).then_some(out)
}

fn nibble(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => NO_DIGIT,
    }
}

/// `parts` one after the other. Their lengths must add up to `N`: what is missing stays zero, and
/// what is too much is left out.
pub(crate) fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let mut rest: &mut [u8] = &mut out;
    for part in parts {
        let Some((head, tail)) = rest.split_at_mut_checked(part.len()) else {
            break;
        };
        head.copy_from_slice(part);
        rest = tail;
    }
    out
}

/// `value` without the optional whitespace (space and tab, RFC 9110 section 5.6.3) around it.
pub(crate) fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lowercase_hex_of_the_exact_length_decodes() {
        assert_eq!(decode::<2>(b"09af"), Some([0x09, 0xaf]));
        for wrong in
            [&b"09a"[..], b"09af0", b"09AF", b"09ag", b"09a/", b"09a:", b"09a`", b"09a\xe1", b"", b"09af00"]
        {
            assert_eq!(decode::<2>(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_byte_decodes_as_the_standard_library_says() {
        for byte in 0..=u8::MAX {
            let expected = char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
            assert_eq!(decode::<1>(&[b'0', byte]).map(|[value]| u32::from(value)), expected);
        }
    }

    #[test]
    fn parts_fill_a_value_from_the_left() {
        assert_eq!(concat::<4>(&[b"ab", b"", b"cd"]), *b"abcd");
        assert_eq!(concat::<4>(&[b"abc"]), *b"abc\0");
        assert_eq!(concat::<4>(&[b"abc", b"de"]), *b"abc\0");
    }

    #[test]
    fn whitespace_is_trimmed_at_both_ends_alone() {
        assert_eq!(trim_ows(b" \t a b\t "), b"a b");
        assert_eq!(trim_ows(b" \t "), b"");
        assert_eq!(trim_ows(b"\na\r"), b"\na\r");
    }
}
