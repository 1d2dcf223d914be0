//! A cluster on stage. Every helper that waits does so in many short sleeps, and answers which rule is
//! broken if the time was not enough.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::offset::{Epoch, Offset};
use crate::options::Options;
use crate::record::Receipt;
use crate::replicate::LogHandle;
use crate::sync::thread;
use crate::topic::Topic;

use super::ledger::Ledger;
use super::{Cluster, Delay, Refusal, Rule, Seat, Shape, copies};

const STEP: Duration = Duration::from_millis(5);
/// How long an append waits for replicas before its outcome is unknown.
const REPLICA_TIMEOUT: Duration = Duration::from_millis(400);
pub(super) const TOPIC: &str = "t";

/// Why a scene ends early.
#[derive(Debug)]
pub(super) enum Stop {
    Unsupported(&'static str),
    Broken(Rule, String),
}

pub(super) type Played<T = ()> = std::result::Result<T, Stop>;

pub(super) fn broken<T>(rule: Rule, what: impl Into<String>) -> Played<T> {
    Err(Stop::Broken(rule, what.into()))
}

pub(super) struct Stage {
    cluster: Box<dyn Cluster>,
    pub(super) shape: Shape,
    seats: Vec<Seat>,
    logs: Vec<Option<Log>>,
    options: Options,
    ledger: Ledger,
    /// What must happen gets at least this long.
    patience: Duration,
    /// Whether the beginning of the log is not kept.
    forgets: bool,
    epoch: u64,
    pub(super) leader: usize,
}

impl Stage {
    pub(super) fn new(
        cluster: Box<dyn Cluster>,
        shape: Shape,
        seats: Vec<Seat>,
        patience: Duration,
    ) -> Self {
        let logs = (0..cluster.logs(shape)).map(|_| None).collect();
        let options = Options::new()
            .segment_bytes(32 << 10)
            .replica_timeout(REPLICA_TIMEOUT)
            .sync_timeout(patience * 10)
            .lock_timeout(patience);
        let ledger = Ledger::default();
        Self {
            cluster,
            shape,
            seats,
            logs,
            options,
            ledger,
            patience,
            forgets: false,
            epoch: 0,
            leader: 0,
        }
    }

    /// Options by which the beginning of the log is not kept.
    pub(super) fn let_it_forget(&mut self, change: impl FnOnce(Options) -> Options) {
        self.forgets = true;
        self.options = change(self.options.clone());
    }

    /// Starts all nodes but these, lets the first one lead, and makes the topic.
    pub(super) fn begin(&mut self, absent: &[usize]) -> Played {
        let present: Vec<_> = (0..self.logs.len()).filter(|node| !absent.contains(node)).collect();
        for node in present {
            self.start(node)?;
        }
        self.promote(0)?;
        self.converge()
    }

    // Nodes.

    pub(super) fn start(&mut self, node: usize) -> Played {
        match self.cluster.start(node, self.options.clone(), &self.seats) {
            Ok(log) => {
                self.logs[node] = Some(log);
                Ok(())
            }
            Err(error) => broken(Rule::GoesOn, format!("node {node} cannot be opened: {error}")),
        }
    }

    /// The places that the process of a node has open.
    fn seats_of(&self, node: usize) -> impl Iterator<Item = &Seat> {
        let others = if node == 0 { self.logs.len()..self.seats.len() } else { 0..0 };
        std::iter::once(node).chain(others).map(|at| &self.seats[at])
    }

    /// Ends a node's process in the middle of whatever it does.
    pub(super) fn kill(&mut self, node: usize) {
        let Some(log) = self.logs[node].take() else { return };
        self.seats_of(node).for_each(Seat::kill);
        // It fails, as anything does that writes.
        drop(log.close());
        self.cluster.stopped(node);
        self.seats_of(node).for_each(Seat::cut_power);
    }

    pub(super) fn close(&mut self, node: usize) -> Played {
        let Some(log) = self.logs[node].take() else { return Ok(()) };
        let closed = log.close();
        self.cluster.stopped(node);
        match closed {
            Ok(()) => Ok(()),
            Err(error) => broken(Rule::GoesOn, format!("node {node} cannot be closed: {error}")),
        }
    }

    pub(super) fn log(&self, node: usize) -> &Log {
        self.logs[node].as_ref().expect("the scene has started it")
    }

    pub(super) fn handle(&self, node: usize) -> LogHandle {
        self.log(node).replica()
    }

    /// Those whose logs are open here.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.logs.len()).filter(|node| self.logs[*node].is_some())
    }

    pub(super) fn hold_syncs(&self, nodes: &[usize]) {
        for node in nodes {
            self.seats[*node].hold_syncs();
        }
    }

    pub(super) fn release_syncs(&self) {
        self.seats.iter().for_each(Seat::release_syncs);
    }

    // Links.

    pub(super) fn cut(&self, a: usize, b: usize) -> Played {
        supported("cut", self.cluster.cut(a, b))
    }

    pub(super) fn join(&self, a: usize, b: usize) -> Played {
        supported("join", self.cluster.join(a, b))
    }

    pub(super) fn disturb(&self, on: bool) -> Played {
        supported("disturb", self.cluster.disturb(on))
    }

    pub(super) fn delay(&self, from: usize, to: usize, delay: Delay) -> Played {
        supported("delay", self.cluster.delay(from, to, delay))
    }

    /// Cuts all links between these nodes and the others.
    pub(super) fn isolate(&self, nodes: &[usize]) -> Played {
        for a in nodes {
            for b in (0..self.shape.nodes).filter(|b| !nodes.contains(b)) {
                self.cut(*a, b)?;
            }
        }
        Ok(())
    }

    pub(super) fn heal(&self) -> Played {
        for a in 0..self.shape.nodes {
            for b in a + 1..self.shape.nodes {
                self.join(a, b)?;
            }
        }
        Ok(())
    }

    // Leaders.

    /// Tells a node once to lead, in a new epoch.
    pub(super) fn try_promote(&mut self, node: usize) -> Played<Result<()>> {
        self.epoch += 1;
        match self.cluster.promote(node, Epoch(self.epoch)) {
            Ok(()) => {
                self.leader = node;
                Ok(Ok(()))
            }
            Err(Refusal::Unsupported) => Err(Stop::Unsupported("promote")),
            Err(Refusal::Failed(error)) => Ok(Err(error)),
        }
    }

    /// Makes a node the leader of a new epoch, in as many attempts as it takes.
    pub(super) fn promote(&mut self, node: usize) -> Played {
        let mut last = None;
        let promoted = self.eventually(|stage| match stage.try_promote(node)? {
            Ok(()) => Ok(true),
            Err(error) => {
                last = Some(error);
                Ok(false)
            }
        })?;
        if !promoted {
            let why = last.map_or(String::new(), |error| format!(": {error}"));
            return broken(Rule::GoesOn, format!("node {node} cannot be promoted{why}"));
        }
        if self.handle(node).leading().is_ok_and(|epoch| epoch.is_none()) {
            return broken(Rule::GoesOn, format!("node {node} was promoted and does not lead"));
        }
        Ok(())
    }

    /// Makes a node the leader or, while it lacks what others hold, the next one that does not.
    pub(super) fn lead_on(&mut self, node: usize) -> Played {
        let open: Vec<_> = self.open().collect();
        let mut candidates = open.iter().cycle().skip_while(|open| **open != node);
        let mut last = None;
        let promoted = self.eventually(|stage| {
            let candidate = candidates.next().copied().unwrap_or(node);
            last = stage.try_promote(candidate)?.err();
            Ok(last.is_none())
        })?;
        if promoted { Ok(()) } else { broken(Rule::GoesOn, format!("nobody leads: {last:?}")) }
    }

    // Appends.

    /// The topic, of a node that leads.
    pub(super) fn topic(&mut self, node: usize) -> Played<Topic> {
        let mut found = None;
        let there = self.eventually(|stage| {
            found = Some(stage.log(node).topic(TOPIC));
            Ok(found.as_ref().is_some_and(Result::is_ok))
        })?;
        match found {
            Some(Ok(topic)) if there => Ok(topic),
            other => broken(Rule::GoesOn, format!("node {node} leads, and its topic is {other:?}")),
        }
    }

    /// A record that no other one equals.
    pub(super) fn payload(&mut self, bytes: usize) -> Vec<u8> {
        self.ledger.payload(bytes)
    }

    /// Enters what an append of `payload` has answered.
    pub(super) fn enter(&mut self, payload: Vec<u8>, answer: &Result<Receipt>) -> Played {
        self.ledger.enter(payload, answer)
    }

    /// Appends so many records, each of which must be acknowledged or land in the end.
    pub(super) fn append(&mut self, records: usize) -> Played {
        let (node, patience) = (self.leader, self.patience);
        let topic = self.topic(node)?;
        for _ in 0..records {
            let payload = self.payload(300);
            let mut last = None;
            let done = self.eventually(|_| match topic.append(payload.clone()) {
                Ok(receipt) => {
                    last = Some(Ok(receipt.offset));
                    Ok(true)
                }
                // It is on its way: another attempt would be another record.
                Err(Error::ReplicaTimeout { offset: Some(offset), .. }) => {
                    last = Some(topic.wait_visible(offset, patience).map(|()| offset));
                    Ok(true)
                }
                Err(error) => {
                    last = Some(Err(error));
                    Ok(false)
                }
            })?;
            match last {
                Some(Ok(offset)) if done => self.ledger.acknowledge(offset, payload)?,
                other => {
                    let answer = format!("{:?}", other.map(|answer| answer.map(|offset| offset.0)));
                    return broken(Rule::GoesOn, format!("an append at node {node}: {answer}"));
                }
            }
        }
        Ok(())
    }

    /// Appends so many records, whatever comes of it.
    pub(super) fn append_and_enter(&mut self, records: usize) -> Played {
        let topic = self.topic(self.leader)?;
        for _ in 0..records {
            let payload = self.payload(300);
            let answer = topic.append(payload.clone());
            self.enter(payload, &answer)?;
        }
        Ok(())
    }

    /// Appends a record that must not be acknowledged, nor be seen, and returns where it lies if
    /// it was written. `rule` is broken otherwise.
    pub(super) fn append_in_vain(
        &mut self,
        node: usize,
        bytes: usize,
        rule: Rule,
    ) -> Played<Option<(Offset, Vec<u8>)>> {
        let payload = self.payload(bytes);
        let answer = self.topic_as_it_is(node)?.append(payload.clone());
        if let Ok(receipt) = &answer {
            let what = format!("node {node} acknowledged offset {}", receipt.offset);
            return broken(rule, what);
        }
        self.enter(payload.clone(), &answer)?;
        self.check_invisible(&payload, Rule::UnacknowledgedIsInvisible)?;
        Ok(match answer {
            Err(Error::ReplicaTimeout { offset: Some(offset), .. }) => Some((offset, payload)),
            _ => None,
        })
    }

    fn topic_as_it_is(&self, node: usize) -> Played<Topic> {
        self.log(node).topic(TOPIC).or_else(|error| {
            broken(Rule::GoesOn, format!("the topic is not at node {node} any more: {error}"))
        })
    }

    /// Checks that nobody sees a record.
    pub(super) fn check_invisible(&mut self, payload: &[u8], rule: Rule) -> Played {
        for node in self.open().collect::<Vec<_>>() {
            if let Some((offset, _)) = self.look(node)?.iter().find(|(_, seen)| *seen == payload) {
                let what = format!("readers of node {node} saw offset {offset}");
                return broken(rule, what);
            }
        }
        Ok(())
    }

    /// What timed out must land, at the offset that was told.
    pub(super) fn must_land(&mut self, late: Option<(Offset, Vec<u8>)>) -> Played {
        let Some((offset, payload)) = late else { return Ok(()) };
        let topic = self.topic(self.leader)?;
        if let Err(error) = topic.wait_visible(offset, self.patience) {
            return broken(Rule::EverythingArrives, format!("offset {offset} is late: {error}"));
        }
        self.ledger.acknowledge(offset, payload)
    }

    // Looking.

    /// Tries something until it is so, for as long as it may take. `false` if it never was.
    pub(super) fn eventually(
        &mut self,
        mut is_so: impl FnMut(&mut Self) -> Played<bool>,
    ) -> Played<bool> {
        for _ in 0..self.patience.as_millis() / STEP.as_millis() {
            if is_so(self)? {
                return Ok(true);
            }
            thread::sleep(STEP);
        }
        Ok(false)
    }

    /// What readers of a node see now, by offset. It must agree with all that any reader saw.
    pub(super) fn look(&mut self, node: usize) -> Played<BTreeMap<u64, Vec<u8>>> {
        let log = self.log(node);
        if !log.topics().iter().any(|name| name == TOPIC) {
            return Ok(BTreeMap::new());
        }
        let found = log.topic(TOPIC).and_then(|topic| {
            let messages = topic.read_from(topic.offsets().start)?;
            let pair = |message: crate::Message| (message.offset().0, message.payload().to_vec());
            messages.map(|message| message.map(pair)).collect::<Result<BTreeMap<_, _>>>()
        });
        let found = match found {
            Ok(found) => found,
            // Retention was faster.
            Err(Error::Lagged { .. } | Error::OffsetOutOfRange { .. }) => {
                return Ok(BTreeMap::new());
            }
            Err(error) => {
                return broken(Rule::GoesOn, format!("node {node} cannot be read: {error}"));
            }
        };
        self.ledger.see(node, &found)?;
        Ok(found)
    }

    /// Waits until all that are open hold all that the leader holds, and the leader shows it.
    pub(super) fn converge(&mut self) -> Played {
        self.topic(self.leader)?;
        let mut missing = String::new();
        let arrived = self.eventually(|stage| {
            for node in stage.open().collect::<Vec<_>>() {
                stage.look(node)?;
            }
            missing =
                stage.missing().unwrap_or_else(|error| Some(error.to_string())).unwrap_or_default();
            Ok(missing.is_empty())
        })?;
        if arrived { Ok(()) } else { broken(Rule::EverythingArrives, missing) }
    }

    fn missing(&self) -> Result<Option<String>> {
        let leader = self.handle(self.leader);
        let whole = leader.history()?;
        for node in self.open() {
            let (history, durable) = (self.handle(node).history()?, self.handle(node).durable()?);
            let is_same = history.log_id == whole.log_id && history.log_end() == whole.log_end();
            if !is_same || durable < whole.end {
                let (ours, theirs) = (history.log_end(), whole.log_end());
                return Ok(Some(format!(
                    "node {node} ends at {} in epoch {} and is durable up to {durable}, node {} at {} in epoch {}",
                    ours.end, ours.epoch, self.leader, theirs.end, theirs.epoch,
                )));
            }
        }
        let visible = leader.visible()?;
        Ok((visible < whole.end)
            .then(|| format!("node {} shows {visible} of {}", self.leader, whole.end)))
    }

    /// The end of a scene: all is well, all is where it belongs, on all disks.
    pub(super) fn finish(&mut self) -> Played {
        self.append(1)?;
        self.converge()?;
        let mut content = BTreeMap::new();
        self.eventually(|stage| {
            content = stage.look(stage.leader)?;
            Ok(!content.is_empty())
        })?;
        self.ledger.check(&content, self.forgets)?;
        let visible = self.handle(self.leader).visible();
        let visible = visible.or_else(|e| broken(Rule::GoesOn, format!("it is closed: {e}")))?;
        // The leader last, so that what its groups leave behind is not missed by anyone.
        for node in (0..self.logs.len()).rev() {
            self.close(node)?;
        }
        copies::compare(&self.seats, &self.options, self.leader, visible, self.shape)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A thread that waits for a disk could not be joined.
        self.release_syncs();
        for node in 0..self.logs.len() {
            self.kill(node);
        }
    }
}

fn supported(what: &'static str, outcome: super::Outcome) -> Played {
    match outcome {
        Ok(()) => Ok(()),
        Err(Refusal::Unsupported) => Err(Stop::Unsupported(what)),
        Err(Refusal::Failed(error)) => broken(Rule::GoesOn, format!("`{what}` failed: {error}")),
    }
}
