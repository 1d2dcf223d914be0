//! Numbers at the bound of what a log may hold.

use std::ops::Range;

use crate::format::entry::{Attempt, Entries, Entry, Progress};
use crate::offset::{GroupId, NUMBER_MAX, TopicId};

use super::State;

/// A state with a topic and a group.
fn state() -> State {
    let (id, topic) = (GroupId(0), TopicId(0));
    let mut state = State::default();
    let made = [
        Entry::Topic { id: topic, next: 0, latest_ms: 0, name: "t" },
        Entry::Group { id, topic, floor: 0, may_lag: false, name: "g" },
    ];
    for entry in made {
        state.apply(&entry).expect("an empty state takes it");
    }
    state
}

fn progress(delivered: u64, acked: Range<u64>, attempt: u64) -> Entry<'static> {
    let attempts = vec![Attempt { offset: attempt, count: 1, due_ms: 0 }];
    let progress = Progress { delivered, exact: false, acked: vec![acked], attempts };
    Entry::Progress { group: GroupId(0), progress }
}

/// Found by the fuzzer: what the log took in was refused in the next checkpoint.
#[test]
fn what_is_taken_in_is_taken_in_again_from_a_checkpoint() {
    let (last, beyond) = (NUMBER_MAX - 1, NUMBER_MAX);
    let seek = |to| Entry::Seek { group: GroupId(0), to };
    let taken = [progress(last, 0..1, 1), progress(1, 0..last, 1), progress(1, 0..1, last - 1)];
    for entry in taken.into_iter().chain([seek(last)]) {
        let mut state = state();
        state.apply(&entry).expect("it is below the bound");
        let (mut checkpoint, mut again) = (Vec::new(), State::default());
        let entries = state.encode(&mut checkpoint);
        for next in Entries::new(&checkpoint, entries) {
            again.apply(&next.expect("whole")).expect("what was taken in is taken in again");
        }
        let progress = |state: &State| state.group(GroupId(0)).map(|group| group.progress.clone());
        assert_eq!(progress(&again), progress(&state));
    }
    let refused = [
        progress(beyond, 0..1, 1),
        progress(1, 0..beyond, 1),
        progress(1, 0..1, last),
        progress(1, 0..1, u64::MAX),
    ];
    for entry in refused.into_iter().chain([seek(beyond)]) {
        assert!(state().apply(&entry).is_err(), "{entry:?}");
    }
}
