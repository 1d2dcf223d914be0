//! A set of numbers kept as ranges: small for as long as its numbers are neighbours.
//!
//! It promises that its ranges are disjoint, never touch, and are never empty. It never holds
//! `u64::MAX`, which no half-open range can contain.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;

/// Disjoint half-open ranges of `u64`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
    numbers: u64,
}

impl RangeSet {
    /// The empty set.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds every number of `range` and returns how many of them are new.
    ///
    /// An empty or reversed range adds nothing.
    pub(crate) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        // The usual case by far: the range goes at the end, and mostly extends the last one.
        match self.ranges.last_entry() {
            Some(mut last) if range.start == *last.get() => {
                last.insert(range.end);
                self.grown(range.end - range.start)
            }
            Some(last) if range.start > *last.get() => {
                self.ranges.insert(range.start, range.end);
                self.grown(range.end - range.start)
            }
            Some(_) => self.merge(range),
            None => {
                self.ranges.insert(range.start, range.end);
                self.grown(range.end - range.start)
            }
        }
    }

    /// Whether `number` is in the set.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.range_of(number).is_some()
    }

    /// The range that holds `number`.
    pub(crate) fn range_of(&self, number: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.ranges.range(..=number).next_back()?;
        (number < end).then_some(start..end)
    }

    /// Where the first range that starts at `number` or above starts.
    pub(crate) fn start_from(&self, number: u64) -> Option<u64> {
        self.ranges.range(number..).next().map(|(&start, _)| start)
    }

    /// Removes every number below `bound`.
    pub(crate) fn remove_below(&mut self, bound: u64) {
        while let Some(first) = self.ranges.first_entry() {
            let (start, end) = (*first.key(), *first.get());
            if start >= bound {
                return;
            }
            first.remove();
            self.numbers -= end.min(bound) - start;
            if end > bound {
                self.ranges.insert(bound, end);
                return;
            }
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The lowest range.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.ranges.first_key_value().map(|(&start, &end)| start..end)
    }

    /// Removes the lowest range if it starts at `start`, and returns its end.
    pub(crate) fn take_front_if_starts_at(&mut self, start: u64) -> Option<u64> {
        let first = self.ranges.first_entry().filter(|first| *first.key() == start)?;
        let end = first.remove();
        self.numbers -= end - start;
        Some(end)
    }

    /// The ranges, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// How many ranges there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set holds no number.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers there are.
    pub(crate) fn numbers(&self) -> u64 {
        self.numbers
    }

    /// The parts of `within` that the set holds, lowest first.
    pub(crate) fn held(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = self.range_of(within.start).map_or(within.start, |range| range.start);
        self.ranges
            .range(from..within.end.max(from))
            .map(move |(&start, &end)| start.max(within.start)..end.min(within.end))
    }

    /// The parts of `within` that the set does not hold, lowest first.
    pub(crate) fn missing(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut from = self.range_of(within.start).map_or(within.start, |range| range.end);
        let mut held = self.ranges.range(from..);
        iter::from_fn(move || {
            if from >= within.end {
                return None;
            }
            // A gap is never empty: ranges do not touch, and `from` is outside of all of them.
            let (gap_end, resume) = match held.next() {
                Some((&start, &end)) => (start.min(within.end), end),
                None => (within.end, within.end),
            };
            let gap = from..gap_end;
            from = resume;
            Some(gap)
        })
    }

    fn merge(&mut self, range: Range<u64>) -> u64 {
        let Range { mut start, mut end } = range;
        let mut replaced = 0;
        if let Some((&before, &before_end)) = self.ranges.range(..start).next_back()
            && before_end >= start
        {
            start = before;
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            replaced += next_end - next;
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
        self.grown(end - start - replaced)
    }

    fn grown(&mut self, by: u64) -> u64 {
        self.numbers += by;
        by
    }
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
