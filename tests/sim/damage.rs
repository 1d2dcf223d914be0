//! Runs on a disk that lies or rots: opening may refuse, but what it shows is true, and nothing
//! that was promised is missing in silence.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::{Crash, Fault, Rng};
use ackline::{Error, Log, Retention, SyncPolicy};

use super::model::Loss;
use super::world::World;
use super::{Checked, ensure, mix};

/// Whether the run of a seed is one of these.
pub(super) fn is_drawn(seed: u64) -> bool {
    mix(seed, 0xda3a).is_multiple_of(12)
}

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A bit flips after the process has ended.
    Rot,
    /// A sync reports success, and a sector is not where it belongs.
    Lie(Fault),
}

pub(super) fn run(world: &mut World, skip: &BTreeSet<usize>) -> Checked {
    let mut setup = (*world.setup).clone();
    setup.policy = SyncPolicy::default();
    setup.max_bytes = None;
    setup.retention = Retention::keep_consumed();
    (setup.max_age, setup.retained_bytes, setup.keeps_consumed) = (None, None, true);
    setup.lossy = false;
    world.setup = Rc::new(setup);
    let mut rng = Rng::new(mix(world.setup.seed, 9));
    world.open(&mut rng, Loss::Power)?;
    let damage = match rng.below(4) {
        0 => Damage::Lie(Fault::Stale),
        1 => Damage::Lie(Fault::Misdirected),
        _ => Damage::Rot,
    };
    if let Damage::Lie(fault) = damage {
        world.disk.fail_at(world.disk.calls() + rng.below(100), fault);
    }
    for op in (0..world.setup.ops).filter(|op| !skip.contains(op)) {
        // Each operation has its own numbers, so that leaving one out changes no other.
        work(world, &mut Rng::new(mix(world.setup.seed, 1000 + op as u64)))?;
        world.take_in()?;
    }
    let closed = rng.chance(1, 2);
    if closed {
        let result = world.live().log.clone().close();
        ensure!(result.is_ok(), "cannot close: {result:?}");
        world.model.promise(true);
    }
    world.disk.clear_faults();
    world.disk.crash(if closed { Crash::Kill } else { Crash::Power });
    drop(world.live.take());
    if damage == Damage::Rot {
        flip(world, &mut rng);
    }
    // From here on, the cache shows what the disk has.
    world.disk.evict();
    check(world, damage, closed)
}

fn work(world: &mut World, rng: &mut Rng) -> Checked {
    match rng.below(16) {
        0 | 1 => world.create_topic(rng),
        2 => world.create_group(rng),
        3..10 => world.append(rng, false),
        10 | 11 => world.append_batch(rng),
        12 => world.poll(rng),
        13 => world.settle(rng),
        14 => world.commit(rng),
        _ => world.maintain(),
    }
}

fn flip(world: &mut World, rng: &mut Rng) {
    let names = world.disk.names();
    let name = &names[rng.index(names.len())];
    let Some(size) = world.disk.file(name).map(|bytes| bytes.len() as u64).filter(|n| *n > 0)
    else {
        return;
    };
    let part = if rng.chance(1, 2) { size.min(2048) } else { size };
    let (byte, bit) = (rng.below(part), u8::try_from(rng.below(8)).unwrap_or(0));
    world.note(|| format!("bit {bit} of byte {byte} of {name} flips"));
    world.disk.flip_bit(name, byte, bit);
}

fn check(world: &mut World, damage: Damage, closed: bool) -> Checked {
    let storage = world.storage_of(&world.disk);
    match world.setup.options(&world.clock).open_on(storage) {
        Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. }) => {
            world.count("damage_refused");
            Ok(())
        }
        Err(error) => {
            ensure!(false, "a damaged log answers {error:?}");
            Ok(())
        }
        Ok(log) => look(world, &log, damage, closed),
    }
}

/// Checks that everything that can be read is true, and that no more is missing than the last
/// write, which nothing on the disk vouches for.
fn look(world: &mut World, log: &Log, damage: Damage, closed: bool) -> Checked {
    let (mut found, mut shown) = (0, 0);
    for (id, name) in log.topics().into_iter().enumerate() {
        let expected = world.model.topics.get(id).map(|topic| topic.name.clone());
        ensure!(expected.as_ref() == Some(&name), "topic {name} in place of {expected:?}");
        let topic = match log.topic(&name) {
            Ok(topic) => topic,
            Err(error) => return answered(world, &error),
        };
        found += 1 + super::at(topic.offsets().end.0) + log.groups(&topic).len();
        let reader = match topic.read_from(topic.offsets().start) {
            Ok(reader) => reader,
            Err(error) => return answered(world, &error),
        };
        for message in reader {
            match message {
                Ok(message) => world.model.check(&world.setup, id, &message)?,
                Err(error) => {
                    answered(world, &error)?;
                    shown += 1;
                    break;
                }
            }
        }
        for name in log.groups(&topic) {
            let Ok(group) = topic.group(&name) else { continue };
            let Ok(polled) = group.poll(100, Duration::ZERO) else { continue };
            for delivery in polled {
                world.model.check(&world.setup, id, delivery.message())?;
            }
        }
    }
    world.count(if shown > 0 { "damage_shown" } else { "damage_harmless" });
    let events = &world.model.events;
    ensure!(found <= events.len(), "invented: {found} events of {}", events.len());
    let last = events.last().map(|event| event.call);
    let unproven = events.iter().rev().take_while(|event| Some(event.call) == last).count();
    let missing = events.len() - found;
    let allowed = if closed { 0 } else { unproven };
    let silent = damage == Damage::Rot && missing > allowed;
    ensure!(!silent, "{missing} promised events are missing in silence ({damage:?}, {closed})");
    Ok(())
}

fn answered(world: &mut World, error: &Error) -> Checked {
    world.note(|| format!("  {error}"));
    let corrupt = matches!(error, Error::Corrupt { .. } | Error::UnsupportedVersion { .. });
    ensure!(corrupt, "a damaged log answers {error:?}");
    Ok(())
}
