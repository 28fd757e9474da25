//! From the kernel's monotonic time to wall time.

use std::time::Duration;

use meshweft_correlator::Nanos;

/// How often the offset is measured again: NTP slews and steps of the wall clock show up within
/// this time.
const EVERY: Duration = Duration::from_secs(1);

/// The offset between `CLOCK_MONOTONIC`, in which events are stamped, and `CLOCK_REALTIME`, in
/// which spans are.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: i128,
    measured: u64,
}

impl Clock {
    /// Measures the offset now.
    #[must_use]
    pub fn new() -> Self {
        let before = read(libc::CLOCK_MONOTONIC);
        let wall = read(libc::CLOCK_REALTIME);
        let after = read(libc::CLOCK_MONOTONIC);
        Self { offset: i128::from(wall) - i128::from(before.midpoint(after)), measured: after }
    }

    /// Wall time of a moment of the kernel's, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn wall(&self, monotonic: u64) -> Nanos {
        u64::try_from(i128::from(monotonic) + self.offset).unwrap_or(0)
    }

    /// Measures again where it is time to.
    pub fn refresh(&mut self) {
        if read(libc::CLOCK_MONOTONIC).saturating_sub(self.measured) > EVERY.as_nanos() as u64 {
            *self = Self::new();
        }
    }

    /// Wall time now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.wall(read(libc::CLOCK_MONOTONIC))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a local of the right type; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
