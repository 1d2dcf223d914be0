//! A replicator as somebody may write one for a network of function calls: for each replica a
//! thread reads what it lacks from the leader and hands it over. It conforms; each [`Flaw`] is a
//! mistake that could be made in it.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use ackline::replicate::conformance::{Cluster, Outcome, Seat, Shape};
use ackline::replicate::{Frames, LogEnd, LogHandle, ReplicaStatus, Replicator};
use ackline::{Epoch, Error, Log, Options, Position, Result};

const CHUNK: usize = 4 << 10;
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// What is offered counts as replicated.
    AcksAtOffer,
    /// What a replica has taken in counts, synced or not.
    AcksUnsynced,
    /// Two reads are handed over in the wrong order; what does not fit is taken for done.
    Reorders,
    /// After a cut it goes on with what is written then.
    DropsAfterReconnect,
    /// A replica's word counts although it has promised a newer epoch.
    IgnoresEpoch,
    /// What replicas have said to this node counts in its next epoch, too.
    CountsStaleAcks,
    /// A replica that lacks what others hold is made the leader.
    PromotesLagging,
    /// It leads without the promises of others.
    LeadsWithoutPromises,
    /// What a replica holds is not compared with what the leader holds.
    NeverReconciles,
    /// Replicas show what they hold, replicated or not.
    ShowsAtOnce,
    /// A replica that is too far behind gets no snapshot.
    NeverSendsSnapshots,
    /// The leader stops feeding a replica that was restarted.
    ForgetsTheRestarted,
}

/// The network: who is there, and who can be reached from where.
#[derive(Debug)]
struct Net {
    shape: Shape,
    flaw: Flaw,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    nodes: Vec<Option<LogHandle>>,
    /// Counts the starts of each.
    lives: Vec<u64>,
    cut: Vec<(usize, usize)>,
}

impl Net {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }

    fn reach(&self, from: usize, to: usize) -> Option<(LogHandle, u64)> {
        let state = self.state();
        let is_cut = state.cut.contains(&(from.min(to), from.max(to)));
        state.nodes[to].clone().filter(|_| !is_cut).map(|log| (log, state.lives[to]))
    }
}

/// How a replica stands to this node's epoch.
#[derive(Clone, Copy, Debug)]
struct Matched {
    epoch: Epoch,
    life: u64,
    end: Position,
}

/// One node's replicator.
#[derive(Debug)]
struct Pulling {
    net: Arc<Net>,
    node: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    log: Option<LogHandle>,
    leading: Option<Epoch>,
    synced: Position,
    matched: Vec<Option<Matched>>,
    /// How far each has ever said that it goes, in whatever epoch.
    furthest: Vec<Position>,
    /// Whether the replica could be reached at the last attempt.
    was_there: Vec<bool>,
}

impl Pulling {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panicked")
    }

    fn flaw(&self, flaw: Flaw) -> bool {
        self.net.flaw == flaw
    }

    /// Tells the log how far there are enough copies.
    fn count(&self) {
        let inner = self.inner();
        let (Some(log), Some(epoch)) = (inner.log.clone(), inner.leading) else { return };
        let counts = |matched: &&Matched| matched.epoch == epoch;
        let others = inner.matched.iter().flatten().filter(counts).map(|matched| matched.end);
        let mut ends: Vec<_> = others.chain([inner.synced]).collect();
        if self.flaw(Flaw::CountsStaleAcks) {
            ends.splice(.., inner.furthest.iter().copied().chain([inner.synced]));
        }
        drop(inner);
        ends.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(end) = ends.get(self.net.shape.copies - 1) {
            drop(log.advance(epoch, *end));
        }
    }

    /// Feeds one replica; an error ends the attempt.
    fn feed(&self, to: usize) -> Result<()> {
        let (log, epoch) = {
            let inner = self.inner();
            let (Some(log), Some(epoch)) = (inner.log.clone(), inner.leading) else {
                return Ok(());
            };
            (log, epoch)
        };
        let Some((replica, life)) = self.net.reach(self.node, to) else {
            self.inner().was_there[to] = false;
            return Ok(());
        };
        let came_back = !std::mem::replace(&mut self.inner().was_there[to], true);
        let known = self.inner().matched[to].filter(|matched| matched.epoch == epoch);
        let mut from = match known {
            // Unless what comes next is not kept any more.
            Some(matched) if matched.life == life && matched.end >= log.history()?.start => {
                matched.end
            }
            Some(matched) if self.flaw(Flaw::ForgetsTheRestarted) && life > matched.life => {
                return Ok(());
            }
            _ => self.reconcile(&log, &replica, epoch)?,
        };
        if came_back && known.is_some() && self.flaw(Flaw::DropsAfterReconnect) {
            from = log.written()?;
        }
        self.matched(to, Matched { epoch, life, end: from });
        while let Some(frames) = log.read(from, CHUNK)? {
            let next = log.read(frames.end(), CHUNK)?;
            if self.net.reach(self.node, to).is_none_or(|(_, now)| now != life) {
                return Ok(());
            }
            let end = match next {
                Some(next) if self.flaw(Flaw::Reorders) => {
                    drop(replica.ingest(epoch, &next).wait());
                    drop(replica.ingest(epoch, &frames).wait());
                    next.end()
                }
                _ => self.hand_over(&replica, epoch, &frames)?,
            };
            // What it said while the link was cut has not arrived.
            if self.net.reach(self.node, to).is_none() {
                return Ok(());
            }
            self.matched(to, Matched { epoch, life, end });
            self.count();
            from = end;
        }
        self.show(&log, &replica, epoch)
    }

    fn show(&self, log: &LogHandle, replica: &LogHandle, epoch: Epoch) -> Result<()> {
        let shown = if self.flaw(Flaw::ShowsAtOnce) { replica.written()? } else { log.visible()? };
        replica.advance(epoch, shown)
    }

    fn hand_over(&self, replica: &LogHandle, epoch: Epoch, frames: &Frames) -> Result<Position> {
        let pending = replica.ingest(epoch, frames);
        if self.flaw(Flaw::AcksUnsynced) {
            pending.detach();
            return Ok(frames.end());
        }
        match pending.wait() {
            Err(Error::Fenced { .. }) if self.flaw(Flaw::IgnoresEpoch) => Ok(frames.end()),
            Err(Error::Fenced { epoch }) => self.give_up(epoch).and(Err(Error::Fenced { epoch })),
            Err(error) => Err(error),
            Ok(_) => Ok(frames.end()),
        }
    }

    fn give_up(&self, newer: Epoch) -> Result<()> {
        let log = self.inner().log.clone();
        self.inner().leading = None;
        log.map_or(Ok(()), |log| log.follow(newer))
    }

    fn matched(&self, to: usize, now: Matched) {
        let mut inner = self.inner();
        inner.furthest[to] = inner.furthest[to].max(now.end);
        inner.matched[to] = Some(now);
    }

    /// Makes a replica's log a beginning of this one, and says how far it goes.
    fn reconcile(&self, log: &LogHandle, replica: &LogHandle, epoch: Epoch) -> Result<Position> {
        if let Err(Error::Fenced { epoch: newer }) = replica.follow(epoch)
            && !self.flaw(Flaw::IgnoresEpoch)
        {
            return self.give_up(newer).and(Err(Error::Fenced { epoch: newer }));
        }
        let (ours, theirs) = (log.history()?, replica.history()?);
        let common = theirs.common_end(&ours).filter(|end| *end >= ours.start);
        match common.filter(|_| ours.log_id == theirs.log_id) {
            Some(_) if self.flaw(Flaw::NeverReconciles) => Ok(theirs.end.min(ours.end)),
            Some(common) if common < theirs.end => {
                replica.truncate(epoch, common)?;
                Ok(common)
            }
            Some(common) => Ok(common),
            None if self.flaw(Flaw::NeverSendsSnapshots) && ours.log_id == theirs.log_id => {
                Ok(theirs.end)
            }
            None => {
                let snapshot = log.snapshot()?;
                replica.reset(epoch, &snapshot)?;
                Ok(snapshot.position())
            }
        }
    }

    fn promote(&self, epoch: Epoch) -> Result<()> {
        let log = self.inner().log.clone().ok_or(Error::Closed)?;
        self.inner().leading = None;
        let others = (0..self.net.shape.nodes).filter(|node| *node != self.node);
        let mut ends = vec![LogEnd::default()];
        log.follow(epoch)?;
        for (other, _) in others.filter_map(|other| self.net.reach(self.node, other)) {
            if other.follow(epoch).is_ok() {
                ends.push(other.history()?.log_end());
            }
        }
        let needed = self.net.shape.nodes - self.net.shape.copies + 1;
        if ends.len() < needed && !self.flaw(Flaw::LeadsWithoutPromises) {
            return Err(Error::ReplicasUnavailable { needed, available: ends.len() });
        }
        let furthest = ends.into_iter().max().filter(|_| !self.flaw(Flaw::PromotesLagging));
        // The first frames are synced before it is known that it leads.
        self.inner().synced = Position(0);
        log.lead(epoch, furthest.unwrap_or_default())?;
        let mut inner = self.inner();
        inner.synced = inner.synced.max(log.durable()?);
        inner.leading = Some(epoch);
        Ok(())
    }
}

impl Replicator for Pulling {
    fn attach(&self, log: LogHandle) -> Result<()> {
        self.inner().log = Some(log);
        Ok(())
    }

    fn offer(&self, frames: &Frames) {
        if self.flaw(Flaw::AcksAtOffer) {
            let mut inner = self.inner();
            let end = Matched { epoch: frames.epoch(), life: u64::MAX, end: frames.end() };
            inner.matched.iter_mut().for_each(|matched| *matched = Some(end));
        }
    }

    fn synced(&self, _: Epoch, end: Position) {
        self.inner().synced = end;
    }

    fn settle(&self) {
        self.count();
    }

    fn status(&self) -> ReplicaStatus {
        let leads = self.inner().leading.is_some();
        if leads { ReplicaStatus::Healthy { lag: 0 } } else { ReplicaStatus::Following }
    }

    fn detach(&self, _: Duration) {
        let mut inner = self.inner();
        (inner.log, inner.leading) = (None, None);
    }
}

/// The nodes and their threads.
pub(crate) struct PullingCluster {
    net: Arc<Net>,
    nodes: std::cell::RefCell<Vec<Option<Arc<Pulling>>>>,
    threads: std::cell::RefCell<Vec<JoinHandle<()>>>,
}

impl PullingCluster {
    pub(crate) fn new(shape: Shape, flaw: Flaw) -> Self {
        let (nodes, lives) = (vec![None; shape.nodes], vec![0; shape.nodes]);
        let state = Mutex::new(State { nodes, lives, cut: Vec::new() });
        let nodes = vec![None; shape.nodes].into();
        Self { net: Arc::new(Net { shape, flaw, state }), nodes, threads: Vec::new().into() }
    }

    fn feed_while_there(&self, pulling: &Arc<Pulling>, to: usize) {
        let pulling = Arc::downgrade(pulling);
        let feed = move || {
            while let Some(pulling) = Weak::upgrade(&pulling) {
                // It is tried again, whatever it was.
                drop(pulling.feed(to));
                drop(pulling);
                std::thread::sleep(PAUSE);
            }
        };
        self.threads.borrow_mut().push(std::thread::spawn(feed));
    }
}

impl Drop for PullingCluster {
    fn drop(&mut self) {
        self.nodes.borrow_mut().clear();
        for thread in self.threads.borrow_mut().drain(..) {
            thread.join().expect("a feeding thread does not panic");
        }
    }
}

impl Cluster for PullingCluster {
    fn start(&self, node: usize, options: Options, seats: &[Seat]) -> Result<Log> {
        let inner = Inner {
            matched: vec![None; self.net.shape.nodes],
            furthest: vec![Position(0); self.net.shape.nodes],
            was_there: vec![true; self.net.shape.nodes],
            ..Inner::default()
        };
        let inner = Mutex::new(inner);
        let pulling = Arc::new(Pulling { net: Arc::clone(&self.net), node, inner });
        let log = seats[node].open(options.replicator(pulling.clone()))?;
        let mut state = self.net.state();
        state.nodes[node].clone_from(&pulling.inner().log);
        state.lives[node] += 1;
        drop(state);
        (0..self.net.shape.nodes)
            .filter(|to| *to != node)
            .for_each(|to| self.feed_while_there(&pulling, to));
        self.nodes.borrow_mut()[node] = Some(pulling);
        Ok(log)
    }

    fn stopped(&self, node: usize) {
        self.net.state().nodes[node] = None;
        self.nodes.borrow_mut()[node] = None;
    }

    fn promote(&self, node: usize, epoch: Epoch) -> Outcome {
        let pulling = self.nodes.borrow()[node].clone().expect("it is started");
        Ok(pulling.promote(epoch)?)
    }

    fn cut(&self, a: usize, b: usize) -> Outcome {
        self.net.state().cut.push((a.min(b), a.max(b)));
        Ok(())
    }

    fn join(&self, a: usize, b: usize) -> Outcome {
        self.net.state().cut.retain(|cut| *cut != (a.min(b), a.max(b)));
        Ok(())
    }
}
