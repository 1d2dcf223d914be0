//! Two or more nodes, each a process with its own directory, that hold the same queue over TCP,
//! and are killed in turn.
//!
//! ```text
//! cargo run --release --example replicated_tcp [-- --kills 20] [--nodes 3]
//! ```
//!
//! 1. The supervisor, which is this process, starts the nodes and makes one of them the leader.
//!    Four producers append on the leader, and a consumer works off what they append. An append
//!    is answered once two nodes hold the record on their disks.
//! 2. Again and again a node is killed by SIGKILL: the leader, then another one, and so on. If it
//!    was the leader, the supervisor hands the next epoch to another node. The one that was
//!    killed is started again, takes back what was never acknowledged, and catches up.
//! 3. In the end, what was acknowledged is compared with what each of the nodes holds. Anything
//!    that is lost, doubled or out of order is an exit status of 1.
//!
//! After each kill, the time is taken until an append is acknowledged that began after the kill.
//! Of two nodes both are needed, so nothing is acknowledged before the dead one is back: it is
//! started again at once, and the figure includes that. With `--nodes 3` two of three suffice,
//! and the dead one is started again only when the others have gone on without it. The supervisor
//! knows at once who died, since it was the killer: what a real one needs to find out comes on top.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "an example uses files and clocks like anyone")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::prelude::*;

#[path = "replicated_tcp/model.rs"]
mod model;
#[path = "replicated_tcp/node.rs"]
mod node;
#[path = "replicated_tcp/supervise.rs"]
mod supervise;
#[path = "replicated_tcp/tcp.rs"]
mod tcp;
#[path = "replicated_tcp/told.rs"]
mod told;

use node::Orders;
use supervise::{Outage, Supervisor};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const HELP: &str = "\
Keeps a queue on several nodes over TCP, kills them in turn, and checks that nothing is lost.

Usage: replicated_tcp [OPTIONS]

Options:
  --kills N        how often a node is killed [default: 20]
  --nodes N        how many nodes there are, from 2 to 9 [default: 2]
  --directory DIR  keep the nodes' directories in DIR, which must be empty
                   [default: a temporary directory, removed at the end]
  -h, --help       show this";

/// How long the nodes work between two kills: at least so long, and up to twice as long.
const WORK: Duration = Duration::from_millis(250);

/// What the command line asks for.
#[derive(Debug)]
struct Arguments {
    kills: u32,
    nodes: usize,
    directory: Option<PathBuf>,
    /// For the test of this example: leave a record out.
    pretend_lost: bool,
    /// This process is a node, started by the one that the user started.
    node: Option<Orders>,
}

fn main() -> ExitCode {
    let run = || match parse()? {
        None => {
            println!("{HELP}");
            Ok(true)
        }
        Some(Arguments { node: Some(orders), directory, .. }) => {
            let directory = directory.ok_or("--node needs --directory")?;
            node::run(&directory, &orders)?;
            Ok(true)
        }
        Some(arguments) => run(&arguments),
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let error: Failure = error;
            eprintln!("replicated_tcp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn parse() -> Result<Option<Arguments>, Failure> {
    let mut parsed =
        Arguments { kills: 20, nodes: 2, directory: None, pretend_lost: false, node: None };
    let (mut number, mut copies, mut addresses) = (None, 2, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("kills") => parsed.kills = parser.value()?.parse()?,
            Long("nodes") => parsed.nodes = parser.value()?.parse()?,
            Long("directory") => parsed.directory = Some(parser.value()?.into()),
            Long("pretend-lost") => parsed.pretend_lost = true,
            Long("node") => number = Some(parser.value()?.parse()?),
            Long("copies") => copies = parser.value()?.parse()?,
            Long("addresses") => {
                let list = parser.value()?.string()?;
                addresses = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    if !(2..=9).contains(&parsed.nodes) {
        return Err("there are from 2 to 9 nodes".into());
    }
    parsed.node = number.map(|number| Orders { number, copies, addresses });
    Ok(Some(parsed))
}

/// The run that the user started. `false` if something was lost.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let temporary = tempfile::tempdir()?;
    let directory = arguments.directory.as_deref().unwrap_or(temporary.path());
    let copies = arguments.nodes / 2 + 1;
    println!("{} nodes, of which {copies} must hold a record", arguments.nodes);
    let started = Instant::now();
    let mut supervisor = Supervisor::start(directory, arguments.nodes, copies)?;
    for kill in 0..arguments.kills {
        // Not random, but never in step with what the nodes do.
        supervisor.work(WORK + WORK * (kill * 7 % 10) / 10)?;
        supervisor.kill_and_recover(kill % 2 == 0)?;
    }
    supervisor.work(WORK)?;
    let mut held = supervisor.finish()?;
    if arguments.pretend_lost {
        for held in &mut held {
            held.truncate(held.len().saturating_sub(1));
        }
    }
    let outages = &supervisor.outages;
    println!("{} kills in {:.1?}", arguments.kills, started.elapsed());
    println!();
    println!("from a kill to the next append that was begun after it and acknowledged:");
    for (led, who) in [(true, "the leader"), (false, "another node")] {
        print_times(who, outages.iter().filter(|outage| outage.led == led));
    }
    println!();
    Ok(std::mem::take(&mut supervisor.model).conclude(&held))
}

fn print_times<'a>(who: &str, outages: impl Iterator<Item = &'a Outage>) {
    let mut times: Vec<_> = outages.map(|outage| outage.time).collect();
    times.sort();
    let (Some(min), Some(max)) = (times.first(), times.last()) else { return };
    let median = times[times.len() / 2];
    let count = times.len();
    println!(
        "  {who:14} killed {count:>3} times: min {min:.1?}, median {median:.1?}, max {max:.1?}"
    );
}
