//! Processes that come and go.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use meshweft_abi::{EventKind, Loss, SocketId};

use crate::{IN_FLIGHT, PROCESSES, data, lose, socket};

/// A child of an instrumented process is instrumented from its first instruction: pre-forking
/// servers hand sockets to children at once.
#[inline(always)]
pub(crate) fn fork(parent: u64, child: u64) {
    let at = socket::offsets();
    let (Some(parent), Some(child)) =
        (socket::read::<u32>(parent, at.task_tgid), socket::read::<u32>(child, at.task_tgid))
    else {
        return lose(Loss::MemoryFault);
    };
    // SAFETY: the value is read at once and not kept.
    if parent == child || unsafe { PROCESSES.get(parent) }.is_none() {
        return;
    }
    if PROCESSES.insert(child, 1u8, 0).is_err() {
        lose(Loss::TableFull);
    }
    if let Some(event) = data::start(EventKind::Fork) {
        event.header.socket = SocketId::NONE;
        event.header.length = u64::from(child);
        data::submit(event, true);
    }
}

/// The agent decides anew about a process that runs another program.
#[inline(always)]
pub(crate) fn exec() {
    if let Some(event) = data::start(EventKind::Exec) {
        event.header.socket = SocketId::NONE;
        data::submit(event, true);
    }
}

/// A thread ends, and with its leader the process.
#[inline(always)]
pub(crate) fn exit() {
    let id = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    // SAFETY: the value is read at once and not kept.
    if unsafe { PROCESSES.get(tgid) }.is_none() {
        return;
    }
    let _ = IN_FLIGHT.remove(id);
    if tgid == tid {
        let _ = PROCESSES.remove(tgid);
    }
    if let Some(event) = data::start(EventKind::Exit) {
        event.header.socket = SocketId::NONE;
        data::submit(event, false);
    }
}
