//! Network namespaces, links and redirection.
//!
//! ```text
//! host                     mwN-switch                   mwN-orders-0.default
//! mwN 10.66.0.1/16 ──veth── bridge br0 ──veth (pI)──── eth0 10.66.0.11/16
//! ```
//!
//! The bridge stands in a namespace of its own, so that the host's packet filter (Docker's, for
//! example, which may look at bridged packets too) does not come between the pods. Nothing is
//! routed: `ip_forward` stays as it is, and a pod reaches other pods and the host, nobody else.

use super::envoy::{INBOUND_PORT, OUTBOUND_PORT, PROXY_ID};
use super::mesh::RESERVED_PORTS;
use super::plan::{Plan, PodPlan, Site};
use super::process::{run, run_with_input};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `ip netns` keeps its namespaces.
const NETNS_FOLDER: &str = "/run/netns";
/// Files here stand in for those of /etc in a namespace (ip-netns(8)).
const ETC_FOLDER: &str = "/etc/netns";

/// Builds the network of a lab.
pub(crate) fn build(plan: &Plan) -> Result<()> {
    let site = plan.site;
    let (switch, host_link) = (site.switch(), site.host_link());
    let mut host =
        format!("netns add {switch}\nlink add {host_link} type veth peer name host netns {switch}\n");
    let mut bridge = "link add br0 type bridge\nlink set br0 up\nlink set host master br0 up\n".to_owned();
    let _ = write!(host, "addr add {}/16 dev {host_link}\nlink set {host_link} up\n", site.host_address());
    for (index, pod) in plan.pods.iter().enumerate() {
        let _ = write!(
            host,
            "netns add {netns}\nlink add p{index} netns {switch} type veth peer name eth0 netns {netns}\n",
            netns = pod.netns
        );
        let _ = writeln!(bridge, "link set p{index} master br0 up");
    }
    run_with_input("ip", &["-batch", "-"], &host).context("cannot create the lab's network namespaces")?;
    run_with_input("ip", &["-n", &switch, "-batch", "-"], &bridge)
        .context("cannot create the lab's bridge")?;
    for pod in &plan.pods {
        let netns = &pod.netns;
        let links = format!(
            "link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\nroute add default via {}\n",
            pod.address,
            site.host_address()
        );
        run_with_input("ip", &["-n", netns, "-batch", "-"], &links)
            .with_context(|| format!("cannot set up the network of pod {}", pod.name))?;
        if pod.sidecar && !pod.is_gateway() {
            run_with_input("ip", &["netns", "exec", netns, "nft", "-f", "-"], &redirection())
                .with_context(|| format!("cannot set up the redirection of pod {}", pod.name))?;
        }
        let etc = Path::new(ETC_FOLDER).join(netns);
        fs::create_dir_all(&etc).with_context(|| format!("cannot create {}", etc.display()))?;
        // No name is looked up outside: a question to the loopback is refused at once.
        for (file, text) in [("hosts", plan.hosts(pod)), ("resolv.conf", "nameserver 127.0.0.1\n".to_owned())]
        {
            let path = etc.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// What istio-iptables sets up (REDIRECT mode), as one atomic ruleset.
fn redirection() -> String {
    let reserved: Vec<_> = RESERVED_PORTS
        .iter()
        .filter(|port| ![OUTBOUND_PORT, INBOUND_PORT].contains(port))
        .map(u16::to_string)
        .collect();
    let reserved = reserved.join(", ");
    format!(
        r#"table ip istio_redirection {{
    chain inbound {{
        type nat hook prerouting priority -100; policy accept;
        tcp dport {{ {reserved} }} return
        meta l4proto tcp redirect to :{INBOUND_PORT}
    }}
    chain outbound {{
        type nat hook output priority -100; policy accept;
        # The sidecar's connections to its app.
        oifname "lo" ip saddr 127.0.0.6 return
        # The app called its own pod through the sidecar: in again, as if from outside.
        oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid {PROXY_ID} redirect to :{INBOUND_PORT}
        oifname "lo" meta skuid != {PROXY_ID} return
        meta skuid {PROXY_ID} return
        meta skgid {PROXY_ID} return
        ip daddr 127.0.0.1 return
        meta l4proto tcp redirect to :{OUTBOUND_PORT}
    }}
}}
"#
    )
}

/// The namespaces of a lab that exist, whatever made them.
pub(crate) fn namespaces(site: Site) -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {NETNS_FOLDER}")),
    };
    let prefix = site.prefix();
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect())
}

/// Every process in one of these namespaces.
pub(crate) fn processes(namespaces: &[String]) -> Vec<u32> {
    let inode = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let wanted: BTreeSet<_> =
        namespaces.iter().filter_map(|name| inode(Path::new(NETNS_FOLDER).join(name))).collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            inode(format!("/proc/{pid}/ns/net").into()).is_some_and(|found| wanted.contains(&found))
        })
        .collect()
}

/// Removes the namespaces of a lab, with all links, and the host's link. Processes in them must have
/// ended: a namespace lives as long as one of them.
pub(crate) fn remove(site: Site) -> Result<()> {
    for name in namespaces(site)? {
        run("ip", &["netns", "delete", &name])?;
        remove_folder(&Path::new(ETC_FOLDER).join(&name))?;
    }
    // What an interrupted start may have left.
    if let Ok(entries) = fs::read_dir(ETC_FOLDER) {
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&site.prefix())) {
                remove_folder(&entry.path())?;
            }
        }
    }
    if host_link_exists(site) {
        // It goes with its peer's namespace, but the kernel takes its time; either may be first.
        let deleted = run("ip", &["link", "delete", &site.host_link()]);
        if host_link_exists(site) {
            deleted?;
        }
    }
    Ok(())
}

/// Whether the host's link into the lab exists.
pub(crate) fn host_link_exists(site: Site) -> bool {
    Path::new("/sys/class/net").join(site.host_link()).exists()
}

/// Removes a folder that may be gone already.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Opens a connection from inside a pod. It stays the pod's own after this returns.
pub(crate) fn connect(pod: &PodPlan, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let path = Path::new(NETNS_FOLDER).join(&pod.netns);
    let netns = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    // A thread's namespace is its own; this one ends with the call.
    let connected = std::thread::spawn(move || {
        // SAFETY: setns takes no pointers, and the file stays open during the call.
        if unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        TcpStream::connect_timeout(&address, timeout)
    });
    connected
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the connecting thread panicked")))
        .with_context(|| format!("cannot connect to {address} from pod {}", pod.name))
}

/// Whether a process listens on this TCP port in the namespace of process `pid`. Reads the kernel's
/// table instead of connecting, so that the app sees no connection that nobody asked for.
pub(crate) fn listens(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|family| {
        fs::read_to_string(format!("/proc/{pid}/net/{family}"))
            .is_ok_and(|table| table.lines().skip(1).any(|line| is_listener(line, port)))
    })
}

/// Whether this line of /proc/PID/net/tcp is a socket that listens on `port` (proc_net_tcp.rst: slot,
/// local address, remote address, state 0A).
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
    local == Some(port) && fields.nth(1) == Some("0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let listener = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        let connection = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 2";
        let six = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0";
        assert!(is_listener(listener, 8080));
        assert!(is_listener(six, 8080));
        assert!(!is_listener(listener, 8081));
        assert!(!is_listener(connection, 8080));
        assert!(!is_listener("", 8080));
    }

    #[test]
    fn redirection_leaves_the_sidecars_own_ports_alone() {
        assert!(redirection().contains("tcp dport { 22, 15000, 15008, 15020, 15021, 15090 } return"));
    }
}
