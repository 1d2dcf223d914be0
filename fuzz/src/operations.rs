//! Operations and crashes out of bytes, against a model that knows what was promised.
//!
//! The model is small: for each topic the records whose append was acknowledged, in their order,
//! and the offsets whose acknowledgement was committed. After each crash all of the former must
//! be there, and none of the latter may be delivered again.

use std::collections::BTreeSet;
use std::time::Duration;

use ackline::simulation::{Crash, SimClock, SimDisk};
use ackline::{Delivery, Group, Log, Media, Options, SyncPolicy, Topic};

use crate::{Bytes, options, read_all};

const TOPICS: [&str; 2] = ["a", "b"];

#[derive(Default)]
struct Model {
    appended: [Vec<Vec<u8>>; 2],
    committed: [BTreeSet<u64>; 2],
    /// Acknowledged and not committed yet.
    acked: [BTreeSet<u64>; 2],
}

struct Run {
    disk: SimDisk,
    clock: SimClock,
    each: bool,
    sectors: bool,
    log: Option<Log>,
    held: Vec<(usize, Delivery)>,
    model: Model,
}

/// Runs the operations that `data` stands for.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (seed, flags) = (bytes.u8(), bytes.u8());
    let mut run = Run {
        disk: SimDisk::new(seed.into()),
        clock: SimClock::new(),
        each: flags & 1 != 0,
        sectors: flags & 2 != 0,
        log: None,
        held: Vec::new(),
        model: Model::default(),
    };
    if run.sectors {
        run.disk.set_sector_mode(ackline::simulation::Sectors::Whole);
    }
    run.open();
    for _ in 0..200 {
        if bytes.is_empty() {
            break;
        }
        run.step(&mut bytes);
    }
    run.crash(Crash::Power);
    run.check();
}

impl Run {
    fn options(&self) -> Options {
        let policy = if self.each { SyncPolicy::EachAppend } else { SyncPolicy::default() };
        let media = if self.sectors { Media::WholeSectors } else { Media::PowersafeOverwrite };
        options(&self.disk, &self.clock).sync(policy).media(media)
    }

    fn open(&mut self) {
        let opened = self.options().open_on(self.disk.storage());
        self.log = Some(opened.expect("whatever a crash leaves opens"));
    }

    fn topic(&self, topic: usize) -> Topic {
        let log = self.log.as_ref().expect("the log is open");
        log.topic(TOPICS[topic]).expect("a topic")
    }

    fn group(&self, topic: usize) -> Group {
        self.topic(topic).group("g").expect("a group")
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let (operation, topic) = (bytes.u8() % 12, usize::from(bytes.u8() % 2));
        match operation {
            0..=2 => self.append(topic, bytes.below(700)),
            3 => {
                let payloads = vec![vec![b'b'; bytes.below(300)]; bytes.below(5)];
                let batch = self.topic(topic).append_batch(payloads.clone()).expect("appends");
                let next = self.model.appended[topic].len() as u64;
                assert_eq!(batch.offsets.start.0, next, "offsets are dense");
                self.model.appended[topic].extend(payloads);
            }
            4 => {
                let polled = self.group(topic).poll(bytes.below(6), Duration::ZERO);
                for delivery in polled.expect("polls") {
                    let offset = delivery.offset().0;
                    let done = &self.model.committed[topic];
                    assert!(!done.contains(&offset), "a committed ack is not undone");
                    self.held.push((topic, delivery));
                }
            }
            5 | 6 if !self.held.is_empty() => {
                let (topic, delivery) = self.held.remove(bytes.below(self.held.len()));
                let offset = delivery.offset().0;
                if delivery.ack().is_ok() {
                    self.model.acked[topic].insert(offset);
                }
            }
            7 => {
                self.group(topic).commit().expect("commits");
                let acked = std::mem::take(&mut self.model.acked[topic]);
                self.model.committed[topic].extend(acked);
            }
            8 => self.clock.advance(Duration::from_millis(bytes.u16().into())),
            9 => drop(self.log.as_ref().expect("open").maintain()),
            10 => self.crash(if bytes.u8().is_multiple_of(2) { Crash::Power } else { Crash::Kill }),
            11 => {
                self.held.clear();
                let log = self.log.take().expect("the log is open");
                log.close().expect("closes");
                // Closing commits what was acknowledged.
                for topic in 0..TOPICS.len() {
                    let acked = std::mem::take(&mut self.model.acked[topic]);
                    self.model.committed[topic].extend(acked);
                }
                self.open();
            }
            _ => {}
        }
    }

    fn append(&mut self, topic: usize, length: usize) {
        let next = self.model.appended[topic].len();
        let payload = vec![b'a' + (next % 26) as u8; length];
        let receipt = self.topic(topic).append(payload.clone()).expect("appends");
        assert_eq!(receipt.offset.0, next as u64, "offsets are dense");
        self.model.appended[topic].push(payload);
    }

    fn crash(&mut self, kind: Crash) {
        self.disk.crash(kind);
        self.held.clear();
        self.log = None;
        self.open();
        // What was acknowledged and not committed may have survived or not.
        self.model.acked = Default::default();
        self.check();
    }

    /// All that was promised is there, unless retention has deleted it after it was consumed.
    fn check(&self) {
        for (topic, appended) in self.model.appended.iter().enumerate() {
            let handle = self.topic(topic);
            let (read, error) = read_all(&handle);
            assert!(error.is_none(), "what a crash leaves can be read: {error:?}");
            let start = usize::try_from(handle.offsets().start.0).expect("small offsets");
            assert_eq!(read.len() + start, appended.len(), "nothing is lost or invented");
            for (message, expected) in read.iter().zip(&appended[start..]) {
                assert_eq!(message.payload(), expected, "nothing is altered or reordered");
            }
        }
    }
}
