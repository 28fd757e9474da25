//! Entry and exit of the system calls that move bytes or sockets.
//!
//! Bytes that leave are told at the *entry*: the event is in the ring before the first byte can
//! reach the proxy, so that the agent can answer the proxy's question about it. Bytes that arrive
//! are told at the exit, when they are there.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use meshweft_abi::{
    EventKind, Loss, SocketId, SyscallOp,
    kernel::{MSG_PEEK, SYSCALLS as TABLE},
};

use crate::{
    IGNORED, IN_FLIGHT, PROCESSES, SYSCALLS,
    data::{self, Scratch},
    lose,
    socket::{self, offsets, read},
};

/// A system call under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InFlight {
    socket: SocketId,
    /// Buffer, or array of parts.
    memory: u64,
    /// Length of the buffer, or number of parts; for a write, the bytes that were announced.
    length: u64,
    fd: i32,
    op: u32,
}

#[inline(always)]
fn operation(number: u64) -> u8 {
    if number >= TABLE as u64 {
        return 0;
    }
    // SAFETY: the index is below the table's length; volatile, because user space sets the table
    // after compilation.
    unsafe { core::ptr::read_volatile((&raw const SYSCALLS).cast::<u8>().add(number as usize)) }
}

#[inline(always)]
fn is(op: u8, which: SyscallOp) -> bool {
    op == which as u8
}

/// One argument of the call.
#[inline(always)]
fn argument(regs: u64, index: usize) -> u64 {
    read(regs, offsets().regs_arg[index]).unwrap_or(0)
}

#[inline(always)]
fn is_ignored(socket: &SocketId) -> bool {
    // SAFETY: the value is read at once and not kept.
    unsafe { IGNORED.get(socket.pointer) }.is_some_and(|fingerprint| *fingerprint == socket.fingerprint())
}

/// `msghdr.msg_iov` and `msg_iovlen` of user memory.
#[inline(always)]
fn message_parts(message: u64) -> Option<(u64, u64)> {
    // struct msghdr (64 bit): name 0, namelen 8, iov 16, iovlen 24.
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user((message + 16) as *const [u64; 2]) }
        .ok()
        .map(|[parts, count]| (parts, count))
}

#[inline(always)]
pub(crate) fn enter(regs: u64, number: u64) {
    let op = operation(number);
    if op == 0 {
        return;
    }
    if is(op, SyscallOp::Listen) {
        return listen(regs);
    }
    let id = bpf_get_current_pid_tgid();
    // SAFETY: the value is read at once and not kept.
    if unsafe { PROCESSES.get((id >> 32) as u32) }.is_none() {
        return;
    }
    let _ = instrumented(regs, op, id);
}

#[inline(always)]
fn listen(regs: u64) {
    let Some(event) = data::start(EventKind::Listen) else { return };
    event.header.fd = argument(regs, 0) as i32;
    if socket::resolve(event.header.fd, &mut event.header.socket).is_some() {
        data::submit(event, true);
    }
}

#[inline(always)]
fn instrumented(regs: u64, op: u8, id: u64) -> Option<()> {
    let mut fd = argument(regs, 0) as i32;
    let (mut memory, mut length) = (argument(regs, 1), argument(regs, 2));
    let mut kept = op;

    if is(op, SyscallOp::Accept) {
        // The new socket is known at the exit alone.
        return keep(id, InFlight { socket: SocketId::NONE, memory: 0, length: 0, fd, op: u32::from(op) });
    }
    if is(op, SyscallOp::Splice) {
        // Into a socket or out of one; the other end is a pipe.
        let out = length as i32;
        let mut socket = SocketId::NONE;
        if socket::resolve(out, &mut socket).is_some() {
            fd = out;
            kept = SyscallOp::Sendfile as u8;
        }
        (memory, length) = (0, 0);
    }
    if (is(op, SyscallOp::Recvfrom) && argument(regs, 3) & MSG_PEEK != 0)
        || (is(op, SyscallOp::Recvmsg) && length & MSG_PEEK != 0)
    {
        return None;
    }

    let event = data::start(EventKind::Write)?;
    event.header.fd = fd;
    socket::resolve(fd, &mut event.header.socket)?;

    if is(op, SyscallOp::Close) || is(op, SyscallOp::Shutdown) {
        // SHUT_RD (0) closes nothing that the peer sees.
        if is(op, SyscallOp::Shutdown) && memory == 0 {
            return None;
        }
        if is(op, SyscallOp::Close) {
            let _ = IGNORED.remove(event.header.socket.pointer);
        }
        event.header.kind = EventKind::Close as u8;
        data::submit(event, false);
        return None;
    }
    if is_ignored(&event.header.socket) {
        return None;
    }
    if is(op, SyscallOp::Recvmsg) || is(op, SyscallOp::Sendmsg) {
        (memory, length) = message_parts(memory)?;
    }
    if is(op, SyscallOp::Write) || is(op, SyscallOp::Sendto) {
        data::copy_buffer(event, memory, length);
        length = announce(event);
    } else if is(op, SyscallOp::Writev) || is(op, SyscallOp::Sendmsg) {
        data::copy_parts(event, memory, length, u64::MAX);
        length = announce(event);
    }
    keep(id, InFlight { socket: event.header.socket, memory, length, fd, op: u32::from(kept) })
}

/// Submits a write and returns the length that was announced.
#[inline(always)]
fn announce(event: &mut Scratch) -> u64 {
    data::submit(event, false);
    event.header.length
}

#[inline(always)]
fn keep(id: u64, call: InFlight) -> Option<()> {
    if IN_FLIGHT.insert(id, call, 0).is_err() {
        lose(Loss::TableFull);
    }
    Some(())
}

#[inline(always)]
pub(crate) fn exit(regs: u64, result: u64) {
    let Some(number) = read::<u64>(regs, offsets().regs_nr) else { return };
    if operation(number) == 0 {
        return;
    }
    let id = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied at once.
    let Some(call) = (unsafe { IN_FLIGHT.get(id) }).copied() else { return };
    let _ = IN_FLIGHT.remove(id);
    let _ = returned(&call, result as i64);
}

#[inline(always)]
fn returned(call: &InFlight, result: i64) -> Option<()> {
    let op = call.op as u8;
    if is(op, SyscallOp::Accept) {
        if result >= 0 {
            let event = data::start(EventKind::Accept)?;
            event.header.fd = result as i32;
            socket::resolve(event.header.fd, &mut event.header.socket)?;
            data::submit(event, false);
        }
        return None;
    }
    let event = data::start(EventKind::Read)?;
    event.header.fd = call.fd;
    event.header.socket = call.socket;
    if is(op, SyscallOp::Connect) {
        const EINPROGRESS: i64 = 115;
        if result == 0 || result == -EINPROGRESS {
            // The local port is chosen by connect itself.
            socket::describe(call.socket.pointer, &mut event.header.socket)?;
            event.header.kind = EventKind::Connect as u8;
            data::submit(event, false);
        }
        return None;
    }
    let is_write = is(op, SyscallOp::Write)
        || is(op, SyscallOp::Writev)
        || is(op, SyscallOp::Sendto)
        || is(op, SyscallOp::Sendmsg);
    if is_write {
        let taken = if result < 0 { 0 } else { result as u64 };
        if taken != call.length {
            event.header.kind = EventKind::WriteResult as u8;
            event.header.length = taken;
            data::submit(event, false);
        }
        return None;
    }
    if result < 0 {
        return None;
    }
    let result = result as u64;
    if is(op, SyscallOp::Sendfile) || is(op, SyscallOp::Splice) {
        if result == 0 {
            return None;
        }
        if is(op, SyscallOp::Sendfile) {
            event.header.kind = EventKind::Write as u8;
        }
        event.header.length = result;
    } else if is(op, SyscallOp::Readv) || is(op, SyscallOp::Recvmsg) {
        data::copy_parts(event, call.memory, call.length, result);
        event.header.length = result;
    } else {
        data::copy_buffer(event, call.memory, result);
    }
    data::submit(event, false);
    None
}
