//! Recovery against the model: nothing that was promised is lost, nothing is invented or
//! altered, the order is kept, and no acknowledgement is undone.

use std::collections::BTreeMap;

use ackline::{Explanation, Group, Log, Offset, Topic};

use super::model::{Ack, Kind, Loss, Model, Slot, letter_source};
use super::setup::Setup;
use super::{Checked, at, ensure, violation};

/// What a recovered log holds.
#[derive(Debug)]
pub(crate) struct Survey {
    /// How many events survived.
    pub(crate) cut: usize,
    /// How many records were read and compared with the model.
    pub(crate) records: u64,
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    /// For each group, whether each offset is done.
    pub(crate) settled: Vec<Vec<bool>>,
    /// How many dead letters there are of a group's offset.
    pub(crate) letters: BTreeMap<(usize, u64), usize>,
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
    let (mut letters, mut records) = (BTreeMap::new(), 0);
    for (id, topic) in topics.iter().enumerate() {
        check_start(id, topic, model, setup, cut)?;
        records += read_all(id, topic, model, setup, &mut letters)?;
    }
    let mut survey = Survey { cut, records, topics, groups, settled: Vec::new(), letters };
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

/// Checks that retention took only what everybody had consumed.
fn check_start(id: usize, topic: &Topic, model: &Model, setup: &Setup, cut: usize) -> Checked {
    let start = topic.offsets().start.0;
    if start == 0 || setup.lossy {
        return Ok(());
    }
    let name = &model.topics[id].name;
    let mut consumers = 0;
    let mut created = 0;
    for event in &model.events[..cut] {
        let Kind::Group = event.kind else { continue };
        let group = &model.groups[created];
        created += 1;
        if group.topic != id {
            continue;
        }
        consumers += 1;
        if setup.groups[group.plan].tag.is_some() || group.seek_unknown {
            continue;
        }
        for offset in 0..start {
            let ack = group.get(offset).ack;
            ensure!(ack != Ack::No, "retention took {name}@{offset} from group {}", created - 1);
        }
    }
    ensure!(consumers > 0, "retention took {start} messages of {name}, which has no group");
    Ok(())
}

fn read_all(
    id: usize,
    topic: &Topic,
    model: &Model,
    setup: &Setup,
    letters: &mut BTreeMap<(usize, u64), usize>,
) -> Checked<u64> {
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
        if let (Slot::Letter { group, .. }, _) = &model.topics[id].messages[at(next)]
            && let Some(source) = letter_source(&message)
        {
            *letters.entry((*group, source)).or_default() += 1;
        }
        next += 1;
    }
    ensure!(next == offsets.end.0, "topic {id} ends at {next} instead of {}", offsets.end);
    Ok(next - offsets.start.0)
}

/// Checks which messages are done in a group.
fn check_group(id: usize, survey: &Survey, model: &Model, setup: &Setup) -> Checked<Vec<bool>> {
    let (group, handle) = (&model.groups[id], &survey.groups[id]);
    let plan = &setup.groups[group.plan];
    let offsets = handle.topic().offsets();
    let mut settled = vec![true; at(offsets.start.0)];
    for offset in offsets.start.0..offsets.end.0 {
        let done = match handle.explain(Offset(offset)) {
            Ok(explained) => explained == Explanation::Settled,
            Err(error) => violation!("cannot explain {offset} of group {id}: {error}"),
        };
        settled.push(done);
        let (Slot::Plain(message), _) = &model.topics[group.topic].messages[at(offset)] else {
            violation!("a group of dead letters");
        };
        let filtered = plan.tag.is_some_and(|tag| message.tag != Some(tag));
        let ack = group.get(offset).ack;
        let expected = match ack {
            _ if group.seek_unknown => continue,
            Ack::No if filtered => continue,
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
    /// Goes on from what a recovery returned, which is promised from then on.
    pub(crate) fn adopt(&mut self, survey: &Survey) {
        self.events.truncate(survey.cut);
        self.topics.truncate(survey.topics.len());
        for (model, topic) in self.topics.iter_mut().zip(&survey.topics) {
            model.messages.truncate(at(topic.offsets().end.0));
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
                progress.suspect &= !*done;
            }
            group.seek_unknown = false;
        }
        self.promise(true);
    }
}
