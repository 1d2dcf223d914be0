//! Salvage: making a damaged log usable again, knowing what is lost.
//!
//! Every segment is read from its first byte to its last. Where frames are damaged, the file is
//! written anew with a marker that says which positions are lost; everything else stays where it
//! is, so positions and offsets keep their meaning. Nothing is deleted: a file that is replaced
//! is first copied to the directory `quarantine`. Before all that, a step that a replica was in the
//! middle of is finished, as opening would.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::frame::{Header, Kind};
use crate::format::header::SegmentHead;
use crate::format::name;
use crate::offset::Position;
use crate::segment::chunk::usize_of;
use crate::segment::scan::{Stop, scan};
use crate::segment::sealed::open_segment;
use crate::segment::writer::{Start, file_bytes_for, marker};
use crate::segment::{Layout, Segment, Tail};
use crate::state::State;
use crate::storage::disk::DiskStorage;
use crate::storage::{Storage, read_full, write_full};

use super::cut::{open_promises, sync_names};
use super::frames::{Run, find_salt};
use super::open::{list, lock};
use super::replay::Replay;

/// More than the largest segment: 4 GiB by option, or one batch of 2 GiB and its overhead.
const SEGMENT_BYTES_MAX: u64 = 8 << 30;

/// What salvage found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Segments that were read.
    pub segments: usize,
    /// What is lost, in order. Empty if the log is whole: then no segment was written anew.
    pub lost: Vec<Lost>,
    /// Files that were copied to the directory `quarantine` before they were replaced.
    pub quarantined: Vec<String>,
}

/// A part of the log that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The segment file.
    pub file: String,
    /// The position at which the loss begins.
    pub from: Position,
    /// The position at which the log goes on; `from` where nothing is lost but the file itself, or
    /// its head, which was made again.
    pub to: Position,
}

/// Makes the damaged log in a directory usable again, at the price of what is damaged.
///
/// For use after [`Error::Corrupt`]. Readers are told of missing messages by
/// [`Error::Lagged`]. Acknowledgements that are lost only mean that messages are delivered again.
/// Where the very end of the log is lost, so are the last offsets of its topics: they are given
/// to other messages. A topic or group whose name is lost is called `lost topic 7` or
/// `lost group 7`. If the log is a replica and its process ended while frames were given up or a
/// snapshot took their place, that is finished first.
///
/// # Errors
///
/// [`Error::Locked`], [`Error::NotADirectory`], [`Error::UnsupportedVersion`];
/// [`Error::Corrupt`] if there is nothing to begin with, or of the file `REPLICA` if it is damaged
/// or files are missing that it tells of, and then nothing was removed; [`Error::Full`] or
/// [`Error::Io`]: what was done so far stays, and salvage can be called again.
///
/// # Examples
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # ackline::Log::open(dir.path())?.close()?;
/// let report = ackline::salvage(dir.path())?;
/// assert!(report.lost.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage(directory: impl AsRef<Path>) -> Result<SalvageReport> {
    salvage_on(&DiskStorage::new(directory.as_ref()))
}

/// [`salvage`] on any storage; public with the feature `simulation`.
///
/// # Errors
///
/// Those of [`salvage`].
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(unreachable_pub, reason = "public with the feature `simulation`")
)]
pub fn salvage_on(storage: &dyn Storage) -> Result<SalvageReport> {
    let _guard = lock(storage, Duration::from_secs(1), false)?;
    let mut listing = list(storage)?;
    if listing.has_replica {
        // As opening does: what a step has prepared looks like a leftover, and may be all there is.
        sync_names(storage)?;
        open_promises(storage)?;
        listing = list(storage)?;
    }
    for leftover in &listing.temporary {
        storage.remove(leftover).map_err(|e| Error::io("remove", leftover, e))?;
    }
    let mut salvage = Salvage {
        storage,
        log_id: find_log_id(storage, &listing.bases)?,
        state: State::default(),
        tail: Tail { sequence: 0, chain: 0, epoch: 0 },
        report: SalvageReport::default(),
    };
    let mut bases = listing.bases.clone();
    // A segment that is missing in the middle is made again, as one that is lost as a whole.
    for base in &listing.bases {
        if let Ok((segment, _)) = open_segment(storage, *base)
            && let Some(previous) = segment.head.previous_base
            && previous >= bases[0]
        {
            bases.push(previous);
        }
    }
    bases.sort_unstable();
    bases.dedup();
    for (i, base) in bases.iter().enumerate() {
        let previous = i.checked_sub(1).map(|i| bases[i]);
        salvage.segment(previous, *base, bases.get(i + 1).copied())?;
    }
    Ok(salvage.report)
}

/// The identity of the log: the one that most segments still say, or of two the newer.
fn find_log_id(storage: &dyn Storage, bases: &[Position]) -> Result<u128> {
    let mut said: Vec<(u128, usize)> = Vec::new();
    for base in bases.iter().rev() {
        match open_segment(storage, *base) {
            Ok((segment, _)) => {
                let id = segment.head.log_id;
                match said.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, times)) => *times += 1,
                    None => said.push((id, 1)),
                }
            }
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let most = said.iter().map(|(_, times)| *times).max();
    if let Some((id, _)) = said.into_iter().find(|(_, times)| Some(*times) == most) {
        return Ok(id);
    }
    let expected = "a segment with a whole head and checkpoint";
    Err(Error::corrupt(storage.describe(), 0, expected, "none"))
}

struct Salvage<'a> {
    storage: &'a dyn Storage,
    log_id: u128,
    /// The state and what the next frame continues, at the end of the segments so far.
    state: State,
    tail: Tail,
    report: SalvageReport,
}

/// What is known of a file that is written anew.
enum Found {
    /// Head and checkpoint are whole.
    Whole(Box<(Segment, Vec<u8>)>),
    /// They are not, or the file is missing.
    NoHead,
    /// They are those of another log.
    Foreign,
}

impl Salvage<'_> {
    fn segment(
        &mut self,
        previous: Option<Position>,
        base: Position,
        next: Option<Position>,
    ) -> Result<()> {
        self.report.segments += 1;
        let opened = match open_segment(self.storage, base) {
            Ok((segment, checkpoint)) if segment.head.log_id == self.log_id => {
                Some((segment, checkpoint))
            }
            // What another log has there is not a part of this one, unless it is the head alone.
            Ok((segment, _)) if self.holds_frames_of(&segment, next)? => {
                return self.rebuild(Found::Foreign, previous, base, next);
            }
            Ok(_) | Err(Error::Corrupt { .. }) => None,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let whole_head = opened.as_ref().is_some_and(|(segment, _)| {
            segment.head.previous_base == previous || previous.is_none()
        });
        if let Some((segment, checkpoint)) = &opened
            && whole_head
            && self.take_whole(segment, checkpoint, next)?
        {
            return Ok(());
        }
        let found = opened.filter(|_| whole_head);
        let found = found.map_or(Found::NoHead, |opened| Found::Whole(Box::new(opened)));
        self.rebuild(found, previous, base, next)
    }

    /// Whether a file holds frames that belong to its head.
    fn holds_frames_of(&self, segment: &Segment, next: Option<Position>) -> Result<bool> {
        let bytes = self.read_file(&segment.name)?;
        let whole = find_salt(&bytes, segment.base(), next, Some(segment.head.salt));
        Ok(whole.salt == segment.head.salt && !whole.runs.is_empty())
    }

    /// Takes in a segment as it is. `false` if it is damaged.
    fn take_whole(
        &mut self,
        segment: &Segment,
        checkpoint: &[u8],
        next: Option<Position>,
    ) -> Result<bool> {
        let Ok(mut replay) = Replay::of(segment, checkpoint) else { return Ok(false) };
        let scanned = match scan(segment, next, |visited| replay.take(segment, &visited)) {
            Ok(scanned) => scanned,
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_whole = match next {
            Some(next) => scanned.end == next,
            None => {
                let sealed = scanned.stop == Stop::Marker(Kind::Sealed);
                let is_cut = segment.file_bytes < segment.head.file_bytes;
                let contradicted = matches!(scanned.stop, Stop::Contradicted { .. });
                let vouched = scanned.durable <= scanned.end && scanned.other_salt.is_none();
                vouched && !sealed && !is_cut && !contradicted
            }
        };
        if is_whole {
            (self.state, self.tail) = (replay.state, scanned.tail);
        }
        Ok(is_whole)
    }

    /// Writes a damaged or missing segment anew, with markers where frames are lost.
    fn rebuild(
        &mut self,
        found: Found,
        previous: Option<Position>,
        base: Position,
        next: Option<Position>,
    ) -> Result<()> {
        let (file_name, lost_before) = (name::segment(base), self.report.lost.len());
        let old = self.read_file(&file_name)?;
        let frames = if matches!(found, Found::Foreign) { &[][..] } else { &old };
        let (mut head, checkpoint, salt) = match found {
            Found::Whole(opened) => {
                let (segment, checkpoint) = *opened;
                let salt = segment.head.salt;
                (segment.head, checkpoint, Some(salt))
            }
            Found::NoHead | Found::Foreign => {
                let (head, checkpoint) = self.new_head(previous, base)?;
                (head, checkpoint, None)
            }
        };
        let whole = find_salt(frames, base, next, salt);
        head.salt = whole.salt;
        let (runs, evidence) = (whole.consistent(), whole.evidence(base));
        if salt.is_none() && previous.is_none() {
            follow_nothing(&mut head, runs.first());
        }
        let after_last = runs.last().map_or(base, |run| run.position.plus(run.bytes as u64));
        // Where promised frames at the very end are lost, the log goes on behind them.
        let end = next.unwrap_or(after_last.max(evidence));
        let size = match end.0.checked_sub(base.0) {
            Some(bytes) if bytes <= SEGMENT_BYTES_MAX => file_bytes_for(head.frames_at(), bytes),
            // No segment is that large: a file has a wrong name, or a watermark lies.
            _ => {
                let expected = format!("a segment that ends near position {base}");
                return Err(Error::corrupt(&file_name, 0, expected, format!("one up to {end}")));
            }
        };
        head.file_bytes = size;
        let mut new = head.encode(&checkpoint);
        new.resize(usize_of(size), 0);
        let file_at = |position: Position| usize_of(head.frames_at() + (position.0 - base.0));
        let tail = Tail { sequence: head.sequence, chain: head.chain, epoch: head.epoch };
        let (mut at, mut tail) = (base, tail);
        let was_sealed = next.is_none() && is_sealed(&old, file_at(after_last), head.salt);
        for run in &runs {
            // A file that was put together from others may hold frames that reach too far.
            if run.position < at || run.position.0 + run.bytes as u64 > end.0 {
                continue;
            }
            if run.position > at {
                self.lose(&mut new, &file_name, file_at(at), (at, run.position), &tail, head.salt);
            }
            let to = file_at(run.position);
            new[to..to + run.bytes].copy_from_slice(&old[run.at..run.at + run.bytes]);
            at = run.position.plus(run.bytes as u64);
            let (sequence, epoch) = (run.header.sequence + 1, run.header.epoch);
            tail = Tail { sequence, chain: run.identity, epoch };
        }
        if at < end {
            self.lose(&mut new, &file_name, file_at(at), (at, end), &tail, head.salt);
        }
        end_file(&mut new, &head, next.ok_or(end), &tail);
        if lost_before == self.report.lost.len() {
            // The frames are whole: what is missing is the segment that followed, or the head.
            let (file, at) =
                if was_sealed { (name::segment(end), end) } else { (file_name.clone(), base) };
            self.report.lost.push(Lost { file, from: at, to: at });
        }
        self.replace(&file_name, base, &old, &new)?;
        let (segment, checkpoint) = open_segment(self.storage, base)?;
        if !self.take_whole(&segment, &checkpoint, next)? {
            let expected = "a log that can be replayed";
            return Err(Error::corrupt(&file_name, 0, expected, "entries that contradict it"));
        }
        Ok(())
    }

    fn lose(
        &mut self,
        new: &mut [u8],
        file: &str,
        file_at: usize,
        (from, to): (Position, Position),
        tail: &Tail,
        salt: u32,
    ) {
        // Frames are at least as long as a header, so the marker fits into what is lost.
        marker(Kind::Gap, from, tail, to).encode(&mut new[file_at..], salt);
        self.report.lost.push(Lost { file: file.to_owned(), from, to });
    }

    /// A head for a segment whose own is lost: the state at the end of the one before.
    fn new_head(
        &self,
        previous_base: Option<Position>,
        base: Position,
    ) -> Result<(SegmentHead, Vec<u8>)> {
        let mut checkpoint = Vec::new();
        let entries = self.state.encode(&mut checkpoint);
        let start = Start {
            log_id: self.log_id,
            base,
            previous_base,
            sequence: self.tail.sequence,
            epoch: self.tail.epoch,
            chain: self.tail.chain,
            created_ms: 0,
            salt: 0,
        };
        // The size is known once the frames are found.
        let head = start.head(&checkpoint, entries, 0)?;
        Ok((head, checkpoint))
    }

    fn read_file(&self, file_name: &str) -> Result<Vec<u8>> {
        let io = |e| Error::io("read", file_name, e);
        let file = match self.storage.open(file_name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(io)?,
        };
        let mut bytes = vec![0; usize_of(file.size().map_err(io)?)];
        let read = read_full(&*file, &mut bytes, 0).map_err(io)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Puts `new` in the place of a file, after a copy of the old one is in quarantine.
    fn replace(&mut self, file_name: &str, base: Position, old: &[u8], new: &[u8]) -> Result<()> {
        let (storage, unfinished) = (self.storage, name::unfinished(base));
        let write = |bytes: &[u8]| {
            let file = storage.create(&unfinished)?;
            write_full(&*file, bytes, 0)?;
            file.sync()
        };
        if !old.is_empty() {
            // Copied under its own name: made unfinished, then renamed by the move itself.
            let copy = format!("{file_name}.damaged");
            let copied = write(old)
                .and_then(|()| storage.rename(&unfinished, &copy))
                .and_then(|()| storage.quarantine(&copy));
            copied.map_err(|e| Error::io("copy to quarantine", file_name, e))?;
            self.report.quarantined.push(copy);
        }
        // The index points at frames that may be lost now; it is made again when it is needed.
        match storage.remove(&name::index(base)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", name::index(base), error));
            }
            _ => {}
        }
        let replaced = write(new)
            .and_then(|()| storage.rename(&unfinished, file_name))
            .and_then(|()| storage.sync_directory());
        replaced.map_err(|e| Error::io("replace", file_name, e))
    }
}

/// Lets the head of the oldest segment be one that its first frame continues, whatever that is:
/// retention has deleted those before it.
fn follow_nothing(head: &mut SegmentHead, first: Option<&Run>) {
    if let Some(first) = first.filter(|first| first.position == head.base) {
        let Header { sequence, epoch, previous, .. } = first.header;
        (head.sequence, head.epoch, head.chain) = (sequence, epoch, previous);
    }
}

/// Whether the marker that another segment follows lies at a byte of a file.
fn is_sealed(bytes: &[u8], at: usize, salt: u32) -> bool {
    let header = bytes.get(at..).map(|bytes| Header::decode(bytes, salt));
    header.is_some_and(|header| header.is_ok_and(|(found, _)| found.kind == Kind::Sealed))
}

/// Puts a marker where the frames of a file end: the next segment follows there, or nothing does.
fn end_file(
    bytes: &mut [u8],
    head: &SegmentHead,
    end: std::result::Result<Position, Position>,
    tail: &Tail,
) {
    let layout = Layout::of(head, head.file_bytes);
    let (at, kind) = match end {
        Ok(next) => (next, Kind::Sealed),
        Err(end) => (end, Kind::Idle),
    };
    let marker = marker(kind, at, tail, at);
    let echoes = layout.echoes_of(&marker).filter(|_| kind == Kind::Idle);
    // An idle marker says, too, that the salt of the head is that of the file.
    for (at, header) in std::iter::once((layout.file_at(at), marker)).chain(echoes) {
        header.encode(&mut bytes[usize_of(at)..], head.salt);
    }
}
