//! Hostile input on every road into Meshweft: nothing panics, no request is hurt, each kind is
//! counted under its reason. (Scrape targets that lie are tested in host-agent/tests/agent/scrape.rs.)

use meshweft_integration::demo::sink::Seen;
use meshweft_integration::demo::{Demo, Plan};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and returns what comes back until the other side closes.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // That the other side resets the connection is an end like any other.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn request(demo: &Demo, number: u64, headers: &[&[u8]]) -> Vec<u8> {
    let mut bytes =
        format!("GET /checkout/{number} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n").into_bytes();
    for header in headers {
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    exchange(demo.lab().gateway_address(), &bytes)
}

fn assert_served(answer: &[u8], what: &str) {
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{what}: {}", String::from_utf8_lossy(answer));
}

/// Value of a counter on a metrics page, with these labels or none.
fn counter(page: &str, series: &str) -> u64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    lines.map(|value| value.parse::<u64>().unwrap()).sum()
}

/// Waits until `check` holds. It is asked again and again because counters and spans are handed on by
/// timers.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn spans_of(demo: &Demo, number: u64) -> Vec<Seen> {
    let path = format!("/checkout/{number}");
    demo.spans().all().into_iter().filter(|span| span.path == path).collect()
}

#[test]
fn hostile_input_hurts_nobody_and_is_counted() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mesh = Path::new(env!("CARGO_MANIFEST_DIR")).join("meshes/demo.yaml");
    let mut demo = runtime.block_on(Demo::start(&mesh)).unwrap();
    let gateway = |demo: &Demo, name: &str| counter(&demo.lab().prometheus("gateway").unwrap(), name);
    let lost = |demo: &Demo, reason: &str| {
        counter(
            &demo.agent_metrics().unwrap(),
            &format!("meshweft_capture_lost_total{{reason=\"{reason}\"}}"),
        )
    };

    // Contexts that are none.
    let malformed: [&[u8]; 6] = [
        b"traceparent: garbage",
        b"traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"traceparent: \xff\xfe\xfd",
    ];
    for (number, header) in (1..).zip(malformed) {
        assert_served(&request(&demo, number, &[header]), &String::from_utf8_lossy(header));
    }
    eventually("malformed contexts are counted", || {
        gateway(&demo, "meshweft_context_invalid_malformed_total{}") == malformed.len() as u64
    });
    let valid: &[u8] = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_served(&request(&demo, 100, &[valid, valid]), "two contexts");
    eventually("duplicate contexts are counted", || {
        gateway(&demo, "meshweft_context_invalid_duplicate_total{}") == 1
    });
    eventually("a refused context begins a new trace", || {
        let spans = spans_of(&demo, 100);
        spans.len() == 3 && spans.iter().all(|span| !span.trace.starts_with(&[0x0a, 0xf7, 0x65]))
    });
    assert_served(&request(&demo, 101, &[valid]), "a valid context");
    eventually("a valid context is taken", || {
        let spans = spans_of(&demo, 101);
        spans.len() == 3 && spans.iter().all(|span| span.trace.starts_with(&[0x0a, 0xf7, 0x65]))
    });

    // Header values that are no text.
    assert_served(
        &request(&demo, 200, &[b"User-Agent: \xff\xfe", b"X-Request-Id: \xc3\x28", b"X-Junk: \x80\x81"]),
        "values that are not UTF-8",
    );
    eventually("spans with values that are not UTF-8 arrive", || spans_of(&demo, 200).len() == 3);

    // Large heads: 60 headers of 1 KiB.
    let filler = [b'x'; 1000];
    let large: Vec<Vec<u8>> =
        (0..60).map(|number| [format!("X-Large-{number}: ").as_bytes(), &filler].concat()).collect();
    let large: Vec<&[u8]> = large.iter().map(Vec::as_slice).collect();
    let before = lost(&demo, "gap") + lost(&demo, "head_too_large");
    assert_served(&request(&demo, 300, &large), "60 KiB of headers");
    eventually("a head that is too large is counted", || {
        lost(&demo, "gap") + lost(&demo, "head_too_large") > before
    });
    eventually("the mesh's spans of it arrive", || {
        spans_of(&demo, 300).iter().filter(|span| span.hop.starts_with("mesh.")).count() == 2
    });

    // Garbage on an instrumented port, past the gateway and any HTTP.
    let before = lost(&demo, "unknown_protocol");
    let app = SocketAddr::from((demo.lab().pod("storefront").unwrap().address, 8080));
    for garbage in
        [&[[0; 4096].as_slice(), b"\n"].concat(), &[&[0xff; 100], &b"\n"[..]].concat(), &b"SSH-2.0-x\r\n"[..]]
    {
        // The app answers a line that is no request, and closes.
        let answer = exchange(app, garbage);
        assert!(!answer.is_empty(), "the app got it");
    }
    eventually("garbage is counted", || lost(&demo, "unknown_protocol") > before);

    // After all of it, everything is as before.
    runtime.block_on(async {
        let plan = Plan { requests: 50, concurrency: 5 };
        let outcome = demo.send(1_000, &plan, |_| {}).await.unwrap();
        let (figures, _) = demo.settle(1_000, &outcome, 50).await.unwrap();
        assert_eq!(figures.failed, 0, "{:?}", outcome.first_failure);
        assert_eq!(
            (figures.verdict.complete, figures.verdict.wrong_parent),
            (50, 0),
            "{:#?}",
            figures.verdict
        );
    });
    demo.check().unwrap();
}
