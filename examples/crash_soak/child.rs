//! The process that is killed: opens the log, reads all that it holds, and then works on it with
//! many threads. It tells its supervisor everything, and decides nothing by itself.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ackline::{Ending, Error, Group, Log, Message, Topic};

use crate::Failure;
use crate::event::{Event, Found};
use crate::layout::{DEAD, DOWNSTREAM, GROUPS, TOPICS, group_of};
use crate::payload::{self, Ident};
use crate::plan::Plan;
use crate::random::Random;
use crate::{consume, produce};

/// The exit status after a call that answered an error that it should not have.
pub(crate) const FAILED: i32 = 3;
/// The exit status when the supervisor is gone.
const ORPHANED: i32 = 4;

/// Producers wait while the groups are further behind than this, so that what is kept, and read
/// again by every process, is bounded.
const BACKLOG_MAX: u64 = 1_500;

/// The supervisor's end of the pipe.
#[derive(Debug)]
pub(crate) struct Told(File);

impl Told {
    /// One write of less than 4,096 bytes is never torn apart by those of other threads
    /// (<https://man7.org/linux/man-pages/man7/pipe.7.html>, on `PIPE_BUF`).
    fn write(&self, text: &str) {
        assert!(text.len() <= 4096, "a pipe takes that much at a time");
        if (&self.0).write_all(text.as_bytes()).is_err() {
            process::exit(ORPHANED);
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        self.write(&format!("{event}\n"));
    }

    pub(crate) fn tell_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut text = String::new();
        for event in events {
            if text.len() > 3900 {
                self.write(&text);
                text.clear();
            }
            writeln!(text, "{event}").expect("text takes text");
        }
        self.write(&text);
    }

    /// Ends the process: the soak has found something.
    pub(crate) fn fail(&self, what: &str, error: &dyn std::fmt::Display) -> ! {
        let text = format!("failed {what}: {error}").replace('\n', " ");
        let text: String = text.chars().take(1000).collect();
        self.write(&(text + "\n"));
        process::exit(FAILED);
    }
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) told: Told,
    pub(crate) log: Log,
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    /// The groups are far behind.
    pub(crate) paused: AtomicBool,
    /// The threads shall end.
    pub(crate) stop: AtomicBool,
    ids: AtomicU64,
}

/// Runs until it is killed, or until it is told to close, or has drained the log.
pub(crate) fn run(directory: &Path, seed: u64, plan: Plan) -> Result<(), Failure> {
    let told = Told(File::from(std::io::stdout().as_fd().try_clone_to_owned()?));
    let closing = listen();
    told.tell(Event::Opening);
    let log = match plan.options().open(directory.join("log")) {
        Ok(log) => log,
        Err(error) => told.fail("open", &error),
    };
    let report = log.report();
    told.tell(Event::Opened {
        cleanly: report.ending == Ending::Closed,
        rewritten: report.rewritten_bytes,
        torn: report.dropped_torn_tail,
    });
    let setup = || {
        let topics: Vec<_> = TOPICS.iter().map(|name| log.topic(name)).collect::<Result<_, _>>()?;
        for (i, topic) in topics.iter().enumerate() {
            read_topic(&told, seed, i, topic)?;
        }
        let group = |layout: &crate::layout::GroupLayout| {
            topics[layout.topic].group_with(layout.name, layout.options())
        };
        let groups = GROUPS.iter().map(group).collect::<Result<_, _>>()?;
        Ok::<_, Error>((topics, groups))
    };
    let (topics, groups) = match setup() {
        Ok(made) => made,
        Err(error) => told.fail("set up", &error),
    };
    let (paused, stop, ids) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let crew = Crew { seed, plan, told, log, topics, groups, paused, stop, ids };
    crew.work(&closing);
    Ok(())
}

/// Listens to the supervisor: a byte means to close, and the end of the pipe that it is gone.
fn listen() -> std::sync::mpsc::Receiver<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = std::io::stdin().read(&mut byte) {
            // The receiver lives as long as the process.
            if sender.send(()).is_err() {
                break;
            }
        }
        process::exit(ORPHANED);
    });
    receiver
}

/// Tells all that a topic holds, every byte of it checked.
fn read_topic(told: &Told, seed: u64, number: usize, topic: &Topic) -> Result<(), Error> {
    let offsets = topic.offsets();
    let (start, end) = (offsets.start.0, offsets.end.0);
    told.tell(Event::Reading { topic: number, start, end });
    // Retention may have gone on since.
    let mut reader = match topic.read_from(offsets.start) {
        Err(Error::OffsetOutOfRange { start: now, .. }) if now > offsets.start => {
            told.tell(Event::Gone { topic: number, from: start, to: now.0 });
            topic.read_from(now)?
        }
        other => other?,
    };
    let mut events = Vec::new();
    for message in &mut reader {
        match message {
            Ok(message) => {
                let found = told.identify(seed, &message);
                events.push(Event::Seen { topic: number, offset: message.offset().0, found });
            }
            Err(Error::Lagged { from, to }) => {
                events.push(Event::Gone { topic: number, from: from.0, to: to.0 });
            }
            Err(error) => return Err(error),
        }
        if events.len() == 60 {
            told.tell_all(std::mem::take(&mut events));
        }
    }
    events.push(Event::Read { topic: number, end: reader.next_offset().0 });
    told.tell_all(events);
    Ok(())
}

impl Told {
    /// What a message is. One that is nothing that was ever appended ends the process.
    pub(crate) fn identify(&self, seed: u64, message: &Message) -> Found {
        let (topic, offset) = (message.topic(), message.offset());
        let ident = payload::check(seed, message);
        let ident = ident.unwrap_or_else(|e| self.fail(&format!("altered: {topic} {offset}"), &e));
        let letter = (topic == TOPICS[DEAD]).then(|| {
            let letter = payload::letter(message, group_of);
            letter.unwrap_or_else(|e| self.fail(&format!("altered: {topic} {offset}"), &e))
        });
        Found { ident, letter }
    }
}

impl Crew {
    fn work(&self, closing: &std::sync::mpsc::Receiver<()>) {
        self.told.tell(Event::Working);
        let mut random = Random::new(self.seed ^ u64::from(self.plan.run));
        thread::scope(|scope| {
            for (number, layout) in GROUPS.iter().enumerate() {
                for thread in 0..layout.threads {
                    scope.spawn(move || consume::run(self, number, thread));
                }
            }
            let own = random.clone();
            scope.spawn(|| self.keep_syncing(own));
            if self.plan.drain {
                self.await_drained();
                self.stop.store(true, Ordering::Relaxed);
                return;
            }
            for producer in 0..produce::PRODUCERS {
                scope.spawn(move || produce::run(self, producer));
            }
            // The supervisor kills this process, or says that it shall close.
            if closing.recv().is_err() {
                process::exit(ORPHANED);
            }
            self.told.tell(Event::Closing);
            // Often the threads are in the middle of something when the log is closed.
            if !random.one_in(3) {
                self.close();
            }
            self.stop.store(true, Ordering::Relaxed);
        });
        match self.log.clone().close() {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => self.told.fail("close", &error),
        }
        if self.plan.drain {
            self.told.tell(Event::Drained);
        }
        self.told.tell(Event::Closed);
    }

    fn close(&self) {
        if let Err(error) = self.log.clone().close() {
            self.told.fail("close", &error);
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A number that no other call of this process gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn ident(&self, producer: u8, number: u64) -> Ident {
        Ident { run: self.plan.run, producer, number, index: 0, of: 1 }
    }

    /// Whether a call was refused because the log is full or closed; any other error is a
    /// finding.
    pub(crate) fn refused(&self, what: &str, error: &Error) {
        match error {
            Error::Full { .. } => thread::sleep(Duration::from_millis(1)),
            Error::Closed => self.stop.store(true, Ordering::Relaxed),
            error => self.told.fail(what, error),
        }
    }

    /// Syncs now and then, whatever the policy, and holds back the producers where need be.
    fn keep_syncing(&self, mut random: Random) {
        while !self.stopped() {
            for _ in 0..random.below(20) {
                thread::sleep(Duration::from_millis(2));
                let lags = self.groups.iter().map(Group::lag);
                let lags: Result<u64, Error> = lags.map(|lag| lag.map(|lag| lag.messages)).sum();
                match lags {
                    Ok(behind) => self.paused.store(behind > BACKLOG_MAX, Ordering::Relaxed),
                    Err(error) => return self.refused("lag", &error),
                }
            }
            let id = self.next_id();
            self.told.tell(Event::Syncing { id });
            match self.log.sync() {
                Ok(()) => self.told.tell(Event::Synced { id }),
                Err(error) => self.refused("sync", &error),
            }
        }
    }

    fn await_drained(&self) {
        for group in DOWNSTREAM {
            loop {
                match self.groups[group].lag() {
                    Ok(lag) if lag.messages == 0 => break,
                    Ok(_) => thread::sleep(Duration::from_millis(1)),
                    Err(error) => self.told.fail("lag", &error),
                }
            }
        }
    }
}
