//! The end of a run: the network is whole, the disks work, everybody is up. Then there must be a
//! leader, everybody must become equal, and all that was promised must be there.

use std::time::Duration;

use ackline::{Epoch, Explanation, Offset};

use super::clients::TOPICS;
use super::world::World;
use super::{Checked, ensure};

impl World {
    pub(crate) fn finish(&mut self) -> Checked {
        self.note(|| "finish".to_owned());
        self.net.heal();
        self.net.weather.loss = 0;
        self.setup.calm = 10;
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.clear_faults();
            self.nodes[node].disk.die_at(u64::MAX);
            if self.nodes[node].is_poisoned() || self.nodes[node].is_dead() {
                self.end(node, ackline::simulation::Crash::Power);
            }
            if self.nodes[node].live.is_none() {
                self.start(node)?;
            }
        }
        let (leader, epoch) = self.elect()?;
        self.append_until_safe(leader)?;
        self.level()?;
        for node in 0..self.nodes.len() {
            self.check_node(node)?;
        }
        self.check_group(leader, epoch)
    }

    /// Lets each node try in turn, until one is made the leader: whoever goes furthest can be.
    fn elect(&mut self) -> Checked<(usize, Epoch)> {
        for node in (0..self.nodes.len()).chain(0..self.nodes.len()) {
            self.campaign_of(node);
            let epoch = self.epoch;
            for _ in 0..20 {
                self.pass(Duration::from_millis(100))?;
                self.look_after_clients()?;
                for node in 0..self.nodes.len() {
                    ensure!(self.nodes[node].live.is_some(), "node {node} ended without a fault");
                }
                if self.nodes[node].leads() == Some(epoch) {
                    self.note(|| format!("node {node} leads epoch {epoch}"));
                    return Ok((node, epoch));
                }
            }
        }
        ensure!(false, "nobody can be made the leader");
        Ok((0, Epoch(0)))
    }

    /// Once an append of the new leader is answered, everything before it is visible.
    fn append_until_safe(&mut self, leader: usize) -> Checked {
        for _ in 0..100 {
            let before = self.tally.get("acknowledged").copied().unwrap_or_default();
            self.submit();
            self.pass(Duration::from_millis(200))?;
            self.look_after_clients()?;
            if self.tally.get("acknowledged").copied().unwrap_or_default() > before {
                return Ok(());
            }
        }
        let peers = self.nodes[leader].live.as_ref().map(|live| live.quorum.peers());
        ensure!(false, "node {leader} leads and is not answered: {peers:?}");
        Ok(())
    }

    /// Waits until all replicas hold and show the same.
    fn level(&mut self) -> Checked {
        let mut stands = Vec::new();
        for _ in 0..200 {
            self.pass(Duration::from_millis(100))?;
            self.look_after_clients()?;
            let lives = self.nodes.iter().filter_map(|node| node.live.as_ref());
            stands = lives
                .map(|live| {
                    let stats = live.log.stats();
                    (stats.written, stats.durable, stats.visible)
                })
                .collect();
            let first = stands[0];
            let equal = stands.iter().all(|stand| *stand == first);
            if equal && stands.len() == self.nodes.len() && first.0 == first.2 {
                return Ok(());
            }
        }
        ensure!(false, "the replicas do not become equal: {stands:?}");
        Ok(())
    }

    fn check_node(&mut self, node: usize) -> Checked {
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        let who = format!("node {node}");
        let names = live.log.topics();
        let mut read = Vec::new();
        for (topic, name) in TOPICS.iter().enumerate() {
            if !names.iter().any(|known| known == name) {
                read.push((topic, Offset(0), Vec::new()));
                continue;
            }
            let handle = live.log.topic(name);
            ensure!(handle.is_ok(), "{who} has lost {name}: {handle:?}");
            let Ok(handle) = handle else { continue };
            let start = handle.offsets().start;
            let mut payloads = Vec::new();
            let reader = handle.read_from(start);
            ensure!(reader.is_ok(), "{who} cannot read {name}: {reader:?}");
            for message in reader.into_iter().flatten() {
                ensure!(message.is_ok(), "{who} cannot read {name}: {message:?}");
                payloads.extend(message.map(|message| message.payload().to_vec()));
            }
            read.push((topic, start, payloads));
        }
        let needed = self.model.first_needed();
        for (topic, start, payloads) in read {
            // Retention may take what the group has done, and nothing else.
            let bound = if topic == 0 && !self.setup.keeps_consumed { needed } else { 0 };
            ensure!(start.0 <= bound, "{who} begins topic {topic} at {start}, needed is {bound}");
            self.model.check_topic(topic, start, &payloads, &who)?;
        }
        Ok(())
    }

    /// No acknowledgement of the group that was committed is undone.
    fn check_group(&mut self, leader: usize, epoch: Epoch) -> Checked {
        let Some(live) = &self.nodes[leader].live else { return Ok(()) };
        ensure!(self.nodes[leader].leads() == Some(epoch), "node {leader} leads no more");
        let settled: Vec<u64> = self.model.settled().collect();
        if settled.is_empty() {
            return Ok(());
        }
        let group = live.log.topic(TOPICS[0]).and_then(|topic| topic.group("g"));
        ensure!(group.is_ok(), "the group is lost: {group:?}");
        let Ok(group) = group else { return Ok(()) };
        for offset in settled {
            let explained = group.explain(Offset(offset));
            let kept = matches!(explained, Ok(Explanation::Settled | Explanation::Gone));
            ensure!(kept, "the acknowledgement of {offset} is undone: {explained:?}");
        }
        Ok(())
    }
}
