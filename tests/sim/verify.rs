//! Recovery against the model: nothing that was promised is lost, nothing is invented or
//! altered, the order is kept, and no acknowledgement is undone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use ackline::{Explanation, Group, Log, Offset, Position, Topic};

use super::model::{Ack, Kind, Loss, Model, Slot, letter_source};
use super::setup::Setup;
use super::{Checked, at, ensure, violation};

/// What a recovered log holds.
#[derive(Debug)]
pub(crate) struct Survey {
    /// How many events survived.
    pub(crate) cut: usize,
    /// Where each event's message was read, if it is one and there.
    pub(crate) positions: Vec<Option<Position>>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    /// For each group, whether each offset is done.
    pub(crate) settled: Vec<Vec<bool>>,
    /// How many dead letters there are of a group's offset.
    pub(crate) letters: BTreeMap<(usize, u64), usize>,
}

impl Survey {
    /// How many records were read and compared with the model.
    pub(crate) fn records(&self) -> u64 {
        self.positions.iter().flatten().count() as u64
    }
}

/// Checks a log that was just opened after a loss of the given kind.
pub(crate) fn survey(log: &Log, model: &Model, setup: &Setup, loss: Loss) -> Checked<Survey> {
    let topics = topics(log, model)?;
    let groups = groups(log, &topics, model, setup)?;
    let cut = cut(&topics, groups.len(), model)?;
    let promised = model.promised(loss);
    ensure!(cut >= promised, "lost: {cut} events are left of {promised} promised ({loss:?})");
    let split =
        cut > 0 && cut < model.events.len() && model.events[cut - 1].call == model.events[cut].call;
    ensure!(!split, "a batch was cut in two at event {cut}");
    let mut read = Read { positions: vec![None; cut], ..Read::default() };
    for (id, topic) in topics.iter().enumerate() {
        model.check_deleted(setup, id, 0..topic.offsets().start.0, cut, u64::MAX)?;
        read_all(id, topic, model, setup, &mut read)?;
    }
    let Read { positions, letters } = read;
    let in_order = positions.iter().flatten().is_sorted();
    ensure!(in_order, "positions are out of order: {positions:?}");
    let mut survey = Survey { cut, positions, topics, groups, settled: Vec::new(), letters };
    for id in 0..survey.groups.len() {
        let settled = check_group(id, &survey, model, setup)?;
        survey.settled.push(settled);
    }
    Ok(survey)
}

fn topics(log: &Log, model: &Model) -> Checked<Vec<Topic>> {
    let names = log.topics();
    ensure!(names.len() <= model.topics.len(), "invented topics: {names:?}");
    let mut topics = Vec::new();
    for (name, expected) in names.iter().zip(&model.topics) {
        ensure!(*name == expected.name, "topic {name} in place of {}", expected.name);
        match log.topic(name) {
            Ok(topic) => topics.push(topic),
            Err(error) => violation!("cannot open topic {name}: {error}"),
        }
    }
    Ok(topics)
}

fn groups(log: &Log, topics: &[Topic], model: &Model, setup: &Setup) -> Checked<Vec<Group>> {
    let mut names: Vec<_> = topics.iter().map(|topic| log.groups(topic).into_iter()).collect();
    let mut groups = Vec::new();
    for group in &model.groups {
        let plan = &setup.groups[group.plan];
        let Some(found) = names.get_mut(group.topic).and_then(Iterator::next) else { break };
        ensure!(found == plan.name, "group {found} in place of {}", plan.name);
        match topics[group.topic].group_with(&plan.name, plan.options()) {
            Ok(group) => groups.push(group),
            Err(error) => violation!("cannot open group {found}: {error}"),
        }
    }
    ensure!(
        names.into_iter().all(|mut rest| rest.next().is_none()),
        "invented or reordered groups"
    );
    Ok(groups)
}

/// How many of the model's events are there; they must be the first ones.
fn cut(topics: &[Topic], groups: usize, model: &Model) -> Checked<usize> {
    let ends: Vec<u64> = topics.iter().map(|topic| topic.offsets().end.0).collect();
    let messages: u64 = ends.iter().sum();
    let cut = topics.len() + groups + at(messages);
    ensure!(cut <= model.events.len(), "invented: {cut} events of {}", model.events.len());
    let mut counts = (0, 0, vec![0; model.topics.len()]);
    for event in &model.events[..cut] {
        match event.kind {
            Kind::Topic => counts.0 += 1,
            Kind::Group => counts.1 += 1,
            Kind::Message(topic) => counts.2[topic] += 1,
        }
    }
    let mut expected = ends.clone();
    expected.resize(model.topics.len(), 0);
    let kept = counts == (topics.len(), groups, expected);
    ensure!(kept, "reordered: {cut} events would be {counts:?}, there are {ends:?}, {groups}");
    Ok(cut)
}

/// What the topics hold.
#[derive(Debug, Default)]
struct Read {
    /// Where each event's message is.
    positions: Vec<Option<Position>>,
    letters: BTreeMap<(usize, u64), usize>,
}

fn read_all(id: usize, topic: &Topic, model: &Model, setup: &Setup, read: &mut Read) -> Checked {
    let offsets = topic.offsets();
    let mut next = offsets.start.0;
    let reader = match topic.read_from(offsets.start) {
        Ok(reader) => reader,
        Err(error) => violation!("cannot read topic {id}: {error}"),
    };
    for message in reader {
        let message = match message {
            Ok(message) => message,
            Err(error) => violation!("cannot read {next} of topic {id}: {error}"),
        };
        ensure!(message.offset().0 == next, "topic {id}: {} at {next}", message.offset());
        model.check(setup, id, &message)?;
        let (slot, event) = &model.topics[id].messages[at(next)];
        read.positions[*event] = Some(message.position());
        if let (Slot::Letter { group, .. }, Some(source)) = (slot, letter_source(&message)) {
            *read.letters.entry((*group, source)).or_default() += 1;
        }
        next += 1;
    }
    ensure!(next == offsets.end.0, "topic {id} ends at {next} instead of {}", offsets.end);
    Ok(())
}

/// Checks which messages are done in a group.
fn check_group(id: usize, survey: &Survey, model: &Model, setup: &Setup) -> Checked<Vec<bool>> {
    let (group, handle) = (&model.groups[id], &survey.groups[id]);
    let offsets = handle.topic().offsets();
    if offsets.start.0 > 0 && !setup.lossy && !group.seek_unknown {
        let last = handle.explain(Offset(offsets.start.0 - 1));
        let settled = matches!(last, Ok(Explanation::Settled));
        ensure!(settled, "group {id} has not done with what retention took: {last:?}");
    }
    let mut settled = vec![true; at(offsets.start.0)];
    for offset in offsets.start.0..offsets.end.0 {
        let done = match handle.explain(Offset(offset)) {
            Ok(explained) => explained == Explanation::Settled,
            Err(error) => violation!("cannot explain {offset} of group {id}: {error}"),
        };
        settled.push(done);
        let filtered = !model.is_wanted(setup, id, offset);
        let ack = group.get(offset).ack;
        let expected = match ack {
            _ if group.seek_unknown => continue,
            Ack::No if filtered => continue,
            // The groups were told that it is gone.
            Ack::No if setup.lossy && offset < model.topics[group.topic].taken => continue,
            Ack::Maybe => continue,
            Ack::No => false,
            Ack::Durable => true,
            Ack::With(event) => event < survey.cut,
            Ack::Letter(_) if setup.lossy => continue,
            Ack::Letter(nth) => survey.letters.get(&(id, offset)).is_some_and(|n| *n >= nth),
        };
        let wrong = if done { "an ack was invented" } else { "an ack was undone" };
        ensure!(done == expected, "{wrong}: group {id}, offset {offset}, {ack:?}");
    }
    Ok(settled)
}

impl Model {
    /// Checks that retention was allowed to take messages of a topic, where so many events of
    /// all are there.
    pub(crate) fn check_deleted(
        &self,
        setup: &Setup,
        topic: usize,
        deleted: Range<u64>,
        cut: usize,
        for_size: u64,
    ) -> Checked {
        let created = self.events[..cut].iter().filter(|event| event.kind == Kind::Group).count();
        let groups: Vec<usize> =
            (0..created).filter(|&id| self.groups[id].topic == topic).collect();
        for offset in deleted {
            let place = format_args!("{}@{offset}", self.topics[topic].name);
            let (_, event) = self.topics[topic].messages[at(offset)];
            let age = Duration::from_millis(self.now_ms - self.events[event].time_ms);
            let too_old = setup.max_age.is_some_and(|max| age > max);
            let position = self.events[event].position;
            let too_large = setup.retained_bytes.is_some()
                && position.is_none_or(|position| position.0 < for_size);
            if too_old || too_large {
                continue;
            }
            let may_take = !setup.keeps_consumed || setup.max_bytes.is_some();
            ensure!(may_take, "retention took {place}, and keeps what was consumed");
            ensure!(!groups.is_empty(), "retention took {place}, which nobody has consumed");
            for &id in &groups {
                let group = &self.groups[id];
                let may_lag = setup.groups[group.plan].may_lag && setup.max_bytes.is_some();
                let done = group.get(offset).ack != Ack::No || !self.is_wanted(setup, id, offset);
                let allowed = done || may_lag || group.seek_unknown;
                ensure!(allowed, "retention took {place} from group {id}");
            }
        }
        Ok(())
    }

    /// Goes on from what a recovery returned, which is promised from then on.
    pub(crate) fn adopt(&mut self, survey: &Survey) {
        self.events.truncate(survey.cut);
        for (event, position) in self.events.iter_mut().zip(&survey.positions) {
            event.position = position.or(event.position);
        }
        self.topics.truncate(survey.topics.len());
        for (model, topic) in self.topics.iter_mut().zip(&survey.topics) {
            model.messages.truncate(at(topic.offsets().end.0));
            model.taken = 0;
        }
        self.groups.truncate(survey.groups.len());
        for (id, group) in self.groups.iter_mut().enumerate() {
            let settled = &survey.settled[id];
            group.offsets.truncate(settled.len());
            for (offset, done) in (0..).zip(settled) {
                let forgotten = group.seek_unknown;
                let progress = group.get_mut(offset);
                progress.ack = if *done { Ack::Durable } else { Ack::No };
                progress.letters = survey.letters.get(&(id, offset)).copied().unwrap_or(0);
                if forgotten {
                    progress.counted = 0;
                    progress.suspect = false;
                }
                if forgotten || !progress.due_durable {
                    progress.due = Duration::ZERO;
                }
                progress.suspect &= !*done;
            }
            group.seek_unknown = false;
        }
        self.promise(true);
    }
}
