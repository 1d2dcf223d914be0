//! Operations and crashes out of bytes, against a model that knows what was promised.
//!
//! The model is small: for each topic the records whose append was acknowledged, in their order,
//! and the offsets whose acknowledgement was committed. A process may die in the middle of a call,
//! and then nobody knows whether that took effect. After each crash all of the former must be
//! there, and none of the latter may be open again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{Crash, Fault, SimClock, SimDisk, Storage};
use ackline::{
    Delivery, Explanation, Group, GroupOptions, Log, Media, Offset, Options, SyncPolicy, Topic,
};

use crate::{Bytes, options, read_all};

const TOPICS: [&str; 2] = ["a", "b"];

#[derive(Default)]
struct Model {
    appended: [Vec<Vec<u8>>; 2],
    committed: [BTreeSet<u64>; 2],
    /// Acknowledged and not committed yet.
    acked: [BTreeSet<u64>; 2],
    /// What was being appended to a topic when the process died: all of it is there or nothing.
    unknown: Option<(usize, Vec<Vec<u8>>)>,
}

struct Run {
    disk: SimDisk,
    clock: SimClock,
    each: bool,
    sectors: bool,
    storage: Arc<dyn Storage>,
    log: Option<Log>,
    /// What follows the death that is planned.
    ending: Crash,
    held: Vec<(usize, Delivery)>,
    model: Model,
}

/// Runs the operations that `data` stands for.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (seed, flags) = (bytes.u8(), bytes.u8());
    let disk = SimDisk::new(seed.into());
    let mut run = Run {
        storage: disk.storage(),
        disk,
        clock: SimClock::new(),
        each: flags & 1 != 0,
        sectors: flags & 2 != 0,
        log: None,
        ending: Crash::Power,
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
}

impl Run {
    fn options(&self) -> Options {
        let policy = if self.each { SyncPolicy::EachAppend } else { SyncPolicy::default() };
        let media = if self.sectors { Media::WholeSectors } else { Media::PowersafeOverwrite };
        options(&self.disk, &self.clock).sync(policy).media(media)
    }

    fn open(&mut self) {
        loop {
            self.storage = self.disk.storage();
            match self.options().open_on(Arc::clone(&self.storage)) {
                Ok(log) => {
                    self.log = Some(log);
                    return;
                }
                // A planned death has struck in here. It does so once.
                Err(_) if self.is_dead() => self.end(self.ending),
                Err(error) => panic!("whatever a crash leaves opens: {error:?}"),
            }
        }
    }

    /// Whether the process has died in the middle of a call.
    fn is_dead(&self) -> bool {
        self.storage.free_bytes().is_err()
    }

    /// What a call was answered; none if the process died meanwhile. Nothing else makes it fail.
    fn done<T>(&self, result: ackline::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(_) if self.is_dead() => None,
            Err(error) => panic!("failed without a reason: {error:?}"),
        }
    }

    fn topic(&self, topic: usize) -> Option<Topic> {
        self.done(self.log.as_ref().expect("the log is open").topic(TOPICS[topic]))
    }

    fn group(&self, topic: usize) -> Option<Group> {
        // So that no message goes to the dead letters, however often it comes.
        let options = GroupOptions::new().attempts_max(10_000);
        self.done(self.topic(topic)?.group_with("g", options))
    }

    /// Takes a step, and sees whether the process has died in it.
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        self.operate(bytes);
        if self.is_dead() {
            self.crash(self.ending);
        }
    }

    /// Does what comes next; nothing if the process dies meanwhile.
    fn operate(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        // The last bytes came later: the seeds are to mean what they meant.
        let operation = match bytes.u8() {
            252.. => 12,
            byte => byte % 12,
        };
        let topic = usize::from(bytes.u8() % 2);
        match operation {
            0..=2 => self.append(topic, bytes.below(700)),
            3 => self.append_batch(topic, vec![vec![b'b'; bytes.below(300)]; bytes.below(5)]),
            4 => self.poll(topic, bytes.below(6)),
            5 | 6 if !self.held.is_empty() => {
                let (topic, delivery) = self.held.remove(bytes.below(self.held.len()));
                let offset = delivery.offset().0;
                // One whose lease is over is refused, and of one on the way nobody knows.
                if delivery.ack().is_ok() || self.is_dead() {
                    self.model.acked[topic].insert(offset);
                }
                Some(())
            }
            7 => {
                let group = self.group(topic)?;
                self.done(group.commit())?;
                self.committed(topic);
                Some(())
            }
            8 => {
                self.clock.advance(Duration::from_millis(bytes.u16().into()));
                Some(())
            }
            9 => self.done(self.log.as_ref().expect("open").maintain()),
            10 => {
                self.crash(if bytes.u8().is_multiple_of(2) { Crash::Power } else { Crash::Kill });
                Some(())
            }
            11 => {
                self.held.clear();
                let log = self.log.take().expect("the log is open");
                if self.done(log.close()).is_some() {
                    // Closing commits what was acknowledged.
                    (0..TOPICS.len()).for_each(|topic| self.committed(topic));
                }
                if !self.is_dead() {
                    self.open();
                }
                Some(())
            }
            12 => {
                self.plan_death(bytes.u8(), bytes.below(60));
                Some(())
            }
            _ => None,
        }
    }

    /// Lets the process die just before one of the next calls of the disk, or in the middle of it.
    fn plan_death(&mut self, how: u8, calls: usize) {
        let call = self.disk.calls() + calls as u64;
        if how & 1 == 0 {
            self.disk.die_at(call);
        } else {
            self.disk.fail_at(call, Fault::Death);
        }
        self.ending = if how & 2 == 0 { Crash::Power } else { Crash::Kill };
    }

    fn append(&mut self, topic: usize, length: usize) -> Option<()> {
        let next = self.model.appended[topic].len();
        let payload = vec![b'a' + (next % 26) as u8; length];
        let handle = self.topic(topic)?;
        self.model.unknown = Some((topic, vec![payload.clone()]));
        let receipt = self.done(handle.append(payload))?;
        assert_eq!(receipt.offset.0, next as u64, "offsets are dense");
        self.appended();
        Some(())
    }

    fn append_batch(&mut self, topic: usize, payloads: Vec<Vec<u8>>) -> Option<()> {
        let next = self.model.appended[topic].len() as u64;
        let handle = self.topic(topic)?;
        self.model.unknown = Some((topic, payloads.clone()));
        let batch = self.done(handle.append_batch(payloads))?;
        assert_eq!(batch.offsets.start.0, next, "offsets are dense");
        self.appended();
        Some(())
    }

    /// What was in hand is in the log.
    fn appended(&mut self) {
        let (topic, payloads) = self.model.unknown.take().expect("an append was in hand");
        self.model.appended[topic].extend(payloads);
    }

    fn poll(&mut self, topic: usize, max: usize) -> Option<()> {
        let group = self.group(topic)?;
        for delivery in self.done(group.poll(max, Duration::ZERO))? {
            let offset = delivery.offset().0;
            let done = &self.model.committed[topic];
            assert!(!done.contains(&offset), "a committed ack is not undone");
            self.held.push((topic, delivery));
        }
        Some(())
    }

    fn committed(&mut self, topic: usize) {
        let acked = std::mem::take(&mut self.model.acked[topic]);
        self.model.committed[topic].extend(acked);
    }

    /// Ends the process, and whatever was planned for it.
    fn end(&mut self, kind: Crash) {
        self.disk.crash(kind);
        self.disk.clear_faults();
        self.held.clear();
        self.log = None;
    }

    fn crash(&mut self, kind: Crash) {
        self.end(kind);
        self.open();
        self.check();
    }

    /// All that was promised is there, unless retention has deleted it after it was consumed, and
    /// nothing that never was. What is there is promised from now on.
    fn check(&mut self) {
        for topic in 0..TOPICS.len() {
            let handle = self.topic(topic).expect("no death is planned");
            let (read, error) = read_all(&handle);
            assert!(error.is_none(), "what a crash leaves can be read: {error:?}");
            let start = usize::try_from(handle.offsets().start.0).expect("small offsets");
            let known = self.model.appended[topic].len();
            let more = self.model.unknown.as_ref().filter(|(unknown, _)| *unknown == topic);
            let more = more.map_or(0, |(_, payloads)| payloads.len());
            let found = read.len() + start;
            assert!(found == known || found == known + more, "lost, invented, or cut in two");
            if found > known {
                self.appended();
            }
            for (message, expected) in read.iter().zip(&self.model.appended[topic][start..]) {
                assert_eq!(message.payload(), expected, "nothing is altered or reordered");
            }
            self.check_group(topic);
        }
        self.model.unknown = None;
    }

    /// What was committed is done, and what nobody acknowledged is not.
    fn check_group(&mut self, topic: usize) {
        let group = self.group(topic).expect("no death is planned");
        let acked = std::mem::take(&mut self.model.acked[topic]);
        let committed = &mut self.model.committed[topic];
        for offset in 0..self.model.appended[topic].len() as u64 {
            let explained = group.explain(Offset(offset)).expect("explains what is there");
            if explained != Explanation::Settled {
                assert!(!committed.contains(&offset), "a committed ack is not undone");
            } else if committed.insert(offset) {
                assert!(acked.contains(&offset), "an ack is not invented");
            }
        }
    }
}
