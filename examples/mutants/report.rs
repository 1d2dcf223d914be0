//! The table of mutants, for the terminal and for the document.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ackline::simulation::mutants::Mutant;

use crate::trials::{Budget, Kill, Outcome, ROUNDS, RUNS, is_replicated, is_threaded};

/// How many crashes the check script simulates unless it is told otherwise, see `.ci/run`.
const CI_CRASHES: u64 = 3_000_000;

const HEAD: &str = "\
# Mutants

A test that has never failed proves little. So bugs are built into the queue, one at a time, each
one that a careful engineer could make, and the tests of the simulation must find every one of them.
`src/mutant.rs` names the mutants; a hook is one line at the place of the bug, and is gone from a
build without the feature `mutants`. A mutant that is not found is a hole in what the simulation
does or checks, and is closed there.

This document is written by the program that tries them, which fails if one survives a trial:

```text
cargo run --release --features simulation,mutants --example mutants -- --write docs/mutants.md
```
";

/// What the trials of one mutant say together.
struct Row<'a> {
    mutant: Mutant,
    survived: usize,
    median: u64,
    most: u64,
    /// Who found it, the most frequent first.
    labels: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn of(mutant: Mutant, outcomes: &'a [Outcome]) -> Self {
        let kills: Vec<&Kill> = outcomes.iter().filter_map(|found| found.kill.as_ref()).collect();
        let mut after: Vec<u64> = kills.iter().map(|kill| kill.after).collect();
        after.sort_unstable();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for kill in &kills {
            *counts.entry(kill.label.as_str()).or_default() += 1;
        }
        let mut labels: Vec<&str> = counts.keys().copied().collect();
        labels.sort_by_key(|label| std::cmp::Reverse(counts[label]));
        Self {
            mutant,
            survived: outcomes.len() - kills.len(),
            median: after.get(after.len() / 2).copied().unwrap_or(0),
            most: after.last().copied().unwrap_or(0),
            labels,
        }
    }

    fn unit(&self) -> &'static str {
        if is_threaded(self.mutant) {
            "rounds"
        } else if is_replicated(self.mutant) {
            "runs"
        } else {
            "crashes"
        }
    }
}

/// Prints the table; returns how many mutants survived a trial.
pub(crate) fn print(table: &[(Mutant, Vec<Outcome>)], budget: &Budget, took: Duration) -> usize {
    let rows: Vec<Row<'_>> = table.iter().map(|(mutant, found)| Row::of(*mutant, found)).collect();
    println!("{:<26} {:>7} {:>7}          found by", "mutant", "median", "most");
    for row in &rows {
        let found_by = row.labels.join("; ");
        let (name, unit) = (row.mutant.name(), row.unit());
        print!("{name:<26} {:>7} {:>7} {unit:<8} {found_by}", row.median, row.most);
        match row.survived {
            0 => println!(),
            survived => println!(" SURVIVED {survived} of {} trials", budget.trials),
        }
    }
    let survivors = rows.iter().filter(|row| row.survived > 0).count();
    println!(
        "{} mutants, {} trials of at most {} crashes each, seed {}, in {} s: {} survived a trial",
        rows.len(),
        budget.trials,
        budget.crashes,
        budget.seed,
        took.as_secs(),
        if survivors == 0 { "none".to_owned() } else { survivors.to_string() },
    );
    survivors
}

/// The document, with a table for each area.
pub(crate) fn document(table: &[(Mutant, Vec<Outcome>)], budget: &Budget) -> String {
    let mut text = HEAD.to_owned();
    let Budget { trials, crashes, seed } = budget;
    let share = if *crashes == CI_CRASHES / 100 {
        ", which is 1 % of what the check script runs"
    } else {
        ""
    };
    write!(
        text,
        "\n{} mutants. Each was tried {trials} times, with seeds of its own (from {seed}), for at\n\
         most {crashes} simulated crashes{share}. The figures\n\
         are the crashes that it took: the median of the trials, and the most. The code as it is\n\
         passed as many trials of the same length. Mutants of wake-ups are looked for by threads\n\
         on a simulated disk, in at most {ROUNDS} rounds of about a hundred operations, counted\n\
         instead of crashes: one that loses a wake-up leaves a round standing still. Mutants of\n\
         replication are looked for in at most {RUNS} runs of the replicated simulation, counted\n\
         instead of crashes.\n",
        table.len(),
    )
    .expect("a string takes everything");
    let mut area = "";
    for (mutant, found) in table {
        let row = Row::of(*mutant, found);
        if mutant.area() != area {
            area = mutant.area();
            let title: String = area.chars().take(1).flat_map(char::to_uppercase).collect();
            let unit = row.unit();
            write!(
                text,
                "\n## {title}{}\n\n| mutant | what goes wrong | found by | {unit}, median | most |\n\
                 |---|---|---|--:|--:|\n",
                &area[1..]
            )
            .expect("a string takes everything");
        }
        let found_by = row.labels.join("; ");
        let (name, what) = (mutant.name(), mutant.what());
        writeln!(text, "| {name} | {what} | {found_by} | {} | {} |", row.median, row.most)
            .expect("a string takes everything");
    }
    text
}
