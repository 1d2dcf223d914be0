//! The fields of an entry, one after the other.

use std::ops::Range;

use super::entry::{
    Attempt, Bad, HAS_HEADERS, HAS_KEY, HAS_TAG, Message, Parts, Progress, length, place,
};
use super::{u16_at, u32_at, u64_at};
use crate::offset::TopicId;

/// Reads the fields of one entry and never past its end.
pub(super) struct Fields<'a> {
    pub(super) body: &'a [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    fn take(&mut self, bytes: usize) -> Result<Range<usize>, Bad> {
        if bytes > self.end - self.at {
            return Err(Bad::Length { at: self.at });
        }
        let range = self.at..self.at + bytes;
        self.at = range.end;
        Ok(range)
    }

    fn u16(&mut self) -> Result<u16, Bad> {
        Ok(u16_at(self.body, self.take(2)?.start))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Bad> {
        Ok(u32_at(self.body, self.take(4)?.start))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Bad> {
        Ok(u64_at(self.body, self.take(8)?.start))
    }

    fn short(&mut self) -> Result<Range<usize>, Bad> {
        let bytes = self.u16()?;
        self.take(bytes.into())
    }

    fn text(&self, range: Range<usize>) -> Result<&'a str, Bad> {
        let at = range.start;
        str::from_utf8(&self.body[range]).map_err(|_| Bad::Text { at })
    }

    pub(super) fn rest_as_text(&mut self) -> Result<&'a str, Bad> {
        let range = self.take(self.end - self.at)?;
        self.text(range)
    }

    /// Steps over the headers and checks them.
    fn skip_headers(&mut self) -> Result<(), Bad> {
        for _ in 0..self.u16()? {
            let name = self.short()?;
            self.text(name)?;
            let bytes = self.u32()? as usize;
            self.take(bytes)?;
        }
        Ok(())
    }

    /// Reads the entry of a message at `at`. The payload is what is behind the other parts.
    #[inline]
    pub(super) fn message(&mut self, at: usize, attributes: u8) -> Result<Message, Bad> {
        let (topic, offset, timestamp_ms) = (TopicId(self.u32()?), self.u64()?, self.u64()?);
        if attributes & HAS_KEY != 0 {
            self.short()?;
        }
        if attributes & HAS_TAG != 0 {
            let tag = self.short()?;
            self.text(tag)?;
        }
        if attributes & HAS_HEADERS != 0 {
            self.skip_headers()?;
        }
        let (payload_from, bytes) = (length(self.at - at), length(self.end - at));
        let parts = Parts { payload_from, bytes, at: place(at) };
        Ok(Message { topic, parts, offset, timestamp_ms })
    }

    pub(super) fn progress(&mut self, exact: bool) -> Result<Progress, Bad> {
        let (ranges, attempts) = (self.u32()?, self.u32()?);
        let mut progress = Progress { delivered: self.u64()?, exact, ..Progress::default() };
        for _ in 0..ranges {
            progress.acked.push(self.u64()?..self.u64()?);
        }
        for _ in 0..attempts {
            let (offset, due_ms, count) = (self.u64()?, self.u64()?, self.u32()?);
            progress.attempts.push(Attempt { offset, count, due_ms });
        }
        Ok(progress)
    }
}
