//! Who uses the log, and what each of them has in hand: the threads of control that the seed
//! interleaves.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ackline::{Delivery, Group, Pending, Reader, Receipt, Result};

use super::super::setup::Role;

/// One of those who use the log.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) hands: Vec<Hand>,
    pub(crate) submitted: Vec<Submitted>,
    pub(crate) waiting: Option<Waiting>,
    /// A topic that it reads outside of any group, as it grows.
    pub(crate) tail: Option<(usize, Reader)>,
}

impl Actor {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, hands: Vec::new(), submitted: Vec::new(), waiting: None, tail: None }
    }
}

/// A delivery in a consumer's hands.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) delivery: Delivery,
    pub(crate) group: usize,
    pub(crate) offset: u64,
    pub(crate) token: u64,
    pub(crate) attempt: u32,
}

/// Where the outcome of a submit arrives.
pub(crate) type Arrival = Arc<Mutex<Option<Result<Receipt>>>>;

/// A submit that has not been answered.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) event: usize,
    pub(crate) offset: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Handle(Pending<Receipt>),
    Callback(Arrival),
    Task(Task<Pending<Receipt>>),
}

/// Whether a handle has its answer.
pub(crate) fn is_done(pending: &Pending<Receipt>) -> bool {
    format!("{pending:?}").contains("true")
}

/// A group's next message, being waited for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) group: usize,
    pub(crate) task: Task<Next>,
    /// When it was polled last.
    pub(crate) polled_at: Duration,
}

type Next = Pin<Box<dyn Future<Output = Result<Delivery>> + Send>>;

impl Waiting {
    pub(crate) fn new(group: usize, handle: Group, now: Duration) -> Self {
        let next: Next = Box::pin(async move { handle.next().await });
        Self { group, task: Task::new(next), polled_at: now }
    }
}

/// A future, and how often it was woken.
pub(crate) struct Task<F> {
    pub(crate) future: F,
    woken: Arc<Woken>,
    /// How often it had been woken when it was polled last.
    seen: u64,
}

impl<F: Future + Unpin> Task<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future, woken: Arc::default(), seen: 0 }
    }

    pub(crate) fn poll(&mut self) -> Poll<F::Output> {
        self.seen = self.woken.0.load(Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }

    /// Whether it was woken since it was polled last.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Relaxed) > self.seen
    }

    /// Goes on as another task, whose wake-ups are its own.
    pub(crate) fn move_on(&mut self) {
        self.woken = Arc::default();
        self.seen = 0;
    }
}

impl<F> fmt::Debug for Task<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("seen", &self.seen).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
