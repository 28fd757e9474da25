//! `/scrape?target=HOST:PORT`: a proxy's metrics, untouched or with exemplars.
//!
//! The target is another process, perhaps a broken or hostile one. Whatever it answers costs at
//! most the configured time and bytes, and each way to fail is counted.

use super::exemplars::ProxyExemplars;
use crate::config::Scrape;
use crate::metrics::Metrics;
use crate::reply::{self, Reply};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use meshweft_exposition::{self as exposition, accepts_openmetrics};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

/// Path of the page on Envoy's stats listener.
const PAGE: &str = "/stats/prometheus";
/// In which Prometheus says how long it will wait.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// What is kept of that time for the way back.
const ANSWER_SHARE: f64 = 0.9;

/// Fetches and converts proxies' pages.
pub struct Scraper {
    config: Scrape,
    metrics: Arc<Metrics>,
    exemplars: Arc<ProxyExemplars>,
    permits: Semaphore,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("say which proxy: /scrape?target=HOST:PORT")]
    NoTarget,
    #[error("{target:?} is not named by the configuration; add it to scrape.targets")]
    NotNamed { target: String },
    #[error("scrape.concurrency scrapes are under way; try again")]
    Busy,
    #[error("cannot connect to the target: {source}")]
    Connect { source: std::io::Error },
    #[error("the target's answer is no HTTP or broke off: {source}")]
    Http { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the target answered {status}")]
    Status { status: StatusCode },
    #[error("the target's page is {found:?}, not Prometheus's text/plain")]
    MediaType { found: String },
    #[error("the target's page is longer than scrape.max_page_bytes ({limit})")]
    TooLarge { limit: usize },
    #[error("the target did not answer within {limit:?} (scrape.timeout)")]
    Timeout { limit: Duration },
    #[error("the target's page cannot be converted: {source}")]
    Convert { source: exposition::Error },
    #[error("the page could not be converted")]
    Task,
}

impl Failure {
    /// The `outcome` label.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::NoTarget => "no_target",
            Self::NotNamed { .. } => "not_named",
            Self::Busy => "busy",
            Self::Connect { .. } => "connect",
            Self::Http { .. } => "http",
            Self::Status { .. } => "status",
            Self::MediaType { .. } => "media_type",
            Self::TooLarge { .. } => "too_large",
            Self::Timeout { .. } => "timeout",
            Self::Convert { .. } => "convert",
            Self::Task => "task",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::NoTarget => StatusCode::BAD_REQUEST,
            Self::NotNamed { .. } => StatusCode::FORBIDDEN,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Task => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

/// A page as the target sent it.
struct Page {
    media_type: HeaderValue,
    body: Bytes,
    /// Whom it came from.
    address: IpAddr,
}

impl Scraper {
    /// A scraper for these targets.
    pub fn new(config: Scrape, metrics: Arc<Metrics>, exemplars: Arc<ProxyExemplars>) -> Self {
        let permits = Semaphore::new(config.concurrency);
        Self { config, metrics, exemplars, permits }
    }

    pub(super) async fn scrape(&self, target: Option<&str>, headers: &HeaderMap) -> Response<Reply> {
        let (response, outcome) = match self.answer(target, headers).await {
            Ok(answer) => answer,
            Err(failure) => {
                debug!(target, %failure, "scrape failed");
                (reply::text(failure.status(), failure.to_string()), failure.outcome())
            }
        };
        self.metrics.scrape.outcome(outcome);
        response
    }

    async fn answer(
        &self,
        target: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(Response<Reply>, &'static str), Failure> {
        let target = target.filter(|target| !target.is_empty()).ok_or(Failure::NoTarget)?;
        if !self.config.targets.iter().any(|named| named.covers(target)) {
            return Err(Failure::NotNamed { target: target.chars().take(100).collect() });
        }
        let _permit = self.permits.try_acquire().map_err(|_| Failure::Busy)?;
        let limit = self.time_limit(headers);
        let page = tokio::time::timeout(limit, self.fetch(target))
            .await
            .map_err(|_| Failure::Timeout { limit })??;
        let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes).collect();
        if !accepts_openmetrics(accept.join(b",".as_slice())) {
            let mut response = Response::new(Reply::bytes(page.body));
            response.headers_mut().insert(header::CONTENT_TYPE, page.media_type);
            return Ok((response, "text"));
        }
        // A page of some MiB takes milliseconds, which a context question must not wait for.
        let exemplars = Arc::clone(&self.exemplars);
        let converted = tokio::task::spawn_blocking(move || exemplars.render(page.address, &page.body));
        let out =
            converted.await.map_err(|_| Failure::Task)?.map_err(|source| Failure::Convert { source })?;
        Ok((reply::with_type(exposition::CONTENT_TYPE, out), "openmetrics"))
    }

    /// The configured time, or less where Prometheus gives up earlier.
    fn time_limit(&self, headers: &HeaderMap) -> Duration {
        let asked = headers.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
        let asked = asked.filter(|seconds| *seconds > 0.0);
        let asked = asked.and_then(|seconds| Duration::try_from_secs_f64(seconds * ANSWER_SHARE).ok());
        asked.map_or(self.config.timeout, |asked| asked.min(self.config.timeout))
    }

    async fn fetch(&self, target: &str) -> Result<Page, Failure> {
        let connect = |source| Failure::Connect { source };
        let stream = TcpStream::connect(target).await.map_err(connect)?;
        let address = stream.peer_addr().map_err(connect)?.ip().to_canonical();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Dropped with this future, and the connection with it.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::get(PAGE)
            .header(header::HOST, target)
            .header(header::ACCEPT, "text/plain")
            .body(Empty::<Bytes>::new())
            .map_err(broken)?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Failure::Status { status: head.status });
        }
        let media_type = head.headers.get(header::CONTENT_TYPE).filter(|value| is_prometheus_text(value));
        let encoded =
            head.headers.get(header::CONTENT_ENCODING).filter(|coding| coding.as_bytes() != b"identity");
        let (Some(media_type), None) = (media_type, encoded) else {
            let found = encoded.or(head.headers.get(header::CONTENT_TYPE));
            let found =
                found.map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            return Err(Failure::MediaType { found: found.chars().take(100).collect() });
        };
        let limit = self.config.max_page_bytes.0;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::TooLarge { limit }
            } else {
                Failure::Http { source: error }
            }
        })?;
        Ok(Page { media_type: media_type.clone(), body: body.to_bytes(), address })
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::Http { source: error.into() }
}

/// `text/plain`, of version 0.0.4 where it names one.
fn is_prometheus_text(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(str::trim);
    let is_text = parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case("text/plain"));
    is_text
        && parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, version)| {
            !name.trim().eq_ignore_ascii_case("version") || version.trim().trim_matches('"') == "0.0.4"
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_prometheus_text_is_taken() {
        for (value, expected) in [
            ("text/plain; charset=UTF-8", true),
            ("text/plain", true),
            ("Text/Plain; version=0.0.4; charset=utf-8", true),
            ("text/plain; version=1.0.0", false),
            ("text/html", false),
            ("application/openmetrics-text; version=1.0.0", false),
            ("", false),
        ] {
            assert_eq!(is_prometheus_text(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }
}
