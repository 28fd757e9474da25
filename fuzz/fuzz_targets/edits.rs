//! Valid input with a few edits, so that a fuzzer gets past the first check of a strict format.

/// `template` after the edits that `program` spells, three bytes each: what to do, where, and the
/// byte for it.
pub fn apply(template: &[u8], program: &[u8]) -> Vec<u8> {
    let mut value = template.to_vec();
    for edit in program.chunks_exact(3) {
        let [what, at, byte] = edit else { break };
        let at = usize::from(*at) % (value.len() + 1);
        match what % 4 {
            0 => value.insert(at, *byte),
            1 if at < value.len() => drop(value.remove(at)),
            2 => value.truncate(at),
            _ if at < value.len() => value[at] = *byte,
            _ => {}
        }
    }
    value
}
