//! A node: one process with one directory, which is killed now and then. It does what its
//! supervisor says: leads an epoch, or tells what it holds. While it leads, its producers append
//! and its consumer works, as an application with the queue in it would.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ackline::replicate::{Quorum, QuorumOptions};
use ackline::{Epoch, Error, Group, GroupOptions, Log, Offset, Options, Retention, Topic};

use crate::Failure;
use crate::tcp::Network;
use crate::told::{Event, Ident, clock, tell};

const PRODUCERS: u64 = 4;
const TOPIC: &str = "orders";
const GROUP: &str = "work";
/// A message that a dead leader's consumer held is delivered again after this time.
const LEASE: Duration = Duration::from_millis(500);
/// How long a producer pauses when there are too few replicas.
const PAUSE: Duration = Duration::from_millis(1);
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the command line says of a node.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) number: u8,
    pub(crate) copies: usize,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Runs until it is killed, or its supervisor is gone.
pub(crate) fn run(directory: &Path, orders: &Orders) -> Result<(), Failure> {
    let network = Network::new(orders.number, &orders.addresses);
    let quorum = Quorum::new(&QuorumOptions::new(orders.copies), network.links())?;
    // All is kept, so that the nodes can be compared at the end.
    let options = Options::new().retention(Retention::keep_consumed());
    let log = options.replicator(Arc::new(quorum.clone())).open(directory)?;
    network.start(&quorum)?;
    tell(&Event::Ready);

    let finishing = Arc::new(AtomicBool::new(false));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (order, number) = line.split_once(' ').ok_or("an order without a number")?;
        let number: u64 = number.parse()?;
        match order {
            "lead" => {
                let leader = Leader {
                    epoch: number,
                    log: log.clone(),
                    quorum: quorum.clone(),
                    finishing: Arc::clone(&finishing),
                };
                thread::spawn(move || leader.run());
            }
            "in_sync" => {
                let in_sync = quorum.peers().iter().filter(|peer| peer.in_sync).count();
                tell(&Event::InSync(1 + in_sync as u64));
            }
            "finish" => finishing.store(true, Ordering::Relaxed),
            "show" => show(&log, number)?,
            "ends" => {
                let stats = log.stats();
                tell(&Event::Ends { written: stats.written.0, visible: stats.visible.0 });
            }
            _ => return Err(format!("the order {line:?}").into()),
        }
    }
    Ok(())
}

/// Tells all that the topic holds, once it is visible up to an offset.
fn show(log: &Log, end: u64) -> Result<(), Failure> {
    let topic = log.topic(TOPIC)?;
    topic.wait_visible(Offset(end.saturating_sub(1)), Duration::from_secs(10))?;
    for message in topic.read_from(Offset(0))? {
        let message = message?;
        tell(&Event::Holds { offset: message.offset().0, ident: Ident::of(&message)? });
    }
    tell(&Event::Held);
    Ok(())
}

/// A node's time as the leader of one epoch.
#[derive(Debug)]
struct Leader {
    epoch: u64,
    log: Log,
    quorum: Quorum,
    finishing: Arc<AtomicBool>,
}

impl Leader {
    fn run(&self) {
        let epoch = self.epoch;
        if let Err(error) = self.quorum.promote(Epoch(epoch), PROMOTE_TIMEOUT) {
            tell(&Event::Refused(epoch, error.to_string()));
            return;
        }
        tell(&Event::Leads(epoch));
        match self.work() {
            // Another node leads by now.
            Ok(()) | Err(Error::Fenced { .. }) => {}
            Err(error) => tell(&Event::Failed(error.to_string())),
        }
    }

    fn work(&self) -> Result<(), Error> {
        let topic = persist(|| self.log.topic(TOPIC))?;
        let options = GroupOptions::new().lease(LEASE);
        let group = persist(|| topic.group_with(GROUP, options.clone()))?;
        thread::scope(|scope| {
            let consumer = scope.spawn(|| self.consume(&group));
            let topic = &topic;
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|number| scope.spawn(move || self.produce(topic, number)))
                .collect();
            for producer in producers {
                producer.join().expect("no producer panics")?;
            }
            consumer.join().expect("no consumer panics")
        })?;
        tell(&Event::Finished { end: topic.offsets().end.0 });
        Ok(())
    }

    fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Relaxed)
    }

    fn produce(&self, topic: &Topic, producer: u64) -> Result<(), Error> {
        let mut ident = Ident { epoch: self.epoch, producer, number: 0 };
        while !self.is_finishing() {
            let began = clock();
            match topic.append(ident.payload()) {
                Ok(receipt) => {
                    let offset = receipt.offset.0;
                    tell(&Event::Acked { offset, ident, began, ended: clock() });
                }
                // Nothing was written: the same record is tried again.
                Err(Error::ReplicasUnavailable { .. }) => {
                    thread::sleep(PAUSE);
                    continue;
                }
                // It may come or not: whoever tried it again might have it twice.
                Err(Error::ReplicaTimeout { .. }) => tell(&Event::Unsure(ident)),
                Err(error @ Error::Fenced { .. }) => {
                    tell(&Event::Unsure(ident));
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            ident.number += 1;
        }
        Ok(())
    }

    /// Works until everything is consumed and nobody appends any more.
    fn consume(&self, group: &Group) -> Result<(), Error> {
        let mut acked = Vec::new();
        loop {
            let polled = match group.poll(100, Duration::from_millis(20)) {
                // The lease is not replicated in time; the messages come later.
                Err(Error::ReplicaTimeout { .. } | Error::ReplicasUnavailable { .. }) => continue,
                polled => polled?,
            };
            let (is_last, is_empty) = (self.is_finishing(), polled.is_empty());
            for delivery in polled {
                match Ident::of(delivery.message()) {
                    Ok(ident) => tell(&Event::Got {
                        offset: delivery.offset().0,
                        ident,
                        attempt: u64::from(delivery.attempt()),
                    }),
                    Err(error) => tell(&Event::Failed(error.to_string())),
                }
                let offset = delivery.offset().0;
                match delivery.ack() {
                    Ok(()) => acked.push(offset),
                    // It took too long, and is delivered again.
                    Err(Error::StaleLease { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            match group.commit() {
                Ok(()) => acked.drain(..).for_each(|offset| tell(&Event::Done { offset })),
                Err(Error::ReplicaTimeout { .. } | Error::ReplicasUnavailable { .. }) => {}
                Err(error) => return Err(error),
            }
            if is_empty && is_last && group.lag()?.messages == 0 {
                return Ok(());
            }
        }
    }
}

/// Tries until there are enough replicas.
fn persist<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match call() {
            Err(Error::ReplicasUnavailable { .. } | Error::ReplicaTimeout { .. }) => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}
