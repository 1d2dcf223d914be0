//! What was acknowledged and what was seen. Obviously right: two maps and what must never change
//! in them.

use std::collections::{BTreeMap, BTreeSet};

use ackline::{Epoch, Offset};

use super::{Checked, ensure};

/// A message's place: which topic, which offset.
pub(crate) type Place = (usize, u64);

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// What was handed to a leader, whatever became of it.
    submitted: BTreeSet<Vec<u8>>,
    /// What anybody has seen or was told, at which place.
    known: BTreeMap<Place, Vec<u8>>,
    places: BTreeMap<Vec<u8>, Place>,
    /// What was acknowledged as replicated.
    acknowledged: BTreeSet<Place>,
    /// Who acknowledged in an epoch.
    leaders: BTreeMap<Epoch, usize>,
    /// Deliveries of the group: with which attempt, in which epoch.
    attempts: BTreeMap<u64, Vec<(Epoch, u32)>>,
    /// Acknowledgements of the group that were committed, and in which epoch first.
    settled: BTreeMap<u64, Epoch>,
    /// What the group has acknowledged, be it that nobody knows what became of it.
    acked: BTreeSet<u64>,
}

impl Model {
    pub(crate) fn submit(&mut self, payload: &[u8]) {
        self.submitted.insert(payload.to_vec());
    }

    /// Somebody has seen a message. From then on it is there, and no other.
    pub(crate) fn see(&mut self, place: Place, payload: &[u8], who: &str) -> Checked {
        ensure!(self.submitted.contains(payload), "{who} sees {place:?}, which nobody appended");
        if let Some(known) = self.known.get(&place) {
            ensure!(
                known == payload,
                "{who} sees {} at {place:?}, where {} was seen before",
                text(payload),
                text(known)
            );
            return Ok(());
        }
        if let Some(other) = self.places.get(payload) {
            ensure!(*other == place, "{who} sees {} twice: {other:?}, {place:?}", text(payload));
        }
        self.known.insert(place, payload.to_vec());
        self.places.insert(payload.to_vec(), place);
        Ok(())
    }

    /// A producer was told that its record is replicated.
    pub(crate) fn acknowledge(
        &mut self,
        place: Place,
        payload: &[u8],
        node: usize,
        epoch: Epoch,
    ) -> Checked {
        self.acts(node, epoch)?;
        self.see(place, payload, "a producer")?;
        self.acknowledged.insert(place);
        Ok(())
    }

    /// A leader has acknowledged something in its epoch.
    fn acts(&mut self, node: usize, epoch: Epoch) -> Checked {
        let leader = *self.leaders.entry(epoch).or_insert(node);
        ensure!(leader == node, "nodes {leader} and {node} both acknowledge in epoch {epoch}");
        Ok(())
    }

    /// The group's consumer got a message.
    pub(crate) fn deliver(&mut self, offset: u64, attempt: u32, epoch: Epoch) -> Checked {
        if let Some(settled) = self.settled.get(&offset) {
            ensure!(
                epoch < *settled,
                "offset {offset} is delivered in epoch {epoch}, acknowledged in {settled}"
            );
        }
        let before = self.attempts.entry(offset).or_default();
        let most = before.iter().filter(|known| known.0 <= epoch).map(|known| known.1).max();
        ensure!(
            most.is_none_or(|most| attempt > most),
            "offset {offset} is delivered with attempt {attempt} in epoch {epoch}, after {before:?}"
        );
        before.push((epoch, attempt));
        Ok(())
    }

    /// The group's consumer gave a message back, not counted.
    pub(crate) fn release(&mut self, offset: u64, attempt: u32, epoch: Epoch) {
        if let Some(known) = self.attempts.get_mut(&offset) {
            known.retain(|known| *known != (epoch, attempt));
        }
    }

    /// The group was told that acknowledgements are replicated.
    pub(crate) fn settle(&mut self, offsets: &[u64], node: usize, epoch: Epoch) -> Checked {
        self.acts(node, epoch)?;
        for offset in offsets {
            self.settled.entry(*offset).or_insert(epoch);
        }
        Ok(())
    }

    /// All of a topic, as a replica shows it in the end, from its first offset on.
    pub(crate) fn check_topic(
        &mut self,
        topic: usize,
        start: Offset,
        payloads: &[Vec<u8>],
        who: &str,
    ) -> Checked {
        for (offset, payload) in (start.0..).zip(payloads) {
            self.see((topic, offset), payload, who)?;
        }
        let end = start.0 + payloads.len() as u64;
        let lost = self
            .known
            .range((topic, start.0)..=(topic, u64::MAX))
            .find(|(place, _)| place.1 >= end);
        if let Some((place, payload)) = lost {
            let how = if self.acknowledged.contains(place) { "acknowledged" } else { "only seen" };
            ensure!(false, "{who} lacks {place:?} ({}), which was {how}", text(payload));
        }
        Ok(())
    }

    pub(crate) fn settled(&self) -> impl Iterator<Item = u64> {
        self.settled.keys().copied()
    }

    /// How many records were acknowledged, and how many acknowledgements were committed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.acknowledged.len() as u64, self.settled.len() as u64)
    }

    /// The group acknowledges a message.
    pub(crate) fn ack(&mut self, offset: u64) {
        self.acked.insert(offset);
    }

    /// The first offset that the group has not acknowledged: nobody may delete it.
    pub(crate) fn first_needed(&self) -> u64 {
        let last = self.acked.last().map_or(0, |last| last + 1);
        (0..last).find(|offset| !self.acked.contains(offset)).unwrap_or(last)
    }
}

fn text(payload: &[u8]) -> String {
    let shown = payload.split(|byte| *byte == b' ').next().unwrap_or(payload);
    String::from_utf8_lossy(shown).into_owned()
}
