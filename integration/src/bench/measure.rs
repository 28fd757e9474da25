//! CPU clocks, medians, the order of measurements.

use anyhow::{Context as _, Result, bail, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Values of one figure, one of each round.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Series {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The latest. NaN of none.
    pub(super) fn last(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// Of an even number of values, the mean of the middle two. NaN of none.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Combines the values of each round.
    pub(super) fn zip(&self, other: &Self, with: impl Fn(f64, f64) -> f64) -> Self {
        self.0.iter().zip(&other.0).map(|(a, b)| with(*a, *b)).collect()
    }
}

/// In which order `count` things are measured: A B C D, then D C B A, so that what drifts over a run
/// (temperature, neighbours) falls on all alike.
pub(super) fn order(count: usize, round: u32) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

/// Microseconds of `time` that fall on each of `requests`.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
pub(super) fn per_request(time: Duration, requests: u64) -> f64 {
    time.as_secs_f64() * 1e6 / requests as f64
}

/// User and system time of a process so far: all of its threads, ended ones too, in nanoseconds
/// (clock_getcpuclockid(3)). Ticks, as `/proc/PID/stat` has them, would be too coarse.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let id = libc::pid_t::try_from(pid)?;
    let mut clock = 0;
    // SAFETY: the clock's id is written to a variable of its type.
    let status = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) };
    ensure!(status == 0, "process {pid} has no CPU clock: {}", std::io::Error::from_raw_os_error(status));
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a variable of its type.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(status == 0, "cannot read the CPU clock of process {pid}: {}", std::io::Error::last_os_error());
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// User and system time of all children that have ended and were waited for.
pub(super) fn ended_children() -> Result<Duration> {
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the usage is written to a variable of its type.
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    ensure!(status == 0, "cannot read the CPU time of children: {}", std::io::Error::last_os_error());
    let time = |value: libc::timeval| {
        Ok::<_, anyhow::Error>(
            Duration::from_secs(value.tv_sec.try_into()?) + Duration::from_micros(value.tv_usec.try_into()?),
        )
    };
    Ok(time(usage.ru_utime)? + time(usage.ru_stime)?)
}

/// Whether somebody wants the bench to end: Ctrl-C or SIGTERM. It then ends with an error, and with
/// it what it started.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, SIGINT and SIGTERM are noted and do nothing else.
    ///
    /// # Errors
    /// They cannot be waited for.
    pub fn watch() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = Self::default();
        let flag = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupted) = {
            let _context = runtime.enter();
            let wait = |kind| signal(kind).context("cannot wait for signals");
            (wait(SignalKind::terminate())?, wait(SignalKind::interrupt())?)
        };
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupted.recv() => {}
                }
            });
            flag.store(true, Ordering::Relaxed);
        });
        Ok(interrupt)
    }

    /// Whether it has come.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails where it has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.came() { bail!("interrupted") } else { Ok(()) }
    }

    /// Sleeps in steps.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(50);
        let mut left = time;
        while !left.is_zero() {
            self.check()?;
            let step = left.min(STEP);
            thread::sleep(step);
            left -= step;
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        let median = |values: &[f64]| values.iter().copied().collect::<Series>().median();
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_order_turns_round_with_each_round() {
        assert_eq!(order(4, 0), [0, 1, 2, 3]);
        assert_eq!(order(4, 1), [3, 2, 1, 0]);
        assert_eq!(order(4, 2), order(4, 0));
    }

    #[test]
    fn the_cpu_clock_counts_work_of_threads_that_have_ended() {
        let before = cpu_time(std::process::id()).unwrap();
        let enough = before + Duration::from_millis(20);
        let worker = move || {
            while cpu_time(std::process::id()).unwrap() < enough {
                std::hint::spin_loop();
            }
        };
        thread::spawn(worker).join().unwrap();
        assert!(cpu_time(std::process::id()).unwrap() >= enough);
    }

    #[test]
    fn a_process_that_is_gone_has_no_clock() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let error = cpu_time(child.id()).unwrap_err();
        assert!(error.to_string().contains("has no CPU clock"), "{error}");
    }
}
