//! The real directory. Owns every call into the file system.
//!
//! A call that returned `Ok` did what [`Storage`] promises, or the operating system lied. Nothing
//! is retried but interrupted system calls; a failed sync is handed to the caller as it is.
#![expect(clippy::disallowed_methods, reason = "this is the module that others go through")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{FileName, LockError, LockGuard, Mapping, Storage, StorageFile, is_full};

/// The name of the file whose lock is the directory's lock.
const LOCK: &str = "LOCK";

/// The directory for files that were moved out of the way.
pub(super) const QUARANTINE: &str = "quarantine";

/// A directory of a real file system.
#[derive(Debug)]
pub(crate) struct DiskStorage {
    path: PathBuf,
    /// The open directory, kept so that one descriptor sees every error of its writeback.
    directory: OnceLock<File>,
}

impl DiskStorage {
    /// The directory at `path`, which need not exist before it is locked.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: OnceLock::new() }
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }

    fn directory(&self) -> io::Result<&File> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory);
        }
        let opened = File::open(&self.path)?;
        Ok(self.directory.get_or_init(|| opened))
    }
}

impl Storage for DiskStorage {
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        match fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(LockError::NotADirectory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_directories(&self.path).map_err(LockError::Io)?;
            }
            Err(error) => return Err(LockError::Io(error)),
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(LOCK))
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { holder: read_holder(&file) });
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        match write_holder(&file) {
            // The process id is only a hint for others; a full disk must still open.
            Err(error) if !is_full(&error) => Err(LockError::Io(error)),
            _ => Ok(Box::new(DiskLock { _file: file })),
        }
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != LOCK {
                let is_file = entry.file_type()?.is_file();
                names.push(FileName { name: name.to_string_lossy().into_owned(), is_file });
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path_of(name)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path_of(name)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path_of(from)?, self.path_of(to)?)
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        let from = self.path_of(name)?;
        let quarantine = self.path.join(QUARANTINE);
        match fs::create_dir(&quarantine) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::rename(from, unused_path(&quarantine, name)?)?;
        // First the place that gains the name: a crash between the two may show the file twice,
        // but never not at all.
        sync_directory_at(&quarantine)?;
        self.sync_directory()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path_of(name)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory()?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// A file of a [`DiskStorage`].
#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl StorageFile for DiskFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(bytes, at)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        if bytes == 0 {
            return Ok(true);
        }
        reserve(&self.file, bytes)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Mapping> {
        // The system refuses to map nothing.
        if self.size()? == 0 {
            Ok(Mapping::copied(Arc::new([])))
        } else {
            Mapping::of_sealed(&self.file)
        }
    }
}

/// The lock lasts as long as the open file does.
#[derive(Debug)]
struct DiskLock {
    _file: File,
}

impl LockGuard for DiskLock {}

/// Refuses what is not the plain name of a log's file.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let reserved = ["", ".", "..", LOCK, QUARANTINE].contains(&name);
    if reserved || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name"));
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, bytes: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};

    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        // EOPNOTSUPP is the file system's answer, ENOSYS an old kernel's.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => extend(file, bytes).map(|()| false),
        other => Ok(other.map(|()| true)?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(file: &File, bytes: u64) -> io::Result<bool> {
    extend(file, bytes).map(|()| false)
}

/// Makes the file at least `bytes` long; like `fallocate`, it never cuts.
fn extend(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) }
}

/// Creates `path` and every missing parent, each with its name made durable.
fn create_directories(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_directories(parent)?;
            fs::create_dir(path)?;
        }
        // Another opener was faster; it may not have synced the name yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    sync_directory_at(parent)
}

fn sync_directory_at(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The first of `name`, `name.1`, `name.2`, … that does not exist in `directory`.
fn unused_path(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = directory.join(name);
    let mut copies = 0_u64;
    loop {
        match fs::symlink_metadata(&path) {
            Ok(_) => {
                copies += 1;
                path = directory.join(format!("{name}.{copies}"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
}

/// How much of the lock's file tells who holds it.
const HOLDER_BYTES: usize = 16;

fn read_holder(file: &File) -> Option<u32> {
    let mut digits = [0; HOLDER_BYTES];
    let length = file.read_at(&mut digits, 0).ok()?;
    std::str::from_utf8(&digits[..length]).ok()?.trim().parse().ok()
}

fn write_holder(file: &File) -> io::Result<()> {
    // Always as long, so that one write replaces it: cut before, the file would give its block back
    // and take another one; after, somebody could read what is left of a longer number.
    let digits = format!("{:<HOLDER_BYTES$}", std::process::id());
    file.write_all_at(digits.as_bytes(), 0)
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
