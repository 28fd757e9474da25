//! One direction of a connection, and how its position is found again.

use super::body::Body;
use super::guess::skip_empty_lines;
use super::{Chunk, Guess, MAX_HEAD, Peer, guess};
use std::mem;

/// What is known about one direction.
#[derive(Clone, Debug)]
pub(super) struct Half {
    pub(super) phase: Phase,
    /// The message of which the end is to be reported. It outlives a loss of the position.
    pub(super) message: Option<Message>,
    /// When the last chunk before the one at hand came, in ns.
    pub(super) heard_at: u64,
}

/// Where a direction is: see the diagram of [`super`].
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// At a message's boundary, or in its head.
    Head(Partial),
    /// In its body.
    Body(Body),
    /// After CONNECT, until the response says what the bytes are. `touched`: some came already.
    Held { touched: bool },
    /// The position is not known. What the partial head holds may be the beginning of a message.
    Lost(Partial),
    /// Not HTTP/1 from here on.
    Tunnel,
    /// This direction is closed.
    Ended,
}

/// The first bytes of a head, at most [`MAX_HEAD`].
#[derive(Clone, Default, Debug)]
pub(super) struct Partial {
    pub(super) bytes: Vec<u8>,
    /// When its first byte came, in ns.
    pub(super) started: u64,
    /// Up to where there is no end of the head.
    pub(super) searched: usize,
}

/// A message that began and has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// `None` for a request that is not reported.
    pub(super) ordinal: Option<u64>,
    /// When its last byte so far came, in ns.
    pub(super) last: u64,
    /// Bytes of its body so far.
    pub(super) body: u64,
    pub(super) expects_continue: bool,
}

impl Half {
    pub(super) const fn new(phase: Phase) -> Self {
        Self { phase, message: None, heard_at: 0 }
    }

    pub(super) fn count(&mut self, data: u64, at: u64) {
        if let Some(message) = &mut self.message {
            message.body = message.body.saturating_add(data);
            message.last = at;
        }
    }

    /// Where the position is lost, a chunk that begins like a message gives it back.
    pub(super) fn resynchronise(&mut self, from: Peer, chunk: Chunk<'_>) {
        let Phase::Lost(kept) = &mut self.phase else { return };
        let mut kept = mem::take(kept);
        let alone = guess(chunk.bytes);
        if alone == Guess::From(from) {
            self.phase = Phase::Head(Partial::EMPTY);
            return;
        }
        if !kept.bytes.is_empty() {
            // Apps that read byte by byte cut even a message's first line.
            let joined: Vec<u8> = kept.bytes.iter().chain(chunk.bytes).copied().take(MAX_HEAD).collect();
            match guess(&joined) {
                Guess::From(peer) if peer == from => {
                    self.phase = Phase::Head(kept);
                    return;
                }
                Guess::TooShort if chunk.missing == 0 => {
                    kept.bytes = joined;
                    self.phase = Phase::Lost(kept);
                    return;
                }
                _ => {}
            }
        }
        if alone == Guess::TooShort && chunk.missing == 0 {
            let bytes = skip_empty_lines(chunk.bytes).to_vec();
            self.phase = Phase::Lost(Partial { bytes, started: chunk.at, searched: 0 });
        } else {
            self.count(0, chunk.at);
        }
    }
}

impl Partial {
    pub(super) const EMPTY: Self = Self { bytes: Vec::new(), started: 0, searched: 0 };
}
