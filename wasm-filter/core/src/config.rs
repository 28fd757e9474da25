//! The plugin's configuration: JSON in `pluginConfig`. Every key has a default, an empty
//! configuration is all defaults, and unknown keys are errors.
//!
//! ```json
//! {
//!   "agent": { "cluster": "meshweft-agent", "authority": "meshweft-agent" },
//!   "propagation": { "extract": ["tracecontext", "b3", "b3multi"], "inject": ["tracecontext"] },
//!   "mode": "auto",
//!   "sampling": { "ratio": 1.0 },
//!   "context": { "enabled": true, "deadline_ms": 5 },
//!   "export": { "interval_ms": 200, "max_batch": 512, "max_queue": 8192, "max_queue_bytes": 8388608 },
//!   "limits": { "connections": 8192, "upstreams": 1024, "clusters": 1024 }
//! }
//! ```

use core::fmt;
use core::ops::RangeInclusive;
use meshweft_telemetry::propagation::Format;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// Why a configuration was refused. Each message names the key, the cause and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON, or a value has the wrong type, or a key is not known.
    #[error("{}: {source}; correct it or leave it out", Key(key))]
    Json {
        /// Dotted path of the key; empty where the text as a whole is wrong.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A number is outside its range.
    #[error("{}: {value} is out of range; give a number from {min} to {max}", Key(key))]
    OutOfRange {
        /// Dotted path of the key.
        key: &'static str,
        /// What was given.
        value: f64,
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// A value that must not be empty is.
    #[error("{}: must not be empty; leave the key out for its default", Key(key))]
    Empty {
        /// Dotted path of the key.
        key: &'static str,
    },
}

/// `pluginConfig.a.b`, as the user wrote it.
struct Key<'a>(&'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" | "." => f.write_str("pluginConfig"),
            key => write!(f, "pluginConfig.{key}"),
        }
    }
}

/// The whole configuration.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the agent is.
    pub agent: Agent,
    /// Which headers are read and written.
    pub propagation: Propagation,
    /// Who writes the context into the request.
    pub mode: Mode,
    /// How many of the traces that start here are recorded.
    pub sampling: Sampling,
    /// The question to the agent.
    pub context: Context,
    /// The way of spans to the agent.
    pub export: Export,
    /// How much is remembered.
    pub limits: Limits,
}

/// The agent as the proxy knows it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// Name of the proxy's cluster.
    pub cluster: String,
    /// `:authority` of the calls.
    pub authority: String,
}

impl Default for Agent {
    fn default() -> Self {
        Self { cluster: "meshweft-agent".to_owned(), authority: "meshweft-agent".to_owned() }
    }
}

/// Which headers are read and written.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Propagation {
    /// Formats to read, the preferred one first.
    #[serde(deserialize_with = "formats")]
    pub extract: Vec<Format>,
    /// Formats to write.
    #[serde(deserialize_with = "formats")]
    pub inject: Vec<Format>,
}

impl Default for Propagation {
    fn default() -> Self {
        Self { extract: Format::ALL.to_vec(), inject: vec![Format::W3c] }
    }
}

fn formats<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Format>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names
        .iter()
        .map(|name| {
            Format::from_name(name).ok_or_else(|| {
                let known: Vec<_> = Format::ALL.iter().map(|format| format.as_str()).collect();
                D::Error::custom(format_args!(
                    "unknown format `{name}`, expected one of {}",
                    known.join(", ")
                ))
            })
        })
        .collect()
}

/// Who writes the context into the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The filter does.
    Propagate,
    /// The proxy's own tracer does; the filter's span takes the id of the tracer's.
    Adopt,
    /// The filter does, and finds out for each request whether the proxy's own tracer has
    /// overwritten it.
    #[default]
    Auto,
}

/// How many of the traces that start here are recorded.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// From 0 (none) to 1 (all).
    pub ratio: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { ratio: 1.0 }
    }
}

/// The question to the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Context {
    /// Whether outbound requests without a context ask at all.
    pub enabled: bool,
    /// Longest wait for the answer, in milliseconds.
    pub deadline_ms: u32,
}

impl Default for Context {
    fn default() -> Self {
        Self { enabled: true, deadline_ms: 5 }
    }
}

/// The way of spans to the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Time between two exports, in milliseconds.
    pub interval_ms: u32,
    /// Most spans of one call.
    pub max_batch: u32,
    /// Most spans of one worker that wait or are on their way.
    pub max_queue: u32,
    /// Most bytes of these.
    pub max_queue_bytes: u32,
}

impl Default for Export {
    fn default() -> Self {
        Self { interval_ms: 200, max_batch: 512, max_queue: 8192, max_queue_bytes: 8 << 20 }
    }
}

/// How much one worker remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Downstream connections.
    pub connections: u32,
    /// Upstream hosts.
    pub upstreams: u32,
    /// Upstream clusters.
    pub clusters: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, upstreams: 1024, clusters: 1024 }
    }
}

impl Config {
    /// Parses a configuration. Only whitespace, or nothing, is all defaults.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        if json.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        check_objects(json)?;
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let config: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            ConfigError::Json { key: error.path().to_string(), source: error.into_inner() }
        })?;
        deserializer.end().map_err(|source| ConfigError::Json { key: String::new(), source })?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        for (key, text) in
            [("agent.cluster", &self.agent.cluster), ("agent.authority", &self.agent.authority)]
        {
            if text.is_empty() {
                return Err(ConfigError::Empty { key });
            }
        }
        for (key, formats) in [
            ("propagation.extract", &self.propagation.extract),
            ("propagation.inject", &self.propagation.inject),
        ] {
            if formats.is_empty() {
                return Err(ConfigError::Empty { key });
            }
        }
        let numbers: [(&str, f64, RangeInclusive<f64>); 9] = [
            ("sampling.ratio", self.sampling.ratio, 0.0..=1.0),
            // Above a second, a dead agent would be felt by every user before the breaker opens.
            ("context.deadline_ms", self.context.deadline_ms.into(), 1.0..=1000.0),
            ("export.interval_ms", self.export.interval_ms.into(), 10.0..=60_000.0),
            ("export.max_batch", self.export.max_batch.into(), 1.0..=8192.0),
            ("export.max_queue", self.export.max_queue.into(), 1.0..=1_048_576.0),
            // A span is around 1 KiB; the upper bound leaves most of the 4 GiB of a wasm32 memory.
            ("export.max_queue_bytes", self.export.max_queue_bytes.into(), 65_536.0..=268_435_456.0),
            ("limits.connections", self.limits.connections.into(), 2.0..=1_048_576.0),
            ("limits.upstreams", self.limits.upstreams.into(), 2.0..=1_048_576.0),
            ("limits.clusters", self.limits.clusters.into(), 2.0..=1_048_576.0),
        ];
        for (key, value, range) in numbers {
            if !range.contains(&value) {
                return Err(ConfigError::OutOfRange { key, value, min: *range.start(), max: *range.end() });
            }
        }
        Ok(())
    }
}

/// Refuses lists in the place of objects: serde would take them for the fields in their order.
fn check_objects(json: &[u8]) -> Result<(), ConfigError> {
    let error = |key: &str| ConfigError::Json {
        key: key.to_owned(),
        source: serde_json::Error::custom("invalid type, expected an object"),
    };
    // Text that is no JSON is left to the parser that knows the keys.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return Ok(()) };
    let object = value.as_object().ok_or_else(|| error(""))?;
    match object.iter().find(|(_, value)| value.is_array()) {
        Some((key, _)) => Err(error(key)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_an_empty_object_are_all_defaults() {
        for text in ["", " \n", "{}"] {
            assert_eq!(Config::parse(text.as_bytes()).unwrap(), Config::default());
        }
    }

    #[test]
    fn the_documented_configuration_is_the_default() {
        let documented: String = include_str!("config.rs")
            .lines()
            .skip_while(|line| *line != "//! ```json")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!"))
            .collect();
        assert_eq!(Config::parse(documented.as_bytes()).unwrap(), Config::default());
    }

    #[test]
    fn values_are_taken() {
        let config = Config::parse(
            br#"{"agent":{"cluster":"outbound|4317||agent.ns"},"mode":"adopt","sampling":{"ratio":0.5},
                "propagation":{"inject":["b3","tracecontext"]},"context":{"enabled":false}}"#,
        )
        .unwrap();
        assert_eq!(config.agent.cluster, "outbound|4317||agent.ns");
        assert_eq!(config.agent.authority, "meshweft-agent");
        assert_eq!((config.mode, config.sampling.ratio, config.context.enabled), (Mode::Adopt, 0.5, false));
        assert_eq!(config.propagation.inject, [Format::B3, Format::W3c]);
        assert_eq!(config.context.deadline_ms, 5);
    }

    #[test]
    fn every_mistake_names_its_key_the_cause_and_the_way_out() {
        for (json, parts) in [
            (r#"{"agnt":{}}"#, &["pluginConfig.agnt", "unknown field", "`agent`", "leave it out"][..]),
            (r#"{"export":{"intervall":1}}"#, &["pluginConfig.export.intervall", "interval_ms"]),
            (r#"{"mode":"both"}"#, &["pluginConfig.mode", "`both`", "`propagate`", "`auto`"]),
            (
                r#"{"propagation":{"inject":["jaeger"]}}"#,
                &["pluginConfig.propagation.inject", "jaeger", "b3multi"],
            ),
            (r#"{"propagation":{"extract":[]}}"#, &["pluginConfig.propagation.extract", "empty", "default"]),
            (r#"{"agent":{"cluster":""}}"#, &["pluginConfig.agent.cluster", "empty"]),
            (r#"{"sampling":{"ratio":1.5}}"#, &["pluginConfig.sampling.ratio", "1.5", "from 0 to 1"]),
            (r#"{"context":{"deadline_ms":0}}"#, &["pluginConfig.context.deadline_ms", "from 1 to 1000"]),
            (r#"{"context":{"deadline_ms":"5"}}"#, &["pluginConfig.context.deadline_ms", "string", "u32"]),
            (r#"{"limits":{"connections":-1}}"#, &["pluginConfig.limits.connections", "-1"]),
            ("{", &["pluginConfig", "EOF"]),
            ("{} {}", &["pluginConfig", "trailing"]),
            ("[]", &["pluginConfig: ", "object"]),
            (r#"{"sampling":[0.5]}"#, &["pluginConfig.sampling: ", "object"]),
            ("\u{1}", &["pluginConfig: "]),
        ] {
            let message = Config::parse(json.as_bytes()).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{json}: {message:?} lacks {part:?}");
            }
        }
        assert!(Config::parse(b"\xff").is_err());
    }
}
