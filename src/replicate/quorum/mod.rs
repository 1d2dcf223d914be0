//! k of n copies over any transport.
//!
//! Who decides and who acts are apart. `member` and `leader` are a state machine: what was heard
//! goes in, what is to be done comes out. The shell in this file feeds it under one lock and acts
//! under none, so that the log may be called, whose locks come before this one.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the quorum as the host and the log see it |
//! | `options` | how many copies there must be |
//! | `member` | following, collecting promises, leading |
//! | `leader` | who holds how much, and what to send to whom |
//! | `links` | one replica, as its leader knows it |
//! | `report` | what the host is told of that |

#[cfg(test)]
mod closing_tests;
mod leader;
mod links;
mod member;
pub(crate) mod options;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::offset::{Epoch, Position};
use crate::sync::{Mutex, Signal};

use super::follower::Follower;
use super::{Frames, LogHandle, Message, ReplicaStatus, Replicator};
use member::{Effect, Member};
use options::QuorumOptions;
use report::{PeerReport, Role, report};

/// The way to one other replica.
///
/// Messages may get lost, be doubled or overtake one another. What comes back is handed to
/// [`Quorum::received`].
pub trait Link: Send + Sync + fmt::Debug + 'static {
    /// Carries a message to the other replica, or loses it. Never blocks, and never calls a
    /// [`Quorum`]: it may be called in the middle of a commit. Drop messages rather than queue
    /// without a limit; they are said again.
    fn send(&self, message: Message);
}

/// A [`Replicator`] that counts: an append is answered once k of n replicas hold it durably. Cheap
/// to clone; all clones are one.
///
/// Each replica has one, whether it leads or follows, with a [`Link`] to each of the others. It
/// does not elect: the host decides who is promoted, when, and gives it an epoch. What it promises:
///
/// - A replica that lacks anything that was acknowledged is not promoted.
/// - Of two leaders, only the one with the greater epoch is obeyed by replicas that know of both,
///   and the other one cannot have enough copies any more.
/// - It never goes on with fewer copies by itself; see
///   [`continue_degraded`](Self::continue_degraded).
///
/// The host must give each epoch to one replica once, ever; a replica that was restarted needs a
/// greater one to lead again.
///
/// It has no thread and no clock: time comes with [`Replicator::tick`], from the log.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use ackline::replicate::{Link, Message, Quorum, QuorumOptions};
/// use ackline::{Epoch, Options};
///
/// #[derive(Debug)]
/// struct ToPeer(std::sync::mpsc::SyncSender<Vec<u8>>);
///
/// impl Link for ToPeer {
///     fn send(&self, message: Message) {
///         // Lost if the peer's queue is full: it is said again.
///         drop(self.0.try_send(message.encode()));
///     }
/// }
///
/// # let (to_b, _) = std::sync::mpsc::sync_channel(1000);
/// # let (to_c, _) = std::sync::mpsc::sync_channel(1000);
/// // Two copies of three.
/// let links: Vec<Arc<dyn Link>> = vec![Arc::new(ToPeer(to_b)), Arc::new(ToPeer(to_c))];
/// let quorum = Quorum::new(&QuorumOptions::new(2), links)?;
/// let log = Options::new().replicator(Arc::new(quorum.clone())).open("queue")?;
///
/// // A thread for each peer hands over what comes from it:
/// # let bytes = Vec::new();
/// quorum.received(0, Message::decode(&bytes)?);
///
/// // Somebody decided that this replica shall lead.
/// quorum.promote(Epoch(12), Duration::from_secs(5))?;
/// // Refused until one of the others has joined; then on two disks when it returns.
/// log.topic("orders")?.append("order 1")?;
/// # Ok::<(), ackline::Error>(())
/// ```
#[derive(Clone)]
pub struct Quorum {
    inner: Arc<Inner>,
}

struct Inner {
    links: Vec<Arc<dyn Link>>,
    log_id: u128,
    /// Taken inside of the log's locks, so the log is not called while it is held.
    shared: Mutex<Shared>,
    /// Held while messages leave, so that they leave in the order in which they were decided on.
    sending: Mutex<()>,
    attached: Mutex<Option<Arc<Attached>>>,
    /// Something that a caller may wait for has changed.
    changed: Signal,
}

struct Shared {
    member: Member,
    outbox: VecDeque<(usize, Message)>,
}

/// What there is while a log is attached.
struct Attached {
    log: LogHandle,
    follower: Follower,
}

impl fmt::Debug for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quorum")
            .field("nodes", &(self.inner.links.len() + 1))
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}

impl Quorum {
    /// A quorum of this replica and those that the links lead to. They count as connected until
    /// [`disconnected`](Self::disconnected) is called.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if there cannot be so many copies, or so many replicas in sync.
    pub fn new(options: &QuorumOptions, links: Vec<Arc<dyn Link>>) -> Result<Self> {
        let member = Member::new(options.rules(links.len() + 1)?);
        Ok(Self {
            inner: Arc::new(Inner {
                links,
                log_id: options.log_id,
                shared: Mutex::new(Shared { member, outbox: VecDeque::new() }),
                sending: Mutex::default(),
                attached: Mutex::default(),
                changed: Signal::default(),
            }),
        })
    }

    /// Takes a message that came over a link; they are numbered as they were given to
    /// [`new`](Self::new). What comes of an unknown one is ignored.
    ///
    /// It may write and wait for the disk: answers that are due are sent when it returns. Call it
    /// under no lock, and from one thread for each link.
    pub fn received(&self, link: usize, message: Message) {
        self.received_all(link, [message]);
    }

    /// Takes several messages that came over a link, in order. Frames among them share one sync,
    /// so that a replica that has fallen behind catches up: hand over at once whatever has come.
    pub fn received_all(&self, link: usize, messages: impl IntoIterator<Item = Message>) {
        let Some(attached) = self.attached() else { return };
        if link >= self.inner.links.len() {
            return;
        }
        let mut for_replica = Vec::new();
        for message in messages {
            if !message.is_for_replica() {
                self.act(|member| member.received(link, message));
                continue;
            }
            let epoch = message.epoch();
            let obeys = self.inner.shared.lock().member.heard_of(epoch);
            if obeys {
                for_replica.push(message);
            } else {
                let reason = format!("epoch {epoch} was given to two replicas");
                self.inner.links[link].send(Message::Failed { epoch, reason });
            }
        }
        if !for_replica.is_empty() {
            // A leader or candidate may have stopped.
            self.inner.changed.notify();
            let reply = |answer| self.inner.links[link].send(answer);
            attached.follower.receive(for_replica, reply);
        }
    }

    /// The link works: whoever is there is asked anew how it stands.
    pub fn connected(&self, link: usize) {
        if link < self.inner.links.len() {
            self.act(|member| member.connected(link));
        }
    }

    /// The link does not work: the replica does not count until it is [`connected`] again.
    ///
    /// [`connected`]: Self::connected
    pub fn disconnected(&self, link: usize) {
        if link < self.inner.links.len() {
            self.inner.shared.lock().member.disconnected(link);
        }
    }

    /// Begins to make this replica the leader of `epoch`, and does not wait: enough others have to
    /// promise it first. From here on, nothing older is followed or led here.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] if this epoch or a newer one is known: each attempt takes a new one.
    /// [`Error::Closed`] if no log is attached. [`Error::InvalidOption`] if the epoch is not below 2⁶².
    /// What is found out later is told by [`promote`](Self::promote) and [`role`](Self::role).
    pub fn campaign(&self, epoch: Epoch) -> Result<()> {
        let attached = self.attached().ok_or(Error::Closed)?;
        let promised = attached.log.promised()?;
        if promised >= epoch {
            // It may have been promised to another one, or led in an earlier life.
            return Err(Error::Fenced { epoch: promised });
        }
        // The own promise is one like the others': durable, and the end read after it.
        attached.log.follow(epoch)?;
        let own = attached.log.history()?.log_end();
        let begun = self.step(|member| match member.campaign(epoch, own) {
            Ok(effects) => (effects, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        });
        self.perform_all(begun.0);
        begun.1
    }

    /// Makes this replica the leader of `epoch`, and waits for up to `timeout`, by the log's
    /// clock, until it is. Where nothing ticks, as in a simulation, use
    /// [`campaign`](Self::campaign).
    ///
    /// Appends are taken once enough others have joined and are in sync, which is moments later where
    /// they are there and lack little. Until then they answer [`Error::ReplicasUnavailable`], and so
    /// does [`Replicator::status`].
    ///
    /// # Errors
    ///
    /// [`Error::ReplicasUnavailable`] if too few replicas promised in time; the attempt is given
    /// up. [`Error::Lagging`] if one of them holds more than this one: promote that one.
    /// [`Error::Fenced`] if this epoch or a newer one is known. [`Error::Closed`] without a log.
    pub fn promote(&self, epoch: Epoch, timeout: Duration) -> Result<()> {
        self.campaign(epoch)?;
        let mut since = None;
        loop {
            let observed = self.inner.changed.observe();
            // A log that is closed or poisoned leads nothing.
            self.attached().ok_or(Error::Closed)?.log.promised()?;
            {
                let mut shared = self.inner.shared.lock();
                let member = &mut shared.member;
                if let Some(outcome) = member.outcome(epoch) {
                    return outcome;
                }
                let waited = member.now().map(|now| now.saturating_sub(*since.get_or_insert(now)));
                if let Some((needed, available)) = member.promises(epoch)
                    && waited.is_some_and(|waited| waited >= timeout)
                {
                    let error = Error::ReplicasUnavailable { needed, available };
                    member.abandon(epoch, error.clone());
                    return Err(error);
                }
            }
            // Each tick wakes it.
            self.inner.changed.wait(observed, None);
        }
    }

    /// What this replica is.
    pub fn role(&self) -> Role {
        let shared = self.inner.shared.lock();
        let member = &shared.member;
        match (member.epoch(), member.leader()) {
            (Some(epoch), Some(_)) => Role::Leading { epoch },
            (Some(epoch), None) => Role::Campaigning { epoch },
            (None, _) => Role::Following,
        }
    }

    /// What this replica knows of the others, by their links, if it leads; else nothing.
    pub fn peers(&self) -> Vec<PeerReport> {
        let shared = self.inner.shared.lock();
        let (rules, now) = (shared.member.rules(), shared.member.now().unwrap_or_default());
        let Some(leader) = shared.member.leader() else { return Vec::new() };
        leader.peers.iter().map(|peer| report(peer, &rules, now)).collect()
    }

    /// Goes on with fewer copies, until [`restore`](Self::restore). **What is acknowledged
    /// meanwhile is lost if those few replicas are**, and also if another one is promoted that
    /// lacks it: each replica counts promises by its own number of copies, so say this to those
    /// that may be promoted, too. [`Replicator::status`] answers [`ReplicaStatus::Degraded`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] unless it is fewer copies than the options ask for, and at least 1.
    pub fn continue_degraded(&self, copies: usize) -> Result<()> {
        self.degrade(Some(copies))
    }

    /// Goes back to the number of copies that the options ask for. What was acknowledged with fewer is
    /// not on so many at once: wait until [`ReplicaStatus::Healthy`] says that nothing lags before
    /// another replica is promoted.
    pub fn restore(&self) {
        let restored = self.degrade(None);
        debug_assert!(restored.is_ok(), "the options were checked");
    }

    fn degrade(&self, copies: Option<usize>) -> Result<()> {
        let (effects, result) = self.step(|member| match member.degrade(copies) {
            Ok(effects) => (effects, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        });
        self.perform_all(effects);
        result
    }

    fn attached(&self) -> Option<Arc<Attached>> {
        self.inner.attached.lock().clone()
    }

    /// Takes a step and does what follows from it. Called under no lock.
    fn act(&self, step: impl FnOnce(&mut Member) -> Vec<Effect>) {
        let (effects, ()) = self.step(|member| (step(member), ()));
        self.perform_all(effects);
    }

    fn perform_all(&self, effects: Vec<Effect>) {
        let mut left = VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            left.extend(self.perform(effect));
        }
        self.inner.changed.notify();
    }

    /// Takes a step, sends what it wants sent, and hands back the other effects and the result.
    fn step<T>(&self, step: impl FnOnce(&mut Member) -> (Vec<Effect>, T)) -> (Vec<Effect>, T) {
        let mut others = Vec::new();
        let mut shared = self.inner.shared.lock();
        let (effects, result) = step(&mut shared.member);
        for effect in effects {
            match effect {
                Effect::Send(link, message) => shared.outbox.push_back((link, message)),
                other => others.push(other),
            }
        }
        let has_mail = !shared.outbox.is_empty();
        drop(shared);
        if has_mail {
            self.send_outbox();
        }
        (others, result)
    }

    fn send_outbox(&self) {
        let _in_order = self.inner.sending.lock();
        loop {
            let next = self.inner.shared.lock().outbox.pop_front();
            let Some((link, message)) = next else { return };
            self.inner.links[link].send(message);
        }
    }

    /// Does one thing, and returns what follows from its outcome.
    fn perform(&self, effect: Effect) -> Vec<Effect> {
        let Some(attached) = self.attached() else { return Vec::new() };
        let log = &attached.log;
        match effect {
            Effect::Send(link, message) => self.then(|_| vec![Effect::Send(link, message)]),
            Effect::Introduce { link, epoch } => match log.history() {
                // It may have begun to follow another one since.
                Ok(history) if history.log_end().epoch == epoch => {
                    self.then(|_| vec![Effect::Send(link, Message::Lead { epoch, history })])
                }
                _ => Vec::new(),
            },
            Effect::Snapshot { link, epoch } => match log.snapshot() {
                Ok(snapshot) => self.then(|member| {
                    member.snapshot_sent(link, epoch, snapshot.position());
                    vec![Effect::Send(link, Message::Snapshot { epoch, snapshot })]
                }),
                Err(error) => self.then(|member| {
                    member.cannot_feed(link, epoch, &error);
                    Vec::new()
                }),
            },
            Effect::Read { link, epoch, from, bytes } => {
                let frames = log.read(from, usize::try_from(bytes).unwrap_or(usize::MAX));
                self.then(|member| member.read(link, epoch, frames))
            }
            Effect::Advance { epoch, end } => {
                // It fails if the log leads no more: then nobody wants to know.
                if log.advance(epoch, end).is_ok()
                    && let Ok(visible) = log.visible()
                {
                    self.inner.shared.lock().member.visible(epoch, visible);
                }
                Vec::new()
            }
            Effect::Follow(epoch) => {
                // It fails if a newer epoch is promised, which is as good.
                drop(log.follow(epoch));
                Vec::new()
            }
            Effect::Lead(epoch, needed) => {
                let result = log.lead(epoch, needed);
                self.then(|member| member.led(epoch, result))
            }
        }
    }

    /// A step that follows from another one.
    fn then(&self, step: impl FnOnce(&mut Member) -> Vec<Effect>) -> Vec<Effect> {
        self.step(|member| (step(member), ())).0
    }
}

impl Replicator for Quorum {
    fn attach(&self, log: LogHandle) -> Result<()> {
        let mut attached = self.inner.attached.lock();
        if attached.is_some() {
            let reason = "it is attached to another log".to_owned();
            return Err(Error::InvalidOption { option: "replicator", reason });
        }
        *attached = Some(Arc::new(Attached { follower: Follower::new(log.clone()), log }));
        Ok(())
    }

    fn offer(&self, frames: &Frames) {
        let (others, ()) = self.step(|member| (member.offer(frames), ()));
        debug_assert!(others.is_empty(), "an offer is sent, no more");
    }

    fn synced(&self, epoch: Epoch, end: Position) {
        self.inner.shared.lock().member.synced(epoch, end);
    }

    fn settle(&self) {
        self.act(Member::settle);
    }

    fn log_id(&self) -> Option<u128> {
        Some(self.inner.log_id)
    }

    fn needed_from(&self) -> Option<Position> {
        self.inner.shared.lock().member.needed_from()
    }

    fn status(&self) -> ReplicaStatus {
        self.inner.shared.lock().member.status()
    }

    fn tick(&self, now: Duration) {
        self.act(|member| member.tick(now));
    }

    fn detach(&self, within: Duration) {
        let attached = self.attached();
        let now = || attached.as_ref().and_then(|attached| attached.log.now());
        let lacks_copies = || {
            // A log that is poisoned has nothing more to give.
            let works = attached.as_ref().is_some_and(|attached| attached.log.written().is_ok());
            let shared = self.inner.shared.lock();
            let rules = shared.member.rules();
            works && shared.member.leader().is_some_and(|leader| leader.awaits_copies(&rules))
        };
        let until = now().map(|now| now.saturating_add(within));
        while lacks_copies() {
            let observed = self.inner.changed.observe();
            let left =
                until.zip(now()).map_or(Duration::ZERO, |(end, now)| end.saturating_sub(now));
            if left.is_zero() {
                break;
            }
            if lacks_copies() {
                self.inner.changed.wait(observed, Some(left));
            }
        }
        self.inner.shared.lock().member.detach();
        drop(self.inner.attached.lock().take());
        self.inner.changed.notify();
    }
}
