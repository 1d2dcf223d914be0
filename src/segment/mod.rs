//! Segments: the files that the log is cut into. This module knows which exist and finds frames
//! and messages in them; it never decides what to write.

pub(crate) mod chunk;
pub(crate) mod cursor;
pub(crate) mod frames;
pub(crate) mod index;
pub(crate) mod recovery;
pub(crate) mod scan;
pub(crate) mod sealed;
mod window;
pub(crate) mod writer;

use std::sync::Arc;

use crate::error::Result;
use crate::format::SECTOR_BYTES;
use crate::format::frame::{HEADER_BYTES, Header};
use crate::format::header::SegmentHead;
use crate::offset::{Position, TopicId};
use crate::state::State;
use crate::storage::{Storage, StorageFile};
use crate::sync::{Mutex, RwLock};
use index::SegmentIndex;
use sealed::Sealed;

/// How many copies of a marker lie at the end of a file, each at the beginning of a sector.
pub(crate) const ECHOES: usize = 2;

/// What the next frame continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The number of the next frame.
    pub(crate) sequence: u64,
    /// The identity of the last one.
    pub(crate) chain: u32,
    pub(crate) epoch: u64,
}

/// Where things lie in a segment file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) base: Position,
    pub(crate) frames_at: u64,
    pub(crate) file_bytes: u64,
}

impl Layout {
    pub(crate) fn of(head: &SegmentHead, file_bytes: u64) -> Self {
        Self { base: head.base, frames_at: head.frames_at(), file_bytes }
    }

    /// The byte of the file at which a position lies.
    pub(crate) fn file_at(&self, position: Position) -> u64 {
        self.frames_at + (position.0 - self.base.0)
    }

    /// The position of a byte of the file behind its head.
    pub(crate) fn position_at(&self, file_at: u64) -> Position {
        self.base.plus(file_at - self.frames_at)
    }

    /// The position up to which frames fit; behind it is room for a marker, and for its echoes.
    pub(crate) fn room_end(&self) -> Position {
        let room = self.echoes_at().saturating_sub(self.frames_at + HEADER_BYTES as u64);
        self.base.plus(room)
    }

    /// The byte of the file behind which only echoes lie.
    pub(crate) fn echoes_at(&self) -> u64 {
        let sectors = (self.file_bytes.saturating_sub(HEADER_BYTES as u64)) / SECTOR_BYTES as u64;
        (sectors + 1).saturating_sub(ECHOES as u64) * SECTOR_BYTES as u64
    }

    /// The bytes of the file at which echoes lie; those that the head leaves room for.
    pub(crate) fn echoes(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, frames_at) = (self.echoes_at(), self.frames_at);
        let echoes = (0..ECHOES).map(move |number| first + number as u64 * SECTOR_BYTES as u64);
        echoes.filter(move |at| *at >= frames_at)
    }

    /// The copies of a marker, each with the byte of the file at which it lies.
    ///
    /// They lie in other sectors than the frames, so that no two sectors that are lost or trade
    /// places take both the last records and all that vouches for them. There are none where the
    /// frames reach too far, as they do in files that were made without room for them.
    pub(crate) fn echoes_of(&self, marker: &Header) -> impl Iterator<Item = (u64, Header)> + use<> {
        let has_room = self.file_at(marker.position) + HEADER_BYTES as u64 <= self.echoes_at();
        let echoes = if has_room { ECHOES } else { 0 };
        let (layout, marker) = (*self, *marker);
        let echo = move |at| (at, Header { position: layout.position_at(at), ..marker });
        self.echoes().take(echoes).map(echo)
    }
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) name: String,
    pub(crate) head: SegmentHead,
    pub(crate) file_bytes: u64,
    pub(crate) layout: Layout,
}

impl Segment {
    pub(crate) fn new(
        file: Arc<dyn StorageFile>,
        name: String,
        head: SegmentHead,
        file_bytes: u64,
    ) -> Self {
        let layout = Layout::of(&head, file_bytes);
        Self { file, name, head, file_bytes, layout }
    }

    /// The same file as if its head had another salt.
    fn salted(&self, salt: u32) -> Self {
        let head = SegmentHead { salt, ..self.head.clone() };
        Self::new(Arc::clone(&self.file), self.name.clone(), head, self.file_bytes)
    }

    pub(crate) fn base(&self) -> Position {
        self.head.base
    }

    /// The byte of the file at which a position lies.
    pub(crate) fn file_at(&self, position: Position) -> u64 {
        self.layout.file_at(position)
    }

    /// The position up to which frames fit.
    pub(crate) fn room_end(&self) -> Position {
        self.layout.room_end()
    }
}

/// Where each topic stands at a segment's beginning, by topic number; from the checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts(pub(crate) Vec<(u64, u64)>);

impl Starts {
    pub(crate) fn of(state: &State) -> Self {
        Self(state.topics().iter().map(|topic| (topic.next, topic.latest_ms)).collect())
    }

    /// The offset that the topic's next message gets here; 0 before the topic was made.
    pub(crate) fn next(&self, topic: TopicId) -> u64 {
        self.0.get(topic.0 as usize).map_or(0, |start| start.0)
    }

    /// The latest timestamp of the topic's messages before here.
    pub(crate) fn latest_ms(&self, topic: TopicId) -> u64 {
        self.0.get(topic.0 as usize).map_or(0, |start| start.1)
    }
}

/// The segment that is written to, with the index of what it holds so far.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    pub(crate) starts: Starts,
    pub(crate) index: RwLock<SegmentIndex>,
}

/// How the segments are kept and read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOptions {
    /// Read sealed segments through a map rather than by `pread`.
    pub(crate) map: bool,
    /// How many sealed segments stay open at a time.
    pub(crate) open_max: usize,
    /// How many bytes of frames that were just written stay in memory.
    pub(crate) recent_bytes: usize,
}

/// All segments of a log at one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// The bases of all segments in ascending order; the last is the active one's.
    pub(crate) bases: Vec<Position>,
    pub(crate) active: Arc<Active>,
}

/// All segments of a log.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) storage: Arc<dyn Storage>,
    view: RwLock<Arc<View>>,
    open: Mutex<Vec<Arc<Sealed>>>,
    pub(crate) recent: chunk::Recent,
    options: ReadOptions,
}

impl Segments {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        bases: Vec<Position>,
        active: Active,
        options: ReadOptions,
    ) -> Self {
        debug_assert_eq!(bases.last(), Some(&active.segment.base()), "the active one is the last");
        Self {
            storage,
            view: RwLock::new(Arc::new(View { bases, active: Arc::new(active) })),
            open: Mutex::default(),
            recent: chunk::Recent::new(options.recent_bytes),
            options,
        }
    }

    /// Drawn when the log was made; an empty replica takes over that of its leader.
    pub(crate) fn log_id(&self) -> u128 {
        self.view.read().active.segment.head.log_id
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    pub(crate) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.view.read().active)
    }

    /// Puts a new active segment behind the present one, which is sealed and stays open until
    /// its sidecar is written; returns the sealed one. An empty one is replaced.
    pub(crate) fn roll(&self, next: Active) -> Option<Arc<Sealed>> {
        // Nobody else puts segments in place, but the oldest may be forgotten meanwhile.
        let old = self.active();
        let base = next.segment.base();
        let replaces = base == old.segment.base();
        let sealed = (!replaces).then(|| {
            let sealed = Arc::new(Sealed::from_active(&old, base, self.options.map));
            self.open.lock().push(Arc::clone(&sealed));
            sealed
        });
        let mut view = self.view.write();
        let mut bases = view.bases.clone();
        if !replaces {
            bases.push(base);
        }
        *view = Arc::new(View { bases, active: Arc::new(next) });
        sealed
    }

    /// Goes on with other files, all of them known anew.
    pub(crate) fn replace(&self, bases: Vec<Position>, active: Active) {
        let mut view = self.view.write();
        self.recent.clear();
        self.open.lock().clear();
        *view = Arc::new(View { bases, active: Arc::new(active) });
    }

    /// Forgets the oldest segment, whose file is gone.
    pub(crate) fn forget_oldest(&self) {
        let mut view = self.view.write();
        let forgotten = view.bases[0];
        let (bases, active) = (view.bases[1..].to_vec(), Arc::clone(&view.active));
        *view = Arc::new(View { bases, active });
        drop(view);
        self.open.lock().retain(|sealed| sealed.base() != forgotten);
    }

    /// The sealed segment that begins at `view.bases[at]`, opened if it is not.
    pub(crate) fn sealed(&self, view: &View, at: usize) -> Result<Arc<Sealed>> {
        let (base, end) = (view.bases[at], view.bases[at + 1]);
        let mut open = self.open.lock();
        if let Some(i) = open.iter().position(|sealed| sealed.base() == base) {
            // The most recently used is at the back.
            let sealed = open.remove(i);
            open.push(Arc::clone(&sealed));
            return Ok(sealed);
        }
        drop(open);
        let opened = Sealed::open(
            &*self.storage,
            base,
            end,
            view.active.segment.head.log_id,
            self.options.map,
        )?;
        let sealed = Arc::new(opened);
        let mut open = self.open.lock();
        if !self.view.read().bases.contains(&base) {
            // Deleted since the view was taken: kept open, the file would go on to take room.
            return Ok(sealed);
        }
        if open.len() >= self.options.open_max
            && let Some(i) = open.iter().position(|sealed| !sealed.is_pinned())
        {
            open.remove(i);
        }
        open.push(Arc::clone(&sealed));
        Ok(sealed)
    }

    /// Where each topic stands at the beginning of the segment `at` of a view.
    pub(crate) fn starts(&self, view: &View, at: usize) -> Result<Starts> {
        if at + 1 == view.bases.len() {
            return Ok(view.active.starts.clone());
        }
        Ok(self.sealed(view, at)?.starts.clone())
    }

    /// Whether segments came or went since `view` was taken, so that a failure may be due to it.
    pub(crate) fn is_outdated(&self, view: &Arc<View>) -> bool {
        !Arc::ptr_eq(&self.view.read(), view)
    }
}
