//! Locks and wake-ups, in one place, so that a model checker can replace them.
//!
//! A thread that panics while it holds a lock may leave half a change behind. A durable queue
//! must not go on from there, so the next locker panics, too; only destructors step aside.
//!
//! In a build with `--cfg ackline_shuttle` everything here is made of the primitives of
//! [shuttle](https://docs.rs/shuttle), which runs the threads of a test one at a time, in an
//! order that it chooses; see `tests/interleavings.rs`. What is not made of them is invisible to
//! it, so nothing else in the crate may name `std::sync::Mutex`, `std::sync::atomic` or
//! `std::thread`, but for `storage/sim` and the switch of `mutant`, which are no part of what is
//! checked. It takes every access to an atomic as sequentially consistent, and has no time:
//! a wait with a time limit ends when it is notified, or when the test says that time has passed.

use std::time::Duration;

use atomic::{AtomicU64, AtomicUsize, Ordering};
use primitives::sync;
pub(crate) use primitives::sync::{MutexGuard, OnceLock};
pub(crate) use primitives::thread;

#[cfg(ackline_shuttle)]
mod checked;
#[cfg(ackline_shuttle)]
use checked as primitives;
#[cfg(ackline_shuttle)]
pub(crate) use checked::{spawn_scoped, sync::let_time_pass};
#[cfg(not(ackline_shuttle))]
use std as primitives;

/// Atomics that threads coordinate by.
pub(crate) mod atomic {
    pub(crate) use super::primitives::sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize, Ordering,
    };
}

/// A number for reports. Nothing waits for it or decides by it, so that a model checker need not
/// look at it.
pub(crate) use std::sync::atomic::AtomicU64 as Tally;

use crate::mutant::{self, Mutant};

/// Starts a thread of a scope; unlike `Scope::spawn`, it does not panic where there can be none.
#[cfg(not(ackline_shuttle))]
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> std::io::Result<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run)
}

/// A mutex whose poisoning is an assertion.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("no thread panicked while it held this lock")
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(sync::TryLockError::WouldBlock) => None,
            Err(sync::TryLockError::Poisoned(_)) => {
                panic!("no thread panicked while it held this lock")
            }
        }
    }

    /// For destructors, which must not panic.
    pub(crate) fn lock_in_drop(&self) -> Option<MutexGuard<'_, T>> {
        self.0.lock().ok()
    }
}

/// A read-write lock whose poisoning is an assertion.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        self.0.read().expect("no thread panicked while it held this lock")
    }

    pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        self.0.write().expect("no thread panicked while it held this lock")
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits until notified or, if a timeout is given, until it has passed.
    pub(crate) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        let invariant = "no thread panicked while it held this lock";
        match timeout {
            None => self.0.wait(guard).expect(invariant),
            Some(timeout) => self.0.wait_timeout(guard, timeout).expect(invariant).0,
        }
    }
}

/// Something may have changed: look, and sleep only if nothing did since the look began.
///
/// An event count: [`observe`](Self::observe), check the condition, [`wait`](Self::wait) with
/// what was observed. A notification between the two is never missed, and notifying costs one
/// atomic addition while nobody sleeps.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    changes: AtomicU64,
    sleepers: AtomicUsize,
    mutex: Mutex<()>,
    condvar: Condvar,
}

impl Signal {
    pub(crate) fn observe(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub(crate) fn notify(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        // A sleeper counts itself before it compares, both in one total order with the two
        // operations here: either it sees the change or we see the sleeper.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            if let Some(guard) = self.mutex.lock_in_drop() {
                drop(guard);
            }
            self.condvar.notify_all();
        }
    }

    /// Sleeps until a change after `observed`, at most for `timeout`.
    pub(crate) fn wait(&self, observed: u64, timeout: Option<Duration>) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let guard = self.mutex.lock();
        if self.changes.load(Ordering::SeqCst) == observed || mutant::on(Mutant::ChangeMissed) {
            drop(self.condvar.wait(guard, timeout));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

// The model checker has tests of its own.
#[cfg(all(test, not(ackline_shuttle)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_notification_between_look_and_sleep_is_not_missed() {
        let signal = Signal::default();
        let observed = signal.observe();
        signal.notify();
        // Would never return if the change were missed.
        signal.wait(observed, None);
    }

    #[test]
    fn a_sleeper_is_woken() {
        let signal = Arc::new(Signal::default());
        let observed = signal.observe();
        let sleeper = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || signal.wait(observed, None))
        };
        signal.notify();
        sleeper.join().expect("the sleeper returns");
    }
}

/// All orders in which the steps of a few threads can come.
#[cfg(all(test, ackline_shuttle))]
mod interleaved {
    use super::*;
    use std::sync::Arc;

    use atomic::AtomicBool;

    /// A sleeper as every user of [`Signal`] is one: observe, look, sleep.
    fn sleep_until(signal: &Signal, happened: &AtomicBool) {
        loop {
            let observed = signal.observe();
            if happened.load(Ordering::SeqCst) {
                return;
            }
            signal.wait(observed, None);
        }
    }

    fn check(sleepers: usize) {
        let shared = Arc::new((Signal::default(), AtomicBool::new(false)));
        let sleeping: Vec<_> = (0..sleepers)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || sleep_until(&shared.0, &shared.1))
            })
            .collect();
        shared.1.store(true, Ordering::SeqCst);
        shared.0.notify();
        for sleeper in sleeping {
            sleeper.join().expect("the sleeper returns");
        }
    }

    #[test]
    fn a_sleeper_is_woken_in_whatever_order_the_steps_come() {
        shuttle::check_dfs(|| check(1), None);
    }

    #[test]
    fn two_sleepers_are_woken_whatever_order_is_drawn() {
        shuttle::check_random(|| check(2), 20_000);
    }
}
