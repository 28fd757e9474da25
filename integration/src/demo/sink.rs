//! Where the agent's spans end in the demo: an OTLP/HTTP receiver that keeps what it got, and hands
//! it on to the endpoint of `OTEL_EXPORTER_OTLP_ENDPOINT` where one is set.

use super::forward::Forward;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// What the demo looks at in a span.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seen {
    /// 16 bytes.
    pub trace: Vec<u8>,
    /// 8 bytes.
    pub span: Vec<u8>,
    /// 8 bytes, or none.
    pub parent: Vec<u8>,
    /// `meshweft.hop`.
    pub hop: String,
    /// `service.name` of its resource.
    pub service: String,
    /// Span name.
    pub name: String,
    /// `url.path`.
    pub path: String,
    /// Nanoseconds since the Unix epoch.
    pub start: u64,
    /// Likewise.
    pub end: u64,
    /// `meshweft.link.evidence`.
    pub evidence: String,
    /// `meshweft.link.confidence`.
    pub confidence: Option<f64>,
}

/// The spans that came in, in that order.
#[derive(Clone, Debug, Default)]
pub struct Spans(Arc<Mutex<Vec<Seen>>>);

impl Spans {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.resource_spans {
            let resource = group.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name");
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Seen {
                    hop: text(&span.attributes, "meshweft.hop"),
                    path: text(&span.attributes, "url.path"),
                    evidence: text(&span.attributes, "meshweft.link.evidence"),
                    confidence: number(&span.attributes, "meshweft.link.confidence"),
                    service: service.clone(),
                    trace: span.trace_id,
                    span: span.span_id,
                    parent: span.parent_span_id,
                    name: span.name,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                });
            }
        }
    }
}

/// Starts the receiver on a free port of the loopback.
///
/// # Errors
/// The port cannot be opened.
pub async fn start(forward: Option<Forward>) -> Result<(SocketAddr, Spans)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot open a port for spans")?;
    let address = listener.local_addr().context("the port for spans has no address")?;
    let spans = Spans::default();
    let kept = spans.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (spans, forward) = (kept.clone(), forward.clone());
            let service = service_fn(move |request| receive(request, spans.clone(), forward.clone()));
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A connection that breaks is the agent's to open again.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok((address, spans))
}

async fn receive(
    request: Request<Incoming>,
    spans: Spans,
    forward: Option<Forward>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let status = match ExportTraceServiceRequest::decode(body.clone()) {
        Ok(decoded) => {
            spans.add(decoded);
            if let Some(forward) = forward {
                forward.send(body).await;
            }
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}

fn value<'a>(list: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    list.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()
}

fn text(list: &[KeyValue], key: &str) -> String {
    match value(list, key) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn number(list: &[KeyValue], key: &str) -> Option<f64> {
    match value(list, key) {
        Some(Value::DoubleValue(number)) => Some(*number),
        _ => None,
    }
}
