//! What child processes do. Each measurement is a process of its own: some peers keep state in
//! globals, and what one leaves running in the background must not slow down another.
//!
//! A child writes what it found to a file: some peers print.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::count::Operation;
use crate::measure::{self, Measured, Plan, Side, Turn};
use crate::peer::{Failure, Kind, Mode, OURS, Setup};
use crate::sides;
use crate::workload::{BATCH_RECORDS, Workload};
use crate::{count, limit, workload};

/// What was measured of each side: the limit, ackline, and the peer unless it is ackline.
pub(crate) type Sides = Vec<Measured>;

/// Measures one workload of one peer, next to the limit and to ackline.
pub(crate) fn measure(
    kind: &Kind,
    workload: &Workload,
    directory: &Path,
    design: usize,
    plan: &Plan,
) -> Result<Sides, Failure> {
    let mut all = vec![limit::make(workload, directory, design)?];
    all.push(sides::make(OURS, workload, &directory.join(OURS.name), plan)?);
    if kind.name != OURS.name {
        all.push(sides::make(kind, workload, &directory.join(kind.name), plan)?);
    }
    let sides: Vec<&dyn Side> = all.iter().map(AsRef::as_ref).collect();
    let measured = measure::in_turns(&sides, workload.threads, workload.payload_bytes, plan);
    measured.map_err(|error| error.to_string().into())
}

/// Does one operation so many times, durably, for whoever counts the system calls.
pub(crate) fn repeat(
    kind: &Kind,
    directory: &Path,
    operation: Operation,
    times: u64,
) -> Result<(), Failure> {
    const PAYLOAD_BYTES: usize = 100;
    let directory = &directory.join(kind.name);
    std::fs::create_dir(directory)?;
    let consumers = usize::from(operation == Operation::Ack);
    let setup = Setup { directory, mode: Mode::Durable, topics: 1, threads: 1, consumers };
    let peer = (kind.open)(&setup)?;
    if operation == Operation::Ack {
        // One more than are acknowledged, however often: the last one may be a special case.
        sides::fill(peer.as_ref(), PAYLOAD_BYTES, 0..count::TIMES_MAX + 1)?;
    }
    for time in 0..times {
        let payloads = |each| sides::payloads(PAYLOAD_BYTES, 0, time * each..(time + 1) * each);
        match operation {
            Operation::Append => peer.append(0, 0, &payloads(1)[0])?,
            Operation::Batch => peer.append_batch(0, 0, &payloads(BATCH_RECORDS as u64))?,
            Operation::Ack if peer.consume(0, 1, &mut |_| ())? == 1 => {}
            Operation::Ack => return Err(format!("acknowledged only {time}").into()),
        }
    }
    Ok(())
}

/// The workload with this name.
pub(crate) fn workload(name: &str) -> Result<Workload, Failure> {
    let found = workload::all().into_iter().find(|workload| workload.name() == name);
    found.ok_or_else(|| format!("there is no workload {name:?}").into())
}

/// What was measured as text. A line for each turn: side, round, records, nanoseconds. And one for
/// each latency that was met: the same, then how often.
pub(crate) fn encode(sides: &Sides) -> String {
    let mut text = String::new();
    for (side, measured) in sides.iter().enumerate() {
        for (round, turns) in measured.rounds.iter().enumerate() {
            for turn in turns {
                let nanoseconds = turn.elapsed.as_nanos();
                writeln!(text, "turn {side} {round} {} {nanoseconds}", turn.records)
                    .expect("a string takes text");
            }
        }
        for (round, latencies) in measured.latencies.iter().enumerate() {
            for met in latencies.iter_recorded() {
                let (nanoseconds, count) = (met.value_iterated_to(), met.count_at_value());
                writeln!(text, "latency {side} {round} {nanoseconds} {count}")
                    .expect("a string takes text");
            }
        }
    }
    text
}

/// What [`encode`] made.
pub(crate) fn decode(text: &str) -> Result<Sides, Failure> {
    let mut sides = Sides::new();
    for line in text.lines() {
        let strange = || format!("a line of a child reads {line:?}");
        let (what, fields) = line.split_once(' ').ok_or_else(strange)?;
        let fields: Vec<u64> = fields.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [side, round, first, second] = fields[..] else { return Err(strange().into()) };
        let (side, round) = (usize::try_from(side)?, usize::try_from(round)?);
        // Both come in order, from 0.
        if side >= sides.len() {
            sides.push(Measured { rounds: Vec::new(), latencies: Vec::new() });
        }
        let measured = sides.get_mut(side).ok_or("a child left out a side")?;
        if round >= measured.rounds.len() {
            measured.rounds.push(Vec::new());
            measured.latencies.push(measure::no_latencies());
        }
        let turns = measured.rounds.get_mut(round).ok_or("a child left out a round")?;
        match what {
            "turn" => {
                let elapsed = Duration::from_nanos(second);
                turns.push(Turn { records: first, elapsed, ..Turn::default() });
            }
            "latency" => {
                let count = u32::try_from(second)?;
                measured.latencies[round].saturating_record_n(first, count);
            }
            _ => return Err(strange().into()),
        }
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_measured_is_read_as_it_was() {
        let turn = |records| {
            let elapsed = Duration::from_millis(records);
            vec![Turn { records, elapsed, ..Turn::default() }]
        };
        let side = |first: u64| {
            let mut latencies = vec![measure::no_latencies(), measure::no_latencies()];
            latencies[1].saturating_record_n(1000 * first, 7);
            Measured { rounds: vec![turn(first), turn(first + 1)], latencies }
        };
        let text = encode(&vec![side(1), side(5)]);
        let sides = decode(&text).expect("it was encoded");
        assert_eq!(encode(&sides), text);
        assert_eq!((sides.len(), sides[1].rounds[1][0].records), (2, 6));
        assert_eq!(sides[1].latencies[1].len(), 7);
    }
}
