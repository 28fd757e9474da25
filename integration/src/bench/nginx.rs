//! An nginx that answers everything with a few bytes.

use super::Interrupt;
use super::site::{Part, Site, free_port, loopback};
use anyhow::Result;
use std::env;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

/// An nginx that runs: one process, which listens and serves.
#[derive(Debug)]
pub(super) struct Nginx {
    part: Part,
    address: SocketAddr,
}

impl Nginx {
    pub(super) fn start(site: &Site, interrupt: &Interrupt) -> Result<Self> {
        let address = loopback(free_port()?);
        // Without a master process, there is one process to measure, and none that outlives it.
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr error;
             events {{ worker_connections 256; }}
             http {{
               access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; server_tokens off;
               client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
               uwsgi_temp_path uwsgi; scgi_temp_path scgi;
               server {{ listen {address}; location / {{ default_type text/plain; return 200 'ok\\n'; }} }}
             }}"
        );
        let file = site.write("nginx.conf", &config)?;
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(site.path("")).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut part = Part::start("nginx", command, &site.path("nginx.log"))?;
        part.wait_until(interrupt, || TcpStream::connect(address).is_ok())?;
        Ok(Self { part, address })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> u32 {
        self.part.pid()
    }
}

/// A program of `PATH`, or of the system's folders, which are not in every user's `PATH`. Its bare
/// name where there is none.
pub(super) fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(system);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}
