//! When the agent is asked, and when it is left alone.

/// Timeouts in a row that open the breaker. A loaded node misses one deadline of milliseconds now
/// and then, and each miss costs one request the deadline; three in a row on one worker are no
/// accident. Questions that waited at the same time missed it together, and count as one.
pub const TIMEOUTS_TO_OPEN: u32 = 3;
/// Time from the opening to the first probe, in nanoseconds.
pub const FIRST_BACKOFF: u64 = 250_000_000;
/// Longest time between two probes, in nanoseconds. It bounds how long a restarted agent waits for
/// its first question; one probe a second and worker is nothing for the agent.
pub const MAX_BACKOFF: u64 = 1_000_000_000;

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
    Open { probe_at: u64, backoff: u64, reachable: bool },
    Probing { backoff: u64, reachable: bool },
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
    /// Whether no request asks.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Whether spans are sent. An agent that is too slow for requests that wait can still take
    /// them; they are held back only while nobody listens.
    #[must_use]
    pub const fn may_export(&self) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { reachable, .. } | State::Probing { reachable, .. } => reachable,
        }
    }

    /// Takes note of how a question or an export ended. Late ends, of calls that were started
    /// before the breaker opened, neither close it nor delay its probe.
    #[must_use]
    pub const fn ended(self, outcome: Outcome, now: u64) -> Self {
        let state = match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Answered) => CLOSED,
            (State::Closed { timeouts, last }, Outcome::Timeout { since }) if since < last => {
                State::Closed { timeouts, last }
            }
            (State::Closed { timeouts, .. }, Outcome::Timeout { .. }) => {
                let timeouts = timeouts.saturating_add(1);
                if timeouts >= TIMEOUTS_TO_OPEN {
                    opened(now, FIRST_BACKOFF, true)
                } else {
                    State::Closed { timeouts, last: now }
                }
            }
            (State::Closed { .. }, Outcome::Failed) => opened(now, FIRST_BACKOFF, false),
            (State::Open { probe_at, backoff, .. }, Outcome::Failed) => {
                State::Open { probe_at, backoff, reachable: false }
            }
            (state, _) => state,
        };
        Self { state }
    }

    /// The breaker with a probe under way, where one is due at `now` (nanoseconds).
    #[must_use]
    pub const fn probe(self, now: u64) -> Option<Self> {
        match self.state {
            State::Open { probe_at, backoff, reachable } if now >= probe_at => {
                Some(Self { state: State::Probing { backoff, reachable } })
            }
            _ => None,
        }
    }

    /// Takes note of how a probe ended.
    #[must_use]
    pub const fn probed(self, outcome: Outcome, now: u64) -> Self {
        let state = match (self.state, outcome) {
            (State::Probing { .. }, Outcome::Answered) => CLOSED,
            (State::Probing { backoff, .. }, _) => {
                let doubled = backoff.saturating_mul(2);
                let backoff = if doubled > MAX_BACKOFF { MAX_BACKOFF } else { doubled };
                // A probe that ends by its deadline has found somebody who listens.
                opened(now, backoff, !matches!(outcome, Outcome::Failed))
            }
            (state, _) => state,
        };
        Self { state }
    }
}

const fn opened(now: u64, backoff: u64, reachable: bool) -> State {
    State::Open { probe_at: now.saturating_add(backoff), backoff, reachable }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn spans_are_held_back_only_while_nobody_listens() {
        let slow = timeouts(&[(0, 5), (6, 11), (12, 17)]);
        assert!(slow.is_open() && slow.may_export());
        let gone = slow.ended(Outcome::Failed, 20);
        assert!(gone.is_open() && !gone.may_export());
        let probing = gone.probe(u64::MAX).unwrap();
        assert!(!probing.may_export());
        assert!(probing.probed(Outcome::Timeout { since: 0 }, 30).may_export());
        assert!(Breaker::default().may_export());
    }

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
    fn probes_back_off_from_250_ms_to_1_s_and_a_success_closes() {
        let mut now = 7 * MS;
        let mut breaker = Breaker::default().ended(Outcome::Failed, now);
        for wait in [250, 500, 1000, 1000] {
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
