//! An agent on free ports.

use crate::exchange::{self, Answer};
use meshweft::agent;
use meshweft::config::{Config, Environment};
use meshweft::metrics::{Metrics, Totals};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Totals>,
    _folder: TempDir,
}

impl Agent {
    /// Starts an agent that sees no apps: what is tested here is what comes in and goes out. `yaml` has
    /// every section but `receiver`, `admin` and `capture`.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_with("", yaml).await
    }

    /// As [`Agent::start`], with further keys of `receiver`.
    pub(crate) async fn start_with(receiver: &str, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let file = format!(
            "receiver: {{grpc: 127.0.0.1:0, http: 127.0.0.1:0, socket: {}, {receiver}}}\n\
             admin: {{address: 127.0.0.1:0}}\ncapture: {{enabled: false}}\n{yaml}\n",
            socket.display()
        );
        let (config, _) = Config::from_yaml(&file, &Environment::default()).unwrap();
        let bound = agent::build(config).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        Self {
            grpc: bound.grpc().unwrap(),
            http: bound.http().unwrap(),
            admin: bound.admin().unwrap(),
            socket,
            metrics: bound.metrics(),
            stop,
            running: tokio::spawn(bound.run(async {
                // A test that panics drops the sender, which ends the agent too.
                let _ = stopped.await;
            })),
            _folder: folder,
        }
    }

    /// Sends spans by OTLP/HTTP.
    pub(crate) async fn send(&self, request: &ExportTraceServiceRequest) -> Answer {
        let headers = [("content-type", "application/x-protobuf")];
        exchange::post(self.http, "/v1/traces", &headers, request.encode_to_vec()).await
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        exchange::get(self.admin, path, &[]).await
    }

    /// Ends the agent as SIGTERM does.
    pub(crate) async fn stop(self) -> Totals {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.running).await.expect("the agent ends").unwrap()
    }
}

/// Waits for something that another task brings about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn assert_balanced(totals: Totals) {
    assert_eq!(totals.seen, totals.exported + totals.dropped, "{totals:?}");
}
