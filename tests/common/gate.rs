//! A storage whose syncs, or writes, wait until a test lets them go, or fail when it says so.
//!
//! A gate makes tests about threads independent of speed: the test waits until a thread has
//! arrived at it, arranges what it wants to happen meanwhile, and opens it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ackline::simulation::{
    Clock, FileName, LockError, LockGuard, Mapping, SimDisk, Storage, StorageFile,
};

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Threads that wait at the gate now.
    waiting: usize,
    /// All syncs of files that were let through.
    syncs: u64,
    /// The next sync fails.
    fails: bool,
    /// Writes wait at the gate rather than syncs.
    holds_writes: bool,
}

/// What decides when a sync goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("no holder panicked")
    }

    /// Lets later syncs wait.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Lets later writes wait; syncs go on.
    pub(crate) fn close_for_writes(&self) {
        let mut state = self.state();
        state.closed = true;
        state.holds_writes = true;
    }

    pub(crate) fn open(&self) {
        let mut state = self.state();
        state.closed = false;
        state.holds_writes = false;
        self.0.1.notify_all();
    }

    /// Lets the sync that waits, or the next one, fail.
    pub(crate) fn fail_next(&self) {
        self.state().fails = true;
    }

    /// Waits until a thread waits at the gate.
    pub(crate) fn await_arrival(&self) {
        let state = self.state();
        drop(self.0.1.wait_while(state, |state| state.waiting == 0).expect("no holder panicked"));
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn pass(&self, is_write: bool) -> io::Result<()> {
        let mut state = self.state();
        if state.closed && state.holds_writes == is_write {
            state.waiting += 1;
            self.0.1.notify_all();
            state = self.0.1.wait_while(state, |state| state.closed).expect("no holder panicked");
            state.waiting -= 1;
        }
        if !is_write {
            state.syncs += 1;
            if std::mem::take(&mut state.fails) {
                return Err(io::Error::other("the gate says so"));
            }
        }
        Ok(())
    }
}

/// A simulated disk behind a gate.
#[derive(Debug)]
pub(crate) struct GatedStorage {
    inner: Arc<dyn Storage>,
    gate: Gate,
}

impl GatedStorage {
    pub(crate) fn on(disk: &SimDisk, gate: &Gate) -> Arc<dyn Storage> {
        Arc::new(Self { inner: disk.storage(), gate: gate.clone() })
    }

    fn wrap(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(GatedFile { inner: file, gate: self.gate.clone() })
    }
}

impl Storage for GatedStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock()
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(self.inner.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(self.inner.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.inner.quarantine(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn StorageFile>,
    gate: Gate,
}

impl StorageFile for GatedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.gate.pass(true)?;
        self.inner.write_at(bytes, at)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.inner.allocate(bytes)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_size(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.pass(false)?;
        self.inner.sync()
    }

    fn map(&self) -> io::Result<Mapping> {
        self.inner.map()
    }
}

/// The machine's time, for logs without background threads whose waits have to end.
#[derive(Debug)]
pub(crate) struct RealClock(Instant);

impl RealClock {
    #[allow(clippy::disallowed_methods, reason = "a test passes the time in here")]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for RealClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).expect("a short test")
    }
}
