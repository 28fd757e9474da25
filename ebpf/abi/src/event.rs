//! Events in the ring buffer.

/// What an event says. The number is [`EventHeader::kind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// Bytes that a process received; `length` of them, 0 at the end of the stream.
    Read = 1,
    /// Bytes that a process is about to send, told at the entry of the system call.
    Write = 2,
    /// How many bytes the last write of this thread really took, where that differs from what
    /// [`EventKind::Write`] said. Negative results count as 0.
    WriteResult = 3,
    /// `connect` succeeded or is under way.
    Connect = 4,
    /// `accept` returned this socket.
    Accept = 5,
    /// The process closes the socket, or shuts its sending side down.
    Close = 6,
    /// An instrumented process forked; `length` is the child's process id.
    Fork = 7,
    /// A process, instrumented or not, runs a new program.
    Exec = 8,
    /// A thread of an instrumented process ended. Its process did where `tid == tgid`.
    Exit = 9,
    /// A process, instrumented or not, listens on the socket's local port.
    Listen = 10,
}

impl EventKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::WriteResult,
            4 => Self::Connect,
            5 => Self::Accept,
            6 => Self::Close,
            7 => Self::Fork,
            8 => Self::Exec,
            9 => Self::Exit,
            10 => Self::Listen,
            _ => return None,
        })
    }
}

/// A TCP socket at the time of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SocketId {
    /// Address of the kernel's `struct sock`: tells sockets apart while they live.
    pub pointer: u64,
    /// Local address in network order; an IPv4 address takes the first four bytes.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// Zero.
    pub reserved: u16,
}

impl SocketId {
    /// No socket.
    pub const NONE: Self = Self {
        pointer: 0,
        local: [0; 16],
        remote: [0; 16],
        local_port: 0,
        remote_port: 0,
        family: 0,
        reserved: 0,
    };

    /// A value that differs for two connections which follow each other at one address in memory.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        (self.local_port as u64) << 48
            | (self.remote_port as u64) << 32
            | u32::from_ne_bytes([self.remote[0], self.remote[1], self.remote[2], self.remote[3]]) as u64
    }
}

/// Head of every event; `captured` bytes follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EventHeader {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// The socket; all zero where the event has none.
    pub socket: SocketId,
    /// Bytes that the system call carried, which may be more than `captured`.
    pub length: u64,
    /// Bytes that follow this head.
    pub captured: u32,
    /// File descriptor, or -1.
    pub fd: i32,
    /// [`EventKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl EventHeader {
    /// Size of the head in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads the head of a record. `None` where the record is too short for it or for the bytes
    /// that it announces.
    #[must_use]
    pub fn split(record: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = record.split_at_checked(Self::SIZE)?;
        // SAFETY: the slice has the struct's size, every bit pattern is a valid value of its
        // fields, and the read does not ask for alignment.
        let head = unsafe { head.as_ptr().cast::<Self>().read_unaligned() };
        let data = rest.get(..usize::try_from(head.captured).ok()?)?;
        Some((head, data))
    }
}

/// Counters of what the kernel's side lost: indexes of the map `LOST`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer was full.
    RingFull = 0,
    /// A process's memory could not be read.
    MemoryFault = 1,
    /// The table of system calls under way was full.
    TableFull = 2,
}

impl Loss {
    /// Number of counters.
    pub const COUNT: u32 = 3;
}

const _: () = assert!(size_of::<SocketId>() == 48);
const _: () = assert!(size_of::<EventHeader>() == 88);
const _: () = assert!(align_of::<EventHeader>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_trip() {
        for number in 0..=u8::MAX {
            if let Some(kind) = EventKind::from_u8(number) {
                assert_eq!(kind as u8, number);
            }
        }
        assert_eq!(EventKind::from_u8(0), None);
    }

    #[test]
    fn a_record_shorter_than_it_says_is_refused() {
        let mut record = [0u8; EventHeader::SIZE + 4];
        let captured = core::mem::offset_of!(EventHeader, captured);
        record[captured] = 4;
        assert_eq!(EventHeader::split(&record).map(|(_, data)| data.len()), Some(4));
        record[captured] = 5;
        assert_eq!(EventHeader::split(&record), None);
        assert_eq!(EventHeader::split(&record[..EventHeader::SIZE - 1]), None);
    }
}
