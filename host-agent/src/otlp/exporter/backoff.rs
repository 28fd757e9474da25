//! Pauses between attempts: exponential, with jitter, and an end.

use crate::config::Retry;
use meshweft_telemetry::id::IdGenerator;
use std::time::Duration;

/// The pauses of one batch.
pub(super) struct Backoff {
    retry: Retry,
    next: Duration,
    random: IdGenerator,
}

impl Backoff {
    pub(super) fn new(retry: Retry, seed: u64) -> Self {
        Self { retry, next: retry.initial, random: IdGenerator::new(seed) }
    }

    /// The pause before the next attempt, `elapsed` after the first one. `asked` is what the
    /// receiver asked for, which is the least that it gets. `None`: give up.
    pub(super) fn pause(&mut self, elapsed: Duration, asked: Option<Duration>) -> Option<Duration> {
        let half = self.next / 2;
        // Between half and all of it, so that agents that failed together do not retry together.
        let jitter = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        let pause = half + Duration::from_micros(self.random.next_u64() % jitter.saturating_add(1));
        self.next = (self.next * 2).min(self.retry.max);
        let pause = pause.max(asked.unwrap_or_default());
        // A receiver that asks for more time than there is left would not see the batch anyway.
        (elapsed.saturating_add(pause) < self.retry.give_up).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_end() {
        let retry = Retry {
            initial: Duration::from_millis(100),
            max: Duration::from_millis(400),
            give_up: Duration::from_secs(2),
        };
        let mut backoff = Backoff::new(retry, 1);
        for full in [100, 200, 400, 400, 400] {
            let pause = backoff.pause(Duration::ZERO, None).unwrap().as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} of {full}");
        }
        let asked = Some(Duration::from_secs(1));
        assert_eq!(backoff.pause(Duration::ZERO, asked), asked);
        assert_eq!(backoff.pause(Duration::from_secs(1), asked), None);
        assert_eq!(backoff.pause(Duration::ZERO, Some(Duration::MAX)), None);
    }
}
