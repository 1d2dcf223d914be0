//! What a replica is in its quorum, and what follows from what it hears: a state machine without
//! I/O, locks or time of its own. Each input returns what is to be done, in order.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::replicate::{Frames, LogEnd, Message, ReplicaStatus};

use super::leader::Leading;
use super::options::Rules;

/// What is to be done, by someone who holds no lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Send(usize, Message),
    /// Send `Lead` with the log's history as it is then.
    Introduce {
        link: usize,
        epoch: Epoch,
    },
    /// Send a snapshot of the log.
    Snapshot {
        link: usize,
        epoch: Epoch,
    },
    /// Read frames, and tell [`Member::read`].
    Read {
        link: usize,
        epoch: Epoch,
        from: Position,
        bytes: u64,
    },
    /// Tell the log that there are enough copies, and [`Member::visible`] what it shows now.
    Advance {
        epoch: Epoch,
        end: Position,
    },
    /// Make the log follow.
    Follow(Epoch),
    /// Make the log lead, and tell [`Member::led`].
    Lead(Epoch, LogEnd),
}

#[derive(Debug)]
enum State {
    Following,
    Candidate(Candidate),
    Leading(Leading),
}

/// One who collects promises.
#[derive(Debug)]
struct Candidate {
    epoch: Epoch,
    own: LogEnd,
    /// Of each peer, what it has promised with.
    promises: Vec<Option<LogEnd>>,
    asked_at: Duration,
}

impl Candidate {
    fn ask(&self, connected: &[bool]) -> Vec<Effect> {
        let missing = |link: &usize| connected[*link] && self.promises[*link].is_none();
        let ask = |link| Effect::Send(link, Message::Campaign { epoch: self.epoch });
        (0..connected.len()).filter(missing).map(ask).collect()
    }

    /// How many there are, its own included.
    fn count(&self) -> usize {
        1 + self.promises.iter().flatten().count()
    }
}

/// One replica's part in the quorum.
#[derive(Debug)]
pub(super) struct Member {
    rules: Rules,
    /// As many copies must do, because the host said so.
    degraded: Option<usize>,
    /// As of the last tick.
    now: Option<Duration>,
    connected: Vec<bool>,
    state: State,
    /// How the last campaign ended.
    ended: Option<(Epoch, Result<()>)>,
}

impl Member {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            degraded: None,
            now: None,
            connected: vec![true; rules.nodes - 1],
            state: State::Following,
            ended: None,
        }
    }

    /// The rules as they are in force.
    pub(super) fn rules(&self) -> Rules {
        match self.degraded {
            Some(copies) => Rules { copies, in_sync: copies, ..self.rules },
            None => self.rules,
        }
    }

    pub(super) fn now(&self) -> Option<Duration> {
        self.now
    }

    fn time(&self) -> Duration {
        self.now.unwrap_or_default()
    }

    fn leading(&mut self) -> Option<&mut Leading> {
        match &mut self.state {
            State::Leading(leading) => Some(leading),
            _ => None,
        }
    }

    fn leading_in(&mut self, epoch: Epoch) -> Option<&mut Leading> {
        self.leading().filter(|leading| leading.epoch == epoch)
    }

    pub(super) fn leader(&self) -> Option<&Leading> {
        match &self.state {
            State::Leading(leading) => Some(leading),
            _ => None,
        }
    }

    /// The epoch that this replica leads, or wants to.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match &self.state {
            State::Following => None,
            State::Candidate(candidate) => Some(candidate.epoch),
            State::Leading(leading) => Some(leading.epoch),
        }
    }

    /// The promises that are needed and those that are there, of a campaign that is on.
    pub(super) fn promises(&self, epoch: Epoch) -> Option<(usize, usize)> {
        match &self.state {
            State::Candidate(candidate) if candidate.epoch == epoch => {
                Some((self.rules().promises(), candidate.count()))
            }
            _ => None,
        }
    }

    /// How the campaign for this epoch ended, if it has.
    pub(super) fn outcome(&self, epoch: Epoch) -> Option<Result<()>> {
        match (&self.state, &self.ended) {
            (State::Leading(leading), _) if leading.epoch == epoch => {
                leading.took_over.then_some(Ok(()))
            }
            (State::Candidate(candidate), _) if candidate.epoch == epoch => None,
            (_, Some((of, result))) if *of == epoch => Some(result.clone()),
            // Another one came after it.
            (_, Some((newer, _))) => Some(Err(Error::Fenced { epoch: *newer })),
            (_, None) => Some(Err(Error::Fenced { epoch })),
        }
    }

    /// Begins to follow. What was begun for an older epoch is over with this result.
    fn stop(&mut self, result: Result<()>) {
        if let Some(epoch) = self.epoch() {
            self.ended = Some((epoch, result));
        }
        self.state = State::Following;
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let is_first = self.now.replace(now).is_none();
        let rules = self.rules();
        match &mut self.state {
            State::Following => Vec::new(),
            State::Candidate(candidate) => {
                if now.saturating_sub(candidate.asked_at) < rules.resend_after {
                    return Vec::new();
                }
                candidate.asked_at = now;
                candidate.ask(&self.connected)
            }
            State::Leading(leading) => {
                if is_first {
                    // Until now there was no time in which they could have been silent.
                    leading.peers.iter_mut().for_each(|peer| peer.heard_at = now);
                }
                leading.tick(&rules, now)
            }
        }
    }

    pub(super) fn connected(&mut self, link: usize) -> Vec<Effect> {
        let now = self.time();
        self.connected[link] = true;
        match &mut self.state {
            State::Following => Vec::new(),
            State::Candidate(candidate) if candidate.promises[link].is_some() => Vec::new(),
            State::Candidate(candidate) => {
                vec![Effect::Send(link, Message::Campaign { epoch: candidate.epoch })]
            }
            State::Leading(leading) => leading.connected(link, now).into_iter().collect(),
        }
    }

    pub(super) fn disconnected(&mut self, link: usize) {
        self.connected[link] = false;
        if let Some(leading) = self.leading() {
            leading.disconnected(link);
        }
    }

    /// Asks for the promise of an epoch, after the own log has promised it and goes this far.
    pub(super) fn campaign(&mut self, epoch: Epoch, own: LogEnd) -> Result<Vec<Effect>> {
        if let Some(newer) = self.epoch().filter(|known| *known >= epoch) {
            return Err(Error::Fenced { epoch: newer });
        }
        self.stop(Err(Error::Fenced { epoch }));
        let promises = vec![None; self.connected.len()];
        let candidate = Candidate { epoch, own, promises, asked_at: self.time() };
        let asks = candidate.ask(&self.connected);
        self.state = State::Candidate(candidate);
        Ok(asks.into_iter().chain(self.win()).collect())
    }

    /// Gives up a campaign that has not been won.
    pub(super) fn abandon(&mut self, epoch: Epoch, error: Error) {
        if self.promises(epoch).is_some() {
            self.stop(Err(error));
        }
    }

    /// Leads, once there are enough promises.
    fn win(&mut self) -> Option<Effect> {
        let missing = usize::from(mutant::on(Mutant::TooFewPromises));
        let needed = self.rules().promises() - missing;
        let State::Candidate(candidate) = &self.state else { return None };
        if candidate.count() < needed {
            return None;
        }
        let furthest = candidate.promises.iter().flatten().fold(candidate.own, |a, b| a.max(*b));
        let furthest =
            if mutant::on(Mutant::PromoteLagging) { LogEnd::default() } else { furthest };
        let epoch = candidate.epoch;
        // The log offers its first frame of the epoch before it has said that it leads.
        self.state = State::Leading(Leading::new(epoch, &self.connected, self.time()));
        Some(Effect::Lead(epoch, furthest))
    }

    /// What the log answered when it was to lead.
    pub(super) fn led(&mut self, epoch: Epoch, result: Result<()>) -> Vec<Effect> {
        let now = self.time();
        match (result, self.leading_in(epoch)) {
            (Ok(()), Some(leading)) => leading.took_over(now),
            (Err(error), Some(_)) => {
                self.stop(Err(error));
                Vec::new()
            }
            // A newer epoch came in between.
            (_, None) => Vec::new(),
        }
    }

    /// Another replica acts for this epoch. `false` if this one does so itself, which cannot be
    /// unless an epoch is given twice.
    pub(super) fn heard_of(&mut self, epoch: Epoch) -> bool {
        match self.epoch() {
            Some(own) if own == epoch => false,
            Some(own) if own < epoch => {
                self.stop(Err(Error::Fenced { epoch }));
                true
            }
            _ => true,
        }
    }

    /// An answer of a replica.
    pub(super) fn received(&mut self, link: usize, message: Message) -> Vec<Effect> {
        let (rules, now) = (self.rules(), self.time());
        if let Message::Fenced { epoch } = message {
            if self.epoch().is_none_or(|own| own >= epoch) {
                return Vec::new();
            }
            self.stop(Err(Error::Fenced { epoch }));
            return vec![Effect::Follow(epoch)];
        }
        match &mut self.state {
            State::Following => Vec::new(),
            State::Candidate(candidate) => {
                if let Message::Promised { epoch, end } = message
                    && epoch == candidate.epoch
                {
                    candidate.promises[link] = Some(end);
                }
                self.win().into_iter().collect()
            }
            State::Leading(leading) => leading.received(link, message, &rules, now),
        }
    }

    pub(super) fn offer(&mut self, frames: &Frames) -> Vec<Effect> {
        let (rules, now) = (self.rules(), self.time());
        self.leading().map_or_else(Vec::new, |leading| leading.offer(frames, &rules, now))
    }

    pub(super) fn synced(&mut self, epoch: Epoch, end: Position) {
        if let Some(leading) = self.leading() {
            leading.synced(epoch, end);
        }
    }

    pub(super) fn settle(&mut self) -> Vec<Effect> {
        let rules = self.rules();
        self.leading().map_or_else(Vec::new, |leading| leading.settle(&rules))
    }

    pub(super) fn read(
        &mut self,
        link: usize,
        epoch: Epoch,
        frames: Result<Option<Frames>>,
    ) -> Vec<Effect> {
        let (rules, now) = (self.rules(), self.time());
        let leading = self.leading_in(epoch);
        leading.map_or_else(Vec::new, |leading| leading.read(link, frames, &rules, now))
    }

    pub(super) fn visible(&mut self, epoch: Epoch, end: Position) {
        if let Some(leading) = self.leading_in(epoch) {
            leading.visible(end);
        }
    }

    pub(super) fn snapshot_sent(&mut self, link: usize, epoch: Epoch, position: Position) {
        if let Some(leading) = self.leading_in(epoch) {
            leading.snapshot_sent(link, position);
        }
    }

    pub(super) fn cannot_feed(&mut self, link: usize, epoch: Epoch, error: &Error) {
        let now = self.time();
        if let Some(leading) = self.leading_in(epoch) {
            leading.cannot_feed(link, error, now);
        }
    }

    /// Fewer copies must do from now on, or again as many as were asked for.
    pub(super) fn degrade(&mut self, copies: Option<usize>) -> Result<Vec<Effect>> {
        if copies.is_some_and(|copies| copies == 0 || copies >= self.rules.copies) {
            let reason = format!("not from 1 to {}", self.rules.copies - 1);
            return Err(Error::InvalidOption { option: "copies", reason });
        }
        self.degraded = copies;
        let rules = self.rules();
        if let Some(leading) = self.leading() {
            leading.count_anew(&rules);
        }
        // A record may need fewer copies than before, or, the other way round, a campaign fewer
        // promises.
        Ok(self.win().into_iter().chain(self.settle()).collect())
    }

    /// The log is gone.
    pub(super) fn detach(&mut self) {
        self.stop(Err(Error::Closed));
    }

    pub(super) fn status(&self) -> ReplicaStatus {
        let (rules, now) = (self.rules(), self.time());
        let State::Leading(leading) = &self.state else { return ReplicaStatus::Following };
        let available = leading.available(&rules, now);
        match self.degraded {
            _ if available < rules.in_sync => {
                ReplicaStatus::Unavailable { needed: rules.in_sync, available }
            }
            Some(copies) => ReplicaStatus::Degraded { copies },
            None => ReplicaStatus::Healthy { lag: leading.lag(&rules) },
        }
    }

    pub(super) fn needed_from(&self) -> Option<Position> {
        self.leader().and_then(Leading::needed_from)
    }
}
