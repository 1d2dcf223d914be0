//! The unsettled offsets of a group, in runs: neighbours that one poll has leased for the first
//! time, with consecutive tokens, are one entry until their ways part. So a consumer that settles
//! in order costs as much as its polls, not as its messages.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::plan::FreshRun;
use super::{Hold, NO_TOKEN, Unsettled};

/// Unsettled offsets and what is known of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// By the last offset of each, so that what is settled from the front moves nothing.
    by_last: BTreeMap<u64, Run>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    /// The tokens of the others follow.
    of_first: Unsettled,
}

impl Unsettled {
    /// What is known of the offset that lies `distance` behind this one in a run.
    fn behind(mut self, distance: u64) -> Self {
        match &mut self.hold {
            Hold::Leased { token, .. } | Hold::Waiting { last_token: token, .. }
                if *token != NO_TOKEN =>
            {
                *token += distance;
            }
            _ => {}
        }
        self
    }
}

impl Runs {
    /// How many offsets there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, offset: u64) -> Option<Unsettled> {
        let (_, run) = self.run_from(offset)?;
        (run.first <= offset).then(|| run.of_first.behind(offset - run.first))
    }

    /// Sets what is known of an offset.
    pub(super) fn insert(&mut self, offset: u64, entry: Unsettled) {
        self.remove(offset);
        self.insert_run(offset..offset + 1, entry);
    }

    /// Adds offsets that are not there, of which none is known to differ but in its token.
    pub(super) fn insert_run(&mut self, offsets: Range<u64>, of_first: Unsettled) {
        if let Some(last) = offsets.end.checked_sub(1).filter(|last| *last >= offsets.start) {
            self.len += length(&offsets);
            self.by_last.insert(last, Run { first: offsets.start, of_first });
        }
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Unsettled> {
        self.take_within(&(offset..offset + 1)).map(|(_, entry)| entry)
    }

    /// Removes the first offsets within `range` that are of one run, if there are any; returns them
    /// and what is known of the first.
    pub(super) fn take_within(&mut self, range: &Range<u64>) -> Option<(Range<u64>, Unsettled)> {
        let (last, whole) = self.run_from(range.start)?;
        let taken = whole.first.max(range.start)..(last + 1).min(range.end);
        if taken.is_empty() {
            return None;
        }
        self.len -= length(&taken);
        let at = |offset: u64| whole.of_first.behind(offset - whole.first);
        if taken.end <= last {
            self.by_last.insert(last, Run { first: taken.end, of_first: at(taken.end) });
        } else {
            self.by_last.remove(&last);
        }
        if whole.first < taken.start {
            self.by_last.insert(taken.start - 1, whole);
        }
        Some((taken.clone(), at(taken.start)))
    }

    /// The run that holds `offset`, or the next one above, and its last offset.
    fn run_from(&self, offset: u64) -> Option<(u64, Run)> {
        // Mostly it is the first: what is settled in order is, and it is found sooner.
        let first = self.by_last.first_key_value().filter(|(last, _)| offset <= **last);
        let found = first.or_else(|| self.by_last.range(offset..).next());
        found.map(|(last, run)| (*last, *run))
    }

    /// The runs, lowest first, each with what is known of its first offset. It may be changed for
    /// all of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Range<u64>, &mut Unsettled)> {
        self.by_last.iter_mut().map(|(last, run)| (run.first..last + 1, &mut run.of_first))
    }

    /// Lets what a poll has leased last until then, as far as it is leased to it still; returns the
    /// parts of which that is true.
    pub(super) fn extend_held_of(&mut self, fresh: &FreshRun, end: Duration) -> Vec<FreshRun> {
        // Mostly nobody else has come in between.
        if let Some(mut newest) = self.by_last.last_entry()
            && newest.key() + 1 == fresh.offsets.end
            && newest.get().first == fresh.offsets.start
            && newest.get().is_of(fresh)
        {
            newest.get_mut().extend(end);
            return vec![fresh.clone()];
        }
        let of_poll = self.by_last.range_mut(fresh.offsets.start..);
        of_poll
            .take_while(|(_, run)| run.first < fresh.offsets.end)
            .filter(|(_, run)| run.is_of(fresh))
            .map(|(last, run)| {
                run.extend(end);
                let first_token = fresh.first_token + (run.first - fresh.offsets.start);
                FreshRun { offsets: run.first..last + 1, first_token }
            })
            .collect()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Unsettled)> + '_ {
        self.by_last.iter().flat_map(|(last, run)| {
            (run.first..=*last).map(|offset| (offset, run.of_first.behind(offset - run.first)))
        })
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Run {
    fn extend(&mut self, end: Duration) {
        if let Hold::Leased { until, .. } = &mut self.of_first.hold {
            *until = end;
        }
    }

    /// Whether it is a part of what a poll has leased. Runs part, and never join.
    fn is_of(&self, fresh: &FreshRun) -> bool {
        let Hold::Leased { token, .. } = self.of_first.hold else { return false };
        let distance = self.first.checked_sub(fresh.offsets.start);
        distance.is_some_and(|distance| token == fresh.first_token + distance)
    }
}

pub(super) fn length(offsets: &Range<u64>) -> usize {
    usize::try_from(offsets.end - offsets.start).expect("a group's bounds are below a million")
}
