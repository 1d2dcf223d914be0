//! The primitives of the model checker, under the names that they have in `std`, and what it has
//! none for: a cell that is set once, and waits that time ends.

pub(crate) use shuttle::thread;

/// A thread of a scope, which can always be started here.
#[expect(clippy::unnecessary_wraps, reason = "in other builds it may fail")]
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    _name: &str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> std::io::Result<thread::ScopedJoinHandle<'scope, T>> {
    Ok(scope.spawn(run))
}

pub(crate) mod sync {
    use std::cell::RefCell;
    use std::sync::{Arc, LockResult, PoisonError};
    use std::time::Duration;

    pub(crate) use shuttle::sync::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, atomic,
    };

    thread_local! {
        /// Of the test that runs on this thread: what sleeps with a time limit.
        static SLEEPERS: RefCell<Vec<Arc<shuttle::sync::Condvar>>> = const { RefCell::new(Vec::new()) };
    }

    /// Ends all waits that have a time limit. Those whose time has not come wait again, as they
    /// do after any wake-up without a reason.
    pub(crate) fn let_time_pass() {
        for condvar in SLEEPERS.with_borrow(Clone::clone) {
            condvar.notify_all();
        }
    }

    /// A condition variable whose waits with a time limit end in [`let_time_pass`]; shuttle's own
    /// never do.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

    impl Condvar {
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn wait<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
        ) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait(guard)
        }

        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _timeout: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, ())> {
            let sleeping = Sleeping::on(&self.0);
            let waited = self.0.wait(guard);
            drop(sleeping);
            match waited {
                Ok(guard) => Ok((guard, ())),
                Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
            }
        }
    }

    /// An entry among the sleepers, while it lives.
    struct Sleeping<'a>(&'a Arc<shuttle::sync::Condvar>);

    impl<'a> Sleeping<'a> {
        fn on(condvar: &'a Arc<shuttle::sync::Condvar>) -> Self {
            SLEEPERS.with_borrow_mut(|sleepers| sleepers.push(Arc::clone(condvar)));
            Self(condvar)
        }
    }

    impl Drop for Sleeping<'_> {
        fn drop(&mut self) {
            SLEEPERS.with_borrow_mut(|sleepers| {
                let own = sleepers.iter().position(|known| Arc::ptr_eq(known, self.0));
                sleepers.swap_remove(own.expect("it was entered and is removed once"));
            });
        }
    }

    /// A cell that is set once, whoever comes first, and makes the others wait meanwhile.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        setting: Mutex<()>,
        value: std::sync::OnceLock<T>,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) const fn new() -> Self {
            Self { setting: Mutex::new(()), value: std::sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            // Others may come first, as before every access to an atomic.
            shuttle::thread::sleep(Duration::ZERO);
            self.value.get()
        }

        pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            if let Some(value) = self.get() {
                return value;
            }
            let _setting = self.setting.lock();
            self.value.get_or_init(make)
        }
    }
}
