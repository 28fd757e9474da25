//! The `traceparent` header: W3C Trace Context level 2, section 3.2.
//!
//! ```
//! use meshweft_telemetry::traceparent;
//!
//! let value = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//! let context = traceparent::parse(value)?;
//! assert!(context.flags.sampled());
//! assert_eq!(&traceparent::format(&context), value);
//! # Ok::<(), meshweft_telemetry::Error>(())
//! ```

use crate::context::{SpanContext, TraceFlags};
use crate::error::{Error, Part};
use crate::hex;
use crate::id::{SpanId, TraceId};

/// Name of the header, in the lowercase that section 3.2.1 asks for.
pub const NAME: &str = "traceparent";
/// Length of a value of version 00, in bytes.
pub const LEN: usize = 55;
/// Longest value that is looked at, in bytes. Section 3.2.4 asks to "only disallow prohibitively
/// large headers", because later versions may append fields.
pub const MAX_LEN: usize = 1024;

/// Parses one value of the header. Optional whitespace around it is ignored.
///
/// # Errors
/// [`Error::TooLarge`] where the value is longer than [`MAX_LEN`], [`Error::Malformed`] where the
/// specification says that the header must be ignored.
pub fn parse(value: &[u8]) -> Result<SpanContext, Error> {
    if value.len() > MAX_LEN {
        return Err(Error::TooLarge { header: NAME, limit: MAX_LEN });
    }
    let rest = hex::trim_ows(value);

    // 3.2.2.1: "Version ff is forbidden". 3.2.4: "When the version prefix cannot be parsed (it's
    // not 2 hex characters followed by a dash), the implementation should restart the trace."
    let (version, rest) = field::<2>(rest).ok_or(malformed(Part::Version))?;
    let [version] =
        hex::decode(version).filter(|version| *version != [0xff]).ok_or(malformed(Part::Version))?;
    let rest = after_dash(rest).ok_or(malformed(Part::Version))?;

    // 3.2.2.3: "If the trace-id value is invalid (for example if it contains non-allowed
    // characters or all zeros), vendors MUST ignore the entire header."
    let (digits, rest) = field::<32>(rest).ok_or(malformed(Part::TraceId))?;
    let trace_id = hex::decode(digits).and_then(TraceId::from_bytes).ok_or(malformed(Part::TraceId))?;
    let rest = after_dash(rest).ok_or(malformed(Part::TraceId))?;

    // 3.2.2.4: "Vendors MUST ignore the traceparent when the parent-id is invalid (for example,
    // if it contains non-lowercase hex characters)."
    let (digits, rest) = field::<16>(rest).ok_or(malformed(Part::SpanId))?;
    let span_id = hex::decode(digits).and_then(SpanId::from_bytes).ok_or(malformed(Part::SpanId))?;
    let rest = after_dash(rest).ok_or(malformed(Part::SpanId))?;

    let (digits, rest) = field::<2>(rest).ok_or(malformed(Part::Flags))?;
    let [flags] = hex::decode(digits).ok_or(malformed(Part::Flags))?;

    // 3.2.2.2 gives version 00 no further field. 3.2.4, of higher versions: "Vendors MUST check
    // that the 2 characters are either at the end of the string or followed by a dash."
    match (version, rest) {
        (_, []) | (1.., [b'-', ..]) => {}
        _ => return Err(malformed(Part::End)),
    }
    // 3.2.2.5.3: "The behavior of other flags [...] is reserved for future use. Vendors MUST set
    // those to zero."
    Ok(SpanContext { trace_id, span_id, flags: TraceFlags::from_bits(flags) })
}

/// Parses all `traceparent` headers of a request. None at all is `Ok(None)`.
///
/// # Errors
/// [`Error::Duplicate`] where there is more than one, also where a proxy has joined them into one
/// value by commas (RFC 9110 section 5.2); else those of [`parse`].
pub fn parse_all<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<SpanContext>, Error> {
    let mut values = values.into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Error::Duplicate { header: NAME });
    }
    parse_possibly_joined(value).map(Some)
}

/// [`parse`], with an error of its own for several values joined by commas.
pub(crate) fn parse_possibly_joined(value: &[u8]) -> Result<SpanContext, Error> {
    if value.len() <= MAX_LEN && value.contains(&b',') {
        return Err(Error::Duplicate { header: NAME });
    }
    parse(value)
}

/// The value of the header, always of version 00: 3.2.4 asks to write "the highest version of the
/// specification known to the implementation".
#[must_use]
pub fn format(context: &SpanContext) -> [u8; LEN] {
    // `TraceFlags` has no bit above the second, so one digit is enough.
    hex::concat(&[
        b"00-",
        &context.trace_id.to_hex(),
        b"-",
        &context.span_id.to_hex(),
        b"-0",
        &[b'0' | context.flags.bits()],
    ])
}

fn field<const N: usize>(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    rest.split_at_checked(N)
}

fn after_dash(rest: &[u8]) -> Option<&[u8]> {
    rest.strip_prefix(b"-")
}

const fn malformed(part: Part) -> Error {
    Error::Malformed { header: NAME, part }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdGenerator;
    use proptest::prelude::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const SPAN: &str = "1234567890123456";

    fn parse(value: &str) -> Result<SpanContext, Error> {
        super::parse(value.as_bytes())
    }

    fn part(value: &str) -> Part {
        match parse(value) {
            Err(Error::Malformed { header: NAME, part }) => part,
            other => panic!("{value:?}: {other:?}"),
        }
    }

    #[test]
    fn the_examples_of_the_specification_parse() {
        // 3.2.3, "Valid traceparent when caller sampled this request".
        let context = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(context.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(context.flags, TraceFlags::SAMPLED);
        // "Valid traceparent when caller didn't sample this request".
        let context = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
        assert_eq!(context.flags, TraceFlags::NONE);
    }

    #[test]
    fn flags_are_bits_and_unknown_ones_are_cleared() {
        // 3.2.2.5: "both 01 and 03 represent that the trace has been sampled [...], and 03 and 02
        // both represent that at least the right-most 7 bytes of the trace-id are randomly
        // generated". 3.2.2.5.3: "Vendors MUST set those to zero."
        for (digits, sampled, random, written) in [
            ("00", false, false, "00"),
            ("01", true, false, "01"),
            ("02", false, true, "02"),
            ("03", true, true, "03"),
            ("fc", false, false, "00"),
            ("ff", true, true, "03"),
        ] {
            let context = parse(&format!("00-{TRACE}-{SPAN}-{digits}")).unwrap();
            assert_eq!((context.flags.sampled(), context.flags.random()), (sampled, random), "{digits}");
            assert!(format(&context).ends_with(written.as_bytes()));
        }
    }

    #[test]
    fn version_00_has_nothing_after_the_flags() {
        for tail in [".", "-", "-what-the-future-will-be-like", "0", "\0"] {
            assert_eq!(part(&format!("00-{TRACE}-{SPAN}-01{tail}")), Part::End, "{tail:?}");
        }
    }

    #[test]
    fn a_higher_version_is_parsed_by_its_prefix_and_written_as_version_00() {
        for version in ["01", "cc", "fe"] {
            for tail in ["", "-", "-what-the-future-will-be-like", "-\x7f"] {
                let context = parse(&format!("{version}-{TRACE}-{SPAN}-01{tail}")).unwrap();
                assert_eq!(format(&context), *format!("00-{TRACE}-{SPAN}-01").as_bytes());
            }
            // "Vendors MUST check that the 2 characters are either at the end of the string or
            // followed by a dash."
            assert_eq!(part(&format!("{version}-{TRACE}-{SPAN}-01.what")), Part::End);
            assert_eq!(part(&format!("{version}-{TRACE}-{SPAN}-011")), Part::End);
            // "If the size of the header is shorter than 55 characters, the vendor should not
            // parse the header".
            assert_eq!(part(&format!("{version}-{TRACE}-{SPAN}-0")), Part::Flags);
        }
    }

    #[test]
    fn version_ff_and_what_is_no_version_are_refused() {
        for version in ["ff", ".0", "0.", "000", "0000", "0", "", "FF", "Cc", "  "] {
            assert_eq!(part(&format!("{version}-{TRACE}-{SPAN}-01")), Part::Version, "{version}");
        }
        assert_eq!(part(""), Part::Version);
        assert_eq!(part(&format!("00_{TRACE}-{SPAN}-01")), Part::Version);
    }

    #[test]
    fn an_invalid_trace_id_is_refused() {
        for id in [
            "00000000000000000000000000000000",
            ".2345678901234567890123456789012",
            "1234567890123456789012345678901.",
            "1234567890123456789012345678901A",
            "123456789012345678901234567890123",
            "1234567890123456789012345678901",
            "",
        ] {
            assert_eq!(part(&format!("00-{id}-{SPAN}-01")), Part::TraceId, "{id}");
        }
    }

    #[test]
    fn an_invalid_parent_id_is_refused() {
        for id in [
            "0000000000000000",
            ".234567890123456",
            "123456789012345.",
            "123456789012345F",
            "12345678901234567",
            "123456789012345",
        ] {
            assert_eq!(part(&format!("00-{TRACE}-{id}-01")), Part::SpanId, "{id}");
        }
    }

    #[test]
    fn invalid_flags_are_refused() {
        for flags in [".0", "0.", "0A", "1", ""] {
            assert_eq!(part(&format!("00-{TRACE}-{SPAN}-{flags}")), Part::Flags, "{flags}");
        }
        assert_eq!(part(&format!("00-{TRACE}-{SPAN}-001")), Part::End);
    }

    #[test]
    fn whitespace_around_the_value_is_ignored_and_inside_it_is_not() {
        let value = format!("00-{TRACE}-{SPAN}-01");
        for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
            assert_eq!(parse(&format!("{before}{value}{after}")), parse(&value));
        }
        assert!(parse(&format!("\n{value}")).is_err());
        assert!(parse(&value.replacen('-', " -", 1)).is_err());
        assert!(parse(&value.replacen('-', "- ", 1)).is_err());
    }

    #[test]
    fn a_prohibitively_large_value_is_refused_whatever_it_holds() {
        let value = format!("cc-{TRACE}-{SPAN}-01-");
        let longest = format!("{value:x<MAX_LEN$}");
        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&(longest + "x")), Err(Error::TooLarge { header: NAME, limit: MAX_LEN }));
    }

    #[test]
    fn one_header_is_needed_and_several_are_refused() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let other = format!("00-{}-{SPAN}-01", TRACE.replace("12", "13"));
        let all = |values: &[&str]| parse_all(values.iter().map(|value| value.as_bytes()));
        assert_eq!(all(&[]), Ok(None));
        assert_eq!(all(&[&one]), parse(&one).map(Some));
        let duplicate = Err(Error::Duplicate { header: NAME });
        assert_eq!(all(&[&one, &other]), duplicate);
        assert_eq!(all(&[&one, &one]), duplicate);
        assert_eq!(all(&["", &one]), duplicate);
        // Joined by a proxy.
        assert_eq!(all(&[&format!("{one},{other}")]), duplicate);
        assert_eq!(all(&[&format!("{one}, {one}")]), duplicate);
        assert_eq!(all(&[&format!("cc{},{one}", one.trim_start_matches("00"))]), duplicate);
    }

    proptest! {
        #[test]
        fn what_is_written_parses_to_the_same_context(seed: u64, flags: u8) {
            let mut ids = IdGenerator::new(seed);
            let flags = TraceFlags::from_bits(flags);
            let context = SpanContext { trace_id: ids.trace_id(), span_id: ids.span_id(), flags };
            let value = format(&context);
            prop_assert_eq!(super::parse(&value), Ok(context));
            for len in 0..value.len() {
                prop_assert!(super::parse(value.get(..len).unwrap()).is_err());
            }
        }

        #[test]
        fn no_bytes_panic(value: Vec<u8>) {
            let _ = super::parse(&value);
        }

        #[test]
        fn what_parses_is_written_as_an_equal_context(
            value in "[ \t]{0,2}(00|[0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]{0,9})?[ \t]{0,2}"
        ) {
            if let Ok(context) = parse(&value) {
                prop_assert_eq!(super::parse(&format(&context)), Ok(context));
            }
        }

        #[test]
        fn one_changed_byte_is_refused_or_kept(seed: u64, at in 0..LEN, byte: u8) {
            let mut ids = IdGenerator::new(seed);
            let context = SpanContext { trace_id: ids.trace_id(), span_id: ids.span_id(), flags: TraceFlags::NONE };
            let mut value = format(&context);
            value[at] = byte;
            if let Ok(context) = super::parse(&value) {
                // All but the version and the cleared flags comes back as it was.
                let written = format(&context);
                prop_assert_eq!(&written[2..53], &value[2..53]);
            }
        }
    }
}
