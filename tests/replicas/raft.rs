//! A log mounted as the log storage of a Raft engine, which owns the order: append at an index with
//! a callback, truncate since an index, purge up to an index, a vote, and readers of ranges, each
//! as the engine's contract wants it, over power cuts.

use std::sync::mpsc::channel;

use ackline::replicate::{FrameId, LogHandle};
use ackline::simulation::Rng;
use ackline::{Epoch, Error, Options, Position, Result};

use crate::common::small;
use crate::double::Node;

const TOPIC: &str = "raft";

/// What an engine stores at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogEntry {
    term: u64,
    index: u64,
    payload: Vec<u8>,
}

/// The log storage. An index is a frame's sequence number plus 1, as Raft counts from 1.
struct RaftLog {
    node: Node,
    /// The frames from the first one that is kept on.
    frames: Vec<FrameId>,
    vote: u64,
    /// The last purged entry: its term and index.
    purged: (u64, u64),
}

impl RaftLog {
    fn open(node: Node) -> Self {
        let handle = node.handle();
        let cell = handle.cell().expect("open");
        let number = |at: usize| {
            cell.get(at..at + 8)
                .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
        };
        let (vote, purged) = (number(0), (number(8), number(16)));
        let mut log = Self { node, frames: Vec::new(), vote, purged };
        let mut at = handle.history().expect("open").start;
        while let Some(frames) = handle.read(at, 1 << 20).expect("reads") {
            log.frames.extend(frames.split().map(|frame| FrameId {
                epoch: frame.epoch(),
                sequence: frame.sequence(),
                start: frame.start(),
                end: frame.end(),
            }));
            at = frames.end();
        }
        // Segments go as a whole: what was purged may still be there.
        log.frames.retain(|frame| frame.sequence + 1 > purged.1);
        log
    }

    fn handle(&self) -> LogHandle {
        self.node.handle()
    }

    fn store(&self) {
        let numbers = [self.vote, self.purged.0, self.purged.1];
        let cell: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        self.handle().store_cell(&cell).expect("it is stored");
    }

    fn save_vote(&mut self, vote: u64) {
        self.vote = vote;
        self.store();
    }

    /// Appends entries; the receiver hears of each when it is durable.
    fn append(
        &mut self,
        entries: &[LogEntry],
        flushed: &std::sync::mpsc::Sender<u64>,
    ) -> Result<()> {
        for entry in entries {
            let (id, pending) =
                self.handle().append(Epoch(entry.term), TOPIC, entry.payload.clone())?;
            assert_eq!(id.sequence + 1, entry.index, "the engine appends without holes");
            self.frames.push(id);
            let (flushed, index) = (flushed.clone(), entry.index);
            pending.on_complete(move |result| {
                result.expect("it is durable");
                flushed.send(index).expect("somebody listens");
            });
        }
        Ok(())
    }

    fn last(&self) -> (u64, u64) {
        self.frames.last().map_or(self.purged, |last| (last.epoch.0, last.sequence + 1))
    }

    /// Removes the entries from `index` on.
    fn truncate(&mut self, index: u64) -> Result<()> {
        let Some(at) = self.frames.iter().position(|frame| frame.sequence + 1 == index) else {
            return Ok(());
        };
        self.handle().truncate(self.handle().promised()?, self.frames[at].start)?;
        self.frames.truncate(at);
        Ok(())
    }

    /// Forgets the entries up to `index`, which are applied.
    fn purge(&mut self, index: u64) -> Result<()> {
        let Some(at) = self.frames.iter().position(|frame| frame.sequence + 1 == index) else {
            return Ok(());
        };
        let last = self.frames[at];
        self.purged = (last.epoch.0, index);
        // Remembered before anything is deleted.
        self.store();
        self.frames.drain(..=at);
        self.handle().advance(self.handle().promised()?, last.end)?;
        self.handle().purge(last.end).map(drop)
    }

    fn entries(&self, range: std::ops::Range<u64>) -> Vec<LogEntry> {
        let wanted = self.frames.iter().filter(|frame| range.contains(&(frame.sequence + 1)));
        wanted
            .map(|id| {
                let frame = self.handle().read(id.start, 0).expect("reads").expect("it is there");
                assert_eq!((frame.start(), frame.count()), (id.start, 1));
                let payloads = frame.payloads().expect("whole");
                LogEntry {
                    term: frame.epoch().0,
                    index: frame.sequence() + 1,
                    payload: payloads[0].to_vec(),
                }
            })
            .collect()
    }

    fn crash(self, options: Options) -> Self {
        Self::open(self.node.crash(options))
    }
}

fn entry(term: u64, index: u64, size: usize) -> LogEntry {
    let mut payload = format!("{term}.{index} ").into_bytes();
    payload.resize(payload.len() + size, b'.');
    LogEntry { term, index, payload }
}

/// What is durable when the engine has heard of all its appends.
fn flush(log: &RaftLog) {
    log.node.log.maintain().expect("it commits");
}

#[test]
fn a_raft_engine_finds_what_it_stored() {
    let options = || small().recent_bytes(0);
    let mut log = RaftLog::open(Node::new(1, options()));
    let (flushed, heard) = channel();
    log.save_vote(7);
    let entries: Vec<_> = (1..=20).map(|index| entry(1, index, 300)).collect();
    log.append(&entries, &flushed).expect("appends");
    flush(&log);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    // A later leader has other entries from 15 on.
    log.truncate(15).expect("nothing of it is applied");
    assert_eq!(log.last(), (1, 14));
    let others: Vec<_> = (15..=18).map(|index| entry(3, index, 10)).collect();
    log.append(&others, &flushed).expect("appends");
    flush(&log);
    let log = log.crash(options());
    assert_eq!((log.vote, log.last()), (7, (3, 18)));
    let expected: Vec<_> = entries[..14].iter().chain(&others).cloned().collect();
    assert_eq!(log.entries(1..19), expected);
    assert_eq!(log.entries(14..16), expected[13..15]);
}

#[test]
fn what_was_purged_last_is_known_even_when_nothing_is_left() {
    let options = || small().recent_bytes(0);
    let mut log = RaftLog::open(Node::new(1, options()));
    let (flushed, _heard) = channel();
    let entries: Vec<_> = (1..=40).map(|index| entry(2, index, 300)).collect();
    log.append(&entries, &flushed).expect("appends");
    flush(&log);
    log.purge(25).expect("purges");
    assert!(log.handle().history().expect("open").start > Position(0), "segments are gone");
    assert_eq!(log.entries(1..41), entries[25..]);
    log.purge(40).expect("purges");
    let mut log = log.crash(options());
    assert_eq!((log.purged, log.last()), ((2, 40), (2, 40)));
    assert_eq!(log.entries(1..99), []);
    log.append(&[entry(3, 41, 10)], &flushed).expect("it goes on");
    flush(&log);
    let log = log.crash(options());
    assert_eq!((log.purged, log.last()), ((2, 40), (3, 41)));
}

#[test]
fn replicas_that_are_given_the_same_write_the_same_bytes() {
    let nodes = [Node::new(1, small()), Node::new(2, small())].map(RaftLog::open);
    let (flushed, _heard) = channel();
    let logs = nodes.map(|mut log| {
        for term in 1..4 {
            let entries: Vec<_> = (1..=9).map(|i| entry(term, (term - 1) * 9 + i, 100)).collect();
            log.append(&entries, &flushed).expect("appends");
            flush(&log);
        }
        log
    });
    let frames = logs.each_ref().map(|log| {
        let epochs = log.handle().history().expect("open").epochs;
        (epochs, log.frames.clone(), log.entries(1..28))
    });
    assert_eq!(frames[0], frames[1]);
}

#[test]
fn readers_of_ranges_go_on_beside_appends() {
    let directory = tempfile::tempdir().expect("a directory");
    let double = crate::double::Double::new();
    let options = Options::new().segment_bytes(64 * 1024);
    let log = options
        .replicator(std::sync::Arc::new(double.clone()))
        .open(directory.path())
        .expect("it opens");
    let handle = double.handle();
    let reader = {
        let handle = handle.clone();
        std::thread::spawn(move || {
            let (mut at, mut number) = (Position(0), 0_u64);
            while number < 2000 {
                let Some(frames) = handle.read(at, 4096).expect("reads") else {
                    std::thread::yield_now();
                    continue;
                };
                for payload in frames.payloads().expect("whole") {
                    assert_eq!(payload, format!("{number}").as_bytes());
                    number += 1;
                }
                at = frames.end();
            }
        })
    };
    let mut last = None;
    for number in 0..2000 {
        last = Some(handle.append(Epoch(1), TOPIC, format!("{number}")).expect("appends").1);
    }
    last.expect("there were some").wait().expect("durable");
    reader.join().expect("it has read all");
    log.close().expect("closes");
}

#[test]
fn a_term_that_is_over_appends_nothing() {
    let mut log = RaftLog::open(Node::new(1, small()));
    let (flushed, _heard) = channel();
    log.append(&[entry(4, 1, 10)], &flushed).expect("appends");
    let stale = log.append(&[entry(3, 2, 10)], &flushed);
    assert!(matches!(stale, Err(Error::Fenced { epoch: Epoch(4) })), "{stale:?}");
}

#[test]
fn a_leader_hands_on_what_earlier_terms_have_left() {
    let mut log = RaftLog::open(Node::new(1, small()));
    let (flushed, _heard) = channel();
    let first: Vec<_> = (1..=4).map(|index| entry(1, index, 10)).collect();
    log.append(&first, &flushed).expect("appends");
    log.append(&[entry(2, 5, 10)], &flushed).expect("appends");
    // The leader of term 3 has another entry there, of a term before this one's.
    log.truncate(5).expect("nothing of it is applied");
    let others = [entry(1, 5, 20), entry(3, 6, 20)];
    log.append(&others, &flushed).expect("it follows an entry of term 1");
    flush(&log);
    let log = log.crash(small());
    let expected: Vec<_> = first.iter().chain(&others).cloned().collect();
    assert_eq!(log.entries(1..9), expected);
}

#[test]
fn power_cuts_lose_only_what_was_not_flushed() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let options = || small().recent_bytes(0);
        let mut log = RaftLog::open(Node::new(seed, options()));
        let mut model: Vec<LogEntry> = Vec::new();
        let mut term = 1;
        for _ in 0..12 {
            let (flushed, heard) = channel();
            term += rng.below(2);
            let next = log.last().1 + 1;
            let entries: Vec<_> = (next..next + 1 + rng.below(6))
                .map(|index| entry(term, index, rng.index(900)))
                .collect();
            log.append(&entries, &flushed).expect("appends");
            let mut written = model.clone();
            written.extend(entries);
            if rng.chance(2, 3) {
                flush(&log);
            }
            let durable = heard.try_iter().max().unwrap_or(model.len() as u64);
            if rng.chance(1, 2) {
                log = log.crash(options());
                let kept = log.last().1;
                assert!(kept >= durable, "seed {seed}: {kept} of {durable} that were flushed");
                model = written;
                model.truncate(usize::try_from(kept).expect("few"));
            } else {
                flush(&log);
                model = written;
            }
            if rng.chance(1, 4) && !model.is_empty() {
                let since = 1 + rng.below(model.len() as u64);
                log.truncate(since).expect("nothing is applied");
                model.truncate(usize::try_from(since - 1).expect("few"));
                // What comes next may be of an earlier term than what was there.
                term = model.last().map_or(1, |last| last.term) + rng.below(2);
            }
            assert_eq!(log.entries(1..1000), model, "seed {seed}");
        }
    }
}
