//! The demo: the lab, the agent and a Prometheus; requests through the gateway; one woven trace, one
//! exemplar; and a verdict over all of them.

mod forward;
pub mod judge;
pub mod load;
pub mod prometheus;
pub mod sink;
mod tree;

use crate::lab::agent::{self, Agent};
use crate::lab::mesh::Mesh;
use crate::lab::tools::{Filter, Tools};
use crate::lab::{Lab, Options, fetch, process};
use anyhow::{Context as _, Result};
use forward::Forward;
use judge::{CHAIN, Verdict, judge};
use load::{Load, Outcome};
use prometheus::{Buckets, Prometheus};
use serde_json::{Value, json};
use sink::Spans;
use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// What the demo does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many requests.
    pub requests: u64,
    /// How many at once.
    pub concurrency: u64,
}

/// How long spans and scrapes may take to arrive after the last request. The filter reports every
/// 200 ms, the correlator waits 2 s, Prometheus scrapes every second.
const SETTLE: Duration = Duration::from_secs(30);

/// The whole arrangement, running.
#[derive(Debug)]
pub struct Demo {
    // In the order in which they are to end: who sends before who receives.
    prometheus: Prometheus,
    agent: Option<Agent>,
    spans: Spans,
    config: Value,
    tools: Tools,
    began: SystemTime,
    lab: Lab,
}

/// The figures of a run: what `--json` writes.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Requests that were sent.
    pub requests: u64,
    /// Requests that had no 200.
    pub failed: u64,
    /// What the spans amount to.
    pub verdict: Verdict,
    /// The agent's own count.
    pub spans_seen: u64,
    /// Likewise.
    pub spans_exported: u64,
    /// Likewise, of all reasons.
    pub spans_dropped: u64,
    /// Buckets that were hit.
    pub buckets_hit: usize,
    /// Of them, those with an exemplar.
    pub buckets_with_exemplar: usize,
    /// Exemplars whose span the backend does not have.
    pub dangling_exemplars: usize,
}

impl Figures {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "requests": self.requests,
            "failed": self.failed,
            "traces_complete": self.verdict.complete,
            "wrong_parent": self.verdict.wrong_parent,
            "spans_seen": self.spans_seen,
            "spans_exported": self.spans_exported,
            "spans_dropped": self.spans_dropped,
            "buckets_hit": self.buckets_hit,
            "buckets_with_exemplar": self.buckets_with_exemplar,
            "dangling_exemplars": self.dangling_exemplars,
        })
    }
}

impl Demo {
    /// Starts everything. `mesh` describes a mesh in which `/checkout/<n>` leads along [`CHAIN`].
    ///
    /// # Errors
    /// A part does not start; what had started is ended.
    pub async fn start(mesh: &Path) -> Result<Self> {
        Self::start_with(&Mesh::load(mesh)?).await
    }

    /// As [`Demo::start`], with a mesh that is loaded already.
    ///
    /// # Errors
    /// As [`Demo::start`].
    pub async fn start_with(mesh: &Mesh) -> Result<Self> {
        let began = SystemTime::now();
        let (sink, spans) = sink::start(Forward::from_environment()?).await?;
        let tools = Tools::from_environment(Filter::Required)?;
        let lab = Lab::start(mesh, Options::new(tools.clone()))?;
        let mut config = agent::config(&lab);
        config["export"] = json!({"endpoint": format!("http://{sink}"), "protocol": "http/protobuf"});
        let agent = Agent::start_isolated(&lab, &tools.agent()?, &config)?;
        let prometheus = Prometheus::start(&lab, agent.admin())?;
        Ok(Self { prometheus, agent: Some(agent), spans, config, tools, began, lab })
    }

    /// The mesh.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What the agent exported.
    #[must_use]
    pub const fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Kills the agent with SIGKILL, as a crash would.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Sends a signal to the agent.
    pub fn signal_agent(&self, number: i32) {
        if let Some(pid) = self.agent.as_ref().and_then(Agent::pid) {
            process::signal(pid, number);
        }
    }

    /// Starts an agent where none runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_agent(&mut self) -> Result<()> {
        if self.agent.is_none() {
            self.agent = Some(Agent::start_isolated(&self.lab, &self.tools.agent()?, &self.config)?);
        }
        Ok(())
    }

    /// Sends requests `first..first + plan.requests` through the gateway.
    ///
    /// # Errors
    /// The load cannot run; failed requests are no error.
    pub async fn send(&self, first: u64, plan: &Plan, progress: impl FnMut(u64)) -> Result<Outcome> {
        self.send_to("/checkout/", first, plan, progress).await
    }

    /// As [`Demo::send`], to another path.
    ///
    /// # Errors
    /// As [`Demo::send`].
    pub async fn send_to(
        &self,
        path: &str,
        first: u64,
        plan: &Plan,
        progress: impl FnMut(u64),
    ) -> Result<Outcome> {
        let load = Load {
            url: self.lab.gateway_url(),
            path: path.to_owned(),
            first,
            requests: plan.requests,
            concurrency: plan.concurrency,
        };
        load::run(&load, progress).await
    }

    /// Waits until all that these requests lead to has arrived, or nothing more comes, and judges it.
    ///
    /// # Errors
    /// The agent or Prometheus does not answer.
    pub async fn settle(&self, first: u64, outcome: &Outcome, requests: u64) -> Result<(Figures, Buckets)> {
        let deadline = Instant::now() + SETTLE;
        let mesh_hops = CHAIN.iter().filter(|(hop, ..)| hop.starts_with("mesh.")).count() as u64;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (figures, buckets) = self.figures(first, outcome, requests)?;
            let settled = figures.verdict.complete == requests - outcome.failed
                && figures.spans_seen == figures.spans_exported + figures.spans_dropped
                && buckets.counted >= mesh_hops * requests
                && figures.buckets_with_exemplar == figures.buckets_hit;
            if settled || Instant::now() >= deadline {
                return Ok((figures, buckets));
            }
        }
    }

    fn figures(&self, first: u64, outcome: &Outcome, requests: u64) -> Result<(Figures, Buckets)> {
        let metrics = self.agent_metrics()?;
        let buckets = self.prometheus.buckets(self.began)?;
        let spans = self.spans.all();
        let ids: HashSet<(String, String)> =
            spans.iter().map(|span| (tree::hex(&span.trace), tree::hex(&span.span))).collect();
        let dangling = buckets
            .exemplars
            .iter()
            .filter(|exemplar| !ids.contains(&(exemplar.trace_id.clone(), exemplar.span_id.clone())))
            .count();
        let figures = Figures {
            requests,
            failed: outcome.failed,
            verdict: judge(&spans, &CHAIN, first..first + requests),
            spans_seen: sum(&metrics, "meshweft_spans_seen_total"),
            spans_exported: sum(&metrics, "meshweft_spans_exported_total"),
            spans_dropped: sum(&metrics, "meshweft_spans_dropped_total"),
            buckets_hit: buckets.hit.len(),
            buckets_with_exemplar: buckets.with_exemplar(),
            dangling_exemplars: dangling,
        };
        Ok((figures, buckets))
    }

    /// The agent's own metrics page.
    ///
    /// # Errors
    /// It does not answer.
    pub fn agent_metrics(&self) -> Result<String> {
        let address = self.agent.as_ref().context("no agent runs")?.admin();
        let stream = TcpStream::connect(address).context("cannot reach the agent")?;
        Ok(fetch::get(stream, "agent", "/metrics", &[])?.text())
    }

    /// Fails if a process of the lab has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.lab.check()
    }

    /// A trace to show: of an exemplar in one of the higher buckets of what the storefront's sidecar
    /// received.
    #[must_use]
    pub fn show(&self, buckets: &Buckets) -> Option<String> {
        let of_storefront = |series: &prometheus::Labels| {
            series.get("reporter").is_some_and(|reporter| reporter == "destination")
                && series.get("destination_workload").is_some_and(|name| name.starts_with("storefront"))
        };
        let exemplar = buckets
            .exemplars
            .iter()
            .filter(|exemplar| of_storefront(&exemplar.series))
            .max_by(|a, b| a.value.total_cmp(&b.value))?;
        let spans = self.spans.all();
        let trace = spans.iter().find(|span| tree::hex(&span.trace) == exemplar.trace_id)?.trace.clone();
        let labels: Vec<String> =
            ["reporter", "source_workload", "destination_workload", "response_code", "le"]
                .iter()
                .filter_map(|name| Some(format!("{name}={:?}", exemplar.series.get(*name)?)))
                .collect();
        Some(format!(
            "istio_request_duration_milliseconds_bucket{{{}, ...}}\n  exemplar {} ms, trace_id {}, span_id {}\n\nand the trace that it points to:\n\n{}",
            labels.join(", "),
            exemplar.value,
            exemplar.trace_id,
            exemplar.span_id,
            tree::draw(&spans, &trace)
        ))
    }

    /// Addresses that are open.
    #[must_use]
    pub fn addresses(&self) -> Vec<(&'static str, String)> {
        let url = |address: SocketAddr| format!("http://{address}");
        let mut list = vec![
            ("gateway", format!("{}/checkout/1", self.lab.gateway_url())),
            ("prometheus", url(self.prometheus.address())),
        ];
        if let Some(agent) = &self.agent {
            list.push(("agent", format!("{}/metrics", url(agent.admin()))));
            list.push(("traces", format!("{}/debug/traces", url(agent.admin()))));
        }
        list
    }
}

/// Sum of a counter over its series, from a metrics page.
fn sum(page: &str, name: &str) -> u64 {
    page.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn a_counter_is_summed_over_its_series_and_no_other() {
        let page = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 9\na_total 1\n";
        assert_eq!(sum(page, "a_total"), 6);
    }
}
