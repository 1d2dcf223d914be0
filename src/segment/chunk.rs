//! Bytes of the log in memory, and the frames in them. Nothing is handed out of a chunk before
//! its checksum was verified, unless this process wrote it itself.

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::storage::Mapping;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A write that is no larger is copied for readers, behind the one before: they then find many small
/// ones in one chunk, and the memory of the write is used again.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// No chunk of such copies is larger: a delivery holds on to all of its chunk.
const COPIES_BYTES_MAX: usize = 64 * 1024;

/// Bytes that deliveries may hold on to.
#[derive(Clone, Debug)]
pub(crate) enum Shared {
    Memory(Arc<Vec<u8>>),
    Mapped(Mapping),
}

impl Shared {
    /// Whether they are the same bytes in memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (own, its): (&[u8], &[u8]) = (self, other);
        std::ptr::eq(own, its)
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

/// Consecutive bytes of the log.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) buffer: Shared,
    /// Where in the buffer `start` lies.
    pub(crate) origin: usize,
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// Written by this process and still in memory: there is nothing to verify.
    pub(crate) trusted: bool,
    /// That of the file.
    pub(crate) salt: u32,
}

/// A frame within a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Where in the chunk's buffer the entries lie.
    pub(crate) body: Range<usize>,
    pub(crate) entries: u32,
    pub(crate) at: Position,
    pub(crate) end: Position,
}

/// What lies at a position of a chunk.
#[derive(Clone, Debug)]
pub(crate) enum At {
    Frame(Frame),
    /// Salvage found that what was here is lost; the log goes on at `to`.
    Gap {
        to: Position,
    },
    /// The chunk ends before the frame does.
    Cut {
        /// How many bytes from there on are wanted, as far as is known.
        bytes: usize,
    },
}

impl Chunk {
    pub(crate) fn holds(&self, at: Position) -> bool {
        self.start <= at && at < self.end
    }

    /// What lies at `at`. `file` and `file_at` (of the chunk's start) are for the message about
    /// a damaged frame.
    pub(crate) fn look(&self, at: Position, file: &str, file_at: u64) -> Result<At> {
        let from = self.origin + usize_of(at.0 - self.start.0);
        let until = self.origin + usize_of(self.end.0 - self.start.0);
        if until < from + HEADER_BYTES {
            return Ok(At::Cut { bytes: HEADER_BYTES });
        }
        let byte = file_at + (at.0 - self.start.0);
        let header = match Header::decode(&self.buffer[from..until], self.salt) {
            Ok((header, _)) if header.position == at && header.kind == Kind::Frame => header,
            Ok((header, _)) if mutant::on(Mutant::SkipPositionCheck) => header,
            Ok((header, _)) if header.position == at && header.kind == Kind::Gap => {
                return Ok(At::Gap { to: header.durable });
            }
            Ok((header, _)) => {
                let found = format!("{:?} of position {}", header.kind, header.position);
                return Err(Error::corrupt(file, byte, format!("the frame of {at}"), found));
            }
            Err(bad) => {
                return Err(Error::corrupt(file, byte, "a frame's header", format!("{bad:?}")));
            }
        };
        let body = from + HEADER_BYTES..from + usize_of(header.frame_bytes());
        if body.end > until {
            return Ok(At::Cut { bytes: body.end - from });
        }
        if !self.trusted && !mutant::on(Mutant::SkipBodyChecksumInReads) {
            let found = crc32fast::hash(&self.buffer[body.clone()]);
            if found != header.body_checksum {
                let expected = format!("checksum {:08x}", header.body_checksum);
                return Err(Error::corrupt(file, byte, expected, format!("{found:08x}")));
            }
        }
        let end = at.plus(header.frame_bytes());
        Ok(At::Frame(Frame { body, entries: header.entries, at, end }))
    }
}

impl Chunk {
    /// Adds what comes next, if nobody looks at these bytes and they do not become too many.
    fn extend(&mut self, bytes: &[u8]) -> bool {
        let Shared::Memory(buffer) = &mut self.buffer else { return false };
        let Some(buffer) = Arc::get_mut(buffer) else { return false };
        let fits = buffer.len() + bytes.len() <= COPIES_BYTES_MAX;
        if fits {
            let needed = buffer.len() + bytes.len();
            if needed > buffer.capacity() {
                // Not at once as much as there may be: a reader may end it at any length.
                buffer.reserve_exact((2 * needed).min(COPIES_BYTES_MAX) - buffer.len());
            }
            buffer.extend_from_slice(bytes);
            self.end = self.end.plus(bytes.len() as u64);
        }
        fits
    }

    /// The header at a position at which [`look`](Self::look) has found a frame.
    pub(crate) fn header(&self, at: Position) -> Header {
        let from = self.origin + usize_of(at.0 - self.start.0);
        let decoded = Header::decode(&self.buffer[from..], self.salt);
        decoded.expect("a frame was found there").0
    }
}

/// The chunks that were written last: what a consumer that keeps up reads. Where none does, nothing is
/// kept: the memory is used again for the next write while it is still in the processor's cache.
#[derive(Debug)]
pub(crate) struct Recent {
    kept: RwLock<Kept>,
    bytes_max: u64,
    /// How much was written since somebody last asked for what is, or would be, among the chunks.
    unasked: AtomicU64,
    /// Where the log ends.
    end: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Chunk>,
    bytes: u64,
}

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max as u64;
        let (unasked, end) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { kept: RwLock::default(), bytes_max, unasked, end }
    }

    /// Whether what is written next is to be kept.
    pub(crate) fn is_wanted(&self) -> bool {
        self.unasked.load(Ordering::Relaxed) < self.bytes_max
    }

    /// Whether so many bytes are better copied, where they are to be kept.
    pub(crate) fn copies(bytes: usize) -> bool {
        bytes <= COPIED_BYTES_MAX
    }

    /// The log goes on to this position, be it kept or not. A hint, so it may come late.
    pub(crate) fn written(&self, end: Position) {
        self.end.store(end.0, Ordering::Relaxed);
    }

    pub(crate) fn push(&self, chunk: Chunk) {
        let bytes = chunk.buffer.len() as u64;
        self.add(bytes, |chunks| chunks.push_back(chunk));
    }

    /// Keeps a copy of what was written at `start` to the file with this salt.
    pub(crate) fn push_copy(&self, bytes: &[u8], start: Position, salt: u32) {
        self.add(bytes.len() as u64, |chunks| {
            let last = chunks.back_mut().filter(|last| last.salt == salt && last.end == start);
            if !last.is_some_and(|last| last.extend(bytes)) {
                let (buffer, end) = (Arc::new(bytes.to_vec()), start.plus(bytes.len() as u64));
                let buffer = Shared::Memory(buffer);
                chunks.push_back(Chunk { buffer, origin: 0, start, end, trusted: true, salt });
            }
        });
    }

    fn add(&self, bytes: u64, push: impl FnOnce(&mut VecDeque<Chunk>)) {
        let unasked = self.unasked.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut guard = self.kept.write();
        let kept = &mut *guard;
        kept.bytes += bytes;
        push(&mut kept.chunks);
        // What nobody has asked for in so long is of no use, nor is what comes after it.
        let max = if unasked < self.bytes_max { self.bytes_max } else { 0 };
        while kept.bytes > max {
            let Some(oldest) = kept.chunks.pop_front() else { break };
            kept.bytes -= oldest.buffer.len() as u64;
        }
    }

    pub(crate) fn clear(&self) {
        *self.kept.write() = Kept::default();
    }

    pub(crate) fn find(&self, at: Position) -> Option<Chunk> {
        let behind = self.end.load(Ordering::Relaxed).saturating_sub(at.0);
        if behind <= self.bytes_max && self.unasked.load(Ordering::Relaxed) > 0 {
            self.unasked.store(0, Ordering::Relaxed);
        }
        let guard = self.kept.read();
        let chunks = &guard.chunks;
        let after = chunks.partition_point(|chunk| chunk.start <= at);
        let chunk = chunks.get(after.checked_sub(1)?)?;
        chunk.holds(at).then(|| chunk.clone())
    }
}

/// A difference of two positions within one file.
pub(crate) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("files are smaller than the address space")
}

#[cfg(all(test, not(ackline_shuttle)))]
mod tests {
    use super::*;

    const BYTES: u64 = 100;

    /// Writes as a leader does.
    fn push(recent: &Recent, number: u64) {
        recent.written(Position((number + 1) * BYTES));
        if !recent.is_wanted() {
            return;
        }
        let (start, buffer) = (Position(number * BYTES), Arc::new(vec![0; usize_of(BYTES)]));
        let (buffer, end) = (Shared::Memory(buffer), start.plus(BYTES));
        recent.push(Chunk { buffer, origin: 0, start, end, trusted: true, salt: 0 });
    }

    fn finds(recent: &Recent, number: u64) -> bool {
        recent.find(Position(number * BYTES)).is_some()
    }

    #[test]
    fn what_was_written_last_is_kept_for_readers_that_keep_up() {
        let recent = Recent::new(1000);
        for number in 0..100 {
            push(&recent, number);
            assert!(recent.is_wanted() && finds(&recent, number));
        }
        assert!(finds(&recent, 90) && !finds(&recent, 89));
    }

    #[test]
    fn nothing_is_kept_that_nobody_asks_for() {
        let recent = Recent::new(1000);
        (0..9).for_each(|number| push(&recent, number));
        assert!(recent.is_wanted(), "somebody may be about to ask");
        push(&recent, 9);
        assert!(!recent.is_wanted());
        assert_eq!(recent.kept.read().bytes, 0);
        assert!(!finds(&Recent::new(0), 0) && !Recent::new(0).is_wanted());
        let all = Recent::new(usize::MAX);
        (0..99).for_each(|number| push(&all, number));
        assert!(finds(&all, 0) && finds(&all, 98));
    }

    #[test]
    fn copies_of_small_writes_are_one_chunk_until_somebody_has_it() {
        let recent = Recent::new(usize::MAX);
        let push = |from: u64, byte, salt| {
            let bytes = [byte; 100];
            recent.push_copy(&bytes, Position(from), salt);
            recent.written(Position(from + 100));
        };
        let found = |at| recent.find(Position(at)).expect("it is kept");
        push(0, 1, 7);
        push(100, 2, 7);
        let both = found(0);
        assert_eq!((both.start, both.end, both.buffer.len()), (Position(0), Position(200), 200));
        push(200, 3, 7);
        assert_eq!((found(100).end, found(200).buffer[..].to_vec()), (Position(200), vec![3; 100]));
        drop(both);
        push(300, 4, 7);
        assert_eq!(
            (found(200).end, found(299).buffer[100..].to_vec()),
            (Position(400), vec![4; 100])
        );
        // Of another file, and behind what was given up.
        push(400, 5, 8);
        push(600, 6, 8);
        assert_eq!((found(400).start, found(400).end), (Position(400), Position(500)));
        assert_eq!((found(600).start, found(600).salt), (Position(600), 8));
        assert!(recent.find(Position(550)).is_none());
    }

    #[test]
    fn copies_become_no_larger_than_a_delivery_should_hold_on_to() {
        let recent = Recent::new(usize::MAX);
        for number in 0..100 {
            recent.push_copy(&[0; 1000], Position(number * 1000), 7);
        }
        let kept = recent.kept.read();
        let sizes: Vec<_> = kept.chunks.iter().map(|chunk| chunk.buffer.len()).collect();
        assert_eq!((sizes, kept.bytes), (vec![65_000, 35_000], 100_000));
        for chunk in &kept.chunks {
            let Shared::Memory(buffer) = &chunk.buffer else { panic!("it is a copy") };
            let max = COPIES_BYTES_MAX.min(2 * buffer.len());
            assert!(buffer.capacity() <= max, "{} for {}", buffer.capacity(), buffer.len());
        }
    }

    #[test]
    fn it_is_kept_again_once_a_reader_catches_up() {
        let recent = Recent::new(1000);
        (0..30).for_each(|number| push(&recent, number));
        assert!(!finds(&recent, 19) && !recent.is_wanted(), "that one is far behind");
        assert!(!finds(&recent, 20) && recent.is_wanted());
        push(&recent, 30);
        assert!(finds(&recent, 30));
    }
}
