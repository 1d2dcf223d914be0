//! What the system tells of this process, and what it is asked to do with its caches.

use std::error::Error;
use std::fs::File;
use std::path::Path;

/// The bytes that this process has sent to its disks, or will: the system counts them when a page
/// of its cache is changed. Zero where nobody tells.
pub(crate) fn sent_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:").unwrap_or(0)
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
