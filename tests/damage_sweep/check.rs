//! Opens and reads a damaged log, and compares what it says with the truth.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use ackline::simulation::{SimDisk, salvage_on};
use ackline::{Error, Explanation};

use crate::cases::{Damage, Expected};
use crate::layout::Class;
use crate::log::{Subject, Truth, open, read};

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    DetectedAtOpen,
    DetectedAtRead,
    /// All is there; salvage tells what is damaged.
    DetectedBySalvage,
    /// All is there, and nothing that means anything was damaged.
    Harmless,
    /// A tail was dropped that nothing on the disk vouches for any more; or the oldest segment is
    /// missing, as if retention had taken it.
    Dropped,
    /// The bytes are the same as before.
    Same,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::DetectedAtOpen,
        Self::DetectedAtRead,
        Self::DetectedBySalvage,
        Self::Harmless,
        Self::Dropped,
        Self::Same,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DetectedAtOpen => "at open",
            Self::DetectedAtRead => "at read",
            Self::DetectedBySalvage => "by salvage",
            Self::Harmless => "harmless",
            Self::Dropped => "dropped",
            Self::Same => "same bytes",
        }
    }
}

/// How often each kind of damage to each class of bytes came to which end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<(&'static str, Class), [u64; Outcome::ALL.len()]>);

impl Counts {
    fn count(&mut self, damage: &Damage, class: Class, outcome: Outcome) {
        let at = Outcome::ALL.iter().position(|known| *known == outcome);
        let row = self.0.entry((damage.kind(), class)).or_default();
        row[at.expect("every outcome is in the list")] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, counts) in &other.0 {
            let row = self.0.entry(*key).or_default();
            row.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    /// How many cases of a kind of damage there were.
    pub(crate) fn of_kind(&self, kind: &str) -> u64 {
        self.0.iter().filter(|(key, _)| key.0 == kind).map(|(_, row)| row.iter().sum::<u64>()).sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<29}{:<11}", "damage", "to")?;
        for outcome in Outcome::ALL {
            write!(f, "{:>11}", outcome.name())?;
        }
        for ((kind, class), row) in &self.0 {
            write!(f, "\n{kind:<29}{:<11}", format!("{class:?}").to_lowercase())?;
            for count in row {
                write!(f, "{count:>11}")?;
            }
        }
        Ok(())
    }
}

/// What a damaged log shows.
enum Answer {
    AtOpen,
    AtRead,
    Shown(Truth),
}

/// Runs a case. An error is a broken promise.
pub(crate) fn run(
    subject: &Subject,
    damage: &Damage,
    map: bool,
    counts: &mut Counts,
) -> Result<(), String> {
    let disk = subject.disk.fork();
    let changed = damage.strike(subject, &disk);
    let class = class(subject, &changed);
    let outcome = if changed.is_empty() {
        Outcome::Same
    } else {
        let expected = damage.expected(subject, &changed);
        let answer = look(&disk, subject, map)?;
        judge(subject, damage, expected, answer)?
    };
    counts.count(damage, class, outcome);
    Ok(())
}

/// The class of what was damaged that means most.
fn class(subject: &Subject, changed: &[(String, Range<usize>)]) -> Class {
    let touched = changed.iter().flat_map(|(file, range)| {
        subject.files[file].1.touched(range.clone()).map(|span| span.class)
    });
    touched.min().unwrap_or(Class::Unused)
}

fn look(disk: &SimDisk, subject: &Subject, map: bool) -> Result<Answer, String> {
    let log = match open(disk, &subject.clock, subject.media, map) {
        Ok(log) => log,
        Err(error) => return documented(&error).map(|()| Answer::AtOpen),
    };
    match read(&log) {
        Ok(truth) => Ok(Answer::Shown(truth)),
        Err(error) => documented(&error).map(|()| Answer::AtRead),
    }
}

fn documented(error: &Error) -> Result<(), String> {
    match error {
        Error::Corrupt { .. } | Error::UnsupportedVersion { .. } => Ok(()),
        error => Err(format!("an undocumented answer: {error:?}")),
    }
}

fn judge(
    subject: &Subject,
    damage: &Damage,
    expected: Expected,
    answer: Answer,
) -> Result<Outcome, String> {
    let (shown, detected) = match answer {
        Answer::AtOpen => (None, Outcome::DetectedAtOpen),
        Answer::AtRead => (None, Outcome::DetectedAtRead),
        Answer::Shown(shown) => (Some(shown), Outcome::Harmless),
    };
    let Some(shown) = shown else {
        let refused = "refused, although nothing that means anything was damaged";
        return if expected == Expected::Harmless { Err(refused.to_owned()) } else { Ok(detected) };
    };
    if shown == subject.truth {
        return match expected {
            Expected::Detected => Err("not detected, although all is there".to_owned()),
            Expected::DetectedOrSuperseded => by_salvage(subject, damage),
            Expected::Dropped(_) => unvouched(subject),
            Expected::Harmless | Expected::Forgotten => Ok(Outcome::Harmless),
        };
    }
    match expected {
        Expected::Dropped(at) => {
            only_cut(subject, &shown, at)?;
            unvouched(subject)
        }
        Expected::Forgotten => only_forgotten(&subject.truth, &shown),
        _ => Err("SILENT: what is shown is not what was written".to_owned()),
    }
}

/// Checks that nothing on the disk said that what was dropped is durable, be it entries that show
/// nowhere.
fn unvouched(subject: &Subject) -> Result<Outcome, String> {
    if subject.left.is_vouched_for() {
        return Err("SILENT: the log said that all of it was durable".to_owned());
    }
    Ok(Outcome::Dropped)
}

/// Checks that salvage finds what nobody reads any more.
fn by_salvage(subject: &Subject, damage: &Damage) -> Result<Outcome, String> {
    let disk = subject.disk.fork();
    damage.strike(subject, &disk);
    match salvage_on(&*disk.storage()) {
        Ok(report) if report.lost.is_empty() => Err("not even salvage finds it".to_owned()),
        Ok(_) => Ok(Outcome::DetectedBySalvage),
        Err(error) => Err(format!("salvage fails: {error}")),
    }
}

/// Checks that everything below a position is there and unaltered, and nothing else.
fn only_cut(subject: &Subject, shown: &Truth, at: u64) -> Result<(), String> {
    let mut kept: BTreeMap<(usize, u64), bool> = BTreeMap::new();
    for (_, layout) in subject.files.values() {
        for frame in &layout.frames {
            for (topic, offset) in &frame.messages {
                kept.insert((*topic as usize, *offset), frame.position < at);
            }
        }
    }
    for (id, truth) in subject.truth.topics.iter().enumerate() {
        let below = (0_u64..).zip(&truth.messages);
        let below = below.filter(|(offset, _)| kept[&(id, *offset)]).map(|(_, message)| message);
        let below: Vec<_> = below.collect();
        let Some(shown) = shown.topics.get(id) else {
            if below.is_empty() {
                continue;
            }
            return Err(format!("SILENT: topic {} is gone", truth.name));
        };
        if shown.name != truth.name || shown.messages.iter().collect::<Vec<_>>() != below {
            return Err(format!("SILENT: {} is not what was written below {at}", truth.name));
        }
        for (group, expected) in shown.groups.iter().zip(&truth.groups) {
            let mut both = group.1.iter().zip(&expected.1);
            if group.0 != expected.0 || both.any(|(is, was)| is_invented(*is, *was)) {
                return Err(format!("SILENT: acks or attempts of {} were invented", group.0));
            }
        }
    }
    Ok(())
}

/// Whether a group that may have lost its last steps has taken one that it never took.
fn is_invented(is: Explanation, was: Explanation) -> bool {
    // Whatever was delivered when the log was left counts as delivered once more.
    let attempts = |explained| match explained {
        Explanation::Waiting { attempts, .. } => attempts,
        _ => 0,
    };
    let settled = |explained| explained == Explanation::Settled;
    (settled(is) && !settled(was)) || (!settled(was) && attempts(is) > attempts(was))
}

/// Checks that only messages at the beginning of topics are gone, and that the topics say so.
fn only_forgotten(truth: &Truth, shown: &Truth) -> Result<Outcome, String> {
    for (shown, truth) in shown.topics.iter().zip(&truth.topics) {
        let rest = &truth.messages[usize::try_from(shown.start).expect("short topics")..];
        if shown.name != truth.name || shown.messages != rest {
            return Err(format!("SILENT: {} is not what was written", truth.name));
        }
    }
    let same_topics = shown.topics.len() == truth.topics.len();
    if same_topics { Ok(Outcome::Dropped) } else { Err("SILENT: a topic is gone".to_owned()) }
}
