//! The reference model: what was done, in the order of the log, and how much of it was promised.
//!
//! The log is one sequence of events. A crash may keep any first part of it that holds all that
//! was promised and does not cut through the events of one call.

/// What a recovered log shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) topics: Vec<SeenTopic>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenTopic {
    pub(crate) name: String,
    /// The first offset that retention has left.
    pub(crate) start: usize,
    /// The payloads from there on.
    pub(crate) payloads: Vec<Vec<u8>>,
    pub(crate) groups: Vec<SeenGroup>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenGroup {
    pub(crate) name: String,
    /// Which of the messages from `start` on are settled.
    pub(crate) settled: Vec<bool>,
}

impl SeenTopic {
    fn end(&self) -> usize {
        self.start + self.payloads.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Topic,
    Group,
    Message(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Event {
    kind: Kind,
    /// The call that made it: its events survive together.
    call: u32,
}

/// Whether a message is settled in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Done {
    No,
    /// Acknowledged, and not promised to stay so.
    Maybe,
    /// Settled exactly if this event survives.
    With(usize),
    /// Settled for good.
    Yes,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    name: String,
    /// The payloads, and the events that made them.
    messages: Vec<(Vec<u8>, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    topic: usize,
    name: String,
    done: Vec<Done>,
    /// What holds instead if a seek that is under way has taken effect.
    sought: Option<Vec<Done>>,
    /// The highest attempt of each message that a consumer was given.
    attempts: Vec<u32>,
    /// The messages in a consumer's hands.
    held: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    events: Vec<Event>,
    topics: Vec<Topic>,
    groups: Vec<Group>,
    /// So many events survive whatever comes.
    promised: usize,
    calls: u32,
    /// How many deliveries may have been counted that nobody was given.
    slack: u32,
}

impl Model {
    /// Begins a call.
    pub(crate) fn call(&mut self) {
        self.calls += 1;
    }

    fn event(&mut self, kind: Kind) -> usize {
        self.events.push(Event { kind, call: self.calls });
        self.events.len() - 1
    }

    pub(crate) fn topic(&mut self, name: &str) -> usize {
        if let Some(known) = self.topics.iter().position(|topic| topic.name == name) {
            return known;
        }
        self.event(Kind::Topic);
        self.topics.push(Topic { name: name.to_owned(), messages: Vec::new() });
        self.topics.len() - 1
    }

    pub(crate) fn group(&mut self, topic: usize, name: &str, floor: usize) {
        self.event(Kind::Group);
        self.groups.push(Group {
            topic,
            name: name.to_owned(),
            done: vec![Done::Yes; floor],
            sought: None,
            attempts: Vec::new(),
            held: Vec::new(),
        });
    }

    /// Adds a message; returns its event.
    pub(crate) fn message(&mut self, topic: usize, payload: Vec<u8>) -> usize {
        let event = self.event(Kind::Message(topic));
        self.topics[topic].messages.push((payload, event));
        event
    }

    pub(crate) fn payload(&self, topic: usize, offset: usize) -> Vec<u8> {
        self.topics[topic].messages[offset].0.clone()
    }

    /// How many messages a topic has, promised or not.
    pub(crate) fn len(&self, topic: usize) -> usize {
        self.topics[topic].messages.len()
    }

    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn names(&self) -> (usize, usize) {
        (self.topics.len(), self.groups.len())
    }

    pub(crate) fn settle(&mut self, group: usize, offset: usize, done: Done) {
        let group = &mut self.groups[group];
        put(&mut group.done, offset, Done::No, done);
        group.held.retain(|held| *held != offset);
    }

    /// A consumer gives a message back.
    pub(crate) fn give_back(&mut self, group: usize, offset: usize) {
        self.groups[group].held.retain(|held| *held != offset);
    }

    pub(crate) fn delivered(&mut self, group: usize, offset: usize, attempt: u32) {
        let group = &mut self.groups[group];
        put(&mut group.attempts, offset, 0, attempt);
        group.held.push(offset);
    }

    /// A seek is under way.
    pub(crate) fn seek(&mut self, group: usize, to: usize) {
        self.groups[group].sought = Some(vec![Done::Yes; to]);
    }

    /// The seek has taken effect: what was is forgotten.
    pub(crate) fn sought(&mut self, group: usize) {
        let group = &mut self.groups[group];
        if let Some(done) = group.sought.take() {
            (group.done, group.attempts, group.held) = (done, Vec::new(), Vec::new());
        }
    }

    /// Everything so far survives.
    pub(crate) fn promise(&mut self) {
        self.promised = self.events.len();
    }

    /// The acknowledgements so far survive, too.
    pub(crate) fn promise_acks(&mut self) {
        for done in self.groups.iter_mut().flat_map(|group| &mut group.done) {
            if *done != Done::No {
                *done = Done::Yes;
            }
        }
    }

    /// Deliveries may be counted that nobody gets.
    pub(crate) fn loosen(&mut self) {
        self.slack += 1;
    }

    /// The log is being closed: nobody dies with a message in hand.
    pub(crate) fn let_go(&mut self) {
        for group in &mut self.groups {
            group.held.clear();
        }
    }

    /// Checks what a recovered log shows; returns how many events survived.
    pub(crate) fn check(&self, seen: &Seen) -> Result<usize, String> {
        let cut = self.cut(seen)?;
        if cut < self.promised {
            return Err(format!("lost: {cut} events are left of {} promised", self.promised));
        }
        if cut > 0 && cut < self.events.len() && self.events[cut - 1].call == self.events[cut].call
        {
            return Err(format!("a call was cut in two at event {cut}"));
        }
        let mut groups = self.groups.iter().collect::<Vec<_>>();
        for (id, (found, model)) in seen.topics.iter().zip(&self.topics).enumerate() {
            for (offset, payload) in (found.start..).zip(&found.payloads) {
                if *payload != model.messages[offset].0 {
                    return Err(format!("altered: {}@{offset}", found.name));
                }
            }
            let mut consumers = 0;
            for group in &found.groups {
                let of_topic = groups.iter().position(|model| model.topic == id);
                let model = of_topic.map(|at| groups.remove(at));
                let Some(model) = model.filter(|model| model.name == group.name) else {
                    return Err(format!("invented or reordered group {}", group.name));
                };
                check_group(model, group, found.start, cut)?;
                consumers += 1;
            }
            if found.start > 0 && consumers == 0 {
                return Err(format!("{} messages of {} are gone", found.start, found.name));
            }
        }
        Ok(cut)
    }

    /// How many events are there; they must be the first ones.
    fn cut(&self, seen: &Seen) -> Result<usize, String> {
        let ends: Vec<usize> = seen.topics.iter().map(SeenTopic::end).collect();
        let groups: usize = seen.topics.iter().map(|topic| topic.groups.len()).sum();
        let cut = seen.topics.len() + groups + ends.iter().sum::<usize>();
        if cut > self.events.len() {
            return Err(format!("invented: {cut} events of {}", self.events.len()));
        }
        for (found, model) in seen.topics.iter().zip(&self.topics) {
            if found.name != model.name {
                return Err(format!("topic {} in place of {}", found.name, model.name));
            }
        }
        let mut expected = (0, 0, vec![0; ends.len()]);
        for event in &self.events[..cut] {
            match event.kind {
                Kind::Topic => expected.0 += 1,
                Kind::Group => expected.1 += 1,
                Kind::Message(topic) if topic < ends.len() => expected.2[topic] += 1,
                Kind::Message(_) => return Err(format!("reordered: {ends:?}")),
            }
        }
        let found = (seen.topics.len(), groups, ends);
        if found == expected {
            Ok(cut)
        } else {
            Err(format!("reordered: {found:?} instead of {expected:?}"))
        }
    }

    /// Checks a delivery after a crash. `alone` if it came by itself with nothing else in hand.
    pub(crate) fn check_delivery(
        &self,
        group: usize,
        offset: usize,
        attempt: u32,
        alone: bool,
    ) -> Result<(), String> {
        let group = &self.groups[group];
        if group.sought.is_some() {
            return Ok(());
        }
        let counted = group.attempts.get(offset).copied().unwrap_or(0);
        let place = format!("group {}, offset {offset}, attempt {attempt}", group.name);
        let done = group.done.get(offset).copied().unwrap_or(Done::No);
        if done == Done::Yes {
            return Err(format!("delivered though settled: {place}"));
        }
        if attempt <= counted {
            return Err(format!("attempts went back from {counted}: {place}"));
        }
        if attempt > counted + self.slack + 1 {
            return Err(format!("attempts went up from {counted}: {place}"));
        }
        if group.held.contains(&offset) && done == Done::No && !alone {
            return Err(format!("a message that may have killed the process in company: {place}"));
        }
        Ok(())
    }

    /// Goes on from what a recovery returned, which is promised from then on.
    pub(crate) fn adopt(&mut self, seen: &Seen, cut: usize) {
        self.events.truncate(cut);
        self.topics.truncate(seen.topics.len());
        self.groups.truncate(seen.topics.iter().map(|topic| topic.groups.len()).sum());
        for (id, found) in seen.topics.iter().enumerate() {
            self.topics[id].messages.truncate(found.end());
            let of_topic = self.groups.iter_mut().filter(|group| group.topic == id);
            for (model, group) in of_topic.zip(&found.groups) {
                let yes = |settled: &bool| if *settled { Done::Yes } else { Done::No };
                model.done = vec![Done::Yes; found.start];
                model.done.extend(group.settled.iter().map(yes));
                if model.sought.take().is_some() {
                    model.attempts.clear();
                }
                model.held.clear();
            }
        }
        self.promise();
    }
}

fn put<T: Clone>(of: &mut Vec<T>, at: usize, empty: T, value: T) {
    if of.len() <= at {
        of.resize(at + 1, empty);
    }
    of[at] = value;
}

fn check_group(model: &Group, seen: &SeenGroup, start: usize, cut: usize) -> Result<(), String> {
    let first = check_done(&model.done, model, seen, start, cut);
    match &model.sought {
        Some(sought) => first.or_else(|_| check_done(sought, model, seen, start, cut)),
        None => first,
    }
}

fn check_done(
    expected: &[Done],
    model: &Group,
    seen: &SeenGroup,
    start: usize,
    cut: usize,
) -> Result<(), String> {
    let expect = |offset: usize| expected.get(offset).copied().unwrap_or(Done::No);
    for (offset, settled) in (start..).zip(&seen.settled) {
        let should = match expect(offset) {
            Done::No => false,
            Done::Maybe => continue,
            Done::With(event) => event < cut,
            Done::Yes => true,
        };
        if *settled != should {
            let wrong = if should { "undone" } else { "invented" };
            return Err(format!("an ack was {wrong}: {offset} of group {}", model.name));
        }
    }
    match (0..start).find(|offset| expect(*offset) == Done::No) {
        Some(offset) => Err(format!("retention took {offset} from group {}", model.name)),
        None => Ok(()),
    }
}
