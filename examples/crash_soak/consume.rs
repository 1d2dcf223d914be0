//! The consumers: every way to end a delivery.

use std::thread;
use std::time::Duration;

use ackline::{Delivery, Error, Group};

use crate::child::Crew;
use crate::event::Event;
use crate::layout::{GROUPS, ORDERS, READERS, RELAY, RELAYED, SINK, WORKERS};
use crate::payload;
use crate::random::Random;

const POLL: Duration = Duration::from_millis(10);
/// Longer than the leases that are short.
const TOO_LONG: Duration = Duration::from_millis(25);

struct Consumer<'a> {
    crew: &'a Crew,
    number: usize,
    group: &'a Group,
    random: Random,
}

/// Consumes until the process is killed or the log is closed.
pub(crate) fn run(crew: &Crew, number: usize, thread: usize) {
    let seed = crew.seed ^ (u64::from(crew.plan.run) << 16) ^ ((number * 16 + thread) as u64);
    let (group, random) = (&crew.groups[number], Random::new(!seed));
    let mut consumer = Consumer { crew, number, group, random };
    while !crew.stopped() {
        let max = 1 + consumer.random.below(20);
        let deliveries = consumer.poll(usize::try_from(max).expect("it is small"));
        match number {
            _ if deliveries.is_empty() => {}
            WORKERS if !crew.plan.drain => consumer.work(deliveries),
            RELAY => consumer.relay(deliveries),
            READERS => consumer.commit_through(&deliveries),
            SINK if consumer.random.one_in(12) => consumer.be_late(deliveries),
            _ => consumer.ack_all(deliveries),
        }
        if consumer.random.one_in(8) {
            consumer.commit();
        }
    }
}

impl Consumer<'_> {
    fn tell(&self, event: Event) {
        self.crew.told.tell(event);
    }

    fn poll(&mut self, max: usize) -> Vec<Delivery> {
        let deliveries = match self.group.poll(max, POLL) {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.crew.refused("poll", &error);
                return Vec::new();
            }
        };
        let told = &self.crew.told;
        told.tell_all(deliveries.iter().map(|delivery| Event::Delivered {
            group: self.number,
            offset: delivery.offset().0,
            attempt: delivery.attempt(),
            found: told.identify(self.crew.seed, delivery),
        }));
        deliveries
    }

    fn ack(&self, delivery: Delivery) {
        let offset = delivery.offset().0;
        match delivery.ack() {
            Ok(()) => self.tell(Event::Acked { group: self.number, offset }),
            Err(error) => self.crew.refused("ack", &error),
        }
    }

    fn ack_all(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.ack(delivery);
        }
    }

    /// Ends each delivery in one way or another. Some messages are never acknowledged, so that
    /// they run out of attempts.
    fn work(&mut self, deliveries: Vec<Delivery>) {
        let group = self.number;
        let mut kept = Vec::new();
        for delivery in deliveries {
            let offset = delivery.offset().0;
            let is_poison = offset % 97 == 13;
            let outcome = if is_poison { self.random.below(12) } else { self.random.below(100) };
            let give = |counted| self.tell(Event::GivingBack { group, offset, counted });
            let ended = match outcome {
                0..4 => {
                    give(true);
                    let delay = self.random.up_to_ms(8);
                    delivery.retry_after(delay)
                }
                4..8 => {
                    give(true);
                    delivery.retry()
                }
                8..12 => {
                    give(true);
                    drop(delivery);
                    Ok(())
                }
                12..15 => {
                    give(false);
                    delivery.release()
                }
                15 => {
                    // If the letter finds no room, the message is given back.
                    give(true);
                    let rejected = delivery.reject(payload::REASON);
                    if rejected.is_ok() {
                        self.tell(Event::Rejected { group, offset });
                    }
                    rejected
                }
                16..20 => {
                    kept.push(delivery);
                    Ok(())
                }
                _ => {
                    self.ack(delivery);
                    Ok(())
                }
            };
            if let Err(error) = ended {
                self.crew.refused("end a delivery", &error);
            }
        }
        if !kept.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        for delivery in kept {
            // By its offset, which does not end the delivery; that knows nothing of it then.
            let offset = delivery.offset();
            match self.group.ack(offset) {
                Ok(()) => self.tell(Event::Acked { group, offset: offset.0 }),
                Err(error) => self.crew.refused("ack by offset", &error),
            }
        }
    }

    /// Hands messages on to another topic, a few in one batch with their acknowledgements.
    fn relay(&mut self, mut deliveries: Vec<Delivery>) {
        while !deliveries.is_empty() {
            let few = 1 + usize::try_from(self.random.below(6)).expect("it is small");
            let rest = deliveries.split_off(few.min(deliveries.len()));
            self.relay_together(std::mem::replace(&mut deliveries, rest));
        }
    }

    fn relay_together(&self, deliveries: Vec<Delivery>) {
        let group = self.number;
        let sources: Vec<u64> = deliveries.iter().map(|delivery| delivery.offset().0).collect();
        // If it is refused, the batch gives the messages back.
        let giving = sources.iter().map(|source| Event::GivingBack {
            group,
            offset: *source,
            counted: true,
        });
        self.crew.told.tell_all(giving);
        let mut batch = self.crew.log.batch();
        for delivery in deliveries {
            let ident = self.crew.ident(payload::RELAY, delivery.offset().0);
            let record = payload::record(self.crew.seed, &ident);
            batch = batch.append(&self.crew.topics[RELAYED], record).ack(delivery);
        }
        match batch.commit() {
            Ok(receipts) => {
                let relayed = receipts.iter().zip(sources);
                self.crew.told.tell_all(relayed.map(|(receipt, source)| {
                    let ident = self.crew.ident(payload::RELAY, source);
                    Event::Relayed { source, offset: receipt.offset.0, ident }
                }));
            }
            Err(error) => self.crew.refused("relay", &error),
        }
    }

    /// Commits cumulatively, now and then: what is dropped before is delivered again.
    fn commit_through(&mut self, deliveries: &[Delivery]) {
        let (group, last) = (self.number, deliveries.iter().map(|d| d.offset()).max());
        let Some(last) = last else { return };
        let end_leases = || {
            let give = |delivery: &Delivery| {
                let offset = delivery.offset().0;
                Event::GivingBack { group, offset, counted: true }
            };
            self.crew.told.tell_all(deliveries.iter().map(give));
        };
        if self.random.one_in(10) {
            end_leases();
            return;
        }
        match self.group.commit_through(last) {
            Ok(()) => self.tell(Event::CommittedThrough { group, offset: last.0 }),
            Err(error) => {
                end_leases();
                self.crew.refused("commit_through", &error);
            }
        }
    }

    /// Holds deliveries for longer than their lease, lets them be delivered again, and
    /// acknowledges the old ones, which must be refused, and the new ones.
    fn be_late(&mut self, old: Vec<Delivery>) {
        thread::sleep(TOO_LONG);
        let new = if self.random.one_in(2) { self.poll(20) } else { Vec::new() };
        let again: Vec<_> = new.iter().map(|delivery| delivery.offset()).collect();
        for delivery in old {
            let offset = delivery.offset();
            let is_stale = again.contains(&offset);
            match delivery.ack() {
                Ok(()) if !is_stale => {
                    self.tell(Event::Acked { group: self.number, offset: offset.0 });
                }
                // Out of attempts, and so dead-lettered by the poll.
                Err(Error::AlreadyAcked { .. }) if !is_stale => {}
                // A poll that was itself slower than the lease has handed nothing out.
                Err(Error::StaleLease { .. }) => {}
                Err(error) => self.crew.refused("ack late", &error),
                Ok(()) => self.crew.told.fail("ack late", &"a stale lease was good enough"),
            }
        }
        self.ack_all(new);
    }

    fn commit(&self) {
        let (group, id) = (self.number, self.crew.next_id());
        self.tell(Event::Committing { group, id });
        match self.group.commit() {
            Ok(()) => self.tell(Event::Committed { group, id }),
            Err(error) => self.crew.refused("commit", &error),
        }
    }
}

/// Where the relay takes from.
const _: () = assert!(GROUPS[RELAY].topic == ORDERS, "the model knows the source by this");
