//! Runs one process after the other, and kills each.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::model::{Model, Violation};
use crate::plan::{Doom, Moment, Plan};
use crate::{Arguments, Failure};

/// Linux's number of the signal that cannot be caught; the same on all Unix systems.
const SIGKILL: i32 = 9;

/// A process that says nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How many lines of what the children told are kept for a finding.
const HISTORY_LINES: usize = 400_000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Killed, and how far it had come by what it told.
    Killed(Moment),
    /// It closed the log and ended by itself, or was killed behind that.
    Closed,
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The log does not keep its promises.
    Violation(Violation),
    /// The soak itself cannot go on.
    Failure(Failure),
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

/// Starts, kills, and hands on what it is told.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) directory: PathBuf,
    pub(crate) seed: u64,
    pub(crate) hook: Option<String>,
    cut: Option<String>,
    pub(crate) mutant: Option<String>,
    history: VecDeque<String>,
}

/// The moment that a process has reached when it tells this.
fn moment_of(event: Event) -> Moment {
    match event {
        Event::Opening => Moment::Opening,
        Event::Opened { .. } => Moment::Opened,
        Event::Working => Moment::Working,
        Event::Closing => Moment::Closing,
        Event::Closed => Moment::Closed,
        _ => Moment::Started,
    }
}

impl Supervisor {
    pub(crate) fn new(directory: PathBuf, seed: u64, arguments: &Arguments) -> Self {
        let Arguments { hook, cut, mutant, .. } = arguments.clone();
        Self { directory, seed, hook, cut, mutant, history: VecDeque::new() }
    }

    /// Runs one process to its end; `None` lets it end by itself.
    pub(crate) fn run(
        &mut self,
        model: &mut Model,
        plan: Plan,
        doom: Option<Doom>,
    ) -> Result<End, Trouble> {
        self.note(format!("process {} {plan} {doom:?}", plan.run));
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(mutant) = &self.mutant {
            command.args(["--mutant", mutant]);
        }
        let mut child = command
            .args(["--child", &plan.to_string(), "--seed", &self.seed.to_string()])
            .arg("--directory")
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = read_lines(&mut child)?;
        model.begin(plan);
        let mut reached = Moment::Started;
        let watched = self.watch(&mut child, &lines, model, doom, &mut reached);
        if watched.is_err() {
            // It may have ended by itself, which its status tells.
            child.kill()?;
        }
        let status = child.wait()?;
        // What was told before the end counts.
        watched?;
        for line in lines {
            self.take(model, &line, &mut reached)?;
        }
        model.end();
        end_of(status, reached, doom.is_none())
    }

    /// Takes what the child tells until it is time to kill it, and kills it.
    fn watch(
        &mut self,
        child: &mut Child,
        lines: &Receiver<String>,
        model: &mut Model,
        doom: Option<Doom>,
        reached: &mut Moment,
    ) -> Result<(), Trouble> {
        let mut kill_at: Option<Instant> = None;
        let mut close_first = doom.and_then(|doom| doom.closing);
        loop {
            let now = Instant::now();
            if let Some(doom) = doom
                && kill_at.is_none()
                && *reached >= doom.from
            {
                kill_at = Some(now + doom.after);
            }
            let left = kill_at.map_or(STUCK, |at| at.saturating_duration_since(now));
            match lines.recv_timeout(left) {
                Ok(line) => self.take(model, &line, reached)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if kill_at.is_none() => {
                    let text = format!("stuck: nothing was told for {STUCK:?}");
                    return Err(Violation(text).into());
                }
                Err(RecvTimeoutError::Timeout) => match close_first.take() {
                    Some(time) => {
                        let mut stdin = child.stdin.as_ref().ok_or("the child has no input")?;
                        stdin.write_all(b"c")?;
                        kill_at = Some(Instant::now() + time);
                    }
                    None => {
                        self.cut_before_kill(lines, model, reached)?;
                        child.kill()?;
                        return Ok(());
                    }
                },
            }
        }
    }

    /// Lets whoever owns the file system decide now what the power cut leaves.
    fn cut_before_kill(
        &mut self,
        lines: &Receiver<String>,
        model: &mut Model,
        reached: &mut Moment,
    ) -> Result<(), Trouble> {
        let Some(command) = self.cut.clone() else { return Ok(()) };
        // What was told before the cut was done before it.
        while let Ok(line) = lines.try_recv() {
            self.take(model, &line, reached)?;
        }
        self.note("cut".to_owned());
        model.cut();
        Ok(self.run_command(&command)?)
    }

    fn take(&mut self, model: &mut Model, line: &str, reached: &mut Moment) -> Result<(), Trouble> {
        self.note(line.to_owned());
        let event = Event::parse(line)?;
        if event == Event::Failed {
            return Err(Violation(line.to_owned()).into());
        }
        *reached = moment_of(event).max(*reached);
        Ok(model.take(event)?)
    }

    fn note(&mut self, line: String) {
        if self.history.len() == HISTORY_LINES {
            self.history.pop_front();
        }
        self.history.push_back(line);
    }

    /// Writes down what the last children told, for whoever looks into a finding.
    pub(crate) fn write_history(&self, file: &Path) -> Result<(), Failure> {
        let mut text = String::new();
        for line in &self.history {
            text.push_str(line);
            text.push('\n');
        }
        Ok(std::fs::write(file, text)?)
    }

    /// Lets whoever owns the file system cut the power, or make good what it has decided.
    pub(crate) fn cut_power(&self) -> Result<(), Failure> {
        match &self.hook {
            Some(hook) => self.run_command(hook),
            None => Ok(()),
        }
    }

    fn run_command(&self, command: &str) -> Result<(), Failure> {
        let status = Command::new("sh")
            .args(["-c", command])
            .env("ACKLINE_DIRECTORY", &self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err(format!("{command}: {status}").into()) }
    }
}

/// Reads whole lines from a child, also what is left in the pipe when it is dead. A line that it
/// was killed in the middle of was never told.
fn read_lines(child: &mut Child) -> Result<Receiver<String>, Failure> {
    let mut output = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        while let Ok(1..) = output.read_line(&mut line) {
            if line.pop() != Some('\n') || sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

fn end_of(status: ExitStatus, reached: Moment, may_end: bool) -> Result<End, Trouble> {
    let killed = status.signal() == Some(SIGKILL) && !may_end;
    match reached {
        Moment::Closed if killed || status.success() => Ok(End::Closed),
        reached if killed => Ok(End::Killed(reached)),
        _ => Err(Violation(format!("the process ended by itself: {status}")).into()),
    }
}
