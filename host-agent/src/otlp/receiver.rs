//! What senders reach on each listener: OTLP/gRPC, OTLP/HTTP and the filter's question.

use super::gzip;
use super::message::{self, Status};
use crate::config::GRPC_PATH;
use crate::intake::{Intake, Question};
use crate::listen::Serve;
use crate::metrics::Metrics;
use crate::reply::{self, Reply};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use meshweft_telemetry::join::canonical;
use meshweft_telemetry::{question, traceparent, tracestate};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::Code;

/// Path of OTLP/HTTP (OTLP, section OTLP/HTTP Request).
const HTTP_PATH: &str = "/v1/traces";
const PROTOBUF: &str = "application/x-protobuf";
const GRPC: &str = "application/grpc";

/// Most export requests that are being received at once. With the size limit it bounds the memory
/// that senders can take: 64 times 4 MiB.
const MAX_EXPORTS: usize = 64;
/// A body that takes longer than this is given up, so that slow senders cannot keep the others out.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What senders are asked to wait for when the intake is full.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Answers the requests of all listeners.
pub struct Receiver {
    intake: Arc<dyn Intake>,
    metrics: Arc<Metrics>,
    max_message: usize,
    exports: Semaphore,
}

/// Why an export request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// Not the right method.
    Method,
    /// Neither protobuf nor gRPC.
    MediaType,
    /// A compression other than gzip.
    Encoding,
    /// No OTLP message.
    Malformed,
    /// Longer than the limit.
    TooLarge,
    /// Not received in time.
    Timeout,
    /// The connection broke.
    Aborted,
    /// The intake, or the receiver, is full.
    Full,
}

impl Refusal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::MediaType => "media_type",
            Self::Encoding => "encoding",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Aborted => "aborted",
            Self::Full => "full",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Method => "use POST",
            Self::MediaType => "only protobuf is understood: send application/x-protobuf",
            Self::Encoding => "only gzip is understood as a compression",
            Self::Malformed => "the body is no ExportTraceServiceRequest",
            Self::TooLarge => "the request is longer than receiver.max_message_bytes",
            Self::Timeout => "the body did not arrive in time",
            Self::Aborted => "the body ended early",
            Self::Full => "the agent is full, send it again later",
        }
    }

    const fn http_status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType | Self::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Malformed | Self::Aborted => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Full => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    const fn grpc_code(self) -> Code {
        match self {
            Self::Method | Self::MediaType | Self::Malformed | Self::Aborted => Code::InvalidArgument,
            Self::Encoding => Code::Unimplemented,
            Self::TooLarge | Self::Full => Code::ResourceExhausted,
            Self::Timeout => Code::DeadlineExceeded,
        }
    }

    /// `google.rpc.Status`. OTLP (Failures) lets a sender retry on RESOURCE_EXHAUSTED only if it
    /// comes with RetryInfo.
    fn status(self) -> Status {
        let code = self.grpc_code() as i32;
        match self {
            Self::Full => Status::with_retry(code, self.message(), RETRY_DELAY),
            _ => Status { code, message: self.message().to_owned(), details: Vec::new() },
        }
    }
}

impl Receiver {
    /// A receiver that hands on to `intake` messages of at most `max_message` bytes.
    pub fn new(intake: Arc<dyn Intake>, metrics: Arc<Metrics>, max_message: usize) -> Self {
        Self { intake, metrics, max_message, exports: Semaphore::new(MAX_EXPORTS) }
    }

    async fn http_export(&self, head: &Parts, body: Incoming) -> Response<Reply> {
        let taken = match http_encoding(head) {
            Ok(compressed) => self.receive(body, |body| Ok((body, compressed))).await,
            Err(refusal) => Err(refusal),
        };
        self.metrics.receiver.request("http", taken.map_or_else(Refusal::as_str, |()| "accepted"));
        let Err(refusal) = taken else {
            // An ExportTraceServiceResponse without a field: full success.
            return reply::with_type(PROTOBUF, Bytes::new());
        };
        let mut response = reply::with_type(PROTOBUF, refusal.status().encode_to_vec());
        *response.status_mut() = refusal.http_status();
        if refusal == Refusal::Full {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_DELAY.as_secs()));
        }
        response
    }

    async fn grpc_export(&self, head: &Parts, body: Incoming) -> Response<Reply> {
        let encoding =
            head.headers.get("grpc-encoding").map_or(b"identity".as_slice(), HeaderValue::as_bytes);
        let taken = self.receive(body, |body| match (message::unframe(&body), encoding) {
            (Some((message, false)), _) => Ok((message, false)),
            (Some((message, true)), b"gzip") => Ok((message, true)),
            (Some((_, true)), _) => Err(Refusal::Encoding),
            (None, _) => Err(Refusal::Malformed),
        });
        let taken = if head.method == Method::POST { taken.await } else { Err(Refusal::Method) };
        self.metrics.receiver.request("grpc", taken.map_or_else(Refusal::as_str, |()| "accepted"));
        match taken {
            Ok(()) => grpc_success(),
            Err(refusal) => {
                let status = refusal.status();
                let details = status.encode_to_vec().into();
                grpc_failure(&tonic::Status::with_details(refusal.grpc_code(), status.message, details))
            }
        }
    }

    /// Receives a body, takes the message out of it and hands it on.
    async fn receive(
        &self,
        body: Incoming,
        extract: impl FnOnce(Bytes) -> Result<(Bytes, bool), Refusal>,
    ) -> Result<(), Refusal> {
        let _permit = self.exports.try_acquire().map_err(|_| Refusal::Full)?;
        let limit = self.max_message + message::PREFIX_LEN;
        if body.size_hint().lower() > limit as u64 {
            return Err(Refusal::TooLarge);
        }
        let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect());
        let body = match collected.await {
            Err(_) => return Err(Refusal::Timeout),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge),
            Ok(Err(_)) => return Err(Refusal::Aborted),
            Ok(Ok(body)) => body.to_bytes(),
        };
        let (mut message, compressed) = extract(body)?;
        if compressed {
            message = gzip::decompress(&message, self.max_message)
                .map_err(|refused| match refused {
                    gzip::Refused::Malformed => Refusal::Malformed,
                    gzip::Refused::TooLarge => Refusal::TooLarge,
                })?
                .into();
        }
        if message.len() > self.max_message {
            return Err(Refusal::TooLarge);
        }
        let request = ExportTraceServiceRequest::decode(message).map_err(|_| Refusal::Malformed)?;
        self.intake.accept(request).map_err(|_| Refusal::Full)
    }

    /// `GET /v1/context`.
    fn context(&self, head: &Parts) -> Response<Reply> {
        let started = Instant::now();
        if head.method != Method::GET {
            let mut response = reply::status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let metrics = &self.metrics.context;
        let response = match parse_question(&head.headers) {
            // Somebody tries whether the agent is there: not a question, and not counted as one.
            Ok(None) => return reply::status(StatusCode::NO_CONTENT),
            Ok(Some(question)) => match self.intake.context(&question) {
                Some(answer) => {
                    metrics.answered.inc();
                    let mut response = reply::status(StatusCode::OK);
                    let headers = response.headers_mut();
                    if let Ok(value) = HeaderValue::from_bytes(&traceparent::format(&answer.context)) {
                        headers.insert(traceparent::NAME, value);
                    }
                    if let Some(Ok(value)) = answer.tracestate.map(HeaderValue::try_from) {
                        headers.insert(tracestate::NAME, value);
                    }
                    response
                }
                None => {
                    metrics.unknown.inc();
                    reply::status(StatusCode::NO_CONTENT)
                }
            },
            Err(header) => {
                metrics.invalid.inc();
                reply::text(StatusCode::BAD_REQUEST, format!("{header} is missing or cannot be understood"))
            }
        };
        metrics.seconds.observe(started.elapsed().as_secs_f64());
        response
    }
}

impl Serve for Receiver {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            question::PATH => self.context(&head),
            GRPC_PATH if is_grpc(&head.headers) => self.grpc_export(&head, body).await,
            HTTP_PATH => self.http_export(&head, body).await,
            _ if is_grpc(&head.headers) => {
                grpc_failure(&tonic::Status::unimplemented("only traces are taken here"))
            }
            _ => reply::text(StatusCode::NOT_FOUND, "try POST /v1/traces"),
        }
    }
}

/// Whether an OTLP/HTTP request is compressed, if it is one.
fn http_encoding(head: &Parts) -> Result<bool, Refusal> {
    if head.method != Method::POST {
        return Err(Refusal::Method);
    }
    if !media_type(&head.headers).eq_ignore_ascii_case(PROTOBUF.as_bytes()) {
        return Err(Refusal::MediaType);
    }
    match head.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(Refusal::Encoding),
    }
}

/// The media type without its parameters; empty where there is none.
fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(header::CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// gRPC over HTTP/2: Content-Type is "application/grpc" with an optional "+proto" or the like.
fn is_grpc(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type == GRPC.as_bytes() || media_type.starts_with(b"application/grpc+")
}

fn grpc_success() -> Response<Reply> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Reply::with_trailers(message::frame(&[], false), trailers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

/// "Trailers-Only": the status stands in the headers and there is no body.
fn grpc_failure(status: &tonic::Status) -> Response<Reply> {
    let mut response = reply::status(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip"));
    if status.add_header(headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    }
    response
}

/// The question in the headers; none where no header of it is there; the name of the header that
/// is missing or wrong.
fn parse_question(headers: &HeaderMap) -> Result<Option<Question<'_>>, &'static str> {
    const NAMES: [&str; 4] =
        [question::SOURCE, question::DESTINATION, question::ORDINAL, question::REQUEST_LINE];
    let Some(source) = headers.get(question::SOURCE) else {
        let is_bare = NAMES.iter().all(|name| !headers.contains_key(*name));
        return if is_bare { Ok(None) } else { Err(question::SOURCE) };
    };
    let source = address(source).ok_or(question::SOURCE)?;
    let destination = headers.get(question::DESTINATION);
    let destination = destination.map(|value| address(value).ok_or(question::DESTINATION)).transpose()?;
    let ordinal = headers.get(question::ORDINAL);
    let ordinal = ordinal.map(|value| positive(value).ok_or(question::ORDINAL)).transpose()?;
    let request_line = headers.get(question::REQUEST_LINE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    if request_line.len() > question::MAX_REQUEST_LINE {
        return Err(question::REQUEST_LINE);
    }
    Ok(Some(Question { source, destination, ordinal, request_line }))
}

fn address(value: &HeaderValue) -> Option<SocketAddr> {
    value.to_str().ok()?.parse().ok().map(canonical)
}

fn positive(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_question_is_read_from_its_headers() {
        let headers = headers(&[
            (question::SOURCE, "[::ffff:10.0.0.1]:5000"),
            (question::DESTINATION, "10.0.0.2:80"),
            (question::ORDINAL, "3"),
            (question::REQUEST_LINE, "GET /stock/1"),
        ]);
        let question = parse_question(&headers).unwrap().unwrap();
        assert_eq!(question.source, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(question.destination, Some("10.0.0.2:80".parse().unwrap()));
        assert_eq!(question.ordinal, Some(3));
        assert_eq!(question.request_line, b"GET /stock/1");
    }

    #[test]
    fn the_wrong_header_is_named_and_a_bare_probe_is_no_question() {
        assert!(matches!(parse_question(&HeaderMap::new()), Ok(None)));
        let good = (question::SOURCE, "10.0.0.1:5000");
        for (pairs, wrong) in [
            (vec![(question::ORDINAL, "1")], question::SOURCE),
            (vec![(question::SOURCE, "10.0.0.1")], question::SOURCE),
            (vec![(question::SOURCE, "")], question::SOURCE),
            (vec![good, (question::DESTINATION, "a:1")], question::DESTINATION),
            (vec![good, (question::ORDINAL, "0")], question::ORDINAL),
            (vec![good, (question::ORDINAL, "-1")], question::ORDINAL),
            (vec![good, (question::ORDINAL, "99999999999999999999")], question::ORDINAL),
        ] {
            assert_eq!(parse_question(&headers(&pairs)).err(), Some(wrong), "{pairs:?}");
        }
        let mut long = headers(&[good]);
        long.insert(question::REQUEST_LINE, HeaderValue::from_str(&"x".repeat(257)).unwrap());
        assert_eq!(parse_question(&long).err(), Some(question::REQUEST_LINE));
    }
}
