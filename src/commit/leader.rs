//! The leader: writes and syncs what is queued, then hands leadership on.

use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::pending::Ticket;
use crate::segment::Active;
use crate::segment::chunk::{Chunk, Recent, Shared};
use crate::segment::frames::Frames;
use crate::storage::write_full;
use crate::sync::atomic::Ordering;
use crate::sync::thread;

use super::ingest::stamp_frames;
use super::policy::SyncPolicy;
use super::queue::{Gather, TopicRuntime};
use super::replicas::Seen;
use super::{Commits, Counters, Writer};

/// How often a new leader lets others run before it writes.
const YIELDS_MAX: usize = 16;

/// Passes leadership on when it is dropped, and, should the leader panic, ends all waiting:
/// whatever becomes of the leader, nobody waits for ever.
struct Leading<'a> {
    commits: &'a Commits,
    /// A gathering that was written, to be used again.
    written: Option<Box<Gather>>,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = self.commits.latch.set(&Error::Closed);
            self.commits.fail_replicas(&error);
        }
        self.commits.hand_off(self.written.take());
    }
}

/// Answers for a gathering that left the queue, should the leader panic before it has.
struct Popped<'a>(&'a Ticket);

impl Drop for Popped<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Callbacks are dropped: there is no telling what they would meet.
            let error = Err(Error::Closed.poisoned());
            drop(self.0.complete(&error));
            drop(self.0.complete_replicas(&error));
        }
    }
}

impl Commits {
    /// Commits gatherings until `own` is done. The caller has set `leading`.
    pub(super) fn lead(&self, own: &Ticket) {
        let mut leading = Leading { commits: self, written: None };
        let linger = self.config.policy.linger();
        if !linger.is_zero() {
            thread::sleep(linger);
        } else if self.config.policy.syncs_commits() {
            self.await_company();
        }
        while !own.is_done() && self.commit_front(&mut leading.written) {}
        drop(leading);
    }

    /// Lets those run who took part in the last write and are about to come back: where the
    /// processors are few, they would otherwise just miss this one. A lone writer has nobody to
    /// wait for and does not.
    fn await_company(&self) {
        for _ in 0..YIELDS_MAX {
            let core = self.core.lock();
            if core.one_by_one || core.queued_calls() >= core.last_calls {
                return;
            }
            drop(core);
            thread::yield_now();
        }
    }

    /// Gives leadership to a waiter of the next gathering that has one, or to nobody. What lies
    /// before that gathering is written on the way.
    pub(super) fn hand_off(&self, written: Option<Box<Gather>>) {
        let Some(mut core) = self.core.lock_in_drop() else { return };
        core.recycle(written);
        let offered = core.queue.iter().any(|gather| gather.ticket.offer_lead());
        if offered {
            return;
        }
        core.leading = mutant::on(Mutant::LeadNotReturned);
        let is_left = !core.queue.is_empty();
        if is_left {
            // Whoever queued it, be it that nobody ever waited, or that all gave up.
            core.left = core.next_gather;
        }
        let must_tell = is_left && (core.urgent || core.attended.is_none());
        drop(core);
        // Whoever closes the log waits until nobody leads.
        self.room.notify();
        if must_tell {
            self.work.notify();
        }
    }

    /// Writes the oldest gathering and answers for it. `false` if there was none. `written` is the one
    /// before, and then this one.
    fn commit_front(&self, written: &mut Option<Box<Gather>>) -> bool {
        self.board_riders();
        let mut writer = self.writer.lock();
        let mut core = self.core.lock();
        core.recycle(written.take());
        let popped = core.pop();
        drop(core);
        let Some(mut gather) = popped else { return false };
        let ticket = Arc::clone(&gather.ticket);
        let popped = Popped(&ticket);
        let result = match self.latch.get() {
            Some(error) => Err(error),
            None => self.write(&mut writer, &mut gather),
        };
        match result {
            Ok(shared) => {
                let seen = self.publish(&mut gather, shared);
                let done_at = writer.last_write;
                drop(writer);
                ticket.set_done_at(done_at);
                self.resolve(&ticket, &Ok(()));
                // In the memory that they came in, the next ones come.
                gather.touched = self.announce(seen);
                *written = Some(gather);
                if let Some(replicas) = &self.replicas {
                    replicas.outlet.settle();
                    // Who failed beside this write has answered those who waited then.
                    if let Some(error) = self.latch.get() {
                        self.fail_replicas(&error);
                    }
                }
            }
            Err(error) => {
                // Latched before anybody else can have the writer: one who waits for it would
                // take this write for done, or sync what the failed sync has lost.
                let error = self.latch.set(&error);
                drop(writer);
                self.fail(&error);
                self.fail_ticket(&ticket, &Err(error));
            }
        }
        drop(popped);
        self.room.notify();
        true
    }

    /// Writes a gathering, and syncs it if the policy says so. Its bytes, as they are on the disk, stay
    /// in it unless somebody else needs them: a replicator, or readers that keep up.
    fn write(
        &self,
        writer: &mut Writer,
        gather: &mut Gather,
    ) -> Result<Option<Arc<Vec<u8>>>, Error> {
        let active = self.segments.active();
        let mut durable = self.marks.durable();
        if mutant::on(Mutant::WatermarkTooHigh) {
            durable = gather.end();
        } else if mutant::on(Mutant::WatermarkMissing) {
            durable = Position(0);
        }
        let tail = finish_frames(gather, writer.tail, durable, active.segment.head.salt);
        let at = active.segment.file_at(gather.start);
        debug_assert!(gather.end() <= active.segment.room_end(), "admission left room");
        let end = gather.end();
        let bytes = gather.bytes.len() as u64;
        write_full(&*active.segment.file, &gather.bytes, at)
            .map_err(|e| Error::io("write", &active.segment.name, e))?;
        let is_kept = self.segments.recent.is_wanted() && !Recent::copies(gather.bytes.len());
        let is_shared = self.replicas.is_some() || is_kept;
        let shared = is_shared.then(|| Arc::new(std::mem::take(&mut gather.bytes)));
        if let Some(bytes) = &shared {
            self.offer(gather, bytes, active.segment.head.salt);
        }
        if self.config.policy.syncs_commits() {
            self.sync_commit(&active).map_err(|e| Error::io("sync", &active.segment.name, e))?;
            Counters::add(&self.counters.syncs, 1);
        }
        writer.tail = tail;
        // The background thread marks the end of an idle log, and syncs where commits do not;
        // it sleeps until it is told that there is something to do.
        let mut has_work = std::mem::replace(&mut writer.marked, false);
        writer.last_write = self.clock.monotonic();
        self.marks.raise_written(end);
        if self.config.policy.syncs_commits() || mutant::on(Mutant::IntervalCountsAsDurable) {
            self.marks.raise_durable(end);
        } else {
            let (before, written) = (writer.unsynced_bytes, bytes);
            has_work |= writer.unsynced_since.is_none();
            writer.unsynced_since.get_or_insert(writer.last_write);
            writer.unsynced_bytes += written;
            let due = self.config.policy.synced_behind();
            if before < due && before + written >= due {
                match self.config.policy {
                    // The committer has the appends that nobody waits for, and does not wait either.
                    SyncPolicy::Never => self.files.notify(),
                    _ => has_work = true,
                }
            }
        }
        self.tell_synced(tail.epoch, end);
        if has_work {
            self.work.notify();
        }
        Counters::add_alone(&self.counters.appended, gather.messages);
        Counters::add_alone(&self.counters.frames, gather.frames.len() as u64);
        Counters::add_alone(&self.counters.writes, 1);
        Counters::add_alone(&self.counters.bytes, bytes);
        self.sizes.add(bytes);
        index(&active, gather);
        let due = self.spare_due.load(Ordering::Acquire);
        if gather.start.0 < due && end.0 >= due {
            self.files.notify();
        }
        Ok(shared)
    }

    /// Hands frames of this leader to the replicator.
    fn offer(&self, gather: &Gather, bytes: &Arc<Vec<u8>>, salt: u32) {
        let Some(replicas) = self.replicas.as_ref().filter(|_| !gather.ingested) else { return };
        let (buffer, number) = (Shared::Memory(Arc::clone(bytes)), gather.frames.len() as u64);
        let first = Header::decode(bytes, salt).expect("it was just written").0;
        replicas.outlet.offer(&Frames::new(buffer, 0..bytes.len(), salt, &first, number));
    }

    /// Tells the replicator how far this copy counts: it is as durable as the policy makes it.
    fn tell_synced(&self, epoch: u64, end: Position) {
        if let Some(replicas) = &self.replicas {
            replicas.outlet.synced(Epoch(epoch), end);
        }
    }

    fn sync_commit(&self, active: &Active) -> io::Result<()> {
        if mutant::on(Mutant::AckBeforeSync) {
            return Ok(());
        }
        if mutant::on(Mutant::SyncWrongFile) {
            let oldest = self.segments.view().bases[0];
            return self.storage.open(&name::segment(oldest))?.sync();
        }
        let synced = active.segment.file.sync();
        if mutant::on(Mutant::RetryFailedSync) && synced.is_err() {
            return active.segment.file.sync();
        }
        synced
    }

    /// Shows readers what was written, if they may see it yet; returns whom to tell.
    fn publish(&self, gather: &mut Gather, shared: Option<Arc<Vec<u8>>>) -> Seen {
        let bytes = shared.as_ref().map_or(gather.bytes.len(), |shared| shared.len());
        let (start, end) = (gather.start, gather.start.plus(bytes as u64));
        let recent = &self.segments.recent;
        recent.written(end);
        let salt = self.segments.active().segment.head.salt;
        if shared.is_none() && recent.is_wanted() && Recent::copies(bytes) {
            recent.push_copy(&gather.bytes, start, salt);
        }
        if let Some(bytes) = shared {
            let buffer = Shared::Memory(bytes);
            recent.push(Chunk { buffer, origin: 0, start, end, trusted: true, salt });
        }
        let mut seen = Seen::default();
        let mut unseen = self.unseen.lock();
        // Under the lock: nobody may be answered for what readers are not shown yet.
        let visible = self.marks.visible();
        if visible >= end && unseen.is_empty() && gather.ticket.replicas().is_none() {
            show(&gather.touched);
            seen.topics = std::mem::take(&mut gather.touched);
            return seen;
        }
        unseen.topics.extend(gather.touched.drain(..).map(|topic| (end, topic)));
        unseen.add_ticket(end, &gather.ticket, &mut seen);
        unseen.take(visible, self.marks.replicated(), &mut seen);
        seen
    }

    /// Makes durable which names the directory has.
    pub(crate) fn sync_names(&self) -> Result<(), Error> {
        let syncing = self.syncing.lock();
        self.latch.check()?;
        let Err(error) = self.storage.sync_directory() else { return Ok(()) };
        let error = self.latch.set(&Error::io("sync", self.storage.describe(), error));
        drop(syncing);
        Err(self.fail(&error))
    }

    /// Makes everything durable that is written, beside the leader if there is one.
    pub(crate) fn sync_written(&self) -> Result<(), Error> {
        self.latch.check()?;
        // Without the writer: whoever leads has it until another sync is done.
        if self.marks.durable() >= self.marks.written() {
            self.settle();
            return Ok(());
        }
        let (active, end) = {
            let mut writer = self.writer.lock();
            writer.unsynced_since = None;
            writer.unsynced_bytes = 0;
            (self.segments.active(), self.marks.written())
        };
        let syncing = self.syncing.lock();
        self.latch.check()?;
        if !Arc::ptr_eq(&active, &self.segments.active()) {
            // Whoever put another file in its place has synced what was there, or given it up.
            drop(syncing);
            self.settle();
            return Ok(());
        }
        // Whoever synced meanwhile has covered this, too, and may have closed the log since.
        if self.marks.durable() < end {
            if let Err(error) = active.segment.file.sync()
                && !mutant::on(Mutant::BackgroundSyncIgnored)
            {
                let error = self.latch.set(&Error::io("sync", &active.segment.name, error));
                drop(syncing);
                return Err(self.fail(&error));
            }
            Counters::add(&self.counters.syncs, 1);
            self.marks.raise_durable(end);
        }
        drop(syncing);
        // Be it another thread's sync that has covered it.
        self.settle();
        Ok(())
    }
}

fn index(active: &Active, gather: &Gather) {
    let mut index = active.index.write();
    for (topic, point) in &gather.points {
        index.add(*topic, *point);
    }
    for (topic, next) in &gather.touched {
        index.extend_to(topic.id, *next);
    }
}

/// Raises what readers see of each topic.
pub(super) fn show(touched: &[(Arc<TopicRuntime>, u64)]) {
    for (topic, next) in touched {
        topic.visible_next.fetch_max(*next, Ordering::AcqRel);
    }
}

/// Fills in the headers, each of which names the frame before; returns what the next one names.
fn finish_frames(
    gather: &mut Gather,
    mut tail: crate::segment::Tail,
    durable: Position,
    salt: u32,
) -> crate::segment::Tail {
    if gather.ingested {
        let starts = gather.frames.iter().map(|frame| frame.at);
        return stamp_frames(&mut gather.bytes, starts, tail, durable, salt);
    }
    for i in 0..gather.frames.len() {
        let frame = gather.frames[i];
        let end = gather.frames.get(i + 1).map_or(gather.bytes.len(), |next| next.at);
        let (header, body) = gather.bytes[frame.at..end].split_at_mut(HEADER_BYTES);
        let encoded = Header {
            kind: Kind::Frame,
            body_bytes: u32::try_from(body.len()).expect("batches are below their limit"),
            entries: frame.entries,
            sequence: tail.sequence,
            position: gather.start.plus(frame.at as u64),
            epoch: tail.epoch,
            previous: tail.chain,
            body_checksum: crc32fast::hash(body),
            durable,
        };
        tail.chain = encoded.encode(header, salt);
        tail.sequence += 1;
    }
    tail
}
