//! What `/proc` tells about a process (proc(5)).

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Process, name};

/// Sections of an executable that are looked through for Go's build information.
const MAX_SECTIONS: u64 = 256;

/// All processes that there are.
pub(super) fn processes() -> HashSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What selection and naming need.
#[derive(Debug)]
pub(super) struct Facts {
    process: u32,
    executable: PathBuf,
}

impl Facts {
    /// `None` for kernel threads and for processes that are gone.
    pub(super) fn of(process: u32) -> Option<Self> {
        let executable = fs::read_link(format!("/proc/{process}/exe")).ok()?;
        Some(Self { process, executable })
    }

    /// Path of the executable as the process sees it, without the kernel's mark for a file that
    /// was replaced since.
    pub(super) fn path(&self) -> &Path {
        let text = self.executable.to_str().unwrap_or_default();
        Path::new(text.strip_suffix(" (deleted)").unwrap_or(text))
    }

    pub(super) fn executable_name(&self) -> &str {
        self.path().file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    pub(super) fn describe(&self) -> Process {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.process)).unwrap_or_default();
        let arguments: Vec<&str> =
            arguments.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok()).collect();
        let directory = fs::read_link(format!("/proc/{}/cwd", self.process)).ok();
        let executable = self.executable_name().to_owned();
        Process {
            name: name::of(&executable, &arguments, directory.as_deref()),
            is_go: is_go(self.process).unwrap_or(false),
            executable,
        }
    }

    /// TCP ports on which the process listens.
    pub(super) fn listening_ports(&self) -> Vec<u16> {
        let sockets = self.socket_inodes();
        if sockets.is_empty() {
            return Vec::new();
        }
        let mut ports: Vec<u16> = ["tcp", "tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", self.process)).ok())
            .flat_map(|table| table.lines().skip(1).filter_map(listener).collect::<Vec<_>>())
            .filter(|(_, inode)| sockets.contains(inode))
            .map(|(port, _)| port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn socket_inodes(&self) -> HashSet<u64> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.process)) else { return HashSet::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let target = fs::read_link(entry.path()).ok()?;
                target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
            })
            .collect()
    }
}

/// Port and inode of a line of `/proc/net/tcp` whose state is LISTEN (`0A`).
fn listener(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    Some((port, fields.nth(5)?.parse().ok()?))
}

/// Whether an executable has the section `.go.buildinfo`, which Go's linker writes into every
/// program (ELF64, little endian; anything else is not looked at).
fn is_go(process: u32) -> Option<bool> {
    let mut file = fs::File::open(format!("/proc/{process}/exe")).ok()?;
    let mut header = [0; 64];
    file.read_exact(&mut header).ok()?;
    if header.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Some(false);
    }
    let u16_at = |at: usize| header.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    let sections = u64::from_le_bytes(header.get(40..48)?.try_into().ok()?);
    let size = u64::from(u16_at(58)?);
    let count = u64::from(u16_at(60)?).min(MAX_SECTIONS);
    let names = u64::from(u16_at(62)?);
    let section = |index: u64| {
        let mut entry = [0; 64];
        file.read_exact_at(&mut entry, sections.checked_add(index.checked_mul(size)?)?).ok()?;
        let name = u32::from_le_bytes(entry.get(..4)?.try_into().ok()?);
        let offset = u64::from_le_bytes(entry.get(24..32)?.try_into().ok()?);
        Some((name, offset))
    };
    let (_, strings) = section(names)?;
    Some((0..count).any(|index| {
        const WANTED: &[u8] = b".go.buildinfo\0";
        let mut name = [0; WANTED.len()];
        section(index)
            .and_then(|(at, _)| file.read_exact_at(&mut name, strings.checked_add(u64::from(at))?).ok())
            .is_some_and(|()| name == WANTED)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_with_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let facts = Facts::of(std::process::id()).unwrap();
        assert!(facts.listening_ports().contains(&port));
        drop(socket);
        assert!(!facts.listening_ports().contains(&port));
    }

    #[test]
    fn a_line_of_a_connection_is_no_listener() {
        let established = "   1: 0100007F:1F90 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 4242 1";
        let listening = established.replace(" 01 ", " 0A ");
        assert_eq!(listener(established), None);
        assert_eq!(listener(&listening), Some((8080, 4242)));
        assert_eq!(listener("garbage"), None);
    }

    #[test]
    fn this_test_is_no_go_program() {
        assert_eq!(is_go(std::process::id()), Some(false));
    }
}
