//! Salvage of a log that is refused, or that shows damage when it is read: what it keeps is true
//! and in order, what it loses is told, and the log goes on.
//!
//! What it keeps is not true where a sector came from another life of the log, whose frames are
//! whole and follow what lies before them, and whatever would contradict them is damaged. Then it
//! is to be in order all the same.

use std::time::Duration;

use ackline::simulation::{SimDisk, salvage_on};
use ackline::{Error, Explanation, Log, Offset, Topic};

use super::super::model::{Ack, GroupModel};
use super::super::world::World;
use super::super::{Checked, at, ensure, violation};
use super::Damage;

/// What salvage calls a topic or a group whose name is lost.
const NAMELESS: [&str; 2] = ["lost topic ", "lost group "];

/// Salvages a copy of a damaged disk, and looks at what is left.
pub(super) fn salvage(world: &mut World, disk: &SimDisk, damage: Damage) -> Checked {
    let (disk, own) = (disk.fork(), damage != Damage::EarlierLife);
    let report = match salvage_on(&*disk.storage()) {
        Ok(report) => report,
        Err(error) if may_refuse(&disk, damage, &error) => {
            world.count("salvage_refused");
            return Ok(());
        }
        Err(error) => violation!("salvage of a damaged log answers {error:?}"),
    };
    world.count("salvaged");
    world.note(|| format!("  salvaged: {:?}", report.lost));
    ensure!(!report.lost.is_empty(), "salvage found nothing in a log that was refused");
    let log = open(world, &disk)?;
    for (id, name) in log.topics().into_iter().enumerate() {
        let topic = topic(&log, &name)?;
        if own {
            let expected = world.model.topics.get(id).map(|topic| &topic.name);
            ensure!(expected.is_some(), "salvage invented the topic {name}");
            let right = expected == Some(&name) || name.starts_with(NAMELESS[0]);
            ensure!(right, "salvage calls the topic {expected:?} {name}");
        }
        read(world, id, &topic, own)?;
        if own {
            check_groups(world, &log, id, &topic)?;
        }
    }
    go_on(world, &disk, log, own)
}

/// Whether there is nothing to begin with: no head is whole, or a version is not known, or frames
/// of two lives contradict each other.
fn may_refuse(disk: &SimDisk, damage: Damage, error: &Error) -> bool {
    match error {
        Error::Corrupt { file, .. } => {
            *file == disk.storage().describe() || damage == Damage::EarlierLife
        }
        Error::UnsupportedVersion { .. } => true,
        _ => false,
    }
}

fn open(world: &World, disk: &SimDisk) -> Checked<Log> {
    let storage = world.storage_of(disk);
    match world.setup.options(&world.clock, disk.calls()).open_on(storage) {
        Ok(log) => Ok(log),
        Err(error) => violation!("a salvaged log cannot be opened: {error} ({error:?})"),
    }
}

fn topic(log: &Log, name: &str) -> Checked<Topic> {
    match log.topic(name) {
        Ok(topic) => Ok(topic),
        Err(error) => violation!("a salvaged log does not open topic {name}: {error:?}"),
    }
}

/// Reads all that is left of a topic, in its order, with gaps that are told; what was put there,
/// if it is the log's own.
fn read(world: &World, id: usize, topic: &Topic, own: bool) -> Checked {
    let offsets = topic.offsets();
    let reader = match topic.read_from(offsets.start) {
        Ok(reader) => reader,
        Err(error) => violation!("a salvaged topic cannot be read: {error:?}"),
    };
    let mut next = offsets.start;
    for message in reader {
        match message {
            Ok(message) => {
                let found = message.offset();
                ensure!(found == next, "salvage reordered #{id}: {found} at {next}");
                if own {
                    world.model.check_as(&world.setup, id, topic.name(), &message)?;
                }
                next = found.next();
            }
            Err(Error::Lagged { from, to }) => {
                let right = from == next && from < to && to <= offsets.end;
                ensure!(right, "#{id} lags from {from} to {to} at {next} of {offsets:?}");
                next = to;
            }
            Err(error) => violation!("a salvaged topic shows {error:?}"),
        }
    }
    ensure!(next == offsets.end, "#{id} ends at {next} of {offsets:?} after salvage");
    Ok(())
}

/// Checks that no message counts as done that is not.
fn check_groups(world: &World, log: &Log, id: usize, topic: &Topic) -> Checked {
    for name in log.groups(topic) {
        let plan_of = |model: &GroupModel| &world.setup.groups[model.plan];
        let known = |model: &GroupModel| model.topic == id && plan_of(model).name == name;
        let Some(number) = world.model.groups.iter().position(known) else {
            ensure!(name.starts_with(NAMELESS[1]), "salvage invented the group {name} of #{id}");
            continue;
        };
        let model = &world.model.groups[number];
        let group = match topic.group_with(&name, plan_of(model).options()) {
            Ok(group) => group,
            Err(error) => violation!("a salvaged group does not open: {error:?}"),
        };
        for offset in topic.offsets().start.0..topic.offsets().end.0 {
            let done = match group.explain(Offset(offset)) {
                Ok(explained) => explained == Explanation::Settled,
                Err(error) => violation!("a salvaged group cannot explain {offset}: {error:?}"),
            };
            // What the tag filter skips counts as done.
            let filtered = !world.model.is_wanted(&world.setup, number, offset);
            let may_be = filtered || model.get(offset).ack != Ack::No;
            ensure!(!done || may_be, "an ack was invented: group {number}, {offset}");
        }
    }
    Ok(())
}

/// A salvaged log takes new messages, delivers what is left, and opens again.
fn go_on(world: &World, disk: &SimDisk, log: Log, own: bool) -> Checked {
    let name = "after.salvage";
    let appended = topic(&log, name)?.append("it goes on");
    ensure!(appended.is_ok(), "a salvaged log takes no message: {appended:?}");
    let topics = log.topics().into_iter().enumerate();
    for (id, name) in topics.filter(|(_, name)| !name.contains('.')) {
        let topic = topic(&log, &name)?;
        for name in log.groups(&topic) {
            let polled = match topic.group(&name).and_then(|group| group.poll(100, Duration::ZERO))
            {
                Ok(polled) => polled,
                Err(Error::Lagged { .. }) => continue,
                Err(error) => violation!("a salvaged group answers {error:?}"),
            };
            for delivery in polled.iter().filter(|_| own) {
                world.model.check_as(&world.setup, id, topic.name(), delivery.message())?;
            }
        }
    }
    let closed = log.close();
    ensure!(closed.is_ok(), "a salvaged log cannot be closed: {closed:?}");
    let offsets = topic(&open(world, disk)?, name)?.offsets();
    let kept = at(offsets.end.0) == 1;
    ensure!(kept, "lost: what a salvaged log took is at {offsets:?}");
    Ok(())
}
