//! The tables that people read and the file that programs read.

use std::fmt::Write as _;

use crate::Comparison;
use crate::machine::Machine;
use crate::measure::{self, Latencies, Measured, Plan, Spread, Turn, number, spread};

/// What is aimed at.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    /// Whether a figure meets it; `None` without one.
    fn met(self, figure: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtLeast(bar) => Some(figure >= bar),
            Self::AtMost(bar) => Some(figure <= bar),
        }
    }

    fn shown(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::AtLeast(bar) => format!("≥ {bar:.2}"),
            Self::AtMost(bar) => format!("≤ {bar:.2}"),
        }
    }
}

/// One figure, and what it was compared with.
pub(crate) struct Row {
    name: String,
    against: String,
    figure: Spread,
    bar: Bar,
    sides: Option<Sides>,
}

/// What is behind a ratio.
struct Sides {
    ours: Figures,
    theirs: Figures,
    /// The ratio of everything to everything, the turns with a new segment in them included.
    overall: f64,
    frame_bytes: Spread,
    file_bytes: Spread,
    sent_bytes: Spread,
    /// The most that the process held after a turn of ours, with whatever it has not given back.
    anonymous_bytes: u64,
}

/// One side's figures over all rounds.
struct Figures {
    rate: Spread,
    per_sync: f64,
    syncs: f64,
    /// Microseconds: the medians over the rounds of p50, p99 and p99.9.
    latencies: Option<[f64; 3]>,
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let rounds = || measured.rounds.iter();
        let each = |figure: fn(&measure::Round) -> f64| spread(rounds().map(|round| figure(round)));
        Self {
            rate: each(measure::per_second),
            per_sync: each(measure::per_sync).median,
            syncs: each(measure::syncs_per_second).median,
            latencies: percentiles(&measured.latencies),
        }
    }
}

fn percentiles(rounds: &[Latencies]) -> Option<[f64; 3]> {
    if rounds.iter().any(Latencies::is_empty) {
        return None;
    }
    let of = |quantile: f64, round: &Latencies| number(round.value_at_quantile(quantile)) / 1000.0;
    Some([0.5, 0.99, 0.999].map(|at| spread(rounds.iter().map(|round| of(at, round))).median))
}

impl Row {
    /// The ratio is taken within each round, where both sides ran next to one another.
    pub(crate) fn compare(comparison: &Comparison, theirs: &Measured, ours: &Measured) -> Self {
        let pairs = ours.rounds.iter().zip(&theirs.rounds);
        let figure = spread(pairs.map(|(ours, theirs)| measure::ratio(ours, theirs)));
        let rate = |of: &Measured| {
            let sum =
                |figure: fn(&Turn) -> f64| of.rounds.iter().flatten().map(figure).sum::<f64>();
            sum(|turn| number(turn.records)) / sum(|turn| turn.elapsed.as_secs_f64())
        };
        let per_payload_byte =
            |bytes: fn(&Turn) -> u64| ours.per_payload_byte(comparison.payload_bytes, bytes);
        let held = ours.rounds.iter().flatten().map(|turn| turn.anonymous_bytes).max();
        let sides = Sides {
            ours: Figures::of(ours),
            theirs: Figures::of(theirs),
            overall: rate(ours) / rate(theirs),
            frame_bytes: per_payload_byte(|turn| turn.frame_bytes),
            file_bytes: per_payload_byte(|turn| turn.file_bytes),
            sent_bytes: per_payload_byte(|turn| turn.sent_bytes),
            anonymous_bytes: held.unwrap_or(0),
        };
        let Comparison { name, against, bar, .. } = comparison;
        Self { name: name.clone(), against: against.clone(), figure, bar: *bar, sides: Some(sides) }
    }

    /// A figure by itself.
    pub(crate) fn figure(name: &str, against: &str, bar: Bar, figure: Spread) -> Self {
        let (name, against) = (name.to_owned(), against.to_owned());
        Self { name, against, figure, bar, sides: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The bytes of our frames for each byte of payload, as a row of its own.
    pub(crate) fn frame_bytes(&self, bar: Bar) -> Option<Self> {
        let Sides { frame_bytes, file_bytes, .. } = self.sides.as_ref()?;
        let name = format!("{}: frames", self.name);
        let against = format!("payload bytes; files of {:.2}", file_bytes.median);
        Some(Self::figure(&name, &against, bar, *frame_bytes))
    }

    /// Whether the median meets the bar; `None` without one.
    pub(crate) fn met(&self) -> Option<bool> {
        self.bar.met(self.figure.median)
    }

    /// The row as a line of text.
    pub(crate) fn line(&self) -> String {
        let Spread { min, median, max } = self.figure;
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let (name, bar) = (&self.name, self.bar.shown());
        format!("| {name:<44} | {min:>7.2} {median:>7.2} {max:>7.2} | {bar:<7} | {met:<7} |")
    }

    /// What is behind the ratio, as a line of text.
    fn details(&self) -> Option<String> {
        let sides = self.sides.as_ref()?;
        let side = |figures: &Figures| {
            let Figures { rate, per_sync, syncs, .. } = figures;
            let syncs = match *syncs {
                0.0 => format!("{:>15}", "none"),
                syncs => format!("{syncs:>6.0} × {per_sync:>6.1}"),
            };
            format!("{:>9.0} | {syncs}", rate.median)
        };
        let (ours, theirs) = (side(&sides.ours), side(&sides.theirs));
        let overall = sides.overall;
        Some(format!("| {:<44} | {ours} | {theirs} | {overall:>5.2} |", self.name))
    }

    /// How long the calls took, as a line of text.
    fn latencies(&self) -> Option<String> {
        let sides = self.sides.as_ref()?;
        let shown = |figure: f64| format!("{figure:>7.0$}", usize::from(figure < 10.0));
        let side = |figures: &Figures| match figures.latencies {
            Some(figures) => figures.map(shown).join(" "),
            None => format!("{:>23}", "not timed"),
        };
        sides.ours.latencies?;
        let (ours, theirs) = (side(&sides.ours), side(&sides.theirs));
        Some(format!("| {:<44} | {ours} | {theirs} |", self.name))
    }

    /// What it costs in bytes, as a line of text.
    fn bytes(&self) -> Option<String> {
        let Sides { frame_bytes, file_bytes, sent_bytes, anonymous_bytes, .. } =
            self.sides.as_ref()?;
        let held = number(*anonymous_bytes) / (1024.0 * 1024.0);
        let (frames, files, sent) = (frame_bytes.median, file_bytes.median, sent_bytes.median);
        Some(format!(
            "| {:<44} | {frames:>6.2} | {files:>6.2} | {sent:>7.2} | {held:>6.1} |",
            self.name
        ))
    }
}

/// A heading, and a line for each row that has one.
fn section(rows: &[Row], heading: &str, line: impl Fn(&Row) -> Option<String>) -> String {
    let mut out = format!("{heading}\n");
    for line in rows.iter().filter_map(line) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// All rows under headings, and what each was compared with.
pub(crate) fn table(rows: &[Row]) -> String {
    let name = format!("| {:<44}", "what");
    let details = section(
        rows,
        &format!("{name} | records/s | fsyncs/s × each | limit/s   | fsyncs/s × each |   all |"),
        Row::details,
    );
    let latencies = section(
        rows,
        &format!("{name} | µs: p50, p99, p99.9     | limit: the same         |"),
        Row::latencies,
    );
    let bytes =
        section(rows, &format!("{name} | frames |  files |    sent | memory |"), Row::bytes);
    let heading = format!("{name} | {:<23} | bar     |         |", "min, median, max");
    let ratios = section(rows, &heading, |row| Some(row.line()));
    let limits =
        section(rows, "divided by:", |row| Some(format!("  {}: {}", row.name, row.against)));
    format!(
        "{details}\n{latencies}\nFor each byte of payload: bytes of frames, of the files made for them, and sent to the disk \
         meanwhile, by whomever. MiB held by the process, apart from maps of files:\n{bytes}\n{ratios}\n{limits}"
    )
}

/// The rows as a page of documentation.
pub(crate) fn page(rows: &[Row], plan: &Plan, machine: &Machine, load: &str) -> String {
    let Machine { processor, cores, memory, file_system, kernel } = machine;
    let (seconds, rounds) = (plan.time.as_secs_f64(), plan.rounds);
    let mut out = format!(
        "# What the machine allows\n\n\
         Generated; do not edit. One command makes it anew:\n\n\
         ```sh\ncargo bench --bench limits -- --docs\n```\n\n\
         With `--large`, there are rows of 1 and 10 GiB and of 100 million messages.\n\n\
         {processor}, {cores} cores; {memory}; {file_system}; {kernel}; load when it began {load}. \
         {seconds} s of each side in each of {rounds} rounds, in turns of 70 ms. Built with lto = \"fat\" and codegen-units = 1, unlike the peers. Ratios are medians \
         over the rounds (least–greatest).\n\n{EXPLANATION}\n\
         | what | ratio | aim | | records/s | the other's | divided by |\n\
         |---|--:|--:|---|--:|--:|---|\n"
    );
    for row in rows {
        let Spread { min, median, max } = row.figure;
        let met = match row.met() {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "",
        };
        let bar = if row.bar == Bar::None { String::new() } else { row.bar.shown() };
        let rate = |side: fn(&Sides) -> &Figures| {
            row.sides
                .as_ref()
                .map_or(String::new(), |sides| format!("{:.0}", side(sides).rate.median))
        };
        let (ours, theirs) = (rate(|sides| &sides.ours), rate(|sides| &sides.theirs));
        writeln!(
            out,
            "| {} | {median:.2} ({min:.2}–{max:.2}) | {bar} | {met} | {ours} | {theirs} | {} |",
            row.name, row.against
        )
        .expect("a string takes text");
    }
    out
}

/// What a reader of the page has to know of the rows.
const EXPLANATION: &str = "\
The limit is what raw calls of the system, or memory, do without any queue: one file of zeros, all of whose blocks are
there already, written again and again; one thread that copies into a map. A log needs more than that, whatever it is
made of, and how much of the limit that leaves is measured in the same turns for some of the rows:

- *files that grow*: each block is written once, and somebody has to make the next ones meanwhile;
- *the least of such calls*: the record is handed over by a call that any thread may make, so it is stamped with the
  time, given a number and copied under a lock, and the caller gets a handle; frames have a checksum and go to files that
  grow, each of which is on the disk before the next one is written to. No topics, no index, no groups, nothing is shown to readers;
- *the least of such polls*: the same map is scanned, and for each record the caller gets a handle that keeps the memory alive,
  a hundred by each call, and keeps them until they are acknowledged together. No leases, no attempts, no groups, nothing
  is written; the records lie there for good.

Both sides of a durable acknowledgement write to files of zeros: the log is filled by small batches, as it makes do without zeros behind
large ones.

Opening after a kill frees what lies behind the end of the newest segment where that is more than an eighth of it, and its caller waits:
what that takes is in the rows of a kill early in a segment.

Where nobody waits for the disk, each round begins once the disk has nothing to write, and with as much memory touched a
moment ago as may be: the host of a virtual machine takes back what is free, and to get a page again takes longer than to fill it.

*of these* is what ackline reaches of that.
";

/// The rows as JSON. No name holds a character that would have to be escaped.
pub(crate) fn json(rows: &[Row], plan: &Plan) -> String {
    let three = |Spread { min, median, max }: Spread| format!("[{min:.4}, {median:.4}, {max:.4}]");
    let side = |figures: &Figures| {
        let Figures { rate, per_sync, syncs, latencies } = figures;
        let latencies = latencies.map_or("null".to_owned(), |latencies| format!("{latencies:.1?}"));
        format!(
            "{{\"records_per_second\": {}, \"syncs_per_second\": {syncs:.1}, \
             \"records_per_sync\": {per_sync:.2}, \"microseconds\": {latencies}}}",
            three(*rate)
        )
    };
    let row = |row: &Row| {
        let Row { name, against, figure, bar, sides } = row;
        let (kind, bar) = match bar {
            Bar::None => ("none", "null".to_owned()),
            Bar::AtLeast(bar) => ("at least", bar.to_string()),
            Bar::AtMost(bar) => ("at most", bar.to_string()),
        };
        let met = row.met().map_or("null".to_owned(), |met| met.to_string());
        let mut out = format!(
            "    {{\"name\": \"{name}\", \"divided_by\": \"{against}\", \"figure\": {}, \
             \"bar\": {bar}, \"bar_is\": \"{kind}\", \"met\": {met}",
            three(*figure)
        );
        if let Some(sides) = sides {
            write!(
                out,
                ", \"ours\": {}, \"limit\": {}, \"overall\": {:.4}, \
                 \"frame_bytes\": {}, \"file_bytes\": {}, \"sent_bytes\": {}, \"anonymous_bytes\": {}",
                side(&sides.ours),
                side(&sides.theirs),
                sides.overall,
                three(sides.frame_bytes),
                three(sides.file_bytes),
                three(sides.sent_bytes),
                sides.anonymous_bytes
            )
            .expect("a string takes text");
        }
        out + "}"
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    let (seconds, rounds) = (plan.time.as_secs_f64(), plan.rounds);
    format!(
        "{{\n  \"seconds\": {seconds}, \"rounds\": {rounds},\n  \"rows\": [\n{}\n  ]\n}}\n",
        rows.join(",\n")
    )
}
