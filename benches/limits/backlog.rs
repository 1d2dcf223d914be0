//! What a process holds in memory while messages wait on the disk.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use ackline::Offset;

use crate::measure::{number, read_stamp, spread};
use crate::process::anonymous_bytes;
use crate::queue::{kept, stamped};
use crate::report::Row;
use crate::{Bar, Bench, run_as};

/// What is aimed at, in MiB.
const BAR_HELD: Bar = Bar::AtMost(64.0);

const MESSAGES: u64 = 2_000_000;
const MESSAGES_LARGE: u64 = 100_000_000;
const PAYLOAD_BYTES: usize = 100;
const BATCH_RECORDS: u64 = 10_000;

/// A backlog of which a slow group takes one message in ten thousand.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let large = bench.arguments.is_large.then_some(MESSAGES_LARGE);
    for messages in [Some(MESSAGES), large].into_iter().flatten() {
        let name = format!("memory, backlog of {} M messages, MiB", messages / 1_000_000);
        if !bench.wants(&name) {
            continue;
        }
        let directory = bench.new_directory()?;
        // In a process of its own, where no other row has left anything.
        let mut process = run_as("--hold", directory.path())?;
        let output = process.arg(messages.to_string()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let bytes: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
        let held = spread(std::iter::once(number(bytes) / (1024.0 * 1024.0)));
        bench.push(Row::figure(&name, "a MiB, apart from maps of files", BAR_HELD, held));
    }
    Ok(())
}

/// What that process does: it tells how many bytes it held at most above what it began with.
pub(crate) fn hold(directory: &Path, messages: u64) -> Result<(), Box<dyn Error>> {
    let (before, mut most) = (anonymous_bytes(), 0);
    let log = kept().open(directory)?;
    let topic = log.topic("measured")?;
    let group = topic.group("slow")?;
    for first in (0..messages).step_by(usize::try_from(BATCH_RECORDS)?) {
        topic.append_batch(stamped(first..first + BATCH_RECORDS, PAYLOAD_BYTES))?;
        for message in group.poll(1, Duration::ZERO)? {
            message.ack()?;
        }
        most = most.max(anonymous_bytes());
    }
    let expected = messages - messages / BATCH_RECORDS;
    let found = group.lag()?.messages;
    if found != expected {
        return Err(format!("{found} messages wait, expected {expected}").into());
    }
    let from = messages - BATCH_RECORDS;
    for (number, message) in (from..messages).zip(topic.read_from(Offset(from))?) {
        if read_stamp(message?.payload()) != Some((0, number)) {
            return Err(format!("message {number} is altered").into());
        }
    }
    println!("{}", most.saturating_sub(before));
    Ok(())
}
