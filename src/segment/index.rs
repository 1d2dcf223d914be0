//! Where a topic's messages lie in a segment: a sparse list of points per topic, kept in memory
//! for the active segment and in a sidecar file for a sealed one.
//!
//! A hint, never the truth: whatever it points at is verified, and a sidecar that is missing or
//! damaged is made again from the segment.

use std::collections::HashMap;

use crate::format::{u32_at, u64_at};
use crate::mutant::{self, Mutant};
use crate::offset::{Position, TopicId};

/// A topic gets another point once this many bytes of the log lie behind its last one.
pub(crate) const STRIDE_BYTES: u64 = 4096;

const MAGIC: u32 = u32::from_le_bytes(*b"AKLI");
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 56;
const TOPIC_BYTES: usize = 24;
const POINT_BYTES: usize = 24;

/// A frame in which a topic has messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// The topic's first message in the frame.
    pub(crate) offset: u64,
    /// Where the frame begins.
    pub(crate) at: Position,
    /// The latest timestamp of the topic's messages before this one.
    pub(crate) latest_ms: u64,
}

/// A topic's messages within one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicIndex {
    /// The offset after its last message here.
    pub(crate) next: u64,
    /// Ascending in all fields; the first one is its first message here.
    points: Vec<Point>,
}

impl TopicIndex {
    /// The point from which to look for `offset`, or for the first message behind it where it is
    /// lost: the last one at or before it, else the first of all.
    pub(crate) fn locate(&self, offset: u64) -> Option<Point> {
        if offset >= self.next {
            return None;
        }
        let after = self.points.partition_point(|point| point.offset <= offset);
        self.points.get(after.saturating_sub(1)).copied()
    }

    /// The point from which to look for the first message that is not older than `time_ms`.
    pub(crate) fn locate_time(&self, time_ms: u64) -> Option<Point> {
        let after = self.points.partition_point(|point| point.latest_ms < time_ms);
        self.points.get(after.saturating_sub(1)).copied()
    }
}

/// Points of all topics of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    topics: HashMap<TopicId, TopicIndex>,
}

impl SegmentIndex {
    pub(crate) fn topic(&self, topic: TopicId) -> Option<&TopicIndex> {
        self.topics.get(&topic)
    }

    /// Takes in a message; a point is kept if the last one is far enough behind.
    pub(crate) fn add(&mut self, topic: TopicId, point: Point) {
        let index = self.topics.entry(topic).or_default();
        index.next = point.offset + 1;
        let last = index.points.last().map(|last| last.at);
        if last.is_none_or(|last| point.at.0 - last.0 >= STRIDE_BYTES) {
            index.points.push(point);
        }
    }

    /// Takes in a run of messages that ends before `next`.
    pub(crate) fn extend_to(&mut self, topic: TopicId, next: u64) {
        let index = self.topics.entry(topic).or_default();
        index.next = index.next.max(next);
    }

    /// The sidecar of the segment `base..end` of a log.
    pub(crate) fn encode(&self, log_id: u128, base: Position, end: Position) -> Vec<u8> {
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_unstable_by_key(|(id, _)| **id);
        let mut out = vec![0; HEAD_BYTES];
        for (id, topic) in &topics {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&count(topic.points.len()).to_le_bytes());
            out.extend_from_slice(&topic.next.to_le_bytes());
            out.extend_from_slice(&0_u64.to_le_bytes());
            for point in &topic.points {
                out.extend_from_slice(&point.offset.to_le_bytes());
                out.extend_from_slice(&point.at.0.to_le_bytes());
                out.extend_from_slice(&point.latest_ms.to_le_bytes());
            }
        }
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..24].copy_from_slice(&log_id.to_le_bytes());
        out[24..32].copy_from_slice(&base.0.to_le_bytes());
        out[32..40].copy_from_slice(&end.0.to_le_bytes());
        out[40..44].copy_from_slice(&count(topics.len()).to_le_bytes());
        let body = crc32fast::hash(&out[HEAD_BYTES..]);
        out[44..48].copy_from_slice(&body.to_le_bytes());
        let head = crc32fast::hash(&out[..48]);
        out[48..52].copy_from_slice(&head.to_le_bytes());
        out
    }

    /// Reads a sidecar. `None` if it is damaged or belongs to another segment.
    pub(crate) fn decode(
        bytes: &[u8],
        log_id: u128,
        base: Position,
        end: Position,
    ) -> Option<Self> {
        let head = bytes.get(..HEAD_BYTES)?;
        let whole = u32_at(head, 0) == MAGIC
            && u32_at(head, 4) == VERSION
            && u32_at(head, 48) == crc32fast::hash(&head[..48])
            && u32_at(head, 44) == crc32fast::hash(&bytes[HEAD_BYTES..]);
        let ours = head[8..24] == log_id.to_le_bytes()
            && u64_at(head, 24) == base.0
            && u64_at(head, 32) == end.0;
        if !(whole || mutant::on(Mutant::IndexTrusted)) || !ours {
            return None;
        }
        let mut topics = HashMap::new();
        let mut at = HEAD_BYTES;
        for _ in 0..u32_at(head, 40) {
            let topic = bytes.get(at..at + TOPIC_BYTES)?;
            at += TOPIC_BYTES;
            let (id, number) = (TopicId(u32_at(topic, 0)), u32_at(topic, 4) as usize);
            let points = bytes.get(at..)?.get(..number.checked_mul(POINT_BYTES)?)?;
            at += points.len();
            let points = points.chunks_exact(POINT_BYTES).map(|point| Point {
                offset: u64_at(point, 0),
                at: Position(u64_at(point, 8)),
                latest_ms: u64_at(point, 16),
            });
            topics.insert(id, TopicIndex { next: u64_at(topic, 8), points: points.collect() });
        }
        Some(Self { topics })
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("a segment has fewer messages than bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId(3);

    fn index() -> SegmentIndex {
        let mut index = SegmentIndex::default();
        for i in 0..100 {
            let at = Position(1000 + i * 1000);
            index.add(TOPIC, Point { offset: 50 + i, at, latest_ms: i * 10 });
        }
        index
    }

    #[test]
    fn a_message_is_found_at_or_behind_its_point() {
        let index = index();
        let topic = index.topic(TOPIC).expect("there");
        for i in 0..100 {
            let point = topic.locate(50 + i).expect("found");
            let own = Position(1000 + i * 1000);
            assert!(point.offset <= 50 + i && point.at <= own);
            assert!(own.0 - point.at.0 <= STRIDE_BYTES);
        }
        // What is lost before the first message leads to that.
        assert_eq!(topic.locate(49).map(|point| point.offset), Some(50));
        assert_eq!(topic.locate(150), None);
    }

    #[test]
    fn a_time_is_found_at_or_behind_its_point() {
        let index = index();
        let topic = index.topic(TOPIC).expect("there");
        // Messages before a point are older than its time; the wanted one is not before it.
        assert_eq!(topic.locate_time(0).map(|point| point.offset), Some(50));
        let point = topic.locate_time(505).expect("found");
        assert!(point.latest_ms < 505 && point.latest_ms >= 450);
        assert!(topic.locate_time(1_000_000).is_some(), "the last stretch may hold it");
    }

    #[test]
    fn a_sidecar_reads_back_and_no_flipped_bit_goes_unnoticed() {
        let (id, base, end) = (77, Position(1000), Position(200_000));
        let bytes = index().encode(id, base, end);
        assert_eq!(SegmentIndex::decode(&bytes, id, base, end), Some(index()));
        assert_eq!(SegmentIndex::decode(&bytes, 78, base, end), None);
        assert_eq!(SegmentIndex::decode(&bytes, id, base, Position(5)), None);
        // Bytes 52 to 56 are reserved.
        for bit in (0..bytes.len() * 8).filter(|bit| !(52 * 8..56 * 8).contains(bit)) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentIndex::decode(&damaged, id, base, end), None, "bit {bit}");
        }
    }
}
