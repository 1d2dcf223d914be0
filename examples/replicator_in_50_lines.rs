//! A replicator of one's own, without a network: a second log in another directory that holds
//! all that the first one holds before an append is answered.
//!
//! ```text
//! cargo run --release --example replicator_in_50_lines
//! ```
//!
//! `docs/replication.md` goes through it line by line. What ships as
//! [`Mirror`](ackline::replicate::Mirror) does the same, and survives that either disk is lost.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use ackline::replicate::{Frames, LogHandle, ReplicaStatus, Replicator};
use ackline::{Epoch, Offset, Options, Result};

// 1. The replica: a log that only follows. Its replicator does nothing but keep the handle.
#[derive(Debug, Default)]
struct Follower(OnceLock<LogHandle>);

impl Replicator for Follower {
    fn attach(&self, log: LogHandle) -> Result<()> {
        self.0.set(log).expect("a replicator is attached once");
        Ok(())
    }
    fn offer(&self, _: &Frames) {}
    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Following
    }
    fn detach(&self, _: Duration) {}
}

// 2. The leader's replicator: a queue of frames, and a thread that writes them to the replica.
#[derive(Debug)]
struct Copier {
    replica: LogHandle,
    queue: Mutex<Option<Sender<Frames>>>,
}

impl Replicator for Copier {
    fn attach(&self, log: LogHandle) -> Result<()> {
        // 3. A new epoch: newer than all that either of the two has promised.
        let epoch = log.promised()?.max(self.replica.promised()?).next();
        self.replica.follow(epoch)?;
        // 4. Make the replica a beginning of this log: from nothing, or by cutting what differs.
        let (ours, theirs) = (log.history()?, self.replica.history()?);
        let common = theirs.common_end(&ours).filter(|_| theirs.log_id == ours.log_id);
        match common.filter(|common| *common >= ours.start) {
            Some(common) if common < theirs.end => self.replica.truncate(epoch, common)?,
            Some(_) => {}
            None => self.replica.reset(epoch, &log.snapshot()?)?,
        }
        // 5. Catch up by reading.
        while let Some(frames) = log.read(self.replica.written()?, 1 << 20)? {
            self.replica.ingest(epoch, &frames).wait()?;
        }
        // 6. Lead. The first frame of the epoch is offered before this returns.
        let (sender, frames) = channel();
        *self.queue.lock().expect("nobody panics") = Some(sender);
        let (leader, replica) = (log.clone(), self.replica.clone());
        thread::spawn(move || copy(epoch, &frames, &leader, &replica));
        log.lead(epoch, self.replica.history()?.log_end())
    }

    fn offer(&self, frames: &Frames) {
        // 7. Never block here: it is the middle of a commit. A clone copies no bytes.
        if let Some(queue) = &*self.queue.lock().expect("nobody panics") {
            drop(queue.send(frames.clone()));
        }
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Healthy { lag: 0 }
    }

    fn detach(&self, _: Duration) {
        drop(self.queue.lock().expect("nobody panics").take());
    }
}

fn copy(epoch: Epoch, frames: &Receiver<Frames>, leader: &LogHandle, replica: &LogHandle) {
    for frames in frames {
        // 8. Durable there first, then told here. After an error nothing is told any more, and
        // appends answer `ReplicaTimeout`: unknown, not done.
        let Ok(end) = replica.ingest(epoch, &frames).wait() else { return };
        if leader.advance(epoch, end).is_err() {
            return;
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for run in 0..3 {
        let follower = Arc::new(Follower::default());
        let second = Options::new().replicator(follower.clone()).open(second.path())?;
        let replica = follower.0.get().expect("an open log is attached").clone();
        let copier = Arc::new(Copier { replica, queue: Mutex::default() });
        let log = Options::new().replicator(copier).open(first.path())?;
        let orders = log.topic("orders")?;
        for i in 0..100 {
            orders.append(format!("run {run}, order {i}"))?;
        }
        println!("run {run}: {} orders, each on both disks", orders.offsets().end);
        log.close()?;
        second.close()?;
    }
    // The second directory alone is a log as good as the first one.
    let follower = Arc::new(Follower::default());
    let log = Options::new().replicator(follower.clone()).open(second.path())?;
    let handle = follower.0.get().expect("an open log is attached");
    let epoch = handle.promised()?.next();
    handle.lead(epoch, handle.history()?.log_end())?;
    handle.advance(epoch, handle.written()?)?;
    let found = log.topic("orders")?.read_from(Offset(0))?.count();
    println!("the second directory, promoted: {found} orders");
    if found == 300 { Ok(()) } else { Err("orders are missing".into()) }
}
