//! Handing spans on to the user's own backend.

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A backend that speaks OTLP.
#[derive(Clone, Debug)]
pub struct Forward {
    uri: Uri,
    grpc: bool,
    client: Client<HttpConnector, Full<Bytes>>,
    complained: Arc<AtomicBool>,
}

impl Forward {
    /// From `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_PROTOCOL` (`http/protobuf`, the
    /// default, or `grpc`); none where the endpoint is not set.
    ///
    /// # Errors
    /// The endpoint is no `http://` address, or the protocol another.
    pub fn from_environment() -> Result<Option<Self>> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(endpoint) = variable("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        if !endpoint.starts_with("http://") {
            bail!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}; the demo hands spans on to http:// alone");
        }
        let grpc = match variable("OTEL_EXPORTER_OTLP_PROTOCOL").as_deref() {
            None | Some("http/protobuf") => false,
            Some("grpc") => true,
            Some(other) => {
                bail!("OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; the demo knows http/protobuf and grpc")
            }
        };
        let path =
            if grpc { "/opentelemetry.proto.collector.trace.v1.TraceService/Export" } else { "/v1/traces" };
        let uri = format!("{}{path}", endpoint.trim_end_matches('/'));
        let uri = uri.parse().with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?}"))?;
        let client = Client::builder(TokioExecutor::new()).http2_only(grpc).build_http();
        Ok(Some(Self { uri, grpc, client, complained: Arc::default() }))
    }

    /// Sends one request's body. A backend that fails is reported once: the demo goes on.
    pub(super) async fn send(&self, body: Bytes) {
        if let Err(error) = self.try_send(body).await
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            eprintln!("{} does not take the spans: {error:#}", self.uri);
        }
    }

    async fn try_send(&self, body: Bytes) -> Result<()> {
        let mut request = Request::post(self.uri.clone());
        let body = if self.grpc {
            request = request.header("content-type", "application/grpc").header("te", "trailers");
            let mut framed = BytesMut::with_capacity(body.len() + 5);
            framed.put_u8(0);
            framed.put_u32(u32::try_from(body.len()).context("the request is too large")?);
            framed.put(body);
            framed.freeze()
        } else {
            request = request.header("content-type", "application/x-protobuf");
            body
        };
        let response = self.client.request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let collected = response.into_body().collect().await?;
        let grpc_status =
            collected.trailers().and_then(|trailers| trailers.get("grpc-status")?.to_str().ok());
        if !status.is_success() || grpc_status.is_some_and(|code| code != "0") {
            bail!("it answers {status}, grpc-status {grpc_status:?}");
        }
        Ok(())
    }
}
