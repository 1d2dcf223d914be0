//! How long single operations took: percentiles of each round, and their table.

use crate::count::Verdict;
use crate::docs::add;
use crate::measure::{Latencies, Spread, spread};
use crate::peer::{Kind, Mode};
use crate::report::number;
use crate::results::{Results, Row};
use crate::workload::Work;

/// Which ones.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
pub(crate) const NAMES: [&str; 3] = ["p50", "p99", "p99.9"];
/// Where they lie on a logarithmic axis: one operation in so many took longer.
pub(crate) const PLACES: [f64; 3] = [2.0, 100.0, 1000.0];

/// In the order of [`NAMES`], over the rounds.
pub(crate) type Percentiles = [Spread; 3];

/// The latency of one side.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    /// In microseconds.
    pub(crate) micros: Percentiles,
    /// Each round against the same percentile of the limit in the same round.
    pub(crate) to_limit: Percentiles,
}

impl Latency {
    /// `None` where not every operation of both was timed.
    pub(crate) fn new(own: &[Latencies], limit: &[Latencies]) -> Option<Self> {
        let micros = percentiles(own)?;
        percentiles(limit)?;
        let to_limit = QUANTILES.map(|quantile| {
            let rounds = own.iter().zip(limit);
            spread(rounds.map(|(own, limit)| at(own, quantile) / at(limit, quantile)))
        });
        Some(Self { micros, to_limit })
    }
}

/// The percentiles of one side in microseconds; `None` where a round has none.
pub(crate) fn percentiles(rounds: &[Latencies]) -> Option<Percentiles> {
    if rounds.is_empty() || rounds.iter().any(Latencies::is_empty) {
        return None;
    }
    Some(QUANTILES.map(|quantile| spread(rounds.iter().map(|round| at(round, quantile)))))
}

/// In microseconds.
#[allow(clippy::cast_precision_loss, reason = "no operation takes 52 bits of nanoseconds")]
fn at(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

/// The rows whose latencies are shown, with the percentiles of the limit.
pub(crate) fn rows(results: &Results) -> Vec<(&Row, &Percentiles)> {
    let shown = |row: &&Row| {
        let workload = &row.workload;
        workload.work == Work::Append(Mode::Durable)
            && !workload.compares_topics
            && workload.payload_bytes == 100
            && [1, 16].contains(&workload.threads)
    };
    let rows = results.rows.iter().filter(shown);
    rows.filter_map(|row| Some((row, row.limit_latency.as_ref()?))).collect()
}

/// Those of which it is not known that they do not sync.
pub(crate) fn kinds(results: &Results) -> impl Iterator<Item = &'static Kind> {
    let kinds = results.counts.iter().map(|(kind, _)| *kind);
    kinds.filter(|kind| {
        let counted = results.counted(kind);
        counted.is_none_or(|counted| counted.append.verdict() == Verdict::Synced)
    })
}

pub(crate) fn of<'a>(row: &'a Row, kind: &Kind) -> Option<&'a Latency> {
    row.outcome(kind)?.as_ref().ok()?.latency.as_ref()
}

/// The section of the document; `None` if there is nothing to tell.
pub(crate) fn section(results: &Results, plot: Option<&str>) -> Option<String> {
    let rows = rows(results);
    if rows.is_empty() {
        return None;
    }
    let threads = |(row, _): &(&Row, &Percentiles)| {
        let threads = row.workload.threads_name();
        NAMES.map(|name| format!("{threads}, {name}"))
    };
    let columns = rows.iter().flat_map(threads).collect::<Vec<_>>().join(" | ");
    let lines = "---|".repeat(rows.len() * NAMES.len());
    let mut out = format!(
        "\n## Latency of one durable append

Of 100 B, from the call until it returns; a thread makes its next call at once. Percentiles of each round, divided by
the same percentile of the limit in that round: less is better. In a round of fewer than 1000 appends, the p99.9 is the
slowest of them. Peers that do not sync are left out.

| of the limit | {columns} |\n|---|{lines}\n"
    );
    for kind in kinds(results) {
        let cells = rows.iter().flat_map(|(row, _)| match of(row, kind) {
            Some(latency) => latency.to_limit.map(|spread| ratio(&spread)),
            None => NAMES.map(|_| String::new()),
        });
        let cells: Vec<_> = cells.collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            add(&mut out, &format!("| {} | {} |", kind.name, cells.join(" | ")));
        }
    }
    let limits = rows.iter().flat_map(|(_, limit)| limit.map(|spread| number(spread.median)));
    let limits = limits.collect::<Vec<_>>().join(" | ");
    add(&mut out, &format!("\n| | {columns} |\n|---|{lines}"));
    add(&mut out, &format!("| the limit, microseconds | {limits} |"));
    if let Some(plot) = plot {
        add(&mut out, &format!("\n![Percentiles of the latency]({plot})"));
    }
    Some(out)
}

fn ratio(Spread { min, median, max }: &Spread) -> String {
    format!("{} ({}–{})", number(*median), number(*min), number(*max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::no_latencies;

    /// A round in which one operation in two hundred takes ten times as long.
    fn round(nanoseconds: u64) -> Latencies {
        let mut round = no_latencies();
        round.saturating_record_n(nanoseconds, 995);
        round.saturating_record_n(10 * nanoseconds, 5);
        round
    }

    #[test]
    fn each_percentile_is_compared_with_the_same_one_of_the_same_round() {
        let (own, limit) = ([round(300_000), round(100_000)], [round(100_000), round(50_000)]);
        let Latency { micros, to_limit } = Latency::new(&own, &limit).expect("all were timed");
        let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 0.03;
        for (percentile, expected) in micros.iter().zip([300.0, 300.0, 3000.0]) {
            assert!(near(percentile.max, expected), "{} of {expected}", percentile.max);
        }
        for Spread { min, max, .. } in to_limit {
            assert!(near(min, 2.0) && near(max, 3.0), "{min} to {max}");
        }
    }

    #[test]
    fn there_is_no_latency_where_a_round_was_not_timed() {
        assert!(
            Latency::new(&[round(1000), no_latencies()], &[round(1000), round(1000)]).is_none()
        );
        assert!(Latency::new(&[round(1000)], &[no_latencies()]).is_none());
        assert!(percentiles(&[]).is_none());
    }
}
