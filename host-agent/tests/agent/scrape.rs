//! `/scrape` against honest and lying targets, and the rest of the admin server.

use crate::backend::Backend;
use crate::exchange::{self, Answer};
use crate::running::{Agent, until};
use crate::spans::{self, text};
use http::StatusCode;
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const OPENMETRICS: (&str, &str) = ("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
const TARGETS: &str =
    "scrape: {targets: ['127.0.0.0/8:PORT'], timeout: 300ms, max_page_bytes: 64KiB, concurrency: 1}";

/// A server that answers every connection with the same bytes.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Notify>,
}

impl Target {
    /// `endless`: the bytes are repeated; otherwise the connection stays open until the client
    /// closes it, or is closed after the bytes if there are any.
    async fn start(bytes: Vec<u8>, endless: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Self {
            address: listener.local_addr().unwrap(),
            bytes: Arc::new(Mutex::new(bytes)),
            asked: Arc::new(Notify::new()),
        };
        let shared = target.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let target = shared.clone();
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    target.asked.notify_one();
                    let bytes = target.bytes.lock().unwrap().clone();
                    if bytes.is_empty() {
                        // Until the client gives up.
                        let _ = stream.read(&mut request).await;
                        return;
                    }
                    while stream.write_all(&bytes).await.is_ok() && endless {}
                });
            }
        });
        target
    }

    async fn page(body: &str) -> Self {
        Self::start(page(body), false).await
    }
}

fn page(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=UTF-8\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn agent_for(target: &Target, more: &str) -> Agent {
    let targets = TARGETS.replace("PORT", &target.address.port().to_string());
    Agent::start(&format!("{targets}\n{more}")).await
}

async fn scrape(agent: &Agent, target: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    // Prometheus encodes the colon.
    let target = target.to_string().replace(':', "%3A");
    exchange::get(agent.admin, &format!("/scrape?target={target}"), headers).await
}

#[tokio::test]
async fn text_passes_through_byte_for_byte() {
    let body = "# TYPE envoy_x counter\nenvoy_x{a=\"b\"} 1\n\nnot a metric at all \u{fffd}\n";
    let target = Target::page(body).await;
    let agent = agent_for(&target, "").await;
    for accept in [&[][..], &[("accept", "text/plain;version=0.0.4")], &[("accept", "*/*")]] {
        let answer = scrape(&agent, target.address, accept).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), "text/plain; charset=UTF-8");
        assert_eq!(answer.body, body);
    }
    assert_eq!(agent.metrics.scrape.outcomes("text"), 3);
    agent.stop().await;
}

#[tokio::test]
async fn an_exported_trace_becomes_the_exemplar_of_the_request_it_is_of() {
    let requests = |count: u32| {
        format!(
            "# TYPE istio_requests_total counter\nistio_requests_total{{reporter=\"source\",response_code=\"200\"}} {count}\n"
        )
    };
    let target = Target::page(&requests(1)).await;
    let backend = Backend::http([]).await;
    let agent =
        agent_for(&target, &format!("export: {{endpoint: 'http://{}', delay: 10ms}}", backend.address)).await;
    scrape(&agent, target.address, &[OPENMETRICS]).await;

    let mut span = spans::span(7);
    span.attributes = vec![
        text("meshweft.hop", "mesh.outbound"),
        text("istio.reporter", "source"),
        text("istio.response_code", "200"),
    ];
    let proxy = text("meshweft.proxy.id", "sidecar~127.0.0.1~orders-0.shop~shop.svc.cluster.local");
    let resource = Resource { attributes: vec![proxy], ..Resource::default() };
    agent.send(&spans::request_of(resource, vec![span])).await;
    until("the export", || agent.metrics.spans.totals().exported == 1).await;
    *target.bytes.lock().unwrap() = page(&requests(2));

    let answer = scrape(&agent, target.address, &[OPENMETRICS]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    let line = "istio_requests_total{reporter=\"source\",response_code=\"200\"} 2 # \
                {trace_id=\"01010101010101010101010101010101\",span_id=\"0000000000000007\"}";
    assert!(answer.text().contains(line), "{}", answer.text());
    assert!(answer.text().ends_with("# EOF\n"));
    assert_eq!(agent.metrics.scrape.exemplars.get(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_target_that_lies_is_named_and_counted_and_hurts_nobody() {
    let response = |head: &str, body: &str| format!("HTTP/1.1 {head}\r\n\r\n{body}").into_bytes();
    let ok = "200 OK\r\ncontent-type: text/plain";
    for (bytes, endless, status, outcome) in [
        (response("200 OK\r\ncontent-type: text/html", "<p>"), false, 502, "media_type"),
        (response("200 OK", "x 1\n"), false, 502, "media_type"),
        (response(&format!("{ok}\r\ncontent-encoding: gzip"), "x"), false, 502, "media_type"),
        (response("500 Oops\r\ncontent-length: 0", ""), false, 502, "status"),
        (
            response("302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0", ""),
            false,
            502,
            "status",
        ),
        (b"SSH-2.0-nothing\r\n".to_vec(), false, 502, "http"),
        (response(&format!("{ok}\r\ncontent-length: 1000"), "x 1\n"), false, 502, "http"),
        (response(&format!("{ok}\r\ntransfer-encoding: chunked"), "zz\r\n"), false, 502, "http"),
        (response(ok, "x 1\n"), true, 502, "too_large"),
        (format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20)).into_bytes(), true, 502, "http"),
        (response(ok, "{{{ not\nmetrics\n"), false, 502, "convert"),
        (Vec::new(), false, 504, "timeout"),
    ] {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let target = Target::start(bytes, endless).await;
        let agent = agent_for(&target, "").await;
        let answer = scrape(&agent, target.address, &[OPENMETRICS]).await;
        assert_eq!(answer.status.as_u16(), status, "{what:?}: {}", answer.text());
        assert_eq!(agent.metrics.scrape.outcomes(outcome), 1, "{what:?}: {}", answer.text());
        assert_eq!(agent.admin("/healthz").await.status, StatusCode::OK, "{what:?}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn broken_lines_are_left_out_and_counted() {
    let target = Target::page("# TYPE a counter\na_total 1\nbroken{ 2\nb not-a-number\n").await;
    let agent = agent_for(&target, "").await;
    let answer = scrape(&agent, target.address, &[OPENMETRICS]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text().contains("a_total 1\n") && !answer.text().contains("broken"), "{}", answer.text());
    assert_eq!(agent.metrics.scrape.lines_dropped_for("value"), 1);
    agent.stop().await;
}

#[tokio::test]
async fn only_named_targets_are_reached() {
    let target = Target::page("x 1\n").await;
    let agent = agent_for(&target, "").await;
    for (other, status, says) in [
        ("10.1.2.3:15090", 403, "scrape.targets"),
        ("127.0.0.1:22", 403, "scrape.targets"),
        ("localhost:15090", 403, "scrape.targets"),
        ("http%3A%2F%2F127.0.0.1", 403, "scrape.targets"),
        ("", 400, "target=HOST:PORT"),
        ("%ff", 400, "target=HOST:PORT"),
    ] {
        let answer = agent.admin(&format!("/scrape?target={other}")).await;
        assert_eq!(answer.status.as_u16(), status, "{other}");
        assert!(answer.text().contains(says), "{other}: {}", answer.text());
    }
    assert_eq!(agent.admin("/scrape").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(agent.metrics.scrape.outcomes("not_named"), 4);
    // Named, but nobody is there.
    let target = SocketAddr::new("127.0.0.9".parse().unwrap(), target.address.port());
    let answer = scrape(&agent, target, &[]).await;
    assert_eq!((answer.status, agent.metrics.scrape.outcomes("connect")), (StatusCode::BAD_GATEWAY, 1));
    agent.stop().await;
}

#[tokio::test]
async fn scrapes_beyond_the_limit_are_turned_away() {
    let target = Target::start(Vec::new(), false).await;
    let agent = Arc::new(agent_for(&target, "").await);
    let first = tokio::spawn({
        let agent = Arc::clone(&agent);
        let address = target.address;
        async move { scrape(&agent, address, &[]).await.status }
    });
    target.asked.notified().await;
    assert_eq!(scrape(&agent, target.address, &[]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(first.await.unwrap(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn the_time_that_prometheus_gives_is_kept() {
    let target = Target::start(Vec::new(), false).await;
    let targets = TARGETS.replace("PORT", &target.address.port().to_string()).replace("300ms", "1h");
    let agent = Agent::start(&targets).await;
    let header = [("x-prometheus-scrape-timeout-seconds", "0.1")];
    assert_eq!(scrape(&agent, target.address, &header).await.status, StatusCode::GATEWAY_TIMEOUT);
    agent.stop().await;
}

#[tokio::test]
async fn health_metrics_and_configuration_are_served() {
    let yaml =
        "export: {endpoint: 'http://127.0.0.1:9', headers: {authorization: Bearer secret}, shutdown: 10ms}";
    let agent = Agent::start(yaml).await;
    let ready = agent.admin("/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (StatusCode::OK, "ready\n"));
    let metrics = agent.admin("/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    assert!(metrics.text().contains("meshweft_spans_exported_total 0\n"), "{}", metrics.text());
    assert!(metrics.text().ends_with("# EOF\n"));
    let config = agent.admin("/debug/config").await;
    let json: serde_json::Value = serde_json::from_slice(&config.body).unwrap();
    assert_eq!(json["export"]["queue"], 65_536);
    assert!(!config.text().contains("secret"));
    assert_eq!(agent.admin("/debug/traces?limit=x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(agent.admin("/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        exchange::post(agent.admin, "/metrics", &[], Vec::new()).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    agent.stop().await;
}
