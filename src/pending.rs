//! The handle that resolves when a commit is done: waited for, awaited, called back or let go.
//!
//! Everything that one write carries shares one ticket. Whoever completes it wakes the waiters,
//! the tasks and the callbacks; nobody is forgotten on an error, because completing is the only
//! way to be rid of a ticket.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::watermark::Ack;

/// Called with the outcome of a commit.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// The outcome of one write, shared by all that it carries.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
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
    /// Threads that sleep with a time limit which others share.
    timekeepers: usize,
    wakers: Vec<Waker>,
    callbacks: Vec<Callback>,
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
    /// The limit of all who wait and have none of their own. While others keep the time for this
    /// thread, it sleeps without one, and is woken to look at the clock.
    Shared(Duration),
}

/// Why a parked thread goes on.
#[derive(Debug)]
pub(crate) enum Parked {
    Done(Result<()>),
    /// The thread is the leader now and must commit or hand on.
    Lead,
    /// Perhaps: it is time to look at the clock.
    TimedOut,
}

impl Ticket {
    /// A ticket of which there is nothing to wait for.
    pub(crate) fn completed() -> Self {
        let ticket = Self::default();
        let callbacks = ticket.complete(&Ok(()));
        debug_assert!(callbacks.is_empty(), "nobody knows the ticket yet");
        ticket
    }

    /// A ticket whose write is to be replicated, too.
    pub(crate) fn replicated() -> Self {
        Self { replicas: Some(Box::default()), ..Self::default() }
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

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
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
            Parked::TimedOut => self.result(),
        }
    }

    /// Waits, after [`register`](Self::register), until what was asked for is done, leadership is
    /// offered or the time limit has passed by the machine's clock.
    pub(crate) fn park(&self, limit: Limit, ack: Ack) -> Parked {
        let mut state = self.state.lock();
        let mut timed_out = false;
        loop {
            // An offer is taken even by a thread that is done waiting: nobody else would.
            if state.lead_offered {
                state.lead_offered = false;
                self.leave_others(&state, ack);
                return Parked::Lead;
            }
            if let Some(result) = self.outcome(&state, ack) {
                self.leave(ack);
                return Parked::Done(result);
            }
            if timed_out {
                self.leave_others(&state, ack);
                return Parked::TimedOut;
            }
            let keeps_time = matches!(limit, Limit::Shared(_)) && state.timekeepers < TIMEKEEPERS;
            let timeout = match limit {
                Limit::Own(time) => Some(time),
                Limit::Shared(time) => keeps_time.then_some(time),
                Limit::Endless => None,
            };
            state.timekeepers += usize::from(keeps_time);
            state = self.condvar.wait(state, timeout);
            state.timekeepers -= usize::from(keeps_time);
            // A spurious wake-up ends a wait with a time limit early; callers wait again.
            timed_out = !matches!(limit, Limit::Endless);
        }
    }

    /// Leaves others behind who wait on. One of them must keep the time for the rest.
    fn leave_others(&self, state: &State, ack: Ack) {
        self.leave(ack);
        if state.timekeepers == 0 && self.waiting.load(Ordering::Acquire) > 0 {
            self.condvar.notify_one();
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
    fn poll(&self, waker: &Waker) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.result.is_none() && !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        state.result.clone()
    }

    /// Registers a callback; returns it with the result if that is known already.
    fn call_back(&self, callback: Callback) -> Option<(Callback, Result<()>)> {
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

/// What somebody waited for and has not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    Sync,
    Replicas,
}

/// What a pending handle needs of the log.
pub(crate) trait Committer: Send + Sync {
    /// Waits for a ticket, committing it if nobody else does; as long as the log's options say, or
    /// for `timeout`.
    fn wait(
        &self,
        ticket: &Arc<Ticket>,
        ack: Ack,
        timeout: Option<Duration>,
    ) -> std::result::Result<Result<()>, Late>;
    /// What a caller is told who waited as long as the log's options say.
    fn late(&self, late: Late, offset: Option<Offset>) -> Error;
    /// Sees to it that what is queued is committed in the background.
    fn nudge(&self);
    /// Runs a callback where it holds up nobody.
    fn run_later(&self, callback: Callback, result: Result<()>);
}

/// An append that is on its way to the disk.
///
/// It is used in one of four ways: [`wait`](Self::wait), `.await` on any runtime,
/// [`on_complete`](Self::on_complete), or [`detach`](Self::detach). Dropping it does the same as
/// `detach`: the record is written all the same. While nobody waits for it, that may take a
/// millisecond or two, so that records which come one after the other share a write.
///
/// # Examples
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let log = ackline::Log::open(dir.path())?;
/// let orders = log.topic("orders")?;
/// let pending: Vec<_> = (0..100).map(|i| orders.submit(format!("order {i}"))).collect();
/// for pending in pending {
///     pending.wait()?; // Durable from here on.
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an append can still fail; wait for it, or say detach()"]
pub struct Pending<T>(Inner<T>);

enum Inner<T> {
    Ready(Option<Result<T>>),
    Queued(Queued<T>),
}

struct Queued<T> {
    value: T,
    offset: Option<Offset>,
    ticket: Arc<Ticket>,
    ack: Ack,
    log: Arc<dyn Committer>,
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.0 {
            Inner::Ready(_) => true,
            Inner::Queued(queued) => queued.ticket.awaited(queued.ack).is_done(),
        };
        f.debug_struct("Pending").field("done", &done).finish_non_exhaustive()
    }
}

impl<T: Clone> Pending<T> {
    pub(crate) fn failed(error: Error) -> Self {
        Self(Inner::Ready(Some(Err(error))))
    }

    pub(crate) fn queued(
        value: T,
        offset: Option<Offset>,
        ticket: Arc<Ticket>,
        ack: Ack,
        log: Arc<dyn Committer>,
    ) -> Self {
        Self(Inner::Queued(Queued { value, offset, ticket, ack, log }))
    }

    /// Waits until the log's policy, and its replicator, if it has one, call the record safe.
    ///
    /// # Errors
    ///
    /// [`Error::SyncTimeout`] after [`Options::sync_timeout`](crate::Options::sync_timeout), and
    /// [`Error::ReplicaTimeout`] after [`Options::replica_timeout`](crate::Options::replica_timeout)
    /// more, with an unknown outcome; [`Error::Fenced`] if another replica was made the leader, with
    /// an unknown outcome, too; [`Error::Poisoned`] if the write failed; what kept the record from
    /// being queued at all, such as [`Error::Full`].
    pub fn wait(self) -> Result<T> {
        match self.0 {
            Inner::Ready(result) => result.expect("a handle is not used again after it was ready"),
            Inner::Queued(Queued { value, offset, ticket, ack, log }) => {
                match log.wait(&ticket, ack, None) {
                    Ok(result) => result.map(|()| value),
                    Err(late) => Err(log.late(late, offset)),
                }
            }
        }
    }

    /// Waits for at most `timeout`, and hands the handle back if that was too short.
    ///
    /// The thread that finds nobody else writing does so itself; that one returns when the disk
    /// answers, be it later than `timeout`.
    ///
    /// # Errors
    ///
    /// The outer `Err` holds the handle; the inner result is that of [`wait`](Self::wait).
    pub fn wait_timeout(self, timeout: Duration) -> std::result::Result<Result<T>, Self> {
        match self.0 {
            Inner::Ready(result) => {
                Ok(result.expect("a handle is not used again after it was ready"))
            }
            Inner::Queued(queued) => {
                match queued.log.wait(&queued.ticket, queued.ack, Some(timeout)) {
                    Ok(result) => Ok(result.map(|()| queued.value)),
                    Err(_) => Err(Self(Inner::Queued(queued))),
                }
            }
        }
    }

    /// Calls `callback` with the outcome, on a thread of the log; where the append was refused,
    /// at once and on this one, and where the log is being closed, on the closer's.
    ///
    /// Keep it short: other callbacks and background commits wait for it. It may append, and a
    /// panic in it is caught and ignored, but for a refused append.
    pub fn on_complete(self, callback: impl FnOnce(Result<T>) + Send + 'static)
    where
        T: Send + 'static,
    {
        match self.0 {
            Inner::Ready(result) => {
                callback(result.expect("a handle is not used again after it was ready"));
            }
            Inner::Queued(queued) if mutant::on(Mutant::CallbackBeforeDurable) => {
                callback(Ok(queued.value));
            }
            Inner::Queued(Queued { value, ticket, ack, log, .. }) => {
                let callback: Callback = Box::new(move |result| callback(result.map(|()| value)));
                if let Some((callback, result)) = ticket.awaited(ack).call_back(callback) {
                    log.run_later(callback, result);
                }
                log.nudge();
            }
        }
    }

    /// Lets the append go on by itself: the one-way send. Nobody learns of its failure.
    pub fn detach(self) {}
}

impl<T: Clone + Unpin> Future for Pending<T> {
    type Output = Result<T>;

    /// # Panics
    ///
    /// Panics if it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Inner::Ready(result) => {
                Poll::Ready(result.take().expect("a future is not polled after it was ready"))
            }
            Inner::Queued(Queued { value, ticket, ack, log, .. }) => {
                match ticket.awaited(*ack).poll(context.waker()) {
                    Some(result) => Poll::Ready(result.map(|()| value.clone())),
                    None => {
                        log.nudge();
                        Poll::Pending
                    }
                }
            }
        }
    }
}

#[cfg(all(test, not(ackline_shuttle)))]
#[path = "pending_tests.rs"]
mod tests;

#[cfg(all(test, ackline_shuttle))]
#[path = "pending_interleaved_tests.rs"]
mod interleaved;
