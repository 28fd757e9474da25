//! `export`: where spans go, and how.

use super::error::Error;
use super::quantity::{self, ByteSize};
use http::{HeaderName, HeaderValue, Uri};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Path of the OTLP/HTTP endpoint for traces below a base URL (OTLP, section OTLP/HTTP Request).
const HTTP_PATH: &str = "v1/traces";
/// Path of the OTLP/gRPC method.
pub(crate) const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Protocol of the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub enum Protocol {
    /// OTLP/gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP/HTTP with protobuf.
    #[default]
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// Compression of what is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// gzip.
    Gzip,
}

/// URL of a receiver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    url: Uri,
    /// Whether the URL's path is already the one to send to.
    complete: bool,
}

impl Endpoint {
    /// A base URL: OTLP/HTTP adds `v1/traces` to its path, OTLP/gRPC ignores its path.
    ///
    /// # Errors
    /// The cause, where `text` is not an `http` or `https` URL with a host.
    pub fn base(text: &str) -> Result<Self, String> {
        Self::parse(text, false)
    }

    /// A URL that is used as it is.
    ///
    /// # Errors
    /// As [`Endpoint::base`].
    pub fn complete(text: &str) -> Result<Self, String> {
        Self::parse(text, true)
    }

    fn parse(text: &str, complete: bool) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|error| format!("{text:?} is not a URL ({error})"))?;
        match url.scheme_str() {
            Some("http" | "https") => {}
            Some(other) => return Err(format!("{text:?} has the scheme {other:?}")),
            None => return Err(format!("{text:?} has no scheme")),
        }
        if url.host().is_none_or(str::is_empty) {
            return Err(format!("{text:?} has no host"));
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it contains a user name or password".to_owned());
        }
        Ok(Self { url, complete })
    }

    /// Whether the URL asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    /// The URL that a request of this protocol goes to.
    #[must_use]
    pub fn request_url(&self, protocol: Protocol) -> Uri {
        let path = match protocol {
            Protocol::Grpc => GRPC_PATH.to_owned(),
            Protocol::HttpProtobuf if self.complete => self.url.path().to_owned(),
            Protocol::HttpProtobuf => format!("{}/{HTTP_PATH}", self.url.path().trim_end_matches('/')),
        };
        let mut parts = self.url.clone().into_parts();
        // Both parts come from a URL that parsed, so the joined one does too.
        parts.path_and_query = path.parse().ok();
        Uri::from_parts(parts).unwrap_or_else(|_| self.url.clone())
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::base(&text).map_err(|cause| D::Error::custom(format_args!("{cause}; {URL_REMEDY}")))
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.url)
    }
}

/// The way out of a wrong endpoint.
pub(super) const URL_REMEDY: &str = "write a URL such as http://collector:4318 or https://collector:4317";

/// Headers of each export. Values are secrets: they are never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Adds a header.
    ///
    /// # Errors
    /// The cause, where name or value cannot stand in a request. The value is not repeated in it.
    pub(super) fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        let header =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of {name:?} contains control characters"))?;
        value.set_sensitive(true);
        self.0.retain(|(known, _)| *known != header);
        self.0.push((header, value));
        Ok(())
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut headers = Self::default();
        for (name, value) in BTreeMap::<String, String>::deserialize(deserializer)? {
            headers.add(&name, &value).map_err(|cause| {
                D::Error::custom(format_args!("{cause}; write names and values as in HTTP/1.1"))
            })?;
        }
        Ok(headers)
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, _)| (name.as_str(), "(hidden)")))
    }
}

/// The section `export.retry`: exponential backoff with jitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Pause after the first failure. Default 500ms.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub initial: Duration,
    /// Longest pause. Default 30s.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub max: Duration,
    /// A batch that has failed for this long is dropped. Default 5m.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub give_up: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            give_up: Duration::from_mins(5),
        }
    }
}

/// The section `export`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// Base URL of the receiver. Default null: nothing is exported, and every span is counted as
    /// dropped for the reason `no_exporter`. Environment: `OTEL_EXPORTER_OTLP_ENDPOINT`, or
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, whose path is used as it is.
    pub endpoint: Option<Endpoint>,
    /// `grpc` or `http/protobuf`. Default `http/protobuf`. Environment:
    /// `OTEL_EXPORTER_OTLP_{TRACES_,}PROTOCOL`.
    pub protocol: Protocol,
    /// Headers of each request. Environment: `OTEL_EXPORTER_OTLP_{TRACES_,}HEADERS`.
    pub headers: Headers,
    /// Time for one attempt. Default 10s. Environment: `OTEL_EXPORTER_OTLP_{TRACES_,}TIMEOUT` (ms).
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub timeout: Duration,
    /// `none` or `gzip`. Default `none`. Environment: `OTEL_EXPORTER_OTLP_{TRACES_,}COMPRESSION`.
    pub compression: Compression,
    /// PEM file with the certificates to trust, for `https`. Default null: those of the system.
    /// Environment: `OTEL_EXPORTER_OTLP_{TRACES_,}CERTIFICATE`.
    pub ca_file: Option<PathBuf>,
    /// Most spans that wait. Default 65536. Environment: `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub queue: usize,
    /// Most bytes that wait, as encoded. Default 128MiB: 2 KiB for each of 65536 spans.
    pub queue_bytes: ByteSize,
    /// Most spans in one request. Default 512. Environment: `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub batch: usize,
    /// Longest time that a span waits for its batch to fill. Default 1s. Environment:
    /// `OTEL_BSP_SCHEDULE_DELAY` (ms).
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub delay: Duration,
    /// Most requests on their way at once. Default 4: one slow answer does not hold the rest up.
    pub concurrency: usize,
    /// What happens to a batch that the receiver could not take.
    pub retry: Retry,
    /// Time for the last batches after SIGTERM. Default 5s.
    #[serde(deserialize_with = "quantity::duration", serialize_with = "quantity::write_duration")]
    pub shutdown: Duration,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            headers: Headers::default(),
            timeout: Duration::from_secs(10),
            compression: Compression::default(),
            ca_file: None,
            queue: 65_536,
            queue_bytes: ByteSize::mebibytes(128),
            batch: 512,
            delay: Duration::from_secs(1),
            concurrency: 4,
            retry: Retry::default(),
            shutdown: Duration::from_secs(5),
        }
    }
}

impl Export {
    pub(super) fn validate(&self) -> Result<(), Error> {
        /// More requests at once only move the queue into the receiver.
        const MAX_CONCURRENCY: usize = 64;
        if self.batch == 0 || self.batch > self.queue {
            return Err(Error::value(
                "export.batch",
                format!("{} is not between 1 and export.queue ({})", self.batch, self.queue),
                "lower it, or raise export.queue",
            ));
        }
        if self.concurrency == 0 || self.concurrency > MAX_CONCURRENCY {
            return Err(Error::value(
                "export.concurrency",
                format!("{} is not between 1 and {MAX_CONCURRENCY}", self.concurrency),
                "leave it out for 4",
            ));
        }
        if self.queue_bytes.0 == 0 {
            return Err(Error::value("export.queue_bytes", "0 holds no span", "leave it out for 128MiB"));
        }
        if self.timeout.is_zero() {
            return Err(Error::value(
                "export.timeout",
                "0 leaves no time for an attempt",
                "leave it out for 10s",
            ));
        }
        if self.retry.initial.is_zero() || self.retry.initial > self.retry.max {
            return Err(Error::value(
                "export.retry.initial",
                "it is 0 or longer than export.retry.max",
                "leave both out for 500ms and 30s",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_gets_the_signal_path_and_a_complete_one_does_not() {
        let url = |endpoint: Endpoint, protocol| endpoint.request_url(protocol).to_string();
        let base = Endpoint::base("http://c:4318/prefix/").unwrap();
        assert_eq!(url(base.clone(), Protocol::HttpProtobuf), "http://c:4318/prefix/v1/traces");
        assert_eq!(url(base, Protocol::Grpc), format!("http://c:4318{GRPC_PATH}"));
        let complete = Endpoint::complete("http://c:4318").unwrap();
        assert_eq!(url(complete, Protocol::HttpProtobuf), "http://c:4318/");
        let complete = Endpoint::complete("https://c/otlp?x=1").unwrap();
        assert_eq!(url(complete, Protocol::HttpProtobuf), "https://c/otlp");
    }

    #[test]
    fn header_values_are_not_shown() {
        let mut headers = Headers::default();
        headers.add("authorization", "Bearer secret").unwrap();
        assert!(!format!("{headers:?}").contains("secret"));
        assert!(!serde_json::to_string(&headers).unwrap().contains("secret"));
    }
}
