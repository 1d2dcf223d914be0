//! The topics and the groups of the log, by their numbers.

use std::time::Duration;

use ackline::GroupOptions;

pub(crate) const ORDERS: usize = 0;
pub(crate) const EVENTS: usize = 1;
pub(crate) const RELAYED: usize = 2;
pub(crate) const DEAD: usize = 3;
pub(crate) const TOPICS: [&str; 4] = ["orders", "events", "relayed", "dead"];

/// A group, and how its consumers end deliveries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupLayout {
    pub(crate) topic: usize,
    pub(crate) name: &'static str,
    pub(crate) threads: usize,
    pub(crate) attempts_max: u32,
    /// So short that leases end in a consumer's hands.
    pub(crate) short_lease: bool,
}

/// Acknowledges, gives back, rejects, drops.
pub(crate) const WORKERS: usize = 0;
/// Hands on: acknowledges and appends to another topic in one batch.
pub(crate) const RELAY: usize = 1;
/// Commits cumulatively.
pub(crate) const READERS: usize = 2;
/// Is often too slow for its leases.
pub(crate) const SINK: usize = 3;
/// Consumes the dead letters.
pub(crate) const UNDERTAKER: usize = 4;

pub(crate) const GROUPS: [GroupLayout; 5] = [
    group(ORDERS, "workers", 3, 12),
    group(ORDERS, "relay", 2, 30),
    group(EVENTS, "readers", 1, 30),
    GroupLayout { short_lease: true, ..group(RELAYED, "sink", 1, 30) },
    // A dead letter must not become one of its own topic.
    group(DEAD, "undertaker", 1, u32::MAX),
];

const fn group(topic: usize, name: &'static str, threads: usize, attempts_max: u32) -> GroupLayout {
    GroupLayout { topic, name, threads, attempts_max, short_lease: false }
}

/// The order in which the groups end when nothing new comes: none of them makes work for one
/// before it.
pub(crate) const DOWNSTREAM: [usize; 5] = [WORKERS, RELAY, READERS, SINK, UNDERTAKER];

impl GroupLayout {
    pub(crate) fn options(&self) -> GroupOptions {
        let dead = if self.topic == DEAD { "dead.dead" } else { TOPICS[DEAD] };
        let lease = if self.short_lease { 20 } else { 300_000 };
        GroupOptions::new()
            .lease(Duration::from_millis(lease))
            .attempts_max(self.attempts_max)
            .backoff([1, 2, 5, 10].map(Duration::from_millis))
            .dead_letter(dead)
    }
}

/// The number of a group by its names.
pub(crate) fn group_of(topic: &str, group: &str) -> Option<usize> {
    GROUPS.iter().position(|layout| TOPICS[layout.topic] == topic && layout.name == group)
}
