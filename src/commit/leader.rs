//! The leader: writes and syncs what is queued, then hands leadership on.

use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::pending::Ticket;
use crate::segment::Active;
use crate::segment::chunk::{Chunk, Shared};
use crate::storage::write_full;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::sync::thread;

use super::policy::SyncPolicy;
use super::queue::{Gather, TopicRuntime};
use super::{Commits, Counters, Writer};

/// How often a new leader lets others run before it writes.
const YIELDS_MAX: usize = 16;

/// Passes leadership on when it is dropped, and, should the leader panic, ends all waiting:
/// whatever becomes of the leader, nobody waits for ever.
struct Leading<'a>(&'a Commits);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.latch.set(&Error::Closed);
        }
        self.0.hand_off();
    }
}

/// Answers for a gathering that left the queue, should the leader panic before it has.
struct Popped<'a>(&'a Ticket);

impl Drop for Popped<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Callbacks are dropped: there is no telling what they would meet.
            drop(self.0.complete(&Err(Error::Closed.poisoned())));
        }
    }
}

impl Commits {
    /// Commits gatherings until `own` is done. The caller has set `leading`.
    pub(super) fn lead(&self, own: &Ticket) {
        let leading = Leading(self);
        let linger = self.config.policy.linger();
        if linger.is_zero() {
            self.await_company();
        } else {
            thread::sleep(linger);
        }
        while !own.is_done() && self.commit_front() {}
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
    pub(super) fn hand_off(&self) {
        let Some(mut core) = self.core.lock_in_drop() else { return };
        let offered = core.queue.iter().any(|gather| gather.ticket.offer_lead());
        if offered {
            return;
        }
        core.leading = mutant::on(Mutant::LeadNotReturned);
        let left = !core.queue.is_empty();
        drop(core);
        // Whoever closes the log waits until nobody leads.
        self.room.notify();
        if left {
            self.work.notify();
        }
    }

    /// Writes the oldest gathering and answers for it. `false` if there was none.
    fn commit_front(&self) -> bool {
        self.board_riders();
        let mut writer = self.writer.lock();
        let popped = self.core.lock().pop();
        let Some(mut gather) = popped else { return false };
        let ticket = Arc::clone(&gather.ticket);
        let popped = Popped(&ticket);
        let result = match self.latch.get() {
            Some(error) => Err(error),
            None => self.write(&mut writer, &mut gather),
        };
        match result {
            Ok(()) => {
                let wake = self.publish(&mut writer, gather);
                drop(writer);
                self.resolve(&ticket, &Ok(()));
                for (topic, _) in wake {
                    topic.wake();
                }
            }
            Err(error) => {
                // Latched before anybody else can have the writer: one who waits for it would
                // take this write for done, or sync what the failed sync has lost.
                let error = self.latch.set(&error);
                drop(writer);
                self.fail(&error);
                self.resolve(&ticket, &Err(error));
            }
        }
        drop(popped);
        self.room.notify();
        true
    }

    fn write(&self, writer: &mut Writer, gather: &mut Gather) -> Result<(), Error> {
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
        write_full(&*active.segment.file, &gather.bytes, at)
            .map_err(|e| Error::io("write", &active.segment.name, e))?;
        let end = gather.end();
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
            let (before, bytes) = (writer.unsynced_bytes, gather.bytes.len() as u64);
            has_work |= writer.unsynced_since.is_none();
            writer.unsynced_since.get_or_insert(writer.last_write);
            writer.unsynced_bytes += bytes;
            if let SyncPolicy::Interval { bytes: due, .. } = self.config.policy {
                has_work |= before < due && before + bytes >= due;
            }
        }
        if has_work {
            self.work.notify();
        }
        Counters::add(&self.counters.appended, gather.messages);
        Counters::add(&self.counters.frames, gather.frames.len() as u64);
        Counters::add(&self.counters.writes, 1);
        Counters::add(&self.counters.bytes, gather.bytes.len() as u64);
        index(&active, gather);
        let due = self.spare_due.load(Ordering::Acquire);
        if gather.start.0 < due && end.0 >= due {
            self.files.notify();
        }
        Ok(())
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

    /// Shows readers what was written; returns the topics whose readers are to be woken.
    fn publish(&self, writer: &mut Writer, gather: Gather) -> Vec<(Arc<TopicRuntime>, u64)> {
        let (start, end) = (gather.start, gather.end());
        let buffer = Shared::Memory(Arc::new(gather.bytes));
        let salt = self.segments.active().segment.head.salt;
        self.segments.recent.push(Chunk { buffer, origin: 0, start, end, trusted: true, salt });
        if self.marks.visible() < end {
            writer.unsynced.extend(gather.touched.into_iter().map(|topic| (end, topic)));
            return Vec::new();
        }
        show(&gather.touched);
        gather.touched
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
        let (active, end) = {
            let mut writer = self.writer.lock();
            let end = self.marks.written();
            if self.marks.durable() >= end {
                // Whoever lets go of the writer now waits for the next sync to have it again.
                self.show_durable(writer);
                return Ok(());
            }
            writer.unsynced_since = None;
            writer.unsynced_bytes = 0;
            (self.segments.active(), end)
        };
        let syncing = self.syncing.lock();
        self.latch.check()?;
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
        self.show_durable(self.writer.lock());
        Ok(())
    }

    /// Shows readers what a sync has covered, be it another thread's.
    fn show_durable(&self, mut writer: MutexGuard<'_, Writer>) {
        let durable = self.marks.durable();
        let covered = writer.unsynced.partition_point(|(end, _)| *end <= durable);
        let shown: Vec<_> = writer.unsynced.drain(..covered).map(|(_, topic)| topic).collect();
        show(&shown);
        drop(writer);
        for (topic, _) in shown {
            topic.wake();
        }
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
