//! A simulated machine on which threads meet at every call of the disk.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ackline::simulation::{
    Clock, Crash, Fault, FileName, LockError, LockGuard, Mapping, SimClock, SimDisk, Storage,
    StorageFile,
};
use ackline::{Error, Log, Options, Topic};
use shuttle::thread;

use super::harness::draw;

/// A disk and a clock that survive the logs on them.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    faults: Arc<Faults>,
}

/// What is to go wrong, and what is seen from outside.
#[derive(Debug, Default)]
struct Faults {
    /// The files that were opened by their names and are open.
    open: Mutex<Vec<String>>,
    /// How many syncs are left until one fails; zero for never.
    until_sync: AtomicU64,
}

/// What holds the directory's lock, and with it the right to change what is there.
#[derive(Debug)]
struct Holder {
    _inner: Box<dyn LockGuard>,
    holds: Arc<AtomicBool>,
}

impl LockGuard for Holder {}

impl Drop for Holder {
    fn drop(&mut self) {
        self.holds.store(false, Ordering::SeqCst);
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::on(SimDisk::new(draw(u64::MAX)))
    }

    pub(crate) fn on(disk: SimDisk) -> Self {
        Self { disk, clock: SimClock::new(), faults: Arc::default() }
    }

    /// Opens a log whose background rounds nobody does.
    pub(crate) fn open(&self, options: Options) -> Log {
        let options = options.simulated(Arc::new(self.clock.clone()), 1);
        options.open_on(self.storage()).expect("the log opens")
    }

    /// Opens a log with its background threads.
    pub(crate) fn open_with_threads(&self, options: Options) -> Log {
        let options = options.simulated(Arc::new(self.clock.clone()), 1).with_background();
        options.open_on(self.storage()).expect("the log opens")
    }

    /// Opens the log again once the background threads of its last opener have closed it.
    pub(crate) fn reopen(&self, options: &Options) -> Log {
        loop {
            let options = options.clone().simulated(Arc::new(self.clock.clone()), 1);
            match options.open_on(self.storage()) {
                Err(Error::Locked { .. }) => thread::yield_now(),
                opened => return opened.expect("the log opens"),
            }
        }
    }

    fn storage(&self) -> Arc<dyn Storage> {
        let (holds, failed) = (Arc::default(), AtomicBool::new(false));
        let (inner, machine) = (self.disk.storage(), self.clone());
        Arc::new(MeetingStorage { inner, machine, holds, failed })
    }

    /// Lets the sync with this number from now on fail, and if it is of a file, lose what it was to
    /// sync.
    pub(crate) fn fail_sync(&self, number: u64) {
        self.faults.until_sync.store(number, Ordering::SeqCst);
    }

    /// Lets the next call of the disk fail, if it is the sync that is to.
    fn strike(&self, fault: Fault) {
        match self.faults.until_sync.load(Ordering::SeqCst) {
            0 => {}
            1 => {
                self.fail_sync(0);
                self.disk.fail_at(self.disk.calls(), fault);
            }
            left => self.fail_sync(left - 1),
        }
    }

    /// Cuts the power, and opens what is left.
    pub(crate) fn crash(&self, options: Options) -> Log {
        self.fail_sync(0);
        self.disk.clear_faults();
        self.disk.crash(Crash::Power);
        self.open(options)
    }

    /// The names by which files were opened that are open.
    pub(crate) fn open_files(&self) -> Vec<String> {
        self.faults.open.lock().expect("no holder panicked").clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Lets time pass, bit by bit, until `done` says so.
    pub(crate) fn advance_until(&self, step: Duration, done: impl Fn() -> bool) {
        while !done() {
            self.clock.advance(step);
            thread::yield_now();
        }
    }
}

/// Lets other threads go on, as a call of the system does.
fn meet() {
    thread::sleep(Duration::ZERO);
}

/// The same before a change of what is in the directory, which is another's once the lock is
/// released.
fn meet_to_change(holds: &AtomicBool, what: &str) {
    meet();
    assert!(holds.load(Ordering::SeqCst), "{what} after the directory's lock was released");
}

struct MeetingStorage {
    inner: Arc<dyn Storage>,
    machine: Machine,
    /// The directory is locked by this log.
    holds: Arc<AtomicBool>,
    /// A sync of the directory has failed.
    failed: AtomicBool,
}

impl MeetingStorage {
    fn wrap(&self, file: Arc<dyn StorageFile>, name: Option<&str>) -> Arc<dyn StorageFile> {
        let name = name.map(str::to_owned);
        let mut open = self.machine.faults.open.lock().expect("no holder panicked");
        open.extend(name.clone());
        drop(open);
        let (machine, holds) = (self.machine.clone(), Arc::clone(&self.holds));
        let failed = AtomicBool::new(false);
        Arc::new(MeetingFile { inner: file, machine, holds, failed, opened: name })
    }
}

impl std::fmt::Debug for MeetingStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MeetingStorage").field(&self.inner).finish()
    }
}

impl Storage for MeetingStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        meet();
        let holder = Holder { _inner: self.inner.lock()?, holds: Arc::clone(&self.holds) };
        self.holds.store(true, Ordering::SeqCst);
        Ok(Box::new(holder))
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        meet();
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        meet_to_change(&self.holds, "create");
        Ok(self.wrap(self.inner.create(name)?, None))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        meet();
        Ok(self.wrap(self.inner.open(name)?, Some(name)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        meet_to_change(&self.holds, "rename");
        self.inner.rename(from, to)
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        meet_to_change(&self.holds, "quarantine");
        self.inner.quarantine(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        meet_to_change(&self.holds, "remove");
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        meet_to_change(&self.holds, "sync_directory");
        self.machine.strike(Fault::Io);
        assert!(!self.failed.load(Ordering::SeqCst), "a sync after one that failed");
        let synced = self.inner.sync_directory();
        self.failed.store(synced.is_err(), Ordering::SeqCst);
        meet();
        synced
    }

    fn free_bytes(&self) -> io::Result<u64> {
        meet();
        self.inner.free_bytes()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

struct MeetingFile {
    inner: Arc<dyn StorageFile>,
    machine: Machine,
    holds: Arc<AtomicBool>,
    /// A sync of it has failed.
    failed: AtomicBool,
    /// The name by which it was opened, if it was not made.
    opened: Option<String>,
}

impl Drop for MeetingFile {
    fn drop(&mut self) {
        let Some(name) = &self.opened else { return };
        let mut open = self.machine.faults.open.lock().expect("no holder panicked");
        let own = open.iter().position(|known| known == name).expect("it was opened");
        open.swap_remove(own);
    }
}

impl std::fmt::Debug for MeetingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MeetingFile").field(&self.inner).finish()
    }
}

impl StorageFile for MeetingFile {
    fn size(&self) -> io::Result<u64> {
        meet();
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        meet();
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        meet_to_change(&self.holds, "write_at");
        self.inner.write_at(bytes, at)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        meet_to_change(&self.holds, "allocate");
        self.inner.allocate(bytes)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        meet_to_change(&self.holds, "set_size");
        self.inner.set_size(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        meet_to_change(&self.holds, "sync");
        self.machine.strike(Fault::SyncLost);
        assert!(!self.failed.load(Ordering::SeqCst), "a sync after one that failed");
        let synced = self.inner.sync();
        self.failed.store(synced.is_err(), Ordering::SeqCst);
        // It may be done, or have failed, long before the caller learns of it.
        meet();
        synced
    }

    fn map(&self) -> io::Result<Mapping> {
        meet();
        self.inner.map()
    }
}

/// All visible payloads of a topic, as text.
pub(crate) fn texts(topic: &Topic) -> Vec<String> {
    let reader = topic.read_from(topic.offsets().start).expect("the start can be read");
    let payloads = reader.map(|message| {
        let message = message.expect("every message can be read");
        String::from_utf8(message.payload().to_vec()).expect("payloads are texts here")
    });
    payloads.collect()
}
