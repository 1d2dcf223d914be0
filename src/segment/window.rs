//! A sliding view of a segment's file, from front to back. Going forward, it reads nothing twice, and
//! moves few bytes.

use crate::error::{Error, Result};
use crate::offset::Position;
use crate::storage::read_full;

use super::Segment;
use super::chunk::usize_of;

/// How much is read at a time, at least: it fits into the caches of a processor, so that what was
/// read is looked at there.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;

/// The part of the file that was read last.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    /// Never shrinks, so that few of its bytes are filled with zeros; the view is `start..end` of it.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the view begins in the file.
    at: u64,
    /// No more than asked for is read behind this byte of the file.
    ahead_until: u64,
}

impl<'a> Window<'a> {
    /// A view of a segment that is wanted up to `until`, or to the end of the file.
    pub(super) fn of(segment: &'a Segment, until: Option<Position>) -> Self {
        // It may be another file's name that says where this one ends.
        let bytes = until.and_then(|until| until.0.checked_sub(segment.base().0));
        let end = bytes.map(|bytes| segment.file_at(segment.base()).saturating_add(bytes));
        let ahead_until = end.unwrap_or(segment.file_bytes);
        Self { segment, buffer: Vec::new(), start: 0, end: 0, at: 0, ahead_until }
    }

    /// Up to `len` bytes at `at`; fewer at the end of the file.
    pub(super) fn get(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        self.show(at, len, len)?;
        Ok(self.view(at, len))
    }

    /// The same, with a checksum of these bytes: each part is hashed right behind its reading.
    pub(super) fn hashed(&mut self, at: u64, len: usize) -> Result<(&[u8], u32)> {
        let mut hasher = crc32fast::Hasher::new();
        let mut done = 0;
        loop {
            // What is in view already comes first.
            let seen = usize_of((self.at + self.len() as u64).saturating_sub(at));
            let wanted = if seen > done { seen } else { done + WINDOW_BYTES }.min(len);
            self.show(at, wanted, len)?;
            let part = self.view(at, wanted);
            hasher.update(&part[done..]);
            done = part.len();
            if done < wanted || done == len {
                return Ok((self.view(at, done), hasher.finalize()));
            }
        }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// What there is of these bytes; the view begins at or before them.
    fn view(&self, at: u64, len: usize) -> &[u8] {
        let from = self.start + usize_of(at - self.at);
        &self.buffer[from..self.end.min(from + len)]
    }

    /// Sees to it that `len` bytes at `at` are in view. There will be `room` of them.
    fn show(&mut self, at: u64, len: usize, room: usize) -> Result<()> {
        let end = self.at + self.len() as u64;
        if at >= self.at && at + len as u64 <= end {
            return Ok(());
        }
        // `room` comes from a checked header or is small; the file's size bounds it anyway.
        let left = |until: u64| usize_of(until.saturating_sub(at));
        let in_file = left(self.segment.file_bytes);
        let wanted = len.max(WINDOW_BYTES.min(left(self.ahead_until))).min(in_file);
        let is_inside = (self.at..end).contains(&at);
        let from = if is_inside { self.start + usize_of(at - self.at) } else { self.end };
        self.keep_from(from, room.max(wanted).min(in_file));
        let kept = self.len();
        let missing = &mut self.buffer[self.end..self.start + wanted.max(kept)];
        let read = read_full(&*self.segment.file, missing, at + kept as u64)
            .map_err(|e| Error::io("read", &self.segment.name, e))?;
        (self.at, self.end) = (at, self.end + read);
        Ok(())
    }

    /// Lets the view begin at `from` of the buffer, with room for so many bytes.
    fn keep_from(&mut self, from: usize, room: usize) {
        let kept = from..self.end;
        // To move little is cheaper than to go on in other memory.
        let to = if kept.len() > from { from } else { 0 };
        if self.buffer.len() < to + room {
            // New memory is full of zeros as it comes.
            let mut buffer = vec![0; to + room];
            buffer[to..to + kept.len()].copy_from_slice(&self.buffer[kept.clone()]);
            self.buffer = buffer;
        } else if to < from {
            self.buffer.copy_within(kept.clone(), to);
        }
        (self.start, self.end) = (to, to + kept.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::writer::Start;
    use crate::storage::sim::SimDisk;
    use crate::storage::write_full;
    use proptest::prelude::*;

    const FILE_BYTES: usize = 5 * WINDOW_BYTES + 77;

    /// A file in which nearly every byte differs from those around it.
    fn content() -> Vec<u8> {
        (0..FILE_BYTES).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
    }

    fn segment(content: &[u8]) -> Segment {
        let start = Start {
            log_id: 1,
            base: Position(0),
            previous_base: None,
            sequence: 0,
            epoch: 0,
            chain: 0,
            created_ms: 0,
            salt: 0,
        };
        let file = SimDisk::new(1).storage().create("x").expect("creates");
        write_full(&*file, content, 0).expect("writes");
        let head = start.head(&[], 0, content.len() as u64).expect("a small head");
        Segment::new(file, "x".to_owned(), head, content.len() as u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_window_shows_what_the_file_holds(
            until in prop::option::of(0..FILE_BYTES as u64),
            steps in prop::collection::vec((any::<bool>(), 0..9_u32, any::<u32>()), 1..40),
        ) {
            let content = content();
            let segment = segment(&content);
            let mut window = Window::of(&segment, until.map(Position));
            let mut at = 0;
            for (hashes, scale, number) in steps {
                let len = number as usize % (8 << (2 * scale)) + 1;
                let expected = &content[at..FILE_BYTES.min(at + len)];
                if hashes {
                    let (bytes, checksum) = window.hashed(at as u64, len).expect("reads");
                    prop_assert!(bytes == expected, "{at} {len}");
                    prop_assert_eq!(checksum, crc32fast::hash(expected));
                } else {
                    prop_assert!(window.get(at as u64, len).expect("reads") == expected, "{at} {len}");
                }
                // Mostly to its end, sometimes to somewhere within it.
                at += if number & 1 == 0 { expected.len() } else { expected.len() / 3 };
            }
        }
    }
}
