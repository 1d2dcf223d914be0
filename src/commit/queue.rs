//! What waits to be written: gatherings of entries, encoded into the very bytes that go to the
//! disk, at positions that are known from the start.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::error::{Error, Result};
use crate::format::frame::{BODY_TARGET_BYTES, HEADER_BYTES, Header};
use crate::format::{ALIGNMENT, SECTOR_BYTES, align};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position, TopicId};
use crate::pending::{Committer, Ticket};
use crate::segment::index::Point;
use crate::segment::writer::Spare;
use crate::segment::{Segment, Starts, Tail};
use crate::state::{Contradiction, State};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Signal};

use super::enlist::Enlisting;

/// A gathering larger than this is written before more joins it.
const GATHER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// No more room than this is made for entries before they come.
const LIKELY_BYTES_MAX: usize = 128 * 1024;

/// No more memory than this is kept for the next gathering.
const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Tasks that wait, each until it is woken or no longer wants to be.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    waiting: std::collections::BTreeMap<u64, std::task::Waker>,
    next: u64,
}

impl Wakers {
    pub(crate) fn add(&mut self, waker: std::task::Waker) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, waker);
        self.next
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = std::task::Waker> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What is known of a topic outside of the queue's lock.
#[derive(Debug)]
pub(crate) struct TopicRuntime {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    /// The first offset that retention has left.
    pub(crate) start: AtomicU64,
    /// The offset after the last visible message.
    pub(crate) visible_next: AtomicU64,
    /// Something became visible.
    pub(crate) signal: Signal,
    /// Tasks that wait for the same.
    pub(crate) wakers: Mutex<Wakers>,
    /// This replica has given up the frame that made the topic. Changed under the queue's lock.
    pub(crate) gone: AtomicBool,
}

impl TopicRuntime {
    /// Wakes the threads and tasks that wait for messages.
    pub(crate) fn wake(&self) {
        if !mutant::on(Mutant::PollerNotWoken) {
            self.signal.notify();
        }
        let mut wakers = self.wakers.lock();
        if wakers.is_empty() {
            return;
        }
        let all = wakers.take_all();
        drop(wakers);
        for waker in all {
            if !mutant::on(Mutant::TaskNotWoken) {
                waker.wake();
            }
        }
    }
}

/// A topic as the queue sees it.
#[derive(Debug)]
pub(crate) struct TopicSlot {
    pub(crate) runtime: Arc<TopicRuntime>,
    /// In which gathering it was last touched, and where in that one's list.
    pub(super) touched: Option<(u64, usize)>,
    pub(super) last_point: Option<Position>,
}

/// How a disk harms what a torn write was not about; decides what frames are padded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Media {
    /// A write harms no byte that it does not cover, even if power fails in the middle of it.
    /// What SQLite calls *powersafe overwrite* and assumes of every disk by default
    /// (<https://www.sqlite.org/psow.html>).
    #[default]
    PowersafeOverwrite,
    /// A write may destroy all of each 512-byte sector that it touches. Each commit is padded
    /// to whole sectors, so that it shares none with a record that is already safe.
    WholeSectors,
}

impl Media {
    /// Whether a marker at this position touches no record that is already safe.
    pub(crate) fn may_mark(self, segment: &Segment, at: Position) -> bool {
        segment.file_at(at).is_multiple_of(self.unit() as u64)
    }

    pub(crate) fn unit(self) -> usize {
        match self {
            Self::PowersafeOverwrite => ALIGNMENT,
            Self::WholeSectors if mutant::on(Mutant::PaddingForgotten) => ALIGNMENT,
            Self::WholeSectors => SECTOR_BYTES,
        }
    }
}

/// Entries that are written with one write and synced with one sync.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    pub(crate) start: Position,
    /// Whole frames; their headers are filled in by the leader.
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<FrameStart>,
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) touched: Vec<(Arc<TopicRuntime>, u64)>,
    pub(crate) points: Vec<(TopicId, Point)>,
    pub(crate) messages: u64,
    /// How many calls it carries whose callers may soon call again; of frames that come over a link
    /// none, as whoever brings them does the write.
    pub(crate) calls: u64,
    /// The frames are another leader's, headers and all.
    pub(crate) ingested: bool,
    pub(super) number: u64,
}

/// A frame within a gathering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameStart {
    pub(crate) at: usize,
    pub(crate) entries: u32,
}

impl Gather {
    /// Begins anew at `start`, in the memory that is there.
    fn renew(&mut self, start: Position, number: u64, ingested: bool, ticket: Ticket) {
        let Self { bytes, frames, touched, points, .. } = self;
        bytes.clear();
        frames.clear();
        touched.clear();
        points.clear();
        (self.start, self.number, self.ingested) = (start, number, ingested);
        match Arc::get_mut(&mut self.ticket) {
            Some(unused) => *unused = ticket,
            // Somebody still has the last one.
            None => self.ticket = Arc::new(ticket),
        }
        (self.messages, self.calls) = (0, 0);
    }

    pub(crate) fn end(&self) -> Position {
        self.start.plus(self.bytes.len() as u64)
    }
}

/// Everything behind the queue's lock.
#[expect(clippy::struct_excessive_bools, reason = "each flag is an independent fact")]
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state: State,
    pub(crate) topics: Vec<TopicSlot>,
    pub(crate) queue: VecDeque<Box<Gather>>,
    /// Some thread commits, or has been asked to.
    pub(crate) leading: bool,
    /// The last gathering that the background committer has seen: it comes back by itself and then
    /// commits what it has seen before. `None` while it sleeps until it is told.
    pub(crate) attended: Option<u64>,
    /// The last gathering with entries that are left to the background.
    pub(crate) left: u64,
    /// Something is queued that the background is to commit at once.
    pub(crate) urgent: bool,
    /// A new segment is being put in place: nothing may be queued.
    pub(crate) rolling: bool,
    /// This log does not lead: only frames of the leader of that epoch may be queued.
    pub(crate) fenced: Option<Epoch>,
    /// What the next frame of a leader must continue; unknown before the first one comes.
    pub(crate) ingested: Option<Tail>,
    /// There is a replicator to wait for.
    pub(crate) is_replicated: bool,
    /// Failures whose waiters are being answered.
    pub(crate) failing: usize,
    /// Where the next gathering begins.
    pub(crate) end: Position,
    /// The end of the room in the active segment.
    pub(crate) room_end: Position,
    pub(crate) queued_bytes: usize,
    pub(crate) spare: Option<Spare>,
    pub(crate) preparing: bool,
    /// The sizes of all segment files.
    pub(crate) log_bytes: u64,
    pub(crate) media: Media,
    /// Each call is written and synced alone.
    pub(crate) one_by_one: bool,
    pub(super) next_gather: u64,
    /// How many calls the last write carried.
    pub(crate) last_calls: u64,
    /// How many bytes the next write is likely to have.
    likely_bytes: usize,
    /// A gathering that was written: the next one is made of it, in memory that is there already.
    written: Option<Box<Gather>>,
    /// Whoever has this queue, for those who wait for what is in it.
    pub(super) committer: Option<Weak<dyn Committer>>,
}

impl Core {
    pub(crate) fn new(state: State, end: Position, room_end: Position, media: Media) -> Self {
        Self {
            state,
            topics: Vec::new(),
            queue: VecDeque::new(),
            leading: false,
            attended: None,
            left: 0,
            urgent: false,
            rolling: false,
            fenced: None,
            ingested: None,
            is_replicated: false,
            failing: 0,
            end,
            room_end,
            queued_bytes: 0,
            spare: None,
            preparing: false,
            log_bytes: 0,
            media,
            one_by_one: false,
            next_gather: 0,
            last_calls: 0,
            likely_bytes: 0,
            written: None,
            committer: None,
        }
    }

    /// Takes back a gathering that was written.
    pub(crate) fn recycle(&mut self, written: Option<Box<Gather>>) {
        if written.as_ref().is_some_and(|gather| gather.bytes.capacity() <= KEPT_BYTES_MAX) {
            self.written = written;
        }
    }

    /// The topics, with the offset that the next message of each gets.
    pub(crate) fn ends(&self) -> Vec<(Arc<TopicRuntime>, u64)> {
        let nexts = self.state.topics().iter().map(|topic| topic.next);
        self.topics.iter().map(|slot| Arc::clone(&slot.runtime)).zip(nexts).collect()
    }

    /// Shows readers nothing until it is known what they may see; returns what there is.
    pub(crate) fn hide_all(&mut self) -> Vec<(Arc<TopicRuntime>, u64)> {
        for slot in &self.topics {
            let start = slot.runtime.start.load(Ordering::Acquire);
            slot.runtime.visible_next.store(start, Ordering::Release);
        }
        self.ends()
    }

    /// Goes on with another state: the same as far as anybody could see.
    pub(crate) fn replace_state(&mut self, state: State, starts: &Starts) {
        for slot in self.topics.drain(state.topics().len().min(self.topics.len())..) {
            slot.runtime.gone.store(true, Ordering::Release);
        }
        for (slot, topic) in self.topics.iter_mut().zip(state.topics()) {
            (slot.touched, slot.last_point) = (None, None);
            if slot.runtime.name != topic.name {
                // Another topic has its number now.
                slot.runtime.gone.store(true, Ordering::Release);
                *slot = TopicSlot::new(slot.runtime.id, Arc::clone(&topic.name), 0, 0);
            }
            let start = starts.next(slot.runtime.id);
            slot.runtime.start.fetch_max(start, Ordering::AcqRel);
            slot.runtime.visible_next.fetch_max(start, Ordering::AcqRel);
        }
        for topic in &state.topics()[self.topics.len()..] {
            let start = starts.0.get(self.topics.len()).map_or(0, |start| start.0);
            self.add_topic(Arc::clone(&topic.name), start, start);
        }
        self.state = state;
    }

    /// How many calls wait in the oldest gathering.
    pub(crate) fn queued_calls(&self) -> u64 {
        self.queue.front().map_or(0, |front| front.calls)
    }

    /// The bytes that entries of `bytes` take at most, with a header and padding: their own, and
    /// that of the gathering before, which is padded when they open the next one.
    pub(crate) fn worst_bytes(&self, bytes: usize) -> u64 {
        (HEADER_BYTES + align(bytes, ALIGNMENT) + 2 * self.media.unit()) as u64
    }

    /// Fails unless there may be one more topic.
    pub(crate) fn check_topics(&self, topics_max: usize) -> Result<()> {
        check_topics(&self.topics, topics_max)
    }

    pub(crate) fn add_topic(&mut self, name: Arc<str>, start: u64, next: u64) {
        add_topic(&mut self.topics, name, start, next);
    }

    /// Adds entries of together at most `bytes`, all to one frame.
    ///
    /// `add` fails only before it has added the first entry. If it adds none, the ticket is one
    /// that is done.
    pub(crate) fn enlist<R>(
        &mut self,
        bytes: usize,
        add: impl FnOnce(&mut Enlisting<'_>) -> Result<R>,
    ) -> Result<(R, Arc<Ticket>)> {
        self.choose_gather(false, bytes);
        let Self { state, topics, queue, .. } = self;
        let gather = queue.back_mut().expect("a gathering is open");
        let before = gather.bytes.len();
        open_frame(gather, bytes);
        let empty = gather.bytes.len();
        let added = add(&mut Enlisting { state, topics, gather });
        let ticket = if gather.bytes.len() == empty {
            // Nothing was added: take back the header of a frame that was opened for it.
            gather.bytes.truncate(before);
            gather.frames.retain(|frame| frame.at < before);
            Arc::new(Ticket::completed())
        } else {
            gather.calls += 1;
            Arc::clone(&gather.ticket)
        };
        self.queued_bytes += gather.bytes.len() - before;
        if gather.bytes.is_empty() {
            self.queue.pop_back();
        } else {
            self.end = gather.end();
        }
        added.map(|value| (value, ticket))
    }

    /// Adds a frame as it came from its leader; it must continue the last one.
    pub(crate) fn enlist_frame(
        &mut self,
        header: &Header,
        identity: u32,
        bytes: &[u8],
    ) -> std::result::Result<Arc<Ticket>, Contradiction> {
        self.choose_gather(true, bytes.len());
        let Self { state, topics, queue, .. } = self;
        let gather = queue.back_mut().expect("a gathering is open");
        gather.frames.push(FrameStart { at: gather.bytes.len(), entries: header.entries });
        gather.bytes.extend_from_slice(bytes);
        let mut enlisting = Enlisting { state, topics, gather };
        let taken = enlisting.take_all(&bytes[HEADER_BYTES..], header.entries);
        let ticket = Arc::clone(&gather.ticket);
        self.queued_bytes += bytes.len();
        self.end = gather.end();
        let (sequence, epoch) = (header.sequence + 1, header.epoch);
        self.ingested = Some(Tail { sequence, chain: identity, epoch });
        taken.map(|()| ticket)
    }

    /// Sees to it that the last gathering takes more, of its own entries or of another leader's.
    fn choose_gather(&mut self, ingested: bool, bytes: usize) {
        let fits =
            |gather: &Gather| gather.bytes.len() < GATHER_BYTES_MAX && gather.ingested == ingested;
        if self.one_by_one || !self.queue.back().is_some_and(|back| fits(back)) {
            self.open_gather(ingested, bytes);
        }
    }

    fn open_gather(&mut self, ingested: bool, bytes: usize) {
        self.pad_back();
        self.next_gather += 1;
        let waits_for_replicas = self.is_replicated && !ingested;
        let ticket = Ticket::of(self.committer.clone());
        let ticket = if waits_for_replicas { ticket.and_replicated() } else { ticket };
        let mut gather = self.written.take().unwrap_or_default();
        gather.renew(self.end, self.next_gather, ingested, ticket);
        // Most writes are about as large as the last one; growing to it would copy it twice.
        gather.bytes.reserve((HEADER_BYTES + bytes).max(self.likely_bytes));
        self.queue.push_back(gather);
    }

    /// Takes the oldest gathering to be written.
    pub(crate) fn pop(&mut self) -> Option<Box<Gather>> {
        if self.queue.len() == 1 {
            self.pad_back();
        }
        let gather = self.queue.pop_front()?;
        self.urgent &= !self.queue.is_empty();
        self.queued_bytes -= gather.bytes.len();
        self.last_calls = gather.calls;
        self.likely_bytes = gather.bytes.len().min(LIKELY_BYTES_MAX);
        Some(gather)
    }

    /// Pads the last gathering to the unit of the disk, so that the next one shares none.
    fn pad_back(&mut self) {
        let unit = self.media.unit();
        // A leader's frames stay as they are.
        if let Some(back) = self.queue.back_mut().filter(|back| !back.ingested) {
            let padded = align(back.bytes.len(), unit);
            self.queued_bytes += padded - back.bytes.len();
            back.bytes.resize(padded, 0);
            self.end = back.end();
        }
    }
}

pub(super) fn check_topics(topics: &[TopicSlot], topics_max: usize) -> Result<()> {
    let (bytes, max) = (topics.len() as u64 + 1, topics_max as u64);
    if bytes > max {
        return Err(Error::TooLarge { what: "number of topics", bytes, max });
    }
    Ok(())
}

pub(super) fn add_topic(topics: &mut Vec<TopicSlot>, name: Arc<str>, start: u64, next: u64) {
    let id = TopicId(u32::try_from(topics.len()).expect("topics are bounded"));
    topics.push(TopicSlot::new(id, name, start, next));
}

/// Sees to it that the last frame of a gathering has room for `bytes` more.
fn open_frame(gather: &mut Gather, bytes: usize) {
    if let Some(frame) = gather.frames.last() {
        let body = gather.bytes.len() - frame.at - HEADER_BYTES;
        if body + bytes <= BODY_TARGET_BYTES {
            return;
        }
    }
    gather.frames.push(FrameStart { at: gather.bytes.len(), entries: 0 });
    gather.bytes.resize(gather.bytes.len() + HEADER_BYTES, 0);
}

impl TopicSlot {
    fn new(id: TopicId, name: Arc<str>, start: u64, next: u64) -> Self {
        let runtime = Arc::new(TopicRuntime {
            id,
            name,
            start: AtomicU64::new(start),
            visible_next: AtomicU64::new(next),
            signal: Signal::default(),
            wakers: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        Self { runtime, touched: None, last_point: None }
    }

    /// A new segment has its own index.
    pub(crate) fn forget_points(&mut self) {
        if !mutant::on(Mutant::IndexPointsKept) {
            self.last_point = None;
        }
    }
}
