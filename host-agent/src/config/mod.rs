//! What the agent is asked to do: defaults, the file over them, the environment over both.
//!
//! Every key has a default. An unknown key is an error, because it is most often a known one
//! that was misspelt.

mod environment;
mod error;
mod export;
mod quantity;
mod sampler;
pub mod select;
mod target;

pub use environment::Environment;
pub(crate) use environment::percent_decode;
pub use error::Error;
pub(crate) use export::GRPC_PATH;
pub use export::{Compression, Endpoint, Export, Headers, Protocol, Retry};
pub use quantity::{ByteSize, FileMode};
pub use sampler::{SamplerName, Sampling};
pub use select::{Glob, PortSet, Selector, Subject};
pub use target::ScrapeTarget;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All of the configuration.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where spans and the filter's questions come in.
    pub receiver: Receiver,
    /// Where people and Prometheus ask.
    pub admin: Admin,
    /// Which processes are instrumented.
    pub discovery: Discovery,
    /// How those processes are watched.
    pub capture: Capture,
    /// How spans of one request are brought together.
    pub correlation: Correlation,
    /// Which traces are kept.
    pub sampling: Sampling,
    /// Where spans go.
    pub export: Export,
    /// Attributes for every exported resource that does not have them. `service.name` is not
    /// taken. Environment: `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource: BTreeMap<String, String>,
    /// Proxies whose metrics are served with exemplars.
    pub scrape: Scrape,
    /// The agent's own log.
    pub log: Log,
}

/// The section `receiver`. Each listener serves OTLP/gRPC, OTLP/HTTP and `/v1/context`; null
/// turns it off.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Receiver {
    /// Default 127.0.0.1:4317.
    pub grpc: Option<SocketAddr>,
    /// Default 127.0.0.1:4318.
    pub http: Option<SocketAddr>,
    /// Path of a Unix socket. Default /run/meshweft/agent.sock. Its folder is made where it is
    /// missing; a socket that was left behind is replaced.
    pub socket: Option<PathBuf>,
    /// Its mode. Default "0666": sidecars run as other users (Istio's proxy is 1337).
    pub socket_mode: FileMode,
    /// Largest request, as received and as decompressed. Default 4MiB, as in gRPC.
    pub max_message_bytes: ByteSize,
    /// Most connections of one listener; further ones are closed at once. Default 1024: a node
    /// has some hundred proxies, each with a connection for each worker thread.
    pub max_connections: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            grpc: Some((Ipv4Addr::LOCALHOST, 4317).into()),
            http: Some((Ipv4Addr::LOCALHOST, 4318).into()),
            socket: Some("/run/meshweft/agent.sock".into()),
            socket_mode: FileMode(0o666),
            max_message_bytes: ByteSize::mebibytes(4),
            max_connections: 1024,
        }
    }
}

/// The section `admin`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Default 127.0.0.1:9464; null turns it off. `/debug` shows spans, so that an address that
    /// others reach should be guarded by a network policy.
    pub address: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: Some((Ipv4Addr::LOCALHOST, 9464).into()) }
    }
}

/// The section `discovery`. A process is instrumented if an entry of `select` covers it and none
/// of `exclude` does. Proxies of the mesh and the agent itself never are.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// Default: every process that listens on a TCP port.
    pub select: Vec<Selector>,
    /// Default: none.
    pub exclude: Vec<Selector>,
}

impl Default for Discovery {
    fn default() -> Self {
        let listens = Selector { ports: Some(PortSet::all()), ..Selector::default() };
        Self { select: vec![listens], exclude: Vec::new() }
    }
}

impl Discovery {
    /// Whether the process is to be instrumented.
    #[must_use]
    pub fn selects(&self, subject: &Subject<'_>) -> bool {
        let covers = |selector: &Selector| selector.matches(subject);
        self.select.iter().any(covers) && !self.exclude.iter().any(covers)
    }
}

/// The section `capture`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Whether apps are seen at all. Default true. Needs CAP_BPF and CAP_PERFMON, and a kernel with BTF;
    /// where they are missing, the agent says so and hands the mesh's spans on.
    pub enabled: bool,
    /// Size of the kernel's ring of events, rounded up to a power of two. Default 16MiB: some
    /// milliseconds of a busy node. At most 1GiB.
    pub ring_bytes: ByteSize,
}

impl Default for Capture {
    fn default() -> Self {
        Self { enabled: true, ring_bytes: ByteSize::mebibytes(16) }
    }
}

/// The section `correlation`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Correlation {
    /// How long a span waits for the other spans of its request before it is exported as it is.
    /// Default 2s: the filter reports every second.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub window: Duration,
    /// Most spans that wait. Default 65536.
    pub max_spans: usize,
}

impl Default for Correlation {
    fn default() -> Self {
        Self { window: Duration::from_secs(2), max_spans: 65_536 }
    }
}

/// The section `scrape`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scrape {
    /// Targets that `/scrape` may fetch: `HOST:PORT` or `NETWORK/BITS:PORT`. Default: none.
    pub targets: Vec<ScrapeTarget>,
    /// Time for one fetch. Default 10s, as Prometheus has it.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub timeout: Duration,
    /// Largest page. Default 32MiB: some hundred thousand series.
    pub max_page_bytes: ByteSize,
    /// Most scrapes at once; further ones are answered 503. Default 4.
    pub concurrency: usize,
    /// Most proxies for which exemplars are kept. Default 256: more Pods than a node runs.
    pub max_proxies: usize,
}

impl Default for Scrape {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            timeout: Duration::from_secs(10),
            max_page_bytes: ByteSize::mebibytes(32),
            concurrency: 4,
            max_proxies: 256,
        }
    }
}

/// The section `log`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,meshweft::otlp=debug`.
    /// Default `info`.
    pub level: String,
    /// Default `text`.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl Config {
    /// Reads the file, if there is one, and lays the environment over it. Nothing is opened or
    /// bound but the file itself. Returns what was ignored as warnings.
    ///
    /// # Errors
    /// [`Error`], for the first mistake.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<(Self, Vec<String>), Error> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| Error::Read { path: path.to_owned(), source })?,
            None => String::new(),
        };
        Self::from_yaml(&text, environment)
    }

    /// As [`Config::load`], from text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml(text: &str, environment: &Environment) -> Result<(Self, Vec<String>), Error> {
        let document = serde_yaml_ng::Deserializer::from_str(text);
        // A file of nothing but comments is no document, hence the Option.
        let config: Option<Self> =
            serde_path_to_error::deserialize(document).map_err(|error| Error::document(&error))?;
        let mut config = config.unwrap_or_default();
        let warnings = environment::apply(environment, &mut config)?;
        config.validate()?;
        Ok((config, warnings))
    }

    fn validate(&self) -> Result<(), Error> {
        self.export.validate()?;
        for (name, list) in [("select", &self.discovery.select), ("exclude", &self.discovery.exclude)] {
            if let Some(index) = list.iter().position(Selector::is_empty) {
                return Err(Error::value(
                    format!("discovery.{name}[{index}]"),
                    "it has no key and so covers nothing",
                    "write at least one of ports, executable and path",
                ));
            }
        }
        for (key, value) in [
            ("receiver.max_message_bytes", self.receiver.max_message_bytes.0),
            ("receiver.max_connections", self.receiver.max_connections),
            ("correlation.max_spans", self.correlation.max_spans),
            ("scrape.max_page_bytes", self.scrape.max_page_bytes.0),
            ("scrape.concurrency", self.scrape.concurrency),
            ("scrape.max_proxies", self.scrape.max_proxies),
        ] {
            if value == 0 {
                return Err(Error::value(
                    key,
                    "0 lets nothing through",
                    "write a larger number, or leave it out",
                ));
            }
        }
        /// Kernel memory that is never swapped.
        const MAX_RING_BYTES: usize = 1 << 30;
        /// One page: the least that a ring buffer can be.
        const MIN_RING_BYTES: usize = 4096;
        if !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&self.capture.ring_bytes.0) {
            return Err(Error::value(
                "capture.ring_bytes",
                format!("{} is not between 4KiB and 1GiB", self.capture.ring_bytes.0),
                "leave it out for 16MiB",
            ));
        }
        if self.scrape.timeout.is_zero() {
            return Err(Error::value(
                "scrape.timeout",
                "0 leaves no time for a fetch",
                "leave it out for 10s",
            ));
        }
        if !(0.0..=1.0).contains(&self.sampling.ratio) {
            return Err(Error::value(
                "sampling.ratio",
                format!("{} is not between 0 and 1", self.sampling.ratio),
                "write the share of traces to keep, such as 0.1",
            ));
        }
        if let Err(error) = self.log.level.parse::<tracing_subscriber::filter::Targets>() {
            return Err(Error::value(
                "log.level",
                format!("{:?} is no filter ({error})", self.log.level),
                "write error, warn, info, debug or trace",
            ));
        }
        Ok(())
    }
}
