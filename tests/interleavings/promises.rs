//! What writers were promised, and whether the log keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use ackline::{Offset, Receipt, Result, Topic};

use super::machine::texts;

/// The records of one topic: the promised ones at their offsets, and all that were tried. A
/// record is the number of its writer, a dot, and its number among the writer's own, padded to
/// the length that is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    tried: BTreeSet<String>,
    promised: BTreeMap<u64, String>,
    /// Promised at an offset that nobody was told.
    somewhere: BTreeSet<String>,
}

pub(crate) fn text(writer: u64, i: u64, bytes: usize) -> String {
    let text = format!("{writer}.{i}");
    format!("{text:_<bytes$}")
}

/// The writer of a record, and which of its records it is.
fn parse(text: &str) -> (u64, u64) {
    let (writer, i) = text.trim_end_matches('_').split_once('.').expect("a record of ours");
    (writer.parse().expect("a number"), i.parse().expect("a number"))
}

impl Promises {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no holder panicked")
    }

    /// Notes that a record may be in the log from now on.
    pub(crate) fn will_try(&self, text: &str) {
        assert!(self.known().tried.insert(text.to_owned()), "each record is tried once");
    }

    /// Notes that a record must be in the log from now on.
    pub(crate) fn is_kept(&self, offset: Offset, text: &str) {
        let before = self.known().promised.insert(offset.0, text.to_owned());
        assert_eq!(before, None, "offset {offset} was given twice");
    }

    /// Notes the same of one whose offset nobody was told.
    pub(crate) fn is_kept_somewhere(&self, text: &str) {
        self.known().somewhere.insert(text.to_owned());
    }

    /// Appends and notes both.
    pub(crate) fn append(&self, topic: &Topic, text: &str) -> Result<Receipt> {
        self.will_try(text);
        let receipt = topic.append(text)?;
        self.is_kept(receipt.offset, text);
        Ok(receipt)
    }

    pub(crate) fn number(&self) -> usize {
        self.known().promised.len()
    }

    /// Checks that a topic holds what was promised, at its place, nothing that nobody tried to
    /// write, and the records of each writer in their order.
    pub(crate) fn check(&self, topic: &Topic) {
        let known = self.known();
        let start = topic.offsets().start.0;
        let found: BTreeMap<u64, String> = (start..).zip(texts(topic)).collect();
        for (offset, text) in known.promised.range(start..) {
            assert_eq!(found.get(offset), Some(text), "promised at offset {offset}");
        }
        for text in &known.somewhere {
            assert!(found.values().any(|found| found == text), "{text} was promised");
        }
        let mut last = BTreeMap::new();
        for text in found.values() {
            assert!(known.tried.contains(text), "{text} was invented");
            let (writer, i) = parse(text);
            if let Some(before) = last.insert(writer, i) {
                assert!(before < i, "record {i} of writer {writer} comes after {before}");
            }
        }
    }
}
