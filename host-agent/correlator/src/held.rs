//! Finished spans that wait for what others report.

use std::collections::VecDeque;

use meshweft_telemetry::SpanId;

use crate::{Nanos, Woven};

#[derive(Debug)]
pub(crate) struct Held<P> {
    queue: VecDeque<(Nanos, Woven<P>)>,
}

impl<P> Held<P> {
    pub(crate) const fn new() -> Self {
        Self { queue: VecDeque::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a span that leaves at `due`. Times come in order, but for steps of the clock, which
    /// delay what is behind them by no more than the step.
    pub(crate) fn push(&mut self, due: Nanos, span: Woven<P>) {
        self.queue.push_back((due, span));
    }

    /// A span that waits, by its id. Looks from the youngest on: what is corrected has just ended.
    pub(crate) fn find(&mut self, span_id: SpanId) -> Option<&mut Woven<P>> {
        self.queue.iter_mut().rev().map(|(_, span)| span).find(|span| span.span_id == span_id)
    }

    /// The oldest span, where it is due or more than `max` wait.
    pub(crate) fn pop_due(&mut self, now: Nanos, max: usize, hurried: &mut u64) -> Option<Woven<P>> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            if self.queue.len() <= max {
                return None;
            }
            *hurried += 1;
        }
        self.queue.pop_front().map(|(_, span)| span)
    }
}
