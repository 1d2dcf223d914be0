//! What child processes do. Each measurement is a process of its own: some peers keep state in
//! globals, and what one leaves running in the background must not slow down another.
//!
//! A child writes what it found to a file: some peers print.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::measure::{self, Plan, Side, Turn};
use crate::peer::{Failure, Kind, Mode, OURS, Setup};
use crate::sides;
use crate::workload::{BATCH_RECORDS, Workload};
use crate::{limit, workload};

/// The rounds of each side: the limit, ackline, and the peer unless it is ackline.
pub(crate) type Rounds = Vec<Vec<Vec<Turn>>>;

/// Measures one workload of one peer, next to the limit and to ackline.
pub(crate) fn measure(
    kind: &Kind,
    workload: &Workload,
    directory: &Path,
    design: usize,
    plan: &Plan,
) -> Result<Rounds, Failure> {
    let mut all = vec![limit::make(workload, directory, design)?];
    all.push(sides::make(OURS, workload, &directory.join(OURS.name), plan)?);
    if kind.name != OURS.name {
        all.push(sides::make(kind, workload, &directory.join(kind.name), plan)?);
    }
    let sides: Vec<&dyn Side> = all.iter().map(AsRef::as_ref).collect();
    let measured = measure::in_turns(&sides, workload.threads, workload.payload_bytes, plan);
    let measured = measured.map_err(|error| Failure::from(error.to_string()))?;
    Ok(measured.into_iter().map(|side| side.rounds).collect())
}

/// Appends durably so many times, for whoever counts the system calls.
pub(crate) fn append(
    kind: &Kind,
    directory: &Path,
    operations: u64,
    batches: bool,
) -> Result<(), Failure> {
    const PAYLOAD_BYTES: usize = 100;
    let directory = &directory.join(kind.name);
    std::fs::create_dir(directory)?;
    let setup = Setup { directory, mode: Mode::Durable, topics: 1, threads: 1 };
    let peer = (kind.open)(&setup)?;
    let records_each = if batches { BATCH_RECORDS as u64 } else { 1 };
    for operation in 0..operations {
        let first = operation * records_each;
        let records = sides::payloads(PAYLOAD_BYTES, 0, first..first + records_each);
        match records.as_slice() {
            [record] => peer.append(0, 0, record)?,
            records => peer.append_batch(0, 0, records)?,
        }
    }
    Ok(())
}

/// The workload with this name.
pub(crate) fn workload(name: &str) -> Result<Workload, Failure> {
    let found = workload::all().into_iter().find(|workload| workload.name() == name);
    found.ok_or_else(|| format!("there is no workload {name:?}").into())
}

/// Turns as text: side, round, records and nanoseconds in each line.
pub(crate) fn encode(rounds: &Rounds) -> String {
    let mut text = String::new();
    for (side, rounds) in rounds.iter().enumerate() {
        for (round, turns) in rounds.iter().enumerate() {
            for turn in turns {
                let nanoseconds = turn.elapsed.as_nanos();
                writeln!(text, "{side} {round} {} {nanoseconds}", turn.records)
                    .expect("a string takes text");
            }
        }
    }
    text
}

/// What [`encode`] made.
pub(crate) fn decode(text: &str) -> Result<Rounds, Failure> {
    let mut all = Rounds::new();
    for line in text.lines() {
        let fields: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [side, round, records, nanoseconds] = fields[..] else {
            return Err(format!("a line of a child reads {line:?}").into());
        };
        let (side, round) = (usize::try_from(side)?, usize::try_from(round)?);
        // Both come in order, from 0.
        if side >= all.len() {
            all.push(Vec::new());
        }
        let rounds = all.get_mut(side).ok_or("a child left out a side")?;
        if round >= rounds.len() {
            rounds.push(Vec::new());
        }
        let turns = rounds.get_mut(round).ok_or("a child left out a round")?;
        let elapsed = Duration::from_nanos(nanoseconds);
        turns.push(Turn { records, elapsed, ..Turn::default() });
    }
    Ok(all)
}
