//! What a second copy in another process costs, over TCP on this machine: the log with a follower
//! against the same writes and syncs without a log, and against the log alone. In short turns, so
//! that whatever else the machine does harms all sides.
//!
//! `cargo bench --bench replication` takes about two minutes. Behind a `--`:
//!
//! - `--seconds 1.4` for each side of each round, `--rounds 5`;
//! - `--only one` or `--only many` for one of the two comparisons;
//! - `--dir DIRECTORY` to measure another file system than the one with the build directory;
//! - `--other-dir DIRECTORY` for what the other process writes, so that each has a disk of its own;
//! - `--other-pause 100` to let each sync of the other process take so many microseconds longer. With
//!   a directory in memory, that is a second disk where there is none;
//! - `--cores 1,0` for the processors that this process and the other ones run on, `--cores any` to
//!   leave it to the system.
//!
//! Unless told otherwise, each process is kept on one processor, as a leader and its follower on two
//! machines have one each, be it a raw one or a log; `taskset` sees to that, of util-linux. This process
//! is kept on 1, where the disk's interrupts arrive on the machine that was measured: see
//! `/proc/interrupts`, and `docs/replication.md` for what the other way round makes of it.
//!
//! Both processes share one disk unless the options say otherwise. `both` is what is left of the ideal
//! then: a raw write to each of the two files, synced at the same time.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]
#![allow(clippy::disallowed_methods, reason = "it measures real time on real files")]

#[path = "limits/measure.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod measure;
#[path = "replication/partner.rs"]
mod partner;
#[path = "limits/process.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod process;
#[path = "limits/queue.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod queue;
#[path = "limits/raw.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod raw;
#[path = "../examples/replicated_tcp/tcp.rs"]
mod tcp;

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ackline::{Epoch, Log, Topic};

use measure::{Plan, Side, Spread, Turn, spread};
use partner::{Partner, Remote, Way};
use process::Disk;
use queue::{Queue, Submits};
use raw::Raw;
use tcp::Network;

const PAYLOAD_BYTES: usize = 100;
/// An entry with one such record: 28 bytes and the payload.
const ENTRY_BYTES: usize = 128;
/// A frame with one such entry, and a header of 64 bytes.
const FRAME_BYTES: usize = 64 + ENTRY_BYTES;
const IN_FLIGHT: usize = 256;

/// What is aimed at.
const COST_MAX: f64 = 1.3;
const RATE_MIN: f64 = 0.7;

struct Arguments {
    plan: Plan,
    only: String,
    directory: PathBuf,
    /// Where the other process writes, and how much longer its syncs take.
    other: PathBuf,
    pause: Duration,
    /// The processors of this process and of the others; any, if there are none.
    cores: Option<[usize; 2]>,
    /// What this process is for, if it was started by another one.
    role: Option<Role>,
}

enum Role {
    Follow(Vec<SocketAddr>),
    Write(usize),
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { plan, only, directory, other, pause, cores, role } = parse_arguments()?;
    match role {
        Some(Role::Follow(addresses)) => return partner::follow(&directory, &addresses, pause),
        Some(Role::Write(bytes)) => return partner::write_and_sync(&directory, bytes, pause),
        None => {}
    }
    let (directory, other) = (tempfile::tempdir_in(directory)?, tempfile::tempdir_in(other)?);
    let core = cores.map(|[own, other]| stay_on(own).map(|()| other)).transpose()?;
    let places = Places { own: directory.path(), other: other.path(), pause, core };
    // Where others are at work, only the ratios mean something.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.split(' ').next().unwrap_or("unknown"));
    println!("each side {:?} in each of {} rounds, in turns", plan.time, plan.rounds);
    println!("{}", places.describe()?);
    match cores {
        Some([own, other]) => println!("this process on processor {own}, the other on {other}"),
        None => println!("both processes where the system puts them"),
    }
    if !pause.is_zero() {
        println!(
            "each sync of the other process takes {pause:?} longer, or what the timer makes of it"
        );
    }
    let leader = Leader::start(&places)?;
    if "one".contains(&only) {
        one_at_a_time(&leader, &places, &plan)?;
    }
    if "many".contains(&only) {
        many_in_flight(&leader, &places, &plan)?;
    }
    leader.check()
}

/// Where each of the two processes writes.
struct Places<'a> {
    own: &'a Path,
    other: &'a Path,
    pause: Duration,
    /// The processor of the other process, if it is to have one.
    core: Option<usize>,
}

/// Keeps this process on one processor, with all threads that it starts from now on.
fn stay_on(core: usize) -> Result<(), Box<dyn Error>> {
    let (core, id) = (core.to_string(), std::process::id().to_string());
    let done = Command::new("taskset").args(["-p", "-c", &core, &id]).output();
    let done = done.map_err(|e| format!("cannot run taskset: {e}; --cores any does without"))?;
    if done.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("cannot stay on processor {core}: {reason}; --cores any does without").into())
}

impl Places<'_> {
    fn describe(&self) -> std::io::Result<&'static str> {
        let same = std::fs::metadata(self.own)?.dev() == std::fs::metadata(self.other)?.dev();
        Ok(if same { "both processes sync on one file system" } else { "a file system for each" })
    }
}

fn parse_arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::prelude::*;
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (time, disk) = (Duration::from_millis(1400), Disk::default());
    let plan = Plan { time, rounds: 5, disk, unsynced: None };
    let other = PathBuf::new();
    let (only, pause, cores) = (String::new(), Duration::ZERO, Some([1, 0]));
    let mut parsed = Arguments { plan, only, directory, other, pause, cores, role: None };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => {
                parsed.plan.time = Duration::try_from_secs_f64(parser.value()?.parse()?)?;
            }
            Long("rounds") => parsed.plan.rounds = parser.value()?.parse()?,
            Long("only") => parsed.only = parser.value()?.string()?,
            Long("dir") => parsed.directory = parser.value()?.into(),
            Long("other-dir") => parsed.other = parser.value()?.into(),
            Long("other-pause") => {
                parsed.pause = Duration::from_micros(parser.value()?.parse()?);
            }
            Long("cores") => parsed.cores = parse_cores(&parser.value()?.string()?)?,
            Long("follow") => {
                let list = parser.value()?.string()?;
                let addresses = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                parsed.role = Some(Role::Follow(addresses));
            }
            Long("write") => parsed.role = Some(Role::Write(parser.value()?.parse()?)),
            // Cargo passes it to every benchmark.
            Long("bench") => {}
            other => return Err(other.unexpected().into()),
        }
    }
    if parsed.other.as_os_str().is_empty() {
        parsed.other.clone_from(&parsed.directory);
    }
    std::fs::create_dir_all(&parsed.directory)?;
    std::fs::create_dir_all(&parsed.other)?;
    Ok(parsed)
}

fn parse_cores(text: &str) -> Result<Option<[usize; 2]>, Box<dyn Error>> {
    if text == "any" {
        return Ok(None);
    }
    let (own, other) = text.split_once(',').ok_or("--cores takes two numbers, as 1,0, or any")?;
    let (own, other) = (own.parse()?, other.parse()?);
    if own == other {
        return Err("--cores takes two different processors".into());
    }
    Ok(Some([own, other]))
}

/// A log in this process with a follower in another one, both of whose copies are needed.
struct Leader {
    log: Log,
    _follower: Partner,
}

impl Leader {
    fn start(places: &Places<'_>) -> Result<Self, Box<dyn Error>> {
        // Nobody else takes the ports in between, or this fails.
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        let addresses = [free()?, free()?];
        let list = addresses.map(|address| address.to_string()).join(",");
        let follower = Partner::start("--follow", places, &list)?;
        let network = Network::new(0, &addresses);
        let (log, quorum) = partner::open(&places.own.join("leader"), &network, Duration::ZERO)?;
        quorum.promote(Epoch(1), Duration::from_secs(5))?;
        while !quorum.peers().iter().all(|peer| peer.in_sync) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { log, _follower: follower })
    }

    fn topic(&self, name: &str) -> Result<(Log, Topic), Box<dyn Error>> {
        Ok((self.log.clone(), self.log.topic(name)?))
    }

    /// All that was written has come to the other disk.
    fn check(&self) -> Result<(), Box<dyn Error>> {
        self.log.sync()?;
        let stats = self.log.stats();
        let all = stats.replicated == Some(stats.written);
        if all { Ok(()) } else { Err("the follower lacks records".into()) }
    }
}

fn one_at_a_time(leader: &Leader, places: &Places<'_>, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let local = Raw::new(places.own, PAYLOAD_BYTES, 1, FRAME_BYTES)?;
    let round_trip = Remote::new(Way::RoundTrip, places, FRAME_BYTES)?;
    let remote = Remote::new(Way::Remote, places, FRAME_BYTES)?;
    let both = Remote::new(Way::Both, places, FRAME_BYTES)?;
    let (log, topic) = leader.topic("one")?;
    let ours = Queue::on(log, topic, PAYLOAD_BYTES);
    let sides: [&dyn Side; 5] = [&local, &round_trip, &remote, &both, &ours];
    let measured = rounds(&sides, 1, plan)?;
    println!("\none append at a time, {PAYLOAD_BYTES} B, microseconds each:");
    let names = [
        "local pwrite + fdatasync",
        "round trip over TCP",
        "follower's pwrite + fdatasync + round trip",
        "both at the same time",
        "append with a follower",
    ];
    for (name, rounds) in names.iter().zip(&measured) {
        println!("  {name:<44} {}", shown(per_round(rounds, cost), 1.0));
    }
    let [local, _, remote, both, ours] = &measured[..] else { return Err("five sides".into()) };
    let slower = |i: usize, j: usize| cost(&local[i][j]).max(cost(&remote[i][j]));
    let ratio = ratios(ours, |turn, i, j| cost(turn) / slower(i, j));
    let ideal = ratios(ours, |turn, i, j| cost(turn) / cost(&both[i][j]));
    verdict(
        "append / max(local, follower + round trip)",
        ratio,
        ratio.median <= COST_MAX,
        COST_MAX,
    );
    let limit = ratios(both, |turn, i, j| cost(turn) / slower(i, j));
    println!("  {:<44} {}", "append / both at the same time", shown(ideal, 0.01));
    println!("  {:<44} {}", "both at the same time / that max", shown(limit, 0.01));
    Ok(())
}

fn many_in_flight(leader: &Leader, places: &Places<'_>, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let directory = places.own;
    raw_batches(places, plan)?;
    let alone = Submits::new(directory, PAYLOAD_BYTES, IN_FLIGHT)?;
    let (log, topic) = leader.topic("many")?;
    let ours = Submits::on(Queue::on(log, topic, PAYLOAD_BYTES), IN_FLIGHT);
    compare("one thread", &alone, &ours, 1, plan)?;
    let alone = Queue::new(directory, PAYLOAD_BYTES)?;
    let (log, topic) = leader.topic("threads")?;
    let ours = Queue::on(log, topic, PAYLOAD_BYTES);
    compare("a thread each", &alone, &ours, IN_FLIGHT, plan)
}

/// What a second copy costs raw writes of half of what is in flight, the other half being queued
/// meanwhile: what the disks and the processors leave.
fn raw_batches(places: &Places<'_>, plan: &Plan) -> Result<(), Box<dyn Error>> {
    const RECORDS: usize = IN_FLIGHT / 2;
    let batch_bytes = RECORDS * ENTRY_BYTES;
    let alone = Raw::new(places.own, PAYLOAD_BYTES, 1, batch_bytes)?;
    let both = Remote::new(Way::Both, places, batch_bytes)?;
    let measured = rounds(&[&alone, &both], 1, plan)?;
    println!("\n{batch_bytes} B at a time, raw, microseconds each:");
    let [alone, both] = &measured[..] else { return Err("two sides".into()) };
    println!("  {:<44} {}", "local pwrite + fdatasync", shown(per_round(alone, cost), 1.0));
    println!("  {:<44} {}", "both at the same time", shown(per_round(both, cost), 1.0));
    let limit = ratios(both, |turn, i, j| cost(&alone[i][j]) / cost(turn));
    println!("  {:<44} {}", "rate of both / local", shown(limit, 0.01));
    Ok(())
}

fn compare(
    how: &str,
    alone: &dyn Side,
    ours: &dyn Side,
    threads: usize,
    plan: &Plan,
) -> Result<(), Box<dyn Error>> {
    let measured = rounds(&[alone, ours], threads, plan)?;
    println!("\n{IN_FLIGHT} in flight, {how}, {PAYLOAD_BYTES} B, records/s:");
    let [alone, ours] = &measured[..] else { return Err("two sides".into()) };
    for (name, rounds) in [("without a replicator", alone), ("with a follower", ours)] {
        println!("  {name:<44} {}", shown(per_round(rounds, Turn::per_second), 1.0));
        println!(
            "  {:<44} {}",
            "  records per sync",
            shown(per_round(rounds, Turn::per_sync), 1.0)
        );
    }
    let ratio = ratios(ours, |turn, i, j| turn.per_second() / alone[i][j].per_second());
    verdict("with / without", ratio, ratio.median >= RATE_MIN, RATE_MIN);
    Ok(())
}

/// The rounds of each side.
fn rounds(
    sides: &[&dyn Side],
    threads: usize,
    plan: &Plan,
) -> Result<Vec<Vec<Vec<Turn>>>, Box<dyn Error>> {
    let measured = measure::in_turns(sides, threads, PAYLOAD_BYTES, plan)?;
    Ok(measured.into_iter().map(|side| side.rounds).collect())
}

/// Microseconds for each record.
fn cost(turn: &Turn) -> f64 {
    1e6 / turn.per_second()
}

/// The spread over the rounds; each counts with the median of its turns.
fn per_round(rounds: &[Vec<Turn>], figure: impl Fn(&Turn) -> f64) -> Spread {
    spread(rounds.iter().map(|round| spread(round.iter().map(&figure)).median))
}

/// The same of a ratio with the turns of other sides, by the numbers of the round and the turn.
fn ratios(rounds: &[Vec<Turn>], ratio: impl Fn(&Turn, usize, usize) -> f64) -> Spread {
    spread(rounds.iter().enumerate().map(|(i, round)| {
        spread(round.iter().enumerate().map(|(j, turn)| ratio(turn, i, j))).median
    }))
}

fn shown(Spread { min, median, max }: Spread, unit: f64) -> String {
    let digits = if unit < 1.0 { 2 } else { 0 };
    format!("median {median:>8.digits$}   min {min:>8.digits$}   max {max:>8.digits$}")
}

fn verdict(name: &str, ratio: Spread, is_met: bool, bar: f64) {
    let met = if is_met { "met" } else { "NOT MET" };
    println!("  {name:<44} {}   bar {bar:.2} {met}", shown(ratio, 0.01));
}
