//! Producers, consumers and readers, who talk to whichever node they think of.

use std::task::Poll;
use std::time::Duration;

use ackline::{Acknowledged, Epoch, Error, Group, Offset};

use super::node::{Next, poll};
use super::world::{Answer, World};
use super::{Checked, ensure};

pub(crate) const TOPICS: [&str; 2] = ["t0", "t1"];
const GROUP: &str = "g";

/// A record that was handed to a leader.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) node: usize,
    pub(crate) life: u64,
    epoch: Epoch,
    topic: usize,
    payload: Vec<u8>,
    answer: Option<Answer>,
}

impl World {
    /// A node that says that it leads, if any does; mostly the newest one.
    fn draw_leader(&mut self) -> Option<(usize, Epoch)> {
        let mut leaders: Vec<(Epoch, usize)> = (0..self.nodes.len())
            .filter_map(|node| Some((self.nodes[node].leads()?, node)))
            .collect();
        leaders.sort_unstable();
        let newest = leaders.last().copied()?;
        let drawn = leaders[self.rng.index(leaders.len())];
        let (epoch, node) = if self.rng.chance(1, 2) { newest } else { drawn };
        Some((node, epoch))
    }

    pub(crate) fn submit(&mut self) {
        let Some((node, epoch)) = self.draw_leader() else { return };
        // What nobody consumes is kept, and all behind it.
        let topic = if self.setup.keeps_consumed { self.rng.index(TOPICS.len()) } else { 0 };
        let life = self.nodes[node].life;
        for _ in 0..=self.rng.index(4) {
            let Some(process) = &self.nodes[node].live else { return };
            // Where it fails, the next attempt finds the topic, or makes it again.
            let Ok(handle) = process.log.topic(TOPICS[topic]) else { return };
            self.number += 1;
            let size = if self.rng.chance(1, 5) { 1500 } else { 20 };
            let mut payload = format!("#{} ", self.number).into_bytes();
            payload.resize(payload.len() + size, b'.');
            self.model.submit(&payload);
            let answer = Some(handle.submit(payload.clone()));
            self.submitted.push(Submitted { node, life, epoch, topic, payload, answer });
            self.count("submit");
        }
        let number = self.number;
        self.note(|| format!("submit up to #{number} to node {node} in epoch {epoch}"));
    }

    /// Looks whether producers were answered and consumers have something.
    pub(crate) fn look_after_clients(&mut self) -> Checked {
        for mut submitted in std::mem::take(&mut self.submitted) {
            let Some(answer) = submitted.answer.take() else { continue };
            match answer.wait_timeout(Duration::ZERO) {
                Err(pending) => {
                    submitted.answer = Some(pending);
                    self.submitted.push(submitted);
                }
                Ok(Ok(receipt)) => {
                    self.count("acknowledged");
                    let is_replicated = receipt.acknowledged == Acknowledged::Replicated;
                    ensure!(is_replicated, "{receipt:?} is not replicated");
                    let Submitted { node, epoch, topic, payload, .. } = &submitted;
                    let place = (*topic, receipt.offset.0);
                    self.model.acknowledge(place, payload, *node, *epoch)?;
                    let number = String::from_utf8_lossy(&payload[..6]).into_owned();
                    self.note(|| format!("acknowledged {number} at {place:?} by {node}"));
                }
                Ok(Err(error)) => self.refused(&error),
            }
        }
        for node in 0..self.nodes.len() {
            self.look_after_consumer(node)?;
        }
        Ok(())
    }

    fn refused(&mut self, error: &Error) {
        self.count(match error {
            Error::Fenced { .. } => "fenced",
            Error::ReplicasUnavailable { .. } => "unavailable",
            Error::ReplicaTimeout { .. } => "replica timeout",
            Error::Poisoned { .. } => "append poisoned",
            Error::Full { .. } => "full",
            _ => "other refusal",
        });
    }

    /// A consumer of some leader takes, ends or commits something.
    pub(crate) fn consume(&mut self) -> Checked {
        let Some((node, epoch)) = self.draw_leader() else { return Ok(()) };
        let Some(group) = self.group_of(node, epoch) else { return Ok(()) };
        let choice = self.rng.below(10);
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        match choice {
            0..5 if live.waiting.is_none() => {
                let next: Next = Box::pin(async move { group.next().await });
                live.waiting = Some((epoch, next));
                self.look_after_consumer(node)
            }
            5..8 => {
                self.end_delivery(node);
                Ok(())
            }
            8 if !self.setup.keeps_consumed => self.commit_through(node, epoch, &group),
            _ => self.commit(node, epoch, &group),
        }
    }

    /// The group's handle of a leadership.
    fn group_of(&mut self, node: usize, epoch: Epoch) -> Option<Group> {
        let live = self.nodes[node].live.as_mut()?;
        if let Some((of, group)) = &live.group
            && *of == epoch
        {
            return Some(group.clone());
        }
        // What was held of an earlier leadership is of no use any more.
        let group = live.log.topic(TOPICS[0]).and_then(|topic| topic.group(GROUP)).ok()?;
        live.group = Some((epoch, group.clone()));
        live.waiting = None;
        live.held.clear();
        live.acked.clear();
        live.committing = false;
        self.count("group");
        Some(group)
    }

    fn look_after_consumer(&mut self, node: usize) -> Checked {
        self.go_on_committing(node)?;
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        let Some((epoch, mut next)) = live.waiting.take() else { return Ok(()) };
        match poll(&mut next) {
            Poll::Pending => live.waiting = Some((epoch, next)),
            Poll::Ready(Ok(delivery)) => {
                let (offset, attempt) = (delivery.offset().0, delivery.attempt());
                let payload = delivery.payload().to_vec();
                live.held.push((epoch, delivery));
                self.count("delivered");
                if attempt > 1 {
                    self.count("redelivered");
                }
                self.note(|| {
                    format!("node {node} delivers {offset}, attempt {attempt}, in {epoch}")
                });
                self.model.see((0, offset), &payload, "a consumer")?;
                self.model.deliver(offset, attempt, epoch)?;
            }
            Poll::Ready(Err(_)) => self.count("delivery failed"),
        }
        Ok(())
    }

    fn end_delivery(&mut self, node: usize) {
        let choice = self.rng.below(6);
        let Some(live) = &mut self.nodes[node].live else { return };
        if live.held.is_empty() {
            return;
        }
        let (epoch, delivery) = live.held.remove(0);
        let (offset, attempt) = (delivery.offset().0, delivery.attempt());
        let ended = match choice {
            0 => {
                drop(delivery);
                self.count("dropped");
                return;
            }
            1 => delivery.retry_after(Duration::from_millis(30)).map(|()| "retried"),
            2 => delivery.release().map(|()| "released"),
            _ => delivery.ack().map(|()| {
                live.acked.push((epoch, offset));
                self.model.ack(offset);
                "acked"
            }),
        };
        if let Ok("released") = ended {
            self.model.release(offset, attempt, epoch);
        }
        self.note(|| format!("node {node}: {offset} is {ended:?}"));
        self.count(ended.unwrap_or("outcome refused"));
    }

    /// Everything that is visible is acknowledged at once.
    fn commit_through(&mut self, node: usize, epoch: Epoch, group: &Group) -> Checked {
        let Some(last) = group.topic().offsets().end.0.checked_sub(1) else { return Ok(()) };
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        for offset in group.topic().offsets().start.0..=last {
            self.model.ack(offset);
            live.acked.push((epoch, offset));
        }
        self.count("committed through");
        // It answers that replicas do not have it yet; committing goes on.
        drop(group.commit_through(Offset(last)));
        self.commit(node, epoch, group)
    }

    /// What was acknowledged is committed again, until replicas have it.
    fn go_on_committing(&mut self, node: usize) -> Checked {
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        match &live.group {
            Some((epoch, group)) if live.committing => {
                let (epoch, group) = (*epoch, group.clone());
                self.commit(node, epoch, &group)
            }
            _ => Ok(()),
        }
    }

    fn commit(&mut self, node: usize, epoch: Epoch, group: &Group) -> Checked {
        let committed = group.commit();
        self.note(|| format!("node {node} commits: {committed:?}"));
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        let acked: Vec<u64> =
            live.acked.iter().filter(|acked| acked.0 == epoch).map(|acked| acked.1).collect();
        live.committing = committed.is_err() && !acked.is_empty();
        match committed {
            Ok(()) => {
                live.acked.clear();
                self.count("committed");
                self.model.settle(&acked, node, epoch)
            }
            Err(error) => {
                self.count("commit refused");
                self.refused(&error);
                Ok(())
            }
        }
    }

    /// Reads on what has become visible on a node: from then on it must be there for ever.
    pub(crate) fn read_on(&mut self, node: usize) -> Checked {
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        let names = live.log.topics();
        let mut seen = Vec::new();
        for (topic, name) in TOPICS.iter().enumerate() {
            if !names.iter().any(|known| known == name) {
                continue;
            }
            let Ok(handle) = live.log.topic(name) else { continue };
            let reader = match live.readers[topic].take() {
                Some(reader) if reader.next_offset() >= handle.offsets().start => Some(reader),
                // Not opened yet, or retention was faster.
                _ => handle.read_from(handle.offsets().start).ok(),
            };
            let Some(mut reader) = reader else { continue };
            while let Some(Ok(message)) = reader.next() {
                seen.push((topic, message));
            }
            live.readers[topic] = Some(reader);
        }
        for (topic, message) in seen {
            let place = (topic, message.offset().0);
            self.model.see(place, message.payload(), &format!("a reader of {node}"))?;
        }
        Ok(())
    }

    /// Reads a topic on any node, wherever it leads or follows: what is visible stays.
    pub(crate) fn read_somewhere(&mut self) -> Checked {
        let node = self.rng.index(self.nodes.len());
        let Some(live) = &self.nodes[node].live else { return Ok(()) };
        let topic = self.rng.index(TOPICS.len());
        if !live.log.topics().iter().any(|name| name == TOPICS[topic]) {
            return Ok(());
        }
        let Ok(handle) = live.log.topic(TOPICS[topic]) else { return Ok(()) };
        let start = handle.offsets().start;
        let Ok(reader) = handle.read_from(start) else { return Ok(()) };
        // A disk that fails fails again.
        let read: Vec<_> = reader.map_while(Result::ok).collect();
        self.count("read");
        if self.nodes[node].leads().is_none() {
            self.count("read of a follower");
        }
        if start > Offset(0) {
            self.count("segment deleted");
        }
        for message in read {
            let Offset(offset) = message.offset();
            self.model.see((topic, offset), message.payload(), &format!("a reader of {node}"))?;
        }
        Ok(())
    }
}
