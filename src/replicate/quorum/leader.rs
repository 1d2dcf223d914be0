//! The bookkeeping of one who leads an epoch: who holds how much, what to send to whom, and how
//! far enough copies go. No I/O, no lock: what is to be done comes out as effects.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::replicate::{Frames, Message};

use super::links::{Peer, State};
use super::member::Effect;
use super::options::Rules;

/// One who leads an epoch.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) epoch: Epoch,
    /// The log has said that it leads. Before, its first frame is on its way.
    pub(super) took_over: bool,
    /// Where the log ends.
    written: Position,
    /// Below this, the leader's own copy is durable.
    synced: Position,
    /// Below this, there are enough copies.
    advanced: Position,
    /// Below this, the leader's readers see.
    visible: Position,
    pub(super) peers: Vec<Peer>,
}

impl Leading {
    /// `connected` says of each peer whether it is.
    pub(super) fn new(epoch: Epoch, connected: &[bool], now: Duration) -> Self {
        Self {
            epoch,
            took_over: false,
            written: Position(0),
            synced: Position(0),
            advanced: Position(0),
            visible: Position(0),
            peers: connected.iter().map(|connected| Peer::new(*connected, now)).collect(),
        }
    }

    pub(super) fn took_over(&mut self, now: Duration) -> Vec<Effect> {
        self.took_over = true;
        (0..self.peers.len()).filter_map(|link| self.introduce(link, now)).collect()
    }

    /// Tells a replica who leads.
    fn introduce(&mut self, link: usize, now: Duration) -> Option<Effect> {
        let peer = &mut self.peers[link];
        if !self.took_over || !peer.connected {
            return None;
        }
        peer.probe(now);
        Some(Effect::Introduce { link, epoch: self.epoch })
    }

    pub(super) fn connected(&mut self, link: usize, now: Duration) -> Option<Effect> {
        self.peers[link].connected = true;
        self.introduce(link, now)
    }

    pub(super) fn disconnected(&mut self, link: usize) {
        let peer = &mut self.peers[link];
        peer.connected = false;
        peer.state = State::Silent;
    }

    pub(super) fn offer(&mut self, frames: &Frames, rules: &Rules, now: Duration) -> Vec<Effect> {
        if frames.epoch() != self.epoch {
            return Vec::new();
        }
        self.written = self.written.max(frames.end());
        let mut effects = Vec::new();
        for link in 0..self.peers.len() {
            effects.extend(self.send(link, frames, rules, now));
        }
        effects
    }

    fn send(
        &mut self,
        link: usize,
        frames: &Frames,
        rules: &Rules,
        now: Duration,
    ) -> Option<Effect> {
        let written = self.written;
        let progress = self.peers[link].following_mut()?;
        progress.lacks(written, now);
        if !progress.send(frames, rules.window, now) {
            return None;
        }
        let (epoch, visible) = (self.epoch, self.visible);
        Some(Effect::Send(link, Message::Frames { epoch, visible, frames: frames.clone() }))
    }

    pub(super) fn synced(&mut self, epoch: Epoch, end: Position) {
        if epoch == self.epoch {
            self.synced = self.synced.max(end);
        }
    }

    /// What follows from a commit that is over. A replica to which frames are on their way is fed
    /// when it answers.
    pub(super) fn settle(&mut self, rules: &Rules) -> Vec<Effect> {
        let mut effects = Vec::from_iter(self.advance(rules).or_else(|| self.look_again()));
        for link in 0..self.peers.len() {
            let is_idle = self.peers[link].following().is_some_and(|p| p.in_flight() == 0);
            effects.extend(is_idle.then(|| self.feed(link, rules)).flatten());
        }
        effects
    }

    /// Raises the mark below which there are enough copies.
    pub(super) fn advance(&mut self, rules: &Rules) -> Option<Effect> {
        let end = self.held(rules)?;
        if end <= self.advanced {
            return None;
        }
        self.advanced = end;
        Some(Effect::Advance { epoch: self.epoch, end })
    }

    /// Readers may see further than this leader knows: the log shows what has enough copies only
    /// once its own copy is durable, and that may have come last.
    fn look_again(&self) -> Option<Effect> {
        let may_see = self.advanced.min(self.synced);
        let advance = Effect::Advance { epoch: self.epoch, end: self.advanced };
        (self.visible < may_see).then_some(advance)
    }

    /// Reads for a replica that lacks frames and has room for them.
    fn feed(&mut self, link: usize, rules: &Rules) -> Option<Effect> {
        let written = self.written;
        let (from, bytes) = self.peers[link].following_mut()?.next_read(written, rules.window)?;
        Some(Effect::Read { link, epoch: self.epoch, from, bytes })
    }

    /// What was read for a replica.
    pub(super) fn read(
        &mut self,
        link: usize,
        frames: Result<Option<Frames>>,
        rules: &Rules,
        now: Duration,
    ) -> Vec<Effect> {
        let peer = &mut self.peers[link];
        if frames.is_ok() {
            peer.failure = None;
        }
        let Some(progress) = peer.following_mut() else { return Vec::new() };
        let again = progress.end_read();
        match frames {
            Ok(Some(frames)) => {
                let was_next = frames.start() == progress.sent_to;
                let sent = self.send(link, &frames, rules, now);
                // What has no room is read again when the replica answers.
                let goes_on = sent.is_some() || !was_next;
                let next = goes_on.then(|| self.feed(link, rules)).flatten();
                sent.into_iter().chain(next).collect()
            }
            Ok(None) if again => self.feed(link, rules).into_iter().collect(),
            // What was offered is not written yet, which settling tells.
            Ok(None) => Vec::new(),
            // It is not kept any more: the replica needs a snapshot, and will say so.
            Err(Error::NotContinuous { .. }) => self.introduce(link, now).into_iter().collect(),
            Err(error) => {
                self.cannot_feed(link, &error, now);
                Vec::new()
            }
        }
    }

    /// The leader's own log cannot be read for a replica. It is tried again with the next tick, and
    /// where the log is damaged, after a while.
    pub(super) fn cannot_feed(&mut self, link: usize, error: &Error, now: Duration) {
        let (peer, reason) = (&mut self.peers[link], format!("cannot read for it: {error}"));
        if matches!(error, Error::Corrupt { .. }) {
            peer.fail(reason, now);
            // What it would have to come through must not be kept for it.
            peer.floor = None;
        } else {
            peer.failure = Some(reason);
        }
    }

    /// Another number of copies is needed from now on.
    pub(super) fn count_anew(&mut self, rules: &Rules) {
        self.advanced = self.advanced.min(self.held(rules).unwrap_or_default());
    }

    /// An answer of a replica, in this epoch.
    pub(super) fn received(
        &mut self,
        link: usize,
        message: Message,
        rules: &Rules,
        now: Duration,
    ) -> Vec<Effect> {
        let (epoch, written) = (self.epoch, self.written);
        let stale_counts = mutant::on(Mutant::StaleAckCounted)
            && matches!(message, Message::Synced { .. } | Message::Following { .. });
        if (message.epoch() != epoch && !stale_counts) || !self.took_over {
            return Vec::new();
        }
        let peer = &mut self.peers[link];
        if !peer.connected {
            // It was said on a connection that is gone.
            return Vec::new();
        }
        peer.heard_at = now;
        match message {
            Message::Following { end, .. } | Message::Synced { end, .. } if end > written => {
                let reason = format!("it ends at position {end}, its leader at {written}");
                peer.fail(reason, now);
                Vec::new()
            }
            // Also of one that follows already: it may have been restarted and hold less.
            Message::Following { end, .. } => {
                peer.follow(end, written, (now, rules.lost_after));
                self.moved(link, rules)
            }
            Message::Synced { end, .. } => {
                let Some(progress) = peer.following_mut() else { return Vec::new() };
                progress.ack(end, written, (now, rules.lost_after));
                peer.floor = Some(progress.matched);
                self.moved(link, rules)
            }
            Message::Gap { end, .. } => {
                let Some(progress) = peer.following_mut() else { return Vec::new() };
                progress.gap(end);
                self.feed(link, rules).into_iter().collect()
            }
            Message::Unknown { .. } => {
                let was_told = !matches!(peer.state, State::Probing { .. });
                was_told.then(|| self.introduce(link, now)).flatten().into_iter().collect()
            }
            Message::NeedsSnapshot { .. } => {
                // One at a time, they are large.
                if matches!(peer.state, State::Probing { snapshot: true, .. }) {
                    return Vec::new();
                }
                peer.state = State::Probing { since: now, snapshot: true };
                vec![Effect::Snapshot { link, epoch }]
            }
            Message::Failed { reason, .. } => {
                peer.fail(reason, now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A replica holds more than before: so may enough of them, and it has room for more.
    fn moved(&mut self, link: usize, rules: &Rules) -> Vec<Effect> {
        // The advance comes first: callers wait for it.
        let advance = self.advance(rules);
        advance.into_iter().chain(self.feed(link, rules)).collect()
    }

    /// The readers see up to here.
    pub(super) fn visible(&mut self, end: Position) {
        self.visible = self.visible.max(end);
    }

    /// The replica was sent a snapshot of this position.
    pub(super) fn snapshot_sent(&mut self, link: usize, position: Position) {
        self.peers[link].floor = Some(position);
    }

    pub(super) fn tick(&mut self, rules: &Rules, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::from_iter(self.look_again());
        for link in 0..self.peers.len() {
            let peer = &mut self.peers[link];
            match &mut peer.state {
                State::Silent => effects.extend(self.introduce(link, now)),
                State::Probing { since, .. } | State::Failed { since } => {
                    if now.saturating_sub(*since) >= rules.resend_after {
                        effects.extend(self.introduce(link, now));
                    }
                }
                State::Following(progress) => {
                    progress.resend(now, rules.resend_after);
                    if std::mem::replace(&mut progress.quiet, true) {
                        let (epoch, visible) = (self.epoch, self.visible);
                        effects.push(Effect::Send(link, Message::Visible { epoch, visible }));
                    }
                    effects.extend(self.feed(link, rules));
                }
            }
        }
        effects
    }

    /// How many replicas are in sync, the leader included.
    pub(super) fn available(&self, rules: &Rules, now: Duration) -> usize {
        1 + self.peers.iter().filter(|peer| peer.is_available(now, rules.lost_after)).count()
    }

    /// Whether something lacks copies that replicas which are there could still take.
    pub(super) fn awaits_copies(&self, rules: &Rules) -> bool {
        let there = 1 + self.peers.iter().filter(|peer| peer.following().is_some()).count();
        self.written > self.advanced && there >= rules.copies
    }

    /// How many bytes lack copies.
    pub(super) fn lag(&self, rules: &Rules) -> u64 {
        // Not what was called safe with fewer copies.
        self.written.0.saturating_sub(self.held(rules).map_or(0, |held| held.0))
    }

    /// How far enough replicas go: the one that has the least of those `copies` that have the most.
    fn held(&self, rules: &Rules) -> Option<Position> {
        let matched = self.peers.iter().filter_map(|peer| Some(peer.following()?.matched));
        let mut ends: Vec<_> = matched.chain([self.synced]).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(rules.copies - 1).copied()
    }

    pub(super) fn needed_from(&self) -> Option<Position> {
        self.peers.iter().filter_map(|peer| peer.floor).min()
    }
}
