//! What the producers of one process appended, and how much of it survived.
//!
//! There is one log, so a crash keeps the beginning of what each producer appended, whichever
//! topics it went to; and nothing that was appended after something that is lost.

use std::collections::HashMap;

use crate::model::{Verdict, violation};
use crate::payload::Ident;

/// What became of one record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The append was announced at that time.
    Announced(u64),
    /// Nothing was written.
    Refused,
    Found {
        topic: usize,
        offset: u64,
        ident: Ident,
        announced: u64,
    },
}

/// The records of the process that ran last, by producer.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    /// The process that has announced anything.
    run: Option<u32>,
    fates: HashMap<u8, Vec<Fate>>,
}

impl Producers {
    pub(crate) fn appending(&mut self, producer: u8, first: u64, count: u64, now: u64) -> Verdict {
        let fates = self.fates.entry(producer).or_default();
        if fates.len() as u64 != first {
            return violation(format!("producer {producer} left out numbers before {first}"));
        }
        fates.extend((0..count).map(|_| Fate::Announced(now)));
        Ok(())
    }

    fn fate(&mut self, producer: u8, number: u64) -> Option<&mut Fate> {
        self.fates.get_mut(&producer)?.get_mut(usize::try_from(number).ok()?)
    }

    pub(crate) fn refused(&mut self, producer: u8, first: u64, count: u64) -> Verdict {
        for number in first..first + count {
            match self.fate(producer, number) {
                Some(fate @ Fate::Announced(_)) => *fate = Fate::Refused,
                other => {
                    return violation(format!("{producer} {number} was refused: {other:?}"));
                }
            }
        }
        Ok(())
    }

    /// A record of a producer is at an offset of which nothing was known.
    pub(crate) fn found(&mut self, topic: usize, offset: u64, ident: Ident) -> Verdict {
        if self.run != Some(ident.run) {
            return violation(format!("invented: {ident} turns up at {topic} {offset}"));
        }
        match self.fate(ident.producer, ident.number) {
            Some(fate @ Fate::Announced(_)) => {
                let Fate::Announced(announced) = *fate else { unreachable!("it was just that") };
                *fate = Fate::Found { topic, offset, ident, announced };
                Ok(())
            }
            other => violation(format!("invented: {ident} at {topic} {offset}, it was {other:?}")),
        }
    }

    /// A record that nobody was promised is lost.
    pub(crate) fn lost(&mut self, offset: u64, ident: Ident) {
        if let Some(fate @ Fate::Found { .. }) = self.fate(ident.producer, ident.number)
            && let Fate::Found { announced, offset: at, .. } = *fate
            && at == offset
        {
            *fate = Fate::Announced(announced);
        }
    }

    /// Everything that survived was found: checks that it is the beginning of what was appended.
    /// `first_lost` is when the first append returned that is lost. Then the process `next` runs.
    pub(crate) fn finish_run(&mut self, next: u32, first_lost: Option<u64>) -> Verdict {
        for (producer, fates) in &self.fates {
            let last = fates.iter().rposition(|fate| matches!(fate, Fate::Found { .. }));
            let Some(last) = last else { continue };
            check_beginning(*producer, &fates[..=last])?;
            for fate in &fates[..=last] {
                if let (Fate::Found { announced, ident, .. }, Some(lost)) = (fate, first_lost)
                    && *announced > lost
                {
                    return violation(format!("a hole: {ident} is there, older ones are lost"));
                }
            }
        }
        (self.run, self.fates) = (Some(next), HashMap::new());
        Ok(())
    }
}

/// Checks that nothing is left out of the records up to one that was found, that their order is
/// kept, and that the last one ends its batch.
fn check_beginning(producer: u8, fates: &[Fate]) -> Verdict {
    let mut before: HashMap<usize, u64> = HashMap::new();
    for (number, fate) in fates.iter().enumerate() {
        let (topic, offset, ident) = match *fate {
            Fate::Refused => continue,
            Fate::Announced(_) => {
                return violation(format!("lost: {producer} {number}, but not what came later"));
            }
            Fate::Found { topic, offset, ident, .. } => (topic, offset, ident),
        };
        let last = before.insert(topic, offset);
        let expected = last.map(|last| last + 1);
        if last.is_some_and(|last| last >= offset) {
            return violation(format!(
                "reordered: {ident} is at {topic} {offset}, behind {last:?}"
            ));
        }
        let in_batch = ident.index > 0 && batch_has(fates, number, topic);
        if in_batch && expected != Some(offset) {
            return violation(format!("torn apart: {ident} is at {topic} {offset}"));
        }
        if number + 1 == fates.len() && ident.index + 1 != ident.of {
            return violation(format!("a batch is cut: {ident} is its last record"));
        }
    }
    Ok(())
}

/// Whether the batch of a record has an earlier one in the same topic.
fn batch_has(fates: &[Fate], number: usize, topic: usize) -> bool {
    let Fate::Found { ident, .. } = fates[number] else { return false };
    let first = number - usize::from(ident.index);
    fates[first..number]
        .iter()
        .any(|fate| matches!(fate, Fate::Found { topic: other, .. } if *other == topic))
}
