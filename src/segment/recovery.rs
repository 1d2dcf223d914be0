//! What to make of the newest segment: first a verdict, decided purely from what a scan saw,
//! then its application.
//!
//! | the frames end at | headers say durable | behind the end | verdict |
//! |---|---|---|---|
//! | anything, where the file holds frames with another salt than its head | | | `Foreign` |
//! | a `Sealed` marker | anything | anything | `Missing` |
//! | anything else | above the end | anything | `Damaged` |
//! | a header that contradicts them | up to the end | anything | `Damaged` |
//! | a `Closed` marker | up to the end | zeros, or not looked at | `Clean` |
//! | anything else | exactly the end | zeros | `Intact` |
//! | anything else | below the end, or the rest is dirty | | `Unproven` |
//!
//! A sealed marker's watermark is the base of the segment that followed.

use crate::format::frame::Kind;
use crate::mutant::{self, Mutant};
use crate::offset::Position;

use super::scan::{Scan, Stop};

/// What a segment's end means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log was closed: all is durable, and nothing was written since.
    Clean,
    /// The process ended while the log was idle: all is durable, and nothing lies behind.
    Intact,
    /// What lies in `durable..end` is whole as far as it can be read, but nobody knows whether
    /// the disk holds it: cached pages may say more than the disk after a failed sync. It is
    /// written again, to a new segment; what is behind `end` is dropped.
    Unproven { durable: Position, end: Position },
    /// A record that was promised is damaged.
    Damaged { at: Position, durable: Position, expected: String, found: String },
    /// The head is not that of this file: a disk gave back what another file held.
    Foreign { salt: u32 },
    /// The next segment existed and is gone.
    Missing { base: Position },
}

/// Decides what the newest segment's end means.
pub(crate) fn classify_tail(scan: &Scan) -> Verdict {
    if let Some(salt) = scan.other_salt.filter(|_| !mutant::on(Mutant::ForeignHeadIgnored)) {
        return Verdict::Foreign { salt };
    }
    if scan.stop == Stop::Marker(Kind::Sealed) {
        return Verdict::Missing { base: scan.durable };
    }
    if scan.durable > scan.end || matches!(scan.stop, Stop::Contradicted { .. }) {
        let (expected, found) = match &scan.stop {
            Stop::Broken { expected, found } | Stop::Contradicted { expected, found } => {
                (expected.clone(), found.clone())
            }
            Stop::Zero => ("a frame".to_owned(), "zeros".to_owned()),
            Stop::FileEnd => ("a frame".to_owned(), "the end of the file".to_owned()),
            Stop::Marker(kind) => ("a frame".to_owned(), format!("the marker {kind:?}")),
        };
        return Verdict::Damaged { at: scan.end, durable: scan.durable, expected, found };
    }
    if scan.stop == Stop::Marker(Kind::Closed) && !scan.rest_is_dirty {
        return Verdict::Clean;
    }
    let proven = scan.durable == scan.end || mutant::on(Mutant::TrustCachedTail);
    if proven && !scan.rest_is_dirty {
        return Verdict::Intact;
    }
    Verdict::Unproven { durable: scan.durable, end: scan.end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Tail;

    const END: Position = Position(1000);

    fn verdict(stop: Stop, durable: u64, rest_is_dirty: bool, other_salt: Option<u32>) -> Verdict {
        let tail = Tail { sequence: 1, chain: 2, epoch: 3 };
        classify_tail(&Scan {
            end: END,
            tail,
            stop,
            durable: Position(durable),
            rest_is_dirty,
            gap: None,
            other_salt,
        })
    }

    /// The table of the module's documentation, each row as a predicate of its own.
    fn matching_rows(
        stop: &Stop,
        durable: u64,
        dirty: bool,
        other_salt: Option<u32>,
    ) -> Vec<&'static str> {
        if other_salt.is_some() {
            return vec!["foreign"];
        }
        let sealed = *stop == Stop::Marker(Kind::Sealed);
        let contradicted = matches!(stop, Stop::Contradicted { .. });
        let closed = *stop == Stop::Marker(Kind::Closed);
        let (above, exact) = (durable > END.0, durable == END.0);
        let rows = [
            ("missing", sealed),
            ("damaged", !sealed && above),
            ("damaged", contradicted && !above),
            ("clean", !sealed && !above && closed && !dirty),
            ("intact", !sealed && !closed && !contradicted && exact && !dirty),
            ("unproven", !sealed && !contradicted && !above && (dirty || !closed && !exact)),
        ];
        rows.iter().filter(|row| row.1).map(|row| row.0).collect()
    }

    fn name(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Clean => "clean",
            Verdict::Intact => "intact",
            Verdict::Unproven { .. } => "unproven",
            Verdict::Damaged { .. } => "damaged",
            Verdict::Foreign { .. } => "foreign",
            Verdict::Missing { .. } => "missing",
        }
    }

    #[test]
    fn exactly_one_verdict_matches_each_input() {
        let broken = Stop::Broken { expected: "a".to_owned(), found: "b".to_owned() };
        let markers =
            [Kind::Idle, Kind::Closed, Kind::Opened, Kind::Sealed, Kind::Gap].map(Stop::Marker);
        let (expected, found) = ("a".to_owned(), "b".to_owned());
        let contradicted = Stop::Contradicted { expected, found };
        let stops = markers.into_iter().chain([Stop::Zero, Stop::FileEnd, broken, contradicted]);
        let mut seen = std::collections::BTreeMap::new();
        for stop in stops {
            for durable in [0, 999, 1000, 1001, u64::MAX] {
                for (dirty, salt) in
                    [(false, None), (true, None), (false, Some(5)), (true, Some(5))]
                {
                    let rows = matching_rows(&stop, durable, dirty, salt);
                    let verdict = verdict(stop.clone(), durable, dirty, salt);
                    assert_eq!(rows, [name(&verdict)], "{stop:?} {durable} {dirty} {salt:?}");
                    *seen.entry(rows[0]).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(seen.len(), 6, "every verdict was reached: {seen:?}");
    }

    #[test]
    fn a_broken_frame_below_a_watermark_is_named() {
        let broken = Stop::Broken { expected: "x".to_owned(), found: "y".to_owned() };
        let expected = Verdict::Damaged {
            at: END,
            durable: Position(1064),
            expected: "x".to_owned(),
            found: "y".to_owned(),
        };
        assert_eq!(verdict(broken, 1064, true, None), expected);
    }
}
