//! What differs between kernels and architectures, and is therefore set by user space in the
//! programs' read-only data before they are loaded.

/// What a system call means to the probes. The value of its number's entry in `SYSCALLS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SyscallOp {
    /// `read(fd, buf, count)`
    Read = 1,
    /// `readv(fd, iov, iovcnt)`
    Readv = 2,
    /// `recvfrom(fd, buf, len, flags, ...)`
    Recvfrom = 3,
    /// `recvmsg(fd, msghdr, flags)`
    Recvmsg = 4,
    /// `write(fd, buf, count)`
    Write = 5,
    /// `writev(fd, iov, iovcnt)`
    Writev = 6,
    /// `sendto(fd, buf, len, flags, ...)`
    Sendto = 7,
    /// `sendmsg(fd, msghdr, flags)`
    Sendmsg = 8,
    /// `sendfile(out_fd, in_fd, offset, count)`: the bytes come from a file and are not seen.
    Sendfile = 9,
    /// `splice(fd_in, off_in, fd_out, off_out, len, flags)`: likewise.
    Splice = 10,
    /// `close(fd)`
    Close = 11,
    /// `shutdown(fd, how)`
    Shutdown = 12,
    /// `accept(fd, ...)` and `accept4`
    Accept = 13,
    /// `connect(fd, ...)`
    Connect = 14,
    /// `listen(fd, backlog)`
    Listen = 15,
}

/// System call numbers that the table can hold; those of both supported architectures are below.
pub const SYSCALLS: usize = 512;

/// `MSG_PEEK` of `recv(2)`: the bytes stay in the queue and will be read again.
pub const MSG_PEEK: u64 = 0x2;

/// Offsets in bytes, from the running kernel's BTF (`/sys/kernel/btf/vmlinux`) and, for the
/// registers, from the architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdt_max_fds: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `socket.type`
    pub socket_type: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock_common.skc_family`
    pub skc_family: u32,
    /// `sock_common.skc_daddr`
    pub skc_daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_dport` (network order)
    pub skc_dport: u32,
    /// `sock_common.skc_num` (host order)
    pub skc_num: u32,
    /// `sock_common.skc_v6_daddr`
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub skc_v6_rcv_saddr: u32,
    /// Offset in `pt_regs` of the system call's number at its exit.
    pub regs_nr: u32,
    /// Offsets in `pt_regs` of its first five arguments.
    pub regs_arg: [u32; 5],
}

const _: () = assert!(size_of::<Offsets>() == 96);
