//! What people, Kubernetes and Prometheus ask: `/metrics`, `/scrape`, `/healthz`, `/readyz`,
//! `/debug`.

mod exemplars;
mod recent;
mod scrape;

pub use exemplars::ProxyExemplars;
pub use recent::Recent;
pub use scrape::Scraper;

use crate::config::{Config, percent_decode};
use crate::drain::Readiness;
use crate::listen::Serve;
use crate::reply::{self, Reply};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// Media type of what `prometheus_client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Spans that `/debug/traces` shows where it is not asked for a number.
const DEFAULT_TRACES: usize = 100;
const INDEX: &str =
    "/metrics  /scrape?target=HOST:PORT  /healthz  /readyz  /debug/traces?limit=N  /debug/config";

/// Answers the requests of the admin listener.
pub struct Admin {
    /// Everything that is registered.
    pub registry: Registry,
    /// What the agent waits for.
    pub readiness: Readiness,
    /// Proxies' pages.
    pub scraper: Scraper,
    /// The last spans.
    pub recent: Arc<Recent>,
    /// What is in force.
    pub config: Config,
}

impl Admin {
    fn metrics(&self) -> Response<Reply> {
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => reply::with_type(OPENMETRICS, page),
            Err(_) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written"),
        }
    }

    fn ready(&self) -> Response<Reply> {
        let pending = self.readiness.pending();
        if pending.is_empty() {
            reply::text(StatusCode::OK, "ready")
        } else {
            reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", pending.join(", ")))
        }
    }

    fn traces(&self, query: &str) -> Response<Reply> {
        let limit = match parameter(query, "limit") {
            None => Some(DEFAULT_TRACES),
            Some(text) => text.parse().ok(),
        };
        match limit {
            Some(limit) => reply::with_type("application/json", self.recent.to_json(limit)),
            None => reply::text(StatusCode::BAD_REQUEST, "limit is not a number"),
        }
    }

    fn config(&self) -> Response<Reply> {
        match serde_json::to_vec_pretty(&self.config) {
            Ok(json) => reply::with_type("application/json", json),
            Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl Serve for Admin {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return reply::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        }
        let query = request.uri().query().unwrap_or_default();
        let mut response = match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => reply::text(StatusCode::OK, "alive"),
            "/readyz" => self.ready(),
            "/scrape" => self.scraper.scrape(parameter(query, "target").as_deref(), request.headers()).await,
            "/debug/traces" => self.traces(query),
            "/debug/config" => self.config(),
            "/" | "/debug" | "/debug/" => reply::text(StatusCode::OK, INDEX),
            _ => reply::text(StatusCode::NOT_FOUND, INDEX),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    }
}

/// The first value of a query parameter, decoded. A value that cannot be decoded counts as empty.
fn parameter(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| percent_decode(value).unwrap_or_default())
}
