//! `bench probes`: what the agent's probes cost a program, and the node.
//!
//! An nginx with one worker answers a few bytes to wrk, as fast as both can: the worst case for
//! probes on system calls, for there is next to nothing between two of them. Three cases: no agent;
//! the agent instruments this nginx; the agent instruments another port, and nginx is a bystander.
//!
//! CPU per request is the CPU time of nginx, wrk and the agent together. The probes run inside the
//! system calls of nginx and wrk, and so does the loopback's packet processing, so that this is what
//! the node spends; unlike the busy time of `/proc/stat` it is exact, and other programs on the
//! machine are not in it. The agent's part runs until it has nothing left to do for these requests.

use super::agent::Agent;
use super::collector::Collector;
use super::measure::{Series, cpu_time, ended_children, order, per_request};
use super::nginx::{Nginx, program};
use super::site::{Part, Site};
use super::table::{Row, Table};
use super::{Interrupt, Settings};
use crate::lab::tools::{Filter, Tools};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Connections of wrk.
const CONNECTIONS: u32 = 8;
/// How long the agent may take to finish what it saw; its correlation window is 2 s.
const SETTLE: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Off,
    Instrumented,
    Bystander,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Off, Self::Instrumented, Self::Bystander];

    const fn name(self) -> &'static str {
        match self {
            Self::Off => "agent off",
            Self::Instrumented => "agent on",
            Self::Bystander => "agent on, for another program",
        }
    }

    fn select(self, port: u16) -> Option<Value> {
        match self {
            Self::Off => None,
            Self::Instrumented => Some(json!([{"ports": port}])),
            // Nobody listens on port 1.
            Self::Bystander => Some(json!([{"ports": 1}])),
        }
    }
}

/// What was measured of one case, one value of each round.
#[derive(Debug, Default)]
struct Figures {
    throughput: Series,
    /// CPU of nginx, wrk and the agent per request, in microseconds.
    node: Series,
    /// Of these, nginx's.
    nginx: Series,
    /// Of these, the agent's.
    agent: Series,
    /// `app.server` spans per request.
    spans: Series,
    /// Of all rounds: `meshweft_capture_lost_total` by reason.
    lost: BTreeMap<String, Series>,
}

/// Runs the bench.
///
/// # Errors
/// A part is missing or does not start, or a measurement did not measure what it should have.
pub fn run(settings: Settings, interrupt: &Interrupt, progress: impl Fn(&str)) -> Result<Table> {
    let binary = Tools::from_environment(Filter::Without)?.agent()?;
    let site = Site::new()?;
    let collector = Collector::start()?;
    let nginx = Nginx::start(&site, interrupt)?;
    let bench =
        Bench { binary: &binary, site: &site, collector: &collector, nginx: &nginx, settings, interrupt };
    let mut all = Kind::ALL.map(|_| Figures::default());
    for round in 0..settings.rounds {
        for index in order(all.len(), round) {
            let (kind, figures) = (Kind::ALL[index], &mut all[index]);
            bench.measure(kind, figures).with_context(|| format!("round {}, {}", round + 1, kind.name()))?;
            progress(&format!(
                "round {} of {}: {}: {:.0} requests/s, {:.2} us",
                round + 1,
                settings.rounds,
                kind.name(),
                figures.throughput.last(),
                figures.node.last()
            ));
        }
    }
    Ok(table(&all, settings))
}

struct Bench<'a> {
    binary: &'a Path,
    site: &'a Site,
    collector: &'a Collector,
    nginx: &'a Nginx,
    settings: Settings,
    interrupt: &'a Interrupt,
}

impl Bench<'_> {
    fn measure(&self, kind: Kind, figures: &mut Figures) -> Result<()> {
        let select = kind.select(self.nginx.address().port());
        let start =
            |select| Agent::start(self.binary, self.site, &select, &self.collector.url(), self.interrupt);
        let mut agent = select.map(start).transpose()?;
        let agent_cpu =
            |agent: &Option<Agent>| agent.as_ref().map_or(Ok(Duration::ZERO), |agent| cpu_time(agent.pid()));
        let before = (cpu_time(self.nginx.pid())?, agent_cpu(&agent)?, ended_children()?);
        let sent = self.load()?;
        let nginx = cpu_time(self.nginx.pid())? - before.0;
        let wrk = ended_children()? - before.2;
        let mut seen = 0;
        if let Some(agent) = &mut agent {
            seen = self.settle(agent)?;
            let metrics = agent.metrics()?;
            for (reason, count) in metrics.series("meshweft_capture_lost_total") {
                #[expect(clippy::cast_precision_loss, reason = "counts of events are far below 2^53")]
                figures.lost.entry(reason.to_owned()).or_default().push(count as f64);
            }
        }
        let agent_used = agent_cpu(&agent)? - before.1;
        // Before another child is waited for within the next measurement.
        agent.map(Agent::end).transpose()?;
        match kind {
            Kind::Instrumented => ensure!(seen > 0, "the agent saw none of {} requests", sent.requests),
            _ => ensure!(seen == 0, "the agent saw {seen} requests that it should not have seen"),
        }
        figures.throughput.push(sent.per_second);
        figures.node.push(per_request(nginx + wrk + agent_used, sent.requests));
        figures.nginx.push(per_request(nginx, sent.requests));
        figures.agent.push(per_request(agent_used, sent.requests));
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
        figures.spans.push(seen as f64 / sent.requests as f64);
        Ok(())
    }

    fn load(&self) -> Result<Sent> {
        let log = self.site.path("wrk.log");
        // Each run's report stands alone.
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(program("wrk"));
        command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
        command.arg("--duration").arg(format!("{}s", self.settings.seconds));
        command.arg(url(self.nginx.address()));
        let mut wrk = Part::start("wrk", command, &log)?;
        wrk.wait(Duration::from_secs(self.settings.seconds + 30), self.interrupt)?;
        let report = std::fs::read_to_string(&log).context("wrk's report")?;
        Sent::parse(&report).with_context(|| format!("wrk's report:\n{report}"))
    }

    /// Waits until the agent has dealt with all that it saw; returns its `app.server` spans.
    fn settle(&self, agent: &mut Agent) -> Result<u64> {
        let deadline = Instant::now() + SETTLE;
        let mut last = None;
        loop {
            let metrics = agent.metrics()?;
            let [seen, exported, dropped, events] =
                ["spans_seen", "spans_exported", "spans_dropped", "capture_events"]
                    .map(|name| metrics.sum(&format!("meshweft_{name}_total")));
            let now = Some((seen, events));
            if seen == exported + dropped && last == now {
                return Ok(metrics.of("meshweft_spans_seen_total", "app.server"));
            }
            last = now;
            ensure!(
                Instant::now() < deadline,
                "the agent is not done: {seen} spans seen, {exported} exported, {dropped} dropped"
            );
            self.interrupt.sleep(Duration::from_millis(100))?;
        }
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

/// What wrk reports.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sent {
    requests: u64,
    per_second: f64,
}

impl Sent {
    fn parse(report: &str) -> Result<Self> {
        for trouble in ["Socket errors", "Non-2xx"] {
            ensure!(!report.contains(trouble), "not all requests succeeded");
        }
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
        let per_second = report.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
        let sent = Self {
            requests: requests.and_then(|(count, _)| count.parse().ok()).context("no count of requests")?,
            per_second: per_second
                .and_then(|rate| rate.trim().parse().ok())
                .context("no rate of requests")?,
        };
        ensure!(sent.requests > 0, "no requests");
        Ok(sent)
    }
}

fn table(all: &[Figures; 3], settings: Settings) -> Table {
    let [off, on, bystander] = all;
    let mut rows = Vec::new();
    for (kind, figures) in Kind::ALL.iter().zip(all) {
        let row = Row::new(format!("throughput, {}", kind.name()), "req/s", &figures.throughput);
        rows.push(row.against(&figures.throughput, &off.throughput));
    }
    for (kind, figures) in Kind::ALL.iter().zip(all) {
        let row = Row::new(format!("node CPU per request, {}", kind.name()), "us", &figures.node);
        rows.push(row.against(&figures.node, &off.node));
    }
    for (kind, figures) in Kind::ALL.iter().zip(all) {
        let row = Row::new(format!("of it nginx, {}", kind.name()), "us", &figures.nginx);
        rows.push(row.against(&figures.nginx, &off.nginx));
    }
    for (name, figures) in [("agent on", on), ("agent on, for another program", bystander)] {
        rows.push(Row::new(format!("of it the agent, {name}"), "us", &figures.agent));
    }
    rows.push(Row::new("app.server spans per request, agent on", "spans", &on.spans));
    for (reason, lost) in &on.lost {
        rows.push(Row::new(format!("capture lost, {reason}, agent on"), "events", lost));
    }
    let notes = vec![
        format!(
            "nginx with one worker under wrk ({CONNECTIONS} connections), {} rounds of {} s; node CPU is that of nginx, wrk and the agent.",
            settings.rounds, settings.seconds
        ),
        "Ratios: against the same figure with the agent off.".to_owned(),
    ];
    Table { rows, notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 8 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   100.00us\n  97531 requests in 3.00s, 15.00MB read\nRequests/sec:  32510.33\nTransfer/sec:      5.00MB\n";

    #[test]
    fn a_report_of_wrk_is_read() {
        assert_eq!(Sent::parse(REPORT).unwrap(), Sent { requests: 97531, per_second: 32510.33 });
    }

    #[test]
    fn a_report_of_failures_or_of_nothing_is_an_error() {
        for wrong in [
            String::new(),
            REPORT.replace("97531", "0"),
            format!("{REPORT}  Non-2xx or 3xx responses: 3\n"),
            format!("{REPORT}  Socket errors: connect 0, read 1, write 0, timeout 0\n"),
        ] {
            assert!(Sent::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
