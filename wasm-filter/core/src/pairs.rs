//! Header maps and lists as proxy-wasm serializes them (ABI 0.2.1): a little-endian `u32` count,
//! then for each pair the `u32` lengths of name and value, then for each pair the name, a NUL
//! byte, the value, a NUL byte.

use core::ops::Range;

/// The pairs of a serialized map. Ends where the bytes do not keep to the form: a shorter list,
/// never a wrong one.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    raw: &'a [u8],
    /// Offset of the lengths of the next pair.
    lengths: usize,
    /// Offset of the next pair.
    next: usize,
    left: usize,
}

impl<'a> Pairs<'a> {
    /// The pairs in `raw`.
    #[must_use]
    pub fn new(raw: &'a [u8]) -> Self {
        let count = u32_at(raw, 0).unwrap_or(0);
        // A count that the bytes cannot hold would put the first pair past their end.
        let next = count.saturating_mul(8).saturating_add(4);
        Self { raw, lengths: 4, next, left: count }
    }

    /// The next pair as ranges of the serialized bytes.
    pub fn next_ranges(&mut self) -> Option<(Range<usize>, Range<usize>)> {
        self.left = self.left.checked_sub(1)?;
        let name_len = u32_at(self.raw, self.lengths)?;
        let value_len = u32_at(self.raw, self.lengths.checked_add(4)?)?;
        self.lengths = self.lengths.checked_add(8)?;
        let name = self.next..self.next.checked_add(name_len)?;
        let start = name.end.checked_add(1)?;
        let value = start..start.checked_add(value_len)?;
        self.next = value.end.checked_add(1)?;
        (self.next <= self.raw.len()).then_some((name, value))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_ranges()?;
        Some((self.raw.get(name)?, self.raw.get(value)?))
    }
}

fn u32_at(raw: &[u8], offset: usize) -> Option<usize> {
    let bytes = raw.get(offset..offset.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// Serializes pairs, for hosts of tests.
#[cfg(test)]
pub(crate) fn serialize<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Vec<u8> {
    let mut raw = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in pairs {
        for part in [name.as_ref(), value.as_ref()] {
            raw.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
        }
    }
    for (name, value) in pairs {
        for part in [name.as_ref(), value.as_ref()] {
            raw.extend(part);
            raw.push(0);
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_serialized_comes_back(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let raw = serialize(&pairs);
            let back: Vec<_> = Pairs::new(&raw).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(back, pairs);
        }

        #[test]
        fn a_prefix_gives_a_prefix_of_the_pairs(pairs: Vec<(Vec<u8>, Vec<u8>)>, cut: prop::sample::Index) {
            let raw = serialize(&pairs);
            let raw = &raw[..cut.index(raw.len())];
            for (got, expected) in Pairs::new(raw).zip(&pairs) {
                prop_assert_eq!(got, (expected.0.as_slice(), expected.1.as_slice()));
            }
            prop_assert!(Pairs::new(raw).count() <= pairs.len());
        }

        #[test]
        fn arbitrary_bytes_end(raw: Vec<u8>) {
            prop_assert!(Pairs::new(&raw).count() <= raw.len());
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_gives_nothing() {
        assert_eq!(Pairs::new(&u32::MAX.to_le_bytes()).count(), 0);
        assert_eq!(Pairs::new(b"").count(), 0);
    }
}
