//! What is extracted survives being injected in the same format, headers that no format names
//! change nothing, and a context comes from the format that it says.
#![no_main]

mod edits;

use libfuzzer_sys::fuzz_target;
use meshweft_telemetry::propagation::{self, Extraction, Format};

const REQUEST: &[u8] = b"traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n\
    TraceState:rojo=1 , congo=2\n\
    b3:80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0\n\
    x-b3-traceid:64fe8b2a57d3eff7\nx-b3-spanid:e457b5a2e4d86bd1\nx-b3-sampled:1\n";

fuzz_target!(|data: &[u8]| {
    let [order, data @ ..] = data else { return };
    let formats = formats(*order);
    check(data, &formats);
    check(&edits::apply(REQUEST, data), &formats);
});

/// Lines are headers.
fn check(data: &[u8], formats: &[Format]) {
    let lines = data.split(|byte| *byte == b'\n');
    let headers: Vec<(&[u8], &[u8])> = lines
        .map(|line| {
            let colon = line
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(line.len());
            (&line[..colon], line.get(colon + 1..).unwrap_or_default())
        })
        .collect();
    let extraction = propagation::extract(headers.iter().copied(), formats);

    let of = |format: Format, name: &[u8]| {
        format
            .headers()
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    let named = headers
        .iter()
        .copied()
        .filter(|(name, _)| formats.iter().any(|format| of(*format, name)));
    assert_eq!(propagation::extract(named, formats), extraction);

    let Some(format) = extraction.format else {
        let nothing = Extraction {
            errors: extraction.errors,
            ..Extraction::default()
        };
        assert_eq!(extraction, nothing);
        return;
    };
    assert!(formats.contains(&format));
    let Some(context) = extraction.context else {
        assert!(
            extraction.sampled.is_some()
                && extraction.tracestate.is_none()
                && format != Format::W3c
        );
        return;
    };
    // That format alone gives the same.
    let alone = propagation::extract(headers.iter().copied(), &[format]);
    assert_eq!(
        (alone.context, alone.sampled, &alone.tracestate),
        (Some(context), extraction.sampled, &extraction.tracestate)
    );

    let injection = propagation::inject(&context, extraction.tracestate.as_ref(), &[format]);
    let written = injection
        .iter()
        .map(|(name, value)| (name.as_bytes(), value));
    let again = propagation::extract(written, formats);
    assert_eq!(
        (again.context, again.format, &again.tracestate),
        (Some(context), Some(format), &extraction.tracestate)
    );
    assert!(again.errors.is_empty());
}

/// Some formats in some order, none to three.
fn formats(order: u8) -> Vec<Format> {
    let mut formats = Format::ALL.to_vec();
    formats.rotate_left(usize::from(order % 3));
    if order & 0x10 != 0 {
        formats.reverse();
    }
    formats.truncate(3 - usize::from(order >> 6));
    formats
}
