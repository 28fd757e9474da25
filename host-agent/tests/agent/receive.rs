//! OTLP in by every way, and the filter's question.

use crate::backend::Backend;
use crate::exchange::{get, post, post_unix};
use crate::running::{Agent, assert_balanced, until};
use crate::spans;
use http::StatusCode;
use meshweft::drain;
use meshweft::intake::{Answer, Full, Intake, Question};
use meshweft::listen::{self, Connections, Listener};
use meshweft::metrics::Metrics;
use meshweft::otlp::Receiver;
use meshweft_telemetry::{SpanContext, SpanId, TraceFlags, TraceId, question};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prometheus_client::registry::Registry;
use prost::Message as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzEncoder::new(data, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
    out
}

#[tokio::test]
async fn spans_by_grpc_http_and_socket_reach_the_backend() {
    let backend = Backend::http([]).await;
    let agent =
        Agent::start(&format!("export: {{endpoint: 'http://{}', delay: 10ms}}", backend.address)).await;

    let mut client = TraceServiceClient::connect(format!("http://{}", agent.grpc)).await.unwrap();
    let answer = client.export(spans::request(1, 2)).await.unwrap().into_inner();
    assert_eq!(answer.partial_success, None);
    // Both protocols are spoken on both ports.
    let mut client = TraceServiceClient::connect(format!("http://{}", agent.http)).await.unwrap();
    client.export(spans::request(3, 1)).await.unwrap();

    let answer = agent.send(&spans::request(4, 1)).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/x-protobuf"));
    assert!(answer.body.is_empty(), "full success has no field");
    let body = gzip(&spans::request(5, 1).encode_to_vec());
    let answer = post(agent.grpc, "/v1/traces", &[PROTOBUF, ("content-encoding", "gzip")], body).await;
    assert_eq!(answer.status, StatusCode::OK);
    let body = spans::request(6, 1).encode_to_vec();
    assert_eq!(post_unix(&agent.socket, "/v1/traces", &[PROTOBUF], body).await.status, StatusCode::OK);

    backend.wait_for(6).await;
    assert_eq!(backend.numbers(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(agent.metrics.receiver.requests("grpc", "accepted"), 2);
    assert_eq!(agent.metrics.receiver.requests("http", "accepted"), 3);
    let socket = agent.socket.clone();
    let totals = agent.stop().await;
    assert_eq!((totals.seen, totals.exported), (6, 6));
    assert!(!socket.exists(), "the socket's file goes with the agent");
}

#[tokio::test]
async fn what_is_no_export_is_refused_and_counted() {
    let agent = Agent::start_with("max_message_bytes: 1KiB", "").await;
    let good = spans::request(1, 1).encode_to_vec();
    let large = spans::request(1, 100).encode_to_vec();
    let json = ("content-type", "application/json");
    for (headers, body, status, outcome) in [
        (vec![json], b"{}".to_vec(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type"),
        (vec![], good.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type"),
        (
            vec![PROTOBUF, ("content-encoding", "br")],
            good.clone(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding",
        ),
        (vec![PROTOBUF], b"garbage".to_vec(), StatusCode::BAD_REQUEST, "malformed"),
        (vec![PROTOBUF, ("content-encoding", "gzip")], good, StatusCode::BAD_REQUEST, "malformed"),
        (vec![PROTOBUF], large.clone(), StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        (
            vec![PROTOBUF, ("content-encoding", "gzip")],
            gzip(&large),
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
        ),
    ] {
        let before = agent.metrics.receiver.requests("http", outcome);
        let answer = post(agent.http, "/v1/traces", &headers, body).await;
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(agent.metrics.receiver.requests("http", outcome), before + 1, "{headers:?}");
    }
    assert_eq!(get(agent.http, "/v1/traces", &[]).await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(agent.http, "/v1/metrics", &[]).await.status, StatusCode::NOT_FOUND);

    let mut client = TraceServiceClient::connect(format!("http://{}", agent.grpc)).await.unwrap();
    let status = client.export(spans::request(1, 100)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("receiver.max_message_bytes"), "{status}");
    assert_eq!(agent.stop().await.seen, 0);
}

#[tokio::test]
async fn garbage_and_half_requests_do_not_disturb_the_others() {
    let agent = Agent::start("").await;
    for bytes in [
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"POST /v1",
        b"",
    ] {
        let mut stream = TcpStream::connect(agent.http).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.unwrap();
    }
    let headers = "x".repeat(60 * 1024);
    let mut stream = TcpStream::connect(agent.http).await.unwrap();
    let request = format!("GET /v1/context HTTP/1.1\r\nhost: a\r\nx-meshweft-source: {headers}\r\n\r\n");
    // The agent may close before all of it is written.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await;
    assert_eq!(agent.send(&spans::request(1, 1)).await.status, StatusCode::OK);
    assert_balanced(agent.stop().await);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_counted() {
    let agent = Agent::start_with("max_connections: 1", "").await;
    let held = TcpStream::connect(agent.http).await.unwrap();
    until("the connection", || agent.metrics.receiver.connections.get() == 1).await;
    let mut refused = TcpStream::connect(agent.http).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    assert_eq!(agent.metrics.receiver.connections_refused.get(), 1);
    drop(held);
    until("the end of the connection", || agent.metrics.receiver.connections.get() == 0).await;
    assert_eq!(agent.send(&spans::request(1, 1)).await.status, StatusCode::OK);
    agent.stop().await;
}

/// Knows the context of one connection, and has no room for spans.
struct Knows(SocketAddr);

fn known_context() -> SpanContext {
    SpanContext {
        trace_id: TraceId::from_bytes([0xab; 16]).unwrap(),
        span_id: SpanId::from_bytes([0xcd; 8]).unwrap(),
        flags: TraceFlags::SAMPLED,
    }
}

impl Intake for Knows {
    fn accept(&self, _request: ExportTraceServiceRequest) -> Result<(), Full> {
        Err(Full)
    }

    fn context(&self, question: &Question<'_>) -> Option<Answer> {
        let is_it = question.source == self.0
            && question.ordinal == Some(2)
            && question.request_line == b"GET /stock/1";
        is_it.then(|| Answer { context: known_context(), tracestate: Some(b"a=1,b=2".to_vec()) })
    }
}

/// A receiver before [`Knows`].
async fn knowing(source: SocketAddr) -> (SocketAddr, Arc<Metrics>, drain::DrainTrigger) {
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let receiver = Arc::new(Receiver::new(Arc::new(Knows(source)), Arc::clone(&metrics), 1 << 20));
    let listener = Listener::tcp("test", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.tcp_address().unwrap();
    let limit = Connections {
        limit: 10,
        open: metrics.receiver.connections.clone(),
        refused: metrics.receiver.connections_refused.clone(),
    };
    let (trigger, drain) = drain::channel();
    tokio::spawn(listen::serve(listener, receiver, limit, drain));
    (address, metrics, trigger)
}

#[tokio::test]
async fn a_question_is_answered_by_headers_alone() {
    let (address, metrics, _drain) = knowing("10.0.0.1:5000".parse().unwrap()).await;
    let asked = [
        (question::SOURCE, "10.0.0.1:5000"),
        (question::DESTINATION, "10.96.0.1:80"),
        (question::ORDINAL, "2"),
        (question::REQUEST_LINE, "GET /stock/1"),
    ];
    let answer = get(address, question::PATH, &asked).await;
    assert_eq!(answer.status, StatusCode::OK);
    let expected = "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01";
    assert_eq!((answer.header("traceparent"), answer.header("tracestate")), (expected, "a=1,b=2"));
    assert!(answer.body.is_empty());

    let other = get(address, question::PATH, &[(question::SOURCE, "10.0.0.2:5000")]).await;
    assert_eq!((other.status, other.header("traceparent")), (StatusCode::NO_CONTENT, ""));
    let wrong =
        get(address, question::PATH, &[(question::SOURCE, "10.0.0.2"), (question::ORDINAL, "1")]).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.text().starts_with(question::SOURCE), "{}", wrong.text());
    let missing = get(address, question::PATH, &[(question::ORDINAL, "1")]).await;
    assert!(missing.status == StatusCode::BAD_REQUEST && missing.text().starts_with(question::SOURCE));
    assert_eq!(get(address, question::PATH, &[]).await.status, StatusCode::NO_CONTENT, "a bare probe");
    assert_eq!(
        post(address, question::PATH, &asked, Vec::new()).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );

    let context = &metrics.context;
    assert_eq!((context.answered.get(), context.unknown.get(), context.invalid.get()), (1, 1, 2));
}

#[tokio::test]
async fn a_full_intake_leaves_it_to_the_senders_retry_policy() {
    let (address, metrics, _drain) = knowing("10.0.0.1:1".parse().unwrap()).await;
    let answer = post(address, "/v1/traces", &[PROTOBUF], spans::request(1, 1).encode_to_vec()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "1"));
    let mut client = TraceServiceClient::connect(format!("http://{address}")).await.unwrap();
    let status = client.export(spans::request(1, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    // OTLP: RESOURCE_EXHAUSTED may be retried only with RetryInfo.
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
    assert_eq!(metrics.receiver.requests("http", "full") + metrics.receiver.requests("grpc", "full"), 2);
    assert_eq!(metrics.spans.totals().seen, 0, "nothing was taken");
}
