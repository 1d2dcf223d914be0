//! Frames of another leader: taken in as they are, at the positions that they have there.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::entry::{self, Content};
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::offset::{Epoch, Position, TopicId};
use crate::pending::Ticket;
use crate::segment::Tail;
use crate::segment::frames::{Frame, Frames};
use crate::watermark::Ack;

use super::admit::QUEUED_BYTES_MAX;
use super::queue::Core;
use super::{Class, Commits};

/// What became of a frame.
enum Taken {
    Queued(Arc<Ticket>),
    /// It was there already.
    Known,
    /// Something changed while it waited: look again.
    Again,
}

impl Commits {
    /// Queues the frames of the leader of `epoch` that are not here yet. The ticket is that of the
    /// write after which all of them are here. A caller who is about to wait for it does the write
    /// itself; otherwise the background thread does.
    pub(crate) fn ingest(
        &self,
        epoch: Epoch,
        frames: &Frames,
        caller_waits: bool,
    ) -> Result<Arc<Ticket>> {
        let queued = self.queue_frames(epoch, frames);
        // After an error there is no ticket to wait for, whatever was queued before.
        if !caller_waits || queued.is_err() {
            self.hurry();
        }
        queued
    }

    fn queue_frames(&self, epoch: Epoch, frames: &Frames) -> Result<Arc<Ticket>> {
        let mut last = None;
        for frame in frames.iter() {
            loop {
                match self.take_frame(epoch, &frame)? {
                    Taken::Queued(ticket) => last = Some(ticket),
                    Taken::Known => {}
                    Taken::Again => continue,
                }
                break;
            }
        }
        match last {
            Some(ticket) => Ok(ticket),
            None => self.ticket_of_known(frames),
        }
    }

    fn take_frame(&self, epoch: Epoch, frame: &Frame<'_>) -> Result<Taken> {
        let observed = self.room.observe();
        let mut core = self.core.lock();
        self.latch.check()?;
        check_follows(&core, epoch)?;
        if self.is_closed() {
            return Err(Error::Closed);
        }
        if core.rolling {
            drop(core);
            self.room.wait(observed, None);
            return Ok(Taken::Again);
        }
        let Some(tail) = core.ingested else {
            drop(core);
            self.find_tail()?;
            return Ok(Taken::Again);
        };
        if frame.end() <= core.end {
            return Ok(Taken::Known);
        }
        check_continues(frame, core.end, &tail)?;
        if core.queued_bytes > QUEUED_BYTES_MAX {
            let front = core.queue.front().map(|gather| Arc::clone(&gather.ticket));
            drop(core);
            if let Some(ticket) = front {
                // Whatever becomes of it, the queue is shorter; errors show at the next turn.
                drop(self.wait_for(&ticket, Ack::Synced, None));
            }
            return Ok(Taken::Again);
        }
        let need = core.worst_bytes(frame.bytes.len());
        if core.end.plus(need) > core.room_end || self.shares_a_sector(&core) {
            drop(core);
            self.roll_for_frame(need)?;
            return Ok(Taken::Again);
        }
        let queued = core.enlist_frame(&frame.header, frame.identity, frame.bytes);
        drop(core);
        match queued {
            Ok(ticket) => Ok(Taken::Queued(ticket)),
            Err(bad) => {
                // Some of the frame's entries may have been applied: the state is the leader's no
                // longer, nor that of the disk.
                let reason = format!("expected {}, found {}", bad.expected, bad.found);
                Err(self.fail(&Error::Diverged { at: frame.header.position, reason }))
            }
        }
    }

    /// Appends a record as one frame of `epoch`, which is not older than the frame before: for an
    /// engine that owns the order. The ticket comes with the frame's header.
    pub(crate) fn append_ordered(
        &self,
        epoch: Epoch,
        (topic, topics_max): (&str, usize),
        record: (&Content<'_>, u64),
    ) -> Result<(Header, Arc<Ticket>)> {
        let mut obeyed;
        loop {
            // Built anew each time: what it must follow may have changed while it waited.
            let built = {
                let core = self.core.lock();
                let last = core.state.epochs().last().map_or(Epoch(0), |last| last.0);
                let Some(promised) = core.fenced else { return Err(not_following(&core)) };
                if epoch < last || epoch > promised {
                    return Err(Error::Fenced { epoch: last.max(promised) });
                }
                obeyed = promised;
                if core.state.topic_named(topic).is_none() {
                    core.check_topics(topics_max)?;
                }
                core.ingested.map(|tail| build_frame(&core, &tail, epoch, topic, record))
            };
            let Some((header, identity, bytes)) = built else {
                self.find_tail()?;
                continue;
            };
            let frame = Frame { header, identity, bytes: &bytes };
            match self.take_frame(obeyed, &frame) {
                Ok(Taken::Queued(ticket)) => {
                    self.hurry();
                    return Ok((header, ticket));
                }
                // A newer epoch may have been promised meanwhile, which may be as good.
                Ok(Taken::Again | Taken::Known) | Err(Error::Fenced { .. }) => {}
                // Somebody else's frame took its place.
                Err(Error::Diverged { .. }) if self.latch.get().is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds out what the next frame must continue, once all that was queued is written.
    fn find_tail(&self) -> Result<()> {
        let paused = self.pause(Class::Progress, 0)?;
        let tail = self.writer.lock().tail;
        self.core.lock().ingested = Some(tail);
        drop(paused);
        Ok(())
    }

    /// Whether a new write would touch a sector of records that are safe. What a leader wrote at
    /// once may come in parts, and a leader of another kind of disk pads nothing.
    fn shares_a_sector(&self, core: &Core) -> bool {
        let joins = core.queue.back().is_some_and(|gather| gather.ingested);
        !joins && !core.media.may_mark(&self.segments.active().segment, core.end)
    }

    /// The ticket after which frames are safe that were here before they came.
    fn ticket_of_known(&self, frames: &Frames) -> Result<Arc<Ticket>> {
        let core = self.core.lock();
        let queued = core.queue.back().map(|gather| Arc::clone(&gather.ticket));
        let end = core.end;
        let tail = core.ingested;
        drop(core);
        // Each frame names the one before, so the last one speaks for all.
        let last = frames.iter().last().expect("there is one");
        let ours = match tail {
            Some(tail) if last.end() == end => Some(tail.chain),
            _ => self.identity_at(last.header.position)?,
        };
        if ours.is_some_and(|ours| ours != last.identity) {
            return Err(diverged(last.header.position, "another frame is here"));
        }
        if let Some(ticket) = queued {
            return Ok(ticket);
        }
        // What left the queue may still be on its way; the writer's lock waits for it.
        drop(self.writer.lock());
        self.latch.check()?;
        Ok(Arc::new(Ticket::completed()))
    }
}

impl Commits {
    /// The identity of the frame that was written at a position; none where it is not written yet,
    /// or not kept any more.
    fn identity_at(&self, at: Position) -> Result<Option<u32>> {
        match self.segments.frames(at, self.marks.written(), 0) {
            Ok(frames) => Ok(frames.and_then(|frames| frames.iter().next().map(|f| f.identity))),
            Err(Error::NotContinuous { .. }) => Ok(None),
            Err(Error::Corrupt { .. }) => Err(diverged(at, "no frame begins here")),
            Err(error) => Err(error),
        }
    }
}

/// Fails unless this log follows that epoch.
fn check_follows(core: &Core, epoch: Epoch) -> Result<()> {
    match core.fenced {
        Some(promised) if promised == epoch => Ok(()),
        Some(promised) => Err(Error::Fenced { epoch: promised }),
        None => Err(not_following(core)),
    }
}

fn not_following(core: &Core) -> Error {
    diverged(core.end, "this log leads, or has no replicator")
}

/// The frame that comes next, with a record in it, and the topic and the epoch where they are new.
fn build_frame(
    core: &Core,
    tail: &Tail,
    epoch: Epoch,
    topic: &str,
    (content, timestamp_ms): (&Content<'_>, u64),
) -> (Header, u32, Vec<u8>) {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut entries = 1;
    if core.state.epochs().last().is_none_or(|last| last.0 < epoch) {
        entry::encode_epoch(&mut bytes, epoch, core.end);
        entries += 1;
    }
    let id = core.state.topic_named(topic).unwrap_or_else(|| {
        let id = TopicId(u32::try_from(core.state.topics().len()).expect("topics are bounded"));
        entry::encode_topic(&mut bytes, id, 0, 0, topic);
        entries += 1;
        id
    });
    let offset = core.state.topic(id).map_or(0, |topic| topic.next);
    entry::encode_message(&mut bytes, id, offset, timestamp_ms, content);
    let (header_bytes, body) = bytes.split_at_mut(HEADER_BYTES);
    let header = Header {
        kind: Kind::Frame,
        body_bytes: u32::try_from(body.len()).expect("records are below their limit"),
        entries,
        sequence: tail.sequence,
        position: core.end,
        epoch: epoch.0,
        previous: tail.chain,
        body_checksum: crc32fast::hash(body),
        durable: Position(0),
    };
    let identity = header.encode(header_bytes, 0);
    (header, identity, bytes)
}

fn check_continues(frame: &Frame<'_>, end: Position, tail: &Tail) -> Result<()> {
    let header = &frame.header;
    if header.position > end {
        return Err(Error::NotContinuous { start: header.position, end });
    }
    if header.position < end {
        return Err(diverged(header.position, "frames end at other positions"));
    }
    if (header.previous, header.sequence) != (tail.chain, tail.sequence) {
        let found = format!("frame {} to follow {:08x}", header.sequence, header.previous);
        let expected = format!("frame {} to follow {:08x}", tail.sequence, tail.chain);
        return Err(diverged(end, &format!("expected {expected}, found {found}")));
    }
    Ok(())
}

fn diverged(at: Position, reason: &str) -> Error {
    Error::Diverged { at, reason: reason.to_owned() }
}

/// Makes headers that another replica wrote those of this file; returns what the next one
/// continues.
pub(super) fn stamp_frames(
    bytes: &mut [u8],
    starts: impl Iterator<Item = usize>,
    mut tail: Tail,
    durable: Position,
    salt: u32,
) -> Tail {
    for at in starts {
        let header = &mut bytes[at..at + HEADER_BYTES];
        let (sequence, epoch, chain) = Header::stamp(header, durable, salt);
        debug_assert_eq!(sequence, tail.sequence, "it was checked when it was queued");
        tail = Tail { sequence: sequence + 1, chain, epoch };
    }
    tail
}
