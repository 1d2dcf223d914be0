//! Whole frames on their way to another replica, exactly as they lie on the disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::entry::{Entries, Entry};
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::offset::{Epoch, Position};

use super::Segments;
use super::chunk::{At, Shared, usize_of};
use super::cursor::Source;
use super::sealed::READ_BYTES;

/// Some neighbouring frames of one epoch. Cloning them copies no bytes.
///
/// They describe themselves: [`Frames::bytes`] is all that has to travel, and
/// [`Frames::from_bytes`] checks every byte of it.
#[derive(Clone)]
pub struct Frames {
    buffer: Shared,
    range: Range<usize>,
    salt: u32,
    epoch: Epoch,
    start: Position,
    sequence: u64,
    number: u64,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames")
            .field("epoch", &self.epoch.0)
            .field("start", &self.start.0)
            .field("end", &self.end().0)
            .field("sequence", &self.sequence)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Frames {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Frames {}

impl Frames {
    /// Frames that were written or read just now, `number` of them, the first of which has this
    /// header.
    pub(crate) fn new(
        buffer: Shared,
        range: Range<usize>,
        salt: u32,
        first: &Header,
        number: u64,
    ) -> Self {
        Self {
            buffer,
            range,
            salt,
            epoch: Epoch(first.epoch),
            start: first.position,
            sequence: first.sequence,
            number,
        }
    }

    /// Reads frames that came from another replica.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless the bytes are one or more whole frames of one epoch, each of
    /// which follows the one before, with the right checksums.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let bad = |at: usize, reason: &str| {
            let reason = format!("{reason} at byte {at} of {}", bytes.len());
            Err(Error::Malformed { what: "run of frames", reason })
        };
        let Some(salt) = Header::salt_of(&bytes) else { return bad(0, "no frame header") };
        let (mut at, mut number) = (0, 0);
        let mut first: Option<Header> = None;
        let mut last: Option<(Header, u32)> = None;
        while at < bytes.len() {
            let Ok((header, identity)) = Header::decode(&bytes[at..], salt) else {
                return bad(at, "no frame header");
            };
            if header.kind != Kind::Frame {
                return bad(at, "a marker");
            }
            if let Some((before, chain)) = &last {
                let follows = header.position == before.position.plus(before.frame_bytes())
                    && header.sequence == before.sequence + 1
                    && header.previous == *chain;
                if !follows || header.epoch != before.epoch {
                    return bad(at, "a frame that does not follow the one before");
                }
            }
            let body = at + HEADER_BYTES..at + usize_of(header.frame_bytes());
            match bytes.get(body.clone()) {
                Some(body) if crc32fast::hash(body) == header.body_checksum => {}
                Some(_) => return bad(at, "a body with another checksum"),
                None => return bad(at, "a frame that was cut"),
            }
            first.get_or_insert(header);
            last = Some((header, identity));
            (at, number) = (body.end, number + 1);
        }
        let Some(first) = first else { return bad(0, "nothing") };
        let range = 0..bytes.len();
        Ok(Self::new(Shared::Memory(Arc::new(bytes)), range, salt, &first, number))
    }

    /// The frames' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// The epoch in which they were written.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The position of the first one.
    pub fn start(&self) -> Position {
        self.start
    }

    /// The position behind the last one.
    pub fn end(&self) -> Position {
        self.start.plus(self.range.len() as u64)
    }

    /// The sequence number of the first one. They are dense: the next one has the next number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How many frames there are.
    pub fn count(&self) -> u64 {
        self.number
    }

    /// The same frames one by one, each with its own position and sequence number.
    pub fn split(&self) -> impl Iterator<Item = Self> {
        let mut at = self.range.start;
        self.iter().map(move |frame| {
            let range = at..at + frame.bytes.len();
            at = range.end;
            Self::new(self.buffer.clone(), range, self.salt, &frame.header, 1)
        })
    }

    /// The payloads of the messages in the frames, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if a frame holds what this version does not know.
    pub fn payloads(&self) -> Result<Vec<&[u8]>> {
        let mut payloads = Vec::new();
        for frame in self.iter() {
            let body = &frame.bytes[HEADER_BYTES..];
            for entry in Entries::new(body, frame.header.entries) {
                match entry {
                    Ok(Entry::Message(message)) => payloads.push(message.parts.payload(body)),
                    Ok(_) => {}
                    Err(bad) => {
                        let reason = format!("{bad:?}");
                        return Err(Error::Malformed { what: "run of frames", reason });
                    }
                }
            }
        }
        Ok(payloads)
    }

    /// The frames one by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        let (bytes, salt) = (self.bytes(), self.salt);
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let (header, identity) = Header::decode(rest, salt).expect("they were checked");
            let frame_bytes = usize_of(header.frame_bytes());
            at += frame_bytes;
            Some(Frame { header, identity, bytes: &rest[..frame_bytes] })
        })
    }
}

/// One of some frames.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: Header,
    pub(crate) identity: u32,
    /// Header and body.
    pub(crate) bytes: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn end(&self) -> Position {
        self.header.position.plus(self.bytes.len() as u64)
    }
}

impl Segments {
    /// Whole frames of one epoch from `from` on and not beyond `until`: about `bytes_max` bytes of
    /// them, but at least one. None at `until`.
    pub(crate) fn frames(
        &self,
        from: Position,
        until: Position,
        bytes_max: usize,
    ) -> Result<Option<Frames>> {
        if from >= until {
            return Ok(None);
        }
        let mut bytes = bytes_max.max(READ_BYTES);
        loop {
            let Some(source) = self.fetch(from, until, bytes)? else {
                let start = self.view().bases[0];
                return Err(Error::NotContinuous { start, end: from });
            };
            if let Some(frames) = source.frames(from, until, bytes_max)? {
                return Ok(Some(frames));
            }
            if source.chunk.end.0 - from.0 < bytes as u64 {
                let (byte, found) =
                    (source.file_at, format!("the end of the file at {}", source.chunk.end));
                return Err(Error::corrupt(&source.file, byte, "a whole frame", found));
            }
            bytes = bytes.saturating_mul(4);
        }
    }
}

impl Source {
    /// The frames from `from` on; none if not even the first one is there as a whole.
    fn frames(&self, from: Position, until: Position, bytes_max: usize) -> Result<Option<Frames>> {
        let chunk = &self.chunk;
        let origin = chunk.origin + usize_of(from.0 - chunk.start.0);
        let (mut first, mut number, mut at): (Option<Header>, _, _) = (None, 0, from);
        while at < until && chunk.holds(at) {
            let frame = match chunk.look(at, &self.file, self.file_at)? {
                At::Frame(frame) => frame,
                At::Cut { .. } => break,
                At::Gap { to } => {
                    if first.is_some() {
                        break;
                    }
                    let byte = self.file_at + (at.0 - chunk.start.0);
                    let found = format!("a gap to position {to} that salvage left");
                    return Err(Error::corrupt(&self.file, byte, "a frame", found));
                }
            };
            let header = chunk.header(at);
            let same_epoch = first.is_none_or(|first| first.epoch == header.epoch);
            let fits = usize_of(frame.end.0 - from.0) <= bytes_max;
            if frame.end > until || !(first.is_none() || same_epoch && fits) {
                break;
            }
            first.get_or_insert(header);
            (at, number) = (frame.end, number + 1);
        }
        let range = origin..origin + usize_of(at.0 - from.0);
        let frames =
            first.map(|first| Frames::new(chunk.buffer.clone(), range, chunk.salt, &first, number));
        Ok(frames)
    }
}
