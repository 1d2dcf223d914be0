//! The process that the user started: starts the nodes, kills them, says who leads, and checks
//! what they tell. It is what hands out the epochs: each to one node, once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::model::{Held, Model};
use crate::told::{Event, clock};

/// Nothing takes so long.
const STUCK: Duration = Duration::from_secs(30);
/// The nodes listen below the ports that systems give to those who dial, so that nobody takes
/// the port of a node that is dead.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A line that a node told in one of its lives, or the end of that life.
type Told = (usize, u64, Option<String>);

#[derive(Debug)]
struct Node {
    process: Child,
    life: u64,
}

/// How long nothing was acknowledged after a kill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) led: bool,
    pub(crate) time: Duration,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    directory: PathBuf,
    addresses: Vec<SocketAddr>,
    copies: usize,
    nodes: Vec<Option<Node>>,
    lives: u64,
    epoch: u64,
    leader: usize,
    sender: Sender<Told>,
    told: Receiver<Told>,
    pub(crate) model: Model,
    pub(crate) outages: Vec<Outage>,
}

impl Supervisor {
    /// Starts the nodes, and makes one of them the leader.
    pub(crate) fn start(directory: &Path, nodes: usize, copies: usize) -> Result<Self, Failure> {
        let (sender, told) = channel();
        let mut supervisor = Self {
            directory: directory.to_owned(),
            addresses: free_addresses(nodes)?,
            copies,
            nodes: (0..nodes).map(|_| None).collect(),
            lives: 0,
            epoch: 0,
            leader: 0,
            sender,
            told,
            model: Model::default(),
            outages: Vec::new(),
        };
        (0..nodes).try_for_each(|number| supervisor.start_node(number))?;
        supervisor.promote(0)?;
        supervisor.await_all_in_sync()?;
        Ok(supervisor)
    }

    fn start_node(&mut self, number: usize) -> Result<(), Failure> {
        self.lives += 1;
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--node", &number.to_string(), "--copies", &self.copies.to_string()])
            .args(["--addresses", &addresses.join(",")])
            .arg("--directory")
            .arg(self.directory.join(format!("node {number}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().ok_or("a node without an output")?);
        let (sender, life) = (self.sender.clone(), self.lives);
        thread::spawn(move || {
            // A line that its node was killed in the middle of was never told.
            let lines = output.lines().map_while(Result::ok).map(Some);
            for line in lines.chain([None]) {
                if sender.send((number, life, line)).is_err() {
                    return;
                }
            }
        });
        self.nodes[number] = Some(Node { process, life });
        self.wait(|from, event| (from == number && *event == Event::Ready).then_some(()))
    }

    /// Takes the next thing that a node tells; `None` if nothing comes in time. The end of a life
    /// that nobody expects is a failure.
    fn next(&mut self, within: Duration) -> Result<Option<(usize, Event)>, Failure> {
        match self.told.recv_timeout(within) {
            Ok((number, _, Some(line))) => {
                let event = Event::parse(&line)?;
                self.model.take(&event);
                Ok(Some((number, event)))
            }
            Ok((number, life, None)) => match &self.nodes[number] {
                Some(node) if node.life == life => Err(format!("node {number} ended").into()),
                _ => Ok(None),
            },
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("nobody tells anything".into()),
        }
    }

    /// Waits for an event.
    fn wait<T>(&mut self, wanted: impl Fn(usize, &Event) -> Option<T>) -> Result<T, Failure> {
        let stuck_at = Instant::now() + STUCK;
        while Instant::now() < stuck_at {
            if let Some((number, event)) = self.next(Duration::from_millis(50))?
                && let Some(found) = wanted(number, &event)
            {
                return Ok(found);
            }
        }
        Err("stuck".into())
    }

    /// Lets the nodes work.
    pub(crate) fn work(&mut self, time: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.next(left)?;
        }
    }

    fn order(&mut self, number: usize, order: &str, argument: u64) -> Result<(), Failure> {
        let node = self.nodes[number].as_ref().ok_or("an order for a dead node")?;
        let mut input = node.process.stdin.as_ref().ok_or("a node without an input")?;
        Ok(writeln!(input, "{order} {argument}")?)
    }

    /// Makes a node the leader, or, if it lacks what another one has, the next one that lives.
    fn promote(&mut self, first: usize) -> Result<(), Failure> {
        let count = self.nodes.len();
        for number in (first..first + 2 * count).map(|number| number % count) {
            if self.nodes[number].is_none() {
                continue;
            }
            self.epoch += 1;
            let epoch = self.epoch;
            self.order(number, "lead", epoch)?;
            let leads = self.wait(|from, event| match event {
                Event::Leads(of) if (from, *of) == (number, epoch) => Some(true),
                Event::Refused(of, _) if *of == epoch => Some(false),
                _ => None,
            })?;
            if leads {
                self.leader = number;
                return Ok(());
            }
        }
        Err("nobody can lead".into())
    }

    /// Kills a node. What it has told before will be taken.
    fn kill(&mut self, number: usize) -> Result<(), Failure> {
        let mut node = self.nodes[number].take().ok_or("it is dead")?;
        node.process.kill()?;
        node.process.wait()?;
        Ok(())
    }

    /// Kills the leader or another one, and measures how long nothing is acknowledged.
    pub(crate) fn kill_and_recover(&mut self, leader: bool) -> Result<(), Failure> {
        let count = self.nodes.len();
        let victim = if leader { self.leader } else { (self.leader + 1) % count };
        let killed_at = clock();
        self.kill(victim)?;
        let died_at = clock();
        if leader {
            self.promote((victim + 1) % count)?;
        }
        // Where the others are enough, they must go on without it.
        let others_suffice = count > self.copies;
        if !others_suffice {
            self.start_node(victim)?;
        }
        // What was on its way when it was killed does not count.
        let ended = self.wait(|_, event| match event {
            Event::Acked { began, ended, .. } if *began >= died_at => Some(*ended),
            _ => None,
        })?;
        let time = Duration::from_micros(ended.saturating_sub(killed_at));
        self.outages.push(Outage { led: leader, time });
        if others_suffice {
            self.start_node(victim)?;
        }
        self.await_all_in_sync()
    }

    fn await_all_in_sync(&mut self) -> Result<(), Failure> {
        let (leader, all) = (self.leader, self.nodes.len() as u64);
        loop {
            self.order(leader, "in_sync", 0)?;
            let in_sync = self.wait(|from, event| match event {
                Event::InSync(nodes) if from == leader => Some(*nodes),
                _ => None,
            })?;
            if in_sync == all {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all logs end at the same position, and show all that is before it.
    fn await_same_end(&mut self) -> Result<(), Failure> {
        let stuck_at = Instant::now() + STUCK;
        while Instant::now() < stuck_at {
            let mut ends = BTreeSet::new();
            for number in 0..self.nodes.len() {
                self.order(number, "ends", 0)?;
                ends.extend(self.wait(|from, event| match event {
                    Event::Ends { written, visible } if from == number => {
                        Some([*written, *visible])
                    }
                    _ => None,
                })?);
            }
            if ends.len() == 1 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.model.find("the logs do not become the same".to_owned());
        Ok(())
    }

    /// Lets the leader finish, and asks all nodes what they hold.
    pub(crate) fn finish(&mut self) -> Result<Vec<Held>, Failure> {
        self.order(self.leader, "finish", 0)?;
        let end = self.wait(|_, event| match event {
            Event::Finished { end } => Some(*end),
            _ => None,
        })?;
        self.await_same_end()?;
        let mut all = Vec::new();
        for number in 0..self.nodes.len() {
            self.order(number, "show", end)?;
            let (mut held, mut goes_on) = (Held::default(), true);
            while goes_on {
                match self.wait(|from, event| (from == number).then(|| event.clone()))? {
                    Event::Holds { offset, ident } => held.push((offset, ident)),
                    Event::Held => goes_on = false,
                    _ => {}
                }
            }
            all.push(held);
        }
        for number in 0..self.nodes.len() {
            self.kill(number)?;
        }
        Ok(all)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            // If it is dead already, all the better.
            drop(node.process.kill());
            drop(node.process.wait());
        }
    }
}

fn free_addresses(nodes: usize) -> Result<Vec<SocketAddr>, Failure> {
    // Ten for each supervisor, so that several may run at a time.
    let start = PORTS.start + u16::try_from(std::process::id() % 900 * 10)?;
    let mut found = Vec::new();
    for port in start..PORTS.end {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            found.push(address);
        }
        if found.len() == nodes {
            return Ok(found);
        }
    }
    Err("there are no free ports".into())
}
