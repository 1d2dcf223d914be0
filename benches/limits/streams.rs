//! Records that are written: one at a time, by many threads, and with many under way.

use std::error::Error;

use ackline::SyncPolicy;

use crate::calls::Calls;
use crate::growing::Growing;
use crate::ideal::{Design, Ideal};
use crate::mapped::Copies;
use crate::measure::{self, Plan, Side};
use crate::process::Disk;
use crate::queue::{Batches, Queue, Submits};
use crate::raw::{Blocks, Raw};
use crate::report::Row;
use crate::{Bar, Bench, Comparison, FRAME_HEADER_BYTES, entry_bytes};

/// What is aimed at.
const BAR_ONE_THREAD: Bar = Bar::AtLeast(0.97);
const BAR_MANY_THREADS: Bar = Bar::AtLeast(0.90);
const BAR_SUBMIT_100_B: Bar = Bar::AtLeast(0.97);
const BAR_SUBMIT_1_KIB: Bar = Bar::AtLeast(0.95);
const BAR_UNSYNCED_APPEND: Bar = Bar::AtLeast(0.90);
const BAR_UNSYNCED_SUBMIT_100_B: Bar = Bar::AtLeast(0.35);
const BAR_UNSYNCED_SUBMIT_1_KIB: Bar = Bar::AtLeast(0.60);
const BAR_FRAME_BYTES: Bar = Bar::AtMost(1.35);
const BAR_SENT_BYTES: Bar = Bar::AtMost(1.2);

/// The records of one batch of 1 MiB.
const BATCH_RECORDS: usize = 1024;
/// How many records are under way where nothing waits for a disk.
const UNSYNCED_IN_FLIGHT: usize = 1024;

/// What is measured beside a limit.
const GROWING: &str = "files that grow";
const CALLS: &str = "the least of such calls";

/// As many bytes as our frame with these records.
fn frame_bytes(payload_bytes: usize, records: usize) -> usize {
    FRAME_HEADER_BYTES + records * entry_bytes(payload_bytes)
}

/// The blocks with which writes of such a size are the fastest, all in all; see `src/commit/blocks.rs`.
fn blocks_for(write_bytes: usize, policy: SyncPolicy) -> Blocks {
    let is_synced = policy == SyncPolicy::default();
    let large = if is_synced { 256 * 1024 } else { 16 * 1024 };
    if write_bytes < large { Blocks::Filled } else { Blocks::Reserved }
}

/// A limit of one thread that writes such frames and syncs each.
fn synced(bytes: usize) -> String {
    format!("pwrite of {bytes} B + fdatasync")
}

/// One thread that waits for each record.
pub(crate) fn single_rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for payload_bytes in [100, 1024] {
        let frame = frame_bytes(payload_bytes, 1);
        let comparison = Comparison {
            name: format!("append, 1 thread, {payload_bytes} B"),
            against: synced(frame),
            bar: BAR_ONE_THREAD,
            threads: 1,
            payload_bytes,
        };
        bench.compare_with(&comparison, GROWING, |directory| {
            let raw = Raw::new(directory, payload_bytes, 1, frame)?;
            let growing = Growing::new(directory, payload_bytes, 1, (frame, Blocks::Filled))?;
            Ok((raw, growing, Queue::new(directory, payload_bytes)?))
        })?;
    }
    Ok(())
}

/// Many threads that wait for each record.
pub(crate) fn group_commit_rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for threads in [16, 64, 256] {
        let mut fastest = None;
        for payload_bytes in [100, 1024] {
            let name = format!("append, {threads} threads, {payload_bytes} B");
            if !bench.wants(&name) {
                continue;
            }
            let design = match fastest {
                Some(design) => design,
                None => *fastest.insert(fastest_design(bench, threads)?),
            };
            let bar = match (threads, payload_bytes) {
                (16, 100) | (64, _) => BAR_MANY_THREADS,
                _ => Bar::None,
            };
            let against = format!("ideal group commit ({design})");
            let comparison = Comparison { name, against, bar, threads, payload_bytes };
            bench.compare(&comparison, |directory| {
                let ideal = Ideal::new(directory, payload_bytes, threads, design)?;
                Ok((ideal, Queue::new(directory, payload_bytes)?))
            })?;
            if (threads, payload_bytes) == (16, 100) {
                bench.add_frame_bytes(&comparison.name, BAR_FRAME_BYTES);
            }
        }
    }
    Ok(())
}

/// The design of the ideal that is the fastest here and now, by the median of three tries.
pub(crate) fn fastest_design(bench: &Bench, threads: usize) -> Result<Design, Box<dyn Error>> {
    const PAYLOAD_BYTES: usize = 100;
    if let Some(chosen) = bench.arguments.design {
        return Design::all().nth(chosen).ok_or("there is no such design".into());
    }
    let directory = bench.new_directory()?;
    let disk = Disk::of(directory.path())?;
    let plan = Plan { time: bench.arguments.plan.time / 2, rounds: 3, disk, unsynced: None };
    let mut tried = Vec::new();
    for design in Design::all() {
        tried.push((design, Ideal::new(directory.path(), PAYLOAD_BYTES, threads, design)?));
    }
    let sides: Vec<&dyn Side> = tried.iter().map(|(_, ideal)| ideal as &dyn Side).collect();
    let measured = measure::in_turns(&sides, threads, PAYLOAD_BYTES, &plan)?;
    println!("\ndesigns of the ideal, {threads} threads, {PAYLOAD_BYTES} B:");
    let mut fastest = (0.0, tried[0].0);
    for ((design, _), measured) in tried.iter().zip(&measured) {
        let median = |figure: fn(&measure::Round) -> f64| {
            measure::spread(measured.rounds.iter().map(|round| figure(round))).median
        };
        let (rate, each) = (median(measure::per_second), median(measure::per_sync));
        println!("  {rate:>9.0} records/s, {each:>5.1} per fsync: {design}");
        if rate > fastest.0 {
            fastest = (rate, *design);
        }
    }
    Ok(fastest.1)
}

/// One thread with many records under way, or with a batch.
pub(crate) fn pipelined_rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for (in_flight, payload_bytes, bar) in [
        (128, 100, BAR_SUBMIT_100_B),
        (128, 1024, BAR_SUBMIT_1_KIB),
        (1024, 100, Bar::None),
        (1024, 1024, Bar::None),
    ] {
        let write = frame_bytes(payload_bytes, in_flight);
        let comparison = Comparison {
            name: format!("submit, {in_flight} in flight, {payload_bytes} B"),
            against: synced(write),
            bar,
            threads: 1,
            payload_bytes,
        };
        bench.compare_with(&comparison, CALLS, |directory| {
            let raw = Raw::new(directory, payload_bytes, in_flight, write)?;
            let blocks = blocks_for(write, SyncPolicy::default());
            let calls = Calls::new(directory, payload_bytes, in_flight, blocks)?;
            Ok((raw, calls, Submits::new(directory, payload_bytes, in_flight)?))
        })?;
    }
    let (payload_bytes, name) = (1024, "append_batch, 1 MiB of 1 KiB".to_owned());
    let write = frame_bytes(payload_bytes, BATCH_RECORDS);
    let against = synced(write);
    let comparison = Comparison { name, against, bar: Bar::None, threads: 1, payload_bytes };
    bench.compare_with(&comparison, GROWING, |directory| {
        let raw = Raw::new(directory, payload_bytes, BATCH_RECORDS, write)?;
        let blocks = blocks_for(write, SyncPolicy::default());
        let growing = Growing::new(directory, payload_bytes, BATCH_RECORDS, (write, blocks))?;
        Ok((raw, growing, Batches::new(directory, payload_bytes, BATCH_RECORDS)?))
    })?;
    sent_bytes_row(bench)
}

/// What batches send to the disk. By themselves: segments are prepared in the background, also while
/// another side has its turn.
fn sent_bytes_row(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let (payload_bytes, name) = (1024, "append_batch, 1 MiB of 1 KiB: sent");
    if !bench.wants(name) {
        return Ok(());
    }
    let directory = bench.new_directory()?;
    let batches = Batches::new(directory.path(), payload_bytes, BATCH_RECORDS)?;
    let measured = measure::in_turns(&[&batches], 1, payload_bytes, &bench.arguments.plan)?;
    let sent = measured[0].per_payload_byte(payload_bytes, |turn| turn.sent_bytes);
    bench.push(Row::figure(name, "payload bytes", BAR_SENT_BYTES, sent));
    drop(batches);
    bench.clear(directory)
}

/// One thread under the policies that do not sync each commit.
pub(crate) fn unsynced_rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    bench.arguments.plan.unsynced = Some(bench.directory.clone());
    let compared = compare_unsynced(bench);
    bench.arguments.plan.unsynced = None;
    compared
}

fn compare_unsynced(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for (policy, policy_name) in
        [(SyncPolicy::Never, "Never"), (SyncPolicy::interval(), "Interval")]
    {
        for payload_bytes in [100, 1024] {
            let is_never = policy == SyncPolicy::Never;
            let bar = |bar| if is_never { bar } else { Bar::None };
            let frame = frame_bytes(payload_bytes, 1);
            let comparison = Comparison {
                name: format!("append, {policy_name}, {payload_bytes} B"),
                against: format!("pwrite of {frame} B"),
                bar: if payload_bytes == 100 { bar(BAR_UNSYNCED_APPEND) } else { Bar::None },
                threads: 1,
                payload_bytes,
            };
            let queue = |directory: &_| Queue::with_policy(directory, payload_bytes, policy);
            bench.compare_with(&comparison, CALLS, |directory| {
                let raw = Raw::new(directory, payload_bytes, 1, frame)?;
                let calls = Calls::new(directory, payload_bytes, 1, blocks_for(frame, policy))?;
                Ok((raw.without_syncs(), calls.without_syncs(), queue(directory)?))
            })?;
            let of_submit = [BAR_UNSYNCED_SUBMIT_100_B, BAR_UNSYNCED_SUBMIT_1_KIB];
            let comparison = Comparison {
                name: format!("submit, {policy_name}, {payload_bytes} B"),
                against: "memcpy + crc32 into mapped memory".to_owned(),
                bar: bar(of_submit[usize::from(payload_bytes != 100)]),
                ..comparison
            };
            bench.compare_with(&comparison, CALLS, |directory| {
                let copies = Copies::new(directory, payload_bytes)?;
                let write = frame_bytes(payload_bytes, UNSYNCED_IN_FLIGHT);
                let blocks = blocks_for(write, policy);
                let calls = Calls::new(directory, payload_bytes, UNSYNCED_IN_FLIGHT, blocks)?;
                Ok((
                    copies,
                    calls.without_syncs(),
                    Submits::on(queue(directory)?, UNSYNCED_IN_FLIGHT),
                ))
            })?;
        }
    }
    Ok(())
}
