//! The TCP example as a program: nodes that are killed lose nothing, and its check can fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example lies beside the tests; `cargo test` builds it before it runs any of them.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.parent().and_then(Path::parent).expect("tests are two levels down");
    let example = profile.join("examples").join("replicated_tcp");
    assert!(example.exists(), "first run: cargo build --example replicated_tcp");
    example
}

fn check(arguments: &[&str], status: i32, lost: &str) {
    let Output { status: ended, stdout, stderr } =
        Command::new(example()).args(arguments).output().expect("the example runs");
    let shown = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(ended.code(), Some(status), "{shown}");
    let row = shown.lines().find_map(|line| line.strip_prefix("acknowledged and lost"));
    assert_eq!(row.map(str::trim), Some(lost), "{shown}");
}

#[test]
fn two_nodes_that_are_killed_lose_nothing_that_was_acknowledged() {
    check(&["--kills", "4"], 0, "0");
}

#[test]
fn three_nodes_that_are_killed_lose_nothing_that_was_acknowledged() {
    check(&["--kills", "4", "--nodes", "3"], 0, "0");
}

#[test]
fn a_lost_record_is_told() {
    check(&["--kills", "1", "--pretend-lost"], 1, "1");
}
