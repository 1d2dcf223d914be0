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
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// Called with the outcome of a commit.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// The outcome of one write, shared by all that it carries.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    done: AtomicBool,
    /// Threads that are parked or about to be. Raised without the lock, lowered under it.
    waiting: AtomicUsize,
    state: Mutex<State>,
    condvar: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<()>>,
    /// One of them shall take over leadership.
    lead_offered: bool,
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

/// Why a parked thread goes on.
#[derive(Debug)]
pub(crate) enum Parked {
    Done(Result<()>),
    /// The thread is the leader now and must commit or hand on.
    Lead,
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

    pub(crate) fn result(&self) -> Option<Result<()>> {
        if !self.done.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().result.clone()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Announces a thread that will [`park`](Self::park), so that it can be made the leader.
    pub(crate) fn register(&self) {
        // Not under the lock: the caller holds the queue's, and those who park hold this one.
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits, after [`register`](Self::register), until the ticket is done, leadership is offered
    /// or `timeout` has passed by the machine's clock.
    pub(crate) fn park(&self, timeout: Option<Duration>) -> Parked {
        let mut state = self.state.lock();
        let mut timed_out = false;
        loop {
            // An offer is taken even by a thread that is done waiting: nobody else would.
            if state.lead_offered {
                state.lead_offered = false;
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                return Parked::Lead;
            }
            if let Some(result) = state.result.clone() {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                return Parked::Done(result);
            }
            if timed_out {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                return Parked::TimedOut;
            }
            state = self.condvar.wait(state, timeout);
            // A spurious wake-up ends a wait with a time limit early; callers wait again.
            timed_out = timeout.is_some();
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
        self.done.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut state.wakers);
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        if self.waiting.load(Ordering::Acquire) > 0 && !mutant::on(Mutant::WaiterNotWoken) {
            self.condvar.notify_all();
        }
        for waker in wakers {
            waker.wake();
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

/// What a pending handle needs of the log.
pub(crate) trait Committer: Send + Sync {
    /// Waits for a ticket, committing it if nobody else does. `None` after `timeout`.
    fn wait(&self, ticket: &Arc<Ticket>, timeout: Option<Duration>) -> Option<Result<()>>;
    /// Sees to it that what is queued is committed in the background.
    fn nudge(&self);
    /// How long a waiter is kept.
    fn sync_timeout(&self) -> Duration;
    /// Runs a callback where it holds up nobody.
    fn run_later(&self, callback: Callback, result: Result<()>);
}

/// An append that is on its way to the disk.
///
/// It is used in one of four ways: [`wait`](Self::wait), `.await` on any runtime,
/// [`on_complete`](Self::on_complete), or [`detach`](Self::detach). Dropping it does the same as
/// `detach`: the record is written all the same.
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
    Queued { value: T, offset: Option<Offset>, ticket: Arc<Ticket>, log: Arc<dyn Committer> },
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.0 {
            Inner::Ready(_) => true,
            Inner::Queued { ticket, .. } => ticket.is_done(),
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
        log: Arc<dyn Committer>,
    ) -> Self {
        Self(Inner::Queued { value, offset, ticket, log })
    }

    /// Waits until the log's policy calls the record safe.
    ///
    /// # Errors
    ///
    /// [`Error::SyncTimeout`] after [`Options::sync_timeout`](crate::Options::sync_timeout), with
    /// an unknown outcome; [`Error::Poisoned`] if the write failed; what kept the record from
    /// being queued at all, such as [`Error::Full`].
    pub fn wait(self) -> Result<T> {
        let timeout = match &self.0 {
            Inner::Ready(_) => Duration::ZERO,
            Inner::Queued { log, .. } => log.sync_timeout(),
        };
        let result = self.wait_for(timeout);
        result.unwrap_or_else(|pending| {
            let offset = match &pending.0 {
                Inner::Queued { offset, .. } => *offset,
                Inner::Ready(_) => None,
            };
            Err(Error::SyncTimeout { offset, waited: timeout })
        })
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
        self.wait_for(timeout)
    }

    fn wait_for(self, timeout: Duration) -> std::result::Result<Result<T>, Self> {
        match self.0 {
            Inner::Ready(result) => {
                Ok(result.expect("a handle is not used again after it was ready"))
            }
            Inner::Queued { value, offset, ticket, log } => {
                match log.wait(&ticket, Some(timeout)) {
                    Some(result) => Ok(result.map(|()| value)),
                    None => Err(Self(Inner::Queued { value, offset, ticket, log })),
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
            Inner::Queued { value, .. } if mutant::on(Mutant::CallbackBeforeDurable) => {
                callback(Ok(value));
            }
            Inner::Queued { value, ticket, log, .. } => {
                let callback: Callback = Box::new(move |result| callback(result.map(|()| value)));
                if let Some((callback, result)) = ticket.call_back(callback) {
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
            Inner::Queued { value, ticket, log, .. } => match ticket.poll(context.waker()) {
                Some(result) => Poll::Ready(result.map(|()| value.clone())),
                None => {
                    log.nudge();
                    Poll::Pending
                }
            },
        }
    }
}

#[cfg(all(test, not(ackline_shuttle)))]
mod tests {
    use super::*;

    /// A thread that waits as a commit does; it says whether it was asked to lead.
    fn wait(ticket: &Ticket) -> bool {
        match ticket.park(None) {
            Parked::Done(result) => {
                result.expect("the ticket is completed well");
                false
            }
            Parked::Lead => {
                assert!(ticket.complete(&Ok(())).is_empty(), "nobody called back");
                true
            }
            Parked::TimedOut => panic!("there is no time limit"),
        }
    }

    #[test]
    fn of_those_who_wait_one_is_made_the_leader_and_all_learn_of_the_end() {
        let ticket = Arc::new(Ticket::default());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                ticket.register();
                let ticket = Arc::clone(&ticket);
                std::thread::spawn(move || wait(&ticket))
            })
            .collect();
        assert!(ticket.offer_lead(), "somebody waits");
        let led = waiting.into_iter().map(|waiter| waiter.join().expect("it returns"));
        assert_eq!(led.filter(|led| *led).count(), 1);
        assert!(ticket.is_done() && !ticket.offer_lead(), "nobody waits any more");
    }

    #[test]
    fn who_comes_after_the_end_does_not_wait() {
        let ticket = Ticket::completed();
        ticket.register();
        assert!(!wait(&ticket));
        assert!(matches!(ticket.poll(Waker::noop()), Some(Ok(()))));
        assert!(ticket.call_back(Box::new(drop)).is_some(), "the callback is handed back");
    }

    #[test]
    fn a_task_and_a_callback_learn_of_the_end() {
        struct Woken(std::sync::mpsc::Sender<()>);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.send(()).expect("the test waits for it");
            }
        }
        let ticket = Arc::new(Ticket::default());
        let (woken, wakes) = std::sync::mpsc::channel();
        assert!(ticket.poll(&Waker::from(Arc::new(Woken(woken)))).is_none());
        assert!(ticket.call_back(Box::new(drop)).is_none());
        let completing = Arc::clone(&ticket);
        let completing = std::thread::spawn(move || completing.complete(&Err(Error::Closed)));
        wakes.recv().expect("the task is woken");
        assert!(matches!(ticket.result(), Some(Err(Error::Closed))), "before the task was woken");
        assert_eq!(completing.join().expect("it returns").len(), 1, "the callback is to be run");
    }
}

/// All orders in which the steps of a few threads can come.
#[cfg(all(test, ackline_shuttle))]
mod interleaved {
    use super::*;
    use crate::sync::thread;

    /// A thread that waits as a commit does: leads if it is asked to, and completes the ticket.
    fn follow(ticket: &Ticket) -> bool {
        match ticket.park(None) {
            Parked::Done(result) => {
                result.expect("the ticket is completed well");
                false
            }
            Parked::Lead => {
                assert!(ticket.complete(&Ok(())).is_empty(), "nobody called back");
                true
            }
            Parked::TimedOut => panic!("there is no time limit"),
        }
    }

    fn waiters(ticket: &Arc<Ticket>, number: usize) -> Vec<thread::JoinHandle<bool>> {
        let waiter = |_| {
            // As under the queue's lock, before anybody can make an offer.
            ticket.register();
            let ticket = Arc::clone(ticket);
            thread::spawn(move || follow(&ticket))
        };
        (0..number).map(waiter).collect()
    }

    fn check_complete(number: usize) {
        let ticket = Arc::new(Ticket::default());
        let waiting = waiters(&ticket, number);
        assert!(ticket.complete(&Ok(())).is_empty(), "nobody called back");
        for waiter in waiting {
            assert!(!waiter.join().expect("it returns"), "leadership was offered to nobody");
        }
        assert!(!ticket.offer_lead(), "nobody waits any more");
    }

    fn check_offer(number: usize) {
        let ticket = Arc::new(Ticket::default());
        let waiting = waiters(&ticket, number);
        assert!(ticket.offer_lead(), "somebody waits");
        let leaders = waiting.into_iter().map(|waiter| waiter.join().expect("it returns"));
        assert_eq!(leaders.filter(|leads| *leads).count(), 1);
    }

    #[test]
    fn waiters_learn_of_the_end_in_whatever_order_the_steps_come() {
        shuttle::check_dfs(|| check_complete(2), None);
    }

    #[test]
    fn a_waiter_that_is_offered_leadership_takes_it_in_whatever_order_the_steps_come() {
        shuttle::check_dfs(|| check_offer(1), None);
    }

    #[test]
    fn of_several_waiters_one_leads_and_all_return_whatever_order_is_drawn() {
        shuttle::check_random(|| check_offer(3), 20_000);
        shuttle::check_random(|| check_complete(3), 20_000);
    }
}
