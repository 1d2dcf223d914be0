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
    pub(super) fn follow(&mut self, end: Position, written: Position, now: Duration) {
        let mut progress = Progress::new(end, now);
        // It may only have said it again; one that was restarted holds less than it had said.
        if let Some(before) = self.following().filter(|before| before.matched <= end) {
            (progress.rounds_left, progress.goal) = (before.rounds_left, before.goal);
        } else {
            progress.goal = written;
        }
        progress.look_whether_level(written);
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
        let is_level = self.following().is_some_and(|progress| progress.rounds_left == 0);
        self.connected && is_fresh && is_level
    }
}

/// A replica that joins is level once it has caught up so often with what was written when it began
/// to. The second time is about what came during the first, so that little is missing at the end,
/// however long the first one took and however much is being written.
const ROUNDS: u8 = 2;

/// How far a replica that follows has come: `matched <= sent_to`.
#[derive(Debug)]
pub(super) struct Progress {
    /// It has said, in this epoch, that it holds all below durably.
    pub(super) matched: Position,
    /// All below was sent to it, though it may be lost.
    pub(super) sent_to: Position,
    /// How often it has to catch up before it is level with the leader.
    rounds_left: u8,
    /// Where it has caught up.
    goal: Position,
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
            rounds_left: ROUNDS,
            goal: end,
            moved_at: now,
            rewound_to: None,
            reading: false,
            again: false,
            quiet: false,
        }
    }

    /// Once it has caught up, it begins to catch up with what is written now.
    fn look_whether_level(&mut self, written: Position) {
        while self.rounds_left > 0 && self.matched >= self.goal {
            self.rounds_left -= 1;
            self.goal = written;
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
    pub(super) fn ack(&mut self, end: Position, written: Position, now: Duration) {
        if end > self.matched {
            self.matched = end;
            self.sent_to = self.sent_to.max(end);
            self.moved_at = now;
            self.rewound_to = None;
            self.look_whether_level(written);
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
        progress.ack(Position(1100), Position(1100), NOW);
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
        progress.ack(Position(200), Position(300), NOW);
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
        progress.ack(Position(100), Position(300), NOW);
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
    fn a_replica_is_in_sync_once_it_has_caught_up_with_what_came_while_it_caught_up() {
        let mut peer = Peer::new(true, NOW);
        let in_sync = |peer: &Peer| peer.is_available(NOW, Duration::ZERO);
        peer.follow(Position(0), Position(500), NOW);
        assert!(!in_sync(&peer), "it is empty");
        let ack = |peer: &mut Peer, end, written| {
            peer.following_mut().expect("it follows").ack(Position(end), Position(written), NOW);
        };
        ack(&mut peer, 400, 600);
        ack(&mut peer, 500, 700);
        assert!(!in_sync(&peer), "200 bytes came meanwhile");
        ack(&mut peer, 700, 800);
        assert!(in_sync(&peer));
        peer.follow(Position(700), Position(900), NOW);
        assert!(in_sync(&peer), "it has said it again");
        peer.follow(Position(600), Position(900), NOW);
        assert!(!in_sync(&peer), "it was restarted and holds less");
        peer.follow(Position(900), Position(900), NOW);
        assert!(in_sync(&peer), "there is nothing that it lacks");
    }
}
