//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112) as a probe sees them.
//!
//! A [`Connection`] takes the bytes of one TCP connection, both directions, in the order in which
//! the app's system calls carried them, and gives back the exchanges as [`Event`]s.
//!
//! # One direction
//! ```text
//!             in_the_middle()
//!                   │     chunk that begins like a message
//!                   ▼   ┌───────────────────────────────────┐
//!                 Lost ─┘                                   ▼
//!                   ▲      gap, malformed, too large      Head ◄──────────────── new()
//!                   ├─────────────────────────────────────┤ │ ▲
//!                   │                                     │ │ │ no body, or its end;
//!                   │      gap beyond what is known,      │ │ │ 1xx
//!                   │      malformed chunk                │ ▼ │
//!                   └─────────────────────────────────── Body ┘
//!
//!     Head ── CONNECT ──► Held ── not 2xx ──► Head        (the client's direction)
//!                          └───── 2xx ──────► Tunnel
//!     Head ── 101 ───────────────────────────► Tunnel     (both directions)
//!     each ── end of the connection ─────────► Ended
//! ```
//!
//! # Which response belongs to which request
//! Responses come in the order of their requests (RFC 9112 section 9.3.2), so as long as neither
//! direction lost its position the first response answers the first open request. After a loss:
//! - A client that never sent a request before it had heard the answer to the one before is taken
//!   to go on like that. Its last request is the only one that can be open: whatever was open when
//!   it was sent has ended.
//! - Where a client was seen to pipeline, nobody knows how many responses the gap held. The open
//!   requests are given up rather than paired wrongly, and so are those after them until the
//!   position is certain again.
//!
//! Each [`Event::Request`] is followed by exactly one [`Event::ResponseEnd`] with its ordinal once
//! [`Connection::end`] was called; where no [`Event::Response`] stands between the two, the
//! response was not seen or could not be paired.
//!
//! Ordinals count the requests that were noticed, from 1. They are the connection's own count as
//! long as it was followed from its first byte and no [`Event::Lost`] of the client's direction
//! came; after that they only grow.

mod body;
mod connection;
mod guess;
mod half;
mod head;
mod waiting;

pub use connection::Connection;
pub use guess::{Guess, guess};
pub use head::{RequestHead, ResponseHead};

use meshweft_telemetry::DropReason;

/// Longest message head that is kept, in bytes. It is what nginx accepts by default (four buffers of
/// 8 KiB); Apache, Node.js, Tomcat and Jetty accept less, so a longer one mostly gets a 431 anyway.
/// It also bounds the memory of a connection: one such buffer for each direction.
pub const MAX_HEAD: usize = 32 * 1024;

/// Most header fields of a head: Apache and Tomcat accept 100; the table stands on the stack.
pub const MAX_HEADERS: usize = 128;

/// Most requests of a connection that wait for their response. Pipelining is rare, and what is
/// pipelined deeper than this is a load generator.
pub const MAX_PIPELINED: usize = 64;

/// The value of [`Chunk::missing`] where their number is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// Who sent the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// The side that sends requests.
    Client,
    /// The side that answers them.
    Server,
}

/// The data of one system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'a> {
    /// What was captured: a prefix of the data.
    pub bytes: &'a [u8],
    /// How many more bytes the system call carried. Where events of a direction were lost and
    /// nobody knows how many bytes they held, an empty chunk with [`UNKNOWN`] says so.
    pub missing: u64,
    /// When, in ns of any clock that both directions share.
    pub at: u64,
}

/// What was seen on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "it is moved once, out of a vector that is used again")]
pub enum Event {
    /// A request's head is complete.
    Request {
        /// Which request of the connection it is, counted from 1.
        ordinal: u64,
        /// When the head's first byte came, in ns.
        started: u64,
        /// The head.
        head: RequestHead,
    },
    /// A request's last byte came, or the last that was seen of it.
    RequestEnd {
        /// Which request.
        ordinal: u64,
        /// When, in ns.
        at: u64,
        /// Length of its body without the framing, in bytes; a lower bound after a loss.
        body: u64,
    },
    /// The head of the final response is complete. Interim responses (1xx, but for 101) are skipped.
    Response {
        /// Which request it answers.
        ordinal: u64,
        /// When the head's first byte came, in ns.
        started: u64,
        /// The head.
        head: ResponseHead,
    },
    /// The exchange is over.
    ResponseEnd {
        /// Which request it answers.
        ordinal: u64,
        /// When its last byte came, or the last that was seen of it; for a body that ends with the
        /// connection, and for a response that never came, the connection's end. In ns.
        at: u64,
        /// Length of its body without the framing, in bytes; a lower bound where not complete.
        body: u64,
        /// Whether the response was followed to its end.
        complete: bool,
    },
    /// After 101, or 2xx to CONNECT: the bytes from here on are not HTTP/1 and are ignored.
    Upgraded {
        /// The request that asked for it.
        ordinal: u64,
    },
    /// Something could not be used.
    ///
    /// | reason | what happened |
    /// |---|---|
    /// | `HeadTooLarge` | a head beyond [`MAX_HEAD`] or [`MAX_HEADERS`]; position lost |
    /// | `Malformed` | not what RFC 9112 allows here; position lost |
    /// | `Gap` | bytes are missing where their end cannot be told; position lost |
    /// | `Incomplete` | a response that belongs to no request that is known, or a head that was cut off by the connection's end |
    /// | `QueueFull` | a request beyond [`MAX_PIPELINED`], which is not reported |
    /// | `UnknownProtocol` | not HTTP/1: see [`Connection::is_hopeless`] |
    Lost {
        /// Whose bytes.
        from: Peer,
        /// Why.
        reason: DropReason,
    },
}
