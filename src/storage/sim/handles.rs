//! What a process sees of the simulated disk: the storage, its files and its lock.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::SimDisk;
use super::fault::{Call, Fault};
use super::names::InodeId;
use super::state::State;
use super::trace::hash_bytes;
use crate::storage::disk::{QUARANTINE, check_name};
use crate::storage::{FileName, LockError, LockGuard, Mapping, Storage, StorageFile};

/// One process's view of a [`SimDisk`].
pub(super) struct SimStorage {
    disk: SimDisk,
    life: u64,
}

impl SimStorage {
    pub(super) fn new(disk: SimDisk) -> Self {
        let life = disk.state().life;
        Self { disk, life }
    }

    fn call<T>(
        &self,
        call: Call,
        names: [&str; 2],
        act: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let [first, second] = names.map(|name| hash_bytes(name.as_bytes()));
        self.disk.state().call(self.life, call, [first, second, 0], act)
    }

    fn handle(&self, inode: InodeId) -> Arc<dyn StorageFile> {
        Arc::new(SimFile { disk: self.disk.clone(), life: self.life, inode })
    }
}

impl Storage for SimStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        let mut state = self.disk.state();
        state.check_alive(self.life).map_err(LockError::Io)?;
        if state.locked {
            return Err(LockError::Held { holder: u32::try_from(state.life).ok() });
        }
        state.locked = true;
        // A file system that lost changes of names is read-only until it is mounted anew.
        state.names.evict();
        Ok(Box::new(SimLock { disk: self.disk.clone(), life: self.life }))
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.call(Call::List, ["", ""], |state, _| {
            let files = state.names.iter();
            let mut names: Vec<_> =
                files.map(|(name, _)| FileName { name: name.into(), is_file: true }).collect();
            if !state.quarantined.is_empty() {
                names.push(FileName { name: QUARANTINE.into(), is_file: false });
            }
            Ok(names)
        })
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let inode = self.call(Call::Create, [name, ""], |state, _| {
            let inode = state.create_file(name)?;
            state.hold(inode);
            Ok(inode)
        })?;
        Ok(self.handle(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let inode = self.call(Call::Open, [name, ""], |state, _| {
            let inode = state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            state.hold(inode);
            Ok(inode)
        })?;
        Ok(self.handle(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.call(Call::Rename, [from, to], |state, _| {
            if state.names.rename(from, to) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        })
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.call(Call::Quarantine, [name, ""], |state, _| state.quarantine(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.call(Call::Remove, [name, ""], |state, _| {
            state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.call(Call::SyncDirectory, ["", ""], State::sync_directory)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check_alive(self.life)?;
        Ok(state.free())
    }

    fn describe(&self) -> String {
        "a simulated disk".into()
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage").field("life", &self.life).finish_non_exhaustive()
    }
}

/// An open file of one process.
struct SimFile {
    disk: SimDisk,
    life: u64,
    inode: InodeId,
}

impl SimFile {
    fn call<T>(
        &self,
        call: Call,
        arguments: [u64; 2],
        act: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let [first, second] = arguments;
        self.disk.state().call(self.life, call, [self.inode, first, second], act)
    }
}

impl StorageFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.call(Call::Size, [0, 0], |state, _| Ok(state.inode(self.inode).cached().size()))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.call(Call::Read, [at, buffer.len() as u64], |state, fault| {
            let mut length = buffer.len();
            if fault == Some(Fault::Short) && length > 1 {
                state.counts.fault_short += 1;
                length = 1 + state.rng.index(length - 1);
            }
            Ok(state.inode(self.inode).cached().read(&mut buffer[..length], at))
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.call(Call::Write, [at, hash_bytes(bytes)], |state, fault| {
            state.write(self.inode, bytes, at, fault)
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.call(Call::Allocate, [bytes, 0], |state, _| {
            let size = state.inode(self.inode).cached().size();
            state.set_size(self.inode, bytes.max(size))?;
            Ok(state.reserves)
        })
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.call(Call::SetSize, [bytes, 0], |state, _| state.set_size(self.inode, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Call::Sync, [0, 0], |state, fault| state.sync(self.inode, fault))
    }

    fn map(&self) -> io::Result<Mapping> {
        self.call(Call::Map, [0, 0], |state, _| {
            Ok(Mapping::copied(state.inode(self.inode).cached().to_vec().into()))
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state().release(self.life, self.inode);
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile")
            .field("life", &self.life)
            .field("inode", &self.inode)
            .finish_non_exhaustive()
    }
}

/// The disk's lock, while its process lives.
struct SimLock {
    disk: SimDisk,
    life: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").field("life", &self.life).finish_non_exhaustive()
    }
}
