//! The table that people read in a terminal, and the file that programs read.

use std::fmt::Write as _;

use crate::count::{Counted, Counts, SYNCS};
use crate::latency::{self, Latency};
use crate::machine::{Machine, version};
use crate::measure::Spread;
use crate::peer::{Kind, Mode};
use crate::results::{Figures, Results, Row};
use crate::workload::Work;

/// What stands where strace counted nothing.
pub(crate) const NOT_COUNTED: &str = "not counted";

/// One workload as lines of text.
pub(crate) fn table(row: &Row, results: &Results) -> String {
    let mut out = format!(
        "\n{}; limit: {}, {:.0} records/s\n",
        row.workload.name(),
        row.workload.limit(),
        row.limit.median
    );
    writeln!(
        out,
        "| {:<12} | records/s | {:<20} | {:<20} | syncs of one |",
        "peer", "/limit min med max", "/ackline min med max"
    )
    .expect("a string takes text");
    for (kind, outcome) in &row.cells {
        let line = match outcome {
            Ok(Figures { rate, to_limit, to_ours, .. }) => {
                let to_ours = to_ours.as_ref().map_or(String::new(), spread);
                let syncs = match (row.workload.work, results.counted(kind)) {
                    (Work::Append(Mode::Unsynced) | Work::Read | Work::Submit, _) => String::new(),
                    (_, None) => NOT_COUNTED.to_owned(),
                    (Work::Batch, Some(counted)) => number(counted.batch.all_syncs()),
                    (Work::Ack, Some(counted)) => {
                        counted.ack.as_ref().map_or(String::new(), |ack| number(ack.all_syncs()))
                    }
                    (_, Some(counted)) => number(counted.append.all_syncs()),
                };
                format!(
                    "| {:<12} | {:>9.0} | {:<20} | {to_ours:<20} | {syncs:>12} |",
                    kind.name,
                    rate.median,
                    spread(to_limit)
                )
            }
            Err(failure) => format!("| {:<12} | failed: {failure}", kind.name),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// What was counted, as lines of text.
pub(crate) fn counts_table(results: &Results) -> String {
    let mut out = String::from(
        "\nsystem calls of one durable append, of one batch of 100, and of one \
         acknowledgement:\n",
    );
    for (kind, counted) in &results.counts {
        let line = match counted {
            Ok(Counted { append, batch, ack }) => {
                let ack = ack.as_ref().map_or("none".to_owned(), calls);
                format!("{}; batch: {}; ack: {ack}", calls(append), calls(batch))
            }
            Err(failure) => format!("{NOT_COUNTED}: {failure}"),
        };
        writeln!(out, "  {:<12} {line}", kind.name).expect("a string takes text");
    }
    out
}

/// The calls in words.
pub(crate) fn calls(counts: &Counts) -> String {
    let syncs = SYNCS.iter().zip(counts.syncs).filter(|(_, count)| *count > 0.0);
    let mut words: Vec<_> =
        syncs.map(|(name, count)| format!("{} {name}", number(count))).collect();
    if counts.opened_sync {
        words.push("file opened with O_SYNC".to_owned());
    } else if words.is_empty() {
        words.push("no sync".to_owned());
    }
    words.push(format!("{} writes", number(counts.writes)));
    words.join(", ")
}

/// As many digits as say something.
pub(crate) fn number(figure: f64) -> String {
    // What rounds up to a tenth has two digits behind the point, like a tenth.
    match figure {
        0.0 => "0".to_owned(),
        ..0.0995 => format!("{figure:.3}"),
        ..9.995 => format!("{figure:.2}"),
        ..99.95 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// The least, the middle and the greatest ratio.
pub(crate) fn spread(spread: &Spread) -> String {
    let Spread { min, median, max } = spread;
    format!("{} {} {}", number(*min), number(*median), number(*max))
}

/// Everything as JSON.
pub(crate) fn json(results: &Results, machine: &Machine) -> String {
    let rows: Vec<_> = results.rows.iter().map(json_row).collect();
    let counts: Vec<_> = results.counts.iter().map(json_counts).collect();
    let failures: Vec<_> = results.failures.iter().map(|failure| quoted(failure)).collect();
    format!(
        "{{\n  \"machine\": {{\"processor\": {}, \"cores\": {}, \"memory\": {}, \
         \"file_system\": {}, \"kernel\": {}, \"load\": {}}},\n  \
         \"seconds\": {}, \"rounds\": {},\n  \
         \"peers\": [\n{}\n  ],\n  \"workloads\": [\n{}\n  ],\n  \"failures\": [{}]\n}}\n",
        quoted(&machine.processor),
        machine.cores,
        quoted(&machine.memory),
        quoted(&machine.file_system),
        quoted(&machine.kernel),
        quoted(&results.load),
        results.seconds,
        results.rounds,
        counts.join(",\n"),
        rows.join(",\n"),
        failures.join(", ")
    )
}

fn json_counts((kind, counted): &(&Kind, Result<Counted, String>)) -> String {
    let calls = |counts: &Counts| {
        let syncs = SYNCS.iter().zip(counts.syncs);
        let syncs: Vec<_> = syncs.map(|(name, count)| format!("\"{name}\": {count:.3}")).collect();
        let (writes, opened_sync) = (counts.writes, counts.opened_sync);
        let verdict = format!("{:?}", counts.verdict());
        format!(
            "{{{}, \"writes\": {writes:.3}, \"opened_sync\": {opened_sync}, \"verdict\": {}}}",
            syncs.join(", "),
            quoted(&verdict)
        )
    };
    let counted = match counted {
        Ok(Counted { append, batch, ack }) => {
            let (append, batch) = (calls(append), calls(batch));
            let ack = ack.as_ref().map_or("null".to_owned(), calls);
            format!("\"append\": {append}, \"batch\": {batch}, \"ack\": {ack}")
        }
        Err(failure) => format!("\"not_counted\": {}", quoted(failure)),
    };
    let version = quoted(version(kind.name));
    format!("    {{\"name\": {}, \"version\": {version}, {counted}}}", quoted(kind.name))
}

fn json_row(row: &Row) -> String {
    let cell = |(kind, outcome): &(&Kind, Result<Figures, String>)| {
        let figures = match outcome {
            Ok(Figures { rate, to_limit, to_ours, latency }) => format!(
                "\"records_per_second\": {}, \"to_limit\": {}, \"to_ackline\": {}, \
                 \"latency_microseconds\": {}, \"latency_to_limit\": {}",
                json_spread(rate),
                json_spread(to_limit),
                to_ours.as_ref().map_or("null".to_owned(), json_spread),
                json_percentiles(latency.as_ref().map(|latency: &Latency| &latency.micros)),
                json_percentiles(latency.as_ref().map(|latency| &latency.to_limit))
            ),
            Err(failure) => format!("\"failed\": {}", quoted(failure)),
        };
        format!("      {{\"peer\": {}, {figures}}}", quoted(kind.name))
    };
    let cells: Vec<_> = row.cells.iter().map(cell).collect();
    format!(
        "    {{\"name\": {}, \"limit_is\": {}, \"limit_records_per_second\": {}, \
         \"limit_latency_microseconds\": {}, \"peers\": [\n{}\n    ]}}",
        quoted(&row.workload.name()),
        quoted(row.workload.limit()),
        json_spread(&row.limit),
        json_percentiles(row.limit_latency.as_ref()),
        cells.join(",\n")
    )
}

fn json_percentiles(percentiles: Option<&latency::Percentiles>) -> String {
    let Some(percentiles) = percentiles else { return "null".to_owned() };
    let percentiles: Vec<_> = latency::NAMES
        .iter()
        .zip(percentiles)
        .map(|(name, spread)| format!("\"{name}\": {}", json_spread(spread)))
        .collect();
    format!("{{{}}}", percentiles.join(", "))
}

fn json_spread(Spread { min, median, max }: &Spread) -> String {
    format!("[{min:.4}, {median:.4}, {max:.4}]")
}

/// A string of JSON.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes text");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
