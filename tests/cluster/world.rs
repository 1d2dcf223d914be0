//! A run: nodes, the network between them, and what happens next.

use std::collections::BTreeMap;
use std::time::Duration;

use ackline::replicate::{Message, QuorumOptions, Replicator};
use ackline::simulation::{Call, Clock, Crash, Fault, Rng, Sectors};
use ackline::{Epoch, Error, Options, Pending, Receipt, Retention};

use super::clients::Submitted;
use super::model::Model;
use super::net::{Net, Weather};
use super::node::Node;
use super::{Checked, ensure, mix};

/// What a run is like; all of it follows from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) copies: usize,
    pub(crate) steps: usize,
    pub(crate) weather: Weather,
    pub(crate) keeps_consumed: bool,
    pub(crate) has_disk_faults: bool,
    pub(crate) recent_bytes: usize,
    pub(crate) window_bytes: u64,
    pub(crate) skews: Vec<u32>,
    /// So many in ten disruptions do not come.
    pub(crate) calm: u64,
}

impl Setup {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 7));
        let nodes = [3, 3, 5][rng.index(3)];
        let majority = nodes / 2 + 1;
        // Copies beyond a majority need fewer promises, and the other way round.
        let copies = if rng.chance(1, 4) { 2 + rng.index(nodes - 1) } else { majority };
        let weather = Weather {
            delay_max: Duration::from_millis([1, 5, 50][rng.index(3)]),
            loss: [0, 0, 50, 10][rng.index(4)],
            doubling: [0, 50, 10][rng.index(3)],
            straggling: [0, 30, 10][rng.index(3)],
        };
        Self {
            copies,
            steps: 40 + rng.index(80),
            weather,
            keeps_consumed: rng.chance(2, 3),
            has_disk_faults: rng.chance(1, 3),
            recent_bytes: if rng.chance(1, 2) { 0 } else { 1 << 20 },
            window_bytes: [1000, 4 << 20][rng.index(2)],
            calm: [0, 5, 9][rng.index(3)],
            skews: (0..nodes).map(|_| [50, 90, 100, 100, 110, 300][rng.index(6)]).collect(),
        }
    }

    fn options(&self) -> Options {
        let retention =
            if self.keeps_consumed { Retention::keep_consumed() } else { Retention::default() };
        Options::new()
            .segment_bytes(4096)
            .payload_bytes_max(2000)
            .recent_bytes(self.recent_bytes)
            .retention(retention)
            .catch_up_bytes_max(4096)
    }

    fn quorum(&self) -> QuorumOptions {
        QuorumOptions::new(self.copies).window_bytes(self.window_bytes)
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<Node>,
    pub(crate) model: Model,
    pub(crate) submitted: Vec<Submitted>,
    /// The last epoch that was given out, and who led last.
    pub(crate) epoch: Epoch,
    last_leader: Option<usize>,
    pub(crate) number: u64,
    pub(crate) tally: BTreeMap<&'static str, u64>,
    pub(crate) trace: u64,
    pub(crate) notes: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let setup = Setup::draw(seed);
        let skews = setup.skews.iter().zip(0..);
        let nodes = skews.map(|(skew, i)| Node::new(mix(seed, 100 + i), *skew)).collect();
        Self {
            rng: Rng::new(mix(seed, 1)),
            now: Duration::ZERO,
            net: Net::new(setup.weather),
            nodes,
            model: Model::default(),
            submitted: Vec::new(),
            epoch: Epoch(0),
            last_leader: None,
            number: 0,
            tally: BTreeMap::new(),
            trace: 0,
            notes: verbose.then(Vec::new),
            setup,
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Writes a line into the history, if one is kept.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(line());
        }
    }

    /// All of the run.
    pub(crate) fn run(&mut self) -> Checked {
        for node in &self.nodes {
            node.disk.set_sector_mode(Sectors::Powersafe);
        }
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.campaign_of(0);
        self.pass(Duration::from_millis(200))?;
        let situation = self.rng.index(2 * self.setup.steps);
        for step in 0..self.setup.steps {
            if step == situation {
                self.situation()?;
            }
            self.step()?;
            self.look_after_clients()?;
        }
        self.finish()
    }

    fn step(&mut self) -> Checked {
        let choice = self.rng.below(100);
        if choice >= 75 && self.rng.chance(self.setup.calm, 10) {
            return self.consume();
        }
        match choice {
            0..26 => {
                self.submit();
                Ok(())
            }
            26..52 => self.consume(),
            52..70 => {
                let millis = 1 + self.rng.below(120);
                self.pass(Duration::from_millis(millis))
            }
            70..75 => self.read_somewhere(),
            75..81 => {
                let node = self.rng.index(self.nodes.len());
                self.campaign_of(node);
                Ok(())
            }
            81..87 => self.end_somebody(),
            87..91 => self.start_somebody(),
            91..96 => {
                self.split();
                Ok(())
            }
            96..98 => self.stale_word(),
            _ => {
                self.plan_fault();
                Ok(())
            }
        }
    }

    /// Somebody who has not heard of the newest epoch says that everything is replicated.
    fn stale_word(&mut self) -> Checked {
        let node = self.rng.index(self.nodes.len());
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        let stats = live.log.stats();
        let Some(older) = stats.epoch.0.checked_sub(1) else { return Ok(()) };
        let stale = Epoch(self.rng.below(older + 1));
        let answer = live.handle.advance(stale, stats.written);
        self.count("stale word");
        self.note(|| format!("node {node} hears of epoch {stale}: {answer:?}"));
        self.look_at(node)
    }

    /// Starts a node's process; one whose disk fails meanwhile stays down.
    pub(crate) fn start(&mut self, node: usize) -> Checked {
        let links = self.net.links(node, self.nodes.len());
        let (options, quorum) = (self.setup.options(), self.setup.quorum());
        if self.setup.calm < 9 && self.rng.chance(1, 10) {
            let disk = &self.nodes[node].disk;
            disk.die_at(disk.calls() + self.rng.below(80));
        }
        let started = self.nodes[node].start(&options, &quorum, links);
        self.note(|| format!("start {node}: {:?}", started.as_ref().map_err(ToString::to_string)));
        match started {
            Ok(()) => self.count("start"),
            Err(error) => {
                let died = self.nodes[node].died_opening;
                let crash = if self.rng.chance(1, 2) { Crash::Kill } else { Crash::Power };
                self.nodes[node].crash(crash);
                if died {
                    self.count("death in recovery");
                    return Ok(());
                }
                let excused = matches!(error, Error::Io { .. } | Error::Full { .. })
                    || matches!(&error, Error::Poisoned { .. });
                ensure!(excused && self.setup.has_disk_faults, "node {node} cannot open: {error}");
                self.count("start failed");
            }
        }
        Ok(())
    }

    fn start_somebody(&mut self) -> Checked {
        let down: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].live.is_none()).collect();
        if down.is_empty() {
            return Ok(());
        }
        let node = down[self.rng.index(down.len())];
        self.start(node)
    }

    /// Lets time pass, message by message.
    pub(crate) fn pass(&mut self, time: Duration) -> Checked {
        const STEP: Duration = Duration::from_millis(20);
        let until = self.now + time;
        while self.now < until {
            let next = self.now + STEP.min(until.saturating_sub(self.now));
            loop {
                self.net.collect(self.now, &mut self.rng);
                let arrival = self.net.next_arrival().filter(|arrival| *arrival <= next);
                let Some(arrival) = arrival else { break };
                self.advance_to(arrival.max(self.now));
                while let Some(envelope) = self.net.arrived(self.now) {
                    self.deliver(envelope.from, envelope.to, &envelope.bytes)?;
                    self.net.collect(self.now, &mut self.rng);
                }
            }
            self.advance_to(next);
            for node in 0..self.nodes.len() {
                self.maintain(node)?;
            }
        }
        Ok(())
    }

    fn advance_to(&mut self, time: Duration) {
        let passed = time.saturating_sub(self.now);
        for node in &mut self.nodes {
            node.advance(passed);
        }
        self.now = time;
    }

    fn deliver(&mut self, from: usize, to: usize, bytes: &[u8]) -> Checked {
        let message = Message::decode(bytes);
        ensure!(message.is_ok(), "a message does not read back: {message:?}");
        let Ok(message) = message else { return Ok(()) };
        self.trace = mix(self.trace, (from * 10 + to) as u64 ^ crate_hash(bytes));
        self.note(|| format!("  {from} -> {to}: {}", brief(&message)));
        if matches!(message, Message::Snapshot { .. }) {
            self.count("snapshot");
        }
        // What takes several changes to the files is where it hurts to die.
        let takes_steps = matches!(message, Message::Lead { .. } | Message::Snapshot { .. });
        if takes_steps && self.setup.calm < 9 && self.rng.chance(1, 25) {
            self.count("death in a step");
            let disk = &self.nodes[to].disk;
            disk.die_at(disk.calls() + self.rng.below(40));
        }
        let Some(live) = &self.nodes[to].live else { return Ok(()) };
        // Of the links of a node, its own number is left out.
        let link = if from < to { from } else { from - 1 };
        live.quorum.received(link, message);
        self.look_at(to)
    }

    /// Does what a node's background threads would do.
    fn maintain(&mut self, node: usize) -> Checked {
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        // What a background thread meets, it meets again; a failure poisons.
        drop(live.log.maintain());
        live.quorum.tick(self.nodes[node].clock.monotonic());
        self.look_at(node)
    }

    /// Ends a process whose log is poisoned or whose process died in the middle of a call, and
    /// checks that what is visible never falls.
    fn look_at(&mut self, node: usize) -> Checked {
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        let stats = live.log.stats();
        let before = self.nodes[node].visible;
        ensure!(stats.visible >= before, "node {node} saw up to {before}, now {}", stats.visible);
        self.nodes[node].visible = stats.visible;
        if stats.written < self.nodes[node].written {
            self.count("truncation");
        }
        self.nodes[node].written = stats.written;
        self.look_who_leads(node);
        if stats.visible > before {
            self.read_on(node)?;
        }
        if self.nodes[node].is_poisoned() {
            let excused = self.setup.has_disk_faults || self.nodes[node].is_dead();
            ensure!(excused, "node {node} is poisoned without a reason");
            self.count("poisoned");
            let crash = if self.rng.chance(1, 2) { Crash::Kill } else { Crash::Power };
            self.note(|| format!("node {node} is poisoned: {crash:?}"));
            self.end(node, crash);
        }
        Ok(())
    }

    fn look_who_leads(&mut self, node: usize) {
        let Some(epoch) = self.nodes[node].leads().filter(|epoch| *epoch > self.nodes[node].led)
        else {
            return;
        };
        self.nodes[node].led = epoch;
        self.count("led");
        self.note(|| format!("node {node} leads epoch {epoch}"));
        if self.last_leader.replace(node).is_some_and(|before| before != node) {
            self.count("leader changed");
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        if others.filter(|other| self.nodes[*other].leads().is_some()).count() > 0 {
            self.count("two leaders at a time");
        }
    }

    fn end_somebody(&mut self) -> Checked {
        let node = self.rng.index(self.nodes.len());
        if self.nodes[node].live.is_none() {
            return Ok(());
        }
        let crash = if self.rng.chance(1, 3) { Crash::Kill } else { Crash::Power };
        if self.rng.chance(1, 3) {
            // In the middle of what comes next.
            let call = self.nodes[node].disk.calls() + self.rng.below(30);
            self.nodes[node].disk.die_at(call);
            self.note(|| format!("node {node} dies at call {call}"));
            self.pass(Duration::from_millis(40))?;
        }
        self.note(|| format!("{crash:?} of node {node}"));
        self.count(if crash == Crash::Kill { "kill" } else { "power cut" });
        self.end(node, crash);
        Ok(())
    }

    pub(crate) fn end(&mut self, node: usize, crash: Crash) {
        let life = self.nodes[node].life;
        self.submitted.retain(|submitted| (submitted.node, submitted.life) != (node, life));
        self.nodes[node].crash(crash);
    }

    /// Cuts one direction between two nodes, or all around one, or heals everything.
    fn split(&mut self) {
        let nodes = self.nodes.len();
        let (a, b) = (self.rng.index(nodes), self.rng.index(nodes));
        if self.net.is_cut() && self.rng.chance(1, 2) {
            self.note(|| "the network is whole".to_owned());
            self.count("heal");
            self.net.heal();
            return;
        }
        if self.rng.chance(1, 2) {
            self.note(|| format!("nothing passes from {a} to {b}"));
            self.count("one-way cut");
            self.net.cut(a, b);
            return;
        }
        self.note(|| format!("node {a} is alone"));
        self.count("partition");
        for other in (0..nodes).filter(|other| *other != a) {
            self.net.cut(a, other);
            self.net.cut(other, a);
        }
    }

    fn plan_fault(&mut self) {
        const FAULTS: [(Call, Fault); 7] = [
            (Call::Sync, Fault::Io),
            (Call::Sync, Fault::SyncLost),
            (Call::SyncDirectory, Fault::Io),
            (Call::Rename, Fault::Io),
            (Call::Remove, Fault::Io),
            (Call::Create, Fault::NoSpace),
            (Call::Sync, Fault::Io),
        ];
        if !self.setup.has_disk_faults {
            return;
        }
        let node = self.rng.index(self.nodes.len());
        let (call, fault) = FAULTS[self.rng.index(FAULTS.len())];
        self.note(|| format!("node {node}: the next {call:?} answers {fault:?}"));
        self.count("disk fault");
        self.nodes[node].disk.fail_next(call, fault);
    }

    /// Somebody decides that a node shall lead, and gives it an epoch.
    pub(crate) fn campaign_of(&mut self, node: usize) {
        let Some(live) = &self.nodes[node].live else { return };
        self.epoch = self.epoch.next();
        let epoch = self.epoch;
        let begun = live.quorum.campaign(epoch);
        self.count("campaign");
        self.note(|| format!("node {node} is to lead epoch {epoch}: {begun:?}"));
    }
}

fn crate_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A message in a few words.
fn brief(message: &Message) -> String {
    let mut text = format!("{message:?}");
    text.truncate(400);
    text
}

/// The handle of a submit that has not been answered.
pub(crate) type Answer = Pending<Receipt>;
