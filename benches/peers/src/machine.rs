//! Which machine it was, as far as the system says so.

use std::path::Path;

/// What a figure depends on.
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    /// The file system of the directory that was measured, with its options.
    pub(crate) file_system: String,
    pub(crate) kernel: String,
}

pub(crate) const UNKNOWN: &str = "unknown";

impl Machine {
    pub(crate) fn read(directory: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = text("/proc/cpuinfo");
        let processor = field(&processors, "model name").unwrap_or(UNKNOWN).to_owned();
        let kibibytes = field(&text("/proc/meminfo"), "MemTotal")
            .and_then(|total| total.trim_end_matches(" kB").parse::<u64>().ok());
        let memory = kibibytes.map_or(UNKNOWN.to_owned(), |kibibytes| {
            // What the kernel keeps for itself is missing, so round up.
            format!("{} GiB", kibibytes.div_ceil(1 << 20))
        });
        let release = text("/proc/sys/kernel/osrelease");
        // Behind a hyphen stands who built it, not what it is.
        let kernel = release.trim().split('-').next().unwrap_or_default();
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory,
            file_system: file_system(&text("/proc/mounts"), directory),
            kernel: if kernel.is_empty() { UNKNOWN.to_owned() } else { format!("Linux {kernel}") },
        }
    }
}

/// The average number of processes that wanted to run in the last minute.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or(UNKNOWN).to_owned()
}

/// The value of the first line with this name before a colon.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(own, _)| own.trim() == name);
    values.next().map(|(_, value)| value.trim())
}

/// The type and options of what is mounted nearest above a directory.
pub(crate) fn file_system(mounts: &str, directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut columns = line.split(' ').skip(1);
        Some((columns.next()?, columns.next()?, columns.next()?))
    });
    let above = mounts.filter(|(point, ..)| directory.starts_with(point));
    let nearest = above.max_by_key(|(point, ..)| point.len());
    nearest.map_or(UNKNOWN.to_owned(), |(_, kind, options)| format!("{kind} ({options})"))
}

/// The version of a crate that this program was built with.
pub(crate) fn version(name: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let version = LOCK.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
    version.unwrap_or(UNKNOWN)
}
