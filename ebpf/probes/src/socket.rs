//! From a file descriptor of the current task to its TCP socket, without any kernel function:
//! `task_struct.files -> fdt -> fd[n] -> file.private_data -> socket.sk` (linux v6.12,
//! include/linux/fdtable.h, include/net/sock.h), by offsets that user space took from BTF.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};
use meshweft_abi::{Offsets, SocketId};

use crate::OFFSETS;

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const SOCK_STREAM: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The offsets that user space set.
#[inline(always)]
pub(crate) fn offsets() -> &'static Offsets {
    // SAFETY: points to the program's own read-only data; the volatile pointer keeps the compiler
    // from using the zeros that stand there before user space sets the values.
    unsafe { &*core::hint::black_box(&raw const OFFSETS) }
}

/// Reads a `T` at `base + offset` of kernel memory.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address itself and fails where it is not mapped.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// The `struct sock` behind a file descriptor, where that is a stream socket.
#[inline(always)]
fn sock_of_fd(fd: i32) -> Option<u64> {
    let at = offsets();
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read(task, at.task_files)?;
    let table: u64 = read(files, at.files_fdt)?;
    let max: u32 = read(table, at.fdt_max_fds)?;
    if fd < 0 || fd as u32 >= max {
        return None;
    }
    let descriptors: u64 = read(table, at.fdt_fd)?;
    let file: u64 = read(descriptors + (fd as u64) * 8, 0)?;
    let inode: u64 = read(file, at.file_inode)?;
    let mode: u16 = read(inode, at.inode_mode)?;
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = read(file, at.file_private)?;
    if read::<u16>(socket, at.socket_type)? != SOCK_STREAM {
        return None;
    }
    read(socket, at.socket_sk)
}

/// Addresses of a `struct sock` of IPv4 or IPv6.
#[inline(always)]
pub(crate) fn describe(sock: u64, id: &mut SocketId) -> Option<()> {
    let at = offsets();
    id.pointer = sock;
    id.reserved = 0;
    id.family = read(sock, at.skc_family)?;
    id.local_port = read(sock, at.skc_num)?;
    id.remote_port = u16::from_be(read(sock, at.skc_dport)?);
    if id.family == AF_INET {
        let local: [u8; 4] = read(sock, at.skc_rcv_saddr)?;
        let remote: [u8; 4] = read(sock, at.skc_daddr)?;
        id.local = [0; 16];
        id.remote = [0; 16];
        id.local[..4].copy_from_slice(&local);
        id.remote[..4].copy_from_slice(&remote);
        Some(())
    } else if id.family == AF_INET6 {
        id.local = read(sock, at.skc_v6_rcv_saddr)?;
        id.remote = read(sock, at.skc_v6_daddr)?;
        Some(())
    } else {
        None
    }
}

/// The TCP socket behind a file descriptor of the current task.
#[inline(always)]
pub(crate) fn resolve(fd: i32, id: &mut SocketId) -> Option<()> {
    let sock = sock_of_fd(fd)?;
    if sock == 0 {
        return None;
    }
    describe(sock, id)
}
