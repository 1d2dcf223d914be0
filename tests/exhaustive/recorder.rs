//! A storage that keeps a copy of the disk as it was before each call that changes it: all the
//! points at which a crash can strike, from one run.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ackline::simulation::{FileName, LockError, LockGuard, Mapping, SimDisk, Storage, StorageFile};

/// What a storage says that it has done and has not: to prove that the checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    Sync,
    SyncDirectory,
}

/// Where the copies go, while somebody wants them.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    disk: SimDisk,
    lie: Option<Lie>,
    shots: Arc<Mutex<Option<Vec<SimDisk>>>>,
}

impl Recorder {
    pub(crate) fn new(disk: &SimDisk, lie: Option<Lie>) -> Self {
        Self { disk: disk.clone(), lie, shots: Arc::default() }
    }

    /// The disk as the running process is to see it.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(RecordedStorage { inner: self.disk.storage(), recorder: self.clone() })
    }

    pub(crate) fn start(&self) {
        *self.shots.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The disk before each change since the start, and as it is now.
    pub(crate) fn stop(&self) -> Vec<SimDisk> {
        self.shoot();
        let shots = self.shots.lock().unwrap_or_else(PoisonError::into_inner).take();
        shots.unwrap_or_default()
    }

    fn shoot(&self) {
        if let Some(shots) = &mut *self.shots.lock().unwrap_or_else(PoisonError::into_inner) {
            shots.push(self.disk.fork());
        }
    }
}

#[derive(Debug)]
struct RecordedStorage {
    inner: Arc<dyn Storage>,
    recorder: Recorder,
}

#[derive(Debug)]
struct RecordedFile {
    inner: Arc<dyn StorageFile>,
    recorder: Recorder,
}

impl RecordedStorage {
    fn file(&self, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(RecordedFile { inner, recorder: self.recorder.clone() })
    }
}

impl Storage for RecordedStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock()
    }
    fn list(&self) -> io::Result<Vec<FileName>> {
        self.inner.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.recorder.shoot();
        Ok(self.file(self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.inner.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.recorder.shoot();
        self.inner.rename(from, to)
    }
    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.recorder.shoot();
        self.inner.quarantine(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.recorder.shoot();
        self.inner.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.recorder.shoot();
        let lies = self.recorder.lie == Some(Lie::SyncDirectory);
        if lies { Ok(()) } else { self.inner.sync_directory() }
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

impl StorageFile for RecordedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.recorder.shoot();
        self.inner.write_at(bytes, at)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.recorder.shoot();
        self.inner.allocate(bytes)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.recorder.shoot();
        self.inner.set_size(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.recorder.shoot();
        let lies = self.recorder.lie == Some(Lie::Sync);
        if lies { Ok(()) } else { self.inner.sync() }
    }
    fn map(&self) -> io::Result<Mapping> {
        self.inner.map()
    }
}
