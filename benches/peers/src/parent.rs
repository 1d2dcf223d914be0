//! Runs children: in a directory of their own, which is removed behind them, and not for ever.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::child::{self, Sides};
use crate::measure::Plan;
use crate::peer::{Failure, Kind};
use crate::peers::walrus;
use crate::workload::Workload;

/// What a child has beyond the time that it measures for: to open, to fill, to verify.
const EXTRA: Duration = Duration::from_mins(3);

/// A process to be, and where it works.
pub(crate) struct Child {
    pub(crate) directory: TempDir,
    program: PathBuf,
}

impl Child {
    pub(crate) fn new(parent: &Path) -> Result<Self, Failure> {
        // Absolute, for whoever compares paths or changes the directory.
        let parent = std::path::absolute(parent)?;
        let directory = tempfile::Builder::new().prefix("peers-").tempdir_in(parent)?;
        Ok(Self { directory, program: std::env::current_exe()? })
    }

    /// The command that runs this program; `wrapper` is what runs it in turn.
    pub(crate) fn command(&self, wrapper: &[&str]) -> Command {
        let mut command = match wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .env(walrus::DIRECTORY_VARIABLE, self.directory.path())
            .env(walrus::QUIET_VARIABLE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// The file that a child writes its answer to.
    pub(crate) fn answer(&self) -> PathBuf {
        self.directory.path().join("answer")
    }

    /// Runs a command until it ends or until its time is over. What it says on standard error is
    /// its error if it fails.
    pub(crate) fn run(&self, command: &mut Command, time: Duration) -> Result<(), Failure> {
        let errors = self.directory.path().join("errors");
        command.stderr(std::fs::File::create(&errors)?);
        let mut child = command.spawn()?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > time {
                child.kill()?;
                child.wait()?;
                return Err(format!("not done within {time:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            return Ok(());
        }
        let errors = std::fs::read_to_string(errors)?;
        let errors: Vec<_> =
            errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(format!("{status}: {}", errors.join(" ")).into())
    }
}

/// Measures one workload of one peer in a process of its own.
pub(crate) fn measure(
    parent: &Path,
    kind: &Kind,
    workload: &Workload,
    design: usize,
    plan: &Plan,
) -> Result<Sides, Failure> {
    let child = Child::new(parent)?;
    let mut command = child.command(&[]);
    command.args(["--measure", kind.name, "--workload", &workload.name()]);
    command.arg("--design").arg(design.to_string());
    command.arg("--seconds").arg(plan.time.as_secs_f64().to_string());
    command.arg("--rounds").arg(plan.rounds.to_string());
    command.arg("--dir").arg(child.directory.path()).arg("--out").arg(child.answer());
    // Three sides; a turn may take far longer than it should.
    let time = plan.time * u32::try_from(plan.rounds)? * 3 * 5 + EXTRA;
    child.run(&mut command, time)?;
    child::decode(&std::fs::read_to_string(child.answer())?)
}
