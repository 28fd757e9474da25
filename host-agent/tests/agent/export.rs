//! OTLP out: retries, losses that are counted, and the end.

use crate::backend::{Backend, Script};
use crate::running::{Agent, assert_balanced, until};
use crate::spans;
use http::StatusCode;
use meshweft_telemetry::DropReason;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Quick retries.
const RETRY: &str = "retry: {initial: 5ms, max: 20ms}";

fn export_to(address: SocketAddr, more: &str) -> String {
    format!("export: {{endpoint: 'http://{address}', delay: 10ms, {RETRY}, {more}}}")
}

/// An address on which nobody listens, and whose port no other test is given meanwhile.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.77:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn nothing_is_lost_while_the_backend_is_away() {
    let address = nobody().await;
    let agent = Agent::start(&export_to(address, "batch: 7")).await;
    for first in 0..10 {
        assert_eq!(agent.send(&spans::request(first * 10 + 1, 10)).await.status, StatusCode::OK);
    }
    until("a failure", || agent.metrics.export.attempts("retryable") > 4).await;
    let backend = Backend::http_at(address, []).await;
    backend.wait_for(100).await;
    assert_eq!(backend.numbers(), (1..=100).collect::<Vec<_>>());
    let totals = agent.stop().await;
    assert_eq!((totals.seen, totals.exported, totals.dropped), (100, 100, 0));
}

#[tokio::test]
async fn what_does_not_fit_the_queue_is_counted() {
    let agent =
        Agent::start(&export_to(nobody().await, "queue: 10, batch: 5, concurrency: 1, shutdown: 10ms")).await;
    agent.send(&spans::request(1, 100)).await;
    assert_eq!(agent.metrics.spans.dropped_for(DropReason::QueueFull), 90);
    let metrics = Arc::clone(&agent.metrics);
    let totals = agent.stop().await;
    assert_eq!((totals.seen, totals.exported), (100, 0));
    assert_eq!(metrics.spans.dropped_for(DropReason::Shutdown), 10);
    assert_balanced(totals);
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_too() {
    let more = "queue_bytes: 1KiB, delay: 1h, shutdown: 10ms";
    let agent = Agent::start(
        &export_to(nobody().await, "").replace("delay: 10ms, ", "").replace(", }", &format!(", {more}}}")),
    )
    .await;
    let mut request = spans::request(1, 3);
    for span in &mut request.resource_spans[0].scope_spans[0].spans {
        span.name = "x".repeat(400);
    }
    agent.send(&request).await;
    assert_eq!(agent.metrics.spans.dropped_for(DropReason::QueueFull), 1);
    assert_eq!(agent.metrics.export.queue_spans.get(), 2);
    assert_balanced(agent.stop().await);
}

#[tokio::test]
async fn http_errors_are_retried_or_not_as_otlp_says() {
    let script = [
        Script::Http(503, None),
        Script::Http(429, Some("0")),
        Script::Http(502, None),
        Script::Http(504, Some("Thu, 01 Jan 1970 00:00:00 GMT")),
    ];
    let backend = Backend::http(script).await;
    let agent = Agent::start(&export_to(backend.address, "headers: {api-key: k}, compression: gzip")).await;
    agent.send(&spans::request(1, 3)).await;
    backend.wait_for(3).await;
    assert_eq!(agent.metrics.export.attempts("retryable"), 4);
    assert!(
        backend
            .headers()
            .iter()
            .all(|headers| headers["api-key"] == "k" && headers["content-encoding"] == "gzip")
    );
    assert_eq!(agent.stop().await.exported, 3);

    for status in [400, 401, 404, 413, 500, 301] {
        let backend = Backend::http([Script::Http(status, None)]).await;
        let agent = Agent::start(&export_to(backend.address, "")).await;
        agent.send(&spans::request(1, 3)).await;
        until("the refusal", || agent.metrics.spans.dropped_for(DropReason::ExportFailed) == 3).await;
        assert_eq!(agent.metrics.export.attempts("refused"), 1, "{status}");
        assert_balanced(agent.stop().await);
    }
}

#[tokio::test]
async fn grpc_errors_are_retried_or_not_as_otlp_says() {
    use tonic::{Code, Status};
    let retryable = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unavailable,
        Code::DataLoss,
    ];
    let count = retryable.len() as u64;
    let backend = Backend::grpc(retryable.map(|code| Script::Grpc(Status::new(code, "not now")))).await;
    let agent = Agent::start(&export_to(backend.address, "protocol: grpc, compression: none")).await;
    agent.send(&spans::request(1, 3)).await;
    backend.wait_for(3).await;
    assert_eq!(agent.metrics.export.attempts("retryable"), count);
    assert_eq!(agent.stop().await.exported, 3);

    // Without RetryInfo, RESOURCE_EXHAUSTED is for good.
    for code in [Code::ResourceExhausted, Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented] {
        let backend = Backend::grpc([Script::Grpc(Status::new(code, "never"))]).await;
        let agent = Agent::start(&export_to(backend.address, "protocol: grpc")).await;
        agent.send(&spans::request(1, 3)).await;
        until("the refusal", || agent.metrics.spans.dropped_for(DropReason::ExportFailed) == 3).await;
        assert_eq!(agent.metrics.export.attempts("refused"), 1, "{code:?}");
        assert_balanced(agent.stop().await);
    }
}

#[tokio::test]
async fn an_agent_exports_to_an_agent() {
    // Its receiver's RetryInfo, trailers and gzip, against its exporter's.
    let last = Backend::grpc([]).await;
    let second = Agent::start(&export_to(last.address, "protocol: grpc")).await;
    let first = Agent::start(&export_to(second.grpc, "protocol: grpc, compression: gzip")).await;
    first.send(&spans::request(1, 3)).await;
    last.wait_for(3).await;
    assert_eq!(first.stop().await.exported, 3);
    assert_eq!(second.stop().await.exported, 3);
}

#[tokio::test]
async fn rejected_spans_of_a_partial_success_are_counted_and_not_sent_again() {
    let backend = Backend::http([Script::Partial(2)]).await;
    let agent = Agent::start(&export_to(backend.address, "")).await;
    agent.send(&spans::request(1, 5)).await;
    until("the answer", || agent.metrics.export.attempts("partial") == 1).await;
    let totals = agent.stop().await;
    assert_eq!((totals.seen, totals.exported, totals.dropped), (5, 3, 2));
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_batch_that_keeps_failing_is_given_up() {
    let yaml = export_to(nobody().await, "").replace("max: 20ms", "max: 20ms, give_up: 100ms");
    let agent = Agent::start(&yaml).await;
    agent.send(&spans::request(1, 3)).await;
    until("the end of the retries", || agent.metrics.spans.dropped_for(DropReason::ExportFailed) == 3).await;
    assert_balanced(agent.stop().await);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_asked_again() {
    let backend = Backend::http([Script::Silence]).await;
    let agent = Agent::start(&export_to(backend.address, "timeout: 50ms")).await;
    agent.send(&spans::request(1, 1)).await;
    backend.wait_for(1).await;
    assert_eq!(agent.metrics.export.attempts("retryable"), 1);
    assert_eq!(agent.stop().await.exported, 1);
}

#[tokio::test]
async fn what_is_queued_is_flushed_at_the_end() {
    let backend = Backend::http([]).await;
    let yaml = export_to(backend.address, "batch: 3").replace("delay: 10ms", "delay: 1h");
    let agent = Agent::start(&yaml).await;
    agent.send(&spans::request(1, 50)).await;
    let totals = agent.stop().await;
    assert_eq!((totals.exported, totals.dropped), (50, 0));
    assert_eq!(backend.numbers(), (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_silent_backend_does_not_hold_the_end_up() {
    let backend = Backend::http(std::iter::repeat_n(Script::Silence, 1000)).await;
    let agent = Agent::start(&export_to(backend.address, "batch: 2, shutdown: 100ms")).await;
    agent.send(&spans::request(1, 50)).await;
    let started = Instant::now();
    let metrics = Arc::clone(&agent.metrics);
    let totals = agent.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((totals.seen, totals.exported), (50, 0));
    assert_eq!(metrics.spans.dropped_for(DropReason::Shutdown), 50);
}

#[tokio::test]
async fn without_an_exporter_spans_are_shown_and_counted() {
    let agent = Agent::start("").await;
    agent.send(&spans::request(1, 3)).await;
    assert_eq!(agent.metrics.spans.dropped_for(DropReason::NoExporter), 3);
    let answer = agent.admin("/debug/traces?limit=2").await;
    let list: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((&list[0]["name"], &list[0]["exported"]), (&"span 3".into(), &false.into()));
    assert_balanced(agent.stop().await);
}

#[tokio::test]
async fn resources_are_grouped_and_completed() {
    let backend = Backend::http([]).await;
    let yaml =
        format!("{}\nresource: {{cluster: c1}}", export_to(backend.address, "").replace("10ms", "100ms"));
    let agent = Agent::start(&yaml).await;
    agent.send(&spans::request(1, 2)).await;
    agent.send(&spans::request(3, 2)).await;
    agent.stop().await;
    let requests = backend.requests();
    assert_eq!(requests.iter().map(|request| request.resource_spans.len()).sum::<usize>(), requests.len());
    let attributes = &requests[0].resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attributes, &[spans::text("service.name", "orders"), spans::text("cluster", "c1")]);
}

/// Ends TLS before a backend. Returns where, and the certificate to trust.
async fn tls_before(backend: SocketAddr, protocol: &[u8]) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(backend).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (address, cert.pem())
}

#[tokio::test]
async fn https_endpoints_are_verified_against_the_named_certificates() {
    let folder = tempfile::tempdir().unwrap();
    for (protocol, alpn) in [("grpc", b"h2".as_slice()), ("http/protobuf", b"http/1.1")] {
        let backend = if protocol == "grpc" { Backend::grpc([]).await } else { Backend::http([]).await };
        let (address, pem) = tls_before(backend.address, alpn).await;
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        let endpoint = format!("https://localhost:{}", address.port());
        let yaml = format!(
            "export: {{endpoint: '{endpoint}', protocol: {protocol}, delay: 10ms, ca_file: {}}}",
            file.display()
        );
        let agent = Agent::start(&yaml).await;
        agent.send(&spans::request(1, 2)).await;
        backend.wait_for(2).await;
        assert_eq!(agent.stop().await.exported, 2, "{protocol}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_spans() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::http([]).await;
    let (address, _) = tls_before(backend.address, b"http/1.1").await;
    let (_, other) = tls_before(backend.address, b"http/1.1").await;
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, other).unwrap();
    let endpoint = format!("https://localhost:{}", address.port());
    let yaml = format!(
        "export: {{endpoint: '{endpoint}', delay: 10ms, {RETRY}, shutdown: 10ms, ca_file: {}}}",
        file.display()
    );
    let agent = Agent::start(&yaml).await;
    agent.send(&spans::request(1, 2)).await;
    until("the failure", || agent.metrics.export.attempts("retryable") > 0).await;
    assert_balanced(agent.stop().await);
    assert!(backend.requests().is_empty());
}
