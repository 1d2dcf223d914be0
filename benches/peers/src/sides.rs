//! Peers as sides of a comparison: what their threads do, and whether everything reads back.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Mutex;

use crate::consumers::{Acks, Cycle};
use crate::measure::{Counts, Meter, Plan, STAMP_BYTES, Side, TURN, read_stamp, stamp};
use crate::peer::{Failure, Kind, Mode, NO_PANIC, Peer, Setup};
use crate::workload::{BATCH_RECORDS, Work, Workload};

/// How many bytes a reader finds, roughly, and how many records at least and at most.
const READ_BYTES: u64 = 100 << 20;
const READ_RECORDS: std::ops::RangeInclusive<u64> = 1_000..=200_000;
/// How many of them are written at a time.
const FILL_RECORDS: u64 = 500;

/// Opens a peer and makes ready what the workload wants of it.
pub(crate) fn make(
    kind: &Kind,
    workload: &Workload,
    directory: &Path,
    plan: &Plan,
) -> Result<Box<dyn Side>, Failure> {
    let mode = match workload.work {
        Work::Append(mode) => mode,
        // What is read need not be durable.
        Work::Read if kind.unsynced.is_some() => Mode::Unsynced,
        _ => Mode::Durable,
    };
    std::fs::create_dir(directory)?;
    let Workload { topics, threads, payload_bytes, .. } = *workload;
    let consumers = workload.consumers();
    let peer = (kind.open)(&Setup { directory, mode, topics, threads, consumers })?;
    let side = Common { name: kind.name, peer, payload_bytes, topics, failure: Mutex::default() };
    Ok(match workload.work {
        Work::Append(mode) => Box::new(Appends { side, is_timed: mode == Mode::Durable }),
        Work::Batch => Box::new(Batches(side)),
        Work::Submit => Box::new(Submits(side)),
        Work::Ack => Box::new(Acks::new(side)),
        Work::Cycle => Box::new(Cycle::new(Appends { side, is_timed: true }, threads)),
        Work::Read => {
            let records = read_records(payload_bytes);
            fill(side.peer.as_ref(), payload_bytes, 0..records)?;
            let turns = plan.time.as_millis().div_ceil(TURN.as_millis()).max(1);
            let turns = usize::try_from(turns)? * plan.rounds;
            // One for each turn, one to warm up, one to verify, and some for who reads fast.
            side.peer.prepare_reads(turns + turns / 4 + 2)?;
            Box::new(Reads { side, records })
        }
    })
}

/// How many records a reader finds.
pub(crate) fn read_records(payload_bytes: usize) -> u64 {
    (READ_BYTES / payload_bytes as u64).clamp(*READ_RECORDS.start(), *READ_RECORDS.end())
}

/// Appends the payloads with these numbers, many at a time.
pub(crate) fn fill(
    peer: &dyn Peer,
    payload_bytes: usize,
    numbers: Range<u64>,
) -> Result<(), Failure> {
    let end = numbers.end;
    for first in numbers.step_by(usize::try_from(FILL_RECORDS)?) {
        let numbers = first..end.min(first + FILL_RECORDS);
        peer.append_batch(0, 0, &payloads(payload_bytes, 0, numbers))?;
    }
    Ok(())
}

/// The payloads with these numbers.
pub(crate) fn payloads(payload_bytes: usize, thread: usize, numbers: Range<u64>) -> Vec<Vec<u8>> {
    let payload = |number| {
        let mut payload = vec![0; payload_bytes];
        stamp(&mut payload, thread, number);
        payload
    };
    numbers.map(payload).collect()
}

/// What all sides need.
pub(crate) struct Common {
    pub(crate) name: &'static str,
    pub(crate) peer: Box<dyn Peer>,
    pub(crate) payload_bytes: usize,
    topics: usize,
    /// The first thing that went wrong.
    failure: Mutex<Option<String>>,
}

impl Common {
    /// Keeps the failure for the end; the thread that met it stops.
    pub(crate) fn fail(&self, failure: &str) {
        let mut first = self.failure.lock().expect(NO_PANIC);
        first.get_or_insert_with(|| failure.to_owned());
    }

    /// The first thing that went wrong, if any.
    pub(crate) fn no_failure(&self) -> Result<(), String> {
        match self.failure.lock().expect(NO_PANIC).as_ref() {
            Some(failure) => Err(format!("{} failed: {failure}", self.name)),
            None => Ok(()),
        }
    }

    /// The topic of a thread's record.
    fn topic(&self, thread: usize, number: u64) -> usize {
        Self::topic_of(self.topics, thread, number)
    }

    /// Threads begin in different topics.
    fn topic_of(topics: usize, thread: usize, number: u64) -> usize {
        let topic = (number + thread as u64 * 61) % topics as u64;
        usize::try_from(topic).expect("a topic's number was a usize")
    }

    /// Reads all topics and compares what is there with what was acknowledged.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.no_failure()?;
        let name = self.name;
        let mut found = vec![0; acknowledged.len()];
        for topic in 0..self.topics {
            let read = self.verify_topic(topic, acknowledged, &mut found);
            read.map_err(|wrong| format!("{name}, topic {topic}: {wrong}"))?;
        }
        // The numbers of a thread ascend within a topic and name their topic, so that as many as
        // were acknowledged are all of them.
        if found == acknowledged {
            Ok(())
        } else {
            Err(format!("{name}: found {found:?} of {acknowledged:?} records of each thread"))
        }
    }

    fn verify_topic(
        &self,
        topic: usize,
        acknowledged: &[u64],
        found: &mut [u64],
    ) -> Result<(), String> {
        let mut next = vec![0; acknowledged.len()];
        let mut wrong = None;
        let mut check = |record: &[u8]| {
            let right = record.len() == self.payload_bytes;
            let Some((thread, number)) = right.then(|| read_stamp(record)).flatten() else {
                return Err("an altered record".to_owned());
            };
            let known = acknowledged.get(thread).is_some_and(|end| number < *end);
            if !known || self.topic(thread, number) != topic {
                return Err(format!("record {number} of thread {thread} does not belong there"));
            }
            if number < next[thread] {
                return Err(format!("record {number} of thread {thread} is out of order"));
            }
            next[thread] = number + 1;
            found[thread] += 1;
            Ok(())
        };
        let read = self.peer.read(topic, &mut |record| match check(record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(what) => {
                wrong = Some(what);
                ControlFlow::Break(())
            }
        });
        read.map_err(|error| error.to_string())?;
        wrong.map_or(Ok(()), Err)
    }
}

/// Threads that append one record at a time.
pub(crate) struct Appends {
    pub(crate) side: Common,
    is_timed: bool,
}

impl Side for Appends {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; self.side.payload_bytes], first);
        while meter.goes_on() {
            stamp(&mut payload, thread, number);
            let topic = self.side.topic(thread, number);
            let append = || self.side.peer.append(thread, topic, &payload);
            // Without a sync, looking at the clock would be part of what is measured.
            let appended = if self.is_timed { meter.time(append) } else { append() };
            if let Err(error) = appended {
                self.side.fail(&error.to_string());
                break;
            }
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.side.verify(acknowledged)
    }
}

/// A thread that appends batches.
struct Batches(Common);

impl Side for Batches {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut number = first;
        while meter.goes_on() {
            let end = number + BATCH_RECORDS as u64;
            let records = payloads(self.0.payload_bytes, thread, number..end);
            if let Err(error) = self.0.peer.append_batch(thread, 0, &records) {
                self.0.fail(&error.to_string());
                break;
            }
            number = end;
        }
        number
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.0.verify(acknowledged)
    }
}

/// A thread that has many records under way.
struct Submits(Common);

impl Side for Submits {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut number = first;
        let mut records = std::iter::from_fn(|| {
            meter.goes_on().then(|| {
                let mut payload = vec![0; self.0.payload_bytes];
                stamp(&mut payload, thread, number);
                number += 1;
                payload
            })
        });
        if let Err(error) = self.0.peer.append_in_flight(&mut records) {
            self.0.fail(&error.to_string());
        }
        number
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.0.verify(acknowledged)
    }
}

/// A thread that reads everything from the beginning, again and again.
struct Reads {
    side: Common,
    records: u64,
}

impl Side for Reads {
    fn work(&self, _: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut read = 0;
        while meter.goes_on() {
            let mut next = 0;
            let result = self.side.peer.read(0, &mut |record| {
                if !is_payload(record, next) {
                    return ControlFlow::Break(());
                }
                next += 1;
                if meter.goes_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            read += next;
            if let Err(error) = result {
                self.side.fail(&error.to_string());
                break;
            }
            if next != self.records && meter.goes_on() {
                self.side.fail(&format!("record {next} is missing or altered"));
                break;
            }
        }
        first + read
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    /// What was read was checked when it came; here is one reading without an early end.
    fn verify(&self, _: &[u64]) -> Result<(), String> {
        self.side.verify(&[self.records])
    }
}

/// Whether this is the payload of thread 0 with this number, every byte of it. Each side's reader
/// does the same, so that none is spared looking at the bytes.
pub(crate) fn is_payload(record: &[u8], number: u64) -> bool {
    let Some((head, filler)) = record.split_at_checked(STAMP_BYTES) else { return false };
    let Some(first) = filler.first() else { return false };
    let mut expected = [0; STAMP_BYTES + 1];
    stamp(&mut expected, 0, number);
    // Without an early end, so that it takes little of the time.
    let differing = filler.iter().fold(0, |differing, byte| differing | (byte ^ first));
    head == &expected[..STAMP_BYTES] && *first == expected[STAMP_BYTES] && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Visit;

    /// Two threads in three topics.
    const TOPICS: usize = 3;
    const RECORDS: u64 = 10;

    /// A peer in memory, in which something can be put wrong.
    #[derive(Default)]
    struct Memory(Mutex<[Vec<Vec<u8>>; TOPICS]>);

    impl Peer for Memory {
        fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
            self.0.lock().expect(NO_PANIC)[topic].push(record.to_owned());
            Ok(())
        }

        fn append_batch(&self, _: usize, _: usize, _: &[Vec<u8>]) -> Result<(), Failure> {
            Err("there are no batches".into())
        }

        fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
            for record in &self.0.lock().expect(NO_PANIC)[topic] {
                if visit(record).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    /// What is said of a full peer after something was done to it.
    #[track_caller]
    fn check(damage: impl FnOnce(&mut [Vec<Vec<u8>>; TOPICS]), expected: Result<(), &str>) {
        let memory = Memory::default();
        let topic_of = |thread, number| Common::topic_of(TOPICS, thread, number);
        for thread in 0..2 {
            for (number, record) in (0..).zip(payloads(20, thread, 0..RECORDS)) {
                let topic = topic_of(thread, number);
                memory.append(thread, topic, &record).expect("memory takes it");
            }
        }
        damage(&mut memory.0.lock().expect(NO_PANIC));
        let (name, peer, failure) = ("memory", Box::new(memory), Mutex::default());
        let side = Common { name, peer, payload_bytes: 20, topics: TOPICS, failure };
        let verified = side.verify(&[RECORDS, RECORDS]);
        match expected {
            Ok(()) => assert_eq!(verified, Ok(())),
            Err(part) => {
                let wrong = verified.expect_err("something is wrong");
                assert!(wrong.contains(part), "{wrong}");
            }
        }
    }

    #[test]
    fn what_is_whole_and_in_order_is_right() {
        check(|_| (), Ok(()));
    }

    #[test]
    fn a_lost_record_is_noticed() {
        check(|topics| drop(topics[1].pop()), Err("found"));
    }

    #[test]
    fn an_altered_record_is_noticed() {
        check(|topics| topics[2][1][19] ^= 1, Err("altered"));
    }

    #[test]
    fn a_record_that_comes_too_early_is_noticed() {
        check(|topics| topics[0].swap(0, 1), Err("out of order"));
    }

    #[test]
    fn a_record_that_comes_twice_is_noticed() {
        check(|topics| topics[0].insert(1, topics[0][0].clone()), Err("out of order"));
    }

    #[test]
    fn a_record_of_another_topic_is_noticed() {
        let from_another = |topics: &mut [Vec<Vec<u8>>; TOPICS]| {
            let record = topics[1].remove(0);
            topics[2].insert(0, record);
        };
        check(from_another, Err("does not belong there"));
    }

    #[test]
    fn a_reader_looks_at_every_byte() {
        let payload = payloads(20, 0, 7..8).remove(0);
        assert!(is_payload(&payload, 7) && !is_payload(&payload, 8));
        for i in 0..payload.len() {
            let mut altered = payload.clone();
            altered[i] ^= 1;
            assert!(!is_payload(&altered, 7), "byte {i}");
        }
    }
}
