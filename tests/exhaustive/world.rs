//! A running log, the operations on it, and what each of them promises.

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{Sectors, SimClock, SimDisk, Storage};
use ackline::{Delivery, Error, Explanation, Log, Media, Offset, Options, Result, Start, Topic};

use super::model::{Done, Model, Seen, SeenGroup, SeenTopic};
use super::recorder::{Lie, Recorder};

/// What an application does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    CreateTopic,
    CreateGroup,
    Append,
    /// One record that spans several sectors.
    AppendWide,
    /// One record that needs a new segment, unless the present one is new.
    Roll,
    /// One record that leaves no room for another one.
    Fill,
    AppendBatch,
    Submit,
    Poll,
    Ack,
    Retry,
    Commit,
    Reject,
    SeekToStart,
    SeekToEnd,
    /// An append and an acknowledgement that take effect together.
    Batch,
    Sync,
    /// What the background threads do, two seconds later.
    Maintain,
    Reopen,
    KillAndReopen,
}

impl Op {
    pub(crate) const ALL: [Self; 19] = [
        Self::CreateTopic,
        Self::CreateGroup,
        Self::Append,
        Self::AppendWide,
        Self::Roll,
        Self::AppendBatch,
        Self::Submit,
        Self::Poll,
        Self::Ack,
        Self::Retry,
        Self::Commit,
        Self::Reject,
        Self::SeekToStart,
        Self::SeekToEnd,
        Self::Batch,
        Self::Sync,
        Self::Maintain,
        Self::Reopen,
        Self::KillAndReopen,
    ];

    /// Whether there is what it works on: a topic, a group, a message in a consumer's hands.
    pub(crate) fn is_possible(self, world: &World) -> bool {
        let (topics, groups) = world.model.names();
        match self {
            Self::CreateTopic => topics < 2,
            Self::Ack | Self::Retry | Self::Reject | Self::Batch => world.held() > 0,
            Self::Poll | Self::Commit | Self::SeekToStart | Self::SeekToEnd => groups > 0,
            Self::Sync | Self::Maintain | Self::Reopen | Self::KillAndReopen => true,
            _ => topics > 0,
        }
    }
}

/// One call of an operation: an operation may end the process and begin the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Do(Op),
    Close,
    Kill,
    Open,
}

impl Step {
    pub(crate) fn of(op: Op) -> Vec<Self> {
        match op {
            Op::Reopen => vec![Self::Close, Self::Open],
            Op::KillAndReopen => vec![Self::Kill, Self::Open],
            op => vec![Self::Do(op)],
        }
    }
}

/// How large things are, so that they fit what the disk is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segment: u64,
    pub(crate) wide: usize,
    pub(crate) roll: usize,
}

pub(crate) fn sizes(media: Media) -> Sizes {
    match media {
        // Each commit takes whole sectors here.
        Media::WholeSectors => Sizes { segment: 7168, wide: 1200, roll: 2960 },
        _ => Sizes { segment: 5120, wide: 1200, roll: 2960 },
    }
}

/// Each opening has a number of its own, out of which it draws the salts of new files.
pub(crate) fn options(media: Media, clock: &SimClock, opening: u64) -> Options {
    Options::new()
        .segment_bytes(sizes(media).segment)
        .payload_bytes_max(3000)
        .media(media)
        .recent_bytes(0)
        .simulated(Arc::new(clock.clone()), opening)
}

/// A disk that does what the log is told to assume of it.
pub(crate) fn disk(media: Media) -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_sector_mode(match media {
        Media::WholeSectors => Sectors::Whole,
        _ => Sectors::Powersafe,
    });
    disk
}

#[derive(Debug)]
struct Live {
    log: Log,
    topic: Option<Topic>,
    group: Option<ackline::Group>,
    held: Vec<Delivery>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) media: Media,
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    pub(crate) recorder: Recorder,
    pub(crate) model: Model,
    live: Option<Live>,
    storage: Arc<dyn Storage>,
}

impl World {
    /// A machine with an empty disk, before the first open.
    pub(crate) fn new(media: Media, lie: Option<Lie>) -> Self {
        let disk = disk(media);
        let recorder = Recorder::new(&disk, lie);
        let storage = recorder.storage();
        let (clock, model) = (SimClock::new(), Model::default());
        Self { media, disk, clock, recorder, model, live: None, storage }
    }

    pub(crate) fn held(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.held.len())
    }

    pub(crate) fn log(&self) -> &Log {
        &self.live.as_ref().expect("a process runs").log
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.log.stats().poisoned)
    }

    /// What an append answers that comes too late.
    pub(crate) fn late_append(&self) -> Option<Error> {
        let log = self.log();
        log.topic("t").and_then(|topic| topic.append("late")).err()
    }

    /// The consumers let go of everything.
    pub(crate) fn give_back_all(&mut self) {
        self.model.let_go();
        self.model.loosen();
        if let Some(live) = &mut self.live {
            live.held.clear();
        }
    }

    /// Takes a whole step, and expects nothing in the way.
    pub(crate) fn apply(&mut self, step: Step) {
        self.plan(step);
        self.run(step).expect("nothing is in the way");
        self.promise(step);
    }

    fn payload(&self, bytes: usize) -> Vec<u8> {
        let mut payload = format!("m{}", self.model.events()).into_bytes();
        payload.resize(bytes.max(payload.len()), b'.');
        payload
    }

    /// Takes up what a step is about to do, without promising any of it.
    pub(crate) fn plan(&mut self, step: Step) {
        self.model.call();
        let held = self.live.as_ref().and_then(|live| live.held.first());
        let held = held.map(|delivery| index(delivery.offset()));
        let Step::Do(op) = step else {
            if step == Step::Close {
                self.model.let_go();
            }
            return;
        };
        let sizes = sizes(self.media);
        match op {
            Op::CreateTopic => {
                let name = if self.model.names().0 == 0 { "t" } else { "u" };
                self.model.topic(name);
            }
            Op::CreateGroup => {
                let number = self.model.names().1;
                let floor = self.start();
                self.model.group(0, &format!("g{number}"), floor);
            }
            Op::Append | Op::Submit => self.plan_message(20),
            Op::AppendWide => self.plan_message(sizes.wide),
            Op::Roll => self.plan_message(sizes.roll),
            Op::Fill => {
                let stats = self.log().stats();
                assert_eq!(stats.segments, 1, "the first segment is filled");
                // The head takes a sector, the last marker 64 bytes and its echoes two sectors; a
                // record needs room for its headers and its padding, too.
                let room = sizes.segment - 512 - 64 - 1024 - stats.written.0;
                let beside = if self.media == Media::WholeSectors { 1300 } else { 150 };
                self.plan_message(usize::try_from(room - beside).expect("a small segment"));
            }
            Op::AppendBatch => (0..3).for_each(|_| self.plan_message(20)),
            Op::Poll => self.model.loosen(),
            Op::Ack => self.model.settle(0, held.expect("one is held"), Done::Maybe),
            Op::Batch => {
                let payload = self.payload(20);
                let event = self.model.message(0, payload);
                self.model.settle(0, held.expect("one is held"), Done::With(event));
            }
            Op::Reject => {
                let offset = held.expect("one is held");
                let letter = self.model.payload(0, offset);
                let dead = self.model.topic("t.g0.dead");
                let event = self.model.message(dead, letter);
                self.model.settle(0, offset, Done::With(event));
            }
            Op::SeekToStart => {
                let start = self.start();
                self.model.seek(0, start);
            }
            Op::SeekToEnd => {
                let end = self.visible_end();
                self.model.seek(0, end);
            }
            Op::Retry => self.model.give_back(0, held.expect("one is held")),
            Op::Commit | Op::Sync | Op::Maintain | Op::Reopen | Op::KillAndReopen => {}
        }
    }

    fn plan_message(&mut self, bytes: usize) {
        let payload = self.payload(bytes);
        self.model.message(0, payload);
    }

    /// The first offset that retention has left.
    pub(crate) fn start(&self) -> usize {
        let topic = self.live.as_ref().and_then(|live| live.topic.as_ref());
        topic.map_or(0, |topic| index(topic.offsets().start))
    }

    fn visible_end(&self) -> usize {
        let topic = self.live.as_ref().and_then(|live| live.topic.as_ref());
        topic.map_or(0, |topic| index(topic.offsets().end))
    }

    /// Does what was planned.
    pub(crate) fn run(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Do(op) => self.run_op(op),
            Step::Close => {
                let live = self.live.take().expect("a process runs");
                live.log.close()
            }
            Step::Kill => {
                self.disk.kill();
                self.live = None;
                self.storage = self.recorder.storage();
                Ok(())
            }
            Step::Open => self.open(),
        }
    }

    fn open(&mut self) -> Result<()> {
        let log = options(self.media, &self.clock, self.disk.calls())
            .open_on(Arc::clone(&self.storage))?;
        let has = |name: &str| log.topics().iter().any(|topic| topic == name);
        let topic = if has("t") { Some(log.topic("t")?) } else { None };
        let group = match &topic {
            Some(topic) if !log.groups(topic).is_empty() => Some(topic.group("g0")?),
            _ => None,
        };
        self.live = Some(Live { log, topic, group, held: Vec::new() });
        Ok(())
    }

    fn run_op(&mut self, op: Op) -> Result<()> {
        let last = self.model.names();
        let live = self.live.as_mut().expect("a process runs");
        let topic = || live.topic.clone().expect("a topic is there");
        let payloads = |model: &Model, n: usize| -> Vec<Vec<u8>> {
            let len = model.len(0);
            (len - n..len).map(|offset| model.payload(0, offset)).collect()
        };
        match op {
            Op::CreateTopic if last.0 == 1 => live.topic = Some(live.log.topic("t")?),
            Op::CreateTopic => drop(live.log.topic("u")?),
            Op::CreateGroup => {
                let group = topic().group(&format!("g{}", last.1 - 1))?;
                live.group.get_or_insert(group);
            }
            Op::Append | Op::AppendWide | Op::Roll | Op::Fill => {
                let payload = payloads(&self.model, 1).remove(0);
                topic().append(payload)?;
            }
            Op::AppendBatch => {
                topic().append_batch(payloads(&self.model, 3))?;
            }
            Op::Submit => topic().submit(payloads(&self.model, 1).remove(0)).detach(),
            Op::Poll => {
                let polled = live.group.as_ref().expect("a group").poll(1, Duration::ZERO)?;
                for delivery in polled {
                    let (offset, attempt) = (index(delivery.offset()), delivery.attempt());
                    self.model.delivered(0, offset, attempt);
                    live.held.push(delivery);
                }
            }
            Op::Ack => live.held.remove(0).ack()?,
            Op::Retry => live.held.remove(0).retry_after(Duration::ZERO)?,
            Op::Reject => live.held.remove(0).reject("bad")?,
            Op::Batch => {
                let payload = payloads(&self.model, 1).remove(0);
                let delivery = live.held.remove(0);
                live.log.batch().append(&topic(), payload).ack(delivery).commit()?;
            }
            Op::Commit => live.group.as_ref().expect("a group").commit()?,
            Op::SeekToStart | Op::SeekToEnd => {
                let to = if op == Op::SeekToEnd { Start::Latest } else { Start::Earliest };
                live.group.as_ref().expect("a group").seek(to)?;
                // Their leases are stale now.
                live.held.clear();
            }
            Op::Sync => live.log.sync()?,
            Op::Maintain => {
                self.clock.advance(Duration::from_secs(2));
                live.log.maintain()?;
            }
            Op::Reopen | Op::KillAndReopen => unreachable!("these are steps of their own"),
        }
        Ok(())
    }

    /// What is promised now that a step has succeeded.
    pub(crate) fn promise(&mut self, step: Step) {
        match step {
            Step::Do(Op::Submit | Op::Ack | Op::Retry | Op::Poll) => {}
            Step::Do(Op::Commit | Op::Sync | Op::Maintain) | Step::Close => {
                self.model.promise();
                self.model.promise_acks();
            }
            Step::Do(Op::SeekToStart | Op::SeekToEnd) => {
                self.model.promise();
                self.model.sought(0);
            }
            Step::Do(_) => self.model.promise(),
            Step::Kill => self.model.loosen(),
            Step::Open => {
                // A fault may strike this look; it strikes once.
                let seen = look(self.log()).or_else(|_| look(self.log()));
                let checked = seen.and_then(|seen| Ok((self.model.check(&seen)?, seen)));
                let (cut, seen) = checked.expect("what is opened keeps the promises");
                self.model.adopt(&seen, cut);
            }
        }
    }
}

pub(crate) fn index(offset: Offset) -> usize {
    usize::try_from(offset.0).expect("these topics are short")
}

/// Reads everything that a log shows.
pub(crate) fn look(log: &Log) -> std::result::Result<Seen, String> {
    let mut seen = Seen::default();
    for name in log.topics() {
        let topic = log.topic(&name).map_err(|error| format!("topic {name}: {error}"))?;
        seen.topics.push(look_at(log, name, &topic).map_err(|error| error.to_string())?);
    }
    Ok(seen)
}

fn look_at(log: &Log, name: String, topic: &Topic) -> Result<SeenTopic> {
    let offsets = topic.offsets();
    let mut payloads = Vec::new();
    for (expected, message) in (offsets.start.0..).zip(topic.read_from(offsets.start)?) {
        let message = message?;
        assert_eq!(message.offset().0, expected, "readers go on without a hole");
        payloads.push(message.payload().to_vec());
    }
    let start = index(offsets.start);
    assert_eq!(start + payloads.len(), index(offsets.end), "all that is visible is there");
    let mut groups = Vec::new();
    for name in log.groups(topic) {
        let group = topic.group(&name)?;
        let settled = (offsets.start.0..offsets.end.0)
            .map(|offset| Ok(group.explain(Offset(offset))? == Explanation::Settled))
            .collect::<Result<_, Error>>()?;
        groups.push(SeenGroup { name, settled });
    }
    Ok(SeenTopic { name, start, payloads, groups })
}
