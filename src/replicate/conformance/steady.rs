//! The scenes with one leader: disks that do not answer, links that are cut, replicas that are
//! late or restarted.

use std::sync::Arc;

use crate::error::Result;
use crate::record::Receipt;
use crate::retention::Retention;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread;
use crate::topic::Topic;

use super::Rule;
use super::stage::{Played, Stage, Stop, broken};

/// So many others, the last ones, that without them there are not enough copies.
fn needed_others(stage: &Stage) -> Vec<usize> {
    (stage.shape.copies - 1..stage.shape.nodes).collect()
}

pub(super) fn held_disk(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    stage.hold_syncs(&needed_others(stage));
    let late = stage.append_in_vain(0, 300, Rule::AcknowledgedIsDurable)?;
    stage.release_syncs();
    stage.append(3)?;
    stage.must_land(late)
}

pub(super) fn cut_off(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    for other in needed_others(stage) {
        stage.cut(0, other)?;
    }
    let late = stage.append_in_vain(0, 300, Rule::AcknowledgedIsDurable)?;
    stage.append_in_vain(0, 300, Rule::AcknowledgedIsDurable)?;
    stage.heal()?;
    stage.append(3)?;
    stage.must_land(late)
}

pub(super) fn many_at_once(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    let streams: Vec<_> = (0..4).map(|_| Stream::start(stage, 50)).collect::<Played<_>>()?;
    for stream in streams {
        stream.finish(stage)?;
    }
    stage.converge()
}

pub(super) fn broken_links(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    let last = stage.shape.nodes - 1;
    stage.cut(0, last)?;
    stage.join(0, last)?;
    for round in 0..6 {
        let stream = Stream::start(stage, 1000)?;
        stream.wait_for_some(stage)?;
        stage.cut(0, last)?;
        if round % 2 == 0 {
            // One that was written while the link was cut must not be skipped later.
            stage.append_and_enter(2)?;
        }
        stage.join(0, last)?;
        if round % 3 == 0 {
            stage.cut(0, 1)?;
            stage.join(0, 1)?;
        }
        stream.stop(stage)?;
    }
    stage.append(3)?;
    stage.converge()
}

pub(super) fn disturbed_links(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.disturb(true)?;
    for _ in 0..3 {
        let streams: Vec<_> = (0..2).map(|_| Stream::start(stage, 30)).collect::<Played<_>>()?;
        for stream in streams {
            stream.finish(stage)?;
        }
    }
    stage.disturb(false)?;
    stage.converge()
}

pub(super) fn late_replica(stage: &mut Stage) -> Played {
    let last = stage.shape.nodes - 1;
    stage.let_it_forget(|options| {
        let retention = Retention::keep_consumed().max_bytes(8 << 10);
        // Nor may the memory of what was just written help out.
        options.segment_bytes(4096).retention(retention).catch_up_bytes_max(0).recent_bytes(0)
    });
    stage.begin(&[last])?;
    for _ in 0..2 {
        let before = end_of(stage, stage.leader)?;
        stage.append(40)?;
        // The beginning goes in the background.
        let gone = stage.eventually(|stage| {
            Ok(stage.handle(0).history().is_ok_and(|history| history.start > before))
        })?;
        if !gone {
            return broken(Rule::GoesOn, format!("{before} is kept for a replica that is away"));
        }
        stage.start(last)?;
        stage.append(3)?;
        stage.converge()?;
        stage.close(last)?;
    }
    stage.start(last)?;
    stage.append(3)?;
    stage.converge()
}

fn end_of(stage: &Stage, node: usize) -> Played<crate::offset::Position> {
    let history = stage.handle(node).history();
    history.map(|history| history.end).or_else(|e| broken(Rule::GoesOn, format!("{node}: {e}")))
}

pub(super) fn restarted_replica(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    let last = stage.shape.nodes - 1;
    for _ in 0..2 {
        let stream = Stream::start(stage, 1000)?;
        stream.wait_for_some(stage)?;
        stage.kill(last);
        stream.stop(stage)?;
        stage.start(last)?;
        stage.append(3)?;
        stage.converge()?;
    }
    Ok(())
}

/// A thread that appends.
pub(super) struct Stream {
    stopped: Arc<AtomicBool>,
    some: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<(Vec<u8>, Result<Receipt>)>>,
}

impl Stream {
    /// Appends up to `records` at the leader, in the background.
    pub(super) fn start(stage: &mut Stage, records: usize) -> Played<Self> {
        let topic = stage.topic(stage.leader)?;
        let payloads: Vec<_> = (0..records).map(|_| stage.payload(120)).collect();
        let (stopped, some) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (stopped, some) = (Arc::clone(&stopped), Arc::clone(&some));
            thread::spawn(move || run(&topic, &payloads, &stopped, &some))
        };
        Ok(Self { stopped, some, thread })
    }

    /// Waits until a few records were answered.
    pub(super) fn wait_for_some(&self, stage: &mut Stage) -> Played {
        let flows = stage.eventually(|_| Ok(self.some.load(Ordering::Acquire)))?;
        if flows { Ok(()) } else { broken(Rule::GoesOn, "a stream of appends does not move") }
    }

    pub(super) fn stop(self, stage: &mut Stage) -> Played {
        self.stopped.store(true, Ordering::Release);
        self.finish(stage)
    }

    /// Waits for the rest, and enters the answers.
    pub(super) fn finish(self, stage: &mut Stage) -> Played {
        let Ok(answers) = self.thread.join() else {
            return Err(Stop::Broken(Rule::GoesOn, "an append panicked".to_owned()));
        };
        answers.into_iter().try_for_each(|(payload, answer)| stage.enter(payload, &answer))
    }
}

fn run(
    topic: &Topic,
    payloads: &[Vec<u8>],
    stopped: &AtomicBool,
    some: &AtomicBool,
) -> Vec<(Vec<u8>, Result<Receipt>)> {
    // Several are on their way at a time.
    const AT_ONCE: usize = 8;
    let mut answers = Vec::new();
    for few in payloads.chunks(AT_ONCE) {
        if stopped.load(Ordering::Acquire) {
            break;
        }
        let pending: Vec<_> = few.iter().map(|payload| topic.submit(payload.clone())).collect();
        let waited = pending.into_iter().map(crate::pending::Pending::wait);
        answers.extend(few.iter().cloned().zip(waited));
        some.store(true, Ordering::Release);
    }
    answers
}
