//! The parent's side of the consumers: start them, kill them half-way, let them resume.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::Failure;
use crate::meter::{Meter, Meters};

/// Linux's number of the signal that cannot be caught; the same on all Unix systems.
const SIGKILL: i32 = 9;

/// What a consumer process tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) counted: u64,
    pub(crate) archived: u64,
    /// Deliveries that were not the first, of the word counters and of the archiver.
    pub(crate) redelivered: [u64; 2],
    pub(crate) skipped: u64,
}

/// Runs consumer processes on the log in `directory`.
pub(crate) struct Supervisor<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) lines: u64,
    pub(crate) words: Meter,
    pub(crate) archive: Meter,
    pub(crate) meters: &'a Meters,
}

impl Supervisor<'_> {
    /// Lets consumers work, kills them when about half of the lines are counted, and lets others
    /// go on from there. Returns what each process told last.
    pub(crate) fn run(&self) -> Result<[Told; 2], Failure> {
        let (half, some) = (self.lines / 2, self.lines / 32);
        let is_half = |told: &Told| told.counted >= half && told.archived >= some;
        let (status, first) = self.run_process("--hold", Told::default(), is_half)?;
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the consumers ended before they were killed: {status}").into());
        }
        let (counted, archived) = (first.counted, first.archived);
        let where_to = format!("SIGKILL at {counted} lines counted and {archived} archived");
        self.meters.say(&format!("{where_to}; starting again"));
        let (status, second) = self.run_process("--finish", first, |_| false)?;
        if !status.success() {
            return Err(format!("the consumers failed: {status}").into());
        }
        self.words.finish();
        self.archive.finish();
        Ok([first, second])
    }

    /// Starts this program again as a consumer, and kills it as soon as `kill_at` says so.
    fn run_process(
        &self,
        task: &str,
        before: Told,
        kill_at: impl Fn(&Told) -> bool,
    ) -> Result<(ExitStatus, Told), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--consume", &self.lines.to_string(), task, "--dir"])
            .arg(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let watched = self.watch(&mut child, before, kill_at);
        if watched.is_err() {
            // It may have ended by itself, which its status tells.
            child.kill()?;
        }
        let status = child.wait()?;
        Ok((status, watched?))
    }

    fn watch(
        &self,
        child: &mut Child,
        before: Told,
        kill_at: impl Fn(&Told) -> bool,
    ) -> Result<Told, Failure> {
        let mut told = Told::default();
        let lines = BufReader::new(child.stdout.take().ok_or("the consumers have no output")?);
        for line in lines.lines() {
            let line = line?;
            let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [counted, archived, words, archive, skipped] = numbers[..] else {
                return Err(format!("the consumers said {line:?}").into());
            };
            told = Told { counted, archived, redelivered: [words, archive], skipped };
            self.words.set(before.counted + told.counted);
            self.archive.set(before.archived + told.archived);
            if kill_at(&told) {
                child.kill()?;
                return Ok(told);
            }
        }
        Ok(told)
    }
}
