//! What each byte of a segment is for, read from `docs/format.md` anew rather than by the
//! library, so that a case is judged by where it struck and not by what came of it.

use std::ops::Range;

/// The unit in which a disk goes bad.
pub(crate) const SECTOR: usize = 512;

const HEADER: usize = 64;
const HEAD: usize = 128;

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    Head,
    Checkpoint,
    /// The header of a frame.
    Header,
    /// The entries of a frame.
    Body,
    Marker,
    /// Zeros that nothing was written to, or that fill up a sector.
    Unused,
    /// A sidecar index, which is a hint.
    Index,
}

impl Class {
    /// Whether damage to it is damage to something that was promised.
    pub(crate) fn is_meant(self) -> bool {
        matches!(self, Self::Head | Self::Checkpoint | Self::Header | Self::Body)
    }
}

/// A run of bytes of one file.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) bytes: Range<usize>,
    pub(crate) class: Class,
    /// Of a frame: its number in [`Layout::frames`].
    pub(crate) frame: Option<usize>,
    /// Of a header or marker: the durable watermark in it.
    pub(crate) durable: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The position of its first byte in the log.
    pub(crate) position: u64,
    /// The topics and offsets of its messages.
    pub(crate) messages: Vec<(u32, u64)>,
}

/// All of one file.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) spans: Vec<Span>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) base: u64,
    /// The position after the last frame.
    pub(crate) end: u64,
    /// The byte after the last frame.
    pub(crate) end_byte: usize,
}

impl Layout {
    pub(crate) fn of_index(bytes: usize) -> Self {
        let span = Span { bytes: 0..bytes, class: Class::Index, frame: None, durable: 0 };
        Self { spans: vec![span], frames: Vec::new(), base: 0, end: 0, end_byte: 0 }
    }

    /// Reads a whole segment.
    pub(crate) fn of_segment(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[..4], b"AKLS", "a segment begins with its magic");
        let checkpoint = HEAD + number(bytes, 68, 4);
        let base = number(bytes, 24, 8) as u64;
        let mut layout =
            Self { spans: Vec::new(), frames: Vec::new(), base, end: base, end_byte: 0 };
        layout.add(0..HEAD, Class::Head);
        layout.add(HEAD..checkpoint, Class::Checkpoint);
        let mut at = checkpoint.next_multiple_of(SECTOR);
        layout.add(checkpoint..at, Class::Unused);
        while at + HEADER <= bytes.len() && bytes[at..].starts_with(b"AKLF") && bytes[at + 5] == 1 {
            let (header, body) = (&bytes[at..at + HEADER], number(bytes, at + 8, 4));
            layout.end = number(header, 24, 8) as u64;
            layout.frames.push(Frame {
                position: layout.end,
                messages: messages(&bytes[at + HEADER..][..body], number(header, 12, 4)),
            });
            layout.add_header(at, Class::Header, number(header, 48, 8) as u64);
            layout.add(at + HEADER..at + HEADER + body, Class::Body);
            layout.end += (HEADER + body) as u64;
            at += HEADER + body;
        }
        layout.end_byte = at;
        // Behind the frames there are markers, of which none is cut off by another.
        let mut unused = at;
        while at < bytes.len() {
            if bytes[at..].starts_with(b"AKLF") {
                layout.add(unused..at, Class::Unused);
                layout.add_header(at, Class::Marker, number(bytes, at + 48, 8) as u64);
                at += HEADER;
                unused = at;
            } else {
                let step = 8.min(bytes.len() - at);
                assert!(bytes[at..at + step].iter().all(|byte| *byte == 0), "unused is zero");
                at += step;
            }
        }
        layout.add(unused..at, Class::Unused);
        let starts = layout.spans.iter().map(|span| span.bytes.start);
        let ends = layout.spans.iter().map(|span| span.bytes.end);
        assert!(starts.chain([bytes.len()]).eq([0].into_iter().chain(ends)), "no byte is left out");
        layout
    }

    fn add(&mut self, bytes: Range<usize>, class: Class) {
        if !bytes.is_empty() {
            let frame = (class == Class::Body).then(|| self.frames.len() - 1);
            self.spans.push(Span { bytes, class, frame, durable: 0 });
        }
    }

    fn add_header(&mut self, at: usize, class: Class, durable: u64) {
        let frame = (class == Class::Header).then(|| self.frames.len() - 1);
        self.spans.push(Span { bytes: at..at + HEADER, class, frame, durable });
    }

    /// The spans of which some byte is in `range`.
    pub(crate) fn touched(&self, range: Range<usize>) -> impl Iterator<Item = &Span> {
        let first = self.spans.partition_point(|span| span.bytes.end <= range.start);
        self.spans[first..].iter().take_while(move |span| span.bytes.start < range.end)
    }
}

/// The messages among the entries of a frame.
fn messages(body: &[u8], entries: usize) -> Vec<(u32, u64)> {
    let (mut at, mut found) = (0, Vec::new());
    for _ in 0..entries {
        if body[at + 4] == 1 {
            let topic = u32::try_from(number(body, at + 8, 4)).expect("four bytes");
            found.push((topic, number(body, at + 12, 8) as u64));
        }
        at += number(body, at, 4).next_multiple_of(8);
    }
    found
}

/// A little-endian number of a few bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
