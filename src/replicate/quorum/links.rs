//! What a leader knows of one replica, and what it decides to send to it. No I/O, no lock.

use std::time::Duration;

use crate::offset::Position;
use crate::replicate::Frames;

/// A replica, as the leader of an epoch knows it.
#[derive(Debug)]
pub(super) struct Peer {
    /// As far as the host has said.
    pub(super) connected: bool,
    pub(super) state: State,
    /// When it was last heard of, in this epoch.
    pub(super) heard_at: Duration,
    /// The position from which on it will need frames, as far as is known.
    pub(super) floor: Option<Position>,
    /// Why it could not follow, until it does.
    pub(super) failure: Option<String>,
}

#[derive(Debug)]
pub(super) enum State {
    /// It was not told of this epoch.
    Silent,
    /// It was told, and has not answered; or a snapshot is on its way to it.
    Probing { since: Duration, snapshot: bool },
    /// Its log is a beginning of the leader's.
    Following(Progress),
    /// It cannot follow, and is asked again later.
    Failed { since: Duration },
}

impl Peer {
    pub(super) fn new(connected: bool, now: Duration) -> Self {
        Self { connected, state: State::Silent, heard_at: now, floor: None, failure: None }
    }

    pub(super) fn following(&self) -> Option<&Progress> {
        match &self.state {
            State::Following(progress) => Some(progress),
            _ => None,
        }
    }

    pub(super) fn following_mut(&mut self) -> Option<&mut Progress> {
        match &mut self.state {
            State::Following(progress) => Some(progress),
            _ => None,
        }
    }

    pub(super) fn probe(&mut self, now: Duration) {
        self.state = State::Probing { since: now, snapshot: false };
    }

    /// It holds the leader's log up to `end`, of what is written up to `written`.
    pub(super) fn follow(
        &mut self,
        end: Position,
        written: Position,
        (now, lost_after): (Duration, Duration),
    ) {
        let mut progress = Progress::new(end, now);
        // It may only have said it again; one that was restarted holds less than it had said.
        progress.round = match self.following().filter(|before| before.matched <= end) {
            Some(before) => before.round,
            None => Round { goal: written, began_at: now, is_level: end >= written },
        };
        progress.look_at_round(written, (now, lost_after));
        self.state = State::Following(progress);
        self.floor = Some(end);
        self.failure = None;
    }

    pub(super) fn fail(&mut self, reason: String, now: Duration) {
        self.state = State::Failed { since: now };
        self.failure = Some(reason);
    }

    /// Whether it is in sync, so that it can be expected to hold what is written next.
    pub(super) fn is_available(&self, now: Duration, lost_after: Duration) -> bool {
        let is_fresh = now.saturating_sub(self.heard_at) <= lost_after;
        let is_level = self.following().is_some_and(|progress| progress.is_level(now, lost_after));
        self.connected && is_fresh && is_level
    }
}

/// A replica catches up in rounds, each with what was written when it began. It is level with its
/// leader once a round took no longer than a replica may be silent, until one takes longer: however
/// much it lacked at first, it then lacks what came in that time. A replica that is slower than the
/// leader writes has longer and longer rounds.
#[derive(Clone, Copy, Debug)]
struct Round {
    goal: Position,
    began_at: Duration,
    /// By the last round that is over.
    is_level: bool,
}

/// How far a replica that follows has come: `matched <= sent_to`.
#[derive(Debug)]
pub(super) struct Progress {
    /// It has said, in this epoch, that it holds all below durably.
    pub(super) matched: Position,
    /// All below was sent to it, though it may be lost.
    pub(super) sent_to: Position,
    round: Round,
    /// When the window was last empty or moved.
    moved_at: Duration,
    /// Where a gap was answered already: the frames behind one each tell of it.
    rewound_to: Option<Position>,
    /// Frames for it are being read.
    reading: bool,
    /// Somebody else found that there is something to read meanwhile.
    again: bool,
    /// Nothing was sent since the last tick.
    pub(super) quiet: bool,
}

impl Progress {
    fn new(end: Position, now: Duration) -> Self {
        Self {
            matched: end,
            sent_to: end,
            round: Round { goal: end, began_at: now, is_level: false },
            moved_at: now,
            rewound_to: None,
            reading: false,
            again: false,
            quiet: false,
        }
    }

    fn is_level(&self, now: Duration, lost_after: Duration) -> bool {
        let Round { goal, began_at, is_level } = self.round;
        is_level && (self.matched >= goal || now.saturating_sub(began_at) <= lost_after)
    }

    /// More is written: where nothing was lacking, a round begins.
    pub(super) fn lacks(&mut self, written: Position, now: Duration) {
        if self.matched >= self.round.goal {
            (self.round.goal, self.round.began_at) = (written, now);
        }
    }

    /// Where a round is over, the next one begins.
    fn look_at_round(&mut self, written: Position, (now, lost_after): (Duration, Duration)) {
        if self.matched >= self.round.goal {
            let in_time = now.saturating_sub(self.round.began_at) <= lost_after;
            self.round.is_level = in_time || self.matched >= written;
            (self.round.goal, self.round.began_at) = (written, now);
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.sent_to.0.saturating_sub(self.matched.0)
    }

    /// Whether these frames are the next ones and there is room for them; they then count as sent.
    pub(super) fn send(&mut self, frames: &Frames, window: u64, now: Duration) -> bool {
        let bytes = frames.end().0 - frames.start().0;
        let in_flight = self.in_flight();
        // What is larger than the window goes alone.
        let fits = in_flight == 0 || in_flight.saturating_add(bytes) <= window;
        if frames.start() != self.sent_to || !fits {
            return false;
        }
        if in_flight == 0 {
            self.moved_at = now;
        }
        self.sent_to = frames.end();
        self.quiet = false;
        true
    }

    /// The replica holds all below `end`, of what is written up to `written`.
    pub(super) fn ack(
        &mut self,
        end: Position,
        written: Position,
        (now, lost_after): (Duration, Duration),
    ) {
        if end > self.matched {
            self.matched = end;
            self.sent_to = self.sent_to.max(end);
            self.moved_at = now;
            self.rewound_to = None;
            self.look_at_round(written, (now, lost_after));
        }
    }

    /// The replica's log ends at `end`, and what comes next was lost.
    pub(super) fn gap(&mut self, end: Position) {
        let is_new = self.rewound_to != Some(end);
        if is_new && self.matched <= end && end < self.sent_to {
            self.sent_to = end;
            self.rewound_to = Some(end);
        }
    }

    /// Begins again behind what is acknowledged, if that has not changed for too long.
    pub(super) fn resend(&mut self, now: Duration, after: Duration) {
        if self.in_flight() > 0 && now.saturating_sub(self.moved_at) >= after {
            self.sent_to = self.matched;
            self.rewound_to = None;
            self.moved_at = now;
        }
    }

    /// Where to read next, and how many bytes, if there is something to read and nobody does.
    pub(super) fn next_read(&mut self, written: Position, window: u64) -> Option<(Position, u64)> {
        // Half a window at a time: one small read for each answer would make many small writes.
        let room = window.saturating_sub(self.in_flight());
        if self.sent_to >= written || (self.in_flight() > 0 && room < window / 2) {
            return None;
        }
        if self.reading {
            self.again = true;
            return None;
        }
        self.reading = true;
        self.again = false;
        Some((self.sent_to, room.max(1)))
    }

    /// A read is over. Whether to try once more although it found nothing.
    pub(super) fn end_read(&mut self) -> bool {
        self.reading = false;
        std::mem::take(&mut self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::testing::hollow_frames;

    const NOW: Duration = Duration::from_secs(5);

    fn sent(progress: &mut Progress, start: u64, bytes: usize) -> bool {
        progress.send(&hollow_frames(1, start, bytes), 1000, NOW)
    }

    #[test]
    fn only_the_next_frames_are_sent_and_no_more_than_the_window() {
        let mut progress = Progress::new(Position(100), NOW);
        assert!(!sent(&mut progress, 200, 10), "a hole");
        assert!(sent(&mut progress, 100, 600));
        assert!(!sent(&mut progress, 100, 600), "sent before");
        assert!(!sent(&mut progress, 700, 401), "over the window");
        assert!(sent(&mut progress, 700, 400));
        progress.ack(Position(1100), Position(1100), (NOW, NOW));
        assert!(sent(&mut progress, 1100, 5000), "alone");
    }

    #[test]
    fn a_gap_is_answered_once() {
        let mut progress = Progress::new(Position(0), NOW);
        assert!(sent(&mut progress, 0, 300));
        progress.gap(Position(100));
        assert_eq!(progress.sent_to, Position(100));
        assert!(sent(&mut progress, 100, 200));
        progress.gap(Position(100));
        assert_eq!(progress.sent_to, Position(300), "the same gap");
        progress.ack(Position(200), Position(300), (NOW, NOW));
        progress.gap(Position(100));
        assert_eq!(progress.sent_to, Position(300), "an answer that came late");
        progress.gap(Position(200));
        assert_eq!(progress.sent_to, Position(200), "another gap");
    }

    #[test]
    fn silence_starts_again_behind_what_was_acknowledged() {
        let patience = Duration::from_secs(1);
        let mut progress = Progress::new(Position(0), NOW);
        assert!(sent(&mut progress, 0, 300));
        progress.ack(Position(100), Position(300), (NOW, NOW));
        progress.resend(NOW + patience / 2, patience);
        assert_eq!(progress.sent_to, Position(300));
        progress.resend(NOW + patience, patience);
        assert_eq!(progress.sent_to, Position(100));
    }

    #[test]
    fn one_reads_at_a_time_and_nobody_is_forgotten() {
        let mut progress = Progress::new(Position(0), NOW);
        assert_eq!(progress.next_read(Position(50), 1000), Some((Position(0), 1000)));
        assert_eq!(progress.next_read(Position(60), 1000), None, "the other one reads");
        assert!(progress.end_read(), "and reads again");
        assert_eq!(progress.next_read(Position(60), 1000), Some((Position(0), 1000)));
        assert!(!progress.end_read());
    }

    #[test]
    fn a_replica_is_in_sync_once_it_catches_up_in_time_and_until_it_does_not() {
        let (patience, mut now) = (Duration::from_secs(2), NOW);
        let mut peer = Peer::new(true, now);
        let in_sync = |peer: &mut Peer, now| {
            peer.heard_at = now;
            peer.is_available(now, patience)
        };
        let ack = |peer: &mut Peer, end, written, now| {
            let progress = peer.following_mut().expect("it follows");
            progress.ack(Position(end), Position(written), (now, patience));
        };
        peer.follow(Position(0), Position(500), (now, patience));
        assert!(!in_sync(&mut peer, now), "it is empty");
        now += 3 * patience;
        ack(&mut peer, 400, 900, now);
        ack(&mut peer, 500, 1000, now);
        assert!(!in_sync(&mut peer, now), "as much came meanwhile");
        now += 2 * patience;
        ack(&mut peer, 1000, 1010, now);
        assert!(!in_sync(&mut peer, now), "and again");
        now += patience / 2;
        ack(&mut peer, 1010, 1020, now);
        assert!(in_sync(&mut peer, now));
        now += 2 * patience;
        assert!(!in_sync(&mut peer, now), "it has fallen behind");
        ack(&mut peer, 1020, 1030, now);
        assert!(!in_sync(&mut peer, now), "by more than it may");
        now += 2 * patience;
        ack(&mut peer, 1030, 1030, now);
        assert!(in_sync(&mut peer, now), "there is nothing that it lacks");
        now += 100 * patience;
        assert!(in_sync(&mut peer, now), "nothing is written");
        peer.following_mut().expect("it follows").lacks(Position(1040), now);
        assert!(in_sync(&mut peer, now + patience));
        peer.follow(Position(1030), Position(1040), (now, patience));
        assert!(in_sync(&mut peer, now), "it has said it again");
        peer.follow(Position(600), Position(1040), (now, patience));
        assert!(!in_sync(&mut peer, now), "it was restarted and holds less");
        peer.follow(Position(1040), Position(1040), (now, patience));
        assert!(in_sync(&mut peer, now), "there is nothing that it lacks");
    }
}
