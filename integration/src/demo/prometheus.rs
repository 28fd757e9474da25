//! A real Prometheus that scrapes the mesh through the agent.

use crate::lab::Lab;
use crate::lab::fetch;
use crate::lab::process::Process;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The family that the demo looks at.
const FAMILY: &str = "istio_request_duration_milliseconds_bucket";
/// How long it may take until it answers.
const READY: Duration = Duration::from_secs(20);
/// How often it scrapes.
const SCRAPE_EVERY: &str = "1s";

/// A Prometheus that runs. Dropping it kills it: its data is the demo's own.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// An exemplar, as Prometheus returns it.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// Labels of its series; `le` among them.
    pub series: Labels,
    /// `trace_id` in hex.
    pub trace_id: String,
    /// `span_id` in hex.
    pub span_id: String,
    /// In milliseconds.
    pub value: f64,
}

/// Buckets and exemplars of the family.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    /// Series of buckets into which at least one request fell.
    pub hit: Vec<Labels>,
    /// Requests that all series together have counted: each is counted by each proxy on its way.
    pub counted: u64,
    /// All exemplars.
    pub exemplars: Vec<Exemplar>,
}

impl Buckets {
    /// Buckets that were hit and have an exemplar.
    #[must_use]
    pub fn with_exemplar(&self) -> usize {
        let of: std::collections::HashSet<&Labels> =
            self.exemplars.iter().map(|exemplar| &exemplar.series).collect();
        self.hit.iter().filter(|series| of.contains(series)).count()
    }
}

impl Prometheus {
    /// Starts it in the lab's folder, on a free port of the loopback, scraping every Envoy of the lab
    /// through the agent.
    ///
    /// # Errors
    /// It cannot be started, or does not answer in time (with the end of its log).
    pub fn start(lab: &Lab, agent: SocketAddr) -> Result<Self> {
        let binary =
            std::env::var_os("MESHWEFT_PROMETHEUS").map_or_else(|| "prometheus".into(), PathBuf::from);
        let folder = lab.folder().join("prometheus");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let targets: Vec<String> = lab.scrape_targets().iter().map(SocketAddr::to_string).collect();
        let file = folder.join("prometheus.json");
        let config = config(&targets, agent);
        std::fs::write(&file, config.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        // Prometheus takes no port 0; between here and its start nobody else is likely to take it,
        // and should somebody, its log says so.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?;
        let mut command = Command::new(binary);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=warn"])
            .current_dir("/");
        let process = Process::spawn(command, &lab.folder().join("logs/prometheus.log"))?;
        let mut prometheus = Self { process, address };
        let deadline = Instant::now() + READY;
        while prometheus.get("/-/ready").is_err() {
            prometheus.process.check("Prometheus")?;
            if Instant::now() >= deadline {
                bail!(
                    "Prometheus is not ready in time; the end of its log:\n{}",
                    prometheus.process.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(prometheus)
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn get(&self, path: &str) -> Result<Value> {
        let stream = TcpStream::connect(self.address).context("cannot reach Prometheus")?;
        let answer = fetch::get(stream, "prometheus", path, &[])?;
        if answer.status != 200 {
            bail!("Prometheus answers {} to {path}: {}", answer.status, answer.text());
        }
        if path.starts_with("/-/") { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer.body)?) }
    }

    /// Buckets that were hit, and exemplars, since `since`.
    ///
    /// # Errors
    /// Prometheus does not answer, or not as documented.
    pub fn buckets(&self, since: SystemTime) -> Result<Buckets> {
        let answer = self.get(&format!("/api/v1/query?query={FAMILY}"))?;
        let series = answer["data"]["result"].as_array().context("no result")?;
        let mut counts: HashMap<Labels, Vec<(f64, f64, Labels)>> = HashMap::new();
        for one in series {
            let labels = labels(&one["metric"]);
            let count: f64 = one["value"][1].as_str().context("no value")?.parse()?;
            let le: f64 = labels.get("le").context("a bucket without le")?.parse()?;
            let mut rest = labels.clone();
            rest.remove("le");
            counts.entry(rest).or_default().push((le, count, labels));
        }
        let (mut hit, mut counted) = (Vec::new(), 0.0);
        for buckets in counts.values_mut() {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut below = 0.0;
            for (_, count, labels) in buckets {
                if *count > below {
                    hit.push(std::mem::take(labels));
                }
                below = *count;
            }
            counted += below;
        }
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (start, end) = (seconds(since), seconds(SystemTime::now()) + 1);
        let answer = self.get(&format!("/api/v1/query_exemplars?query={FAMILY}&start={start}&end={end}"))?;
        let mut exemplars = Vec::new();
        for one in answer["data"].as_array().context("no exemplars")? {
            let series = labels(&one["seriesLabels"]);
            for exemplar in one["exemplars"].as_array().context("no exemplars of a series")? {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                exemplars.push(Exemplar {
                    series: series.clone(),
                    trace_id: text(&exemplar["labels"]["trace_id"]),
                    span_id: text(&exemplar["labels"]["span_id"]),
                    value: text(&exemplar["value"]).parse()?,
                });
            }
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let counted = counted as u64;
        Ok(Buckets { hit, counted, exemplars })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill();
    }
}

fn config(targets: &[String], agent: SocketAddr) -> Value {
    // JSON is YAML.
    json!({
        "global": {"scrape_interval": SCRAPE_EVERY, "scrape_timeout": SCRAPE_EVERY},
        "scrape_configs": [
            {
                "job_name": "istio",
                "metrics_path": "/scrape",
                "static_configs": [{"targets": targets}],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": agent.to_string()},
                ],
            },
            {"job_name": "meshweft", "static_configs": [{"targets": [agent.to_string()]}]},
        ],
    })
}

fn labels(value: &Value) -> Labels {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}
