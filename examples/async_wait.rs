//! ackline from async code: awaited appends, async consumers, callbacks, one-way sends.
//!
//! ```text
//! cargo run --example async_wait
//! ```
//!
//! The crate itself needs no runtime: what it returns are plain futures. Tokio is used here
//! because it is what most programs have.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ackline::{Group, Log, Offset, Topic};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TASKS: u64 = 64;
const PER_TASK: u64 = 50;
const CALLED_BACK: u64 = 100;
const DETACHED: u64 = 100;
const CONSUMERS: usize = 4;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_wait: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    // Opening reads files, so it does not belong on a thread of the runtime.
    let path = directory.path().to_owned();
    let log = tokio::task::spawn_blocking(move || Log::open(path)).await??;
    let events = log.topic("events")?;

    let group = events.group("readers")?;
    let mut consumers = JoinSet::new();
    let total = TASKS * PER_TASK + CALLED_BACK + DETACHED;
    let received = Arc::new(AtomicU64::new(0));
    for _ in 0..CONSUMERS {
        consumers.spawn(consume(group.clone(), Arc::clone(&received), total));
    }

    append_from_many_tasks(&log, &events).await?;
    call_back(&events).await?;
    for i in 0..DETACHED {
        // Nobody waits: the log commits it in the background, and nobody learns of a failure.
        events.submit(format!("detached {i}")).detach();
    }

    let mut offsets = BTreeSet::new();
    while let Some(consumed) = consumers.join_next().await {
        offsets.extend(consumed??);
    }
    group.commit()?;
    let expected: BTreeSet<Offset> = (0..total).map(Offset).collect();
    if offsets != expected {
        return Err(format!("received {} of {total} messages", offsets.len()).into());
    }
    println!("{CONSUMERS} consumers received all {total} messages, each of them once");
    tokio::task::spawn_blocking(move || log.close()).await??;
    Ok(())
}

/// A task per client, say: each awaits its own appends, and they share their syncs.
async fn append_from_many_tasks(log: &Log, events: &Topic) -> Result<(), Failure> {
    let before = log.stats().syncs;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let events = events.clone();
        tasks.spawn(async move {
            for i in 0..PER_TASK {
                events.submit(format!("task {task}, event {i}")).await?;
            }
            Ok::<_, ackline::Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let syncs = log.stats().syncs - before;
    println!("{TASKS} tasks awaited {} durable appends, with {syncs} syncs", TASKS * PER_TASK);
    Ok(())
}

/// Where there is no task to wait, a callback learns of the outcome.
async fn call_back(events: &Topic) -> Result<(), Failure> {
    let (sender, receiver) = std::sync::mpsc::channel();
    for i in 0..CALLED_BACK {
        let sender = sender.clone();
        // The callback runs on a thread of the log: it only hands the outcome on. That fails if
        // nobody receives any more, and then nobody wants to know.
        events.submit(format!("called back {i}")).on_complete(move |outcome| {
            drop(sender.send(outcome));
        });
    }
    drop(sender);
    let receive = || receiver.into_iter().collect::<ackline::Result<Vec<_>>>();
    let called = tokio::task::spawn_blocking(receive).await??.len() as u64;
    if called != CALLED_BACK {
        return Err(format!("{called} of {CALLED_BACK} callbacks came").into());
    }
    println!("{called} callbacks told that their record is durable");
    Ok(())
}

/// Takes messages until `total` were received by all consumers together; returns their offsets.
async fn consume(
    group: Group,
    received: Arc<AtomicU64>,
    total: u64,
) -> Result<Vec<Offset>, ackline::Error> {
    let mut offsets = Vec::new();
    // Each consumer claims the right to one message before it waits for it, so that none of
    // them waits for a message that another one has.
    while received.fetch_add(1, Ordering::Relaxed) < total {
        let message = group.next().await?;
        offsets.push(message.offset());
        message.ack()?;
    }
    Ok(offsets)
}
