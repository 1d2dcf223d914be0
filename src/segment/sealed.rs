//! Sealed segments: they never change, and are unlinked rather than truncated, so they can be
//! mapped and read without copying.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::entry::{Entries, Entry};
use crate::format::header::{FIXED_BYTES, SegmentHead};
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::storage::{Storage, read_full};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, OnceLock};

use super::chunk::{At, Chunk, Frame, Shared, usize_of};
use super::index::{Point, SegmentIndex};
use super::{Active, Segment, Starts};

/// How much is read at a time where a file is not mapped.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// A sealed segment that is open.
#[derive(Debug)]
pub(crate) struct Sealed {
    segment: Segment,
    pub(crate) starts: Starts,
    end: Position,
    map: OnceLock<Option<crate::storage::Mapping>>,
    use_map: bool,
    index: Mutex<Option<Arc<SegmentIndex>>>,
    /// Has no sidecar yet, so that closing it would lose the index.
    pinned: AtomicBool,
}

impl Sealed {
    pub(crate) fn from_active(active: &Active, end: Position, use_map: bool) -> Self {
        let from = &active.segment;
        let (file, name) = (Arc::clone(&from.file), from.name.clone());
        Self {
            segment: Segment::new(file, name, from.head.clone(), from.file_bytes),
            starts: active.starts.clone(),
            end,
            map: OnceLock::new(),
            use_map,
            index: Mutex::new(Some(Arc::new(active.index.read().clone()))),
            pinned: AtomicBool::new(true),
        }
    }

    pub(crate) fn open(
        storage: &dyn Storage,
        base: Position,
        end: Position,
        log_id: u128,
        use_map: bool,
    ) -> Result<Self> {
        let (segment, checkpoint) = open_segment(storage, base)?;
        if segment.head.log_id != log_id {
            return Err(foreign(&segment.name, log_id, segment.head.log_id));
        }
        let starts = starts_of(&checkpoint, segment.head.checkpoint_entries, &segment.name)?;
        Ok(Self {
            segment,
            starts,
            end,
            map: OnceLock::new(),
            use_map,
            index: Mutex::default(),
            pinned: AtomicBool::new(false),
        })
    }

    pub(crate) fn base(&self) -> Position {
        self.segment.base()
    }

    pub(crate) fn created_ms(&self) -> u64 {
        self.segment.head.created_ms
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.segment.file_bytes
    }

    pub(crate) fn name(&self) -> &str {
        &self.segment.name
    }

    pub(crate) fn file_at(&self, position: Position) -> u64 {
        self.segment.file_at(position)
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }

    /// A chunk with at least the frame at `at`, if the segment holds one there.
    pub(crate) fn chunk(&self, at: Position, bytes: usize) -> Result<Chunk> {
        let start = self.segment.base();
        if let Some(map) = self.mapping() {
            let origin = usize_of(self.segment.file_at(start));
            // The file may end before the segment does, if it was cut from outside.
            let there = (map.len() as u64).saturating_sub(origin as u64);
            let end = self.end.min(start.plus(there));
            let (buffer, salt) = (Shared::Mapped(map), self.segment.head.salt);
            return Ok(Chunk { buffer, origin, start, end, trusted: false, salt });
        }
        read_chunk(&self.segment, at, self.end, bytes)
    }

    fn mapping(&self) -> Option<crate::storage::Mapping> {
        if !self.use_map {
            return None;
        }
        // Where a file cannot be mapped, it can still be read.
        self.map.get_or_init(|| self.segment.file.map().ok()).clone()
    }

    /// The index: from memory, from the sidecar, or made from the frames.
    pub(crate) fn index(&self, storage: &dyn Storage) -> Result<Arc<SegmentIndex>> {
        let mut index = self.index.lock();
        if let Some(index) = &*index {
            return Ok(Arc::clone(index));
        }
        let made = match self.read_sidecar(storage) {
            Some(index) => index,
            None => self.rebuild_index()?,
        };
        let made = Arc::new(made);
        *index = Some(Arc::clone(&made));
        Ok(made)
    }

    fn read_sidecar(&self, storage: &dyn Storage) -> Option<SegmentIndex> {
        let file = storage.open(&name::index(self.base())).ok()?;
        let bytes = usize::try_from(file.size().ok()?).ok()?;
        // A sidecar is smaller than what it describes; anything else is not one.
        if bytes as u64 > self.segment.file_bytes.max(READ_BYTES as u64) {
            return None;
        }
        let mut buffer = vec![0; bytes];
        let read = read_full(&*file, &mut buffer, 0).ok()?;
        SegmentIndex::decode(&buffer[..read], self.segment.head.log_id, self.base(), self.end)
    }

    fn rebuild_index(&self) -> Result<SegmentIndex> {
        let mut index = SegmentIndex::default();
        let mut latest = self.starts.clone();
        let mut at = self.base();
        let mut bytes = READ_BYTES;
        while at < self.end {
            let chunk = self.chunk(at, bytes)?;
            let from = at;
            while at < self.end {
                match chunk.look(at, self.name(), self.file_at(chunk.start))? {
                    At::Frame(frame) => {
                        index_frame(&mut index, &mut latest, &chunk, &frame, self.name())?;
                        at = frame.end;
                    }
                    At::Gap { to } => at = to.max(at.plus(1)),
                    At::Cut { .. } => break,
                }
                if !chunk.holds(at) {
                    break;
                }
            }
            if at == from {
                // Not even one frame: it is larger than what was read, or the file ends in it.
                if chunk.end < at.plus(bytes as u64) {
                    let expected = format!("frames up to position {}", self.end);
                    let found = format!("the end of the file at position {}", chunk.end);
                    return Err(Error::corrupt(self.name(), self.file_at(at), expected, found));
                }
                bytes = bytes.saturating_mul(4);
            }
        }
        Ok(index)
    }

    /// Writes the sidecar. Unsynced: a damaged one is made again.
    pub(crate) fn write_sidecar(&self, storage: &dyn Storage) -> Result<()> {
        let index = self.index(storage)?;
        let bytes = index.encode(self.segment.head.log_id, self.base(), self.end);
        let (unfinished, file_name) = (name::unfinished(self.base()), name::index(self.base()));
        let written = storage.create(&unfinished).and_then(|file| {
            crate::storage::write_full(&*file, &bytes, 0)?;
            storage.rename(&unfinished, &file_name)
        });
        self.pinned.store(false, Ordering::Release);
        written.map_err(|error| {
            let io = Error::io("write", &file_name, error);
            storage.remove(&unfinished).map_or_else(|_| io.clone(), |()| io.clone())
        })
    }
}

fn index_frame(
    index: &mut SegmentIndex,
    latest: &mut Starts,
    chunk: &Chunk,
    frame: &Frame,
    file: &str,
) -> Result<()> {
    for entry in Entries::new(&chunk.buffer[frame.body.clone()], frame.entries) {
        let entry = entry.map_err(|bad| bad_entry(file, frame.at, &bad))?;
        if let Entry::Message(message) = entry {
            let topic = message.topic.0 as usize;
            if latest.0.len() <= topic {
                latest.0.resize(topic + 1, (0, 0));
            }
            let latest_ms = &mut latest.0[topic].1;
            let point = Point { offset: message.offset, at: frame.at, latest_ms: *latest_ms };
            index.add(message.topic, point);
            *latest_ms = message.timestamp_ms.max(*latest_ms);
        }
    }
    Ok(())
}

/// A whole frame with an entry that cannot be read.
pub(crate) fn bad_entry(file: &str, at: Position, bad: &crate::format::entry::Bad) -> Error {
    Error::corrupt(file, at.0, format!("entries in the frame of position {at}"), format!("{bad:?}"))
}

/// A segment that belongs to another log.
pub(crate) fn foreign(file: &str, expected: u128, found: u128) -> Error {
    Error::corrupt(file, 8, format!("log {expected:032x}"), format!("log {found:032x}"))
}

/// Reads up to `bytes` bytes from `at` on, and not past `end`.
pub(crate) fn read_chunk(
    segment: &Segment,
    at: Position,
    end: Position,
    bytes: usize,
) -> Result<Chunk> {
    let bytes = bytes.min(usize_of(end.0.saturating_sub(at.0)));
    let mut buffer = vec![0; bytes];
    let read = read_full(&*segment.file, &mut buffer, segment.file_at(at))
        .map_err(|e| Error::io("read", &segment.name, e))?;
    buffer.truncate(read);
    let end = at.plus(read as u64);
    let buffer = Shared::Memory(Arc::new(buffer));
    let salt = segment.head.salt;
    Ok(Chunk { buffer, origin: 0, start: at, end, trusted: false, salt })
}

/// Opens a segment and reads its head and checkpoint.
pub(crate) fn open_segment(storage: &dyn Storage, base: Position) -> Result<(Segment, Vec<u8>)> {
    let file_name = name::segment(base);
    let io = |operation| {
        let file_name = file_name.clone();
        move |error| Error::io(operation, file_name, error)
    };
    let file = storage.open(&file_name).map_err(io("open"))?;
    let file_bytes = file.size().map_err(io("read the size of"))?;
    let mut fixed = [0; FIXED_BYTES];
    let read = read_full(&*file, &mut fixed, 0).map_err(io("read"))?;
    let head = SegmentHead::decode(&fixed[..read], &file_name)?;
    if head.base != base {
        let expected = format!("the segment of position {base}");
        return Err(Error::corrupt(&file_name, 24, expected, format!("that of {}", head.base)));
    }
    if head.frames_at() > file_bytes {
        let expected = format!("a checkpoint of {} bytes", head.checkpoint_bytes);
        let found = format!("a file of {file_bytes} bytes");
        return Err(Error::corrupt(&file_name, FIXED_BYTES as u64, expected, found));
    }
    // The length is not above the size of a file that is there, so it may size a buffer.
    let mut checkpoint = vec![0; head.checkpoint_bytes as usize];
    let read = read_full(&*file, &mut checkpoint, FIXED_BYTES as u64).map_err(io("read"))?;
    let found = crc32fast::hash(&checkpoint[..read]);
    if found != head.checkpoint_checksum && !mutant::on(Mutant::SkipCheckpointChecksum) {
        let expected = format!("checkpoint checksum {:08x}", head.checkpoint_checksum);
        let found = format!("{found:08x}");
        return Err(Error::corrupt(&file_name, FIXED_BYTES as u64, expected, found));
    }
    Ok((Segment::new(file, file_name, head, file_bytes), checkpoint))
}

/// The topics of a checkpoint.
pub(crate) fn starts_of(checkpoint: &[u8], entries: u32, file: &str) -> Result<Starts> {
    let mut starts = Vec::new();
    for entry in Entries::new(checkpoint, entries) {
        match entry {
            Ok(Entry::Topic { next, latest_ms, .. }) => starts.push((next, latest_ms)),
            // Topics come first.
            Ok(_) => break,
            Err(bad) => {
                let at = FIXED_BYTES as u64;
                return Err(Error::corrupt(file, at, "checkpoint entries", format!("{bad:?}")));
            }
        }
    }
    Ok(Starts(starts))
}
