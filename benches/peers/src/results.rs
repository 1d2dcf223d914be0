//! What the children measured, as rates and ratios.

use crate::child::Rounds;
use crate::count::Counted;
use crate::measure::{self, Spread, Turn, spread};
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
}

/// What came of one peer in one workload.
pub(crate) type Outcome = Result<Figures, String>;

/// One workload.
pub(crate) struct Row {
    pub(crate) workload: Workload,
    /// The rate of the limit.
    pub(crate) limit: Spread,
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
        measured: Vec<(&'static Kind, Result<Rounds, String>)>,
    ) -> Option<Self> {
        let (mut limit, mut ours) = (Vec::new(), Vec::new());
        let mut cells = Vec::new();
        for (kind, rounds) in measured {
            let figures = rounds.map(|rounds| {
                limit.extend(rounds[0].iter().cloned());
                ours.extend(rounds[1].iter().cloned());
                let theirs = rounds.get(2)?;
                let to_ours = Some(ratios(theirs, &rounds[1]));
                let to_limit = ratios(theirs, &rounds[0]);
                Some(Figures { rate: rates(theirs), to_limit, to_ours })
            });
            // Where ackline was the peer it is in the pool.
            if let Some(figures) = figures.transpose() {
                cells.push((kind, figures));
            }
        }
        if limit.is_empty() {
            return None;
        }
        let figures =
            Figures { rate: rates(&ours), to_limit: ratios(&ours, &limit), to_ours: None };
        cells.insert(0, (OURS, Ok(figures)));
        Some(Self { workload, limit: rates(&limit), cells })
    }

    pub(crate) fn outcome(&self, kind: &Kind) -> Option<&Outcome> {
        self.cells.iter().find(|(own, _)| own.name == kind.name).map(|(_, outcome)| outcome)
    }
}

fn rates(rounds: &[Vec<Turn>]) -> Spread {
    spread(rounds.iter().map(|round| measure::per_second(round)))
}

fn ratios(ours: &[Vec<Turn>], theirs: &[Vec<Turn>]) -> Spread {
    spread(ours.iter().zip(theirs).map(|(ours, theirs)| measure::ratio(ours, theirs)))
}
