//! Kills a process that uses the queue, again and again, and checks after each time that nothing
//! is lost that was acknowledged, and nothing there that was not appended.
//!
//! ```text
//! cargo run --release --example crash_soak -- --kills 2000
//! ```
//!
//! A child process works on a log with four producers and eight consumers in five groups, small
//! segments and all background threads, under each of the sync policies. It tells this process
//! through a pipe what it is about to do and what the log has answered. At a random moment,
//! which may lie in the recovery from the last time, it is killed by SIGKILL and started again.
//! It then reads all that the log holds, which is compared with what it told before.
//!
//! The moments of the kills are those of the machine: a seed gives the same plan again, not the
//! same run.
//!
//! `ACKLINE_SOAK_DIRECTORY` names a directory of any file system. `ACKLINE_POWER_CUT_HOOK` is a
//! command for `sh -c` that is run after each kill, with the directory in `ACKLINE_DIRECTORY`;
//! it may take back what was not synced. Then only what the sync policy promises must be there.
//! `power_cut.sh` beside this file is such a command, and shows what else it takes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program shows what it does")]
#![allow(clippy::disallowed_methods, reason = "a program uses files and clocks like anyone")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;

mod child;
mod consume;
mod event;
mod group;
mod layout;
mod model;
mod payload;
mod plan;
mod produce;
mod producers;
mod random;
mod soak;
mod supervise;
mod topic;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const HELP: &str = "\
Kills a process that uses the queue again and again, and checks that nothing is lost.

Usage: crash_soak [OPTIONS]

Options:
  --kills N       how often [default: 200]
  --seed S        what follows from it is the same again, but for the moments of the kills
                  [default: drawn]
  --directory D   work in D/log; D must be empty [default: $ACKLINE_SOAK_DIRECTORY, else a
                  temporary directory that is removed if nothing was found]
  --policy P      group-commit, each-append, interval or never [default: all, mostly the first]
  --hook CMD      run after each kill, to cut the power as well
                  [default: $ACKLINE_POWER_CUT_HOOK]
  --cut CMD       run before each kill, while the child works: what it does from then on is lost
                  when the hook is run
  --mutant NAME   build a bug into the child, to see that it is found; needs the feature mutants
  --believe       with a hook: take what is not synced for promised, to see that the hook bites
  -h, --help      show this";

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) kills: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) policy: Option<usize>,
    pub(crate) hook: Option<String>,
    pub(crate) cut: Option<String>,
    pub(crate) believe: bool,
    pub(crate) mutant: Option<String>,
    /// This process is one that is to be killed.
    child: Option<plan::Plan>,
}

fn main() -> ExitCode {
    let run = || match parse(std::env::args_os().skip(1).collect())? {
        None => {
            println!("{HELP}");
            Ok(true)
        }
        Some(Arguments { child: Some(plan), directory, seed, mutant, .. }) => {
            let directory = directory.ok_or("--child needs --directory")?;
            if let Some(mutant) = mutant {
                activate(&mutant)?;
            }
            child::run(&directory, seed.ok_or("--child needs --seed")?, plan)?;
            Ok(true)
        }
        Some(arguments) => soak::run(arguments),
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let error: Failure = error;
            eprintln!("crash_soak: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "mutants")]
fn activate(name: &str) -> Result<(), Failure> {
    use ackline::simulation::mutants::{Mutant, activate};
    let mutant = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    activate(*mutant.ok_or_else(|| format!("no mutant {name:?}"))?);
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn activate(_: &str) -> Result<(), Failure> {
    Err("--mutant needs the feature mutants".into())
}

/// `None` if help is asked for.
fn parse(arguments: Vec<OsString>) -> Result<Option<Arguments>, Failure> {
    let mut parsed = Arguments {
        kills: 200,
        seed: None,
        directory: std::env::var_os("ACKLINE_SOAK_DIRECTORY").map(PathBuf::from),
        policy: None,
        hook: std::env::var("ACKLINE_POWER_CUT_HOOK").ok(),
        cut: None,
        believe: false,
        mutant: None,
        child: None,
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("kills") => parsed.kills = parser.value()?.parse()?,
            Long("seed") => parsed.seed = Some(parser.value()?.parse()?),
            Long("directory") => parsed.directory = Some(parser.value()?.into()),
            Long("hook") => parsed.hook = Some(parser.value()?.string()?),
            Long("mutant") => parsed.mutant = Some(parser.value()?.string()?),
            Long("cut") => parsed.cut = Some(parser.value()?.string()?),
            Long("believe") => parsed.believe = true,
            Long("policy") => {
                let name = parser.value()?.string()?;
                let known = plan::POLICIES.iter().position(|policy| *policy == name);
                parsed.policy = Some(known.ok_or_else(|| format!("no policy {name:?}"))?);
            }
            Long("child") => {
                parsed.child = Some(plan::Plan::parse(&parser.value()?.string()?)?);
            }
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    if parsed.cut.is_some() && (parsed.hook.is_none() || parsed.believe) {
        return Err("--cut goes with --hook, and without --believe".into());
    }
    if parsed.kills == 0 {
        return Err("--kills 0 would prove nothing".into());
    }
    Ok(Some(parsed))
}
