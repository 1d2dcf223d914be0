//! Jobs, workers, retries and dead letters.
//!
//! ```text
//! cargo run --example work_queue
//! ```
//!
//! One process owns the log, so the workers are threads here; each has handles of its own and
//! knows nothing of the others. One worker forgets a job, one job fails twice
//! before it succeeds, one never succeeds and one makes no sense. At the end every job is either
//! done or in the dead-letter topic, and the exit status says whether that is so.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ackline::{Delivery, Group, GroupOptions, Log, Message, Offset, Record};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WORKERS: usize = 3;
const ATTEMPTS_MAX: u32 = 4;

/// How often each job was done, by its key.
type Done = Mutex<BTreeMap<String, u32>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("\nEvery job is done or among the dead letters.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("work_queue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let log = Log::open(directory.path())?;
    enqueue(&log)?;

    // Short delays, so that the example ends soon; the defaults go from 10 s to 2 h.
    let options = GroupOptions::new()
        .lease(Duration::from_secs(5))
        .attempts_max(ATTEMPTS_MAX)
        .backoff([50, 100, 200].map(Duration::from_millis))
        .dead_letter("failed jobs");
    let jobs = log.topic("jobs")?;
    let done = Done::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=WORKERS)
            .map(|number| {
                let group = jobs.group_with("workers", options.clone());
                let done = &done;
                scope.spawn(move || Worker { number, group: group?, done }.run())
            })
            .collect();
        let mut joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined.try_for_each(|result| result.map_err(|_| "a worker panicked")?)
    })?;

    let letters = show_dead_letters(&log)?;
    let done = done.into_inner()?;
    check(&done, &letters)?;
    log.close()?;
    Ok(())
}

/// Puts all jobs into the queue with one call: after a crash all of them are there, or none.
fn enqueue(log: &Log) -> Result<(), Failure> {
    let job = |name: &str, order: &str| Record::new(order).key(name);
    let mut jobs: Vec<_> = (1..=6).map(|i| job(&format!("photo {i}"), "resize")).collect();
    jobs.push(job("mail", "fail twice").header("to", "someone@example.com"));
    jobs.push(job("video", "fail always"));
    jobs.push(job("riddle", "do what I mean"));
    let receipt = log.topic("jobs")?.append_batch(jobs)?;
    println!("queued the jobs {} to {}", receipt.offsets.start, receipt.offsets.end.0 - 1);
    Ok(())
}

struct Worker<'a> {
    number: usize,
    group: Group,
    done: &'a Done,
}

impl Worker<'_> {
    /// Takes one job at a time until none is left, those included that wait for a retry.
    fn run(&self) -> Result<(), Failure> {
        let mut forgets = self.number == 1;
        while self.group.lag()?.messages > 0 {
            for job in self.group.poll(1, Duration::from_millis(20))? {
                if job.payload() == b"resize" && std::mem::take(&mut forgets) {
                    // As if the worker had died: the lease ends with the delivery, and another
                    // worker gets the job.
                    self.say(&job, "forgets it");
                    drop(job);
                    continue;
                }
                self.work(job)?;
            }
        }
        Ok(())
    }

    fn work(&self, job: Delivery) -> Result<(), Failure> {
        match job.payload() {
            b"resize" => self.finish(job)?,
            b"fail twice" if job.attempt() > 2 => self.finish(job)?,
            b"fail twice" | b"fail always" => {
                self.say(&job, "fails, to be retried later");
                job.retry()?;
            }
            _ => {
                self.say(&job, "rejects it: no retry would help");
                job.reject("unknown kind of job")?;
            }
        }
        Ok(())
    }

    fn finish(&self, job: Delivery) -> Result<(), Failure> {
        thread::sleep(Duration::from_millis(5));
        self.say(&job, "is done");
        let mut done = self.done.lock().map_err(|_| "a worker panicked")?;
        *done.entry(name(&job)).or_default() += 1;
        drop(done);
        job.ack()?;
        // Without this, the acknowledgement is durable within a second; a crash before that
        // would only mean that the job is done again.
        self.group.commit()?;
        Ok(())
    }

    fn say(&self, job: &Delivery, what: &str) {
        let (number, job, attempt) = (self.number, name(job), job.attempt());
        println!("worker {number}: {job}, attempt {attempt}: {what}");
    }
}

fn name(job: &Message) -> String {
    String::from_utf8_lossy(job.key().unwrap_or_default()).into_owned()
}

/// Dead letters are messages of a topic like any other. Here they are read without a group.
fn show_dead_letters(log: &Log) -> Result<Vec<Message>, Failure> {
    let letters = log.topic("failed jobs")?.read_from(Offset(0))?;
    let letters = letters.collect::<ackline::Result<Vec<_>>>()?;
    for letter in &letters {
        println!("\ndead letter: {}, \"{}\"", name(letter), letter.payload().escape_ascii());
        for (name, value) in letter.headers() {
            println!("  {name}: {}", value.escape_ascii());
        }
    }
    Ok(letters)
}

/// What the example promises.
fn check(done: &BTreeMap<String, u32>, letters: &[Message]) -> Result<(), Failure> {
    let photos = (1..=6).map(|i| format!("photo {i}"));
    let expected = photos.chain(["mail".to_owned()]).map(|name| (name, 1)).collect();
    if *done != expected {
        return Err(format!("expected {expected:?}, found {done:?}").into());
    }
    let mut found: Vec<_> = letters
        .iter()
        .map(|letter| {
            let header = |name| {
                let value = letter.header(name).unwrap_or_default();
                String::from_utf8_lossy(value).into_owned()
            };
            (name(letter), header("ackline.attempts"), header("ackline.reason"))
        })
        .collect();
    found.sort();
    let letter = |name: &str, attempts: u32, reason: &str| {
        (name.to_owned(), attempts.to_string(), reason.to_owned())
    };
    let expected = [
        letter("riddle", 1, "unknown kind of job"),
        letter("video", ATTEMPTS_MAX, "out of attempts"),
    ];
    if found != expected {
        return Err(format!("expected the dead letters {expected:?}, found {found:?}").into());
    }
    Ok(())
}
