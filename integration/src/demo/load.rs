//! Requests through the gateway, without any trace header.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long one request may take before it counts as failed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// Scheme and authority, without a slash at the end.
    pub url: String,
    /// Each request's path, before its number.
    pub path: String,
    /// The first number.
    pub first: u64,
    /// How many.
    pub requests: u64,
    /// How many at once.
    pub concurrency: u64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests without a 200.
    pub failed: u64,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
    /// Time of each request that succeeded, with when it began since the start of the load.
    pub times: Vec<(Duration, Duration)>,
    /// Time from the first request to the last answer.
    pub took: Duration,
}

impl Outcome {
    /// The time that a share of the successful requests (0 to 1) did not exceed.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let mut times: Vec<_> = self.times.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list of thousands"
        )]
        let index = (last as f64 * share).round() as usize;
        times.get(index).copied().unwrap_or_default()
    }
}

/// Sends all requests. `progress` is called with how many are done, at most every 500 ms.
///
/// # Errors
/// A worker cannot run; failed requests are no error.
pub async fn run(load: &Load, mut progress: impl FnMut(u64)) -> Result<Outcome> {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let next = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..load.concurrency {
        let (client, next, done, load) = (client.clone(), Arc::clone(&next), Arc::clone(&done), load.clone());
        workers.spawn(async move {
            let mut outcome = Outcome::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= load.requests {
                    return outcome;
                }
                let url = format!("{}{}{}", load.url, load.path, load.first + index);
                let start = Instant::now();
                match tokio::time::timeout(TIMEOUT, one(&client, &url)).await {
                    Ok(Ok(())) => outcome.times.push((start - began, start.elapsed())),
                    failure => {
                        outcome.failed += 1;
                        let why = match failure {
                            Ok(Err(error)) => format!("{url}: {error:#}"),
                            _ => format!("{url}: no answer in {TIMEOUT:?}"),
                        };
                        outcome.first_failure.get_or_insert(why);
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut total = Outcome::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                Some(outcome) => {
                    let outcome = outcome?;
                    total.failed += outcome.failed;
                    total.times.extend(outcome.times);
                    total.first_failure = total.first_failure.or(outcome.first_failure);
                }
                None => break,
            },
            _ = ticks.tick() => progress(done.load(Ordering::Relaxed)),
        }
    }
    total.took = began.elapsed();
    total.times.sort_unstable();
    progress(load.requests);
    Ok(total)
}

async fn one(client: &Client<HttpConnector, Empty<Bytes>>, url: &str) -> Result<()> {
    let response = client.get(url.parse()?).await?;
    let status = response.status();
    response.into_body().collect().await?;
    anyhow::ensure!(status.is_success(), "status {status}");
    Ok(())
}
