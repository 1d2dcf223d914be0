//! What single draws hardly ever bring about: orders of events that take several changes of the
//! leader. Each is played with whatever the run has left of the cluster; where a step does not
//! come about, the run goes on from there.

use std::time::Duration;

use ackline::replicate::PeerState;
use ackline::simulation::Crash;
use ackline::{Ack, Epoch, Position};

use super::Checked;
use super::clients::TOPICS;
use super::world::World;

const PATIENCE: Duration = Duration::from_secs(2);

impl World {
    pub(crate) fn situation(&mut self) -> Checked {
        self.net.heal();
        let weather = self.net.weather;
        // What is to come about must not depend on luck alone.
        (self.net.weather.loss, self.net.weather.straggling) = (0, 0);
        match (self.nodes.len(), self.setup.copies, self.rng.below(3)) {
            (3, 2, 0) => self.inherited(),
            (5, 3, 0 | 1) => self.stale_ack(),
            _ => self.long_tail(),
        }?;
        self.net.weather = weather;
        self.net.release();
        self.net.heal();
        Ok(())
    }

    /// Waits, in small steps, until something holds; says whether it does.
    fn pass_until(&mut self, holds: impl Fn(&Self) -> bool) -> Checked<bool> {
        let step = (self.setup.weather.delay_max / 2).min(Duration::from_millis(5));
        self.pass_in_steps(step, holds)
    }

    fn pass_in_steps(&mut self, step: Duration, holds: impl Fn(&Self) -> bool) -> Checked<bool> {
        let until = self.now + PATIENCE;
        while self.now < until {
            if holds(self) {
                return Ok(true);
            }
            self.pass(step)?;
        }
        Ok(holds(self))
    }

    /// Brings everybody up, the given node as the leader.
    fn set_up(&mut self, leader: usize) -> Checked<Option<Epoch>> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_dead() || self.nodes[node].is_poisoned() {
                self.end(node, Crash::Power);
            }
            self.nodes[node].disk.die_at(u64::MAX);
            if self.nodes[node].live.is_none() {
                self.start(node)?;
            }
        }
        self.promote(leader)
    }

    fn promote(&mut self, node: usize) -> Checked<Option<Epoch>> {
        self.campaign_of(node);
        let epoch = self.epoch;
        let led = self.pass_until(|world| world.nodes[node].leads() == Some(epoch))?;
        Ok(led.then_some(epoch))
    }

    fn end_of(&self, node: usize) -> Position {
        self.nodes[node].live.as_ref().map_or(Position(0), |live| live.log.stats().written)
    }

    fn visible_of(&self, node: usize) -> Position {
        self.nodes[node].live.as_ref().map_or(Position(0), |live| live.log.stats().visible)
    }

    /// How far a leader knows another node to be.
    fn peer_end(&self, leader: usize, node: usize) -> Position {
        let Some(live) = &self.nodes[leader].live else { return Position(0) };
        // Of the links of a node, its own number is left out.
        let link = if node < leader { node } else { node - 1 };
        match live.quorum.peers().get(link).map(|peer| peer.state) {
            Some(PeerState::Following { end }) => end,
            _ => Position(0),
        }
    }

    /// Lets all nodes become equal to a leader.
    fn level_with(&mut self, leader: usize) -> Checked<bool> {
        let last = self.nodes.len();
        self.pass_until(|world| {
            let end = world.visible_of(leader);
            end == world.end_of(leader) && (0..last).all(|node| world.end_of(node) == end)
        })
    }

    /// Appends at a leader, durable there and wherever it gets.
    fn append_at(&mut self, node: usize, records: usize, size: usize) -> bool {
        for _ in 0..records {
            let Some(live) = &self.nodes[node].live else { return false };
            let Ok(topic) = live.log.topic(TOPICS[0]) else { return false };
            self.number += 1;
            let mut payload = format!("#{} ", self.number).into_bytes();
            payload.resize(payload.len() + size, b'.');
            self.model.submit(&payload);
            if topic.with_ack(Ack::Synced).append(payload).is_err() {
                return false;
            }
        }
        let number = self.number;
        self.note(|| format!("node {node} has written up to #{number}"));
        true
    }

    /// A leader replicates what an earlier epoch has left it, and is gone before a frame of its own
    /// is; another one goes further by its epoch, though not by that.
    fn inherited(&mut self) -> Checked {
        let Some(_) = self.set_up(0)? else { return Ok(()) };
        if !self.level_with(0)? {
            return Ok(());
        }
        self.note(|| "situation: inherited".to_owned());
        let before = self.end_of(0);
        // Only node 0 has this record.
        self.net.isolate(0, 3);
        if !self.append_at(0, 1, 1500) {
            return Ok(());
        }
        self.end(0, Crash::Power);
        // Node 1 leads an epoch of which nobody else has a frame.
        self.net.heal();
        let Some(_) = self.promote(1)? else { return Ok(()) };
        self.net.isolate(1, 3);
        self.end(1, Crash::Kill);
        self.net.heal();
        self.start(0)?;
        let Some(_) = self.promote(0)? else { return Ok(()) };
        // As soon as node 0 knows that node 2 has the old record, and before node 2 has a frame of
        // the new epoch, node 0 is gone.
        let (old, new) = (before, self.end_of(0));
        let step = self.setup.weather.delay_max / 20;
        let over =
            self.pass_in_steps(step, |world| world.end_of(2) >= new || world.peer_end(0, 2) > old)?;
        self.net.isolate(0, 3);
        if !over || self.end_of(2) >= new {
            return Ok(());
        }
        self.count("inherited");
        self.end(0, Crash::Power);
        self.net.heal();
        self.start(1)?;
        if self.promote(1)?.is_some() {
            self.append_at(1, 1, 20);
        }
        Ok(())
    }

    /// An ack of an earlier epoch arrives at a leader who led that one, too, for frames that its
    /// giver has given up since.
    fn stale_ack(&mut self) -> Checked {
        let Some(_) = self.set_up(0)? else { return Ok(()) };
        if !self.level_with(0)? {
            return Ok(());
        }
        self.note(|| "situation: stale ack".to_owned());
        let before = self.end_of(0);
        // Nodes 0 and 1 have these records, and nobody is told that node 1 has.
        self.net.separate(&[0, 1], 5);
        self.net.hold(1, 0);
        // One record, since the window opens for the next one with an answer.
        if !self.append_at(0, 1, 1900) {
            return Ok(());
        }
        let end = self.end_of(0);
        if !self.pass_until(|world| world.end_of(1) == end)? {
            return Ok(());
        }
        self.pass(self.setup.weather.delay_max)?;
        // The others go on without them, and they give the records up.
        let Some(_) = self.promote(2)? else { return Ok(()) };
        self.net.stop_holding();
        self.net.heal();
        let gave_up = self.level_with(2)? && self.end_of(1) < end && self.end_of(1) >= before;
        if !gave_up {
            return Ok(());
        }
        let Some(_) = self.promote(0)? else { return Ok(()) };
        if !self.level_with(0)? {
            return Ok(());
        }
        // What comes now goes to node 3 alone.
        self.net.separate(&[0, 3], 5);
        if !self.append_at(0, 4, 1500) {
            return Ok(());
        }
        let end = self.end_of(0);
        if !self.pass_until(|world| world.end_of(3) == end)? {
            return Ok(());
        }
        self.pass(self.setup.weather.delay_max)?;
        self.count("stale ack");
        self.net.heal_one_way(1, 0);
        self.net.release();
        self.pass(self.setup.weather.delay_max + Duration::from_millis(50))?;
        // Those who have the records are gone.
        self.end(0, Crash::Power);
        self.end(3, Crash::Power);
        self.net.heal();
        if self.promote(2)?.is_some() {
            self.append_at(2, 2, 20);
        }
        Ok(())
    }

    /// A leader has written much that nobody else has, and dies while it gives that up.
    fn long_tail(&mut self) -> Checked {
        let Some(_) = self.set_up(0)? else { return Ok(()) };
        let nodes = self.nodes.len();
        self.note(|| "situation: long tail".to_owned());
        drop(self.nodes[0].live.as_ref().map(|live| live.log.topic(TOPICS[0])));
        self.pass(Duration::from_millis(100))?;
        self.net.isolate(0, nodes);
        let records = 3 + self.rng.index(8);
        if !self.append_at(0, records, 1500) || self.promote(1)?.is_none() {
            return Ok(());
        }
        self.count("long tail");
        let disk = &self.nodes[0].disk;
        disk.die_at(disk.calls() + self.rng.below(70));
        self.net.heal();
        self.pass(Duration::from_millis(700))?;
        if self.nodes[0].is_dead() {
            let crash = if self.rng.chance(1, 2) { Crash::Kill } else { Crash::Power };
            self.end(0, crash);
            self.start(0)?;
        }
        Ok(())
    }
}
