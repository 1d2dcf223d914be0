//! What several integration tests share: simulated logs, ways to look at a log from outside, and
//! a storage whose calls wait until a test lets them go.
#![allow(dead_code, unused_macros, reason = "each test file uses the part that it needs")]

pub(crate) mod gate;

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{Delivery, Group, Log, Offset, Options, Result, Topic};

/// A simulated machine: a disk and a clock that survive the logs on them.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), clock: SimClock::new() }
    }

    /// The same machine with a copy of its disk.
    pub(crate) fn fork(&self) -> Self {
        Self { disk: self.disk.fork(), clock: self.clock.clone() }
    }

    pub(crate) fn try_open(&self, options: Options) -> Result<Log> {
        self.try_open_with(options, 1)
    }

    /// Opens with a seed of its own, out of which the salts of new files are drawn.
    pub(crate) fn try_open_with(&self, options: Options, seed: u64) -> Result<Log> {
        options.simulated(Arc::new(self.clock.clone()), seed).open_on(self.disk.storage())
    }

    pub(crate) fn open(&self, options: Options) -> Log {
        self.try_open(options).expect("the log opens")
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// The names and the bytes of all files but leftovers and sidecars, which are only hints.
    pub(crate) fn segments(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.disk.names().into_iter().filter(|name| is_segment(name));
        names.map(|name| (name.clone(), self.disk.file(&name).expect("it was listed"))).collect()
    }
}

pub(crate) fn is_segment(name: &str) -> bool {
    has_suffix(name, "seg")
}

/// Whether the name ends with a dot and the suffix; the log's names have one case only.
pub(crate) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|stem| stem.ends_with('.'))
}

/// Small segments, so that a few records fill several.
pub(crate) fn small() -> Options {
    Options::new().segment_bytes(4096)
}

/// A payload that tells which it is, long enough for a few to fill a small segment.
pub(crate) fn payload(i: u64) -> Vec<u8> {
    let mut payload = format!("record {i} ").into_bytes();
    payload.resize(300, b'a' + u8::try_from(i % 26).expect("below 26"));
    payload
}

pub(crate) fn fill(topic: &Topic, range: std::ops::Range<u64>) {
    for i in range {
        topic.append(payload(i)).expect("appends");
    }
}

/// All visible payloads of a topic; fails on a damaged or missing one.
pub(crate) fn read_all(topic: &Topic) -> Vec<Vec<u8>> {
    try_read_all(topic).expect("every message is readable")
}

pub(crate) fn try_read_all(topic: &Topic) -> Result<Vec<Vec<u8>>> {
    let reader = topic.read_from(topic.offsets().start)?;
    reader.map(|message| message.map(|message| message.payload().to_vec())).collect()
}

/// Checks that a topic holds exactly the payloads of `range`, in order.
pub(crate) fn assert_holds(topic: &Topic, range: std::ops::Range<u64>) {
    let expected: Vec<_> = range.map(payload).collect();
    let found = read_all(topic);
    assert_eq!(found.len(), expected.len(), "the number of messages");
    assert!(found == expected, "every payload is the one that was appended");
}

/// Polls without waiting.
pub(crate) fn poll(group: &Group, max: usize) -> Vec<Delivery> {
    group.poll(max, Duration::ZERO).expect("polls")
}

pub(crate) fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset().0).collect()
}

/// The one delivery that is there.
pub(crate) fn poll_one(group: &Group) -> Delivery {
    let mut polled = poll(group, 1);
    polled.pop().expect("a message is there")
}

pub(crate) fn poll_offsets(group: &Group, max: usize) -> Vec<u64> {
    offsets(&poll(group, max))
}

pub(crate) fn ack_all(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.ack().expect("acks");
    }
}

/// The offsets and attempts of what is polled, all of it acknowledged.
pub(crate) fn drain(group: &Group) -> Vec<(u64, u32)> {
    let mut drained = Vec::new();
    loop {
        let polled = poll(group, 100);
        if polled.is_empty() {
            return drained;
        }
        for delivery in polled {
            drained.push((delivery.offset().0, delivery.attempt()));
            delivery.ack().expect("acks");
        }
    }
}

/// Checks that an expression answers an error of a pattern.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)? $(,)?) => {{
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {:?}", stringify!($pattern $(if $guard)?), other),
        }
    }};
}

pub(crate) fn start(topic: &Topic) -> Offset {
    topic.offsets().start
}
