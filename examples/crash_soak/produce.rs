//! The producers: every way to append.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ackline::{Error, Record};

use crate::child::Crew;
use crate::event::{Event, offsets};
use crate::layout::{EVENTS, ORDERS};
use crate::payload::{self, Ident};
use crate::random::Random;

pub(crate) const PRODUCERS: u8 = 4;

struct Producer<'a> {
    crew: &'a Crew,
    id: u8,
    /// The number of the next record.
    next: u64,
    random: Random,
}

/// Appends until the process is killed or the log is closed.
pub(crate) fn run(crew: &Crew, id: u8) {
    let seed = crew.seed ^ (u64::from(crew.plan.run) << 8) ^ u64::from(id);
    let mut producer = Producer { crew, id, next: 0, random: Random::new(seed) };
    while !crew.stopped() {
        if crew.paused.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        match producer.random.below(20) {
            0..8 => producer.append(),
            8 => producer.append_if(),
            9..13 => producer.submit(),
            13 => producer.submit_with_callback(),
            14..17 => producer.append_batch(),
            _ => producer.commit_batch(),
        }
    }
}

impl Producer<'_> {
    fn topic(&mut self) -> usize {
        if self.random.one_in(3) { EVENTS } else { ORDERS }
    }

    /// The next `count` records, announced. Those of one batch say so.
    fn make(&mut self, count: u64, batch: bool) -> Vec<(Ident, Record<'static>)> {
        let first = self.next;
        self.next += count;
        self.crew.told.tell(Event::Appending { producer: self.id, first, count });
        let of = u8::try_from(count).expect("batches are small");
        let numbers = (first..).zip(0..of);
        let idents = numbers.map(|(number, index)| {
            let single = self.crew.ident(self.id, number);
            if batch { Ident { index, of, ..single } } else { single }
        });
        idents.map(|ident| (ident, payload::record(self.crew.seed, &ident))).collect()
    }

    fn refuse(&self, first: u64, count: u64, what: &str, error: &Error) {
        let conflict = matches!(error, Error::Conflict { .. });
        if conflict || matches!(error, Error::Full { .. } | Error::Closed) {
            let producer = self.id;
            self.crew.told.tell(Event::Refused { producer, first, count });
        }
        if !conflict {
            self.crew.refused(what, error);
        }
    }

    fn append(&mut self) {
        let topic = self.topic();
        let (ident, record) = self.make(1, false).remove(0);
        match self.crew.topics[topic].append(record) {
            Ok(receipt) => {
                let offset = receipt.offset.0;
                self.crew.told.tell(Event::Appended { topic, offset, ident });
            }
            Err(error) => self.refuse(ident.number, 1, "append", &error),
        }
    }

    fn append_if(&mut self) {
        let topic = self.topic();
        let (ident, record) = self.make(1, false).remove(0);
        let expected = self.crew.topics[topic].offsets().end;
        match self.crew.topics[topic].append_if(expected, record) {
            Ok(receipt) if receipt.offset != expected => {
                self.crew.told.fail("append_if", &format!("{} for {expected}", receipt.offset));
            }
            Ok(receipt) => {
                let offset = receipt.offset.0;
                self.crew.told.tell(Event::Appended { topic, offset, ident });
            }
            Err(error) => self.refuse(ident.number, 1, "append_if", &error),
        }
    }

    fn submit(&mut self) {
        let topic = self.topic();
        // One that is refused in the middle is told only after the next one is on its way.
        let several = self.crew.plan.max_kib == 0;
        let count = if several { 1 + self.random.below(8) } else { 1 };
        let made = self.make(count, false);
        let submit = |(ident, record)| (ident, self.crew.topics[topic].submit(record));
        let pending: Vec<_> = made.into_iter().map(submit).collect();
        for (ident, pending) in pending {
            match pending.wait() {
                Ok(receipt) => {
                    let offset = receipt.offset.0;
                    self.crew.told.tell(Event::Appended { topic, offset, ident });
                }
                Err(error) => self.refuse(ident.number, 1, "submit", &error),
            }
        }
    }

    fn submit_with_callback(&mut self) {
        let topic = self.topic();
        let (ident, record) = self.make(1, false).remove(0);
        let (sender, receiver) = std::sync::mpsc::channel();
        self.crew.topics[topic].submit(record).on_complete(move |result| {
            // The producer waits for it.
            sender.send(result).expect("the receiver is there");
        });
        match receiver.recv() {
            Ok(Ok(receipt)) => {
                let offset = receipt.offset.0;
                self.crew.told.tell(Event::Appended { topic, offset, ident });
            }
            Ok(Err(error)) => self.refuse(ident.number, 1, "submit", &error),
            Err(lost) => self.crew.told.fail("a callback was dropped", &lost),
        }
    }

    fn append_batch(&mut self) {
        let topic = self.topic();
        let count = 2 + self.random.below(6);
        let (idents, records): (Vec<_>, Vec<_>) = self.make(count, true).into_iter().unzip();
        match self.crew.topics[topic].append_batch(records) {
            Ok(receipt) => {
                let appended = idents.into_iter().zip(offsets(&receipt.offsets));
                let event = |(ident, offset)| Event::Appended { topic, offset, ident };
                self.crew.told.tell_all(appended.map(event));
            }
            Err(error) => self.refuse(idents[0].number, count, "append_batch", &error),
        }
    }

    fn commit_batch(&mut self) {
        let count = 2 + self.random.below(4);
        let made = self.make(count, true);
        let topics: Vec<usize> = made.iter().map(|_| self.topic()).collect();
        let first = made[0].0.number;
        let idents: Vec<Ident> = made.iter().map(|(ident, _)| *ident).collect();
        let mut batch = self.crew.log.batch();
        for ((_, record), topic) in made.into_iter().zip(&topics) {
            batch = batch.append(&self.crew.topics[*topic], record);
        }
        match batch.commit() {
            Ok(receipts) => {
                let appended = receipts.iter().zip(idents).zip(topics);
                self.crew.told.tell_all(appended.map(|((receipt, ident), topic)| {
                    Event::Appended { topic, offset: receipt.offset.0, ident }
                }));
            }
            Err(error) => self.refuse(first, count, "commit_batch", &error),
        }
    }
}
