//! The plots of the document: which figures are drawn, and as what.

use crate::count::Verdict;
use crate::latency::{self, Latency, NAMES, PLACES};
use crate::measure::Spread;
use crate::peer::{self, Kind, OURS};
use crate::plot::{self, Panel, Plot, Series, Style, thousands};
use crate::results::{Results, Row};
use crate::sections::{Group, TOPICS_THREADS};

/// Records in a second against threads.
pub(crate) fn threads(results: &Results) -> Option<String> {
    let rows = results
        .rows
        .iter()
        .filter(|row| Group::Durable.takes(row) && row.workload.payload_bytes == 100);
    let rows: Vec<_> = rows.map(|row| (row, row.workload.threads)).collect();
    let title = "Durable append of 100 B, one record at a time";
    rates(&rows, results, title, "threads that append")
}

/// Records in a second against topics.
pub(crate) fn topics(results: &Results) -> Option<String> {
    let rows = results.rows.iter().filter(|row| Group::Topics.takes(row));
    let rows: Vec<_> = rows.map(|row| (row, row.workload.topics)).collect();
    let title = format!("Durable append of 100 B by {TOPICS_THREADS} threads to many topics");
    rates(&rows, results, &title, "topics")
}

/// A line for the limit and for each peer, over the rows and their places on the x axis.
fn rates(rows: &[(&Row, usize)], results: &Results, title: &str, x_axis: &str) -> Option<String> {
    let numbers = rows.iter().filter_map(|(_, x)| u32::try_from(*x).ok());
    let at: Vec<_> = numbers.map(f64::from).collect();
    let placed = || rows.iter().map(|(row, _)| row).zip(at.iter().copied());
    let of_kind = |kind: &Kind| {
        let points = placed().filter_map(|(row, x)| match row.outcome(kind) {
            Some(Ok(figures)) if figures.rate.median > 0.0 => Some((x, figures.rate.median)),
            _ => None,
        });
        of_peer(kind, results, vec![points.collect()])
    };
    let mut series: Vec<_> = results.counts.iter().map(|(kind, _)| of_kind(kind)).collect();
    series.push(of_limit(vec![placed().map(|(row, x)| (x, row.limit.median)).collect()]));
    let ticks = at.iter().map(|x| (*x, thousands(*x))).collect();
    let panels = vec![Panel { x_axis: x_axis.to_owned(), ticks }];
    draw(title, "records a second", panels, series)
}

/// Percentiles of the latency, in a panel for each number of threads.
pub(crate) fn latency(results: &Results) -> Option<String> {
    let rows = latency::rows(results);
    let points = |micros: &[Spread; 3]| PLACES.into_iter().zip(micros.map(|one| one.median));
    let of_kind = |kind: &Kind| {
        let of_row = |row| latency::of(row, kind).map(|Latency { micros, .. }| points(micros));
        let lines = rows.iter().map(|(row, _)| of_row(row).into_iter().flatten().collect());
        of_peer(kind, results, lines.collect())
    };
    let mut series: Vec<_> = latency::kinds(results).map(of_kind).collect();
    series.push(of_limit(rows.iter().map(|(_, limit)| points(limit).collect()).collect()));
    let ticks = || PLACES.into_iter().zip(NAMES.map(str::to_owned)).collect();
    let panel =
        |(row, _): &(&Row, _)| Panel { x_axis: row.workload.threads_name(), ticks: ticks() };
    let panels = rows.iter().map(panel).collect();
    draw("Latency of one durable append of 100 B", "microseconds", panels, series)
}

fn of_peer(kind: &Kind, results: &Results, points: Vec<Vec<(f64, f64)>>) -> Series {
    let (name, style) = if kind.name == OURS.name {
        (kind.name.to_owned(), Style::Strong)
    } else {
        match results.counted(kind).map(|counted| counted.append.verdict()) {
            Some(Verdict::NotSynced) => (format!("{} (no sync)", kind.name), Style::Dashed),
            Some(Verdict::Halfway) => (format!("{} (halfway)", kind.name), Style::Dashed),
            Some(Verdict::Synced) | None => (kind.name.to_owned(), Style::Plain),
        }
    };
    // The same in every plot; the limit comes after all peers.
    let look = peer::ALL.iter().take_while(|other| other.name != kind.name).count();
    Series { name, look, points, style }
}

fn of_limit(points: Vec<Vec<(f64, f64)>>) -> Series {
    let (name, look) = ("limit".to_owned(), peer::ALL.len());
    Series { name, look, points, style: Style::Dotted }
}

fn draw(title: &str, y_axis: &str, panels: Vec<Panel>, mut series: Vec<Series>) -> Option<String> {
    series.retain(|series| series.points.iter().any(|points| !points.is_empty()));
    plot::svg(&Plot { title, y_axis, panels, series })
}
