//! The only door to files. Everything that the log reads or writes goes through [`Storage`], so
//! that a simulated disk can take its place and crash at any point.
//!
//! A storage is one directory. Files are named by plain names without separators.

#[cfg(test)]
mod contract_tests;
pub(crate) mod disk;
pub(crate) mod map;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod sim;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::mutant::{self, Mutant};
pub use map::Mapping;

/// A directory that holds a log.
///
/// To be correct, an implementation must keep these rules:
///
/// - What [`StorageFile::sync`] returned `Ok` for survives a power cut, size included.
/// - A created, renamed or removed name survives a power cut once [`Storage::sync_directory`]
///   returned `Ok`.
/// - An error leaves it open whether the call took effect, except [`io::ErrorKind::StorageFull`]
///   of any call but a sync.
#[allow(clippy::missing_errors_doc, reason = "every call fails as the file system does")]
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Creates the directory if it is missing (its parents, too, with their names synced), and
    /// locks it against every other opener until the returned guard is dropped.
    ///
    /// A held lock is [`LockError::Held`], with the holder's process id where it is known.
    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError>;
    /// The names in the directory, in any order, without `.`, `..` and the lock file.
    fn list(&self) -> io::Result<Vec<FileName>>;
    /// Creates a new, empty file; an existing one is [`io::ErrorKind::AlreadyExists`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames a file within the directory, replacing what had the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Moves a file out of the way into the directory `quarantine` below this one, creating it
    /// if it is missing. The move is durable when this returns.
    fn quarantine(&self, name: &str) -> io::Result<()>;
    /// Removes a file's name. Open files and maps of it stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// How many bytes can still be written to the file system.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Where the storage is, for messages.
    fn describe(&self) -> String;
}

/// An open file.
#[allow(clippy::missing_errors_doc, reason = "every call fails as the file system does")]
pub trait StorageFile: Send + Sync + fmt::Debug + 'static {
    /// The file's size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads up to `buffer.len()` bytes at `at`; fewer only at the end of the file, 0 past it.
    /// May be interrupted, or short in between; the log goes on then.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes up to `bytes.len()` bytes at `at`, extending the file if need be. May be short or
    /// interrupted; the log goes on then.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// Reserves blocks for the first `bytes` bytes and sets the file's size to them.
    /// [`io::ErrorKind::StorageFull`] when they are not there. `false` where the file system cannot
    /// reserve any: then the file has its size, and its blocks only once they are written.
    fn allocate(&self, bytes: u64) -> io::Result<bool>;
    /// Cuts or extends the file.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Makes all data written so far durable, and the size if it changed.
    fn sync(&self) -> io::Result<()>;
    /// Maps the whole file for reading. The caller never writes to or truncates the file while
    /// a mapping of it exists.
    fn map(&self) -> io::Result<Mapping>;
}

/// Holds a directory's lock until it is dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// Why a directory could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// Someone else has it.
    Held {
        /// The process id that the holder wrote into the lock file, if it could be read.
        holder: Option<u32>,
    },
    /// The path exists and is not a directory.
    NotADirectory,
    /// Another failure.
    Io(io::Error),
}

/// An entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The plain name; lossily converted where it is not UTF-8.
    pub name: String,
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// Fills `buffer` from `at`, going on after interruptions and short reads.
///
/// Returns the number of bytes read, which is less than asked for only at the end of the file.
pub(crate) fn read_full(file: &dyn StorageFile, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) if mutant::on(Mutant::ShortReadTakenForEnd) => return Ok(done + n),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `at`, going on after interruptions and short writes.
pub(crate) fn write_full(file: &dyn StorageFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) if mutant::on(Mutant::ShortWriteNotContinued) => return Ok(()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                if mutant::on(Mutant::InterruptedWriteDropped) {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether `error` says that the disk, the quota or the file-size limit is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
