//! Tests of the set of ranges.

#![expect(
    clippy::single_range_in_vec_init,
    clippy::reversed_empty_ranges,
    reason = "these are lists of ranges, and a damaged entry may hold any"
)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn set(ranges: &[Range<u64>]) -> RangeSet {
    let mut set = RangeSet::new();
    for range in ranges {
        set.insert(range.clone());
    }
    set
}

#[track_caller]
fn check(inserted: &[Range<u64>], expected: &[Range<u64>]) {
    assert_eq!(set(inserted).iter().collect::<Vec<_>>(), expected);
}

#[test]
fn insert_ignores_empty_and_reversed_ranges() {
    check(&[3..3, 5..4], &[]);
    check(&[1..2, 9..9, 5..4], &[1..2]);
}

#[test]
fn insert_extends_the_last_range() {
    check(&[1..2, 2..3, 3..4], &[1..4]);
}

#[test]
fn insert_joins_the_neighbours_that_it_touches() {
    check(&[1..2, 3..4, 2..3], &[1..4]);
    check(&[5..6, 1..9], &[1..9]);
    check(&[1..9, 3..4], &[1..9]);
    check(&[1..3, 5..7, 9..11, 2..10], &[1..11]);
}

#[test]
fn insert_reaches_the_highest_bound() {
    check(&[u64::MAX - 1..u64::MAX, 0..u64::MAX], &[0..u64::MAX]);
    assert_eq!(set(&[0..u64::MAX]).numbers(), u64::MAX);
}

#[test]
fn take_front_takes_only_a_range_that_starts_there() {
    let mut ranges = set(&[2..4, 6..7]);
    assert_eq!(ranges.take_front_if_starts_at(1), None);
    assert_eq!(ranges.take_front_if_starts_at(2), Some(4));
    assert_eq!(ranges.take_front_if_starts_at(4), None);
    assert_eq!(ranges, set(&[6..7]));
}

#[test]
fn missing_lists_the_gaps_inside_the_window() {
    let ranges = set(&[2..4, 6..7]);
    assert_eq!(ranges.missing(0..9).collect::<Vec<_>>(), [0..2, 4..6, 7..9]);
    assert_eq!(ranges.missing(3..5).collect::<Vec<_>>(), [4..5]);
    assert_eq!(ranges.missing(2..4).count(), 0);
}

#[test]
fn held_lists_the_ranges_inside_the_window() {
    let ranges = set(&[2..4, 6..7]);
    assert_eq!(ranges.held(3..9).collect::<Vec<_>>(), [3..4, 6..7]);
    assert_eq!(ranges.held(4..6).count(), 0);
    assert_eq!(ranges.held(9..3).count(), 0);
}

proptest! {
    #[test]
    fn a_range_set_behaves_like_a_set_of_numbers(
        steps in prop::collection::vec((0u8..10, 0u64..60, 0u64..12), 0..40),
    ) {
        let mut ranges = RangeSet::new();
        let mut numbers = BTreeSet::new();
        for (kind, start, length) in steps {
            match kind {
                0 => {
                    ranges.remove_below(start);
                    numbers.retain(|&number| number >= start);
                }
                1 => {
                    let first = ranges.first().map_or(start, |range| range.start);
                    if let Some(end) = ranges.take_front_if_starts_at(first) {
                        numbers.retain(|&number| number >= end);
                    }
                }
                _ => {
                    let before = numbers.len();
                    numbers.extend(start..start + length);
                    let added = ranges.insert(start..start + length);
                    prop_assert_eq!(added, (numbers.len() - before) as u64);
                }
            }
            prop_assert_eq!(ranges.numbers(), numbers.len() as u64);
            prop_assert!(ranges.iter().flatten().eq(numbers.iter().copied()));
            prop_assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.end < b.start));
            let absent = (start..start + 20).filter(|number| !numbers.contains(number));
            prop_assert!(ranges.missing(start..start + 20).flatten().eq(absent));
            let held = (start..start + 20).filter(|number| numbers.contains(number));
            prop_assert!(ranges.held(start..start + 20).flatten().eq(held));
            prop_assert_eq!(ranges.contains(start), numbers.contains(&start));
            let next_start = (start..90).find(|&n| {
                numbers.contains(&n) && (n == 0 || !numbers.contains(&(n - 1)))
            });
            prop_assert_eq!(ranges.start_from(start), next_start);
        }
    }
}
