//! The whole thread, for real: apps that know nothing of tracing, Envoys with the filter, the agent
//! with its probes, a real Prometheus. Root and a kernel with BTF are needed; where something is
//! missing the tests fail and say what.

use meshweft_integration::demo::judge::{CHAIN, Step, judge};
use meshweft_integration::demo::load::Outcome;
use meshweft_integration::demo::{Demo, Plan};
use meshweft_integration::lab::mesh::Mesh;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Each test loads both cores of a small machine; together they would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn mesh(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("meshes").join(name)
}

/// Sum of a counter on the pages of all Envoys, over the series that contain `label`.
fn envoy_counter(demo: &Demo, name: &str) -> u64 {
    let pages = demo.lab().pods().iter().map(|pod| demo.lab().prometheus(&pod.name).unwrap());
    pages
        .flat_map(|page| page.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn every_request_is_one_trace_and_every_bucket_points_at_one() {
    let _alone = alone();
    runtime().block_on(async {
        let demo = Demo::start(&mesh("demo.yaml")).await.unwrap();
        let plan = Plan { requests: 2000, concurrency: 20 };
        let outcome = demo.send(1, &plan, |_| {}).await.unwrap();
        let (figures, buckets) = demo.settle(1, &outcome, 2000).await.unwrap();
        println!("{}", figures.json());
        assert_eq!(figures.failed, 0, "{:?}", outcome.first_failure);
        assert_eq!(figures.verdict.wrong_parent, 0, "{:#?}", figures.verdict.complaints);
        assert!(figures.verdict.complete >= 1998, "{:#?}", figures.verdict);
        assert_eq!(figures.spans_seen, figures.spans_exported + figures.spans_dropped);
        assert_eq!(figures.spans_dropped, 0);
        // Gateway, three inbound and two outbound proxies have a bucket at least.
        assert!(figures.buckets_hit >= 6, "{:#?}", buckets.hit);
        assert_eq!(figures.buckets_with_exemplar, figures.buckets_hit);
        assert_eq!(figures.dangling_exemplars, 0);
    });
}

#[test]
fn headers_that_an_app_copies_by_hand_give_the_same_tree() {
    let _alone = alone();
    runtime().block_on(async {
        let demo = Demo::start(&mesh("demo-headers-copied.yaml")).await.unwrap();
        let plan = Plan { requests: 500, concurrency: 10 };
        let outcome = demo.send(1, &plan, |_| {}).await.unwrap();
        let (figures, _) = demo.settle(1, &outcome, 500).await.unwrap();
        assert_eq!(figures.failed, 0, "{:?}", outcome.first_failure);
        assert_eq!(
            (figures.verdict.complete, figures.verdict.wrong_parent),
            (500, 0),
            "{:#?}",
            figures.verdict
        );
        assert_eq!(figures.spans_seen, 500 * CHAIN.len() as u64, "nothing is shown twice");
    });
}

#[test]
fn a_killed_agent_fails_no_request_and_a_new_one_sees_the_open_connections() {
    let _alone = alone();
    runtime().block_on(async {
        let mut demo = Demo::start(&mesh("demo.yaml")).await.unwrap();
        let plan = Plan { requests: 200, concurrency: 10 };
        let before = demo.send(1, &plan, |_| {}).await.unwrap();
        let asked = |demo: &Demo| {
            ["timeout", "failed"]
                .map(|outcome| envoy_counter(demo, &format!("meshweft_context_{outcome}_total")))
                .iter()
                .sum::<u64>()
        };
        let asked_before = asked(&demo);
        // Killed while requests are under way.
        let (killed, ()) = tokio::join!(
            async { demo.send(1_000, &Plan { requests: 600, concurrency: 10 }, |_| {}).await.unwrap() },
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                demo.signal_agent(libc::SIGKILL);
            }
        );
        demo.kill_agent();
        let without = demo.send(2_000, &plan, |_| {}).await.unwrap();
        let asked_in_vain = asked(&demo) - asked_before;
        demo.start_agent().unwrap();
        let after = traced_again(&demo).await;
        for (name, outcome) in
            [("before", &before), ("while", &killed), ("without", &without), ("after", &after)]
        {
            assert_eq!(outcome.failed, 0, "{name}: {:?}", outcome.first_failure);
        }
        // Two proxies ask, with one worker each. Whatever was under way when the agent died asked in
        // vain, at most once a request; then the breakers are open.
        println!("asked in vain: {asked_in_vain}");
        assert!((1..=2 * 10).contains(&asked_in_vain), "{asked_in_vain}");
    });
}

/// Sends requests until the breakers have closed again, then judges a batch of them.
async fn traced_again(demo: &Demo) -> Outcome {
    let plan = Plan { requests: 200, concurrency: 10 };
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut first = 10_000;
    loop {
        let outcome = demo.send(first, &plan, |_| {}).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let verdict = judge(&demo.spans().all(), &CHAIN, first..first + plan.requests);
        if verdict.complete == plan.requests {
            assert_eq!(verdict.wrong_parent, 0);
            return outcome;
        }
        assert!(Instant::now() < deadline, "{verdict:#?}");
        first += plan.requests;
    }
}

#[test]
fn programs_that_are_not_ours_are_traced_the_same_way() {
    let _alone = alone();
    // Debian's Apache (prefork, mod_proxy) before Python's own file server.
    const CHAIN: [Step<'_>; 7] = [
        ("mesh.gateway", "gateway", "/"),
        ("mesh.inbound", "proxy", "/"),
        ("app.server", "proxy", "/"),
        ("app.client", "proxy", "/"),
        ("mesh.outbound", "proxy", "/"),
        ("mesh.inbound", "files", "/"),
        ("app.server", "files", "/"),
    ];
    const REQUESTS: u64 = 200;
    let files = tempfile::tempdir().unwrap();
    for number in 1..=REQUESTS {
        std::fs::write(files.path().join(number.to_string()), number.to_string()).unwrap();
    }
    let text = format!(
        "pods:\n  - {{name: proxy, workdir: apache, command: [sh, run.sh], port: 8080, env: {{BACKEND: \"http://files:8080\"}}}}\n  \
         - {{name: files, workdir: {}, command: [python3, -m, http.server, \"8080\"], port: 8080}}\n\
         gateway: {{routes: [{{prefix: /, service: proxy}}]}}\n",
        files.path().display()
    );
    let mesh = Mesh::parse(&text, &mesh("")).unwrap();
    runtime().block_on(async {
        let demo = Demo::start_with(&mesh).await.unwrap();
        let plan = Plan { requests: REQUESTS, concurrency: 8 };
        let outcome = demo.send_to("/", 1, &plan, |_| {}).await.unwrap();
        assert_eq!(outcome.failed, 0, "{:?}", outcome.first_failure);
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let verdict = judge(&demo.spans().all(), &CHAIN, 1..=REQUESTS);
            assert_eq!(verdict.wrong_parent, 0, "{:#?}", verdict.complaints);
            if verdict.complete == REQUESTS {
                break;
            }
            assert!(Instant::now() < deadline, "{verdict:#?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
}
