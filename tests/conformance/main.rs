//! The conformance suite: what this crate brings along passes it, and replicators that are wrong
//! on purpose do not.

mod mirror;
mod net;
mod pulling;
mod quorum;
mod tcp;
mod wrong;

use std::path::Path;

use ackline::replicate::conformance::{Make, Report, Suite};

/// Plays everything on real directories.
fn play(make: Make<'_>) -> Report {
    let directory = tempfile::tempdir().expect("a directory");
    suite(directory.path()).run(make)
}

fn suite(directory: &Path) -> Suite {
    Suite::in_directory(directory)
}

/// Checks that nothing is wrong, and that no more was left out than is said to.
fn check_passes(report: &Report, skipped: usize) {
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!(report.skipped.len(), skipped, "{report}");
}
