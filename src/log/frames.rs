//! The frames in a damaged file: whatever is whole and lies where it belongs, however much around
//! it is not. Nothing in the file is trusted but by its checksum.

use std::collections::BTreeMap;

use crate::format::frame::{HEADER_BYTES, Header, Kind, MAGIC};
use crate::format::{ALIGNMENT, SECTOR_BYTES};
use crate::offset::Position;
use crate::segment::chunk::usize_of;

/// How many of the salts in a file are tried. It has one; what its bodies hold may have others.
const SALTS_MAX: usize = 16;

/// A whole frame in a damaged file.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The byte of the file.
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) position: Position,
    pub(super) identity: u32,
    pub(super) header: Header,
}

/// What is whole in a file.
#[derive(Clone, Default)]
pub(super) struct Whole {
    pub(super) salt: u32,
    pub(super) runs: Vec<Run>,
    /// Headers of markers, and of frames with a damaged body.
    pub(super) others: Vec<Header>,
}

impl Whole {
    /// The highest watermark that any header carries.
    pub(super) fn evidence(&self, base: Position) -> Position {
        let runs = self.runs.iter().map(|run| run.header.durable);
        runs.chain(self.others.iter().map(|header| header.durable)).fold(base, Position::max)
    }

    /// The frames but for those of another history: what a later header calls durable and does
    /// not follow was not there when that one was written.
    pub(super) fn consistent(&self) -> Vec<Run> {
        let markers = [Kind::Idle, Kind::Closed, Kind::Opened, Kind::Sealed];
        let markers: Vec<&Header> =
            self.others.iter().filter(|header| markers.contains(&header.kind)).collect();
        let fits = |run: &Run| {
            let (start, end) = (run.position, run.position.plus(run.bytes as u64));
            markers.iter().all(|marker| {
                let within = start < marker.durable && marker.durable < end;
                !within && (marker.durable != end || marker.previous == run.identity)
            })
        };
        consistent(self.runs.iter().copied().filter(fits))
    }
}

fn consistent(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut kept: Vec<Run> = Vec::new();
    for run in runs {
        let adjoins = |last: &Run| last.position.plus(last.bytes as u64) == run.position;
        let contradicts = |last: &Run| adjoins(last) && run.header.previous != last.identity;
        if kept.last().is_some_and(contradicts) {
            if run.header.durable < run.position {
                continue;
            }
            kept.pop();
        }
        kept.push(run);
    }
    kept
}

/// What is whole in a file, under the salt that its head says if any frame or marker has it. If
/// none has, the head is lost, or that of another file: then it is the salt that most bytes of
/// frames speak for, or most headers. Bodies may hold what looks like frames, but are larger.
pub(super) fn find_salt(
    bytes: &[u8],
    base: Position,
    next: Option<Position>,
    said: Option<u32>,
) -> Whole {
    if let Some(salt) = said {
        let whole = find_frames(bytes, base, next, salt);
        if !whole.runs.is_empty() || !whole.others.is_empty() {
            return whole;
        }
    }
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for at in (0..bytes.len()).step_by(ALIGNMENT) {
        let Some(salt) = Header::salt_of(&bytes[at..]) else { continue };
        let header = Header::decode(&bytes[at..], salt);
        if header.is_ok_and(|(header, _)| begins_at(base, at, &header).is_some()) {
            *counts.entry(salt).or_default() += 1;
        }
    }
    let mut salts: Vec<(usize, u32)> = counts.into_iter().map(|(salt, n)| (n, salt)).collect();
    salts.sort_unstable_by(|a, b| b.cmp(a));
    salts.truncate(SALTS_MAX);
    // Where no frame is left, the headers count, and not what they say: one that is damaged has
    // some salt, too, and can have any watermark.
    let weight = |whole: &Whole| -> (usize, usize) {
        (whole.runs.iter().map(|run| run.bytes).sum(), whole.runs.len() + whole.others.len())
    };
    let mut best = Whole { salt: said.unwrap_or(0), ..Whole::default() };
    for salt in said.into_iter().chain(salts.into_iter().map(|(_, salt)| salt)) {
        let whole = find_frames(bytes, base, next, salt);
        if weight(&whole) > weight(&best) {
            best = whole;
        }
    }
    best
}

/// The byte of a file at which its frames begin, if a header in it lies where it belongs.
fn begins_at(base: Position, at: usize, header: &Header) -> Option<u64> {
    let before = header.position.0.checked_sub(base.0)?;
    let begin = (at as u64).checked_sub(before)?;
    (begin > 0 && begin.is_multiple_of(SECTOR_BYTES as u64)).then_some(begin)
}

/// All whole frames and headers of a file that lie where they belong, whatever lies between them.
fn find_frames(bytes: &[u8], base: Position, next: Option<Position>, salt: u32) -> Whole {
    let mut whole = Whole { salt, ..Whole::default() };
    // Where frames begin in the file is known once the first header is found.
    let mut offset: Option<u64> = None;
    let mut at = 0;
    while at + HEADER_BYTES <= bytes.len() {
        let header = (bytes[at..at + 4] == MAGIC.to_le_bytes())
            .then(|| Header::decode(&bytes[at..], salt).ok())
            .flatten()
            .filter(|(header, _)| {
                let mapped = begins_at(base, at, header);
                mapped.is_some() && (offset.is_none() || offset == mapped)
            });
        let Some((header, identity)) = header else {
            at += ALIGNMENT;
            continue;
        };
        let position = header.position;
        offset = Some(at as u64 - (position.0 - base.0));
        let frame_bytes = usize_of(header.frame_bytes());
        let body = bytes.get(at + HEADER_BYTES..at + frame_bytes);
        let is_whole = body.is_some_and(|body| crc32fast::hash(body) == header.body_checksum);
        let is_ours = header.kind == Kind::Frame && next.is_none_or(|next| position < next);
        if is_whole && is_ours {
            whole.runs.push(Run { at, bytes: frame_bytes, position, identity, header });
            at += frame_bytes;
        } else {
            whole.others.push(header);
            at += ALIGNMENT;
        }
    }
    whole
}
