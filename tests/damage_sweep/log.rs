//! The logs that are damaged: several topics, groups with progress, dead letters and batches in
//! several segments, each left in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ackline::simulation::{Rng, SimClock, SimDisk};
use ackline::{
    Error, Explanation, Group, GroupOptions, Log, Media, Message, Offset, Options, Record, Result,
    Retention, Topic,
};

use crate::layout::{Layout, SECTOR};

/// How many bytes of frames a log has at least.
pub(crate) const FRAME_BYTES_MIN: u64 = 64 * 1024;

const SEGMENT_BYTES: u64 = 16 * 1024;

/// How a log was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    /// Closed.
    Closed,
    /// Killed in the middle of its work.
    Busy,
    /// Killed while it was idle.
    Idle,
    /// Closed, opened again, written to and killed.
    Reopened,
    /// Closed, opened again, written to and closed again.
    ClosedTwice,
}

impl Left {
    pub(crate) const ALL: [Self; 5] =
        [Self::Closed, Self::Busy, Self::Idle, Self::Reopened, Self::ClosedTwice];

    /// Whether the log itself says that all of it is durable.
    pub(crate) fn is_vouched_for(self) -> bool {
        matches!(self, Self::Closed | Self::Idle | Self::ClosedTwice)
    }
}

/// A log as it was left, and what it holds.
pub(crate) struct Subject {
    pub(crate) left: Left,
    pub(crate) media: Media,
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    /// The files of the log, with what they hold.
    pub(crate) files: BTreeMap<String, (Vec<u8>, Layout)>,
    pub(crate) truth: Truth,
    /// What the sectors held at earlier times.
    pub(crate) earlier: BTreeMap<(String, usize), BTreeSet<Vec<u8>>>,
}

/// What a log shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) topics: Vec<TopicTruth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicTruth {
    pub(crate) name: String,
    pub(crate) start: u64,
    pub(crate) messages: Vec<Seen>,
    /// By group: its name and what it says of each message, its attempts included.
    pub(crate) groups: Vec<(String, Vec<Explanation>)>,
}

/// All that a message shows, but for its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    payload: Vec<u8>,
    key: Option<Vec<u8>>,
    tag: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp: SystemTime,
}

impl Seen {
    fn of(message: &Message) -> Self {
        let headers = message.headers().map(|(name, value)| (name.to_owned(), value.to_vec()));
        Self {
            payload: message.payload().to_vec(),
            key: message.key().map(<[u8]>::to_vec),
            tag: message.tag().map(str::to_owned),
            headers: headers.collect(),
            timestamp: message.timestamp(),
        }
    }
}

pub(crate) fn open(disk: &SimDisk, clock: &SimClock, media: Media, map: bool) -> Result<Log> {
    Options::new()
        .media(media)
        .segment_bytes(SEGMENT_BYTES)
        .retention(Retention::keep_consumed())
        .map_segments(map)
        .recent_bytes(0)
        .simulated(Arc::new(clock.clone()), disk.calls())
        .open_on(disk.storage())
}

/// Reads everything that a log shows.
pub(crate) fn read(log: &Log) -> Result<Truth> {
    let mut truth = Truth::default();
    for name in log.topics() {
        let topic = log.topic(&name)?;
        let offsets = topic.offsets();
        let messages = topic.read_from(offsets.start)?;
        let messages = messages
            .zip(offsets.start.0..)
            .map(|(message, expected)| {
                let message = message?;
                assert_eq!(message.offset(), Offset(expected), "no reader skips a message");
                Ok(Seen::of(&message))
            })
            .collect::<Result<Vec<_>>>()?;
        assert_eq!(
            offsets.start.0 + messages.len() as u64,
            offsets.end.0,
            "no reader ends before the end"
        );
        let groups = log.groups(&topic).into_iter().map(|name| {
            let group = topic.group(&name)?;
            let explained = (offsets.start.0..offsets.end.0)
                .map(|offset| group.explain(Offset(offset)))
                .collect::<Result<Vec<_>, Error>>()?;
            Ok((name, explained))
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        truth.topics.push(TopicTruth { name, start: offsets.start.0, messages, groups });
    }
    Ok(truth)
}

/// Writes logs and remembers what was in their sectors on the way.
struct Writer {
    media: Media,
    disk: SimDisk,
    clock: SimClock,
    rng: Rng,
    log: Option<Log>,
    topics: Vec<Topic>,
    groups: Vec<Group>,
    written: BTreeMap<String, Vec<Vec<u8>>>,
    earlier: BTreeMap<(String, usize), BTreeSet<Vec<u8>>>,
    last: BTreeMap<String, Vec<u8>>,
}

impl Writer {
    fn new(media: Media) -> Self {
        Self {
            media,
            disk: SimDisk::new(5),
            clock: SimClock::new(),
            rng: Rng::new(77),
            log: None,
            topics: Vec::new(),
            groups: Vec::new(),
            written: BTreeMap::new(),
            earlier: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("the log is open")
    }

    fn open(&mut self) {
        self.log = Some(open(&self.disk, &self.clock, self.media, true).expect("opens"));
        let topic = |name: &str| self.log().topic(name).expect("a topic");
        self.topics = ["orders", "audit", "mail"].map(topic).to_vec();
        let options = GroupOptions::new().backoff([Duration::from_secs(1)]);
        self.groups = [(0, "billing"), (0, "search"), (2, "sender")]
            .map(|(topic, name)| {
                self.topics[topic].group_with(name, options.clone()).expect("a group")
            })
            .to_vec();
        self.remember();
    }

    /// Notes what the sectors hold now.
    fn remember(&mut self) {
        for name in self.disk.names() {
            let bytes = self.disk.file(&name).expect("it was listed");
            if self.last.get(&name) == Some(&bytes) {
                continue;
            }
            let sectors = bytes.chunks(SECTOR).enumerate();
            for (sector, bytes) in sectors.filter(|(_, bytes)| bytes.len() == SECTOR) {
                let key = (name.clone(), sector);
                self.earlier.entry(key).or_default().insert(bytes.to_vec());
            }
            self.last.insert(name, bytes);
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let bytes = if self.rng.chance(1, 4) { self.rng.index(2500) } else { self.rng.index(900) };
        let mut payload = vec![0; bytes + 8];
        self.rng.fill(&mut payload);
        payload
    }

    /// A record of everything that one can have.
    fn record(&mut self, payload: Vec<u8>) -> Record<'static> {
        let record = Record::new(payload);
        match self.rng.below(4) {
            0 => record.key(format!("key {}", self.rng.below(9))).tag("red"),
            1 => record.header("trace", self.rng.next_u64().to_string()).tag("blue"),
            2 => record.timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(self.rng.below(99))),
            _ => record,
        }
    }

    fn wrote(&mut self, topic: usize, payload: &[u8]) {
        let name = self.topics[topic].name().to_owned();
        self.written.entry(name).or_default().push(payload.to_vec());
    }

    /// Appends, in one of three ways.
    fn append(&mut self) {
        let topic = self.rng.index(3);
        let payload = self.payload();
        self.wrote(topic, &payload);
        match self.rng.below(6) {
            0 => {
                let more = self.payload();
                self.wrote(topic, &more);
                let records = [self.record(payload), self.record(more)];
                self.topics[topic].append_batch(records).expect("appends");
            }
            1 => {
                let (other, beside) = ((topic + 1) % 3, self.payload());
                self.wrote(other, &beside);
                let (record, beside) = (self.record(payload), self.record(beside));
                let batch = self.log().batch().append(&self.topics[topic], record);
                batch.append(&self.topics[other], beside).commit().expect("commits");
            }
            _ => {
                let record = self.record(payload);
                self.topics[topic].append(record).expect("appends");
            }
        }
    }

    /// Consumes a few messages, each with another outcome.
    fn consume(&mut self) {
        let group = self.groups[self.rng.index(3)].clone();
        for delivery in group.poll(3, Duration::ZERO).expect("polls") {
            match self.rng.below(8) {
                0 => {
                    let name = group.dead_letter_topic();
                    self.written.entry(name).or_default().push(delivery.payload().to_vec());
                    delivery.reject("bad").expect("rejects");
                }
                1 => delivery.retry().expect("gives back"),
                2 => drop(delivery),
                _ => delivery.ack().expect("acks"),
            }
        }
        if self.rng.chance(1, 3) {
            group.commit().expect("commits");
        }
        self.clock.advance(Duration::from_millis(300));
    }

    fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.rng.chance(1, 5) {
                self.consume();
            } else {
                self.append();
            }
            self.remember();
        }
    }

    fn maintain(&mut self) {
        self.clock.advance(Duration::from_secs(2));
        self.log().maintain().expect("maintains");
        self.remember();
    }

    fn close(&mut self) {
        (self.topics, self.groups) = (Vec::new(), Vec::new());
        self.log.take().expect("the log is open").close().expect("closes");
        self.remember();
    }
}

/// Writes a log and leaves it.
pub(crate) fn subject(left: Left, media: Media) -> Subject {
    let mut writer = Writer::new(media);
    writer.open();
    while writer.log().stats().written.0 < FRAME_BYTES_MIN + 4096 {
        writer.work(5);
        writer.maintain();
    }
    match left {
        Left::Closed => writer.close(),
        Left::Busy => writer.work(3),
        Left::Idle => {
            writer.work(3);
            writer.maintain();
        }
        Left::Reopened | Left::ClosedTwice => {
            writer.close();
            writer.open();
            writer.work(6);
            if left == Left::ClosedTwice {
                writer.close();
            }
        }
    }
    writer.disk.kill();
    finish(writer, left)
}

fn finish(writer: Writer, left: Left) -> Subject {
    let Writer { media, disk, clock, written, earlier, .. } = writer;
    let mut files = BTreeMap::new();
    for name in disk.names() {
        let bytes = disk.file(&name).expect("it was listed");
        let layout = if is_segment(&name) {
            Layout::of_segment(&bytes)
        } else {
            Layout::of_index(bytes.len())
        };
        files.insert(name, (bytes, layout));
    }
    let log = open(&disk.fork(), &clock, media, true).expect("an undamaged log opens");
    let truth = read(&log).expect("an undamaged log can be read");
    for topic in &truth.topics {
        assert_eq!(topic.start, 0, "nothing was deleted");
        let payloads = topic.messages.iter().map(|message| &message.payload);
        assert!(payloads.eq(&written[&topic.name]), "the truth of {}", topic.name);
    }
    let all = || truth.topics.iter().flat_map(|topic| &topic.messages);
    assert!(
        all().any(|message| message.key.is_some()) && all().any(|message| message.tag.is_some())
    );
    let explained = truth.topics.iter().flat_map(|topic| &topic.groups).flat_map(|group| &group.1);
    let waits = |explained: &Explanation| matches!(explained, Explanation::Waiting { .. });
    assert!(explained.copied().any(|explained| waits(&explained)), "some attempts are counted");
    let frames: u64 = files.values().map(|(_, layout)| layout.end - layout.base).sum();
    assert!(frames >= FRAME_BYTES_MIN, "{frames} bytes of frames are too few");
    Subject { left, media, disk, clock, files, truth, earlier }
}

pub(crate) fn is_segment(name: &str) -> bool {
    name.strip_suffix("seg").is_some_and(|stem| stem.ends_with('.'))
}
