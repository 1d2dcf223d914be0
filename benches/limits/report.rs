//! The table that people read and the file that programs read.

use std::fmt::Write as _;

use crate::measure::{self, Plan, Spread, Turn, spread};

type Rounds = [Vec<Turn>];

/// One side's figures over all rounds.
struct Figures {
    rate: Spread,
    per_sync: f64,
    syncs: f64,
}

impl Figures {
    fn of(rounds: &Rounds) -> Self {
        let each =
            |figure: fn(&measure::Round) -> f64| spread(rounds.iter().map(|round| figure(round)));
        Self {
            rate: each(measure::per_second),
            per_sync: each(measure::per_sync).median,
            syncs: each(measure::syncs_per_second).median,
        }
    }
}

/// One comparison, or the figures of one side alone.
pub(crate) struct Row {
    name: String,
    ours: Figures,
    against: Option<Against>,
}

struct Against {
    baseline: String,
    figures: Figures,
    ratio: Spread,
    /// The ratio of everything to everything, the turns with a new segment in them included.
    overall: f64,
    bar: Option<f64>,
}

impl Row {
    /// The ratio is taken within each round, where both sides ran next to one another.
    pub(crate) fn compare(
        name: &str,
        baseline: &str,
        bar: Option<f64>,
        theirs: &Rounds,
        ours: &Rounds,
    ) -> Self {
        let pairs = ours.iter().zip(theirs);
        let ratio = spread(pairs.map(|(ours, theirs)| measure::ratio(ours, theirs)));
        let overall = total(ours).per_second() / total(theirs).per_second();
        let (baseline, figures) = (baseline.to_owned(), Figures::of(theirs));
        let against = Some(Against { baseline, figures, ratio, overall, bar });
        Self { name: name.to_owned(), ours: Figures::of(ours), against }
    }

    pub(crate) fn alone(name: &str, ours: &Rounds) -> Self {
        Self { name: name.to_owned(), ours: Figures::of(ours), against: None }
    }

    /// Whether the median meets the bar; `None` without one.
    pub(crate) fn met(&self) -> Option<bool> {
        let against = self.against.as_ref()?;
        Some(against.ratio.median >= against.bar?)
    }

    /// The row as a line of text.
    pub(crate) fn line(&self) -> String {
        let side = |figures: &Figures| {
            let Figures { rate, per_sync, syncs } = figures;
            format!("{:>9.0} | {syncs:>6.0} × {per_sync:>6.1}", rate.median)
        };
        let mut line = format!("| {:<30} | {} |", self.name, side(&self.ours));
        if let Some(Against { figures, ratio, overall, bar, .. }) = &self.against {
            let Spread { min, median, max } = ratio;
            let bar = match (bar, self.met()) {
                (Some(bar), Some(true)) => format!("{bar:.2} met"),
                (Some(bar), _) => format!("{bar:.2} NOT MET"),
                (None, _) => "none".to_owned(),
            };
            let ratio = format!("{min:>5.2} {median:>5.2} {max:>5.2} | {overall:>5.2}");
            write!(line, " {} | {ratio} | {bar:<12} |", side(figures)).expect("text fits");
        }
        line
    }
}

fn total(rounds: &Rounds) -> Turn {
    let turns = || rounds.iter().flatten();
    Turn {
        records: turns().map(|turn| turn.records).sum(),
        syncs: turns().map(|turn| turn.syncs).sum(),
        elapsed: turns().map(|turn| turn.elapsed).sum(),
    }
}

/// All rows under a heading, and what each was compared with.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "| {:<30} | records/s | fsyncs/s × each | limit/s   | fsyncs/s × each | {:<17} |   all | {:<12} |\n",
        "what", "ratio min med max", "bar"
    );
    for row in rows {
        out.push_str(&row.line());
        out.push('\n');
    }
    out.push_str("\nlimits:\n");
    for row in rows {
        let baseline = row.against.as_ref().map_or("none", |against| &against.baseline);
        writeln!(out, "  {}: {baseline}", row.name).expect("a string takes text");
    }
    out
}

/// The rows as JSON. No name holds a character that would have to be escaped.
pub(crate) fn json(rows: &[Row], plan: &Plan) -> String {
    let side = |figures: &Figures| {
        let Figures { rate: Spread { min, median, max }, per_sync, syncs } = figures;
        format!(
            "{{\"records_per_second\": [{min:.1}, {median:.1}, {max:.1}], \
             \"syncs_per_second\": {syncs:.1}, \"records_per_sync\": {per_sync:.2}}}"
        )
    };
    let row = |row: &Row| {
        let mut out = format!("    {{\"name\": \"{}\", \"ours\": {}", row.name, side(&row.ours));
        if let Some(Against { baseline, figures, ratio, overall, bar }) = &row.against {
            let Spread { min, median, max } = ratio;
            let bar = bar.map_or("null".to_owned(), |bar| format!("{bar:.2}"));
            let met = row.met().map_or("null".to_owned(), |met| met.to_string());
            write!(
                out,
                ", \"limit\": {}, \"limit_is\": \"{baseline}\", \
                 \"ratio\": [{min:.4}, {median:.4}, {max:.4}], \"overall\": {overall:.4}, \"bar\": {bar}, \"met\": {met}",
                side(figures)
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
