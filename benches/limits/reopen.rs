//! How long it takes to open a log that was closed, or whose process was killed.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use ackline::{Ending, Log, Offset, Topic};

use crate::measure::{read_stamp, spread, stamp};
use crate::queue::{kept, stamped};
use crate::raw::FILE_BYTES;
use crate::report::Row;
use crate::{Bar, Bench, run_as};

/// What is aimed at: milliseconds, and times as long as reading one segment.
const BAR_CLOSED: Bar = Bar::AtMost(5.0);
const BAR_KILLED: Bar = Bar::AtMost(2.0);

const PAYLOAD_BYTES: usize = 1024;
const BATCH_RECORDS: u64 = 1024;
/// How often a closed log is opened for each round.
const OPENS: usize = 4;
/// How many messages at the end are read back.
const READ_BACK: u64 = 10_000;
/// What a process appends before it is killed, at least.
const KILLED_BYTES: u64 = 48 * 1024 * 1024;

/// How much of the newest segment is used when a process is killed.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    Nearly,
    Little,
}

/// Each size of backlog, after a clean close and after a kill.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let all = [(64 << 20, "64 MiB"), (1 << 30, "1 GiB"), (10 << 30, "10 GiB")];
    let sizes = if bench.arguments.is_large { &all[..] } else { &all[..1] };
    for (bytes, size) in sizes {
        let closed = format!("reopen, clean close, {size}, ms");
        let killed = format!("reopen after a kill, {size}");
        let early = format!("reopen after a kill, early in a segment, {size}, ms");
        if ![&closed, &killed, &early].into_iter().any(|name| bench.wants(name)) {
            continue;
        }
        let directory = bench.new_directory()?;
        let log = kept().open(directory.path())?;
        let topic = log.topic("measured")?;
        while log.stats().written.0 < *bytes {
            append_some(&topic)?;
        }
        log.close()?;
        if bench.wants(&closed) {
            let times = after_close(directory.path(), bench.arguments.plan.rounds * OPENS)?;
            let row = Row::figure(&closed, "a millisecond", BAR_CLOSED, spread(times.into_iter()));
            bench.push(row);
        }
        if bench.wants(&killed) {
            let times = after_kills(directory.path(), bench.arguments.plan.rounds, Fill::Nearly)?;
            let ratio = spread(times.iter().map(|(ours, theirs)| ours / theirs));
            bench.push(Row::figure(&killed, "reading the newest segment", BAR_KILLED, ratio));
            let ours = spread(times.iter().map(|(ours, _)| *ours));
            let name = format!("{killed}, ms");
            bench.push(Row::figure(&name, "a millisecond", Bar::None, ours));
        }
        if bench.wants(&early) {
            let times = after_kills(directory.path(), bench.arguments.plan.rounds, Fill::Little)?;
            let ours = spread(times.iter().map(|(ours, _)| *ours));
            bench.push(Row::figure(&early, "a millisecond", Bar::None, ours));
        }
    }
    Ok(())
}

/// Appends a batch of messages whose numbers are their offsets.
fn append_some(topic: &Topic) -> ackline::Result<()> {
    let next = topic.offsets().end.0;
    topic.append_batch(stamped(next..next + BATCH_RECORDS, PAYLOAD_BYTES))?;
    Ok(())
}

/// Opens a log; returns the milliseconds, too.
fn timed_open(directory: &Path) -> ackline::Result<(Log, f64)> {
    let start = Instant::now();
    let log = kept().open(directory)?;
    Ok((log, start.elapsed().as_secs_f64() * 1000.0))
}

/// The milliseconds of each opening of a log that was closed in between.
fn after_close(directory: &Path, opens: usize) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..opens {
        let (log, time) = timed_open(directory)?;
        check(&log, Ending::Closed, 0)?;
        times.push(time);
        append_some(&log.topic("measured")?)?;
        log.close()?;
    }
    Ok(times)
}

/// The milliseconds of opening a log after each kill, and of reading its newest segment.
fn after_kills(
    directory: &Path,
    kills: usize,
    fill: Fill,
) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
    let mut times = Vec::new();
    for kill in 0..kills {
        let acknowledged = fill_and_kill(directory, fill)?;
        let (path, _) = newest_segment(directory)?;
        let mut segment = File::open(path)?;
        // Which one comes first may matter to the caches of the processor.
        let first = if kill % 2 == 0 { Some(timed_read(&mut segment)?) } else { None };
        let (log, ours) = timed_open(directory)?;
        let theirs = match first {
            Some(time) => time,
            None => timed_read(&mut segment)?,
        };
        check(&log, Ending::Unclean, acknowledged)?;
        times.push((ours, theirs));
        log.close()?;
    }
    Ok(times)
}

/// The messages at the end are there and whole.
fn check(log: &Log, ending: Ending, acknowledged: u64) -> Result<(), Box<dyn Error>> {
    let topic = log.topic("measured")?;
    let end = topic.offsets().end.0;
    if log.report().ending != ending || end < acknowledged {
        return Err(format!("{:?}: {end} of {acknowledged} messages", log.report().ending).into());
    }
    let from = end.saturating_sub(READ_BACK);
    for (number, message) in (from..end).zip(topic.read_from(Offset(from))?) {
        if read_stamp(message?.payload()) != Some((0, number)) {
            return Err(format!("message {number} is altered").into());
        }
    }
    Ok(())
}

fn timed_read(file: &mut File) -> std::io::Result<f64> {
    let mut bytes = vec![0; 1024 * 1024];
    let start = Instant::now();
    while file.read(&mut bytes)? > 0 {}
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// The last segment of a log, and the position at which it begins.
fn newest_segment(directory: &Path) -> Result<(PathBuf, u64), Box<dyn Error>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            segments.push(path);
        }
    }
    let newest = segments.into_iter().max().ok_or("a log has a segment")?;
    let base = newest.file_stem().ok_or("a segment has a name")?.to_string_lossy().parse()?;
    Ok((newest, base))
}

/// Lets a process append to the log and kills it in the middle; returns how many messages were
/// acknowledged to it.
fn fill_and_kill(directory: &Path, fill: Fill) -> Result<u64, Box<dyn Error>> {
    let role = match fill {
        Fill::Nearly => "--fill-nearly",
        Fill::Little => "--fill-little",
    };
    let mut process = run_as(role, directory)?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = process.stdout.take().ok_or("no output")?;
    let read = BufReader::new(output).read_line(&mut line);
    process.kill()?;
    process.wait()?;
    read?;
    Ok(line.trim().parse()?)
}

/// What the process does that is killed: it uses as much of a segment, tells so, and goes on.
pub(crate) fn fill(directory: &Path, fill: Fill) -> Result<(), Box<dyn Error>> {
    let log = kept().open(directory)?;
    let topic = log.topic("measured")?;
    let begin = log.stats().written.0;
    loop {
        append_some(&topic)?;
        let written = log.stats().written.0;
        let (newest, base) = newest_segment(directory)?;
        let bytes = newest.metadata()?.len();
        let is_used = match fill {
            Fill::Nearly => written - base >= bytes / 16 * 15,
            Fill::Little => written - base <= bytes / 16,
        };
        // Segments begin small in a new log; the largest have most to read, or most to free.
        if written - begin >= KILLED_BYTES && bytes >= FILE_BYTES as u64 && is_used {
            break;
        }
    }
    let (mut payload, mut next) = (vec![0; PAYLOAD_BYTES], topic.offsets().end.0);
    println!("{next}");
    loop {
        stamp(&mut payload, 0, next);
        next = topic.append(payload.as_slice())?.offset.0 + 1;
    }
}
