//! How far a step is: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where all bars of the run are drawn.
#[derive(Debug)]
pub(crate) struct Meters(Option<indicatif::MultiProgress>);

/// One step.
#[derive(Debug)]
pub(crate) struct Meter {
    name: &'static str,
    total: u64,
    bar: ProgressBar,
    /// When a line was last printed, where there is no terminal for a bar.
    printed: Option<Mutex<Instant>>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self(terminal.then(indicatif::MultiProgress::new))
    }

    pub(crate) fn add(&self, name: &'static str, total: u64) -> Meter {
        let Some(bars) = &self.0 else {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            return Meter { name, total, bar, printed: Some(Mutex::new(Instant::now())) };
        };
        let bar = bars.add(ProgressBar::new(total));
        let style = "{msg:8} {wide_bar} {human_pos}/{human_len} lines {per_sec}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well formed"));
        bar.set_message(name);
        Meter { name, total, bar, printed: None }
    }

    /// Says something between the bars.
    pub(crate) fn say(&self, text: &str) {
        match &self.0 {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Meter {
    pub(crate) fn add(&self, lines: u64) {
        self.bar.inc(lines);
        self.print();
    }

    pub(crate) fn set(&self, lines: u64) {
        self.bar.set_position(lines);
        self.print();
    }

    pub(crate) fn finish(&self) {
        self.bar.finish();
    }

    fn print(&self) {
        let Some(printed) = &self.printed else { return };
        // Whoever holds it is printing already.
        let Ok(mut printed) = printed.try_lock() else { return };
        if printed.elapsed() >= LINE_EVERY {
            *printed = Instant::now();
            eprintln!("{}: {} of {} lines", self.name, self.bar.position(), self.total);
        }
    }
}
