//! Answering those who wait: with an outcome, with a failure, on time or too late.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::pending::{Callback, Committer, Late, Ticket};
use crate::watermark::Ack;

use super::Commits;

/// Callbacks of commits that are done.
#[derive(Default)]
pub(super) struct Callbacks(Vec<(Callback, Result<()>)>);

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callbacks").field("number", &self.0.len()).finish()
    }
}

/// Ends the time in which a failure is told to those who wait, be it by a panic of a waker.
struct Failing<'a>(&'a Commits);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if let Some(mut core) = self.0.core.lock_in_drop() {
            core.failing -= 1;
        }
        self.0.room.notify();
    }
}

impl Commits {
    /// Latches a failure and answers everyone who waits with it.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let error = self.latch.set(error);
        let result = Err(error.clone());
        let gathers: Vec<_> = {
            let mut core = self.core.lock();
            core.queued_bytes = 0;
            core.failing += 1;
            core.queue.drain(..).collect()
        };
        let failing = Failing(self);
        for gather in gathers {
            if !mutant::on(Mutant::FailureLeavesWaiters) {
                self.fail_ticket(&gather.ticket, &result);
            }
        }
        self.fail_replicas(&error);
        drop(failing);
        let topics: Vec<_> = {
            let core = self.core.lock();
            core.topics.iter().map(|slot| Arc::clone(&slot.runtime)).collect()
        };
        for topic in topics {
            topic.wake();
        }
        self.room.notify();
        self.work.notify();
        self.files.notify();
        error
    }

    /// Answers with an error those who wait for the disk, and those who wait for replicas besides.
    pub(super) fn fail_ticket(&self, ticket: &Ticket, result: &Result<()>) {
        self.resolve(ticket, result);
        self.resolve_replicas(ticket, result);
    }

    /// Answers those who wait for replicas.
    pub(super) fn resolve_replicas(&self, ticket: &Ticket, result: &Result<()>) {
        for callback in ticket.complete_replicas(result) {
            self.run_later(callback, result.clone());
        }
    }

    pub(super) fn resolve(&self, ticket: &Ticket, result: &Result<()>) {
        for callback in ticket.complete(result) {
            self.run_later(callback, result.clone());
        }
    }

    /// Runs the callbacks of completed commits.
    pub(crate) fn run_callbacks(&self) {
        loop {
            let callbacks = std::mem::take(&mut self.callbacks.lock().0);
            if callbacks.is_empty() {
                return;
            }
            for (callback, result) in callbacks {
                // A caller's panic must not end the thread that commits in the background.
                let run = std::panic::AssertUnwindSafe(|| callback(result));
                drop(std::panic::catch_unwind(run));
            }
        }
    }
}

impl Committer for Commits {
    fn wait(
        &self,
        ticket: &Arc<Ticket>,
        ack: Ack,
        timeout: Option<Duration>,
    ) -> std::result::Result<Result<()>, Late> {
        // Of many that are under way, most are done when somebody asks.
        if let Some(result) = ticket.awaited(ack).result() {
            return Ok(result);
        }
        let began = self.clock.monotonic();
        match self.wait_for(ticket, ack, Some(timeout.unwrap_or(self.config.sync_timeout))) {
            None => return Err(Late::Sync),
            Some(Ok(())) if ack == Ack::Replicated => {}
            Some(result) => return Ok(result),
        }
        self.wait_for_replicas(ticket, began, timeout)
    }

    fn late(&self, late: Late, offset: Option<Offset>) -> Error {
        match (late, &self.replicas) {
            (Late::Replicas, Some(replicas)) => {
                Error::ReplicaTimeout { offset, waited: replicas.timeout }
            }
            _ => Error::SyncTimeout { offset, waited: self.config.sync_timeout },
        }
    }

    fn nudge(&self) {
        let mut core = self.core.lock();
        core.urgent = !core.queue.is_empty();
        let is_closed = self.is_closed();
        drop(core);
        self.work.notify();
        // A closed log has no thread any more that would run what was called back too late.
        if is_closed {
            self.run_callbacks();
        }
    }

    fn run_later(&self, callback: Callback, result: Result<()>) {
        self.callbacks.lock().0.push((callback, result));
        if !mutant::on(Mutant::CallbackNotAnnounced) {
            self.work.notify();
        }
    }
}
