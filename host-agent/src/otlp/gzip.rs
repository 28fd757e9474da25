//! Content coding `gzip` (RFC 1952) with a limit.

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use std::io::{self, Read as _};

/// Why a body could not be decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It is no gzip.
    Malformed,
    /// It is longer than the limit.
    TooLarge,
}

/// Decompresses at most `limit` bytes.
pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    // One byte more shows that there is more.
    let mut reader = GzDecoder::new(data).take(limit as u64 + 1);
    reader.read_to_end(&mut out).map_err(|_| Refused::Malformed)?;
    if out.len() > limit { Err(Refused::TooLarge) } else { Ok(out) }
}

/// Compresses, for speed rather than size.
pub(super) fn compress(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzEncoder::new(data, Compression::fast()).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_and_a_fitting_body_is_not() {
        let small = compress(&[0; 1 << 20]).unwrap();
        assert!(small.len() < 10_000);
        assert_eq!(decompress(&small, (1 << 20) - 1), Err(Refused::TooLarge));
        assert_eq!(decompress(&small, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(decompress(b"nothing", 10), Err(Refused::Malformed));
        assert_eq!(decompress(&small[..small.len() / 2], 1 << 20), Err(Refused::Malformed));
    }
}
