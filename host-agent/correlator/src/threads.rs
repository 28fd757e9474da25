//! Which request a thread is serving.
//!
//! The thread is evidence only in processes that serve a request on one thread from its first byte
//! to its last. Two sights show that a process does not, and both are final for it:
//! - a thread has requests of several connections open at once (an event loop),
//! - another thread writes the response than the one that read the request (a work-stealing or
//!   hand-over runtime).

use std::collections::{HashMap, HashSet};

use crate::ExchangeId;

/// A thread, in the initial process-id namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Thread {
    /// Process id.
    pub process: u32,
    /// Thread id.
    pub thread: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Threads {
    serving: HashMap<Thread, Vec<ExchangeId>>,
    multiplexing: HashSet<u32>,
}

impl Threads {
    /// The thread has read this request. Returns whether that showed, for the first time, that its
    /// process multiplexes.
    pub(crate) fn begin(&mut self, thread: Thread, id: ExchangeId) -> bool {
        let serving = self.serving.entry(thread).or_default();
        serving.push(id);
        // Pipelined requests of one connection are served one after the other.
        let several = serving.iter().any(|other| other.connection != id.connection);
        several && self.multiplexing.insert(thread.process)
    }

    /// This thread writes the response of a request that `reader` has read.
    pub(crate) fn answer(&mut self, reader: Thread, writer: Thread) -> bool {
        reader != writer && self.multiplexing.insert(reader.process)
    }

    /// The request is over.
    pub(crate) fn end(&mut self, thread: Thread, id: ExchangeId) {
        if let Some(serving) = self.serving.get_mut(&thread) {
            serving.retain(|other| *other != id);
            if serving.is_empty() {
                self.serving.remove(&thread);
            }
        }
    }

    /// The thread is gone; its id may be given to another.
    pub(crate) fn exit(&mut self, thread: Thread) {
        self.serving.remove(&thread);
    }

    /// The process is gone, or runs another program; its id may be given to another.
    pub(crate) fn exit_process(&mut self, process: u32) {
        self.serving.retain(|thread, _| thread.process != process);
        self.multiplexing.remove(&process);
    }

    /// From the start, nothing is believed of this process's threads.
    pub(crate) fn distrust(&mut self, process: u32) {
        self.multiplexing.insert(process);
    }

    /// The one request that this thread is serving.
    pub(crate) fn serving(&self, thread: Thread) -> Option<ExchangeId> {
        if self.multiplexing.contains(&thread.process) {
            return None;
        }
        let first = *self.serving.get(&thread)?.first()?;
        Some(first)
    }
}
