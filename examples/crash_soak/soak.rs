//! The soak: so many kills, then everything is consumed, then the summary.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::model::{Counts, Model, Violation};
use crate::plan::{Doom, Moment, Plan};
use crate::random::Random;
use crate::supervise::{End, Supervisor, Trouble};
use crate::{Arguments, Failure};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);

fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seed")
}

/// Where the kills struck, by what the child had told.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    starting: u64,
    recovering: u64,
    reading: u64,
    working: u64,
    closing: u64,
}

impl Kills {
    fn total(&self) -> u64 {
        self.starting + self.recovering + self.reading + self.working + self.closing
    }

    fn count(&mut self, end: End) {
        let at = match end {
            End::Killed(Moment::Started) => &mut self.starting,
            End::Killed(Moment::Opening) => &mut self.recovering,
            End::Killed(Moment::Opened) => &mut self.reading,
            End::Killed(Moment::Working) => &mut self.working,
            End::Killed(Moment::Closing) => &mut self.closing,
            End::Killed(Moment::Closed) | End::Closed => return,
        };
        *at += 1;
    }
}

/// Where the log is; a temporary directory goes when nothing was found.
struct Place {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn prepare(directory: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = directory else {
            let temporary = tempfile::Builder::new().prefix("crash-soak-").tempdir()?;
            return Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        std::fs::create_dir_all(&path)?;
        if path.join("log").exists() {
            return Err(format!("{} holds a log already", path.display()).into());
        }
        Ok(Self { path, temporary: None })
    }

    fn keep(self) {
        if let Some(temporary) = self.temporary {
            // The path is known already.
            drop(temporary.keep());
        }
    }
}

/// Whether nothing was found.
pub(crate) fn run(arguments: Arguments) -> Result<bool, Failure> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => draw_seed(),
    };
    let place = Place::prepare(arguments.directory.clone())?;
    let directory = place.path.clone();
    println!("seed {seed}, log in {}", directory.join("log").display());
    let mut soak = Soak {
        random: Random::new(seed),
        model: Model::new(arguments.hook.is_some() && !arguments.believe),
        supervisor: Supervisor::new(directory.clone(), seed, &arguments),
        kills: Kills::default(),
        cuts: 0,
        began: Instant::now(),
        printed: Instant::now(),
        arguments,
    };
    let found = soak.run();
    soak.print_summary();
    match found {
        Ok(()) => {
            println!("every group had everything; lost 0, altered 0, invented 0, reordered 0,");
            println!("  commits undone 0, dead letters twice 0");
            Ok(true)
        }
        Err(Trouble::Failure(error)) => {
            place.keep();
            Err(error)
        }
        Err(Trouble::Violation(Violation(text))) => {
            place.keep();
            let history = history_beside(&directory);
            soak.supervisor.write_history(&history)?;
            println!("FOUND: {text}");
            println!("seed {seed}, after {} kills", soak.kills.total());
            println!("the log is kept in {}", directory.join("log").display());
            println!("what the processes told is in {}", history.display());
            Ok(false)
        }
    }
}

/// The history lies beside the log, unless the file system may be a broken one.
fn history_beside(directory: &Path) -> PathBuf {
    let name = format!("crash-soak-{}.history", std::process::id());
    if directory.starts_with(std::env::temp_dir()) {
        directory.join("history")
    } else {
        std::env::temp_dir().join(name)
    }
}

struct Soak {
    arguments: Arguments,
    random: Random,
    model: Model,
    supervisor: Supervisor,
    kills: Kills,
    cuts: u64,
    began: Instant,
    printed: Instant,
}

impl Soak {
    fn run(&mut self) -> Result<(), Trouble> {
        let mut process = 0;
        while self.kills.total() < self.arguments.kills {
            process += 1;
            let plan = Plan::draw(&mut self.random, process, self.arguments.policy);
            let doom = Doom::draw(&mut self.random);
            let end = self.supervisor.run(&mut self.model, plan, Some(doom))?;
            self.kills.count(end);
            self.cut_power()?;
            self.print_progress();
        }
        let plan = Plan::drain(process + 1);
        match self.supervisor.run(&mut self.model, plan, None)? {
            End::Closed => Ok(self.model.check_drained()?),
            End::Killed(_) => Err(Violation("the last process was killed".into()).into()),
        }
    }

    fn cut_power(&mut self) -> Result<(), Failure> {
        self.supervisor.cut_power()?;
        self.cuts += u64::from(self.supervisor.hook.is_some());
        Ok(())
    }

    fn print_progress(&mut self) {
        if self.printed.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.printed = Instant::now();
        let (done, all) = (self.kills.total(), self.arguments.kills);
        let elapsed = self.began.elapsed();
        let each = elapsed.checked_div(u32::try_from(done.max(1)).unwrap_or(u32::MAX));
        let each = each.unwrap_or_default();
        let left = each.saturating_mul(u32::try_from(all - done).unwrap_or(u32::MAX));
        let counts = &self.model.counts;
        println!(
            "{done} of {all} kills, {:.1} a second, {} s left: {} acknowledged, {} verified, \
             0 lost",
            1.0 / each.as_secs_f64().max(1e-9),
            left.as_secs(),
            counts.acknowledged,
            counts.verified,
        );
    }

    fn print_summary(&self) {
        let Kills { starting, recovering, reading, working, closing } = self.kills;
        let (total, seconds) = (self.kills.total(), self.began.elapsed().as_secs_f64());
        println!("{total} kills in {seconds:.0} s");
        println!("  {starting} before it opened the log, {recovering} while it recovered,");
        println!("  {reading} while it read what was there, {working} while it worked,");
        println!("  {closing} while it closed");
        if self.cuts > 0 {
            println!("{} power cuts", self.cuts);
        }
        let Counts { recoveries, rewritten_tails, torn_tails, closed, .. } = self.model.counts;
        println!("{recoveries} recoveries: {rewritten_tails} rewrote a tail, {torn_tails} dropped");
        println!("  what was torn; {closed} times the log was closed");
        let counts = &self.model.counts;
        println!("{} records acknowledged, {} refused", counts.acknowledged, counts.refused);
        println!(
            "{} records seen, {} of them dead letters, {} handed on; {} deleted by retention",
            counts.records, counts.letters, counts.relayed, counts.deleted
        );
        println!("{} kept without having been acknowledged", counts.unacknowledged_kept);
        println!("{} records read again and verified after an open", counts.verified);
        println!("{} deliveries, {} of them again", counts.deliveries, counts.redeliveries);
        if self.cuts > 0 {
            println!("{} lost that no policy had promised", counts.unpromised_lost);
        }
    }
}
