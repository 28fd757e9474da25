//! What parses is exactly what a plain reading of the specification allows, and comes back equal
//! after it was written.
#![no_main]

mod edits;

use libfuzzer_sys::fuzz_target;
use meshweft_telemetry::traceparent::{self, MAX_LEN};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&edits::apply(
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        data,
    ));
    check(&edits::apply(
        b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more",
        data,
    ));
});

fn check(value: &[u8]) {
    let parsed = traceparent::parse(value);
    assert_eq!(
        parsed.is_ok(),
        allowed(value),
        "{:?}: {parsed:?}",
        value.escape_ascii().to_string()
    );
    if let Ok(context) = parsed {
        let written = traceparent::format(&context);
        assert_eq!(traceparent::parse(&written), Ok(context));
        assert!(written.starts_with(b"00-"));
    }
    // Joined values are refused by another error, but they are refused.
    let all = traceparent::parse_all([value]);
    assert_eq!(all.is_ok(), parsed.is_ok() && !value.contains(&b','));
    assert!(traceparent::parse_all([value, value]).is_err());
}

fn allowed(value: &[u8]) -> bool {
    let mut trimmed = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = trimmed {
        trimmed = rest;
    }
    let fields: Vec<&[u8]> = trimmed.splitn(5, |byte| *byte == b'-').collect();
    let [version, trace, span, flags, rest @ ..] = fields.as_slice() else {
        return false;
    };
    let hex = |digits: &[u8], len| {
        digits.len() == len && digits.iter().all(|c| b"0123456789abcdef".contains(c))
    };
    let id = |digits, len| hex(digits, len) && digits.iter().any(|c| *c != b'0');
    value.len() <= MAX_LEN
        && hex(version, 2)
        && *version != b"ff"
        && id(trace, 32)
        && id(span, 16)
        && hex(flags, 2)
        && (rest.is_empty() || *version != b"00")
}
