//! Reading the newest segment frame by frame after an end of whatever kind: what is there, where
//! it stops being whole, and what lies behind.

use crate::error::{Error, Result};
use crate::format::frame::{Bad, HEADER_BYTES, Header, Kind};
use crate::format::header::SegmentHead;
use crate::format::{ALIGNMENT, frame};
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::storage::read_full;

use super::chunk::usize_of;
use super::window::{WINDOW_BYTES, Window};
use super::writer::marker;
use super::{ECHOES, Segment, Tail};

/// Why the frames end where they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A marker, with the watermark that it carries.
    Marker(Kind),
    /// Nothing was written here.
    Zero,
    /// The file ends.
    FileEnd,
    /// Not a frame, or not the one that belongs here.
    Broken { expected: String, found: String },
    /// A whole header that says that all before it is durable, and follows another frame than
    /// the one that is there: a disk that gave back what it held in an earlier life.
    Contradicted { expected: String, found: String },
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where the whole frames end.
    pub(crate) end: Position,
    /// What the next frame continues.
    pub(crate) tail: Tail,
    pub(crate) stop: Stop,
    /// The highest watermark in any header of the segment, whole frames or not.
    pub(crate) durable: Position,
    /// Whether anything but zeros lies behind the end, or, if that was not looked at, may.
    pub(crate) rest_is_dirty: bool,
    /// Where the last gap begins: of what follows, nobody knows how much it continues.
    pub(crate) gap: Option<Position>,
    /// The salt of the frames that the file holds, where no header has the one of its head.
    pub(crate) other_salt: Option<u32>,
}

/// A place between two frames, and what the frame there continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: Position,
    pub(crate) tail: Tail,
}

impl Place {
    /// Where the first frame of a segment begins.
    pub(crate) fn start(head: &SegmentHead) -> Self {
        let tail = Tail { sequence: head.sequence, chain: head.chain, epoch: head.epoch };
        Self { at: head.base, tail }
    }
}

/// What a scan comes by.
#[derive(Debug)]
pub(crate) enum Visited<'a> {
    Frame(&'a Header, &'a [u8]),
    /// Frames are missing here, and salvage said so: what follows need not continue what was.
    Gap,
}

/// Reads the frames of `segment` up to `until` (or all), handing each to `visit`, and looks
/// behind their end.
pub(crate) fn scan(
    segment: &Segment,
    until: Option<Position>,
    visit: impl FnMut(Visited<'_>) -> Result<()>,
) -> Result<Scan> {
    let (mut scan, seen) = scan_salted(segment, Place::start(&segment.head), until, visit)?;
    let looked_everywhere = until.is_none_or(|until| scan.end < until);
    if seen == Seen::default() && looked_everywhere {
        scan.other_salt = other_salt(segment)?;
    }
    Ok(scan)
}

/// The same from a place that an earlier scan has come by, up to `until`.
pub(crate) fn scan_from(
    segment: &Segment,
    from: Place,
    until: Position,
    visit: impl FnMut(Visited<'_>) -> Result<()>,
) -> Result<Scan> {
    Ok(scan_salted(segment, from, Some(until), visit)?.0)
}

/// How many headers were seen where they belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    frames: usize,
    markers: usize,
}

impl Seen {
    fn count(&mut self, kind: Kind) {
        if kind == Kind::Frame {
            self.frames += 1;
        } else {
            self.markers += 1;
        }
    }
}

/// The same, with no eye for other salts than that of the head.
fn scan_salted(
    segment: &Segment,
    from: Place,
    until: Option<Position>,
    mut visit: impl FnMut(Visited<'_>) -> Result<()>,
) -> Result<(Scan, Seen)> {
    let head = &segment.head;
    let mut window = Window::of(segment, until);
    let Place { at: end, tail } = from;
    let (stop, rest_is_dirty) = (Stop::FileEnd, false);
    let (durable, gap, other_salt) = (head.base, None, None);
    let mut scan = Scan { end, tail, stop, durable, rest_is_dirty, gap, other_salt };
    let (mut after_gap, mut seen) = (false, Seen::default());
    let (echoes, mut before) = (read_echoes(segment)?, scan.end);
    loop {
        if until.is_some_and(|until| scan.end >= until) {
            return Ok((scan, seen));
        }
        if let Some(stop) = contradiction(&echoes, before, &scan).filter(|_| !after_gap) {
            scan.stop = stop;
            break;
        }
        before = scan.end;
        let at = segment.file_at(scan.end);
        let bytes = window.get(at, HEADER_BYTES)?;
        let (header, identity) = match classify(Header::decode(bytes, head.salt), &scan, after_gap)
        {
            Ok(next) => next,
            Err(stop) => {
                scan.stop = stop;
                break;
            }
        };
        scan.durable = scan.durable.max(header.durable);
        if header.kind == Kind::Frame && was_closed_at(scan.end, &echoes) {
            let (expected, found) = ("the end of a closed log".to_owned(), "a frame".to_owned());
            scan.stop = Stop::Contradicted { expected, found };
            break;
        }
        if header.kind == Kind::Gap && header.durable > scan.end {
            let left = segment.file_bytes.saturating_sub(at);
            if header.durable.0 - scan.end.0 > left {
                let expected = format!("a gap of at most {left} bytes");
                let found = format!("one up to position {}", header.durable);
                scan.stop = Stop::Broken { expected, found };
                break;
            }
            seen.count(header.kind);
            visit(Visited::Gap)?;
            if !after_gap {
                scan.gap = Some(scan.end);
            }
            after_gap = true;
            scan.end = header.durable;
            continue;
        }
        if header.kind != Kind::Frame {
            seen.count(header.kind);
            scan.stop = Stop::Marker(header.kind);
            break;
        }
        let body = window.hashed(at + HEADER_BYTES as u64, header.body_bytes as usize)?;
        if let Err(stop) = check_body(&header, body) {
            scan.stop = stop;
            break;
        }
        // One with a broken body is counted among those behind the end.
        seen.count(header.kind);
        visit(Visited::Frame(&header, body.0))?;
        after_gap = false;
        scan.end = scan.end.plus(header.frame_bytes());
        scan.tail = Tail { sequence: header.sequence + 1, chain: identity, epoch: header.epoch };
    }
    // After a clean close nothing was written. The marker alone does not prove it: the disk may
    // have brought back a sector from before the log was opened again.
    if scan.stop != Stop::Marker(Kind::Closed) || !is_echoed(segment, &scan)? {
        look_behind(segment, &mut window, &mut scan, &mut seen)?;
    }
    Ok((scan, seen))
}

/// The echoes of a segment that are whole.
fn read_echoes(segment: &Segment) -> Result<Vec<Header>> {
    let mut echoes = Vec::new();
    for at in segment.layout.echoes() {
        let mut bytes = [0; HEADER_BYTES];
        let read = read_full(&*segment.file, &mut bytes, at)
            .map_err(|e| Error::io("read", &segment.name, e))?;
        if let Ok((echo, _)) = Header::decode(&bytes[..read], segment.head.salt)
            && echo.position == segment.layout.position_at(at)
            && echo.kind != Kind::Frame
        {
            echoes.push(echo);
        }
    }
    Ok(echoes)
}

/// Whether all echoes say that the log was closed at `end`. Before anything is written behind it,
/// the marker is revoked with its echoes; one of them alone may be from before that.
fn was_closed_at(end: Position, echoes: &[Header]) -> bool {
    let closed = |echo: &Header| echo.kind == Kind::Closed && echo.durable == end;
    echoes.len() == ECHOES && echoes.iter().all(closed)
}

/// What the echoes have against the last frame that was read, which begins at `before`: all below
/// an echo's watermark was durable, so a frame ended there, and it is the one that the echo names.
fn contradiction(echoes: &[Header], before: Position, scan: &Scan) -> Option<Stop> {
    let tail = &scan.tail;
    let differs = |echo: &Header| (echo.previous, echo.sequence) != (tail.chain, tail.sequence);
    let contradicts = |echo: &&Header| {
        (echo.durable == scan.end && differs(echo))
            || (before < echo.durable && echo.durable < scan.end)
    };
    let echo = echoes.iter().find(contradicts)?;
    Some(Stop::Contradicted {
        expected: format!("frame {} to follow {:08x}", echo.sequence, echo.previous),
        found: format!("frame {} to follow {:08x}", tail.sequence, tail.chain),
    })
}

/// Whether an echo says, too, that the log was closed at the end of `scan`.
fn is_echoed(segment: &Segment, scan: &Scan) -> Result<bool> {
    let marker = marker(Kind::Closed, scan.end, &scan.tail, scan.end);
    let Some((at, expected)) = segment.layout.echoes_of(&marker).next() else { return Ok(false) };
    let mut bytes = [0; HEADER_BYTES];
    let read = read_full(&*segment.file, &mut bytes, at)
        .map_err(|e| Error::io("read", &segment.name, e))?;
    Ok(Header::decode(&bytes[..read], segment.head.salt).is_ok_and(|(found, _)| found == expected))
}

/// Whether what was read is the header that belongs at the end of `scan`. After a gap nobody
/// knows which frame was the last.
fn classify(
    read: std::result::Result<(Header, u32), Bad>,
    scan: &Scan,
    after_gap: bool,
) -> std::result::Result<(Header, u32), Stop> {
    let broken = |expected: String, found: String| Err(Stop::Broken { expected, found });
    match read {
        Err(Bad::Zero) => Err(Stop::Zero),
        Err(Bad::Short) => Err(Stop::FileEnd),
        Err(Bad::Checksum { expected, found }) => {
            broken(format!("header checksum {expected:08x}"), format!("{found:08x}"))
        }
        Err(bad) => broken("a frame's header".to_owned(), format!("{bad:?}")),
        Ok((header, _))
            if header.position != scan.end && !mutant::on(Mutant::SkipPositionCheck) =>
        {
            broken(format!("position {}", scan.end), format!("{}", header.position))
        }
        Ok(next) if after_gap => Ok(next),
        Ok((header, _))
            if header.previous != scan.tail.chain && !mutant::on(Mutant::SkipChainCheck) =>
        {
            let expected = format!("a frame that follows {:08x}", scan.tail.chain);
            let found = format!("one that follows {:08x}", header.previous);
            if header.durable >= scan.end {
                return Err(Stop::Contradicted { expected, found });
            }
            broken(expected, found)
        }
        Ok((header, _)) if header.sequence != scan.tail.sequence => {
            broken(format!("frame {}", scan.tail.sequence), format!("frame {}", header.sequence))
        }
        Ok(next) => Ok(next),
    }
}

/// Whether a body, of which this is the checksum, is the one of this header.
fn check_body(header: &Header, (body, found): (&[u8], u32)) -> std::result::Result<(), Stop> {
    if body.len() < header.body_bytes as usize {
        let expected = format!("a body of {} bytes", header.body_bytes);
        return Err(Stop::Broken { expected, found: format!("{} bytes", body.len()) });
    }
    if found != header.body_checksum && !mutant::on(Mutant::SkipBodyChecksum) {
        let expected = format!("body checksum {:08x}", header.body_checksum);
        return Err(Stop::Broken { expected, found: format!("{found:08x}") });
    }
    Ok(())
}

/// The salt of what a file holds that does not hold anything with the salt of its head.
///
/// A torn write may leave headers of another file, but not everywhere where one of this file was:
/// where there were frames, the echoes are still there. So it takes the headers of two frames, or of
/// one with two markers. The head may not even be one that these frames continue.
fn other_salt(segment: &Segment) -> Result<Option<u32>> {
    let layout = &segment.layout;
    let mut salts = Vec::new();
    for at in std::iter::once(layout.frames_at).chain(layout.echoes()) {
        let mut bytes = [0; HEADER_BYTES];
        let read = read_full(&*segment.file, &mut bytes, at)
            .map_err(|e| Error::io("read", &segment.name, e))?;
        salts.extend(Header::salt_of(&bytes[..read]));
    }
    salts.sort_unstable();
    salts.dedup();
    for salt in salts {
        let salted = segment.salted(salt);
        let (_, seen) = scan_salted(&salted, Place::start(&salted.head), None, |_| Ok(()))?;
        let echoed = seen.frames > 0 && seen.markers >= ECHOES;
        if seen.frames > 1 || echoed {
            return Ok(Some(salt));
        }
    }
    Ok(None)
}

/// Looks for headers behind the end: their watermarks tell whether what is broken was promised.
/// Counts what it sees.
fn look_behind(
    segment: &Segment,
    window: &mut Window<'_>,
    scan: &mut Scan,
    seen: &mut Seen,
) -> Result<()> {
    // A marker itself is not behind the end.
    let skip = if matches!(scan.stop, Stop::Marker(_)) { HEADER_BYTES } else { 0 };
    let mut at = segment.file_at(scan.end) + skip as u64;
    // The sectors of the echoes are not for frames: whatever is there is in the way of none.
    let echoes_at = segment.layout.echoes_at();
    let frames_until = if at <= echoes_at { echoes_at } else { segment.file_bytes };
    while at < segment.file_bytes {
        // Windows overlap by a header, so that none is cut in two.
        let bytes = window.get(at, WINDOW_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        let of_frames = bytes.len().min(usize_of(frames_until.saturating_sub(at)));
        let (in_frames, in_echoes) = bytes.split_at(of_frames);
        let is_dirty = !is_zero(in_frames);
        scan.rest_is_dirty |= is_dirty;
        let base = segment.layout.position_at(at);
        let last = bytes.len().saturating_sub(HEADER_BYTES - 1);
        // There is no header among zeros.
        let looked_at = if is_dirty || !is_zero(in_echoes) { last } else { 0 };
        for i in (0..looked_at).step_by(ALIGNMENT) {
            if bytes[i..i + 4] != frame::MAGIC.to_le_bytes() {
                continue;
            }
            if let Ok((header, _)) = Header::decode(&bytes[i..], segment.head.salt)
                && header.position == base.plus(i as u64)
            {
                seen.count(header.kind);
                scan.durable = scan.durable.max(header.durable);
            }
        }
        let whole_steps = last.max(1).next_multiple_of(ALIGNMENT);
        at += whole_steps as u64;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    // Compared in blocks: this runs over the unwritten part of every segment that is recovered.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
