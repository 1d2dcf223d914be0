//! Runs on a disk that lies or rots: opening may refuse, but what it shows is true, and nothing
//! that was promised is missing in silence.

mod salvaged;

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::{Crash, Fault, Rng, SimDisk};
use ackline::{Error, Log, Retention, SyncPolicy};

use super::model::Loss;
use super::verify::survey;
use super::world::World;
use super::{Checked, ensure, mix};

/// How many copies of the disk are damaged once the process has ended.
const COPIES: usize = 10;

const SECTOR: usize = 512;

/// What frames and markers begin with, at a multiple of 8.
const MAGIC: &[u8] = b"AKLF";

/// The bytes of a header of a frame or a marker.
const HEADER: usize = 64;

/// Where in it the kind lies, that of a frame, and where the number of entries lies.
const KIND: usize = 5;
const FRAME: u8 = 1;
const ENTRIES: usize = 12;

/// Whether the run of a seed is one of these.
pub(super) fn is_drawn(seed: u64) -> bool {
    mix(seed, 0xda3a).is_multiple_of(3)
}

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A bit of any file flips.
    Rot,
    /// A bit of the newest segment's head or checkpoint flips: they are small, and much depends
    /// on them.
    HeadRot,
    /// A bit of a frame's or a marker's header flips.
    HeaderRot,
    /// A sector reads as zeros.
    Zeros,
    /// A sector reads as another one of its file.
    Elsewhere,
    /// A sector reads as it did when the log went on in another way.
    EarlierLife,
    /// The last write is torn, and shows what another file held on these blocks.
    Leftover,
    /// The head is that of another file, which was made by another recovery of the same log.
    OtherHead,
    /// A file is cut.
    Cut,
    /// A file is gone.
    Gone,
    /// A sync reports success, and a sector is not where it belongs.
    Lie(Fault),
}

const AFTERWARDS: [Damage; 17] = [
    Damage::Rot,
    Damage::Rot,
    Damage::HeadRot,
    Damage::HeadRot,
    Damage::HeaderRot,
    Damage::HeaderRot,
    Damage::Zeros,
    Damage::Elsewhere,
    Damage::Elsewhere,
    Damage::Elsewhere,
    Damage::EarlierLife,
    Damage::EarlierLife,
    Damage::EarlierLife,
    Damage::EarlierLife,
    Damage::EarlierLife,
    Damage::Cut,
    Damage::Gone,
];

pub(super) fn run(world: &mut World, skip: &BTreeSet<usize>) -> Checked {
    let mut setup = (*world.setup).clone();
    setup.policy = SyncPolicy::default();
    setup.max_bytes = None;
    setup.retention = Retention::keep_consumed();
    (setup.max_age, setup.retained_bytes, setup.keeps_consumed) = (None, None, true);
    setup.lossy = false;
    world.setup = Rc::new(setup);
    world.note(|| format!("{:?}", world.setup));
    let mut rng = Rng::new(mix(world.setup.seed, 9));
    world.open(&mut rng, Loss::Power)?;
    let lie = [Some(Fault::Stale), Some(Fault::Misdirected), None][rng.index(8).min(2)];
    if let Some(lie) = lie {
        world.disk.fail_at(world.disk.calls() + rng.below(100), lie);
    }
    let mut lives = Vec::new();
    for op in (0..world.setup.ops).filter(|op| !skip.contains(op)) {
        if lie.is_none() && rng.chance(1, 8) {
            world.close_and_reopen(&mut rng)?;
            lives.push(another_life(world, op)?);
        }
        work(world, op)?;
    }
    // The last write is this one call, and nothing else.
    world.append_batch(&mut rng)?;
    let closed = rng.chance(1, 2);
    if closed {
        let result = world.live().log.clone().close();
        ensure!(result.is_ok(), "cannot close: {result:?}");
        world.model.promise(true);
        world.model.promise_groups(world.now());
    }
    world.disk.clear_faults();
    world.disk.crash(if closed { Crash::Kill } else { Crash::Power });
    drop(world.live.take());
    // From here on, the cache shows what the disk has.
    world.disk.evict();
    if let Some(lie) = lie {
        let disk = world.disk.clone();
        return check(world, &disk, Damage::Lie(lie), closed);
    }
    if !closed {
        two_lives(world, &mut rng)?;
    }
    for _ in 0..COPIES {
        let disk = world.disk.fork();
        let damage = AFTERWARDS[rng.index(AFTERWARDS.len())];
        let struck = strike(&disk, damage, &lives, closed, &mut rng);
        if let Some(place) = struck {
            world.note(|| format!("{damage:?}: {place}"));
            // The disk itself counts the others.
            match damage {
                Damage::HeadRot => world.count("damage_head"),
                Damage::HeaderRot => world.count("damage_header"),
                Damage::Zeros => world.count("damage_zeros"),
                Damage::Elsewhere => world.count("damage_elsewhere"),
                Damage::EarlierLife => world.count("damage_earlier_life"),
                Damage::Cut => world.count("damage_cut"),
                Damage::Gone => world.count("damage_gone"),
                Damage::Rot | Damage::Lie(_) | Damage::Leftover | Damage::OtherHead => {}
            }
            check(world, &disk, damage, closed)?;
        }
        world.counts.add(&disk.counts());
    }
    Ok(())
}

/// Each operation has its own numbers, so that leaving one out changes no other.
fn work(world: &mut World, op: usize) -> Checked {
    let rng = &mut Rng::new(mix(world.setup.seed, 1000 + op as u64));
    match rng.below(16) {
        0 | 1 => world.create_topic(rng),
        2 => world.create_group(rng),
        3..10 => world.append(rng, false),
        10 | 11 => world.append_batch(rng),
        12 => world.poll(rng),
        13 => world.settle(rng),
        14 => world.commit(rng),
        _ => world.maintain(),
    }?;
    world.take_in()
}

/// What the disk would hold if the next operations were the same with other messages: the frames
/// lie in the same places, and are not the same.
fn another_life(world: &mut World, op: usize) -> Checked<SimDisk> {
    let mut other = world.branch(world.disk.fork());
    let lived = (|| {
        other.open(&mut Rng::new(0), Loss::Kill)?;
        // From here on its messages have other numbers.
        other.draw_message(&mut Rng::new(0));
        (op..op + 6).try_for_each(|op| work(&mut other, op))
    })();
    let disk = other.disk.clone();
    drop(other.live.take());
    world.absorb(other);
    lived.map(|()| disk)
}

/// Lets the log be recovered twice, and go on in two ways. What was written in one of them comes to
/// light in the file of the other.
fn two_lives(world: &mut World, rng: &mut Rng) -> Checked {
    let (recovery, write) = (rng.next_u64(), rng.next_u64());
    let mut first = None;
    for life in [false, true] {
        let mut other = world.branch(world.disk.fork());
        let lived = live_on(&mut other, life, recovery, write).and_then(|file| {
            match first.replace(file.clone()) {
                Some(old) => check_strangers(&mut other, &old, &file),
                None => Ok(()),
            }
        });
        world.absorb(other);
        lived?;
    }
    Ok(())
}

/// Recovers the log, appends to it, and returns the newest segment with its name.
fn live_on(
    world: &mut World,
    differs: bool,
    recovery: u64,
    write: u64,
) -> Checked<(String, Vec<u8>)> {
    if differs {
        // From here on its calls have other numbers, and so what is drawn at its opening differs.
        drop(world.disk.storage().list());
    }
    world.open(&mut Rng::new(recovery), Loss::Power)?;
    if differs {
        // And its messages.
        world.draw_message(&mut Rng::new(0));
    }
    world.append(&mut Rng::new(write), false)?;
    world.disk.kill();
    drop(world.live.take());
    world.disk.evict();
    let name = world.segments().pop().map_or_else(String::new, |segment| segment.0);
    let bytes = world.disk.file(&name).unwrap_or_default();
    Ok((name, bytes))
}

/// Puts parts of another file into the newest segment, where they fit.
fn check_strangers(
    world: &mut World,
    (old_name, old): &(String, Vec<u8>),
    (name, bytes): &(String, Vec<u8>),
) -> Checked {
    if old_name != name || old.len() != bytes.len() {
        return Ok(());
    }
    let frames = bytes.len().saturating_sub(2 * SECTOR);
    let mut at = (0..frames).step_by(8).rev();
    let last = at.find(|&at| bytes[at..].starts_with(MAGIC)).map(|last| last..frames);
    let damages = [
        (Damage::Leftover, "damage_leftover", last),
        (Damage::OtherHead, "damage_other_head", Some(0..SECTOR)),
    ];
    for (damage, counted, place) in damages {
        let Some(place) = place.filter(|place| old[place.clone()] != bytes[place.clone()]) else {
            continue;
        };
        let disk = world.disk.fork();
        disk.overwrite(name, place.start as u64, &old[place.clone()]);
        world.count(counted);
        world.note(|| format!("{damage:?}: {place:?} of {name}"));
        check(world, &disk, damage, false)?;
    }
    Ok(())
}

/// Damages a disk and tells where; none if there was nothing to damage in this way.
///
/// With `last_too`, other sectors than the last one vouch for that as well.
fn strike(
    disk: &SimDisk,
    damage: Damage,
    lives: &[SimDisk],
    last_too: bool,
    rng: &mut Rng,
) -> Option<String> {
    let name = draw_file(disk, damage, rng)?;
    let bytes = disk.file(&name).expect("it was listed");
    let place = match damage {
        Damage::Rot | Damage::HeadRot => {
            let head = bytes.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
            let part = head.filter(|_| damage == Damage::HeadRot).unwrap_or(bytes.len());
            let bit = u8::try_from(rng.below(8)).expect("below 8");
            let byte = rng.index(part);
            disk.flip_bit(&name, byte as u64, bit);
            byte..byte + 1
        }
        Damage::HeaderRot => {
            let begins = |at: &usize| bytes[*at..].starts_with(MAGIC);
            let headers: Vec<usize> = (0..bytes.len()).step_by(8).filter(begins).collect();
            let last_frame = headers.iter().rfind(|at| bytes[*at + KIND] == FRAME);
            let (byte, bit) = match last_frame {
                // One entry less than there are: the body's checksum does not tell.
                Some(at) if rng.chance(1, 2) => {
                    (at + ENTRIES, bytes[at + ENTRIES].trailing_zeros().min(7))
                }
                _ => (
                    headers.get(rng.index(headers.len()))? + rng.index(HEADER),
                    u32::try_from(rng.below(8)).expect("below 8"),
                ),
            };
            disk.flip_bit(&name, byte as u64, u8::try_from(bit).expect("below 8"));
            byte..byte + 1
        }
        Damage::Cut => {
            let size = rng.index(bytes.len());
            disk.truncate(&name, size as u64);
            size..bytes.len()
        }
        Damage::Gone => {
            disk.delete(&name);
            0..bytes.len()
        }
        Damage::Zeros => overwrite(disk, &name, &vec![0; bytes.len()], last_too, rng)?,
        // Nobody can tell such a sector in a log that was killed at work: only the echoes name a
        // frame that was durable.
        Damage::EarlierLife if !last_too => return None,
        Damage::EarlierLife => {
            let life = lives.get(rng.index(lives.len().max(1)))?;
            // Heads of other lives have a damage of their own.
            let mut life = life.file(&name)?;
            life.get_mut(..SECTOR)?.copy_from_slice(&bytes[..SECTOR]);
            overwrite(disk, &name, &life, last_too, rng)?
        }
        Damage::Elsewhere => {
            let sectors = bytes.len() / SECTOR;
            let by = (1 + rng.index(sectors.saturating_sub(1).max(1))) * SECTOR;
            let turned = [&bytes[by..], &bytes[..by]].concat();
            overwrite(disk, &name, &turned, last_too, rng)?
        }
        Damage::Lie(_) | Damage::Leftover | Damage::OtherHead => return None,
    };
    Some(format!("{place:?} of {name}"))
}

/// The name of a file that is not empty, and is one that a damage is about.
fn draw_file(disk: &SimDisk, damage: Damage, rng: &mut Rng) -> Option<String> {
    let names = disk.names();
    if damage == Damage::Rot {
        let name = names[rng.index(names.len())].clone();
        return disk.file(&name).filter(|bytes| !bytes.is_empty()).map(|_| name);
    }
    let segments: Vec<_> =
        names.iter().filter(|name| name.strip_suffix(".seg").is_some()).collect();
    let newest = segments.len() - 1;
    // The chain is looked at in the newest segment alone.
    let newest_only = matches!(damage, Damage::HeadRot | Damage::EarlierLife);
    // The oldest may be gone: retention may have deleted it.
    let first = usize::from(damage == Damage::Gone);
    let any = !newest_only && newest > first && rng.chance(1, 2);
    let number = if any { first + rng.index(newest - first) } else { newest };
    (number >= first).then(|| segments[number].clone())
}

/// Puts a sector of other bytes in the place of one behind which a frame or a marker begins: that
/// one says that the sector was durable. Nothing else vouches for the last one but echoes.
fn overwrite(
    disk: &SimDisk,
    name: &str,
    other: &[u8],
    last_too: bool,
    rng: &mut Rng,
) -> Option<Range<usize>> {
    let bytes = disk.file(name)?;
    // The echoes of markers in the last two sectors may be older than the last frame.
    let frames = bytes.len().saturating_sub(2 * SECTOR);
    let last = (0..frames).step_by(8).rev().find(|&at| bytes[at..].starts_with(MAGIC))?;
    let until = last / SECTOR + usize::from(last_too);
    let sectors = (0..until).map(|number| number * SECTOR..(number + 1) * SECTOR);
    let differs = |sector: &Range<usize>| {
        other.get(sector.clone()).is_some_and(|other| *other != bytes[sector.clone()])
    };
    let sectors: Vec<_> = sectors.filter(differs).collect();
    let sector = sectors.get(rng.index(sectors.len().max(1)))?.clone();
    disk.overwrite(name, sector.start as u64, &other[sector.clone()]);
    Some(sector)
}

/// Opens a damaged disk and looks at what it shows.
fn check(world: &mut World, disk: &SimDisk, damage: Damage, closed: bool) -> Checked {
    let storage = world.storage_of(disk);
    match world.setup.options(&world.clock, disk.calls()).open_on(storage) {
        Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. }) => {
            world.count("damage_refused");
            salvaged::salvage(world, disk, damage)
        }
        Err(error) => {
            ensure!(false, "a damaged log answers {error:?}");
            Ok(())
        }
        Ok(log) => {
            let shown = look(world, &log, damage, closed)?;
            drop(log);
            if shown { salvaged::salvage(world, disk, damage) } else { Ok(()) }
        }
    }
}

/// Checks that everything that can be read is true, and that no more is missing than the last
/// write, which nothing on the disk vouches for. Answers whether the damage shows.
fn look(world: &mut World, log: &Log, damage: Damage, closed: bool) -> Checked<bool> {
    let (mut found, mut shown) = (0, 0);
    for (id, name) in log.topics().into_iter().enumerate() {
        let expected = world.model.topics.get(id).map(|topic| topic.name.clone());
        ensure!(expected.as_ref() == Some(&name), "topic {name} in place of {expected:?}");
        let topic = match log.topic(&name) {
            Ok(topic) => topic,
            Err(error) => return answered(world, &error).map(|()| true),
        };
        found += 1 + super::at(topic.offsets().end.0) + log.groups(&topic).len();
        let reader = match topic.read_from(topic.offsets().start) {
            Ok(reader) => reader,
            Err(error) => return answered(world, &error).map(|()| true),
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
    }
    world.count(if shown > 0 { "damage_shown" } else { "damage_harmless" });
    let late = shown > 0 && matches!(damage, Damage::Cut | Damage::Gone);
    ensure!(!late, "opening did not notice that a file is cut or gone");
    let events = &world.model.events;
    ensure!(found <= events.len(), "invented: {found} events of {}", events.len());
    // The events of so many last calls.
    let last = |calls: usize| {
        let mut seen = BTreeSet::new();
        let mut is_last = |call: u64| seen.insert(call) && seen.len() > calls;
        events.iter().rev().position(|event| is_last(event.call)).unwrap_or(events.len())
    };
    let missing = events.len() - found;
    let allowed = match damage {
        Damage::Rot | Damage::HeaderRot | Damage::Leftover if !closed => last(1),
        // Two sectors may be wrong: the one that is missing, and the one that it lies on, which
        // held what vouches for it and the frames of a few calls besides.
        Damage::Lie(_) if !closed => last(8),
        _ => 0,
    };
    let silent = shown == 0 && missing > allowed;
    ensure!(!silent, "{missing} promised events are missing in silence ({damage:?}, {closed})");
    if shown == 0 && missing == 0 && !matches!(damage, Damage::Lie(_)) {
        // It shows no damage, so it is to be as good as undamaged.
        survey(log, &world.model, &world.setup, Loss::Power)?;
    }
    Ok(poll_all(world, log)? || shown > 0)
}

/// Polls all groups but those of dead letters, of which polling makes new ones. Answers whether
/// that shows the damage.
fn poll_all(world: &mut World, log: &Log) -> Checked<bool> {
    let topics = log.topics().into_iter().enumerate();
    let mut shown = false;
    for (id, name) in topics.filter(|(_, name)| !name.contains('.')) {
        let polled = log.topic(&name).map(|topic| {
            let names = log.groups(&topic).into_iter();
            names.map(move |name| topic.group(&name)?.poll(100, Duration::ZERO)).collect()
        });
        let polled: Vec<_> = polled.unwrap_or_else(|error| vec![Err(error)]);
        for polled in polled {
            match polled {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        world.model.check(&world.setup, id, delivery.message())?;
                    }
                }
                Err(error) => {
                    answered(world, &error)?;
                    shown = true;
                }
            }
        }
    }
    Ok(shown)
}

fn answered(world: &mut World, error: &Error) -> Checked {
    world.note(|| format!("  {error}"));
    let corrupt = matches!(error, Error::Corrupt { .. } | Error::UnsupportedVersion { .. });
    ensure!(corrupt, "a damaged log answers {error:?}");
    Ok(())
}
