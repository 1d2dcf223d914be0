//! The consumers, in a process of their own: four that count words, one that archives lines.
//!
//! The first such process is told to hold still once it has done three quarters, since it is to
//! be killed before it is done. The second one resumes where the first one was killed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ackline::{Delivery, Group, GroupOptions, Log, Record, Topic};

use crate::Failure;
use crate::archive::Archive;
use crate::tally::Tally;

/// Where the counts go.
pub(crate) const COUNTS: &str = "quickstart.counts";
const WORKERS: usize = 4;
const BATCH_MAX: u64 = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// What the process was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders {
    /// How many lines there are in all.
    pub(crate) lines: u64,
    /// Never finish.
    pub(crate) hold: bool,
}

/// What the threads of the process share.
struct Crew {
    log: Log,
    counts: Topic,
    words: Vec<Group>,
    archive: Vec<Group>,
    batch: usize,
    /// After this many lines of a group, its workers hold what they have until they are killed.
    hold_after: u64,
    /// Lines that the workers have taken, counted, archived.
    taken: AtomicU64,
    counted: AtomicU64,
    archived: AtomicU64,
    /// Deliveries of the word counters and of the archiver that were not the first.
    redelivered: [AtomicU64; 2],
    /// Lines that the archive had already.
    skipped: AtomicU64,
    stop: AtomicBool,
}

/// Works off the log, and tells the parent process how far it is.
pub(crate) fn run(queue: &Path, archive: &Path, orders: Orders) -> Result<(), Failure> {
    let crew = Crew::new(crate::options().open(queue)?, orders)?;
    thread::scope(|scope| {
        let mut threads = vec![scope.spawn(|| crew.archive_lines(archive))];
        threads.extend((0..WORKERS).map(|_| scope.spawn(|| crew.count_words())));
        let mut told = crew.tell();
        while told.is_ok() && threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(PAUSE);
            told = crew.tell();
        }
        // If the parent is gone, nobody will kill those that hold still.
        crew.stop.store(true, Ordering::Relaxed);
        let mut joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        let worked: Result<(), Failure> =
            joined.try_for_each(|result| result.map_err(|_| "a worker panicked")?);
        worked.and(told)
    })?;
    crew.tell()?;
    crew.log.close()?;
    Ok(())
}

impl Crew {
    fn new(log: Log, orders: Orders) -> Result<Self, Failure> {
        let batch = (orders.lines / 32).clamp(1, BATCH_MAX);
        let in_flight = WORKERS * usize::try_from(batch)?;
        let options = GroupOptions::new().in_flight_max(in_flight.max(1000));
        let names = log.topics().into_iter().filter(|name| name != COUNTS);
        let topics = names.map(|name| log.topic(&name)).collect::<ackline::Result<Vec<_>>>()?;
        let groups = |name| {
            let groups = topics.iter().map(|topic| topic.group_with(name, options.clone()));
            groups.collect::<ackline::Result<Vec<_>>>()
        };
        Ok(Self {
            counts: log.topic(COUNTS)?,
            words: groups("words")?,
            archive: groups("archive")?,
            log,
            batch: usize::try_from(batch)?,
            hold_after: if orders.hold { orders.lines * 3 / 4 } else { u64::MAX },
            taken: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            archived: AtomicU64::new(0),
            redelivered: Default::default(),
            skipped: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Tells the parent where this process is; see [`crate::supervise`].
    fn tell(&self) -> Result<(), Failure> {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut out = std::io::stdout().lock();
        let [words, archive] = self.redelivered.each_ref().map(get);
        let (counted, archived) = (get(&self.counted), get(&self.archived));
        writeln!(out, "{counted} {archived} {words} {archive} {}", get(&self.skipped))?;
        out.flush()?;
        Ok(())
    }

    /// One of the word counters: takes messages of any topic until all are done.
    fn count_words(&self) -> Result<(), Failure> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut idle = true;
            for group in &self.words {
                let messages = group.poll(self.batch, Duration::ZERO)?;
                if messages.is_empty() {
                    continue;
                }
                idle = false;
                let lines = messages.len() as u64;
                if self.taken.fetch_add(lines, Ordering::Relaxed) + lines > self.hold_after {
                    // Killed here: delivered, counted perhaps, never acknowledged.
                    self.hold();
                    return Ok(());
                }
                self.count(messages)?;
                self.counted.fetch_add(lines, Ordering::Relaxed);
            }
            if idle && done(&self.words)? {
                return Ok(());
            }
            if idle {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Counts the words of some lines. The counts and the acknowledgements of the lines are one
    /// batch: after a crash either both are there or neither, so that a line that is delivered
    /// twice is still counted once.
    fn count(&self, messages: Vec<Delivery>) -> Result<(), Failure> {
        let mut files: BTreeMap<Vec<u8>, Tally> = BTreeMap::new();
        let mut batch = self.log.batch();
        for message in messages {
            let number = message.header("line").ok_or("a line without a number")?;
            let number = u64::from_le_bytes(number.try_into()?);
            let words = message.payload().split(u8::is_ascii_whitespace);
            let words = words.filter(|word| !word.is_empty()).count() as u64;
            let file = message.key().ok_or("a line without its file")?;
            if !files.contains_key(file) {
                files.insert(file.to_vec(), Tally::default());
            }
            let tally = files.get_mut(file).expect("the file was just put there");
            tally.add_line(number, message.payload(), words);
            let again = u64::from(message.attempt() > 1);
            self.redelivered[0].fetch_add(again, Ordering::Relaxed);
            batch = batch.ack(message);
        }
        for (file, tally) in files {
            batch = batch.append(&self.counts, Record::new(tally.to_string()).key(file));
        }
        batch.commit()?;
        Ok(())
    }

    /// The archiver: writes the lines of each topic to a file, in order.
    fn archive_lines(&self, directory: &Path) -> Result<(), Failure> {
        let open = |group: &Group| Archive::open(directory, group.topic().name());
        let mut archives = self.archive.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        while !self.stop.load(Ordering::Relaxed) {
            let mut idle = true;
            for (group, archive) in self.archive.iter().zip(&mut archives) {
                let messages = group.poll(self.batch, Duration::ZERO)?;
                if messages.is_empty() {
                    continue;
                }
                idle = false;
                let again = messages.iter().filter(|message| message.attempt() > 1).count() as u64;
                self.redelivered[1].fetch_add(again, Ordering::Relaxed);
                let (written, skipped) = archive.write(&messages)?;
                self.skipped.fetch_add(skipped, Ordering::Relaxed);
                let so_far = self.archived.fetch_add(written, Ordering::Relaxed) + written;
                if so_far > self.hold_after {
                    // Killed here: in the archive, but not acknowledged.
                    self.hold();
                    return Ok(());
                }
                messages.into_iter().try_for_each(Delivery::ack)?;
                group.commit()?;
            }
            if idle && done(&self.archive)? {
                return Ok(());
            }
            if idle {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn hold(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(PAUSE);
        }
    }
}

fn done(groups: &[Group]) -> Result<bool, Failure> {
    for group in groups {
        if group.lag()?.messages > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
