//! Traces that turn out to be parts of others.
//!
//! When a proxy had to begin a trace because nobody could tell it the context in time, and its
//! parent is found later, its whole trace is renamed to the parent's, provided that no span of it
//! has left yet. Otherwise the two stay apart and a span link says what was found.

use std::collections::{HashMap, HashSet, VecDeque};

use meshweft_telemetry::TraceId;

/// Renamings that may hang one on another; a chain has one link per missed answer on the way of
/// one request, so this is never reached by honest input, and bounds a circle.
const MAX_CHAIN: usize = 64;

#[derive(Debug)]
pub(crate) struct Traces {
    renamed: HashMap<TraceId, TraceId>,
    renamed_order: VecDeque<TraceId>,
    left: HashSet<TraceId>,
    left_order: VecDeque<TraceId>,
    max: usize,
}

impl Traces {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            renamed: HashMap::new(),
            renamed_order: VecDeque::new(),
            left: HashSet::new(),
            left_order: VecDeque::new(),
            max: max.max(1),
        }
    }

    /// The trace under which this one leaves.
    pub(crate) fn resolve(&self, mut trace: TraceId) -> TraceId {
        for _ in 0..MAX_CHAIN {
            match self.renamed.get(&trace) {
                Some(next) => trace = *next,
                None => break,
            }
        }
        trace
    }

    /// A span of this trace has left.
    pub(crate) fn left(&mut self, trace: TraceId) {
        if self.left.insert(trace) {
            self.left_order.push_back(trace);
            if self.left_order.len() > self.max
                && let Some(oldest) = self.left_order.pop_front()
            {
                self.left.remove(&oldest);
            }
        }
    }

    /// Makes `part` a part of `whole`. Returns whether that is still possible.
    pub(crate) fn join(&mut self, part: TraceId, whole: TraceId) -> bool {
        let (part, whole) = (self.resolve(part), self.resolve(whole));
        if part == whole {
            return true;
        }
        if self.left.contains(&part) {
            return false;
        }
        self.renamed.insert(part, whole);
        self.renamed_order.push_back(part);
        if self.renamed_order.len() > self.max
            && let Some(oldest) = self.renamed_order.pop_front()
        {
            self.renamed.remove(&oldest);
        }
        true
    }
}
