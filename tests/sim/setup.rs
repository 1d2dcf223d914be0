//! What a run is like: everything here follows from its seed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ackline::simulation::{Rng, Sectors, SimClock};
use ackline::{GroupOptions, Media, Options, Retention, SyncPolicy};

use super::{Lie, mix};

pub(crate) const TAGS: [&str; 2] = ["red", "blue"];

/// The largest payload that the simulated logs take.
pub(crate) const PAYLOAD_MAX: usize = 3000;

/// Where a planned group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Earliest,
    Latest,
    Middle,
    Time,
}

/// What somebody who uses the log does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    Consumer,
    /// Consumes and produces, in batches.
    Worker,
}

/// The topic of the dead letters of all groups that do not have one of their own.
const SHARED_DEAD: &str = "all.dead";

/// The delays of `retry` after the first attempt and after each later one.
pub(crate) const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(20)];

/// A group that a run may create.
#[derive(Clone, Debug)]
pub(crate) struct GroupPlan {
    pub(crate) topic: String,
    pub(crate) name: String,
    /// The topic of its dead letters, if it is not the default one.
    pub(crate) dead_letter: Option<&'static str>,
    pub(crate) begin: Begin,
    pub(crate) lease: Duration,
    pub(crate) in_flight_max: usize,
    pub(crate) unacked_max: usize,
    pub(crate) attempts_max: u32,
    pub(crate) tag: Option<&'static str>,
    pub(crate) may_lag: bool,
}

impl GroupPlan {
    fn draw(rng: &mut Rng, topic: String, name: String) -> Self {
        Self {
            topic,
            name,
            dead_letter: rng.chance(1, 6).then_some(SHARED_DEAD),
            begin: match rng.below(8) {
                0 => Begin::Latest,
                1 => Begin::Middle,
                2 => Begin::Time,
                _ => Begin::Earliest,
            },
            lease: Duration::from_secs(1 + rng.below(30)),
            in_flight_max: if rng.chance(1, 4) { 1 + rng.index(4) } else { 1000 },
            unacked_max: if rng.chance(1, 6) { 1 + rng.index(6) } else { 10_000 },
            attempts_max: [1, 2, 3, 3, 16, 16][rng.index(6)],
            tag: rng.chance(1, 5).then(|| TAGS[rng.index(TAGS.len())]),
            may_lag: rng.chance(1, 8),
        }
    }

    /// A group of the dead letters of `source`.
    fn of_dead_letters(rng: &mut Rng, source: &Self, number: usize) -> Self {
        let plan = Self::draw(rng, source.dead_letter_topic(), format!("d{number}"));
        // A letter is one of several messages; which tag it has is not known in advance.
        Self { tag: None, dead_letter: None, begin: Begin::Earliest, ..plan }
    }

    pub(crate) fn dead_letter_topic(&self) -> String {
        let default = || format!("{}.{}.dead", self.topic, self.name);
        self.dead_letter.map_or_else(default, str::to_owned)
    }

    /// The delay after which a message comes again that was given back at this attempt.
    pub(crate) fn backoff_after(attempt: u32) -> Duration {
        BACKOFF[usize::from(attempt > 1)]
    }

    pub(crate) fn options(&self) -> GroupOptions {
        let options = GroupOptions::new()
            .lease(self.lease)
            .in_flight_max(self.in_flight_max)
            .unacked_max(self.unacked_max)
            .attempts_max(self.attempts_max)
            .backoff(BACKOFF)
            .may_lag(self.may_lag);
        let options = match self.dead_letter {
            Some(topic) => options.dead_letter(topic),
            None => options,
        };
        match self.tag {
            Some(tag) => options.tag(tag),
            None => options,
        }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) ops: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) policy: SyncPolicy,
    pub(crate) media: Media,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) retention: Retention,
    /// What the retention was made of.
    pub(crate) max_age: Option<Duration>,
    pub(crate) retained_bytes: Option<u64>,
    pub(crate) keeps_consumed: bool,
    /// Retention or a group's options may take what nobody has consumed.
    pub(crate) lossy: bool,
    pub(crate) recent_bytes: usize,
    pub(crate) map: bool,
    pub(crate) open_segments_max: usize,
    pub(crate) topics: usize,
    pub(crate) groups: Vec<GroupPlan>,
    /// Who uses the log, each with an own state.
    pub(crate) actors: Vec<Role>,
    pub(crate) lie: Option<Lie>,
}

impl Setup {
    pub(crate) fn draw(seed: u64, lie: Option<Lie>) -> Self {
        let mut rng = Rng::new(mix(seed, 0x5e70));
        let topics = 1 + rng.index(4);
        let mut groups = Vec::new();
        for topic in 0..topics {
            for number in 0..=rng.index(3) {
                let plan = GroupPlan::draw(&mut rng, format!("t{topic}"), format!("g{number}"));
                if rng.chance(1, 3) {
                    let number = groups.len();
                    groups.push(GroupPlan::of_dead_letters(&mut rng, &plan, number));
                }
                groups.push(plan);
            }
        }
        let segment_bytes = [4096, 4096, 4096, 8192, 8192, 16384, 32768][rng.index(7)];
        let retention = rng.below(8);
        let max_age = (retention == 1).then_some(Duration::from_secs(120));
        let retained_bytes = (retention == 2).then_some(segment_bytes * 6);
        let keeps_consumed = matches!(retention, 0 | 2);
        let max_bytes = rng.chance(1, 4).then(|| segment_bytes * (3 + rng.below(6)));
        let may_lag = max_bytes.is_some() && groups.iter().any(|group| group.may_lag);
        let others = rng.index(5);
        let actors = [Role::Producer, Role::Consumer].into_iter();
        let actors = actors.chain((0..others).map(|_| ROLES[rng.index(ROLES.len())])).collect();
        Self {
            seed,
            ops: 20 + rng.index(60),
            segment_bytes,
            policy: match rng.below(10) {
                0 => SyncPolicy::EachAppend,
                1 | 2 => SyncPolicy::Interval { every: Duration::from_millis(500), bytes: 3000 },
                3 => SyncPolicy::Never,
                _ => SyncPolicy::default(),
            },
            media: if rng.chance(1, 3) { Media::WholeSectors } else { Media::PowersafeOverwrite },
            max_bytes,
            retention: retained(keeps_consumed, max_age, retained_bytes),
            max_age,
            retained_bytes,
            keeps_consumed,
            lossy: may_lag || max_age.is_some() || retained_bytes.is_some(),
            recent_bytes: if rng.chance(1, 2) { 0 } else { 2048 },
            map: rng.chance(1, 2),
            open_segments_max: 1 + rng.index(3),
            topics,
            groups,
            actors,
            lie,
        }
    }

    /// `opening` tells the openings of a run apart.
    pub(crate) fn options(&self, clock: &SimClock, opening: u64) -> Options {
        let options = Options::new()
            .segment_bytes(self.segment_bytes)
            .sync(self.policy)
            .media(self.media)
            .payload_bytes_max(PAYLOAD_MAX)
            .retention(self.retention.clone())
            .map_segments(self.map)
            .recent_bytes(self.recent_bytes)
            .open_segments_max(self.open_segments_max)
            .simulated(Arc::new(clock.clone()), mix(self.seed, opening));
        match self.max_bytes {
            Some(bytes) => options.max_bytes(bytes),
            None => options,
        }
    }

    /// Whether what `append` returned survives a power cut.
    pub(crate) fn syncs(&self) -> bool {
        matches!(self.policy, SyncPolicy::EachAppend | SyncPolicy::GroupCommit { .. })
    }

    pub(crate) fn sectors(&self) -> Sectors {
        match self.media {
            Media::WholeSectors => Sectors::Whole,
            _ => Sectors::Powersafe,
        }
    }
}

const ROLES: [Role; 3] = [Role::Producer, Role::Consumer, Role::Worker];

fn retained(keeps_consumed: bool, age: Option<Duration>, bytes: Option<u64>) -> Retention {
    let mut retention =
        if keeps_consumed { Retention::keep_consumed() } else { Retention::delete_consumed() };
    if let Some(age) = age {
        retention = retention.max_age(age);
    }
    if let Some(bytes) = bytes {
        retention = retention.max_bytes(bytes);
    }
    retention
}

/// A wall time of the simulated clock.
pub(crate) fn wall(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}
