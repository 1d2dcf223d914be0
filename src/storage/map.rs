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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Checks that clones of a view show its bytes, also on other threads, and for as long as one
    /// of them lives.
    fn check_shared(view: Mapping, expected: &[u8]) {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (view, expected) = (view.clone(), expected.to_vec());
                std::thread::spawn(move || assert_eq!(view[..], expected[..]))
            })
            .collect();
        let last = view.clone();
        drop(view);
        for reader in readers {
            reader.join().expect("the reader sees the bytes");
        }
        let tail = &last[1..];
        assert_eq!(tail, &expected[1..]);
    }

    #[test]
    fn a_view_of_memory_shows_its_bytes_on_all_threads_until_the_last_clone_is_gone() {
        check_shared(Mapping::copied(Arc::from(&b"some bytes"[..])), b"some bytes");
        assert!(Mapping::copied(Arc::from([])).is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not map files")]
    fn a_map_of_a_file_shows_its_bytes_on_all_threads_until_the_last_clone_is_gone() {
        let mut file = tempfile::tempfile().expect("a file that has no name any more");
        assert!(Mapping::of_sealed(&file).expect("maps nothing").is_empty());
        file.write_all(b"some bytes").expect("writes");
        let view = Mapping::of_sealed(&file).expect("maps");
        drop(file);
        check_shared(view, b"some bytes");
    }
}
