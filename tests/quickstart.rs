//! The quickstart example as a program: it tells the truth about what went through the queue,
//! and its check can fail.
#![allow(clippy::disallowed_methods, reason = "the example works on files")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example lies beside the tests; `cargo test` builds it before it runs any of them.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.parent().and_then(Path::parent).expect("tests are two levels down");
    let example = profile.join("examples").join("quickstart");
    assert!(example.exists(), "first run: cargo build --example quickstart");
    example
}

fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    Command::new(example()).args(arguments).output().expect("the example runs")
}

fn table(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The numbers of a row of the table.
fn row(output: &Output, name: &str) -> Vec<u64> {
    let table = table(output);
    let row = table.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    row.split_whitespace().map_while(|number| number.parse().ok()).collect()
}

fn check_clean(output: &Output, lines: u64) {
    let shown = format!("{}{}", table(output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(row(output, "lines in"), [lines, lines], "{shown}");
    assert_eq!(row(output, "lines delivered"), [lines, lines], "{shown}");
    assert!(table(output).ends_with("\nlost 0\n"), "{shown}");
    assert!(shown.contains("SIGKILL"), "{shown}");
}

fn file(directory: &Path, name: &[u8], content: &[u8]) -> PathBuf {
    let path = directory.join(OsStr::from_bytes(name));
    fs::write(&path, content).expect("writes an input file");
    path
}

/// Lines of all lengths with every byte but the line end.
fn odd_bytes(lines: u32) -> Vec<u8> {
    let mut content = Vec::new();
    for i in 0..lines {
        let line = (0..i % 97).map(|j| (i * 31 + j * 7).to_le_bytes()[0]);
        content.extend(line.filter(|byte| *byte != b'\n'));
        content.push(b'\n');
    }
    content
}

#[test]
fn odd_lines_go_through_a_killed_consumer_once_and_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    let inputs = [
        file(dir.path(), b"odd.bin", &odd_bytes(3000)),
        file(dir.path(), b"empty lines.txt", b"\n\n one\n\n\n"),
        file(dir.path(), b"dos.txt", b"one\r\ntwo words\r\n\r\n"),
        file(dir.path(), b"unfinished.txt", b"an end\nwithout a line end"),
        file(dir.path(), b"no extension", b"same\nsame\nsame\n"),
        file(dir.path(), b"empty.txt", b""),
        file(dir.path(), b"not \xff utf8.t\xfft", b"a name that is not text\n"),
    ];
    check_clean(&run(&inputs), 3000 + 5 + 3 + 2 + 3 + 1);
}

#[test]
fn the_archive_of_one_file_is_that_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let content = odd_bytes(2000);
    let input = file(dir.path(), b"input.txt", &content);
    let kept = dir.path().join("kept");
    let arguments = [OsStr::new("--dir"), kept.as_os_str(), input.as_os_str()];
    check_clean(&run(arguments), 2000);
    let archived = fs::read(kept.join("archive/txt.lines")).expect("reads the archive");
    assert!(archived == content);
    // The directory holds a queue now: a second run would mix with it.
    let again = run(arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds a queue already"));
}

#[test]
fn one_line_and_no_line_are_enough() {
    let dir = tempfile::tempdir().expect("a directory");
    check_clean(&run([file(dir.path(), b"one", b"one line")]), 1);
    check_clean(&run([file(dir.path(), b"none", b"")]), 0);
}

#[test]
fn a_line_that_is_left_out_fails_the_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let input = file(dir.path(), b"input.txt", &odd_bytes(200));
    let output = run([OsStr::new("--pretend-lost"), input.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(row(&output, "lines in"), [200, 200]);
    assert_eq!(row(&output, "lost"), [1, 1]);
    assert!(table(&output).ends_with("\nlost 1\n"));
}

#[test]
fn a_line_over_the_limit_is_refused_by_its_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut content = b"first\n".to_vec();
    content.resize(content.len() + 4 * 1024 * 1024, b'x');
    let fits = run([file(dir.path(), b"fits.txt", &content)]);
    check_clean(&fits, 2);
    content.push(b'x');
    let output = run([file(dir.path(), b"long.txt", &content)]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("long.txt: line 2 is longer than the limit"), "{told}");
}

#[test]
fn a_missing_file_and_an_unknown_option_are_named() {
    for argument in ["no/such/file", "--no-such-option"] {
        let output = run([argument]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(argument), "{output:?}");
    }
    assert_eq!(run(["--help"]).status.code(), Some(0));
}
