//! Finding a topic's messages and reading them in order.
//!
//! A cursor reads on from frame to frame while it finds messages of its topic there, and asks
//! the index where to jump when it does not, so that a thousand topics in one log do not slow
//! one another's readers.

use crate::error::{Error, Result};
use crate::format::entry;
use crate::offset::{Position, TopicId};

use super::chunk::{At, Chunk, Frame};
use super::sealed::{READ_BYTES, bad_entry, read_chunk};
use super::{Segments, View};

/// A message in the bytes that the cursor is at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) message: entry::Message,
    /// The frame's position.
    pub(crate) at: Position,
}

/// What comes next in a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A message, and the bytes that it lies in.
    Message(&'a Chunk, Found),
    /// Nothing visible yet.
    End,
    /// Retention or salvage took what was here; the topic goes on at `to`.
    Gone { to: u64 },
}

/// The same without the bytes.
enum Next {
    Message(Found),
    End,
    Gone { to: u64 },
}

enum Located {
    At(Position),
    NotYet,
    Gone { to: u64 },
}

/// A chunk and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) chunk: Chunk,
    pub(super) file: String,
    pub(super) file_at: u64,
}

/// Reads the messages of one topic in order of their offsets.
#[derive(Debug)]
pub(crate) struct TopicCursor {
    topic: TopicId,
    next: u64,
    source: Option<Source>,
    frame: Option<Open>,
}

/// A frame that is being read.
#[derive(Debug)]
struct Open {
    frame: Frame,
    at: usize,
    left: u32,
    /// It had a message of the topic, so the next frame is likely to have one, too.
    hit: bool,
}

impl TopicCursor {
    pub(crate) fn new(topic: TopicId, next: u64) -> Self {
        Self { topic, next, source: None, frame: None }
    }

    pub(crate) fn next_offset(&self) -> u64 {
        self.next
    }

    pub(crate) fn seek(&mut self, to: u64) {
        if to != self.next {
            self.next = to;
            self.frame = None;
        }
    }

    /// Steps to the next message below the offset `end`, up to which the topic is visible, and
    /// reads no frame at or above the position `visible`.
    pub(crate) fn step(
        &mut self,
        segments: &Segments,
        end: u64,
        visible: Position,
    ) -> Result<Step<'_>> {
        let mut next = if self.next < end { self.step_in_frame()? } else { None };
        if next.is_none() {
            next = Some(self.step_on(segments, end, visible)?);
        }
        Ok(match (next, &self.source) {
            (Some(Next::Message(found)), Some(source)) => Step::Message(&source.chunk, found),
            (Some(Next::Gone { to }), _) => Step::Gone { to },
            _ => Step::End,
        })
    }

    /// Goes on in the frame of the last step: hands the messages that come next there, below the
    /// offset `end`, to `visit`. They lie in the same bytes. Where something else comes, it is left to
    /// the next step.
    #[expect(
        clippy::inline_always,
        reason = "run for each message, which would be copied each time"
    )]
    #[inline(always)]
    pub(crate) fn go_on_in_frame(&mut self, end: u64, mut visit: impl FnMut(&Chunk, Found)) {
        let (Some(open), Some(source)) = (&mut self.frame, &self.source) else { return };
        let (chunk, position) = (&source.chunk, open.frame.at);
        let body = &chunk.buffer[..open.frame.body.end];
        // In registers, for what `visit` does might be taken to change what lies in memory.
        let (mut at, mut left, mut next) = (open.at, open.left, self.next);
        while left > 0
            && next < end
            && let Some((message, behind)) = entry::message_of(body, at, self.topic)
            && message.offset == next
        {
            visit(chunk, Found { message, at: position });
            (at, left, next) = (behind, left - 1, next + 1);
        }
        (open.at, open.left, self.next) = (at, left, next);
    }

    /// Steps to the next message in another frame.
    fn step_on(&mut self, segments: &Segments, end: u64, visible: Position) -> Result<Next> {
        while self.next < end {
            let last = self.frame.take();
            let following = match &last {
                Some(open) if open.hit && open.frame.end < visible => Some(open.frame.end),
                _ => None,
            };
            let at = match following {
                Some(at) => at,
                None => match segments.locate(self.topic, self.next)? {
                    Located::NotYet => return Ok(Next::End),
                    Located::Gone { to } => {
                        self.next = to;
                        return Ok(Next::Gone { to });
                    }
                    // The index points behind what was read: a frame without a hit was near.
                    Located::At(at) => last.map_or(at, |open| at.max(open.frame.end)),
                },
            };
            if at >= visible {
                return Ok(Next::End);
            }
            // Where retention has deleted the segment meanwhile, the next turn looks again for
            // where the topic goes on.
            if !self.open_frame(segments, at, visible)? {
                // Salvage lost the very end of the log, and with it the rest of the topic.
                self.next = end;
                return Ok(Next::Gone { to: end });
            }
            if let Some(next) = self.step_in_frame()? {
                return Ok(next);
            }
        }
        Ok(Next::End)
    }

    fn step_in_frame(&mut self) -> Result<Option<Next>> {
        let (Some(open), Some(source)) = (&mut self.frame, &self.source) else { return Ok(None) };
        let body = &source.chunk.buffer[..open.frame.body.end];
        while open.left > 0 {
            let decoded = entry::decode_message_of(body, open.at, self.topic);
            let (message, at) =
                decoded.map_err(|bad| bad_entry(&source.file, open.frame.at, &bad))?;
            let Some(message) = message.filter(|message| message.offset >= self.next) else {
                (open.at, open.left) = (at, open.left - 1);
                continue;
            };
            open.hit = true;
            if message.offset > self.next {
                self.next = message.offset;
                return Ok(Some(Next::Gone { to: message.offset }));
            }
            (open.at, open.left) = (at, open.left - 1);
            self.next += 1;
            return Ok(Some(Next::Message(Found { message, at: open.frame.at })));
        }
        Ok(None)
    }

    /// Opens the frame at `at`, or the next one behind a gap; none if its segment has been
    /// deleted. `false` if the log ends in the gap.
    fn open_frame(&mut self, segments: &Segments, at: Position, visible: Position) -> Result<bool> {
        let mut bytes = READ_BYTES;
        if self.source.as_ref().is_none_or(|source| !source.chunk.holds(at)) {
            self.source = segments.fetch(at, visible, bytes)?;
        }
        loop {
            let Some(source) = &self.source else { return Ok(true) };
            let chunk = &source.chunk;
            match chunk.look(at, &source.file, source.file_at)? {
                At::Frame(frame) => {
                    let (from, left) = (frame.body.start, frame.entries);
                    self.frame = Some(Open { frame, at: from, left, hit: false });
                    return Ok(true);
                }
                At::Gap { to } if to == visible => return Ok(false),
                At::Gap { to } if to > at && to < visible => {
                    self.source = None;
                    return self.open_frame(segments, to, visible);
                }
                At::Gap { to } => {
                    let byte = source.file_at + (at.0 - chunk.start.0);
                    let found = format!("a gap up to position {to}");
                    return Err(Error::corrupt(&source.file, byte, "a visible message", found));
                }
                // The chunk ends within the frame: read from the frame's beginning, and more.
                At::Cut { bytes: wanted } => {
                    bytes = bytes.max(wanted);
                    let Some(next) = segments.fetch(at, visible, bytes)? else {
                        self.source = None;
                        return Ok(true);
                    };
                    let got_all = next.chunk.start <= at && next.chunk.end == chunk.end;
                    if got_all && chunk.start <= at && bytes > READ_BYTES {
                        let found = format!("the end of the file at position {}", chunk.end);
                        let byte = source.file_at + (at.0 - chunk.start.0);
                        return Err(Error::corrupt(&source.file, byte, "a whole frame", found));
                    }
                    bytes = bytes.saturating_mul(4);
                    self.source = Some(next);
                }
            }
        }
    }
}

impl Segments {
    /// The bytes at `at`, some of them before it perhaps, none at or above `visible`. `None` if the
    /// segment has been deleted.
    pub(super) fn fetch(
        &self,
        at: Position,
        visible: Position,
        bytes: usize,
    ) -> Result<Option<Source>> {
        let mut source = self.fetch_all(at, visible, bytes)?;
        if let Some(Source { chunk, .. }) = &mut source {
            // What is not visible may be given up and replaced: no reader holds on to it.
            chunk.end = chunk.end.min(visible);
        }
        Ok(source)
    }

    fn fetch_all(&self, at: Position, visible: Position, bytes: usize) -> Result<Option<Source>> {
        if let Some(chunk) = self.recent.find(at) {
            return Ok(Some(Source { chunk, file: String::new(), file_at: 0 }));
        }
        loop {
            let view = self.view();
            match self.fetch_in(&view, at, visible, bytes) {
                Err(_) if self.is_outdated(&view) => {}
                fetched => return fetched,
            }
        }
    }

    fn fetch_in(
        &self,
        view: &View,
        at: Position,
        visible: Position,
        bytes: usize,
    ) -> Result<Option<Source>> {
        let after = view.bases.partition_point(|base| *base <= at);
        if after == view.bases.len() {
            let segment = &view.active.segment;
            let chunk = read_chunk(segment, at, visible, bytes)?;
            let (file, file_at) = (segment.name.clone(), segment.file_at(at));
            return Ok(Some(Source { chunk, file, file_at }));
        }
        let Some(i) = after.checked_sub(1) else { return Ok(None) };
        let sealed = self.sealed(view, i)?;
        let chunk = sealed.chunk(at, bytes)?;
        let (file, file_at) = (sealed.name().to_owned(), sealed.file_at(chunk.start));
        Ok(Some(Source { chunk, file, file_at }))
    }

    fn locate(&self, topic: TopicId, offset: u64) -> Result<Located> {
        loop {
            let view = self.view();
            match self.locate_in(&view, topic, offset) {
                Err(_) if self.is_outdated(&view) => {}
                located => return located,
            }
        }
    }

    fn locate_in(&self, view: &View, topic: TopicId, offset: u64) -> Result<Located> {
        let active = &view.active;
        if offset >= active.starts.next(topic) {
            let index = active.index.read();
            let point = index.topic(topic).and_then(|topic| topic.locate(offset));
            return Ok(point.map_or(Located::NotYet, |point| Located::At(point.at)));
        }
        let after = self.partition_sealed(view, |starts| starts.next(topic) <= offset)?;
        let Some(i) = after.checked_sub(1) else {
            return Ok(Located::Gone { to: self.starts(view, 0)?.next(topic) });
        };
        let index = self.sealed(view, i)?.index(&*self.storage)?;
        match index.topic(topic).and_then(|topic| topic.locate(offset)) {
            Some(point) => Ok(Located::At(point.at)),
            None => Ok(Located::Gone { to: self.starts(view, i + 1)?.next(topic) }),
        }
    }

    /// The offset from which to look for the first message that is not older than `time_ms`: it
    /// is not before this offset.
    pub(crate) fn locate_time(&self, topic: TopicId, time_ms: u64) -> Result<u64> {
        loop {
            let view = self.view();
            match self.locate_time_in(&view, topic, time_ms) {
                Err(_) if self.is_outdated(&view) => {}
                located => return located,
            }
        }
    }

    fn locate_time_in(&self, view: &View, topic: TopicId, time_ms: u64) -> Result<u64> {
        let active = &view.active;
        let offset = |point: Option<super::index::Point>| point.map(|point| point.offset);
        if active.starts.latest_ms(topic) < time_ms || view.bases.len() == 1 {
            let index = active.index.read();
            let point = index.topic(topic).and_then(|topic| topic.locate_time(time_ms));
            return Ok(offset(point).unwrap_or(active.starts.next(topic)));
        }
        let after = self.partition_sealed(view, |starts| starts.latest_ms(topic) < time_ms)?;
        let sealed = self.sealed(view, after.saturating_sub(1))?;
        let index = sealed.index(&*self.storage)?;
        let point = index.topic(topic).and_then(|topic| topic.locate_time(time_ms));
        Ok(offset(point).unwrap_or(sealed.starts.next(topic)))
    }

    /// The number of leading sealed segments whose starts satisfy `holds`, which is true for a
    /// leading part of them only.
    fn partition_sealed(
        &self,
        view: &View,
        holds: impl Fn(&super::Starts) -> bool,
    ) -> Result<usize> {
        let (mut low, mut high) = (0, view.bases.len() - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if holds(&self.sealed(view, middle)?.starts) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
