//! The wiring: from a configuration to bound listeners, from there to a running agent.

use crate::admin::{Admin, ProxyExemplars, Recent, Scraper};
use crate::config::Config;
use crate::drain::{self, Readiness, ReadinessGuard};
use crate::intake::{Intake, PassThrough};
use crate::listen::{self, Connections, Listener};
use crate::metrics::{self, Metrics, Totals};
use crate::otlp::exporter::{self, Exporter};
use crate::otlp::{Exported, Receiver};
use crate::weave::Weave;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

/// Time that requests in progress have after SIGTERM. Bodies are small and local.
const RECEIVER_DRAIN: Duration = Duration::from_secs(2);
/// Time that a last scrape in progress has.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// Prometheus, two probes of Kubernetes and some people.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// Makes what stands between the receivers and the exporter. Without privileges or a fit kernel the
/// mesh's spans are still taken and handed on.
fn intake(config: &Config, metrics: &Arc<Metrics>, exporter: &Exporter) -> Arc<dyn Intake> {
    let pass_through = || -> Arc<dyn Intake> {
        let (exporter, metrics) = (exporter.clone(), Arc::clone(metrics));
        Arc::new(PassThrough { exporter, metrics, sampling: config.sampling })
    };
    if !config.capture.enabled {
        warn!("capture.enabled is false: apps are not seen, spans are handed on as they come");
        return pass_through();
    }
    match Weave::start(config, Arc::clone(metrics), exporter.clone()) {
        Ok(weave) => Arc::new(weave),
        Err(error) => {
            error!(error = format!("{error:#}"), "apps are not seen, spans are handed on as they come");
            pass_through()
        }
    }
}

/// An agent that has bound its addresses and serves none of them yet.
pub struct Bound {
    grpc: Option<Listener>,
    http: Option<Listener>,
    socket: Option<Listener>,
    admin_listener: Option<Listener>,
    receiver: Arc<Receiver>,
    admin: Arc<Admin>,
    intake: Arc<dyn Intake>,
    exporter: exporter::Running,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    starting: ReadinessGuard,
    config: Config,
}

/// Checks what [`build`] would refuse besides the configuration itself, without binding anything.
///
/// # Errors
/// Names the key, the cause and the way out.
pub fn check(config: &Config) -> anyhow::Result<()> {
    Exporter::check(config)
}

/// Binds the addresses and starts everything but the listeners.
///
/// # Errors
/// Names the key, the cause and the way out.
pub async fn build(config: Config) -> anyhow::Result<Bound> {
    let readiness = Readiness::default();
    let starting = readiness.block("starting");
    let mut registry = Registry::with_prefix(metrics::PREFIX);
    let metrics = Arc::new(Metrics::register(&mut registry));

    let grpc = bind("receiver.grpc", config.receiver.grpc).await?;
    let http = bind("receiver.http", config.receiver.http).await?;
    let mode = config.receiver.socket_mode.0;
    let socket = config.receiver.socket.as_deref();
    let socket = socket.map(|path| Listener::unix("receiver.socket", path, mode)).transpose()?;
    let admin_listener = bind("admin.address", config.admin.address).await?;

    let recent = Arc::new(Recent::default());
    let exemplars = Arc::new(ProxyExemplars::new(&config.scrape, Arc::clone(&metrics)));
    let observers: Vec<Arc<dyn Exported>> = vec![Arc::clone(&recent) as _, Arc::clone(&exemplars) as _];
    let (sender, exporter) = Exporter::start(&config, Arc::clone(&metrics), observers)?;
    let intake = intake(&config, &metrics, &sender);
    let max_message = config.receiver.max_message_bytes.0;
    let receiver = Arc::new(Receiver::new(Arc::clone(&intake), Arc::clone(&metrics), max_message));
    let scraper = Scraper::new(config.scrape.clone(), Arc::clone(&metrics), exemplars);
    let admin =
        Arc::new(Admin { registry, readiness: readiness.clone(), scraper, recent, config: config.clone() });
    Ok(Bound {
        grpc,
        http,
        socket,
        admin_listener,
        receiver,
        admin,
        intake,
        exporter,
        metrics,
        readiness,
        starting,
        config,
    })
}

async fn bind(key: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
    match address {
        Some(address) => Listener::tcp(key, address).await.map(Some),
        None => Ok(None),
    }
}

impl Bound {
    /// Address of the OTLP/gRPC listener.
    #[must_use]
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().and_then(Listener::tcp_address)
    }

    /// Address of the OTLP/HTTP listener.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(Listener::tcp_address)
    }

    /// Path of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.config.receiver.socket.as_deref()
    }

    /// Address of the admin server.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin_listener.as_ref().and_then(Listener::tcp_address)
    }

    /// The handles of the agent's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Logs what was bound and where spans go.
    pub fn announce(&self) {
        let show =
            |address: Option<SocketAddr>| address.map_or("off".to_owned(), |address| address.to_string());
        info!(
            grpc = show(self.grpc()),
            http = show(self.http()),
            socket = self.socket().map_or("off".to_owned(), |path| path.display().to_string()),
            admin = show(self.admin()),
            "listening"
        );
        let export = &self.config.export;
        match &export.endpoint {
            Some(endpoint) => info!(url = %endpoint.request_url(export.protocol), "spans are exported"),
            None => warn!(
                "no exporter: spans are only shown at /debug/traces and counted as dropped; set export.endpoint or \
                 OTEL_EXPORTER_OTLP_ENDPOINT"
            ),
        }
    }

    /// Serves until `shutdown` resolves, then drains: first the receivers, then what the intake
    /// holds, then the exporter's queue, at last the admin server, which shows all of it.
    /// Returns the final counts: seen = exported + dropped.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Totals {
        let (drain_receivers, receivers) = drain::channel();
        let (drain_admin, admin) = drain::channel();
        let limit = Connections {
            limit: self.config.receiver.max_connections,
            open: self.metrics.receiver.connections.clone(),
            refused: self.metrics.receiver.connections_refused.clone(),
        };
        for listener in [self.grpc, self.http, self.socket].into_iter().flatten() {
            tokio::spawn(listen::serve(
                listener,
                Arc::clone(&self.receiver),
                limit.clone(),
                receivers.clone(),
            ));
        }
        drop(receivers);
        if let Some(listener) = self.admin_listener {
            let limit = Connections {
                limit: MAX_ADMIN_CONNECTIONS,
                open: Gauge::default(),
                refused: Counter::default(),
            };
            tokio::spawn(listen::serve(listener, Arc::clone(&self.admin), limit, admin.clone()));
        }
        drop(admin);
        drop(self.starting);

        shutdown.await;
        let _draining = self.readiness.block("draining");
        info!("draining");
        if !drain_receivers.start_and_wait(RECEIVER_DRAIN).await {
            warn!("some senders did not finish in time");
        }
        let intake = self.intake;
        // It may wait for threads.
        if tokio::task::spawn_blocking(move || intake.close()).await.is_err() {
            warn!("the intake could not be emptied");
        }
        self.exporter.shutdown(self.config.export.shutdown).await;
        let totals = self.metrics.spans.totals();
        info!(seen = totals.seen, exported = totals.exported, dropped = totals.dropped, "spans");
        drain_admin.start_and_wait(ADMIN_DRAIN).await;
        totals
    }
}
