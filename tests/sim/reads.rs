//! Operations that look at messages and at groups.

mod log;

use std::time::Duration;

use ackline::simulation::Rng;
use ackline::{Error, Explanation, Offset, Topic};

use super::model::{Ack, Progress};
use super::setup::wall;
use super::world::World;
use super::{Checked, ensure};

/// How long a message waits that is out of attempts, while its dead letter finds no room.
const BURY_AGAIN: Duration = Duration::from_secs(1);

impl World {
    /// Reads a topic from some offset to its end.
    pub(crate) fn read(&mut self, rng: &mut Rng) -> Checked {
        if self.live().topics.is_empty() {
            return Ok(());
        }
        self.count("read_from");
        let topics = self.live().topics.len();
        let id = rng.index(topics);
        let topic = self.live().topics[id].clone();
        let offsets = topic.offsets();
        let from = offsets.start.0 + rng.below(offsets.end.0 - offsets.start.0 + 1);
        self.note(|| format!("read #{id} from {from}"));
        match self.read_checked(id, &topic, from)? {
            Ok(next) => ensure!(next == offsets.end.0, "#{id} ended at {next}"),
            Err(error) => {
                self.failed_to_read("read", &error)?;
            }
        }
        Ok(())
    }

    fn read_checked(&self, id: usize, topic: &Topic, from: u64) -> Checked<Result<u64, Error>> {
        let reader = match topic.read_from(Offset(from)) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let mut next = from;
        for message in reader {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Ok(Err(error)),
            };
            ensure!(message.offset().0 == next, "#{id}: {} at {next}", message.offset());
            self.model.check(&self.setup, id, &message)?;
            next += 1;
        }
        Ok(Ok(next))
    }

    /// Reads on in a topic as it grows, outside of any group.
    pub(crate) fn tail(&mut self, rng: &mut Rng) -> Checked {
        let Some((id, mut reader)) = self.actor().tail.take() else {
            let topics = self.live().topics.len();
            if topics > 0 {
                let id = rng.index(topics);
                let topic = self.live().topics[id].clone();
                let from = topic.offsets().start;
                match topic.read_from(from) {
                    Ok(reader) => self.actor().tail = Some((id, reader)),
                    Err(error) => return self.failed_to_read("tail", &error),
                }
            }
            return Ok(());
        };
        self.count("tail");
        let offsets = self.live().topics[id].offsets();
        for _ in 0..=rng.index(20) {
            let expected = reader.next_offset();
            match reader.next() {
                None => {
                    ensure!(expected == offsets.end, "#{id} ended at {expected} of {offsets:?}");
                    break;
                }
                Some(Ok(message)) => {
                    let found = message.offset();
                    ensure!(found == expected, "#{id}: {found} at {expected}");
                    self.model.check(&self.setup, id, &message)?;
                }
                Some(Err(Error::Lagged { from, to })) => {
                    let right = from == expected && to == offsets.start && from < to;
                    ensure!(right, "#{id} lags from {from} to {to} of {offsets:?}");
                }
                Some(Err(error)) => return self.failed_to_read("tail", &error),
            }
        }
        self.actor().tail = Some((id, reader));
        Ok(())
    }

    pub(crate) fn offset_at(&mut self, rng: &mut Rng) -> Checked {
        let Some(id) = self.draw_topic(rng) else { return Ok(()) };
        self.count("offset_at");
        let ms = 1_700_000_000_000 + rng.below(200_000) - 60_000;
        let topic = self.live().topics[id].clone();
        let offsets = topic.offsets();
        self.note(|| format!("offset_at {ms} in #{id}"));
        match topic.offset_at(wall(ms)) {
            Ok(found) => {
                let expected = self.model.offset_at(id, offsets.start.0..offsets.end.0, ms);
                ensure!(found.0 == expected, "offset_at({ms}) is {found} instead of {expected}");
            }
            Err(error) => {
                self.failed_to_read("offset_at", &error)?;
            }
        }
        Ok(())
    }

    /// Compares what a group says of itself with the model.
    pub(crate) fn look(&mut self, rng: &mut Rng) -> Checked {
        let Some(id) = self.draw_group(rng) else { return Ok(()) };
        self.count("look");
        let handle = self.live().groups[id].clone();
        let end = handle.topic().offsets().end.0;
        let plan = &self.setup.groups[self.model.groups[id].plan];
        let comparable = plan.tag.is_none() && !self.setup.lossy;
        let hidden = self.waiting(id) > 0;
        let lag = match handle.lag() {
            Ok(lag) => lag,
            Err(error) => return self.failed("lag", &error).map(|_| ()),
        };
        self.succeeded("lag")?;
        let (now, group) = (self.now(), &self.model.groups[id]);
        let holds = |progress: &Progress| progress.held_until.is_some_and(|until| until > now);
        if comparable {
            let open = (0..end).filter(|&offset| group.get(offset).ack == Ack::No).count();
            ensure!(lag.messages == open as u64, "lag of group {id} is {lag:?}, {open} are open");
            let leased = (0..end).filter(|&offset| holds(&group.get(offset))).count();
            let right = hidden || lag.leased == leased as u64;
            ensure!(right, "lag of group {id} is {lag:?}, {leased} are held");
        }
        self.look_at(id, rng.below(end + 2))
    }

    /// Compares what a group says of a message with the model.
    pub(crate) fn look_at(&mut self, id: usize, offset: u64) -> Checked {
        if self.dead() || self.poisoned() {
            return Ok(());
        }
        let handle = self.live().groups[id].clone();
        let end = handle.topic().offsets().end.0;
        let explained = match handle.explain(Offset(offset)) {
            Ok(explained) => explained,
            Err(error) => return self.failed("explain", &error).map(|_| ()),
        };
        let plan = &self.setup.groups[self.model.groups[id].plan];
        let comparable = plan.tag.is_none() && !self.setup.lossy && self.waiting(id) == 0;
        let now = self.now();
        if offset >= end {
            let not_yet = explained == Explanation::NotYet;
            ensure!(not_yet, "{explained:?} of {offset}, beyond the end");
            return Ok(());
        }
        let progress = self.model.groups[id].get(offset);
        let place = format_args!("group {id}, offset {offset}: {explained:?}, {progress:?}");
        if progress.ack != Ack::No {
            let gone = self.setup.lossy && explained == Explanation::Gone;
            ensure!(gone || explained == Explanation::Settled, "not done: {place}");
        } else if comparable {
            let right = self.is_explained(explained, progress, plan.attempts_max);
            ensure!(right, "not what became of it at {now:?}: {place}");
        }
        Ok(())
    }

    /// Whether an explanation of a message that is not done is what the model knows of it.
    fn is_explained(&self, explained: Explanation, progress: Progress, attempts_max: u32) -> bool {
        let now = self.now();
        let held = progress.held_until.filter(|until| *until > now);
        // What happened before this process began may have been forgotten or be unknown here.
        let known = progress.token != 0;
        match explained {
            Explanation::Leased { attempt, ends_in } => {
                attempt == progress.counted && held == Some(now + ends_in)
            }
            Explanation::Waiting { attempts, due_in } => {
                let due = now + due_in;
                let exact = attempts == progress.counted && due == progress.due.max(now);
                // Its dead letter found no room, and is tried again.
                let unburied = attempts >= attempts_max && due_in <= BURY_AGAIN;
                held.is_none() && attempts >= progress.counted && (exact || unburied || !known)
            }
            Explanation::Undelivered => progress.counted == 0 && held.is_none(),
            _ => false,
        }
    }
}
