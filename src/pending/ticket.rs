//! The outcome of one write, and those who wait for it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::watermark::Ack;

use super::{Callback, Committer};

/// The outcome of one write, shared by all that it carries.
#[derive(Default)]
pub(crate) struct Ticket {
    /// Who commits. It answers for all tickets before it goes.
    committer: Option<Weak<dyn Committer>>,
    /// In a log with a replicator, the outcome there, which comes after the one here: an error
    /// here is one there, too.
    replicas: Option<Box<Ticket>>,
    done: AtomicBool,
    /// The outcome is an error. Not looked at before it is done.
    failed: AtomicBool,
    /// Threads that are parked or about to be. Raised without the lock, lowered under it.
    waiting: AtomicUsize,
    /// Those of them for which the outcome here is enough. The others sleep on until the one at
    /// the replicas is known, be it that they are made the leader: waking each of them twice
    /// would halve the rate of many threads.
    waiting_here: AtomicUsize,
    /// When the outcome here was known, in nanoseconds of the log's clock; before, 0.
    done_at: AtomicU64,
    state: Mutex<State>,
    condvar: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<()>>,
    /// One of them shall take over leadership.
    lead_offered: bool,
    /// Threads that sleep with a time limit which others share, and those that sleep without one as
    /// these keep the time for them. The former have come first, so their limits end first.
    timekeepers: usize,
    timeless: usize,
    /// How often the latter were woken to look at the clock.
    looks: u64,
    wakers: Vec<Waker>,
    callbacks: Vec<Callback>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("done", &self.done)
            .field("failed", &self.failed)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("result", &self.result)
            .field("lead_offered", &self.lead_offered)
            .finish_non_exhaustive()
    }
}

/// How many of those that share a time limit sleep with it. A timer for each would take a tenth of the
/// rate of many threads; the first to come is likely to be made the leader, and keeps no time then.
const TIMEKEEPERS: usize = 2;

/// How long a thread waits for an outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Endless,
    /// From now on.
    Own(Duration),
    /// The same for all who wait and have none of their own. While others keep the time for this
    /// thread, it sleeps without one, and is woken to look at the clock; then it has its own.
    Shared(Duration),
    /// The same for one who has kept the time and was woken early.
    Keeper(Duration),
}

/// Why a parked thread goes on.
#[derive(Debug)]
pub(crate) enum Parked {
    Done(Result<()>),
    /// The thread is the leader now and must commit or hand on.
    Lead,
    /// Perhaps: it is time to look at the clock. One who has kept the time for others goes on with
    /// [`Limit::Keeper`], or tells them by [`Ticket::look_up`].
    TimedOut {
        kept_time: bool,
    },
}

impl Ticket {
    /// A ticket of which there is nothing to wait for.
    pub(crate) fn completed() -> Self {
        let ticket = Self::default();
        let callbacks = ticket.complete(&Ok(()));
        debug_assert!(callbacks.is_empty(), "nobody knows the ticket yet");
        ticket
    }

    /// A ticket of a write that this one does, if nobody else does.
    pub(crate) fn of(committer: Option<Weak<dyn Committer>>) -> Self {
        Self { committer, ..Self::default() }
    }

    /// Who commits, unless it is gone.
    pub(super) fn committer(&self) -> Option<Arc<dyn Committer>> {
        self.committer.as_ref()?.upgrade()
    }

    /// A ticket whose write is to be replicated, too.
    pub(crate) fn and_replicated(self) -> Self {
        Self { replicas: Some(Box::default()), ..self }
    }

    /// The outcome at the replicas, if there is to be one.
    pub(crate) fn replicas(&self) -> Option<&Self> {
        self.replicas.as_deref()
    }

    /// The ticket whose outcome is what was asked for.
    pub(crate) fn awaited(&self, ack: Ack) -> &Self {
        match ack {
            Ack::Replicated => self.replicas().unwrap_or(self),
            Ack::Synced => self,
        }
    }

    pub(crate) fn result(&self) -> Option<Result<()>> {
        if !self.done.load(Ordering::Acquire) {
            return None;
        }
        if self.failed.load(Ordering::Relaxed) {
            self.state.lock().result.clone()
        } else {
            Some(Ok(()))
        }
    }

    /// The same for one who does not know of it by anything but this ticket.
    pub(super) fn result_by_lock(&self) -> Option<Result<()>> {
        self.state.lock().result.clone()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Done, and well. Whoever asks for no more is spared the copy of a result.
    pub(crate) fn is_ok(&self) -> bool {
        self.is_done() && !self.failed.load(Ordering::Relaxed)
    }

    /// Whether the outcome here is what was asked for.
    fn is_enough(&self, ack: Ack) -> bool {
        ack == Ack::Synced || self.replicas.is_none()
    }

    /// The outcome that ends a wait, if it is known.
    fn outcome(&self, state: &State, ack: Ack) -> Option<Result<()>> {
        match &self.replicas {
            Some(replicas) if !self.is_enough(ack) && !matches!(state.result, Some(Err(_))) => {
                replicas.result()
            }
            _ => state.result.clone(),
        }
    }

    /// The time at which the write was safe here.
    pub(crate) fn set_done_at(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.done_at.store(nanos, Ordering::Release);
    }

    pub(crate) fn done_at(&self) -> Duration {
        Duration::from_nanos(self.done_at.load(Ordering::Acquire))
    }

    /// Announces a thread that will [`park`](Self::park), so that it can be made the leader.
    pub(crate) fn register(&self, ack: Ack) {
        // Not under the lock: the caller holds the queue's, and those who park hold this one.
        if self.is_enough(ack) {
            self.waiting_here.fetch_add(1, Ordering::AcqRel);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// The thread will not park any more, or not before it registers again.
    fn leave(&self, ack: Ack) {
        if self.is_enough(ack) {
            self.waiting_here.fetch_sub(1, Ordering::AcqRel);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits until the outcome is known, not to lead. `None` after `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<Result<()>> {
        if let Some(result) = self.result() {
            return Some(result);
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return None;
        }
        self.register(Ack::Synced);
        match self.park(timeout.map_or(Limit::Endless, Limit::Own), Ack::Synced) {
            Parked::Done(result) => Some(result),
            Parked::Lead => unreachable!("leadership is offered to those who wait for a write"),
            Parked::TimedOut { .. } => self.result(),
        }
    }

    /// Waits, after [`register`](Self::register), until what was asked for is done, leadership is
    /// offered or the time limit has passed by the machine's clock.
    pub(crate) fn park(&self, limit: Limit, ack: Ack) -> Parked {
        let mut state = self.state.lock();
        let mut woken = None;
        loop {
            // An offer is taken even by a thread that is done waiting: nobody else would.
            if state.lead_offered {
                state.lead_offered = false;
                self.leave(ack);
                if state.timekeepers == 0 {
                    self.wake_timeless(&mut state);
                }
                return Parked::Lead;
            }
            if let Some(result) = self.outcome(&state, ack) {
                self.leave(ack);
                return Parked::Done(result);
            }
            if let Some(kept_time) = woken {
                self.leave(ack);
                return Parked::TimedOut { kept_time };
            }
            // A spurious wake-up ends a wait with a time limit early; callers wait again.
            (state, woken) = match limit {
                Limit::Endless => (self.condvar.wait(state, None), None),
                Limit::Own(time) => (self.condvar.wait(state, Some(time)), Some(false)),
                // Behind one who sleeps without a limit, a newcomer keeps none: it ends too late.
                Limit::Shared(_) if state.timekeepers >= TIMEKEEPERS || state.timeless > 0 => {
                    (self.sleep_timeless(state), Some(false))
                }
                Limit::Shared(time) | Limit::Keeper(time) => {
                    (self.keep_time(state, time), Some(true))
                }
            };
        }
    }

    fn keep_time<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        time: Duration,
    ) -> MutexGuard<'a, State> {
        state.timekeepers += 1;
        let mut state = self.condvar.wait(state, Some(time));
        state.timekeepers -= 1;
        state
    }

    fn sleep_timeless<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.timeless += 1;
        let looks = state.looks;
        let mut state = self.condvar.wait(state, None);
        if state.looks == looks {
            state.timeless -= 1;
        }
        state
    }

    /// Lets all look at the clock for whom a thread has kept the time that does so no more, unless
    /// another one does: that has come before them, too.
    pub(crate) fn look_up(&self) {
        let mut state = self.state.lock();
        if state.timekeepers == 0 {
            self.wake_timeless(&mut state);
        }
    }

    fn wake_timeless(&self, state: &mut State) {
        if state.timeless > 0 {
            state.timeless = 0;
            state.looks += 1;
            self.condvar.notify_all();
        }
    }

    /// Makes one of the waiting threads the leader. `false` if there is none.
    pub(crate) fn offer_lead(&self) -> bool {
        // Nobody registers meanwhile, as the caller holds the queue's lock.
        if self.waiting.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut state = self.state.lock();
        if self.waiting.load(Ordering::Acquire) == 0 || state.result.is_some() {
            return false;
        }
        state.lead_offered = true;
        drop(state);
        if !mutant::on(Mutant::LeadNotHandedOn) {
            self.condvar.notify_one();
        }
        true
    }

    /// Resolves the ticket, and returns the callbacks for someone to run who may be held up.
    pub(crate) fn complete(&self, result: &Result<()>) -> Vec<Callback> {
        let mut state = self.state.lock();
        if state.result.is_some() {
            return Vec::new();
        }
        state.result = Some(result.clone());
        self.failed.store(result.is_err(), Ordering::Relaxed);
        self.done.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut state.wakers);
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        let whom = if result.is_err() { &self.waiting } else { &self.waiting_here };
        if whom.load(Ordering::Acquire) > 0 && !mutant::on(Mutant::WaiterNotWoken) {
            self.condvar.notify_all();
        }
        for waker in wakers {
            waker.wake();
        }
        callbacks
    }

    /// Resolves what waits for the replicas. Returns what [`complete`](Self::complete) does.
    pub(crate) fn complete_replicas(&self, result: &Result<()>) -> Vec<Callback> {
        let Some(replicas) = self.replicas() else { return Vec::new() };
        let callbacks = replicas.complete(result);
        // Whoever has looked before the outcome was there is asleep once the lock is free.
        drop(self.state.lock());
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.condvar.notify_all();
        }
        callbacks
    }

    /// Registers a task; `Some` if there is nothing to wait for.
    pub(super) fn poll(&self, waker: &Waker) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.result.is_none() && !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        state.result.clone()
    }

    /// Registers a callback; returns it with the result if that is known already.
    pub(super) fn call_back(&self, callback: Callback) -> Option<(Callback, Result<()>)> {
        let mut state = self.state.lock();
        match state.result.clone() {
            Some(result) => Some((callback, result)),
            None => {
                state.callbacks.push(callback);
                None
            }
        }
    }
}

#[cfg(all(test, not(ackline_shuttle)))]
#[path = "ticket_tests.rs"]
mod tests;

#[cfg(all(test, ackline_shuttle))]
#[path = "ticket_interleaved_tests.rs"]
mod interleaved;
