//! Read-only views of sealed files. The only module of the crate that uses `unsafe`.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of a whole file, mapped or, in a simulation, copied.
#[derive(Clone, Debug)]
pub struct Mapping(Source);

#[derive(Clone, Debug)]
enum Source {
    Mapped(Arc<memmap2::Mmap>),
    Copied(Arc<[u8]>),
}

impl Mapping {
    /// Maps a file of this log.
    pub(crate) fn of_sealed(file: &File) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "mapping a file is unsafe; this is the one place for it")]
        // SAFETY: a mapping is only undefined behaviour to read if the file is changed or cut
        // below it. The log maps sealed segments alone: nothing writes to them any more, and
        // retention unlinks them, which leaves the mapped pages alone. The directory's lock
        // keeps every other process that follows the protocol away.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self(Source::Mapped(Arc::new(map))))
    }

    /// A view of bytes in memory.
    pub fn copied(bytes: Arc<[u8]>) -> Self {
        Self(Source::Copied(bytes))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Copied(bytes) => bytes,
        }
    }
}
