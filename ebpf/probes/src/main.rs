//! The BPF programs: raw tracepoints only, so that they run without kprobes and under
//! `lockdown=integrity`.
//!
//! A system call that the table [`SYSCALLS`] does not name costs one load; one that it names costs
//! a process that is not instrumented one map look-up. Everything that can be decided elsewhere
//! is decided in `meshweft-abi` or in user space.
#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "the attribute macros make public items of their own")]

mod data;
mod process;
mod socket;
mod syscall;

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    programs::RawTracePointContext,
};
use meshweft_abi::{Loss, Offsets, kernel};

/// Set by user space before loading: what each system call number means.
#[unsafe(no_mangle)]
static SYSCALLS: [u8; kernel::SYSCALLS] = [0; kernel::SYSCALLS];

/// Set by user space before loading: where the kernel keeps what is read here.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_files: 0,
    task_pid: 0,
    task_tgid: 0,
    files_fdt: 0,
    fdt_max_fds: 0,
    fdt_fd: 0,
    file_inode: 0,
    file_private: 0,
    inode_mode: 0,
    socket_type: 0,
    socket_sk: 0,
    skc_family: 0,
    skc_daddr: 0,
    skc_rcv_saddr: 0,
    skc_dport: 0,
    skc_num: 0,
    skc_v6_daddr: 0,
    skc_v6_rcv_saddr: 0,
    regs_nr: 0,
    regs_arg: [0; 5],
};

/// Events to the agent. Its size is set by user space.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Instrumented processes, by process id.
#[map]
static PROCESSES: HashMap<u32, u8> = HashMap::with_max_entries(16_384, 0);

/// System calls under way, by thread.
#[map]
static IN_FLIGHT: HashMap<u64, syscall::InFlight> = HashMap::with_max_entries(32_768, 0);

/// Sockets whose bytes are no protocol that the agent knows: address -> fingerprint.
#[map]
static IGNORED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16_384, 0);

/// What was lost, by [`Loss`].
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::COUNT, 0);

/// Where an event is put together: one entry a CPU, as many as user space sets. A per-CPU map's
/// value could not be that large (32 KiB; linux v6.12, kernel/bpf/arraymap.c).
#[map]
static SCRATCH: Array<data::Scratch> = Array::with_max_entries(1, 0);

/// `sys_enter(struct pt_regs *regs, long id)`
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    syscall::enter(ctx.arg(0), ctx.arg(1));
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    syscall::exit(ctx.arg(0), ctx.arg(1));
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    process::fork(ctx.arg(0), ctx.arg(1));
    0
}

/// `sched_process_exec(struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
    process::exec();
    0
}

/// `sched_process_exit(struct task_struct *task)`
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    process::exit();
    0
}

/// Counts a loss.
#[inline(always)]
fn lose(reason: Loss) {
    if let Some(count) = LOST.get_ptr_mut(reason as u32) {
        // SAFETY: the map gives a valid pointer to this CPU's own value.
        unsafe { *count += 1 };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence of the object, which decides what helpers it may call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
