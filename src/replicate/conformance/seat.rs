//! Where a replica's log lies: a directory, or a simulated disk, whose syncs the suite can hold
//! up, and which it can take away from a process in the middle of its work.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Log;
use crate::options::Options;
use crate::storage::disk::DiskStorage;
#[cfg(any(test, feature = "simulation"))]
use crate::storage::sim::{Crash, SimDisk};
use crate::storage::{FileName, LockError, LockGuard, Mapping, Storage, StorageFile};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, Signal};

/// What lies below.
#[derive(Clone, Debug)]
pub(super) enum Ground {
    Directory(PathBuf),
    #[cfg(any(test, feature = "simulation"))]
    Disk(Box<SimDisk>),
}

/// The place of one replica's log. It outlives the log.
pub struct Seat {
    ground: Ground,
    life: Mutex<Arc<Life>>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("ground", &self.ground).finish_non_exhaustive()
    }
}

/// One opening of the place, until the process that opened it is killed.
#[derive(Debug, Default)]
struct Life {
    held: AtomicBool,
    over: AtomicBool,
    changed: Signal,
}

impl Life {
    fn check(&self) -> io::Result<()> {
        let over = self.over.load(Ordering::Acquire);
        if over { Err(io::Error::other("the process was killed by the suite")) } else { Ok(()) }
    }

    /// Waits while syncs are held up.
    fn pass(&self) -> io::Result<()> {
        loop {
            let observed = self.changed.observe();
            self.check()?;
            if !self.held.load(Ordering::Acquire) {
                return Ok(());
            }
            self.changed.wait(observed, None);
        }
    }
}

impl Seat {
    pub(super) fn new(ground: Ground) -> Self {
        Self { ground, life: Mutex::default() }
    }

    /// Opens the log that lies here.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open(&self, options: Options) -> Result<Log> {
        options.open_storage(self.begin_life())
    }

    /// The place as a storage, for what opens a log by itself, such as
    /// [`Mirror::open_on`](crate::replicate::Mirror::open_on).
    #[cfg(any(test, feature = "simulation"))]
    pub fn storage(&self) -> Arc<dyn Storage> {
        self.begin_life()
    }

    fn begin_life(&self) -> Arc<dyn Storage> {
        let inner: Arc<dyn Storage> = match &self.ground {
            Ground::Directory(path) => Arc::new(DiskStorage::new(path)),
            #[cfg(any(test, feature = "simulation"))]
            Ground::Disk(disk) => disk.storage(),
        };
        let life = Arc::new(Life::default());
        *self.life.lock() = Arc::clone(&life);
        Arc::new(Door { inner, life })
    }

    fn change(&self, change: impl FnOnce(&Life)) {
        let life = Arc::clone(&self.life.lock());
        change(&life);
        life.changed.notify();
    }

    /// From now on, syncs of files do not return.
    pub(super) fn hold_syncs(&self) {
        self.change(|life| life.held.store(true, Ordering::Release));
    }

    pub(super) fn release_syncs(&self) {
        self.change(|life| life.held.store(false, Ordering::Release));
    }

    /// Whoever has opened it changes nothing here any more.
    pub(super) fn kill(&self) {
        self.change(|life| life.over.store(true, Ordering::Release));
    }

    /// What was not synced is lost, where the ground allows for that. After [`kill`](Self::kill).
    pub(super) fn cut_power(&self) {
        match &self.ground {
            Ground::Directory(_) => {}
            #[cfg(any(test, feature = "simulation"))]
            Ground::Disk(disk) => disk.crash(Crash::Power),
        }
    }
}

/// What a log sees of its place.
#[derive(Debug)]
struct Door {
    inner: Arc<dyn Storage>,
    life: Arc<Life>,
}

impl Door {
    fn wrap(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(DoorFile { inner: file, life: Arc::clone(&self.life) })
    }
}

impl Storage for Door {
    fn lock(&self) -> std::result::Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock()
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.life.check()?;
        Ok(self.wrap(self.inner.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(self.inner.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.life.check()?;
        self.inner.rename(from, to)
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.life.check()?;
        self.inner.quarantine(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.life.check()?;
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.life.check()?;
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
struct DoorFile {
    inner: Arc<dyn StorageFile>,
    life: Arc<Life>,
}

impl StorageFile for DoorFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.life.check()?;
        self.inner.write_at(bytes, at)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.life.check()?;
        self.inner.allocate(bytes)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.life.check()?;
        self.inner.set_size(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.life.pass()?;
        self.inner.sync()
    }

    fn map(&self) -> io::Result<Mapping> {
        self.inner.map()
    }
}
