//! Offsets of the kernel's struct members, from its own type information.
//!
//! Rust's BPF toolchain makes no CO-RE relocations, so the programs read kernel structs at offsets
//! that are taken from here before loading. Format: linux v6.12, Documentation/bpf/btf.rst.

use meshweft_abi::Offsets;
use thiserror::Error;

/// Where a kernel with BTF shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the offsets could not be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The data is not BTF, or is cut off.
    #[error("the kernel's type information is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// The kernel has no such struct.
    #[error("the kernel's type information has no struct {name}")]
    NoStruct {
        /// Its name.
        name: &'static str,
    },
    /// The struct has no such member.
    #[error("the kernel's struct {of} has no member {member}")]
    NoMember {
        /// The struct.
        of: &'static str,
        /// The member.
        member: &'static str,
    },
}

/// Structs nested without a name are looked into this deep.
const MAX_DEPTH: usize = 8;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Types of a kernel.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position in `types` of the type with the id index + 1.
    index: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// Indexes the types.
    ///
    /// # Errors
    /// [`BtfError::Damaged`] where the data does not follow the format.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let damaged = |at, what| BtfError::Damaged { at, what };
        if data.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return Err(damaged(0, "magic number"));
        }
        let word = |at| u32_at(data, at).ok_or(damaged(at, "header"));
        let header = word(4)? as usize;
        let section = |offset: usize| {
            let start = header.checked_add(word(8 + offset)? as usize);
            let end = start.and_then(|start| start.checked_add(u32_at(data, 12 + offset)? as usize));
            start.zip(end).and_then(|(start, end)| data.get(start..end)).ok_or(damaged(8 + offset, "section"))
        };
        let (types, strings) = (section(0)?, section(8)?);
        let mut index = Vec::new();
        let mut at = 0;
        while at < types.len() {
            index.push(at);
            let info = u32_at(types, at + 4).ok_or(damaged(at, "type"))?;
            let count = (info & 0xffff) as usize;
            let trailer = match info >> 24 & 0x1f {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => count * 12,
                6 | 13 => count * 8,
                _ => return Err(damaged(at, "kind of type")),
            };
            at += 12 + trailer;
        }
        Ok(Self { types, strings, index })
    }

    /// Offset in bytes of a member, which may lie in nested structs and unions without a name.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`] and [`BtfError::NoMember`].
    pub fn offset(&self, of: &'static str, member: &'static str) -> Result<u32, BtfError> {
        let at = self
            .index
            .iter()
            .copied()
            .find(|at| {
                u32_at(self.types, at + 4).is_some_and(|info| info >> 24 & 0x1f == KIND_STRUCT)
                    && u32_at(self.types, *at).is_some_and(|name| self.is_named(name, of))
            })
            .ok_or(BtfError::NoStruct { name: of })?;
        self.member(at, member, MAX_DEPTH).ok_or(BtfError::NoMember { of, member })
    }

    fn member(&self, at: usize, name: &str, depth: usize) -> Option<u32> {
        let info = u32_at(self.types, at + 4)?;
        if depth == 0 || !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let bit_fields = info >> 31 == 1;
        (0..(info & 0xffff) as usize).find_map(|i| {
            let member = at + 12 + i * 12;
            let bits = u32_at(self.types, member + 8)?;
            let bytes = if bit_fields { bits & 0x00ff_ffff } else { bits } / 8;
            let named = u32_at(self.types, member)?;
            if named != 0 {
                return self.is_named(named, name).then_some(bytes);
            }
            let inner = *self.index.get((u32_at(self.types, member + 4)? as usize).checked_sub(1)?)?;
            Some(bytes + self.member(inner, name, depth - 1)?)
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        self.strings.get(offset as usize..).is_some_and(|text| {
            text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })
    }
}

/// All offsets that the programs need.
///
/// # Errors
/// Any [`BtfError`].
pub fn offsets(data: &[u8]) -> Result<Offsets, BtfError> {
    let btf = Btf::parse(data)?;
    let (regs_nr, regs_arg) = registers();
    Ok(Offsets {
        task_files: btf.offset("task_struct", "files")?,
        task_pid: btf.offset("task_struct", "pid")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdt_max_fds: btf.offset("fdtable", "max_fds")?,
        fdt_fd: btf.offset("fdtable", "fd")?,
        file_inode: btf.offset("file", "f_inode")?,
        file_private: btf.offset("file", "private_data")?,
        inode_mode: btf.offset("inode", "i_mode")?,
        socket_type: btf.offset("socket", "type")?,
        socket_sk: btf.offset("socket", "sk")?,
        skc_family: btf.offset("sock_common", "skc_family")?,
        skc_daddr: btf.offset("sock_common", "skc_daddr")?,
        skc_rcv_saddr: btf.offset("sock_common", "skc_rcv_saddr")?,
        skc_dport: btf.offset("sock_common", "skc_dport")?,
        skc_num: btf.offset("sock_common", "skc_num")?,
        skc_v6_daddr: btf.offset("sock_common", "skc_v6_daddr")?,
        skc_v6_rcv_saddr: btf.offset("sock_common", "skc_v6_rcv_saddr")?,
        regs_nr,
        regs_arg,
    })
}

/// Offsets in `struct pt_regs` of the system call's number and its first five arguments. Part of
/// the architecture's ABI (linux v6.12, arch/*/include/uapi/asm/ptrace.h).
const fn registers() -> (u32, [u32; 5]) {
    #[cfg(target_arch = "x86_64")]
    {
        // orig_ax; di, si, dx, r10, r8
        (120, [112, 104, 96, 56, 72])
    }
    #[cfg(target_arch = "aarch64")]
    {
        // syscallno follows regs[31], sp, pc, pstate, orig_x0; x0 to x4. At the entry, x0 is intact.
        (280, [0, 8, 16, 24, 32])
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running_kernel() -> Vec<u8> {
        std::fs::read(VMLINUX).expect("the running kernel has BTF")
    }

    #[test]
    fn the_running_kernel_has_every_offset() {
        let offsets = offsets(&running_kernel()).unwrap();
        // sock_common begins with the two IPv4 addresses, and pid stands before tgid.
        assert_eq!((offsets.skc_daddr, offsets.skc_rcv_saddr), (0, 4));
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let data = running_kernel();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("no_such", "x"), Err(BtfError::NoStruct { name: "no_such" }));
        assert_eq!(btf.offset("file", "no_such"), Err(BtfError::NoMember { of: "file", member: "no_such" }));
    }

    #[test]
    fn damaged_data_is_refused() {
        let data = running_kernel();
        assert!(matches!(Btf::parse(b""), Err(BtfError::Damaged { at: 0, .. })));
        assert!(matches!(Btf::parse(&data[..20]), Err(BtfError::Damaged { .. })));
        assert!(matches!(Btf::parse(&data[..data.len() / 2]), Err(BtfError::Damaged { .. })));
        let mut wrong_kind = data;
        let header = u32_at(&wrong_kind, 4).unwrap() as usize;
        wrong_kind[header + 7] = 0x1f;
        assert!(matches!(Btf::parse(&wrong_kind), Err(BtfError::Damaged { at: 0, what: "kind of type" })));
    }
}
