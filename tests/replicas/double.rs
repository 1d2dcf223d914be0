//! A replicator that does only what a test tells it to.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ackline::replicate::{Frames, LogEnd, LogHandle, ReplicaStatus, Replicator};
use ackline::{Delivery, Epoch, Error, Group, Log, Options, Position, Result};

use crate::common::Machine;

#[derive(Debug)]
struct Inner {
    handle: Option<LogHandle>,
    offered: Vec<Frames>,
    synced: Vec<(Epoch, Position)>,
    status: ReplicaStatus,
    needed_from: Option<Position>,
    detached: bool,
    /// That all is replicated is said, in this epoch, when the log waits for it at its end.
    answers_late: Option<Epoch>,
    /// After the next commit another one leads this epoch.
    fences: Option<Epoch>,
}

/// Remembers what it was handed.
#[derive(Clone, Debug)]
pub(crate) struct Double(Arc<Mutex<Inner>>);

impl Double {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            handle: None,
            offered: Vec::new(),
            synced: Vec::new(),
            status: ReplicaStatus::Healthy { lag: 0 },
            needed_from: None,
            detached: false,
            answers_late: None,
            fences: None,
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handle(&self) -> LogHandle {
        self.inner().handle.clone().expect("it is attached")
    }

    pub(crate) fn offered(&self) -> Vec<Frames> {
        self.inner().offered.clone()
    }

    pub(crate) fn synced(&self) -> Vec<(Epoch, Position)> {
        self.inner().synced.clone()
    }

    pub(crate) fn set_status(&self, status: ReplicaStatus) {
        self.inner().status = status;
    }

    pub(crate) fn set_needed_from(&self, from: Option<Position>) {
        self.inner().needed_from = from;
    }

    pub(crate) fn fence_at_settle(&self, epoch: Epoch) {
        self.inner().fences = Some(epoch);
    }

    pub(crate) fn answer_when_detached(&self, epoch: Epoch) {
        self.inner().answers_late = Some(epoch);
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.inner().detached
    }
}

impl Replicator for Double {
    fn attach(&self, log: LogHandle) -> Result<()> {
        self.inner().handle = Some(log);
        Ok(())
    }

    fn offer(&self, frames: &Frames) {
        self.inner().offered.push(frames.clone());
    }

    fn synced(&self, epoch: Epoch, end: Position) {
        self.inner().synced.push((epoch, end));
    }

    fn settle(&self) {
        // As another thread would, a moment later.
        let fences = self.inner().fences.take();
        if let Some(epoch) = fences {
            self.handle().follow(epoch).expect("it is newer");
        }
    }

    fn needed_from(&self) -> Option<Position> {
        self.inner().needed_from
    }

    fn status(&self) -> ReplicaStatus {
        self.inner().status
    }

    fn detach(&self, _within: Duration) {
        let handle = self.handle();
        let late = self.inner().answers_late;
        if let Some(epoch) = late {
            let end = handle.written().expect("it can be asked still");
            handle.advance(epoch, end).expect("it is believed still");
            assert!(matches!(handle.follow(epoch.next()), Err(Error::Closed)));
        }
        self.inner().detached = true;
    }
}

/// A replica on a machine of its own.
pub(crate) struct Node {
    pub(crate) machine: Machine,
    pub(crate) log: Log,
    pub(crate) double: Double,
}

impl Node {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        Self::on(Machine::new(seed), options)
    }

    pub(crate) fn on(machine: Machine, options: Options) -> Self {
        Self::try_on(machine, options).expect("the log opens")
    }

    pub(crate) fn try_on(machine: Machine, options: Options) -> Result<Self> {
        let double = Double::new();
        let log = machine.try_open(options.replicator(Arc::new(double.clone())))?;
        Ok(Self { machine, log, double })
    }

    pub(crate) fn handle(&self) -> LogHandle {
        self.double.handle()
    }

    /// Makes it the leader, whatever others hold.
    pub(crate) fn lead(&self, epoch: u64) {
        self.handle().lead(Epoch(epoch), LogEnd::default()).expect("it leads");
    }

    pub(crate) fn follow(&self, epoch: u64) {
        self.handle().follow(Epoch(epoch)).expect("it follows");
    }

    pub(crate) fn end(&self) -> Position {
        self.handle().history().expect("it is open").end
    }

    /// Says that all that is written is replicated.
    pub(crate) fn advance(&self, epoch: u64) {
        let end = self.handle().written().expect("it is open");
        self.handle().advance(Epoch(epoch), end).expect("it leads");
    }

    /// Takes all frames that it lacks from the leader of `epoch`.
    pub(crate) fn pull(&self, leader: &Self, epoch: u64) {
        while let Some(frames) =
            leader.handle().read(self.end(), 1 << 20).expect("the leader has them")
        {
            let frames = Frames::from_bytes(frames.bytes().to_vec()).expect("they are whole");
            self.handle().ingest(Epoch(epoch), &frames).wait().expect("they fit");
        }
    }

    /// Becomes a copy of the leader of `epoch` from nothing.
    pub(crate) fn join(&self, leader: &Self, epoch: u64) {
        self.follow(epoch);
        let snapshot = leader.handle().snapshot().expect("it has one");
        self.handle().reset(Epoch(epoch), &snapshot).expect("this one is empty");
        self.pull(leader, epoch);
    }

    /// Ends the process and the machine, and opens the log again.
    pub(crate) fn crash(self, options: Options) -> Self {
        self.machine.disk.crash(ackline::simulation::Crash::Power);
        Self::on(self.machine, options)
    }
}

/// All payloads of a topic that can be read.
pub(crate) fn payloads(log: &Log, topic: &str) -> Vec<Vec<u8>> {
    let topic = log.topic(topic).expect("it is there");
    let start = topic.offsets().start;
    let read = topic.read_from(start).expect("it can be read");
    read.map(|message| message.expect("it is whole").payload().to_vec()).collect()
}

/// Whether an error says that replicas do not have it yet.
pub(crate) fn is_late<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::ReplicaTimeout { .. }))
}

pub(crate) fn poll_one(group: &Group) -> Result<Option<Delivery>> {
    Ok(group.poll(1, Duration::ZERO)?.pop())
}

/// The next delivery of a group, once replicas have what is to be logged before it.
pub(crate) fn next(node: &Node, group: &Group, epoch: u64) -> Delivery {
    let mut next = pin!(group.next());
    let mut context = Context::from_waker(Waker::noop());
    assert!(next.as_mut().poll(&mut context).is_pending(), "replicas do not have it yet");
    node.log.maintain().expect("it commits");
    assert!(next.as_mut().poll(&mut context).is_pending(), "nor now");
    node.advance(epoch);
    match next.as_mut().poll(&mut context) {
        Poll::Ready(delivery) => delivery.expect("it is delivered"),
        Poll::Pending => panic!("replicas have all of it"),
    }
}
