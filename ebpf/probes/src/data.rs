//! Putting an event together and handing it over.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_get_smp_processor_id, bpf_probe_read_user, bpf_ringbuf_output, bpf_ringbuf_query},
    },
};
use meshweft_abi::{EventHeader, EventKind, Loss, MAX_CAPTURE, MAX_PLAIN_CAPTURE, capture::begins_like_http};

use crate::{EVENTS, SCRATCH, lose};

/// Bytes waiting in the ring from which the agent is woken. Below it, the agent looks by itself
/// every few milliseconds and before it answers a question, so that events cost no wake-up.
const WAKE_ABOVE: u64 = 1 << 20;

/// Parts of a vectored call that are looked at. Servers send a head and a few pieces of body;
/// what lies beyond is counted by the call's result.
const MAX_PARTS: u64 = 16;

/// An event under construction. Twice the largest capture, so that an offset and a length which
/// are each masked to [`MAX_CAPTURE`] stay inside.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) header: EventHeader,
    pub(crate) data: [u8; 2 * (MAX_CAPTURE as usize + 1)],
    walk: Walk,
}

/// Where a walk over the parts of a vectored call stands. Kept in memory and not in registers: the
/// verifier forgets what it knows of memory, so that the paths through one part's code meet again
/// at the next part instead of multiplying.
#[repr(C)]
struct Walk {
    /// Bytes of the call that are left.
    left: u64,
    /// Most bytes to capture.
    limit: u32,
    /// Not zero once a byte was left out.
    gap: u32,
}

/// `struct iovec` of user space.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    base: u64,
    len: u64,
}

/// This CPU's scratch space with a fresh head.
#[inline(always)]
pub(crate) fn start(kind: EventKind) -> Option<&'static mut Scratch> {
    // SAFETY: programs of this kind run with preemption off, so that a CPU's entry has one user at
    // a time (linux v6.12, include/trace/bpf_probe.h).
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(bpf_get_smp_processor_id())? };
    let id = bpf_get_current_pid_tgid();
    let header = &mut scratch.header;
    // SAFETY: the helper has no preconditions.
    header.at = unsafe { bpf_ktime_get_ns() };
    header.tgid = (id >> 32) as u32;
    header.tid = id as u32;
    header.length = 0;
    header.captured = 0;
    header.fd = -1;
    header.kind = kind as u8;
    header.reserved = [0; 7];
    Some(scratch)
}

/// Hands the event over. `wake` asks the agent to look at once.
#[inline(always)]
pub(crate) fn submit(scratch: &mut Scratch, wake: bool) {
    let ring = (&raw const EVENTS).cast_mut().cast();
    let captured = u64::from(scratch.header.captured & MAX_CAPTURE);
    // SAFETY: the ring and the scratch value live as long as the program; the length is bounded
    // by the mask and lies within the scratch value.
    let result = unsafe {
        let full = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) > WAKE_ABOVE;
        let flags = if wake || full { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        bpf_ringbuf_output(
            ring,
            (&raw mut *scratch).cast(),
            EventHeader::SIZE as u64 + captured,
            u64::from(flags),
        )
    };
    if result != 0 {
        lose(Loss::RingFull);
    }
}

/// Appends up to `limit` bytes of user memory. Returns how many were copied.
#[inline(always)]
fn append(scratch: &mut Scratch, base: u64, len: u64, limit: u32) -> u32 {
    let at = scratch.header.captured & MAX_CAPTURE;
    let room = limit.saturating_sub(at);
    let len = if len > u64::from(room) { room } else { len as u32 } & MAX_CAPTURE;
    if len == 0 {
        return 0;
    }
    // SAFETY: offset and length are masked, and the buffer is as long as both masks together.
    let read = unsafe {
        bpf_probe_read_user(scratch.data.as_mut_ptr().add(at as usize).cast(), len, base as *const _)
    };
    if read != 0 {
        lose(Loss::MemoryFault);
        return 0;
    }
    scratch.header.captured = at + len;
    len
}

/// Whether what was captured so far begins like a message.
#[inline(always)]
fn begins_like_message(scratch: &Scratch) -> bool {
    let data = &scratch.data;
    begins_like_http([data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7]])
}

/// Copies one buffer. `length` is what the call carries.
#[inline(always)]
pub(crate) fn copy_buffer(scratch: &mut Scratch, base: u64, length: u64) {
    scratch.header.length = length;
    let copied = append(scratch, base, length, MAX_PLAIN_CAPTURE);
    if length > u64::from(MAX_PLAIN_CAPTURE) && copied == MAX_PLAIN_CAPTURE && begins_like_message(scratch) {
        append(scratch, base + u64::from(copied), length - u64::from(copied), MAX_CAPTURE);
    }
}

/// Copies the buffers of a vectored call, as far as `total` reaches, up to the first byte that is
/// not copied. `length` becomes the sum of the parts that were looked at, or `total` if less.
#[inline(always)]
pub(crate) fn copy_parts(scratch: &mut Scratch, parts: u64, count: u64, total: u64) {
    scratch.walk = Walk { left: total, limit: MAX_PLAIN_CAPTURE, gap: 0 };
    for i in 0..MAX_PARTS {
        if i >= count || scratch.walk.left == 0 {
            break;
        }
        let mut part = Part { base: 0, len: 0 };
        // SAFETY: reads into a local of that size; the helper checks the address.
        let read = unsafe {
            bpf_probe_read_user(
                (&raw mut part).cast(),
                size_of::<Part>() as u32,
                (parts + i * size_of::<Part>() as u64) as *const _,
            )
        };
        if read != 0 {
            lose(Loss::MemoryFault);
            break;
        }
        copy_part(scratch, part);
        if i == 0 && begins_like_message(scratch) {
            // What begins like a message may go on like one.
            scratch.walk.limit = MAX_CAPTURE;
        }
    }
}

/// Copies one part, as far as the call's bytes and the room reach.
#[inline(always)]
fn copy_part(scratch: &mut Scratch, part: Part) {
    let left = scratch.walk.left;
    let len = if part.len < left { part.len } else { left };
    scratch.walk.left = left - len;
    scratch.header.length += len;
    if scratch.walk.gap == 0 && len > 0 {
        let limit = scratch.walk.limit;
        let copied = append(scratch, part.base, len, limit);
        scratch.walk.gap = u32::from(u64::from(copied) < len);
    }
}
