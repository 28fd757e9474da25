//! What parses is what a plain reading of the grammar allows, is a header that parses to itself,
//! and stays one when a member is inserted.
#![no_main]

mod edits;

use libfuzzer_sys::fuzz_target;
use meshweft_telemetry::Error;
use meshweft_telemetry::tracestate::{self, MAX_LEN, MAX_MEMBERS};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&edits::apply(
        b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE\n4@b= x y\n,\t",
        data,
    ));
});

/// Lines are headers.
fn check(data: &[u8]) {
    let headers = || data.split(|byte| *byte == b'\n');
    let parsed = tracestate::parse(headers());
    // The limits of headers and bytes are the parser's own.
    if matches!(parsed, Err(Error::TooLarge { .. } | Error::TooManyMembers)) {
        assert!(
            data.len() >= MAX_LEN || data.split(|byte| b"\n,".contains(byte)).count() > MAX_MEMBERS
        );
        return;
    }
    let expected = members(headers());
    let Ok(mut state) = parsed else {
        assert_eq!(expected, None);
        return;
    };
    assert_eq!(expected.as_deref(), Some(state.as_str()));
    assert_eq!(
        tracestate::parse([state.as_str().as_bytes()]).as_ref(),
        Ok(&state)
    );
    for (key, value) in state.iter() {
        assert_eq!(state.get(key), Some(value));
    }

    let last = state.iter().last().map(|(key, _)| key.to_owned());
    let before = state.iter().count();
    for key in ["meshweft".to_owned()].into_iter().chain(last) {
        state.insert(&key, "1").unwrap();
        assert_eq!(state.iter().next(), Some((key.as_str(), "1")));
        assert_eq!(
            tracestate::parse([state.as_str().as_bytes()]).as_ref(),
            Ok(&state)
        );
    }
    assert!((before..=before + 1).contains(&state.iter().count()));
}

/// The clean list, or `None` where the grammar is violated.
fn members<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut keys = Vec::new();
    let mut members = Vec::new();
    for member in headers
        .collect::<Vec<_>>()
        .join(&b","[..])
        .split(|byte| *byte == b',')
    {
        let member = str::from_utf8(member).ok()?.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let printable = value.chars().all(|c| (' '..='~').contains(&c) && c != '=');
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9') || "_-*/@".contains(c);
        let well_begun = key.chars().next()?.is_ascii_alphanumeric();
        if !printable || !key.chars().all(allowed) || !well_begun || keys.contains(&key) {
            return None;
        }
        if !(1..=256).contains(&value.len()) || key.len() > 256 {
            return None;
        }
        keys.push(key);
        members.push(member.to_owned());
    }
    (members.len() <= MAX_MEMBERS).then(|| members.join(","))
}
