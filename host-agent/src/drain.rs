//! Readiness and drain, as guards: a part that is dropped has reported itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A pair of ends: one signal, many that wait for it.
#[must_use]
pub fn channel() -> (DrainTrigger, Drain) {
    let (sender, receiver) = watch::channel(false);
    (DrainTrigger { sender }, Drain { receiver })
}

/// Starts the drain.
#[derive(Debug)]
pub struct DrainTrigger {
    sender: watch::Sender<bool>,
}

/// Held by whatever has to finish before the process may end.
#[derive(Clone, Debug)]
pub struct Drain {
    receiver: watch::Receiver<bool>,
}

impl DrainTrigger {
    /// Signals every [`Drain`] and waits until all are dropped. Whether they were in time.
    pub async fn start_and_wait(self, deadline: Duration) -> bool {
        self.sender.send_replace(true);
        tokio::time::timeout(deadline, self.sender.closed()).await.is_ok()
    }
}

impl Drain {
    /// Waits for the signal. A trigger that is gone counts as one.
    pub async fn signaled(&mut self) {
        // An error means that the trigger is gone.
        let _ = self.receiver.wait_for(|signaled| *signaled).await;
    }
}

/// What the agent still waits for before it is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

impl Readiness {
    /// Not ready until the guard is dropped.
    #[must_use]
    pub fn block(&self, part: &'static str) -> ReadinessGuard {
        self.with_pending(|pending| pending.push(part));
        ReadinessGuard { readiness: self.clone(), part }
    }

    /// Parts that are not ready. Empty: the agent is.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.with_pending(|pending| pending.clone())
    }

    fn with_pending<T>(&self, act: impl FnOnce(&mut Vec<&'static str>) -> T) -> T {
        // A list of names is whole whatever happened to the thread that held it.
        act(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps the agent from being ready.
#[derive(Debug)]
pub struct ReadinessGuard {
    readiness: Readiness,
    part: &'static str,
}

impl Drop for ReadinessGuard {
    fn drop(&mut self) {
        self.readiness.with_pending(|pending| {
            if let Some(index) = pending.iter().position(|part| *part == self.part) {
                pending.swap_remove(index);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_guard_makes_ready() {
        let readiness = Readiness::default();
        let first = readiness.block("a");
        let second = readiness.block("b");
        drop(first);
        assert_eq!(readiness.pending(), ["b"]);
        drop(second);
        assert!(readiness.pending().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_its_holders_but_not_for_ever() {
        let (trigger, mut drain) = channel();
        let holder = tokio::spawn(async move {
            drain.signaled().await;
        });
        assert!(trigger.start_and_wait(Duration::from_secs(1)).await);
        holder.await.unwrap();

        let (trigger, _stuck) = channel();
        assert!(!trigger.start_and_wait(Duration::from_secs(1)).await);
    }
}
