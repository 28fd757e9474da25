//! Spans on their way to the agent.

use crate::config::Export;
use std::collections::VecDeque;

/// Most calls under way at once. Each carries a full batch where spans come in faster than the
/// agent takes them.
pub const MAX_IN_FLIGHT: usize = 4;

/// Encoded spans of one call.
#[derive(Debug, Default)]
pub struct Batch {
    /// Members of `ScopeSpans.spans`, one after the other.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub spans: u32,
    /// Whether the agent has refused them before.
    refused: bool,
}

/// How a call with a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The agent took it.
    Taken,
    /// It did not reach the agent, so it may be sent again.
    Refused,
    /// The agent may have seen it, or said that it is wrong.
    Lost,
}

/// The spans of one VM that wait or are on their way, bounded by number and by bytes.
#[derive(Debug)]
pub struct Queue {
    limits: Export,
    open: Batch,
    ready: VecDeque<Batch>,
    in_flight: Vec<(u32, Batch)>,
    spans: u32,
    bytes: usize,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub const fn new(limits: Export) -> Self {
        let open = Batch { bytes: Vec::new(), spans: 0, refused: false };
        Self { limits, open, ready: VecDeque::new(), in_flight: Vec::new(), spans: 0, bytes: 0 }
    }

    /// How many spans wait or are on their way.
    #[must_use]
    pub const fn spans(&self) -> u32 {
        self.spans
    }

    /// How many calls are under way.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Adds the span that `encode` appends. Returns whether there was room for it: where there is
    /// none, the new span goes, because the old ones tell how the trouble began.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let max_bytes = usize::try_from(self.limits.max_queue_bytes).unwrap_or(usize::MAX);
        if self.spans >= self.limits.max_queue || self.bytes >= max_bytes {
            return false;
        }
        let before = self.open.bytes.len();
        encode(&mut self.open.bytes);
        let added = self.open.bytes.len().saturating_sub(before);
        if self.bytes.saturating_add(added) > max_bytes {
            self.open.bytes.truncate(before);
            return false;
        }
        self.bytes = self.bytes.saturating_add(added);
        self.spans = self.spans.saturating_add(1);
        self.open.spans = self.open.spans.saturating_add(1);
        if self.open.spans >= self.limits.max_batch {
            // The next one will be about as long: growing to that length in steps would copy it
            // twice.
            let next = Batch { bytes: Vec::with_capacity(self.open.bytes.len()), ..Batch::default() };
            self.ready.push_back(core::mem::replace(&mut self.open, next));
        }
        true
    }

    /// The next batch to send, where there is one and a call may be started.
    pub fn take(&mut self) -> Option<Batch> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let open = &mut self.open;
        self.ready.pop_front().or_else(|| (open.spans > 0).then(|| core::mem::take(open)))
    }

    /// Whether a whole batch waits.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.ready.is_empty()
    }

    /// `batch` is on its way.
    pub fn sent(&mut self, token: u32, batch: Batch) {
        self.in_flight.push((token, batch));
    }

    /// `batch` could not even be sent. Returns how many spans are dropped for it.
    pub fn refused(&mut self, mut batch: Batch) -> u32 {
        if batch.refused {
            return self.forget(&batch);
        }
        batch.refused = true;
        self.ready.push_front(batch);
        0
    }

    /// The call `token` ended. Returns how many spans were exported and how many dropped, or
    /// `None` where the call was none of these.
    pub fn ended(&mut self, token: u32, delivery: Delivery) -> Option<(u32, u32)> {
        let position = self.in_flight.iter().position(|(sent, _)| *sent == token)?;
        let (_, batch) = self.in_flight.swap_remove(position);
        Some(match delivery {
            Delivery::Taken => (self.forget(&batch), 0),
            Delivery::Refused => (0, self.refused(batch)),
            Delivery::Lost => (0, self.forget(&batch)),
        })
    }

    fn forget(&mut self, batch: &Batch) -> u32 {
        self.spans = self.spans.saturating_sub(batch.spans);
        self.bytes = self.bytes.saturating_sub(batch.bytes.len());
        batch.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(max_batch: u32, max_queue: u32, max_queue_bytes: u32) -> Queue {
        Queue::new(Export { interval_ms: 200, max_batch, max_queue, max_queue_bytes })
    }

    fn push(queue: &mut Queue, n: usize) -> usize {
        (0..n).filter(|_| queue.push(|out| out.extend_from_slice(b"span"))).count()
    }

    #[test]
    fn batches_are_cut_and_sent_in_order() {
        let mut queue = queue(2, 100, 1000);
        assert_eq!(push(&mut queue, 5), 5);
        let sizes: Vec<_> =
            core::iter::from_fn(|| queue.take()).map(|batch| (batch.spans, batch.bytes.len())).collect();
        assert_eq!(sizes, [(2, 8), (2, 8), (1, 4)]);
    }

    #[test]
    fn the_bounds_count_what_is_under_way() {
        let mut queue = queue(2, 3, 1000);
        assert_eq!(push(&mut queue, 5), 3);
        let batch = queue.take().unwrap();
        queue.sent(7, batch);
        assert_eq!(push(&mut queue, 1), 0);
        assert_eq!(queue.ended(8, Delivery::Taken), None);
        assert_eq!(queue.ended(7, Delivery::Taken), Some((2, 0)));
        assert_eq!((push(&mut queue, 5), queue.spans()), (2, 3));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut queue = queue(100, 100, 10);
        assert_eq!((push(&mut queue, 5), queue.spans()), (2, 2));
        assert_eq!(queue.take().unwrap().bytes, b"spanspan");
    }

    #[test]
    fn calls_under_way_are_bounded() {
        let mut queue = queue(1, 100, 1000);
        push(&mut queue, 10);
        for token in 0..MAX_IN_FLIGHT {
            let batch = queue.take().unwrap();
            queue.sent(token as u32, batch);
        }
        assert!(queue.take().is_none());
        queue.ended(0, Delivery::Taken);
        assert!(queue.take().is_some());
    }

    #[test]
    fn a_refused_batch_comes_back_once_and_a_lost_one_never() {
        let mut queue = queue(2, 100, 1000);
        push(&mut queue, 2);
        let batch = queue.take().unwrap();
        queue.sent(1, batch);
        assert_eq!(queue.ended(1, Delivery::Refused), Some((0, 0)));
        let batch = queue.take().unwrap();
        queue.sent(2, batch);
        assert_eq!(queue.ended(2, Delivery::Refused), Some((0, 2)));
        assert!(queue.take().is_none());
        push(&mut queue, 2);
        let batch = queue.take().unwrap();
        queue.sent(3, batch);
        assert_eq!(queue.ended(3, Delivery::Lost), Some((0, 2)));
        assert_eq!((queue.spans(), queue.bytes), (0, 0));
    }
}
