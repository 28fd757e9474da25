//! Requests over open connections, as fast as they are answered or at a fixed rate.
//!
//! As fast as they are answered, a proxy of one worker is busy all the time: whatever is compared, its
//! worker never sleeps and its caches are warm, and the figures repeat within some percent even on a
//! machine that has other things to do. At a fixed rate below that, each request wakes a worker whose
//! caches others have used meanwhile. This is nearer to a sidecar's life, costs twice as much per
//! request, and repeats badly.

use super::Interrupt;
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Connections: enough to reach the rate, few enough to be at home in a sidecar.
pub(super) const CONNECTIONS: u64 = 8;
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head that is read, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// What each request has in its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Context {
    /// A `traceparent` of its own.
    Traceparent,
    /// No context.
    None,
}

/// Connections that stay open, one request at a time on each.
#[derive(Debug)]
pub(super) struct Load {
    connections: Vec<Connection>,
    /// Where the numbers of the next requests begin.
    sent: u64,
    /// Upper half of this load's trace ids.
    salt: u64,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Load {
    /// Opens the connections. Loads with different `salt` share no trace id.
    pub(super) fn open(address: SocketAddr, salt: u64) -> Result<Self> {
        let connect = |_| {
            let stream = TcpStream::connect_timeout(&address, TIMEOUT)
                .with_context(|| format!("cannot connect to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Connection { stream, received: Vec::new() })
        };
        Ok(Self { connections: (0..CONNECTIONS).map(connect).collect::<Result<_>>()?, sent: 0, salt })
    }

    /// Sends requests for so long and returns the time of each, unsorted. Each connection waits for
    /// an answer before it asks again; with a rate (requests per second, of all connections) it also
    /// waits for its turn, and sends at once where it is late.
    pub(super) fn run(
        &mut self,
        time: Duration,
        rate: Option<u32>,
        context: Context,
        interrupt: &Interrupt,
    ) -> Result<Vec<Duration>> {
        let (first, salt) = (self.sent, self.salt);
        let start = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..)
                .zip(&mut self.connections)
                .map(|(offset, connection)| {
                    scope.spawn(move || {
                        let mut times = Vec::new();
                        for index in (offset..).step_by(CONNECTIONS as usize) {
                            let now = Instant::now();
                            let due = rate.map_or(now, |rate| {
                                start + Duration::from_nanos(index * 1_000_000_000 / u64::from(rate))
                            });
                            if due.max(now) >= start + time {
                                break;
                            }
                            thread::sleep(due.saturating_duration_since(now));
                            interrupt.check()?;
                            let head = head(first + index, salt, context);
                            let began = Instant::now();
                            connection.ask(&head).with_context(|| format!("request {index}"))?;
                            times.push(began.elapsed());
                        }
                        Ok::<_, anyhow::Error>(times)
                    })
                })
                .collect();
            let mut times = Vec::new();
            for worker in workers {
                let Ok(done) = worker.join() else { bail!("a connection's thread panicked") };
                let done: Vec<Duration> = done?;
                // The numbers are dealt out in turn; the busiest connection has used the highest.
                self.sent = self.sent.max(first + CONNECTIONS * done.len() as u64);
                times.extend(done);
            }
            Ok(times)
        })
    }
}

fn head(number: u64, salt: u64, context: Context) -> String {
    let mut head = format!(
        "GET /orders/{number} HTTP/1.1\r\nhost: orders.shop.svc.cluster.local\r\nuser-agent: meshweft-bench\r\n"
    );
    if context == Context::Traceparent {
        // Neither id may be zero.
        let (salt, number) = (salt + 1, number + 1);
        head.push_str(&format!("traceparent: 00-{salt:016x}{number:016x}-{number:016x}-01\r\n"));
    }
    head + "\r\n"
}

impl Connection {
    /// One request, one answer with status 200 and a `content-length`.
    fn ask(&mut self, head: &str) -> Result<()> {
        self.stream.write_all(head.as_bytes()).context("cannot send")?;
        self.received.clear();
        loop {
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).context("no answer")?;
            ensure!(read > 0, "the connection was closed before the answer");
            self.received.extend_from_slice(&buffer[..read]);
            if let Some(expected) = answer_length(&self.received)? {
                ensure!(self.received.len() <= expected, "more than one answer");
                if self.received.len() == expected {
                    return Ok(());
                }
            }
        }
    }
}

/// Length of the whole answer, once its head is there.
fn answer_length(received: &[u8]) -> Result<Option<usize>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(received.len() <= MAX_HEAD, "the answer's head does not end");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.starts_with("http/1.1 200"), "the answer is {status:?}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize =
        length.and_then(|length| length.trim().parse().ok()).context("the answer has no content-length")?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Serves each connection; every answer comes in two pieces.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                        let (a, b) = answer.split_at(answer.len() / 2);
                        let _ = stream.write_all(a).and_then(|()| stream.write_all(b));
                    }
                });
            }
        });
        address
    }

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn a_load_with_a_rate_is_not_faster_than_that() {
        let mut load = Load::open(server(OK), 1).unwrap();
        let began = Instant::now();
        let times =
            load.run(Duration::from_millis(200), Some(200), Context::None, &Interrupt::default()).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(150));
        assert!((1..=40).contains(&times.len()), "{}", times.len());
    }

    #[test]
    fn requests_of_a_load_share_no_number() {
        let mut load = Load::open(server(OK), 1).unwrap();
        let mut last = 0;
        for _ in 0..2 {
            let times = load
                .run(Duration::from_millis(50), None, Context::Traceparent, &Interrupt::default())
                .unwrap();
            assert!(load.sent >= last + times.len() as u64);
            last = load.sent;
        }
    }

    #[test]
    fn an_answer_that_is_no_success_fails_the_load() {
        let mut load = Load::open(server(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"), 1).unwrap();
        let error = load.run(Duration::from_secs(5), None, Context::None, &Interrupt::default()).unwrap_err();
        assert!(format!("{error:#}").contains("http/1.1 503"), "{error:#}");
    }

    #[test]
    fn a_context_is_there_only_where_it_is_wanted_and_never_zero() {
        assert!(
            head(0, 0, Context::Traceparent)
                .contains("traceparent: 00-00000000000000010000000000000001-0000000000000001-01\r\n")
        );
        assert!(!head(0, 0, Context::None).contains("traceparent"));
    }
}
