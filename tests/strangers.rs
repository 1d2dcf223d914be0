//! Files that hold what another file or another log wrote: a head from an earlier life, a segment
//! of another log, frames in the payloads of others. None of it is taken for a part of the log,
//! and nothing of the log is lost in silence for it.

#![allow(clippy::disallowed_methods, reason = "files are damaged with the file system's means")]

use std::fs;
use std::path::{Path, PathBuf};

use ackline::{Error, Log, Offset, Options, salvage};
use tempfile::TempDir;

const SECTOR: usize = 512;

fn options() -> Options {
    Options::new().segment_bytes(64 * 1024)
}

/// A closed log with these payloads in the topic `t`.
fn made(payloads: impl IntoIterator<Item = Vec<u8>>) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let log = options().open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    for payload in payloads {
        topic.append(payload).expect("appends");
    }
    log.close().expect("closes");
    dir
}

fn payload(i: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("record {i} ").into_bytes();
    payload.resize(payload.len() + bytes, b'x');
    payload
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path()).expect("lists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "seg")).collect();
    found.sort();
    found
}

fn copy(dir: &TempDir) -> TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for path in segments(dir) {
        fs::copy(&path, to.path().join(path.file_name().expect("a name"))).expect("copies");
    }
    to
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("reads");
    change(&mut bytes);
    fs::write(path, bytes).expect("writes");
}

/// Gives a file the head that another file of the same segment would have: with another salt.
fn give_another_head(path: &Path) {
    change(path, |bytes| {
        bytes[88] ^= 0x55;
        let checksum = crc32fast::hash(&bytes[..124]);
        bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    });
}

fn zero_sector(path: &Path, at: usize) {
    change(path, |bytes| bytes[at..at + SECTOR].fill(0));
}

/// Where the echoes lie: in the last two sectors with room for a header.
fn echoes(path: &Path) -> [usize; 2] {
    let bytes = usize::try_from(fs::metadata(path).expect("there").len()).expect("small");
    let last = (bytes - 64) / SECTOR * SECTOR;
    [last - SECTOR, last]
}

/// The payloads that can be read, and how many stretches are told to be lost.
fn read(log: &Log) -> (Vec<Vec<u8>>, usize) {
    let topic = log.topic("t").expect("a topic");
    let (mut payloads, mut gaps) = (Vec::new(), 0);
    for message in topic.read_from(Offset(0)).expect("reads") {
        match message {
            Ok(message) => payloads.push(message.payload().to_vec()),
            Err(Error::Lagged { .. }) => gaps += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (payloads, gaps)
}

#[test]
fn the_head_of_another_file_and_one_more_lost_sector_hide_nothing() {
    let payloads = || (0..20).map(|i| payload(i, 0));
    let log = made(payloads());
    let path = segments(&log).remove(0);
    for lost in [None, Some(SECTOR), Some(echoes(&path)[0]), Some(echoes(&path)[1])] {
        let damaged = copy(&log);
        let path = segments(&damaged).remove(0);
        give_another_head(&path);
        if let Some(sector) = lost {
            zero_sector(&path, sector);
        }
        let refused = options().open(damaged.path());
        assert!(matches!(refused, Err(Error::Corrupt { byte: 88, .. })), "{lost:?}: {refused:?}");
        salvage(damaged.path()).expect("salvages");
        let (found, _) = read(&options().open(damaged.path()).expect("opens"));
        let spared = lost != Some(SECTOR);
        assert!(!spared || found == payloads().collect::<Vec<_>>(), "{} records", found.len());
    }
}

#[test]
fn opening_a_log_with_a_wrong_head_in_an_older_segment_leaves_it_to_salvage() {
    let payloads = || (0..100).map(|i| payload(i, 1000));
    let log = made(payloads());
    let older = segments(&log);
    give_another_head(&older[older.len() - 2]);
    for opened_first in [false, true] {
        let damaged = copy(&log);
        if opened_first {
            let log = options().open(damaged.path()).expect("the newest segment is whole");
            let reader = log.topic("t").expect("a topic").read_from(Offset(0)).expect("reads");
            assert!(reader.into_iter().any(|message| message.is_err()), "the damage shows");
            log.close().expect("closes");
        }
        let report = salvage(damaged.path()).expect("salvages");
        assert!(report.lost.iter().all(|lost| lost.from == lost.to), "{report:?}");
        let (found, gaps) = read(&options().open(damaged.path()).expect("opens"));
        assert!(gaps == 0 && found == payloads().collect::<Vec<_>>(), "{} records", found.len());
    }
}

#[test]
fn frames_in_payloads_are_not_taken_for_frames_of_the_log() {
    let archived = made((0..60).map(|i| payload(i, 0)));
    let archive = fs::read(&segments(&archived)[0]).expect("reads");
    let padded = (0..8).map(|pad| [&vec![0; pad], &archive[..6000]].concat());
    let payloads: Vec<_> = padded.chain((0..100).map(|i| payload(i, 1000))).collect();
    let log = made(payloads.clone());
    zero_sector(&segments(&log)[0], 0);
    salvage(log.path()).expect("salvages");
    let (found, gaps) = read(&options().open(log.path()).expect("opens"));
    assert!(gaps == 0 && found == payloads, "{} records, {gaps} gaps", found.len());
}

#[test]
fn a_segment_of_another_log_gives_salvage_nothing() {
    let made = |what: &str| made((0..100).map(|i| [what.as_bytes(), &payload(i, 1000)].concat()));
    let (ours, theirs) = (made("ours"), made("theirs"));
    fs::copy(&segments(&theirs)[0], &segments(&ours)[0]).expect("copies");
    assert!(matches!(options().open(ours.path()), Err(Error::Corrupt { .. })));
    let report = salvage(ours.path()).expect("salvages");
    assert!(report.lost[0].from < report.lost[0].to, "{report:?}");
    let (found, gaps) = read(&options().open(ours.path()).expect("opens"));
    assert_eq!(gaps, 1);
    assert!(!found.is_empty() && found.iter().all(|payload| payload.starts_with(b"ours")));
}

#[test]
fn what_salvage_wrote_is_vouched_for_by_more_than_one_sector() {
    let log = made((0..20).map(|i| payload(i, 100)));
    let path = segments(&log).remove(0);
    change(&path, |bytes| bytes[SECTOR + 96 + 70] ^= 1);
    let report = salvage(log.path()).expect("salvages");
    assert_eq!(report.lost.len(), 1);
    let bytes = fs::read(&path).expect("reads");
    let [first, second] = echoes(&path);
    assert!(bytes[first..].starts_with(b"AKLF") && bytes[second..].starts_with(b"AKLF"));
    let mut headers = (0..first).step_by(8).filter(|at| bytes[*at..].starts_with(b"AKLF"));
    let marker = headers.next_back().expect("a marker");
    zero_sector(&path, marker / SECTOR * SECTOR);
    assert!(matches!(options().open(log.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn an_empty_log_whose_marks_are_another_files_leftovers_opens() {
    let empty = || {
        let dir = tempfile::tempdir().expect("a directory");
        options().open(dir.path()).expect("opens").close().expect("closes");
        dir
    };
    let (log, other) = (empty(), empty());
    // The last three headers were written at once, and all were torn.
    let leftovers = fs::read(&segments(&other)[0]).expect("reads");
    change(&segments(&log)[0], |bytes| bytes[SECTOR..].copy_from_slice(&leftovers[SECTOR..]));
    assert!(options().open(log.path()).expect("opens").topics().is_empty());
}
