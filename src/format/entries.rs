//! Stepping through the entries of a body.

use super::entry::{Bad, Entry, KIND_MESSAGE, MESSAGE_FIXED_BYTES, decode, decode_message_of};
use super::{ALIGNMENT, align, u32_at, u64_at};
use crate::offset::{NUMBER_MAX, TopicId};

/// Steps through the entries of a verified body. Stops after `entries` of them; what follows is
/// padding.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    body: &'a [u8],
    pub(super) at: usize,
    pub(super) left: u32,
}

/// Messages of one topic that follow one another, with offsets that do, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) messages: u64,
    /// The latest timestamp of any of them.
    pub(crate) latest_ms: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(body: &'a [u8], entries: u32) -> Self {
        Self { body, at: 0, left: entries }
    }

    /// Steps over the messages that continue `topic` with the offset `next`. Stops before whatever
    /// else there is, be it no entry at all.
    pub(crate) fn take_run(&mut self, topic: TopicId, next: u64) -> Run {
        let mut run = Run::default();
        while self.left > 0
            && next + run.messages < NUMBER_MAX
            && let Some((offset, timestamp_ms, after)) = stamps_of(self.body, self.at, topic)
            && offset == next + run.messages
        {
            run.messages += 1;
            run.latest_ms = run.latest_ms.max(timestamp_ms);
            (self.at, self.left) = (after, self.left - 1);
        }
        run
    }
}

/// The offset and the timestamp of the entry at `at`, and where the next one begins, if it is a
/// message of `topic` that [`decode`] takes.
#[inline]
fn stamps_of(body: &[u8], at: usize, topic: TopicId) -> Option<(u64, u64, usize)> {
    let rest = body.get(at..)?;
    let fixed = rest.get(..MESSAGE_FIXED_BYTES)?;
    let bytes = u32_at(fixed, 0) as usize;
    if fixed[4] == KIND_MESSAGE && fixed[5] == 0 {
        // Most have no attributes: then there is nothing else to check.
        let is_whole = (MESSAGE_FIXED_BYTES..=rest.len()).contains(&bytes);
        let is_taken = is_whole && u32_at(fixed, 8) == topic.0;
        let after = align(at + bytes, ALIGNMENT);
        return is_taken.then(|| (u64_at(fixed, 12), u64_at(fixed, 20), after));
    }
    match decode_message_of(body, at, topic) {
        Ok((Some(message), after)) => Some((message.offset, message.timestamp_ms, after)),
        _ => None,
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match decode(self.body, self.at) {
            Ok((entry, next)) => {
                self.at = next;
                Some(Ok(entry))
            }
            Err(bad) => {
                self.left = 0;
                Some(Err(bad))
            }
        }
    }
}
