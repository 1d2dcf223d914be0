//! Tests of the progress of a group.

use proptest::prelude::*;

use super::*;

fn acked<const N: usize>(ranges: [(u64, u64); N]) -> Progress {
    let acked = ranges.map(|(start, end)| start..end).to_vec();
    Progress { acked, ..Progress::default() }
}

fn attempts(attempts: &[(u64, u32, u64)]) -> Progress {
    let attempts =
        attempts.iter().map(|&(offset, count, due_ms)| Attempt { offset, count, due_ms }).collect();
    Progress { attempts, ..Progress::default() }
}

fn delivered(delivered: u64) -> Progress {
    Progress { delivered, ..Progress::default() }
}

fn folded(entries: &[Progress]) -> GroupProgress {
    let mut group = GroupProgress::starting_at(10);
    for entry in entries {
        group.apply(entry);
    }
    group
}

#[test]
fn the_floor_moves_over_contiguous_acks() {
    let group = folded(&[acked([(12, 14)]), acked([(11, 12), (10, 11)]), acked([(15, 16)])]);
    assert_eq!(group.floor, 14);
    assert_eq!(group.acked.first(), Some(15..16));
    assert_eq!(group.acked.len(), 1);
}

#[test]
fn acks_below_the_floor_change_nothing() {
    assert_eq!(folded(&[acked([(0, 9)])]), GroupProgress::starting_at(10));
    assert_eq!(folded(&[acked([(0, 11)])]).floor, 11);
}

#[test]
fn empty_and_reversed_ranges_are_ignored() {
    assert_eq!(folded(&[acked([(20, 20), (30, 12)])]), GroupProgress::starting_at(10));
}

#[test]
fn an_ack_of_everything_saturates() {
    let group = folded(&[acked([(0, u64::MAX)]), attempts(&[(u64::MAX, 3, 0)])]);
    assert_eq!(group.floor, u64::MAX);
    assert_eq!(group.delivered, u64::MAX);
}

#[test]
fn delivered_is_a_maximum_unless_it_is_exact() {
    assert_eq!(folded(&[delivered(50), delivered(20), delivered(0)]).delivered, 50);
    let exact = Progress { delivered: 20, exact: true, ..Progress::default() };
    assert_eq!(folded(&[delivered(50), exact]).delivered, 20);
}

#[test]
fn attempts_are_explicit_or_told_from_delivered() {
    let group = folded(&[delivered(12), attempts(&[(10, 4, 0)])]);
    assert_eq!([10, 11, 12].map(|offset| group.attempts_of(offset)), [4, 1, 0]);
}

#[test]
fn attempts_are_overwritten_even_by_a_lower_count() {
    assert_eq!(folded(&[attempts(&[(10, 4, 9)]), attempts(&[(10, 3, 0)])]).attempts_of(10), 3);
}

#[test]
fn attempts_of_settled_offsets_are_forgotten() {
    let group = folded(&[
        attempts(&[(10, 2, 0), (11, 2, 0), (13, 2, 0)]),
        acked([(10, 11), (13, 14)]),
        attempts(&[(10, 3, 0), (13, 3, 0), (9, 3, 0)]),
    ]);
    assert_eq!(group.attempts.keys().copied().collect::<Vec<_>>(), [11]);
}

#[test]
fn a_counted_offset_has_been_delivered() {
    let group = folded(&[attempts(&[(12, 0, 0)]), delivered(11)]);
    assert_eq!(group.delivered, 13);
    assert_eq!([11, 12].map(|offset| group.attempts_of(offset)), [1, 0]);
}

#[test]
fn suspects_are_unsettled_delivered_and_below_the_end() {
    let group = folded(&[delivered(16), acked([(10, 11), (12, 14)])]);
    assert_eq!(group.suspects(100).collect::<Vec<_>>(), [11, 14, 15]);
    assert_eq!(group.suspects(15).collect::<Vec<_>>(), [11, 14]);
    assert_eq!(group.suspects(0).count(), 0);
}

#[test]
fn seek_forgets_everything_else() {
    let mut group = folded(&[delivered(16), acked([(12, 14)]), attempts(&[(10, 4, 0)])]);
    group.seek(3);
    assert_eq!(group, GroupProgress::starting_at(3));
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let offset = || prop_oneof![8 => 0u64..40, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    let range = (offset(), offset()).prop_map(|(start, end)| start..end);
    let attempt = (offset(), any::<u32>(), any::<u64>())
        .prop_map(|(offset, count, due_ms)| Attempt { offset, count, due_ms });
    let (acked, attempts) =
        (prop::collection::vec(range, 0..4), prop::collection::vec(attempt, 0..4));
    (offset(), prop::bool::weighted(0.1), acked, attempts).prop_map(
        |(delivered, exact, acked, attempts)| Progress { delivered, exact, acked, attempts },
    )
}

proptest! {
    #[test]
    fn any_progress_survives_a_checkpoint(
        entries in prop::collection::vec(any_progress(), 0..12),
    ) {
        let mut group = GroupProgress::starting_at(10);
        for entry in &entries {
            let floor = group.floor;
            group.apply(entry);
            prop_assert!(group.floor >= floor);
            prop_assert!(group.delivered >= group.floor);
            prop_assert!(group.acked.first().is_none_or(|first| first.start > group.floor));
            let unsettled = |offset| offset >= group.floor && !group.acked.contains(offset);
            prop_assert!(group.attempts.keys().copied().all(unsettled));
            let mut copy = GroupProgress::starting_at(group.floor);
            copy.apply(&group.to_progress());
            prop_assert_eq!(&copy, &group);
            prop_assert!(group.suspects(60).all(|offset| group.delivered > offset));
        }
    }
}
