//! The one file that talks to the kernel: loads the programs, reads their ring, sets their tables.

use std::os::fd::{AsRawFd, RawFd};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapData, PerCpuArray, RingBuf},
    programs::RawTracePoint,
};
use meshweft_abi::{EventHeader, Loss, SocketId, SyscallOp, kernel};
use thiserror::Error;

use super::btf::{self, BtfError};

/// The object, built by `cargo xtask build` and kept inside the binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes.o"));

/// Program name and the raw tracepoint that it is attached to.
const PROGRAMS: [&str; 5] =
    ["sched_process_fork", "sched_process_exec", "sched_process_exit", "sys_exit", "sys_enter"];

/// Why the probes do not run.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The kernel does not tell its types.
    #[error("cannot read {}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF", btf::VMLINUX)]
    NoBtf {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The number of CPUs is not known.
    #[error("cannot read the number of CPUs: {source}")]
    Cpus {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's types lack something.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object was refused.
    #[error("the kernel refused the probes: {source}; they need CAP_BPF and CAP_PERFMON, or root")]
    Load {
        /// What aya said.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// One program was refused.
    #[error("the kernel refused the program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What aya said, with the verifier's words.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map cannot be used.
    #[error("the map {name} cannot be used: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What aya said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The object lacks a part: it was not built from this source.
    #[error("the object has no {name}; build it anew with `cargo xtask build`")]
    Missing {
        /// The part.
        name: &'static str,
    },
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Globals(meshweft_abi::Offsets);
// SAFETY: `Offsets` is `repr(C)` of `u32`s alone, without padding.
unsafe impl Pod for Globals {}

/// The loaded and attached programs. They go when this is dropped.
pub struct Probes {
    /// Keeps programs and links alive.
    _ebpf: Ebpf,
    ring: RingBuf<MapData>,
    ignored: HashMap<MapData, u64, u64>,
    lost: PerCpuArray<MapData, u64>,
}

/// The table of instrumented processes.
#[derive(Debug)]
pub struct ProcessTable(HashMap<MapData, u32, u8>);

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads the programs, with a ring of `ring_bytes` (rounded up to a power of two), and attaches
    /// them. Nothing is seen of a process until it is put into the table.
    ///
    /// # Errors
    /// Any [`ProbeError`].
    pub fn load(ring_bytes: u32) -> Result<(Self, ProcessTable), ProbeError> {
        let types = std::fs::read(btf::VMLINUX).map_err(|source| ProbeError::NoBtf { source })?;
        let offsets = Globals(btf::offsets(&types)?);
        drop(types);
        let syscalls = syscall_table();
        let btf = Btf::from_sys_fs().ok();
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| ProbeError::Cpus { source })?;
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        let mut ebpf = EbpfLoader::new()
            .btf(btf.as_ref())
            .override_global("OFFSETS", &offsets, true)
            .override_global("SYSCALLS", syscalls.as_slice(), true)
            .map_max_entries("EVENTS", ring_bytes.next_power_of_two())
            .map_max_entries("SCRATCH", cpus)
            .load(OBJECT)
            .map_err(|source| ProbeError::Load { source: Box::new(source) })?;
        for name in PROGRAMS {
            let refused = |source| ProbeError::Program { name, source: Box::new(source) };
            let program: &mut RawTracePoint =
                ebpf.program_mut(name).ok_or(ProbeError::Missing { name })?.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.attach(name).map_err(refused)?;
        }
        let mut map = |name| ebpf.take_map(name).ok_or(ProbeError::Missing { name });
        let bad = |name| move |source| ProbeError::Map { name, source: Box::new(source) };
        let ring = RingBuf::try_from(map("EVENTS")?).map_err(bad("EVENTS"))?;
        let processes = HashMap::try_from(map("PROCESSES")?).map_err(bad("PROCESSES"))?;
        let ignored = HashMap::try_from(map("IGNORED")?).map_err(bad("IGNORED"))?;
        let lost = PerCpuArray::try_from(map("LOST")?).map_err(bad("LOST"))?;
        Ok((Self { _ebpf: ebpf, ring, ignored, lost }, ProcessTable(processes)))
    }

    /// Gives up to `max` events to `each`, in the order in which they happened. Returns how many.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(&EventHeader, &[u8])) -> usize {
        for count in 0..max {
            let Some(record) = self.ring.next() else { return count };
            if let Some((header, data)) = EventHeader::split(&record) {
                each(&header, data);
            }
        }
        max
    }

    /// No bytes of this connection are wanted any more.
    pub fn ignore(&mut self, socket: &SocketId) {
        // An LRU map makes room by itself; should the kernel refuse, the bytes just keep coming.
        let _ = self.ignored.insert(socket.pointer, socket.fingerprint(), 0);
    }

    /// What the kernel's side lost so far, by [`Loss`].
    #[must_use]
    pub fn lost(&self) -> [u64; Loss::COUNT as usize] {
        let mut sums = [0; Loss::COUNT as usize];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = self.lost.get(&index, 0).map(|values| values.iter().sum()).unwrap_or(0);
        }
        sums
    }

    /// Readable when the agent should look at once.
    #[must_use]
    pub fn poll_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl ProcessTable {
    /// Begins to see a process.
    ///
    /// # Errors
    /// [`ProbeError::Map`], for one where the table is full.
    pub fn insert(&mut self, process: u32) -> Result<(), ProbeError> {
        self.0
            .insert(process, 1, 0)
            .map_err(|source| ProbeError::Map { name: "PROCESSES", source: Box::new(source) })
    }

    /// Stops to see a process.
    pub fn remove(&mut self, process: u32) {
        // It may be gone already: the kernel's side removes processes that end.
        let _ = self.0.remove(&process);
    }

    /// The processes that are seen.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.keys().filter_map(Result::ok)
    }
}

/// What each system call number of this architecture means.
fn syscall_table() -> [u8; kernel::SYSCALLS] {
    let mut table = [0; kernel::SYSCALLS];
    for (number, op) in [
        (libc::SYS_read, SyscallOp::Read),
        (libc::SYS_readv, SyscallOp::Readv),
        (libc::SYS_recvfrom, SyscallOp::Recvfrom),
        (libc::SYS_recvmsg, SyscallOp::Recvmsg),
        (libc::SYS_write, SyscallOp::Write),
        (libc::SYS_writev, SyscallOp::Writev),
        (libc::SYS_sendto, SyscallOp::Sendto),
        (libc::SYS_sendmsg, SyscallOp::Sendmsg),
        (libc::SYS_sendfile, SyscallOp::Sendfile),
        (libc::SYS_splice, SyscallOp::Splice),
        (libc::SYS_close, SyscallOp::Close),
        (libc::SYS_shutdown, SyscallOp::Shutdown),
        (libc::SYS_accept, SyscallOp::Accept),
        (libc::SYS_accept4, SyscallOp::Accept),
        (libc::SYS_connect, SyscallOp::Connect),
        (libc::SYS_listen, SyscallOp::Listen),
    ] {
        if let Some(entry) = usize::try_from(number).ok().and_then(|number| table.get_mut(number)) {
            *entry = op as u8;
        }
    }
    table
}
