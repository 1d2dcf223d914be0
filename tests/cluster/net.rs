//! A network that carries messages as bytes, or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ackline::replicate::{Link, Message};
use ackline::simulation::Rng;

/// How long a message can be under way, through several changes of the leader.
const STRAGGLER_MAX: Duration = Duration::from_secs(3);

/// Messages that nodes have sent and the network has not taken yet.
type Outbox = Arc<Mutex<Vec<(usize, usize, Message)>>>;

/// The way from one node to another.
#[derive(Debug)]
struct SimLink {
    from: usize,
    to: usize,
    outbox: Outbox,
}

impl Link for SimLink {
    fn send(&self, message: Message) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push((self.from, self.to, message));
    }
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

/// How the network of a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) delay_max: Duration,
    /// One in so many messages is lost, or doubled; 0 is none.
    pub(crate) loss: u64,
    pub(crate) doubling: u64,
    /// One in so many messages comes long after the others; 0 is none.
    pub(crate) straggling: u64,
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NetCounts {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) cut: u64,
    pub(crate) stragglers: u64,
}

#[derive(Debug)]
pub(crate) struct Net {
    outbox: Outbox,
    /// By the time at which they arrive, and a number.
    under_way: BTreeMap<(Duration, u64), Envelope>,
    number: u64,
    pub(crate) weather: Weather,
    /// Pairs between which nothing passes, in this direction.
    cut: BTreeSet<(usize, usize)>,
    /// Directions in which everything is kept for later, and what was.
    held: BTreeSet<(usize, usize)>,
    kept: Vec<Envelope>,
    pub(crate) counts: NetCounts,
    /// The latest arrival of each direction.
    latest: BTreeMap<(usize, usize), Duration>,
}

impl Net {
    pub(crate) fn new(weather: Weather) -> Self {
        Self {
            outbox: Outbox::default(),
            under_way: BTreeMap::new(),
            number: 0,
            weather,
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            kept: Vec::new(),
            counts: NetCounts::default(),
            latest: BTreeMap::new(),
        }
    }

    /// The links of one of several nodes, to each of the others in order.
    pub(crate) fn links(&self, from: usize, nodes: usize) -> Vec<Arc<dyn Link>> {
        let others = (0..nodes).filter(|to| *to != from);
        let link = |to| Arc::new(SimLink { from, to, outbox: Arc::clone(&self.outbox) }) as _;
        others.map(link).collect()
    }

    /// Takes what nodes have sent, and decides what becomes of it.
    pub(crate) fn collect(&mut self, now: Duration, rng: &mut Rng) {
        let sent = std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        for (from, to, message) in sent {
            let bytes = message.encode();
            if self.held.contains(&(from, to)) {
                self.kept.push(Envelope { from, to, bytes });
                continue;
            }
            if self.cut.contains(&(from, to)) {
                self.counts.cut += 1;
                continue;
            }
            if self.weather.loss > 0 && rng.chance(1, self.weather.loss) {
                self.counts.lost += 1;
                continue;
            }
            let doubled = self.weather.doubling > 0 && rng.chance(1, self.weather.doubling);
            self.counts.doubled += u64::from(doubled);
            for _ in 0..=u64::from(doubled) {
                let mut delay = rng.below(micros(self.weather.delay_max).max(1));
                if self.weather.straggling > 0 && rng.chance(1, self.weather.straggling) {
                    delay += rng.below(micros(STRAGGLER_MAX));
                    self.counts.stragglers += 1;
                }
                let at = now + Duration::from_micros(delay);
                let latest = self.latest.entry((from, to)).or_default();
                self.counts.reordered += u64::from(at < *latest);
                *latest = at.max(*latest);
                self.number += 1;
                let envelope = Envelope { from, to, bytes: bytes.clone() };
                self.under_way.insert((at, self.number), envelope);
            }
        }
    }

    /// The next message that has arrived by `now`.
    pub(crate) fn arrived(&mut self, now: Duration) -> Option<Envelope> {
        loop {
            let first = self.under_way.first_entry()?;
            if first.key().0 > now {
                return None;
            }
            let envelope = first.remove();
            // A network that falls apart keeps what was under way, too.
            if self.cut.contains(&(envelope.from, envelope.to)) {
                self.counts.cut += 1;
                continue;
            }
            self.counts.delivered += 1;
            return Some(envelope);
        }
    }

    /// When the next message arrives.
    pub(crate) fn next_arrival(&self) -> Option<Duration> {
        self.under_way.first_key_value().map(|(key, _)| key.0)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn heal_one_way(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
    }

    /// Nothing passes to or from a node.
    pub(crate) fn isolate(&mut self, node: usize, nodes: usize) {
        self.separate(&[node], nodes);
    }

    /// Nothing passes between some nodes and all others.
    pub(crate) fn separate(&mut self, some: &[usize], nodes: usize) {
        for inside in some {
            for outside in (0..nodes).filter(|outside| !some.contains(outside)) {
                self.cut(*inside, outside);
                self.cut(outside, *inside);
            }
        }
    }

    /// Keeps what is sent from one node to another for later.
    pub(crate) fn hold(&mut self, from: usize, to: usize) {
        self.held.insert((from, to));
    }

    /// Keeps nothing more, but what it has.
    pub(crate) fn stop_holding(&mut self) {
        self.held.clear();
    }

    /// Lets everything arrive that was kept.
    pub(crate) fn release(&mut self) {
        self.held.clear();
        for envelope in std::mem::take(&mut self.kept) {
            self.number += 1;
            self.under_way.insert((Duration::ZERO, self.number), envelope);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
