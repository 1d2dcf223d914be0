//! Random operations on [`Leases`] and on the log that they write, crashes included, against a
//! model that only remembers what a consumer has seen.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::format::entry::Progress;

#[derive(Clone, Debug)]
enum Op {
    Append(u64),
    Pass(u64),
    /// Whether the log takes the plan, and if not, whether its entry is on disk all the same.
    Plan {
        max: usize,
        fails: bool,
        lands: bool,
    },
    /// Each picks one of the leases that were ever given out.
    Ack(usize),
    Retry(usize, Option<u64>),
    Release(usize),
    Drop(usize),
    Extend(usize, u64),
    AckOffset(u64),
    AckThrough(u64),
    Filter(u64, u64),
    SkipTo(u64),
    Seek(u64),
    LogDelta {
        fails: bool,
    },
    LogReserve {
        fails: bool,
    },
    Sync,
    Crash {
        keep: usize,
    },
    Reopen,
}

fn any_op() -> impl Strategy<Value = Op> {
    let pick = 0usize..1000;
    prop_oneof![
        8 => (1u64..6).prop_map(Op::Append),
        8 => prop_oneof![0u64..4, 8u64..12, 25u64..40].prop_map(Op::Pass),
        20 => (1usize..6, prop::bool::weighted(0.15), any::<bool>())
            .prop_map(|(max, fails, lands)| Op::Plan { max, fails, lands }),
        16 => pick.clone().prop_map(Op::Ack),
        6 => (pick.clone(), prop::option::of(0u64..20)).prop_map(|(pick, s)| Op::Retry(pick, s)),
        5 => pick.clone().prop_map(Op::Release),
        5 => pick.clone().prop_map(Op::Drop),
        3 => (pick.clone(), 0u64..50).prop_map(|(pick, secs)| Op::Extend(pick, secs)),
        3 => (0u64..80).prop_map(Op::AckOffset),
        1 => (0u64..40).prop_map(Op::AckThrough),
        3 => (0u64..8, 0u64..4).prop_map(|(ahead, length)| Op::Filter(ahead, length)),
        1 => (0u64..30).prop_map(Op::SkipTo),
        1 => (0u64..60).prop_map(Op::Seek),
        8 => prop::bool::weighted(0.3).prop_map(|fails| Op::LogDelta { fails }),
        3 => any::<bool>().prop_map(|fails| Op::LogReserve { fails }),
        3 => Just(Op::Sync),
        4 => pick.prop_map(|keep| Op::Crash { keep }),
        2 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Debug)]
enum Entry {
    Progress(Progress),
    Seek(u64),
}

/// What consumers have seen of an offset since the last seek.
#[derive(Clone, Copy, Debug)]
struct Seen {
    attempt: u32,
    /// Whether the last delivery counts, so that the next one must show a higher number.
    counted: bool,
    /// The token that may still ack it.
    token: u64,
    held_until: Option<Duration>,
}

#[derive(Debug)]
struct World {
    limits: Limits,
    leases: Leases,
    now: Now,
    end: u64,
    log: Vec<Entry>,
    durable: usize,
    seen: BTreeMap<u64, Seen>,
    settled: BTreeSet<u64>,
    /// Every lease that was given out in this life of the process.
    granted: Vec<Granted>,
    first_token_after_seek: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        let now = Now { monotonic: Duration::ZERO, wall_ms: 1_000_000 };
        let progress = GroupProgress::starting_at(0);
        Self {
            leases: Leases::recover(&progress, 0, false, limits.clone(), now),
            limits,
            now,
            end: 0,
            log: Vec::new(),
            durable: 0,
            seen: BTreeMap::new(),
            settled: BTreeSet::new(),
            granted: Vec::new(),
            first_token_after_seek: 0,
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Append(count) => self.end += count,
            Op::Pass(secs) => self.pass(secs),
            Op::Plan { max, fails, lands } => self.plan(max, fails, lands),
            Op::Ack(pick) => self.ack(pick),
            Op::Retry(pick, delay) => {
                let delay = delay.map(Duration::from_secs);
                self.end_lease(pick, true, |leases, granted, now| {
                    leases.retry(granted.offset, granted.token, delay, now)
                });
            }
            Op::Release(pick) => self.end_lease(pick, false, |leases, granted, now| {
                leases.release(granted.offset, granted.token, now)
            }),
            Op::Drop(pick) => self.end_lease(pick, true, |leases, granted, now| {
                leases.drop_lease(granted.offset, granted.token, now)
            }),
            Op::Extend(pick, secs) => self.extend(pick, Duration::from_secs(secs)),
            Op::LogDelta { fails } => self.log_delta(fails),
            Op::LogReserve { fails } => self.log_reserve(fails),
            Op::Sync => self.durable = self.log.len(),
            Op::Crash { keep } => {
                let kept = self.durable + keep % (self.log.len() - self.durable + 1);
                self.log.truncate(kept);
                self.reopen(true);
            }
            Op::Reopen => {
                let progress = self.leases.close(self.now);
                self.log.push(Entry::Progress(progress));
                self.reopen(false);
            }
            _ => self.move_group(op),
        }
        self.check_bounds();
        self.leases.check_consistency();
    }

    fn move_group(&mut self, op: &Op) {
        let floor = self.leases.floor();
        match *op {
            Op::AckOffset(offset) => {
                let acked = self.leases.ack_offset(offset).is_ok();
                self.settle(offset..offset + u64::from(acked));
            }
            Op::AckThrough(ahead) if floor < self.end => {
                let through = (floor + ahead).min(self.end - 1);
                self.leases.ack_through(through);
                self.settle(0..through + 1);
            }
            Op::Filter(ahead, length) => {
                let start = (floor + ahead).min(self.end);
                let range = start..(start + length).min(self.end);
                self.leases.settle_filtered(range.clone());
                self.settle(range);
            }
            Op::SkipTo(ahead) => {
                let to = (floor + ahead).min(self.end);
                self.leases.skip_to(to);
                self.settle(0..to);
            }
            Op::Seek(to) => {
                let to = to.min(self.end);
                self.leases.seek(to);
                self.log.push(Entry::Seek(to));
                if let Some(reserve) = self.leases.wants_reserve_after_seek(self.now.monotonic) {
                    self.log.push(Entry::Progress(reserve.to_progress()));
                    self.leases.reserve_logged(reserve);
                }
                self.durable = self.log.len();
                self.seen.clear();
                self.settled = (0..to).collect();
                self.first_token_after_seek =
                    self.granted.iter().map(|granted| granted.token + 1).max().unwrap_or(0);
            }
            _ => {}
        }
        assert!(self.leases.floor() >= floor || matches!(op, Op::Seek(_)), "the floor went back");
    }

    fn pass(&mut self, secs: u64) {
        self.now.monotonic += Duration::from_secs(secs);
        self.now.wall_ms += secs * 1000;
    }

    fn plan(&mut self, max: usize, fails: bool, lands: bool) {
        let suspects = self.leases.suspects_len();
        let had_work = self.leases.has_work(self.now, self.end);
        let plan = self.leases.plan(self.now.monotonic, max, self.end);
        assert!(had_work || plan.is_empty(), "there was work that has_work did not see");
        if self.leases.suspects_len() > 0 && suspects > 0 {
            assert!(plan.granted().count() <= 1, "a suspect is not alone");
        }
        if !plan.fresh.offsets.is_empty() {
            assert!(self.leases.unsettled_len() <= self.limits.unsettled_max);
        }
        if let Some(log) = plan.log() {
            if !fails || lands {
                self.log.push(Entry::Progress(log));
            }
            if fails {
                self.leases.plan_failed(&plan);
                return;
            }
            self.durable = self.log.len();
            self.leases.plan_logged(&plan);
        }
        for granted in plan.granted() {
            self.deliver(granted);
        }
        for exhausted in &plan.exhausted {
            self.bury(*exhausted);
        }
        if plan.is_empty() {
            let event = self.leases.next_event();
            assert!(event.is_none_or(|event| event > self.now.monotonic), "a sleeper would spin");
        }
    }

    fn deliver(&mut self, granted: Granted) {
        let Granted { offset, token, attempt } = granted;
        assert!(offset < self.end, "{offset} does not exist");
        assert!(!self.settled.contains(&offset), "{offset} is settled");
        assert!(attempt <= self.limits.attempts_max);
        if let Some(seen) = self.seen.get(&offset) {
            self.check_not_held(*seen);
            assert!(attempt >= seen.attempt, "the attempts of {offset} went back");
            assert!(attempt > seen.attempt || !seen.counted, "an attempt at {offset} is lost");
        }
        let held_until = Some(self.now.monotonic + self.limits.lease);
        self.seen.insert(offset, Seen { attempt, counted: true, token, held_until });
        self.granted.push(granted);
    }

    /// Every other burial fails.
    fn bury(&mut self, exhausted: Exhausted) {
        let Exhausted { offset, token, count } = exhausted;
        assert!(!self.settled.contains(&offset), "{offset} is settled");
        assert!(count >= self.limits.attempts_max);
        if let Some(&seen) = self.seen.get(&offset) {
            self.check_not_held(seen);
        }
        let unburied = token % 2 == 0;
        // Where the burial fails, whoever had the message last may still acknowledge it.
        let before = self.seen.get(&offset).map(|seen| seen.token).filter(|_| unburied);
        let last = before.unwrap_or(if unburied { 0 } else { token });
        let seen = Seen { attempt: count, counted: false, token: last, held_until: None };
        self.seen.insert(offset, seen);
        self.granted.push(Granted { offset, token, attempt: count });
        if unburied {
            self.leases.unbury(offset, token, self.now, Duration::from_secs(3)).unwrap();
        } else {
            self.leases.settle_exhausted(offset, token).unwrap();
            self.settle(offset..offset + 1);
        }
    }

    fn check_not_held(&self, seen: Seen) {
        let free = seen.held_until.is_none_or(|until| until <= self.now.monotonic);
        assert!(free, "two holders of one message");
    }

    fn picked(&self, pick: usize) -> Option<Granted> {
        // Mostly a recent one: the others are stale.
        let count = self.granted.len();
        (count > 0).then(|| self.granted[count - 1 - (pick * pick / 1000) % count])
    }

    fn ack(&mut self, pick: usize) {
        let Some(granted) = self.picked(pick) else { return };
        let Granted { offset, token, .. } = granted;
        let expected = if token < self.first_token_after_seek {
            Err(Refused::Stale)
        } else if self.settled.contains(&offset) {
            Err(Refused::AlreadySettled)
        } else if self.seen.get(&offset).is_some_and(|seen| seen.token == token) {
            Ok(())
        } else {
            Err(Refused::Stale)
        };
        assert_eq!(self.leases.ack(offset, token), expected);
        if expected.is_ok() {
            self.settle(offset..offset + 1);
        }
    }

    fn end_lease(
        &mut self,
        pick: usize,
        counted: bool,
        end: impl FnOnce(&mut Leases, Granted, Now) -> Result<(), Refused>,
    ) {
        let Some(granted) = self.picked(pick) else { return };
        if end(&mut self.leases, granted, self.now).is_ok() {
            let seen = self.seen.get_mut(&granted.offset).expect("a lease that ends was seen");
            assert_eq!(seen.token, granted.token, "a stale lease was ended");
            assert!(seen.held_until.is_some(), "a lease was ended twice");
            seen.held_until = None;
            seen.counted = counted;
        }
    }

    fn extend(&mut self, pick: usize, by: Duration) {
        let Some(Granted { offset, token, .. }) = self.picked(pick) else { return };
        if self.leases.extend(offset, token, self.now, by).is_ok() {
            let seen = self.seen.get_mut(&offset).expect("a lease that lasts was seen");
            assert_eq!(seen.token, token, "a stale lease was extended");
            seen.held_until = Some(self.now.monotonic + by);
        }
    }

    fn log_delta(&mut self, fails: bool) {
        if let Some(delta) = self.leases.take_delta() {
            assert!(delta.acked.iter().all(|range| !range.is_empty()));
            if fails {
                self.leases.put_back(delta);
            } else {
                self.log.push(Entry::Progress(delta));
            }
        }
    }

    fn log_reserve(&mut self, fails: bool) {
        if let Some(reserve) = self.leases.wants_reserve()
            && !fails
        {
            self.log.push(Entry::Progress(reserve.to_progress()));
            self.durable = self.log.len();
            self.leases.reserve_logged(reserve);
        }
    }

    fn reopen(&mut self, after_crash: bool) {
        self.durable = self.log.len();
        let mut progress = GroupProgress::starting_at(0);
        self.settled.clear();
        for entry in &self.log {
            match entry {
                Entry::Progress(entry) => {
                    progress.apply(entry);
                    self.settled.extend(entry.acked.iter().cloned().flatten());
                }
                Entry::Seek(to) => {
                    progress.seek(*to);
                    self.settled = (0..*to).collect();
                }
            }
        }
        // The new process has a monotonic clock of its own.
        self.now.monotonic = Duration::from_secs(7);
        let limits = self.limits.clone();
        self.leases = Leases::recover(&progress, self.end, after_crash, limits, self.now);
        self.granted.clear();
        self.first_token_after_seek = 0;
        for seen in self.seen.values_mut() {
            seen.held_until = None;
            seen.token = NO_TOKEN;
        }
    }

    fn settle(&mut self, range: Range<u64>) {
        for offset in range {
            self.settled.insert(offset);
            if let Some(seen) = self.seen.get_mut(&offset) {
                seen.held_until = None;
            }
        }
    }

    fn check_bounds(&self) {
        assert!(self.leases.leased_len() <= self.limits.in_flight_max);
        let unlogged = self.leases.acked.len();
        assert!(unlogged <= self.leases.unsettled_len() + 4, "acked ranges pile up: {unlogged}");
    }

    /// Consumes all that is left: everything must be delivered that was not settled.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            if self.leases.floor() >= self.end {
                return;
            }
            self.plan(100, false, false);
            for granted in std::mem::take(&mut self.granted) {
                if self.leases.ack(granted.offset, granted.token).is_ok() {
                    self.settle(granted.offset..granted.offset + 1);
                }
            }
            self.pass(5);
        }
        panic!("stuck at {} of {}: {:?}", self.leases.floor(), self.end, self.leases);
    }
}

impl Leases {
    fn check_consistency(&self) {
        let mut leased = 0;
        let mut earliest = Duration::MAX;
        for (offset, entry) in self.unsettled.iter() {
            assert!(!self.is_settled(offset) && offset < self.next);
            match entry.hold {
                Hold::Leased { until, .. } => {
                    leased += 1;
                    earliest = earliest.min(until);
                }
                Hold::Waiting { due, .. } => assert!(self.due.contains(&(due.at, offset))),
            }
        }
        assert_eq!(self.leased, leased);
        assert_eq!(self.due.len() + leased, self.unsettled.len());
        assert!(self.earliest_until <= earliest);
        assert!(self.suspects.iter().all(|offset| self.unsettled.get(*offset).is_some()));
        assert!(self.suspect_leased.is_none_or(|offset| self.suspects.contains(&offset)));
        let settled: u64 =
            self.acked.held(self.floor..self.next).map(|range| range.end - range.start).sum();
        assert_eq!(self.next - self.floor, settled + self.unsettled.len() as u64);
        assert!(self.acked.first().is_none_or(|first| first.start > self.floor));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_message_is_lost_doubled_or_uncounted_across_crashes(
        in_flight_max in 1usize..12,
        unsettled_max in 1usize..12,
        attempts_max in 1u32..5,
        ops in prop::collection::vec(any_op(), 0..150),
    ) {
        let backoff = [1, 10].map(Duration::from_secs).into();
        let lease = Duration::from_secs(30);
        let mut world =
            World::new(Limits { lease, in_flight_max, unsettled_max, attempts_max, backoff });
        for op in &ops {
            world.step(op);
        }
        world.drain();
    }
}
