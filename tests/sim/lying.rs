//! A storage that answers that it has synced, and has not.

use std::io;
use std::sync::Arc;

use ackline::simulation::{FileName, LockError, LockGuard, Mapping, Storage, StorageFile};

/// What is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    Sync,
    SyncDirectory,
}

#[derive(Debug)]
pub(super) struct LyingStorage {
    pub(super) inner: Arc<dyn Storage>,
    pub(super) lie: Lie,
}

#[derive(Debug)]
struct LyingFile {
    inner: Arc<dyn StorageFile>,
    lie: Lie,
}

impl LyingStorage {
    fn file(&self, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(LyingFile { inner, lie: self.lie })
    }
}

impl Storage for LyingStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock()
    }
    fn list(&self) -> io::Result<Vec<FileName>> {
        self.inner.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.inner.open(name)?))
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
        if self.lie == Lie::SyncDirectory { Ok(()) } else { self.inner.sync_directory() }
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

impl StorageFile for LyingFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.inner.write_at(bytes, at)
    }
    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.inner.allocate(bytes)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_size(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        if self.lie == Lie::Sync { Ok(()) } else { self.inner.sync() }
    }
    fn map(&self) -> io::Result<Mapping> {
        self.inner.map()
    }
}
