//! Requests that wait for their response, and which of them a response answers.

use super::MAX_PIPELINED;
use super::head::Method;
use std::collections::VecDeque;

/// A request that waits for its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Exchange {
    pub(super) ordinal: u64,
    /// When the request's first byte came, in ns.
    pub(super) started: u64,
    pub(super) method: Method,
    /// Responses to requests that were not seen may come before this one's.
    doubtful: bool,
}

/// Whom a response answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// This request, for certain.
    To(Exchange),
    /// Nobody knows. These requests are given up: it may have been theirs, or one that was missed.
    Unknown(Vec<Exchange>),
}

/// The requests without a response so far, and what is known about those that were not seen.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Oldest first. At most [`MAX_PIPELINED`].
    open: VecDeque<Exchange>,
    /// There may have been requests after the newest of `open` that were not seen.
    unseen_requests: bool,
    /// The server's position was lost since its last message began: responses may be missing.
    missed_responses: bool,
    /// The client was seen not to wait for a response before it sent the next request.
    pipelines: bool,
    /// The server sent something since the newest request began.
    heard: bool,
}

impl Waiting {
    /// Nobody waits; if not `positioned`, there may be requests that were not seen.
    pub(super) const fn new(positioned: bool) -> Self {
        Self {
            open: VecDeque::new(),
            unseen_requests: !positioned,
            missed_responses: !positioned,
            pipelines: false,
            heard: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn contains(&self, ordinal: u64) -> bool {
        self.open.iter().any(|exchange| exchange.ordinal == ordinal)
    }

    /// The position of the client's direction was lost.
    pub(super) const fn requests_lost(&mut self) {
        self.unseen_requests = true;
    }

    /// The position of the server's direction was lost.
    pub(super) const fn responses_lost(&mut self) {
        self.missed_responses = true;
    }

    /// The server sent something.
    pub(super) const fn server_spoke(&mut self) {
        self.heard = true;
    }

    /// Whether the client, which sends a request now, had the responses to those before it, as far as
    /// one can tell without seeing them.
    pub(super) const fn client_waited(&self) -> bool {
        self.heard && !self.pipelines
    }

    /// The client sends a request although it has no response to one before.
    pub(super) const fn client_pipelines(&mut self) {
        self.pipelines = true;
    }

    /// A request begins to wait. `false` if [`MAX_PIPELINED`] others do.
    pub(super) fn push(&mut self, ordinal: u64, started: u64, method: Method) -> bool {
        self.heard = false;
        if self.open.len() >= MAX_PIPELINED {
            self.unseen_requests = true;
            return false;
        }
        self.open.push_back(Exchange { ordinal, started, method, doubtful: self.unseen_requests });
        self.unseen_requests = false;
        true
    }

    /// A final response begins. Where the client does not pipeline, at most one request waits: see
    /// [`Self::client_waited`].
    pub(super) fn answer(&mut self) -> Answer {
        let Some(front) = self.open.front().copied() else {
            // Nobody may be waiting, but the server's position is certain no more: see the caller.
            self.missed_responses = true;
            return Answer::Unknown(Vec::new());
        };
        let certain = match (self.missed_responses, front.doubtful) {
            (false, false) => true,
            // It is the only one that may be waiting: either no other was sent, ...
            (true, false) if !self.unseen_requests && self.open.len() == 1 => true,
            // ... or the client had the responses to those before it.
            (true, _) => !self.pipelines && !self.unseen_requests,
            (false, true) => !self.pipelines,
        };
        if certain {
            self.open.pop_front();
            self.missed_responses = false;
            return Answer::To(front);
        }
        let given_up = if self.missed_responses { self.open.len() } else { 1 };
        let given_up = self.open.drain(..given_up).collect();
        // Of those that were given up, some may still be answered.
        match self.open.front_mut() {
            Some(next) => next.doubtful = true,
            None => self.unseen_requests = true,
        }
        self.missed_responses = true;
        Answer::Unknown(given_up)
    }

    /// Nobody waits any longer.
    pub(super) fn take(&mut self) -> VecDeque<Exchange> {
        std::mem::take(&mut self.open)
    }
}
