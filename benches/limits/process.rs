//! What the system tells of this process and its disk, and what it is asked to do with its caches.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Counts the bytes that a disk is sent. By default, those that this process sends to any.
#[derive(Default)]
pub(crate) struct Disk {
    /// Where the system counts them for the disk as a whole, whoever sends them.
    statistics: Option<PathBuf>,
}

impl Disk {
    /// The disk that holds a directory.
    pub(crate) fn of(directory: &Path) -> Result<Self, Box<dyn Error>> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let statistics = {
            let device = std::os::unix::fs::MetadataExt::dev(&directory.metadata()?);
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            Some(PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat")))
        };
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let statistics = directory.metadata().map(|_| None)?;
        Ok(Self { statistics: statistics.filter(|path| path.exists()) })
    }

    /// The bytes that were sent so far. Zero where nobody tells.
    pub(crate) fn sent_bytes(&self) -> u64 {
        const SECTOR_BYTES: u64 = 512;
        let Some(path) = &self.statistics else {
            // What this process has changed in the caches of the system and is to be sent: by
            // whole folios, of which only the pages that were changed are really sent.
            return field("/proc/self/io", "write_bytes:").unwrap_or(0);
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let sectors = text.split_whitespace().nth(6).and_then(|sectors| sectors.parse().ok());
        sectors.unwrap_or(0) * SECTOR_BYTES
    }
}

/// The memory of this process that is not a map of a file. Zero where nobody tells.
pub(crate) fn anonymous_bytes() -> u64 {
    field("/proc/self/status", "RssAnon:").unwrap_or(0) * 1024
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Lets the system forget what it holds of a file, or of the files in a directory. What is mapped
/// or not synced stays.
pub(crate) fn drop_cached(path: &Path) -> Result<(), Box<dyn Error>> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            drop_cached(&entry?.path())?;
        }
        return Ok(());
    }
    let file = File::open(path)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    drop(file);
    Ok(())
}

/// Waits until the file system has nothing to write, so that one row does not pay for another.
pub(crate) fn settle(directory: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::open(directory)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::fs::syncfs(&file)?;
    drop(file);
    Ok(())
}

/// Touches so much memory once, and gives it back; no more than a quarter of what is there. A virtual machine's host takes back what is free and
/// hands out each page anew when it is touched, which takes longer than what is measured of it.
pub(crate) fn touch_memory(bytes: usize) -> Result<(), Box<dyn Error>> {
    const PAGE_BYTES: usize = 4096;
    let there = field("/proc/meminfo", "MemAvailable:").unwrap_or(0) * 1024;
    // In a container; "max" where it may have all.
    let there =
        ["memory.max", "memory/memory.limit_in_bytes"].iter().fold(there, |there, limit| {
            let limit = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(limit));
            there.min(limit.unwrap_or_default().trim().parse().unwrap_or(u64::MAX))
        });
    let bytes = bytes.min(usize::try_from(there / 4)?);
    if bytes > 0 {
        // Asked for as zeros, which the system has not made yet.
        let mut memory = vec![0_u8; bytes];
        memory.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        std::hint::black_box(memory);
    }
    Ok(())
}
