//! What the children measured, as rates and ratios.

use crate::child::Sides;
use crate::count::Counted;
use crate::latency::{self, Latency};
use crate::measure::{self, Measured, Spread, Turn, spread};
use crate::peer::{Kind, OURS};
use crate::workload::Workload;

/// The figures of one peer in one workload. Ratios are taken between turns next to one another.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Records in a second.
    pub(crate) rate: Spread,
    pub(crate) to_limit: Spread,
    /// `None` for ackline itself.
    pub(crate) to_ours: Option<Spread>,
    /// Where each operation was timed, on both sides.
    pub(crate) latency: Option<Latency>,
}

/// What came of one peer in one workload.
pub(crate) type Outcome = Result<Figures, String>;

/// One workload.
pub(crate) struct Row {
    pub(crate) workload: Workload,
    /// The rate of the limit.
    pub(crate) limit: Spread,
    /// The percentiles of the limit, in microseconds.
    pub(crate) limit_latency: Option<latency::Percentiles>,
    /// In the order of the list of peers; without those that it does not suit.
    pub(crate) cells: Vec<(&'static Kind, Outcome)>,
}

/// Everything that a run found.
pub(crate) struct Results {
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    /// The load of the machine when it began.
    pub(crate) load: String,
    pub(crate) rows: Vec<Row>,
    /// What was counted for each peer, or why it was not.
    pub(crate) counts: Vec<(&'static Kind, Result<Counted, String>)>,
    /// What failed, for people.
    pub(crate) failures: Vec<String>,
}

impl Results {
    pub(crate) fn counted(&self, kind: &Kind) -> Option<&Counted> {
        let found = self.counts.iter().find(|(counted, _)| counted.name == kind.name);
        found?.1.as_ref().ok()
    }
}

impl Row {
    /// Puts together what the children of one workload found. ackline and the limit ran in every
    /// one of them, so their figures are over all; `None` if all children failed.
    pub(crate) fn new(
        workload: Workload,
        measured: Vec<(&'static Kind, Result<Sides, String>)>,
    ) -> Option<Self> {
        let nothing = || Measured { rounds: Vec::new(), latencies: Vec::new() };
        let (mut limit, mut ours) = (nothing(), nothing());
        let mut cells = Vec::new();
        for (kind, sides) in measured {
            let figures = sides.map(|mut sides| {
                // Where ackline was the peer there is no third.
                let theirs = (sides.len() > 2).then(|| sides.remove(2));
                let figures = theirs.map(|theirs| Figures {
                    to_ours: Some(ratios(&theirs, &sides[1])),
                    ..Figures::new(&theirs, &sides[0])
                });
                for (pool, side) in [&mut limit, &mut ours].into_iter().zip(sides) {
                    pool.rounds.extend(side.rounds);
                    pool.latencies.extend(side.latencies);
                }
                figures
            });
            if let Some(figures) = figures.transpose() {
                cells.push((kind, figures));
            }
        }
        if limit.rounds.is_empty() {
            return None;
        }
        cells.insert(0, (OURS, Ok(Figures::new(&ours, &limit))));
        let limit_latency = latency::percentiles(&limit.latencies);
        Some(Self { workload, limit: rates(&limit.rounds), limit_latency, cells })
    }

    pub(crate) fn outcome(&self, kind: &Kind) -> Option<&Outcome> {
        self.cells.iter().find(|(own, _)| own.name == kind.name).map(|(_, outcome)| outcome)
    }
}

impl Figures {
    fn new(measured: &Measured, limit: &Measured) -> Self {
        Self {
            rate: rates(&measured.rounds),
            to_limit: ratios(measured, limit),
            to_ours: None,
            latency: Latency::new(&measured.latencies, &limit.latencies),
        }
    }
}

fn rates(rounds: &[Vec<Turn>]) -> Spread {
    spread(rounds.iter().map(|round| measure::per_second(round)))
}

fn ratios(ours: &Measured, theirs: &Measured) -> Spread {
    let rounds = ours.rounds.iter().zip(&theirs.rounds);
    spread(rounds.map(|(ours, theirs)| measure::ratio(ours, theirs)))
}
