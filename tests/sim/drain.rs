//! Whether everything that is not acknowledged is delivered in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use ackline::simulation::SimClock;
use ackline::{Error, Explanation, Log, Offset};

use super::model::{Model, is_letter_of, letter_source};
use super::setup::Setup;
use super::verify::Survey;
use super::{Checked, at, ensure, violation};

/// Delivers and acknowledges all that is left in each group of a log that was just recovered.
pub(crate) fn drain(
    log: &Log,
    survey: &Survey,
    model: &Model,
    setup: &Setup,
    clock: &SimClock,
) -> Checked {
    for id in 0..survey.groups.len() {
        drain_group(id, log, survey, model, setup, clock)?;
    }
    Ok(())
}

fn drain_group(
    id: usize,
    log: &Log,
    survey: &Survey,
    model: &Model,
    setup: &Setup,
    clock: &SimClock,
) -> Checked {
    let (handle, group) = (&survey.groups[id], &model.groups[id]);
    let filters = setup.groups[group.plan].tag.is_some();
    let mut delivered: BTreeMap<u64, u32> = BTreeMap::new();
    // A poll comes back empty where it met nothing but messages that the tag filter skips.
    let patience = 3 + if filters { survey.settled[id].len() } else { 0 };
    let mut empty = 0;
    while empty < patience {
        let polled = match handle.poll(64, Duration::ZERO) {
            Ok(polled) => polled,
            Err(Error::Lagged { .. }) if setup.lossy => continue,
            Err(error) => violation!("cannot poll group {id} after recovery: {error}"),
        };
        empty = if polled.is_empty() { empty + 1 } else { 0 };
        if polled.is_empty() {
            clock.advance(Duration::from_secs(3 * 3600));
        }
        for delivery in polled {
            let offset = delivery.offset().0;
            let progress = group.get(offset);
            match survey.settled[id].get(at(offset)) {
                Some(done) => {
                    model.check(setup, group.topic, delivery.message())?;
                    ensure!(!done, "group {id} got {offset}, which is done");
                }
                // Draining makes dead letters.
                None => {
                    let is_letter = letter_source(delivery.message()).is_some();
                    ensure!(is_letter, "group {id} got {offset}, which nobody appended");
                }
            }
            let attempt = delivery.attempt();
            let counted = progress.counted;
            let higher = attempt > counted;
            ensure!(higher, "attempts of {id}/{offset} went back from {counted} to {attempt}");
            ensure!(delivered.insert(offset, attempt).is_none(), "{id}/{offset} came twice");
            if let Err(error) = delivery.ack() {
                violation!("cannot ack {id}/{offset}: {error}");
            }
        }
    }
    let dead = buried(log, handle, id)?;
    let start = at(handle.topic().offsets().start.0);
    let mut stuck = 0;
    for (index, done) in survey.settled[id].iter().enumerate().skip(start) {
        let offset = index as u64;
        let filtered = !model.is_wanted(setup, id, offset);
        if *done || filtered || delivered.contains_key(&offset) {
            continue;
        }
        let before = survey.letters.get(&(id, offset)).copied().unwrap_or(0);
        let now = dead.get(&offset).copied().unwrap_or(0);
        let waits = match handle.explain(Offset(offset)) {
            Ok(Explanation::Waiting { .. }) => true,
            // They may hold up what comes behind them.
            Ok(Explanation::Undelivered) => stuck > 0,
            _ => false,
        };
        if setup.max_bytes.is_some() && now == before && waits {
            // At the size limit there is no room for its dead letter: it goes on waiting.
            stuck += 1;
            continue;
        }
        ensure!(now == before + 1, "group {id} never got {offset}, and {now} letters were made");
        let tries = group.get(offset).deliveries + model.unseen(id);
        let plan = &setup.groups[group.plan];
        ensure!(tries >= plan.attempts_max, "group {id}: {offset} was given up too early");
    }
    match handle.lag() {
        Ok(lag) if lag.messages == 0 || stuck > 0 || setup.lossy => Ok(()),
        lag => violation!("group {id} is drained, and its lag is {lag:?}"),
    }
}

/// How many dead letters of each offset a group has.
fn buried(log: &Log, group: &ackline::Group, id: usize) -> Checked<BTreeMap<u64, usize>> {
    let mut found = BTreeMap::new();
    let name = group.dead_letter_topic();
    if let Err(error) = log.sync() {
        violation!("cannot sync after draining group {id}: {error}");
    }
    if !log.topics().contains(&name) {
        return Ok(found);
    }
    let topic = match log.topic(&name) {
        Ok(topic) => topic,
        Err(error) => violation!("cannot open {name}: {error}"),
    };
    let start = Offset(topic.offsets().start.0);
    let reader = match topic.read_from(start) {
        Ok(reader) => reader,
        Err(error) => violation!("cannot read {name}: {error}"),
    };
    for message in reader {
        match message {
            Ok(message) if !is_letter_of(&message, group) => {}
            Ok(message) => {
                let source = letter_source(&message).unwrap_or(u64::MAX);
                *found.entry(source).or_default() += 1;
            }
            Err(error) => violation!("cannot read {name}: {error}"),
        }
    }
    Ok(found)
}
