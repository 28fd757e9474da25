//! Where the agent exports to: takes everything, keeps nothing.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// An OTLP/HTTP receiver on a port of the loopback, with one thread of its own.
#[derive(Debug)]
pub(super) struct Collector {
    address: SocketAddr,
    // Ends its tasks when it is dropped.
    _runtime: Runtime,
}

impl Collector {
    pub(super) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("cannot open a port for spans")?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // A connection that breaks is the agent's to open again.
                    let _ = http.serve_connection(TokioIo::new(stream), service_fn(receive)).await;
                });
            }
        });
        Ok(Self { address, _runtime: runtime })
    }

    /// For `export.endpoint`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An empty body is an `ExportTraceServiceResponse` of full success.
async fn receive(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    let mut response = Response::new(Full::default());
    let kind = hyper::header::HeaderValue::from_static("application/x-protobuf");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    Ok(response)
}
