//! `bench filter`: Envoy's CPU per request.
//!
//! Four Envoys with one worker each run side by side: without a filter, twice with ours (loaded with
//! requests that have a context, and with requests that do not), and with Envoy's native OpenTelemetry
//! tracer. One is loaded at a time (see `load.rs`), in front of the same nginx; all export to the same
//! agent, which instruments nothing and exports to a collector that keeps nothing.
//!
//! The figure is the CPU time of the whole Envoy process, from the first request of a measurement until
//! all spans of it are at the agent, over these requests, less what the process uses when idle.
//!
//! Each measurement is checked: all spans have arrived at the agent, each request without a context
//! was a question, and nothing was dropped. Otherwise the bench fails.

use super::agent::{Agent, Metrics};
use super::collector::Collector;
use super::envoy::{Counters, Envoy, Observer, Surroundings};
use super::load::{CONNECTIONS, Context, Load};
use super::measure::{Series, cpu_time, order, per_request};
use super::nginx::Nginx;
use super::site::Site;
use super::table::{Row, Table};
use super::{Interrupt, Settings};
use crate::lab::tools::{Filter, Tools};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

/// At most half of what the native tracer adds.
const TARGET: f64 = 0.5;
/// Load of each variant before the first round.
const FIRST_WARM_UP: Duration = Duration::from_secs(2);
/// Load before each measurement, on the same connections.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long idle Envoys are watched.
const IDLE: Duration = Duration::from_secs(2);
/// How long spans may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Spans that the tracer keeps back until its flush interval of 5 s: it sends five at a time.
const HELD_BACK: u64 = 4;

/// The agent's count of spans, by hop; the tracer's are `other`.
const SEEN: &str = "meshweft_spans_seen_total";

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Baseline,
    ContextPresent,
    ContextQuestion,
    NativeTracer,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Baseline, Self::ContextPresent, Self::ContextQuestion, Self::NativeTracer];

    const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "no filter",
            Self::ContextPresent => "filter, context present",
            Self::ContextQuestion => "filter, context question",
            Self::NativeTracer => "native OpenTelemetry tracer",
        }
    }

    const fn observer(self) -> Observer {
        match self {
            Self::Baseline => Observer::Nobody,
            Self::ContextPresent | Self::ContextQuestion => Observer::Filter,
            Self::NativeTracer => Observer::Tracer,
        }
    }

    const fn context(self) -> Context {
        match self {
            Self::ContextQuestion => Context::None,
            _ => Context::Traceparent,
        }
    }
}

struct Variant {
    kind: Kind,
    envoy: Envoy,
    /// Share of a CPU that it uses when idle.
    idle: f64,
    figures: Figures,
}

/// What was measured, one value of each round.
#[derive(Debug, Default)]
struct Figures {
    /// Envoy's CPU per request, in microseconds.
    cpu: Series,
    /// Median time of a request, in microseconds.
    time: Series,
    /// Calls between the filter's VM and Envoy, per request.
    host_calls: Series,
}

/// Runs the bench.
///
/// # Errors
/// A part is missing or does not start, or a measurement did not measure what it should have.
pub fn run(
    settings: Settings,
    rate: Option<u32>,
    interrupt: &Interrupt,
    progress: impl Fn(&str),
) -> Result<Table> {
    let tools = Tools::from_environment(Filter::Required)?;
    let module =
        tools.filter.as_deref().context("the filter's module is missing; `cargo xtask build` makes it")?;
    let site = Site::new()?;
    let collector = Collector::start()?;
    let nginx = Nginx::start(&site, interrupt)?;
    let mut agent = Agent::start(&tools.agent()?, &site, &json!([]), &collector.url(), interrupt)?;
    let around =
        Surroundings { binary: &tools.envoy, module, upstream: nginx.address(), agent: &agent, site: &site };
    let start = |kind: Kind| {
        progress(&format!("starting Envoy: {}", kind.name()));
        let envoy = Envoy::start(&format!("{kind:?}"), kind.observer(), &around, interrupt)?;
        Ok::<_, anyhow::Error>(Variant { kind, envoy, idle: 0.0, figures: Figures::default() })
    };
    let mut variants = Kind::ALL.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    // V8 compiles the filter's hot functions again, better, after some thousands of calls.
    progress("warming up");
    for variant in &variants {
        let mut load = Load::open(variant.envoy.address(), u64::MAX / 2)?;
        load.run(FIRST_WARM_UP, rate, variant.kind.context(), interrupt)?;
    }
    // The tracer's last spans come late. What starting left to do is not idling either.
    interrupt.sleep(Duration::from_secs(5))?;
    watch_idle(&mut variants, interrupt)?;
    let time = Duration::from_secs(settings.seconds);
    for round in 0..settings.rounds {
        for index in order(variants.len(), round) {
            let variant = &mut variants[index];
            let salt = u64::from(round) * Kind::ALL.len() as u64 + index as u64;
            let name = variant.kind.name();
            measure(variant, &mut agent, Plan { time, rate, salt }, interrupt)
                .with_context(|| format!("round {}, {name}", round + 1))?;
            progress(&format!(
                "round {} of {}: {name}: {:.2} us",
                round + 1,
                settings.rounds,
                variant.figures.cpu.last()
            ));
        }
    }
    Ok(table(&variants, rate, settings))
}

fn watch_idle(variants: &mut [Variant], interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    let before = variants.iter().map(|variant| cpu_time(variant.envoy.pid())).collect::<Result<Vec<_>>>()?;
    interrupt.sleep(IDLE)?;
    for (variant, before) in variants.iter_mut().zip(before) {
        let used = cpu_time(variant.envoy.pid())? - before;
        variant.idle = used.as_secs_f64() / began.elapsed().as_secs_f64();
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Plan {
    time: Duration,
    /// Requests per second; None for as many as are answered.
    rate: Option<u32>,
    salt: u64,
}

fn measure(variant: &mut Variant, agent: &mut Agent, plan: Plan, interrupt: &Interrupt) -> Result<()> {
    let (kind, context) = (variant.kind, variant.kind.context());
    let before = Counts::read(variant, agent)?;
    let mut load = Load::open(variant.envoy.address(), plan.salt)?;
    let warm_up = load.run(WARM_UP, plan.rate, context, interrupt)?.len() as u64;
    wait_for_spans(kind, agent, &before, warm_up, interrupt)?;
    let (began, cpu) = (Instant::now(), cpu_time(variant.envoy.pid())?);
    let mut times = load.run(plan.time, plan.rate, context, interrupt)?;
    let requests = times.len() as u64;
    wait_for_spans(kind, agent, &before, warm_up + requests, interrupt)?;
    let (used, took) = (cpu_time(variant.envoy.pid())? - cpu, began.elapsed());
    let after = verified(variant, agent, &before, warm_up + requests, interrupt)?;

    let figures = &mut variant.figures;
    figures.cpu.push(per_request(used.saturating_sub(took.mul_f64(variant.idle)), requests));
    times.sort_unstable();
    figures.time.push(times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e6);
    if kind.observer() == Observer::Filter {
        let calls =
            after.filter.get("meshweft_host_calls_total") - before.filter.get("meshweft_host_calls_total");
        #[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^53")]
        figures.host_calls.push(calls as f64 / (warm_up + requests) as f64);
    }
    Ok(())
}

/// Waits until the agent has these requests' spans, without a look at Envoy, which would cost it CPU.
/// Where they do not come, [`verified`] says what is wrong.
fn wait_for_spans(
    kind: Kind,
    agent: &mut Agent,
    before: &Counts,
    requests: u64,
    interrupt: &Interrupt,
) -> Result<()> {
    let (hop, least) = match kind.observer() {
        Observer::Nobody => return Ok(()),
        Observer::Filter => ("mesh.outbound", requests),
        Observer::Tracer => ("other", requests.saturating_sub(HELD_BACK)),
    };
    let deadline = Instant::now() + ARRIVAL;
    while Instant::now() < deadline {
        if agent.metrics()?.of(SEEN, hop) - before.agent.of(SEEN, hop) >= least {
            break;
        }
        interrupt.sleep(Duration::from_millis(20))?;
    }
    Ok(())
}

/// Counters of both sides.
struct Counts {
    agent: Metrics,
    filter: Counters,
}

impl Counts {
    fn read(variant: &mut Variant, agent: &mut Agent) -> Result<Self> {
        Ok(Self { agent: agent.metrics()?, filter: variant.envoy.counters()? })
    }
}

/// Waits until all that the requests lead to has arrived, and fails if it does not, or if it is not
/// what this variant is about.
fn verified(
    variant: &mut Variant,
    agent: &mut Agent,
    before: &Counts,
    requests: u64,
    interrupt: &Interrupt,
) -> Result<Counts> {
    let expected = |kind| if variant.kind == kind { requests } else { 0 };
    let spans = expected(Kind::ContextPresent) + expected(Kind::ContextQuestion);
    let (questions, traced) = (expected(Kind::ContextQuestion), expected(Kind::NativeTracer));
    let deadline = Instant::now() + ARRIVAL;
    loop {
        let now = Counts::read(variant, agent)?;
        let seen = |hop| now.agent.of(SEEN, hop) - before.agent.of(SEEN, hop);
        let filter = |name: &str| now.filter.sum(name) - before.filter.sum(name);
        let asked = now.agent.sum("meshweft_context_questions_total")
            - before.agent.sum("meshweft_context_questions_total");
        let understood =
            asked == filter("meshweft_context_answered_total") + filter("meshweft_context_unknown_total");
        let complete = seen("mesh.outbound") == spans
            // What an earlier round's tracer kept back may arrive now.
            && seen("other").abs_diff(traced) <= HELD_BACK
            && filter("meshweft_requests_total") == spans
            && filter("meshweft_exported_total") == spans
            && asked == questions
            && understood;
        let dropped = filter("meshweft_dropped_");
        if complete && dropped == 0 {
            return Ok(now);
        }
        ensure!(
            Instant::now() < deadline,
            "{requests} requests led to {} spans of the filter (expected {spans}), {} of the tracer (expected {traced}) and {asked} questions (expected {questions}) at the agent; the filter says: {} requests, {} spans exported, {dropped} dropped, {} questions answered, {} unknown, {} timed out, {} failed, {} not asked because the breaker was open",
            seen("mesh.outbound"),
            seen("other"),
            filter("meshweft_requests_total"),
            filter("meshweft_exported_total"),
            filter("meshweft_context_answered_total"),
            filter("meshweft_context_unknown_total"),
            filter("meshweft_context_timeout_total"),
            filter("meshweft_context_failed_total"),
            filter("meshweft_context_skipped_total"),
        );
        interrupt.sleep(Duration::from_millis(50))?;
    }
}

fn table(variants: &[Variant], rate: Option<u32>, settings: Settings) -> Table {
    let [baseline, present, question, tracer] = variants else { return Table::default() };
    let all = [baseline, present, question, tracer];
    let mut rows = Vec::new();
    for variant in all {
        let cpu = &variant.figures.cpu;
        rows.push(Row::new(variant.kind.name(), "us", cpu).against(cpu, &baseline.figures.cpu));
    }
    let added =
        |variant: &Variant| variant.figures.cpu.zip(&baseline.figures.cpu, |with, without| with - without);
    let native = added(tracer);
    for variant in [present, question, tracer] {
        let added = added(variant);
        let row = Row::new(format!("{}, added", variant.kind.name()), "us", &added).against(&added, &native);
        rows.push(if variant.kind == Kind::ContextPresent { row.target(TARGET) } else { row });
    }
    for variant in [present, question] {
        let name = format!("host calls per request, {}", variant.kind.name());
        rows.push(Row::new(name, "calls", &variant.figures.host_calls));
    }
    for variant in all {
        let time = &variant.figures.time;
        let row = Row::new(format!("time of a request, p50, {}", variant.kind.name()), "us", time);
        rows.push(row.against(time, &baseline.figures.time));
    }
    let idle: Vec<_> = all.iter().map(|variant| format!("{:.0}", variant.idle * 1e6)).collect();
    let pace = rate.map_or_else(|| "full load".to_owned(), |rate| format!("{rate} requests/s"));
    let notes = vec![
        format!(
            "Envoy CPU (user and system, all threads) per request; one worker, {pace} on {CONNECTIONS} connections, {} rounds of {} s.",
            settings.rounds, settings.seconds
        ),
        "Ratios: against no filter; of what is added, against what the native tracer adds.".to_owned(),
        format!("Already subtracted, CPU when idle, in the order above: {} us/s.", idle.join(", ")),
    ];
    Table { rows, notes }
}
