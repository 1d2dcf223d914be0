//! What was promised, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::told::{Event, Ident};

/// How many findings are written out.
const SHOWN_MAX: usize = 10;

/// All that the nodes have told.
#[derive(Debug, Default)]
pub(crate) struct Model {
    acknowledged: BTreeMap<u64, Ident>,
    unsure: BTreeSet<Ident>,
    /// How often each message was delivered.
    delivered: BTreeMap<u64, u64>,
    /// Messages of which a consumer was told that it has acknowledged them.
    done: BTreeSet<u64>,
    redelivered_done: u64,
    /// What was found wrong, whatever it is.
    findings: Vec<String>,
}

/// What a node holds in the end: offsets and records.
pub(crate) type Held = Vec<(u64, Ident)>;

impl Model {
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Acked { offset, ident, .. } => {
                if let Some(other) = self.acknowledged.insert(*offset, *ident) {
                    self.find(format!("offset {offset} was given to {other} and to {ident}"));
                }
            }
            Event::Unsure(ident) => drop(self.unsure.insert(*ident)),
            Event::Got { offset, attempt, .. } => {
                let times = self.delivered.entry(*offset).or_default();
                *times += 1;
                if *attempt < *times {
                    let times = *times;
                    self.find(format!("delivery {times} of offset {offset} says {attempt}"));
                }
                self.redelivered_done += u64::from(self.done.contains(offset));
            }
            Event::Done { offset } => drop(self.done.insert(*offset)),
            Event::Failed(what) => self.find(format!("a node failed: {what}")),
            _ => {}
        }
    }

    pub(crate) fn find(&mut self, what: String) {
        self.findings.push(what);
    }

    /// Compares what was promised with what the nodes hold, and prints both. `false` if they
    /// differ.
    pub(crate) fn conclude(mut self, held: &[Held]) -> bool {
        let Some(first) = held.first() else { return false };
        let there: BTreeMap<u64, Ident> = first.iter().copied().collect();
        let lost = self.acknowledged.iter().filter(|(at, ident)| there.get(at) != Some(ident));
        let lost = lost.count();
        let mut twice = BTreeSet::new();
        let doubled = there.values().filter(|ident| !twice.insert(**ident)).count();
        let disordered = disordered(first);
        let came_late = self.unsure.iter().filter(|ident| twice.contains(ident)).count();
        let undelivered = there.keys().filter(|at| !self.delivered.contains_key(at)).count();
        let redelivered: u64 = self.delivered.values().map(|times| times - 1).sum();
        let differing = held.iter().filter(|other| *other != first).count();
        let rows = [
            ("records in the log", there.len() as u64, None),
            ("acknowledged", self.acknowledged.len() as u64, None),
            ("acknowledged and lost", lost as u64, Some(0)),
            ("answered with a timeout", self.unsure.len() as u64, None),
            ("of these in the log", came_late as u64, None),
            ("twice in the log", doubled as u64, Some(0)),
            ("out of order", disordered, Some(0)),
            ("never delivered", undelivered as u64, Some(0)),
            ("redelivered", redelivered, None),
            ("redelivered although done", self.redelivered_done, Some(0)),
            ("nodes that differ", differing as u64, Some(0)),
        ];
        for (what, count, expected) in rows {
            println!("{what:28} {count:>10}");
            if expected.is_some_and(|expected| expected != count) {
                self.find(format!("{what}: {count}"));
            }
        }
        for finding in self.findings.iter().take(SHOWN_MAX) {
            println!("WRONG: {finding}");
        }
        self.findings.is_empty()
    }
}

/// How many records come before one that their producer has appended earlier, or before one of an
/// earlier epoch; and how many offsets are left out.
fn disordered(messages: &[(u64, Ident)]) -> u64 {
    let (mut last, mut epoch, mut count) = (BTreeMap::new(), 0, 0);
    for (expected, (offset, ident)) in (0..).zip(messages) {
        let before = last.insert((ident.epoch, ident.producer), ident.number);
        let follows = before.is_none_or(|before| before < ident.number) && ident.epoch >= epoch;
        count += u64::from(!follows || *offset != expected);
        epoch = ident.epoch;
    }
    count
}
