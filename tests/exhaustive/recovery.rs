//! One state of the disk after a crash: recovered, compared with the model, crashed again in the
//! middle of the recovery, and used.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{Log, Media};

use super::model::{Model, Seen};
use super::recorder::Recorder;
use super::world::{index, look, options};

/// How much is done with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Recover,
    /// A second crash at every call of the recovery, and the log is used afterwards.
    RecoverTwice,
}

/// What was gone through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recoveries {
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) used: u64,
}

/// What a disk is looked at as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Before a crash.
    Point,
    /// After one.
    State,
    /// After a second one, with what the recovery in between had returned.
    Again(Option<usize>),
}

/// What was gone through already: the same disk with the same promises comes again and again.
#[derive(Debug, Default)]
pub(crate) struct Memory(HashSet<u64>);

impl Memory {
    pub(crate) fn is_new(&mut self, what: What, disk: &SimDisk, model: &Model) -> bool {
        let mut hasher = DefaultHasher::new();
        (what, disk.content_hash(), model).hash(&mut hasher);
        self.0.insert(hasher.finish())
    }
}

/// The check of disks of one kind.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    pub(crate) model: &'a Model,
    pub(crate) media: Media,
    pub(crate) clock: &'a SimClock,
    pub(crate) memory: &'a mut Memory,
    pub(crate) done: &'a mut Recoveries,
}

impl Check<'_> {
    /// Checks every promise on a disk after a crash.
    pub(crate) fn recover(&mut self, disk: &SimDisk, depth: Depth) -> Result<(), String> {
        let recorder = Recorder::new(disk, None);
        if depth == Depth::RecoverTwice {
            recorder.start();
        }
        self.done.first += 1;
        let log = self.open(&recorder)?;
        let shots = recorder.stop();
        let (cut, seen) = self.compare(&log)?;
        for (number, shot) in shots.iter().enumerate() {
            // What a recovery has returned is promised from then on.
            let returned = (number + 1 == shots.len()).then_some(cut);
            self.again(shot, returned)
                .map_err(|e| format!("second crash, point {number} of the recovery: {e}"))?;
        }
        check_deliveries(&log, self.model, &seen)?;
        if depth == Depth::RecoverTwice && !seen.topics.is_empty() {
            self.go_on(disk, &log, &seen)?;
        }
        Ok(())
    }

    fn open(&self, recorder: &Recorder) -> Result<Log, String> {
        let options = options(self.media, self.clock, recorder.disk().calls());
        let opened = options.open_on(recorder.storage());
        opened.map_err(|error| format!("cannot open: {error}"))
    }

    fn compare(&self, log: &Log) -> Result<(usize, Seen), String> {
        let seen = look(log)?;
        Ok((self.model.check(&seen)?, seen))
    }

    /// Recovers from a crash in the middle of a recovery: with all that it wrote, with none.
    fn again(&mut self, shot: &SimDisk, returned: Option<usize>) -> Result<(), String> {
        let unsynced = shot.unsynced();
        for survive in [false, true] {
            let disk = shot.fork();
            disk.crash_as(&unsynced.all(survive));
            if !self.memory.is_new(What::Again(returned), &disk, self.model) {
                continue;
            }
            self.done.second += 1;
            let log = self.open(&Recorder::new(&disk, None))?;
            let (cut, _) = self.compare(&log)?;
            if let Some(returned) = returned.filter(|returned| *returned != cut) {
                return Err(format!("{returned} events were there, now {cut}"));
            }
        }
        Ok(())
    }

    /// Appends to a recovered log, cuts the power and finds it all there again.
    fn go_on(&mut self, disk: &SimDisk, log: &Log, seen: &Seen) -> Result<(), String> {
        let say = |error: ackline::Error| error.to_string();
        self.done.used += 1;
        log.topic("t").map_err(say)?.append("later").map_err(say)?;
        let disk = disk.fork();
        disk.crash_as(&disk.unsynced().all(false));
        let found = look(&self.open(&Recorder::new(&disk, None))?)?;
        // Retention may have taken some of them meanwhile, but not the last one.
        let (last, rest) = found
            .topics
            .first()
            .and_then(|topic| topic.payloads.split_last())
            .ok_or("what was appended after recovery is lost")?;
        if last != b"later" || !seen.topics[0].payloads.ends_with(rest) {
            return Err("what was appended after recovery is not at the end".to_owned());
        }
        Ok(())
    }
}

/// Checks what the first group gets, until it has everything.
fn check_deliveries(log: &Log, model: &Model, seen: &Seen) -> Result<(), String> {
    let Some(topic) = seen.topics.first().filter(|topic| !topic.groups.is_empty()) else {
        return Ok(());
    };
    let say = |error: ackline::Error| error.to_string();
    let topic = log.topic(&topic.name).map_err(say)?;
    let group = topic.group(&seen.topics[0].groups[0].name).map_err(say)?;
    loop {
        let polled = group.poll(10, Duration::ZERO).map_err(say)?;
        if polled.is_empty() {
            break;
        }
        let alone = polled.len() == 1;
        for delivery in polled {
            let offset = index(delivery.offset());
            model.check_delivery(0, offset, delivery.attempt(), alone)?;
            delivery.ack().map_err(say)?;
        }
    }
    let left = group.lag().map_err(say)?.messages;
    if left == 0 { Ok(()) } else { Err(format!("{left} messages are never delivered")) }
}
