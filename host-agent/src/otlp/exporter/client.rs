//! One attempt to export: OTLP/gRPC or OTLP/HTTP, over cleartext or TLS.

use crate::config::{Compression, Export, Protocol};
use crate::otlp::gzip;
use crate::otlp::message::{self, Status};
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::Code;

/// Largest answer that is read. A full one carries one line of text.
const MAX_ANSWER: usize = 64 * 1024;
/// Most characters of a receiver's message that go into the log.
const MAX_CAUSE: usize = 300;

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Taken, but for `rejected` spans, for which `message` is the reason.
    Accepted { rejected: u64, message: String },
    /// Not taken; may be taken later, not before `after`.
    Retry { after: Option<Duration>, cause: String },
    /// Not taken, and never will be.
    Refused { cause: String },
}

/// Sends batches to one receiver. Connections are kept and made anew as needed.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    protocol: Protocol,
    compression: Compression,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl Client {
    /// A client for the configured endpoint; `None` where there is none. Connects to nothing yet.
    pub(super) fn new(export: &Export) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &export.endpoint else { return Ok(None) };
        let roots =
            if endpoint.is_tls() { roots(export.ca_file.as_deref())? } else { RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("export.endpoint: cannot set up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        let http = match export.protocol {
            Protocol::Grpc => builder.http2_only(true).build(connector.enable_http2().build()),
            Protocol::HttpProtobuf => builder.build(connector.enable_http1().build()),
        };
        Ok(Some(Self {
            http,
            protocol: export.protocol,
            compression: export.compression,
            url: endpoint.request_url(export.protocol),
            headers: headers(export),
            timeout: export.timeout,
        }))
    }

    /// The body for this message, which every attempt sends again.
    pub(super) fn body(&self, message: Vec<u8>) -> Bytes {
        let (message, compressed) = match self.compression {
            Compression::None => (message, false),
            // Writing to memory cannot fail.
            Compression::Gzip => gzip::compress(&message).map_or((message, false), |message| (message, true)),
        };
        match self.protocol {
            Protocol::Grpc => message::frame(&message, compressed),
            Protocol::HttpProtobuf => message.into(),
        }
    }

    /// One attempt.
    pub(super) async fn send(&self, body: Bytes) -> Verdict {
        match tokio::time::timeout(self.timeout, self.exchange(body)).await {
            Ok(verdict) => verdict,
            Err(_) => retry(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, body: Bytes) -> Verdict {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        if self.protocol == Protocol::Grpc {
            *request.version_mut() = http::Version::HTTP_2;
        }
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) => return retry(chain(&error)),
        };
        match self.protocol {
            Protocol::Grpc => grpc_verdict(response).await,
            Protocol::HttpProtobuf => http_verdict(response).await,
        }
    }
}

fn headers(export: &Export) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let (media_type, encoding) = match export.protocol {
        Protocol::Grpc => ("application/grpc", header::HeaderName::from_static("grpc-encoding")),
        Protocol::HttpProtobuf => ("application/x-protobuf", header::CONTENT_ENCODING),
    };
    headers.extend(export.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    let agent = concat!("OTel-OTLP-Exporter-Meshweft/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if export.compression == Compression::Gzip {
        headers.insert(encoding, HeaderValue::from_static("gzip"));
    }
    if export.protocol == Protocol::Grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers
}

fn roots(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let name = path.display();
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| {
                    format!("export.ca_file: cannot read {name}; name a PEM file of certificates")
                })?;
            let (added, _) = roots.add_parsable_certificates(certificates);
            anyhow::ensure!(
                added > 0,
                "export.ca_file: {name} has no certificate; name a PEM file of certificates"
            );
        }
        None => {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            anyhow::ensure!(
                added > 0,
                "export.endpoint: https needs certificates to trust and the system has none; install the \
                 ca-certificates package or name a PEM file in export.ca_file"
            );
        }
    }
    Ok(roots)
}

/// OTLP, section OTLP/HTTP Response: 429, 502, 503 and 504 may be retried, other errors must not.
async fn http_verdict(response: Response<Incoming>) -> Verdict {
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => body.to_bytes(),
        // The status says what became of the spans, whatever became of the body.
        Err(_) => Bytes::new(),
    };
    if head.status.is_success() {
        return accepted(&body);
    }
    let message = Status::decode(body).map(|status| status.message).unwrap_or_default();
    let cause = cut(&format!("{} {message}", head.status));
    match head.status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Verdict::Retry { after: retry_after(&head.headers), cause },
        _ => Verdict::Refused { cause },
    }
}

/// OTLP, section OTLP/gRPC Failures: which codes may be retried.
async fn grpc_verdict(response: Response<Incoming>) -> Verdict {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        // Something that does not speak gRPC answered in the receiver's place.
        let cause = format!("HTTP status {}", head.status);
        return match head.status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => retry(cause),
            _ => Verdict::Refused { cause },
        };
    }
    let collected = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(collected) => collected,
        Err(error) => return retry(format!("the answer broke off: {error}")),
    };
    let trailers = collected.trailers().cloned();
    let status = trailers.as_ref().and_then(tonic::Status::from_header_map);
    let Some(status) = status.or_else(|| tonic::Status::from_header_map(&head.headers)) else {
        return Verdict::Refused {
            cause: "the answer has no grpc-status; is this a gRPC endpoint?".to_owned(),
        };
    };
    if status.code() == Code::Ok {
        return match message::unframe(&collected.to_bytes()) {
            Some((message, false)) => accepted(&message),
            // We did not offer compression; but the status says that the spans were taken.
            _ => accepted(&[]),
        };
    }
    let cause = cut(&format!("{:?} {}", status.code(), status.message()));
    let after = Status::decode(status.details()).ok().and_then(|status| status.retry_delay());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry { after, cause },
        Code::ResourceExhausted if after.is_some() => Verdict::Retry { after, cause },
        _ => Verdict::Refused { cause },
    }
}

fn accepted(message: &[u8]) -> Verdict {
    let partial =
        ExportTraceServiceResponse::decode(message).ok().and_then(|response| response.partial_success);
    let (rejected, message) =
        partial.map(|partial| (partial.rejected_spans, partial.error_message)).unwrap_or_default();
    Verdict::Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message: cut(&message) }
}

/// RFC 9110, section 10.2.3: seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.parse().map(Duration::from_secs).ok().or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(SystemTime::now()).unwrap_or_default())
    })
}

fn retry(cause: String) -> Verdict {
    Verdict::Retry { after: None, cause }
}

/// A message of another process, made fit for a line of the log.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_CAUSE).collect::<String>().trim().to_owned()
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
