//! Identity of label sets that does not depend on the labels' order.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::ops::{Add, AddAssign};

/// A label, or a set of them: the sum of its labels' hashes.
///
/// 128 bits of a keyed hash whose key never leaves the process: two sets that differ are equal
/// once in 2^128 pairs, and nobody who writes a page can search for such a pair. This is what lets
/// a label set of a kilobyte be kept, compared and looked up as 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Fingerprint(u128);

impl Fingerprint {
    /// The empty set.
    pub(crate) const ZERO: Self = Self(0);
}

impl Add for Fingerprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// The keys of the hash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    high: RandomState,
    low: RandomState,
}

impl Keys {
    /// Fingerprint of one label, its value unescaped.
    pub(crate) fn label(&self, name: &str, value: &str) -> Fingerprint {
        // Strings are hashed with a terminator, so ("ab", "c") and ("a", "bc") differ.
        let high = u128::from(self.high.hash_one((name, value)));
        let low = u128::from(self.low.hash_one((name, value)));
        Fingerprint(high << 64 | low)
    }

    /// Fingerprint of a metric's name.
    pub(crate) fn name(&self, name: &str) -> Fingerprint {
        // No label has this name: `labels` refuses names that begin with two underscores.
        self.label("__name__", name)
    }
}

/// A map whose key is, or has in it, a fingerprint.
pub(crate) type FingerprintMap<K, V> = HashMap<K, V, BuildHasherDefault<Folded>>;
/// A set of fingerprints.
pub(crate) type FingerprintSet = HashSet<Fingerprint, BuildHasherDefault<Folded>>;

/// The hash of a fingerprint is the fingerprint: it comes from a keyed hash already.
#[derive(Debug, Default)]
pub(crate) struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.0 = self.0.rotate_left(1) ^ u64::from_le_bytes(word);
        }
    }
}
