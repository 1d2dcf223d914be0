//! A storage that keeps a copy of the disk as it was before each call that changes it: all the
//! points at which a crash can strike, from one run. It also notes which calls there are: all
//! the points at which a fault can.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ackline::simulation::{FileName, LockError, LockGuard, Mapping, SimDisk, Storage, StorageFile};

/// What a storage says that it has done and has not: to prove that the checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    Sync,
    SyncDirectory,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// Nothing that lasts.
    Look,
    Write,
    Sync,
    SyncDirectory,
    /// Changes a name or a size.
    Change,
}

/// A call of the storage.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its number, as [`SimDisk::fail_at`] takes it.
    pub(crate) number: u64,
    pub(crate) does: Does,
    /// The name that the file has by then.
    pub(crate) file: String,
}

#[derive(Debug, Default)]
struct Notes {
    calls: Vec<Call>,
    /// While somebody wants them.
    shots: Option<Vec<SimDisk>>,
    /// What the open files are called now.
    names: BTreeMap<String, SharedName>,
}

type SharedName = Arc<Mutex<String>>;

/// Where the notes go.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    disk: SimDisk,
    lie: Option<Lie>,
    notes: Arc<Mutex<Notes>>,
}

impl Recorder {
    pub(crate) fn new(disk: &SimDisk, lie: Option<Lie>) -> Self {
        Self { disk: disk.clone(), lie, notes: Arc::default() }
    }

    /// The disk as the running process is to see it.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(RecordedStorage { inner: self.disk.storage(), recorder: self.clone() })
    }

    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Begins to take copies.
    pub(crate) fn start(&self) {
        lock(&self.notes).shots = Some(Vec::new());
    }

    /// The disk before each change since the start, and as it is now.
    pub(crate) fn stop(&self) -> Vec<SimDisk> {
        let mut shots = lock(&self.notes).shots.take();
        if let Some(shots) = &mut shots {
            shots.push(self.disk.fork());
        }
        shots.unwrap_or_default()
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.notes).calls.clone()
    }

    fn note(&self, does: Does, file: &str) {
        let mut notes = lock(&self.notes);
        let (number, file) = (self.disk.calls(), file.to_owned());
        notes.calls.push(Call { number, does, file });
        if let Some(shots) = notes.shots.as_mut().filter(|_| does != Does::Look) {
            shots.push(self.disk.fork());
        }
    }

    fn file(&self, name: &str, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let shared = SharedName::new(Mutex::new(name.to_owned()));
        lock(&self.notes).names.insert(name.to_owned(), Arc::clone(&shared));
        Arc::new(RecordedFile { inner, recorder: self.clone(), name: shared })
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
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
    name: SharedName,
}

impl Storage for RecordedStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock()
    }
    fn list(&self) -> io::Result<Vec<FileName>> {
        self.recorder.note(Does::Look, "");
        self.inner.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.recorder.note(Does::Change, name);
        Ok(self.recorder.file(name, self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.recorder.note(Does::Look, name);
        Ok(self.recorder.file(name, self.inner.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.recorder.note(Does::Change, from);
        self.inner.rename(from, to)?;
        let mut notes = lock(&self.recorder.notes);
        if let Some(renamed) = notes.names.remove(from) {
            to.clone_into(&mut lock(&renamed));
            notes.names.insert(to.to_owned(), renamed);
        }
        Ok(())
    }
    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.recorder.note(Does::Change, name);
        self.inner.quarantine(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.recorder.note(Does::Change, name);
        self.inner.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.recorder.note(Does::SyncDirectory, "");
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

impl RecordedFile {
    fn note(&self, does: Does) {
        self.recorder.note(does, &lock(&self.name).clone());
    }
}

impl StorageFile for RecordedFile {
    fn size(&self) -> io::Result<u64> {
        self.note(Does::Look);
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.note(Does::Look);
        self.inner.read_at(buffer, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.note(Does::Write);
        self.inner.write_at(bytes, at)
    }
    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.note(Does::Change);
        self.inner.allocate(bytes)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.note(Does::Change);
        self.inner.set_size(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.note(Does::Sync);
        let lies = self.recorder.lie == Some(Lie::Sync);
        if lies { Ok(()) } else { self.inner.sync() }
    }
    fn map(&self) -> io::Result<Mapping> {
        self.note(Does::Look);
        self.inner.map()
    }
}
