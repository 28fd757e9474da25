//! The length of a message's body (RFC 9112 section 6) and the way to its end.

use super::UNKNOWN;

/// How a message's end is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// So many bytes follow the head.
    Length(u64),
    /// Chunks follow.
    Chunked,
    /// All until the connection ends; responses alone.
    UntilClose,
    /// The head contradicts itself, or says something that no two programs understand alike.
    Faulty,
}

/// A body of which the end has not been seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// `left` more bytes, not 0.
    Length { left: u64 },
    /// In a chunked body.
    Chunked(Chunked),
    /// All until the connection ends.
    UntilClose,
}

/// The next byte of a chunked body (RFC 9112 section 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chunked {
    /// A digit of the chunk's size, or what follows it.
    Size { size: u64, digits: u8 },
    /// A byte of a chunk extension, or of the white space before it.
    Extension { size: u64 },
    /// LF after the size.
    SizeLf { size: u64 },
    /// A byte of data; `left` is not 0.
    Data { left: u64 },
    /// CR (or LF alone) after the data.
    DataEnd,
    /// LF after the data.
    DataLf,
    /// The first byte of a trailer field, or of the empty line that ends the body.
    TrailerStart,
    /// Another byte of a trailer field.
    Trailer,
    /// LF of the empty line.
    LastLf,
    /// The body is over.
    Done,
}

/// The body violates its framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Where in the body the missing bytes end cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Untold;

/// How far a body was followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Progress {
    /// Bytes that belong to the body, framing included.
    pub(super) consumed: u64,
    /// Bytes of data among them.
    pub(super) data: u64,
    /// Whether the body is over.
    pub(super) done: bool,
}

impl Body {
    /// The body after a head with this framing. `None` where there is none.
    pub(super) const fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::Length(0) | Framing::Faulty => None,
            Framing::Length(left) => Some(Self::Length { left }),
            Framing::Chunked => Some(Self::Chunked(Chunked::NEXT)),
            Framing::UntilClose => Some(Self::UntilClose),
        }
    }

    /// Follows the body through captured bytes.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        let available = bytes.len() as u64;
        match self {
            Self::Length { left } => Ok(count_down(left, available)),
            Self::UntilClose => Ok(Progress { consumed: available, data: available, done: false }),
            Self::Chunked(chunked) => chunked.read(bytes),
        }
    }

    /// Follows the body through `missing` bytes that were not captured and end a system call's data.
    pub(super) fn skip(&mut self, missing: u64) -> Result<Progress, Untold> {
        match self {
            // Nobody knows how many, so none is counted.
            Self::UntilClose if missing == UNKNOWN => {
                Ok(Progress { consumed: missing, data: 0, done: false })
            }
            Self::UntilClose => Ok(Progress { consumed: missing, data: missing, done: false }),
            _ if missing == UNKNOWN => Err(Untold),
            Self::Length { left } => Ok(count_down(left, missing)),
            Self::Chunked(chunked) => chunked.skip(missing),
        }
    }
}

fn count_down(left: &mut u64, available: u64) -> Progress {
    let data = available.min(*left);
    *left -= data;
    Progress { consumed: data, data, done: *left == 0 }
}

impl Chunked {
    /// Where the next chunk begins.
    const NEXT: Self = Self::Size { size: 0, digits: 0 };

    fn read(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        let mut rest = bytes;
        let mut data = 0;
        while *self != Self::Done {
            if let Self::Data { left } = self {
                let progress = count_down(left, rest.len() as u64);
                data += progress.data;
                // Not more than `rest` holds, so it fits.
                rest =
                    rest.get(usize::try_from(progress.consumed).unwrap_or(rest.len())..).unwrap_or_default();
                if !progress.done {
                    break;
                }
                *self = Self::DataEnd;
            }
            let Some((byte, after)) = rest.split_first() else { break };
            *self = self.advance(*byte)?;
            rest = after;
        }
        Ok(Progress { consumed: (bytes.len() - rest.len()) as u64, data, done: *self == Self::Done })
    }

    /// The state after a byte that is not data.
    fn advance(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 7.1: "recipients MUST anticipate potentially large hexadecimal numerals and prevent
                // parsing errors due to integer conversion overflows".
                if digits >= 16 {
                    return Err(Malformed);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Malformed),
            (Self::Size { size, .. } | Self::Extension { size }, b'\r') => Self::SizeLf { size },
            // 2.2: "a recipient MAY recognize a single LF as a line terminator".
            (Self::Size { size, .. } | Self::Extension { size } | Self::SizeLf { size }, b'\n') => {
                if size == 0 { Self::TrailerStart } else { Self::Data { left: size } }
            }
            // 7.1.1: "A recipient MUST ignore unrecognized chunk extensions."
            (Self::Size { size, .. }, b';' | b' ' | b'\t') | (Self::Extension { size }, _) => {
                Self::Extension { size }
            }
            (Self::DataEnd, b'\r') => Self::DataLf,
            (Self::DataEnd | Self::DataLf, b'\n') => Self::NEXT,
            (Self::TrailerStart, b'\r') => Self::LastLf,
            (Self::TrailerStart | Self::LastLf, b'\n') => Self::Done,
            (Self::Trailer, b'\n') => Self::TrailerStart,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            // Data is counted, not looked at; the rest are bytes that must not stand where they do.
            (
                Self::Size { .. }
                | Self::SizeLf { .. }
                | Self::Data { .. }
                | Self::DataEnd
                | Self::DataLf
                | Self::LastLf
                | Self::Done,
                _,
            ) => {
                return Err(Malformed);
            }
        })
    }

    /// The framing after a hole can only be told where the hole ends in data, at a line's end, or
    /// where it is exactly as long as the way to the end of the body without trailers: that is where
    /// the data of system calls ends in practice.
    fn skip(&mut self, missing: u64) -> Result<Progress, Untold> {
        let (left, state, missing_after) = match *self {
            Self::SizeLf { size } if size > 0 && missing > 0 => {
                (size, Self::Data { left: size }, missing - 1)
            }
            Self::Data { left } => (left, *self, missing),
            other => (0, other, missing),
        };
        let data = left.min(missing_after);
        let over = missing_after - data;
        let next = match (state, over) {
            (Self::Data { left }, 0) if data < left => Self::Data { left: left - data },
            (Self::Data { .. }, 0) => Self::DataEnd,
            (Self::Data { .. } | Self::DataEnd, 1) => Self::DataLf,
            (Self::Data { .. } | Self::DataEnd, 2) | (Self::DataLf, 1) => Self::NEXT,
            // CR LF 0 CR LF CR LF, from where it was cut.
            (Self::Data { .. } | Self::DataEnd, 7)
            | (Self::DataLf, 6)
            | (Self::Size { digits: 0, .. }, 5)
            | (Self::Size { size: 0, digits: 1.. }, 4)
            | (Self::SizeLf { size: 0 }, 3)
            | (Self::TrailerStart, 2)
            | (Self::LastLf, 1) => Self::Done,
            (Self::SizeLf { size: 0 }, 1) => Self::TrailerStart,
            _ => return Err(Untold),
        };
        *self = next;
        Ok(Progress { consumed: missing, data, done: next == Self::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] =
        b"5;name=\"value\"\r\nhello\r\n1A \r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nChecksum: 1\r\n\r\n";

    fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
        Body::Chunked(Chunked::NEXT).read(bytes)
    }

    #[test]
    fn a_chunked_body_ends_where_it_ends_at_every_split() {
        let all = [BODY, b"next"].concat();
        for split in 0..BODY.len() {
            let mut body = Body::Chunked(Chunked::NEXT);
            let first = body.read(&all[..split]).unwrap();
            assert_eq!((first.consumed, first.done), (split as u64, false));
            let second = body.read(&all[split..]).unwrap();
            assert_eq!((second.consumed, second.done), ((BODY.len() - split) as u64, true));
            assert_eq!(first.data + second.data, 31);
        }
    }

    #[test]
    fn bare_line_feeds_end_lines() {
        assert_eq!(read(b"3\nabc\n0\n\n"), Ok(Progress { consumed: 9, data: 3, done: true }));
    }

    #[test]
    fn broken_framing_is_malformed() {
        for bytes in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"3\rabc",
            b"3\r\nabcd",
            b"3\r\nabc\rx",
            b"0\r\n\rx",
            b"00000000000000001\r\n",
        ] {
            assert_eq!(read(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_hole_to_a_known_place_keeps_the_position() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        // Captured up to here, and missing up to there: in data, at a line's end, at the end of all.
        for (captured, end) in [
            (4, 6),
            (4, 8),
            (4, 9),
            (4, 10),
            (4, 15),
            (8, 10),
            (8, 15),
            (9, 10),
            (9, 15),
            (10, 15),
            (11, 15),
            (12, 13),
            (12, 15),
            (13, 15),
            (14, 15),
            (2, 8),
            (2, 15),
        ] {
            let mut chunked = Body::Chunked(Chunked::NEXT);
            let before = chunked.read(&body[..captured]).unwrap();
            let hole = chunked.skip((end - captured) as u64).unwrap();
            let after = chunked.read(&body[end..]).unwrap();
            assert_eq!(before.data + hole.data + after.data, 5, "{captured} to {end}");
            assert!(hole.done || after.done, "{captured} to {end}");
        }
        for (captured, end) in [(4, 11), (4, 14), (1, 3), (0, 1), (10, 11), (13, 14)] {
            let mut chunked = Body::Chunked(Chunked::NEXT);
            chunked.read(&body[..captured]).unwrap();
            assert_eq!(chunked.skip((end - captured) as u64), Err(Untold), "{captured} to {end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_and_holes_are_followed_or_refused(
            parts in prop::collection::vec((prop::collection::vec(prop::sample::select(b"019aF;\r\n x".to_vec()), 0..12), 0u64..20), 0..12),
        ) {
            let mut body = Body::Chunked(Chunked::NEXT);
            for (bytes, missing) in parts {
                let Ok(progress) = body.read(&bytes) else { return Ok(()) };
                prop_assert!(progress.data <= progress.consumed && progress.consumed <= bytes.len() as u64);
                if progress.done {
                    return Ok(());
                }
                prop_assert_eq!(progress.consumed, bytes.len() as u64);
                if missing > 0 {
                    let Ok(hole) = body.skip(missing) else { return Ok(()) };
                    prop_assert!(hole.data <= missing);
                    if hole.done {
                        return Ok(());
                    }
                }
            }
        }
    }
}
