//! When the agent is asked, and when it is left alone.

/// Timeouts in a row that open the breaker. A loaded node misses one deadline of milliseconds now
/// and then, and each miss costs one request the deadline; three in a row on one worker are no
/// accident. Questions that waited at the same time missed it together, and count as one.
pub const TIMEOUTS_TO_OPEN: u32 = 3;
/// Time from the opening to the first probe, in nanoseconds.
pub const FIRST_BACKOFF: u64 = 250_000_000;
/// Longest time between two probes, in nanoseconds. It bounds how long a restarted agent waits for
/// its first question.
pub const MAX_BACKOFF: u64 = 5_000_000_000;

/// How a call to the agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It answered, whatever it said.
    Answered,
    /// It did not answer in time.
    Timeout {
        /// When the call began, in nanoseconds.
        since: u64,
    },
    /// It could not be reached, or its connection broke.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed { timeouts: u32, last: u64 },
    Open { probe_at: u64, backoff: u64 },
    Probing { backoff: u64 },
}

const CLOSED: State = State::Closed { timeouts: 0, last: 0 };

/// The breaker of one VM.
///
/// ```text
///            failed, or 3rd timeout in a row          due
///   Closed ───────────────────────────────▶ Open ───────────▶ Probing
///     ▲                                      ▲                   │
///     │                                      └── not answered ───┤ backoff doubles
///     └────────────────── answered ──────────────────────────────┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    state: State,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: CLOSED }
    }
}

impl Breaker {
    /// Whether no request asks and nothing is exported.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Takes note of how a question or an export ended. Late ends, of calls that were started
    /// before the breaker opened, change nothing.
    #[must_use]
    pub const fn ended(self, outcome: Outcome, now: u64) -> Self {
        let state = match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Answered) => CLOSED,
            (State::Closed { timeouts, last }, Outcome::Timeout { since }) => {
                let timeouts = if since < last { timeouts } else { timeouts.saturating_add(1) };
                let last = if since < last { last } else { now };
                if timeouts >= TIMEOUTS_TO_OPEN {
                    opened(now, FIRST_BACKOFF)
                } else {
                    State::Closed { timeouts, last }
                }
            }
            (State::Closed { .. }, Outcome::Failed) => opened(now, FIRST_BACKOFF),
            (state, _) => state,
        };
        Self { state }
    }

    /// The breaker with a probe under way, where one is due at `now` (nanoseconds).
    #[must_use]
    pub const fn probe(self, now: u64) -> Option<Self> {
        match self.state {
            State::Open { probe_at, backoff } if now >= probe_at => {
                Some(Self { state: State::Probing { backoff } })
            }
            _ => None,
        }
    }

    /// Takes note of how a probe ended.
    #[must_use]
    pub const fn probed(self, outcome: Outcome, now: u64) -> Self {
        let state = match (self.state, outcome) {
            (State::Probing { .. }, Outcome::Answered) => CLOSED,
            (State::Probing { backoff }, _) => {
                let doubled = backoff.saturating_mul(2);
                opened(now, if doubled > MAX_BACKOFF { MAX_BACKOFF } else { doubled })
            }
            (state, _) => state,
        };
        Self { state }
    }
}

const fn opened(now: u64, backoff: u64) -> State {
    State::Open { probe_at: now.saturating_add(backoff), backoff }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_failure_opens_at_once() {
        let breaker = Breaker::default();
        assert!(!breaker.is_open());
        assert!(breaker.ended(Outcome::Failed, 0).is_open());
    }

    /// A breaker after timeouts of calls that each began and ended at these times.
    fn timeouts(times: &[(u64, u64)]) -> Breaker {
        times.iter().fold(Breaker::default(), |breaker, (since, now)| {
            breaker.ended(Outcome::Timeout { since: *since }, *now)
        })
    }

    #[test]
    fn three_timeouts_in_a_row_open_and_an_answer_between_them_starts_again() {
        let two = timeouts(&[(0, 5), (6, 11)]);
        assert!(!two.is_open());
        assert!(two.ended(Outcome::Timeout { since: 11 }, 16).is_open());
        let again = two.ended(Outcome::Answered, 12);
        assert!(!again.ended(Outcome::Timeout { since: 13 }, 18).is_open());
    }

    #[test]
    fn timeouts_at_the_same_time_count_as_one() {
        let breaker = timeouts(&[(0, 5), (1, 6), (2, 7), (4, 9), (4, 9)]);
        assert!(!breaker.is_open());
        assert_eq!(breaker, timeouts(&[(0, 5)]));
    }

    #[test]
    fn probes_back_off_from_250_ms_to_5_s_and_a_success_closes() {
        let mut now = 7 * MS;
        let mut breaker = Breaker::default().ended(Outcome::Failed, now);
        for wait in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            assert_eq!(breaker.probe(now + wait * MS - 1), None, "{wait} ms");
            now += wait * MS;
            breaker = breaker.probe(now).unwrap();
            assert!(breaker.is_open());
            assert_eq!(breaker.probe(now + 60_000 * MS), None, "one probe at a time");
            breaker = breaker.probed(Outcome::Timeout { since: now }, now);
            assert!(breaker.is_open());
        }
        now += 5000 * MS;
        breaker = breaker.probe(now).unwrap().probed(Outcome::Answered, now);
        assert!(!breaker.is_open());
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn late_answers_do_not_close_an_open_breaker_nor_late_failures_delay_its_probe() {
        let open = Breaker::default().ended(Outcome::Failed, 0);
        for outcome in [Outcome::Answered, Outcome::Timeout { since: 1 }, Outcome::Failed] {
            assert_eq!(open.ended(outcome, 100 * MS), open);
        }
        assert_eq!(Breaker::default().probe(u64::MAX), None);
        assert_eq!(Breaker::default().probed(Outcome::Failed, 0), Breaker::default());
    }
}
