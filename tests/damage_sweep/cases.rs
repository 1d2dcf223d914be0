//! What is done to a log, and what must come of it by where it strikes.

use std::collections::BTreeSet;
use std::ops::Range;

use ackline::simulation::SimDisk;

use crate::layout::{Class, SECTOR};
use crate::log::{Subject, is_segment};

/// A sector of a file.
pub(crate) type Place = (String, usize);

#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Flip {
        file: String,
        byte: usize,
        bit: u8,
    },
    Zero(Place),
    /// Two sectors have changed places.
    Swap(Place, Place),
    /// A sector is what it was before; the number tells which of its earlier states.
    Stale(Place, usize),
    Remove(String),
    Cut {
        file: String,
        bytes: usize,
    },
}

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing that means anything has changed: all is there.
    Harmless,
    /// An error, by whoever opens or reads.
    Detected,
    /// An error; or, since only a frame without messages in an older segment is damaged, which
    /// the checkpoint of a later one stands for, all is there and salvage finds it.
    DetectedOrSuperseded,
    /// What nothing vouches for from this position on may be dropped, and no more.
    Dropped(u64),
    /// A whole file is missing that nothing names.
    Forgotten,
}

impl Damage {
    /// The kind, for the table.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Flip { .. } => "bit flipped",
            Self::Zero(_) => "sector zeroed",
            Self::Swap((a, _), (b, _)) if a == b => "sectors of a file swapped",
            Self::Swap(..) => "sectors of two files swapped",
            Self::Stale(..) => "stale sector",
            Self::Remove(_) => "file removed",
            Self::Cut { .. } => "file cut",
        }
    }

    /// Does it, and answers which bytes differ from before.
    pub(crate) fn strike(&self, subject: &Subject, disk: &SimDisk) -> Vec<(String, Range<usize>)> {
        let sector = |place: &Place| {
            let (bytes, _) = &subject.files[&place.0];
            bytes[place.1 * SECTOR..][..SECTOR].to_vec()
        };
        let put = |place: &Place, new: &[u8]| {
            disk.overwrite(&place.0, (place.1 * SECTOR) as u64, new);
            differing(&sector(place), new)
                .map(|range| {
                    let at = place.1 * SECTOR;
                    (place.0.clone(), at + range.start..at + range.end)
                })
                .collect::<Vec<_>>()
        };
        match self {
            Self::Flip { file, byte, bit } => {
                disk.flip_bit(file, *byte as u64, *bit);
                vec![(file.clone(), *byte..byte + 1)]
            }
            Self::Zero(place) => put(place, &[0; SECTOR]),
            Self::Swap(a, b) => {
                let (was_a, was_b) = (sector(a), sector(b));
                let mut changed = put(a, &was_b);
                changed.extend(put(b, &was_a));
                changed
            }
            Self::Stale(place, number) => {
                let states = &subject.earlier[place];
                put(place, states.iter().nth(*number).expect("it was counted"))
            }
            Self::Remove(file) => {
                disk.delete(file);
                vec![(file.clone(), 0..subject.files[file].0.len())]
            }
            Self::Cut { file, bytes } => {
                disk.truncate(file, *bytes as u64);
                vec![(file.clone(), *bytes..subject.files[file].0.len())]
            }
        }
    }

    /// What must come of it, by the bytes that it changed.
    pub(crate) fn expected(
        &self,
        subject: &Subject,
        changed: &[(String, Range<usize>)],
    ) -> Expected {
        let segments: Vec<&String> = subject.files.keys().filter(|name| is_segment(name)).collect();
        let newest = *segments.last().expect("there are segments");
        if let Self::Remove(file) | Self::Cut { file, .. } = self
            && is_segment(file)
        {
            return self.expected_of_missing(subject, file, segments[0], newest);
        }
        let mut expected = Expected::Harmless;
        let mut broken_at = None;
        for (file, range) in changed {
            let layout = &subject.files[file].1;
            for span in layout.touched(range.clone()).filter(|span| span.class.is_meant()) {
                let Some(frame) = span.frame else { return Expected::Detected };
                let frame = &layout.frames[frame];
                if file == newest {
                    let first = broken_at.get_or_insert(frame.position);
                    *first = frame.position.min(*first);
                } else if !frame.messages.is_empty() {
                    return Expected::Detected;
                } else {
                    expected = Expected::DetectedOrSuperseded;
                }
            }
        }
        match broken_at {
            Some(at) if Self::vouched(subject, newest, changed) > at => Expected::Detected,
            Some(at) => Expected::Dropped(at),
            None => expected,
        }
    }

    fn expected_of_missing(
        &self,
        subject: &Subject,
        file: &str,
        oldest: &str,
        newest: &str,
    ) -> Expected {
        match self {
            // Retention deletes the oldest one, too.
            Self::Remove(_) if file == oldest => Expected::Forgotten,
            // What lies behind the frames of an older segment is not needed any more.
            Self::Cut { bytes, .. } if file != newest => {
                let is_needed = *bytes < subject.files[file].1.end_byte;
                if is_needed { Expected::Detected } else { Expected::Harmless }
            }
            _ => Expected::Detected,
        }
    }

    /// The highest watermark in a header of the newest segment that is left.
    fn vouched(subject: &Subject, newest: &str, changed: &[(String, Range<usize>)]) -> u64 {
        let layout = &subject.files[newest].1;
        let is_whole = |span: &Range<usize>| {
            let overlaps = |range: &Range<usize>| range.start < span.end && span.start < range.end;
            !changed.iter().any(|(file, range)| file == newest && overlaps(range))
        };
        let headers = layout.spans.iter().filter(|span| is_whole(&span.bytes));
        let headers = headers.filter(|span| matches!(span.class, Class::Header | Class::Marker));
        headers.map(|span| span.durable).max().unwrap_or(0).max(layout.base)
    }
}

/// The runs of bytes in which two sectors differ.
fn differing<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = (at..old.len()).find(|i| old[*i] != new[*i])?;
        let end = (start..old.len()).find(|i| old[*i] == new[*i]).unwrap_or(old.len());
        at = end;
        Some(start..end)
    })
}

/// How many of the cases are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The bits of every so many-th byte are flipped.
    pub(crate) bytes: usize,
    /// Every so many-th sector is damaged in each way.
    pub(crate) sectors: usize,
}

/// The cases of a log, without those of files that are the same as in `known`.
pub(crate) fn cases(subject: &Subject, known: Option<&Subject>, sample: Sample) -> Vec<Damage> {
    let is_new = |name: &str| {
        let bytes = |subject: &Subject| subject.files.get(name).map(|file| file.0.clone());
        known.is_none_or(|known| bytes(known) != bytes(subject))
    };
    let files: Vec<(&String, usize)> =
        subject.files.iter().map(|(name, (bytes, _))| (name, bytes.len())).collect();
    let mut cases = Vec::new();
    for (file, len) in files.iter().filter(|(name, _)| is_new(name)) {
        let bytes = (0..*len).step_by(sample.bytes);
        cases.extend(bytes.flat_map(|byte| {
            (0..8).map(move |bit| Damage::Flip { file: (*file).clone(), byte, bit })
        }));
        cases.push(Damage::Remove((*file).clone()));
        let places = |from: usize| {
            (from..len / SECTOR).step_by(sample.sectors).map(|sector| ((*file).clone(), sector))
        };
        for place in places(0) {
            let states = subject.earlier.get(&place).map_or(0, BTreeSet::len);
            cases.extend((0..states).map(|state| Damage::Stale(place.clone(), state)));
            let others = places(place.1 + 1);
            cases.extend(others.map(|other| Damage::Swap(place.clone(), other)));
            cases.push(Damage::Cut { file: (*file).clone(), bytes: place.1 * SECTOR });
            cases.push(Damage::Zero(place));
        }
    }
    for (i, (a, a_len)) in files.iter().enumerate() {
        for (b, b_len) in files[i + 1..].iter().filter(|(b, _)| is_new(a) || is_new(b)) {
            let sectors = (0..(*a_len).min(*b_len) / SECTOR).step_by(sample.sectors);
            cases.extend(
                sectors.map(|sector| Damage::Swap(((*a).clone(), sector), ((*b).clone(), sector))),
            );
        }
    }
    cases
}
