//! The handle that resolves when a commit is done: waited for, awaited, called back or let go.
//!
//! Everything that one write carries shares one ticket. Whoever completes it wakes the waiters,
//! the tasks and the callbacks; nobody is forgotten on an error, because completing is the only
//! way to be rid of a ticket.

mod ticket;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;

use crate::watermark::Ack;
pub(crate) use ticket::{Limit, Parked, Ticket};

/// Called with the outcome of a commit.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

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
    /// It was refused; `None` once somebody knows. Boxed: an error is large, and handles are many.
    Failed(Option<Box<Error>>),
    Queued(Queued<T>),
}

struct Queued<T> {
    value: T,
    ack: Ack,
    ticket: Arc<Ticket>,
    /// The offset that the value has, to be named where a wait was too long.
    offset_of: fn(&T) -> Option<Offset>,
}

impl<T> Queued<T> {
    /// Waits as long as the log's options say, or for `timeout`.
    fn wait(&self, timeout: Option<Duration>) -> std::result::Result<Result<()>, Error> {
        let Some(log) = self.ticket.committer() else { return Ok(self.answer()) };
        log.wait(&self.ticket, self.ack, timeout)
            .map_err(|late| log.late(late, (self.offset_of)(&self.value)))
    }

    /// What there is to know once the log is gone: it has answered for all that it had before.
    fn answer(&self) -> Result<()> {
        // That it is gone does not order what it did before; the ticket's lock does.
        self.ticket.awaited(self.ack).result_by_lock().unwrap_or(Err(Error::Closed))
    }
}

/// What a handle that is asked again is told.
const USED: &str = "a handle is not used again after it was ready";

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.0 {
            Inner::Failed(_) => true,
            Inner::Queued(queued) => queued.ticket.awaited(queued.ack).is_done(),
        };
        f.debug_struct("Pending").field("done", &done).finish_non_exhaustive()
    }
}

impl<T: Clone> Pending<T> {
    pub(crate) fn failed(error: Error) -> Self {
        Self(Inner::Failed(Some(Box::new(error))))
    }

    pub(crate) fn queued(
        value: T,
        offset_of: fn(&T) -> Option<Offset>,
        ticket: Arc<Ticket>,
        ack: Ack,
    ) -> Self {
        Self(Inner::Queued(Queued { value, ack, ticket, offset_of }))
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
            Inner::Failed(error) => Err(*error.expect(USED)),
            // Of many that are under way, most are done when somebody asks.
            Inner::Queued(Queued { value, ticket, ack, .. }) if ticket.awaited(ack).is_ok() => {
                Ok(value)
            }
            Inner::Queued(queued) => queued.wait(None)?.map(|()| queued.value),
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
            Inner::Failed(error) => Ok(Err(*error.expect(USED))),
            Inner::Queued(queued) => match queued.wait(Some(timeout)) {
                Ok(result) => Ok(result.map(|()| queued.value)),
                Err(_) => Err(Self(Inner::Queued(queued))),
            },
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
            Inner::Failed(error) => callback(Err(*error.expect(USED))),
            Inner::Queued(queued) if mutant::on(Mutant::CallbackBeforeDurable) => {
                callback(Ok(queued.value));
            }
            Inner::Queued(queued) => {
                let Some(log) = queued.ticket.committer() else {
                    return callback(queued.answer().map(|()| queued.value));
                };
                let Queued { value, ticket, ack, .. } = queued;
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
            Inner::Failed(error) => Poll::Ready(Err(*error.take().expect(USED))),
            Inner::Queued(queued) => {
                let value = || queued.value.clone();
                match queued.ticket.awaited(queued.ack).poll(context.waker()) {
                    Some(result) => Poll::Ready(result.map(|()| value())),
                    None => {
                        let Some(log) = queued.ticket.committer() else {
                            return Poll::Ready(queued.answer().map(|()| value()));
                        };
                        log.nudge();
                        Poll::Pending
                    }
                }
            }
        }
    }
}
