//! Trace and span ids (W3C Trace Context level 2, sections 3.2.2.3 and 3.2.2.4).

use core::fmt;
use core::num::{NonZeroU64, NonZeroU128};

/// The id of a trace: 16 bytes that are not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(NonZeroU128);

/// The id of a span: 8 bytes that are not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// Length of the id on the wire, in bytes.
    pub const LEN: usize = 16;

    /// The id with these bytes (network order), or `None` where all are zero.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        match NonZeroU128::new(u128::from_be_bytes(bytes)) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The id in a slice, or `None` where its length is not 16 or all bytes are zero.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// The bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The id as 32 lowercase hex digits.
    #[must_use]
    pub fn to_hex(self) -> [u8; 32] {
        let mut out = [0; 32];
        encode_hex(&self.to_bytes(), &mut out);
        out
    }
}

impl SpanId {
    /// Length of the id on the wire, in bytes.
    pub const LEN: usize = 8;

    /// The id with these bytes (network order), or `None` where all are zero.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        match NonZeroU64::new(u64::from_be_bytes(bytes)) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The id in a slice, or `None` where its length is not 8 or all bytes are zero.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// The bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// The id as 16 lowercase hex digits.
    #[must_use]
    pub fn to_hex(self) -> [u8; 16] {
        let mut out = [0; 16];
        encode_hex(&self.to_bytes(), &mut out);
        out
    }
}

fn encode_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 0xf]) {
            *digit = DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes ids from a seed: xoshiro256++, seeded through `SplitMix64`.
///
/// Not for secrets. It exists because `wasm32-unknown-unknown` has no source of randomness; the
/// caller seeds it from what its host knows (time, worker, context id, a random header). The
/// trace ids fill all 16 bytes at random, which is what the `random` flag of level 2 promises.
#[derive(Clone, Debug)]
pub struct IdGenerator {
    state: [u64; 4],
}

impl IdGenerator {
    /// A generator whose sequence is fixed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut split = seed;
        let mut next = || {
            split = split.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = split;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// Stirs more entropy into the state.
    pub fn mix(&mut self, entropy: u64) {
        let [a, b, c, d] = self.state;
        let other = Self::new(entropy).state;
        let [e, f, g, h] = other;
        self.state = [a ^ e, b ^ f, c ^ g, d ^ h];
        if self.state == [0; 4] {
            *self = Self::new(entropy);
        }
        let _ = self.next_u64();
    }

    /// The next 64 bits of the sequence.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let t = s1 << 17;
        let s2 = s2 ^ s0;
        let s3 = s3 ^ s1;
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ t, s3.rotate_left(45)];
        result
    }

    /// A new trace id.
    pub fn trace_id(&mut self) -> TraceId {
        loop {
            let high = u128::from(self.next_u64());
            let low = u128::from(self.next_u64());
            if let Some(id) = NonZeroU128::new(high << 64 | low) {
                return TraceId(id);
            }
        }
    }

    /// A new span id.
    pub fn span_id(&mut self) -> SpanId {
        loop {
            if let Some(id) = NonZeroU64::new(self.next_u64()) {
                return SpanId(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_ids_cannot_be_built() {
        assert_eq!(TraceId::from_bytes([0; 16]), None);
        assert_eq!(SpanId::from_bytes([0; 8]), None);
        assert_eq!(SpanId::from_slice(&[1; 7]), None);
        assert_eq!(TraceId::from_slice(&[1; 17]), None);
    }

    #[test]
    fn hex_and_display_agree() {
        let mut ids = IdGenerator::new(7);
        for _ in 0..100 {
            let trace = ids.trace_id();
            let span = ids.span_id();
            assert_eq!(trace.to_string().as_bytes(), trace.to_hex());
            assert_eq!(span.to_string().as_bytes(), span.to_hex());
        }
    }

    #[test]
    fn a_seed_fixes_the_sequence_and_mixing_changes_it() {
        let mut a = IdGenerator::new(1);
        let mut b = IdGenerator::new(1);
        assert_eq!(a.trace_id(), b.trace_id());
        b.mix(3);
        assert_ne!(a.trace_id(), b.trace_id());
    }
}
