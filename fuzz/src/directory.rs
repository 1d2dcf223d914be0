//! A log's directory in which files were damaged, cut, lost, renamed, swapped or added, and in which
//! a replica may have promised anything.
//!
//! Opening it must answer `Ok` or a typed error and never panic. What can be read must be what
//! was written, at the offset at which it was written.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ackline::replicate::{Quorum, QuorumOptions};
use ackline::simulation::{SimClock, SimDisk, salvage_on};
use ackline::{Epoch, Error, Log, Record};

use crate::{Bytes, File, disk_with, files_of, options, read_all, use_and_reopen};

/// A whole log, and what it holds.
struct Original {
    files: Vec<File>,
    payloads: HashMap<(String, u64), Vec<u8>>,
}

/// Damages one of a few logs as `data` says, and opens it.
pub fn run(data: &[u8]) {
    static ORIGINALS: OnceLock<Vec<Original>> = OnceLock::new();
    let originals = ORIGINALS.get_or_init(|| (0..4).map(make).collect());
    let mut bytes = Bytes::new(data);
    let original = &originals[bytes.below(originals.len())];
    let mut files = original.files.clone();
    for _ in 0..16 {
        if bytes.is_empty() {
            break;
        }
        damage(&mut files, &mut bytes);
    }
    let (disk, clock) = (disk_with(&files, 1), SimClock::new());
    if files.iter().any(|(name, _)| name == "REPLICA") {
        return open_replica(original, &disk, &clock);
    }
    match options(&disk, &clock).open_on(disk.storage()) {
        Ok(log) => check_and_use(original, log, &disk, &clock),
        Err(Error::Corrupt { .. }) => salvage(original, &disk, &clock),
        Err(Error::UnsupportedVersion { .. } | Error::ForeignFile { .. }) => {}
        Err(error) => panic!("an unexpected answer to a damaged directory: {error:?}"),
    }
}

/// Opens what is a replica's, alone, and lets it lead where an epoch is left for that: twice, so
/// that what was appended must still be there.
fn open_replica(original: &Original, disk: &SimDisk, clock: &SimClock) {
    let mut appended = None;
    for _ in 0..2 {
        let alone = Quorum::new(&QuorumOptions::new(1), Vec::new()).expect("one of one");
        let options = options(disk, clock).replicator(Arc::new(alone.clone()));
        let log = match options.open_on(disk.storage()) {
            Ok(log) => log,
            // It is to be cut where it has no segment any more.
            Err(
                Error::Corrupt { .. }
                | Error::UnsupportedVersion { .. }
                | Error::ForeignFile { .. }
                | Error::NotContinuous { .. },
            ) => return,
            Err(error) => panic!("an unexpected answer to a damaged replica: {error:?}"),
        };
        let Err(Error::Fenced { epoch: Epoch(promised) }) = alone.campaign(Epoch(0)) else {
            panic!("a replica never leads an epoch that it has promised");
        };
        let led = match alone.campaign(Epoch(promised + 1)) {
            Ok(()) => true,
            // The last epoch of all was promised.
            Err(Error::InvalidOption { .. }) => false,
            Err(error) => panic!("it leads alone: {error:?}"),
        };
        let Ok(topic) = log.topic("fuzzed") else { return };
        let receipt = topic.append("appended");
        assert!(led || receipt.is_err(), "who does not lead takes nothing");
        if let Some(offset) = appended.filter(|_| led) {
            let message = topic.read_from(offset).expect("it is there").next();
            let message = message.expect("what was appended is there").expect("it can be read");
            assert_eq!(message.payload(), b"appended", "what was appended reads back");
            return;
        }
        check(original, &log);
        appended = receipt.ok().map(|receipt| receipt.offset);
        drop(log.close());
    }
}

fn check_and_use(original: &Original, log: Log, disk: &SimDisk, clock: &SimClock) {
    check(original, &log);
    match use_and_reopen(log, disk, clock) {
        // Older segments are not read when a log is opened: their damage shows later.
        Ok(()) | Err(Error::Corrupt { .. } | Error::Poisoned { .. }) => {}
        Err(error) => panic!("a log that opened goes on: {error:?}"),
    }
}

fn salvage(original: &Original, disk: &SimDisk, clock: &SimClock) {
    match salvage_on(&*disk.storage()) {
        Ok(_) => {}
        Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. }) => return,
        Err(error) => panic!("an unexpected answer of salvage: {error:?}"),
    }
    let log = options(disk, clock).open_on(disk.storage()).expect("what was salvaged opens");
    for name in log.topics() {
        if let Ok(topic) = log.topic(&name) {
            let (_, error) = read_all(&topic);
            assert!(error.is_none(), "what was salvaged can be read: {error:?}");
        }
    }
    check_and_use(original, log, disk, clock);
}

/// What can be read is what was written.
fn check(original: &Original, log: &Log) {
    for name in log.topics() {
        let Ok(topic) = log.topic(&name) else { continue };
        for message in read_all(&topic).0 {
            // Neither a topic whose name salvage could not find nor what was appended here is compared.
            if name.starts_with("lost topic") || name == "fuzzed" {
                continue;
            }
            let written = original.payloads.get(&(name.clone(), message.offset().0));
            let written = written.expect("nothing is invented");
            assert_eq!(message.payload(), written, "nothing is altered");
        }
    }
}

fn damage(files: &mut Vec<File>, bytes: &mut Bytes<'_>) {
    if files.is_empty() {
        return;
    }
    let kind = bytes.u8();
    if kind >= 250 {
        return files.push(("REPLICA".to_owned(), promises(bytes)));
    }
    let (kind, i) = (kind % 10, bytes.below(files.len()));
    let at = bytes.below(files[i].1.len());
    let content = &mut files[i].1;
    match kind {
        0 if !content.is_empty() => content[at] ^= 1 << (bytes.u8() % 8),
        1 => content.truncate(at),
        2 => drop(files.remove(i)),
        3 => {
            let other = bytes.below(files.len());
            let name = std::mem::take(&mut files[i].0);
            files[i].0 = std::mem::replace(&mut files[other].0, name);
        }
        4 => {
            let end = (at + bytes.below(1024)).min(content.len());
            content[at.min(end)..end].fill(0);
        }
        5 => {
            let length = usize::from(bytes.u8());
            let new = bytes.take(length).to_vec();
            let end = (at + new.len()).min(content.len());
            let at = at.min(end);
            content[at..end].copy_from_slice(&new[..end - at]);
        }
        6 => {
            // A sector that is stale or was written to the wrong place.
            let (sectors, to) = (content.len() / 512, bytes.u8());
            if sectors > 0 {
                let from = at / 512 % sectors * 512;
                content.copy_within(from..from + 512, usize::from(to) % sectors * 512);
            }
        }
        7 => files[i].0 = format!("{:020}.seg", bytes.below(8192) & !7),
        8 => {
            let names = ["spare.tmp", "00000000000000000000.tmp", "17.seg", "notes", ".hidden"];
            let length = usize::from(bytes.u8());
            let name = names[bytes.below(names.len())];
            files.push((name.to_owned(), bytes.take(length).to_vec()));
        }
        _ => content.extend_from_slice(&vec![bytes.u8(); bytes.below(2048)]),
    }
}

/// What a replica has promised, in two slots of which some are what one can have written.
fn promises(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut file = vec![0; 4096 + 512];
    for at in [0, 4096] {
        let slot = &mut file[at..at + 512];
        let (is_whole, length) = (!bytes.u8().is_multiple_of(4), usize::from(bytes.u8()));
        let content = bytes.take(length);
        slot[..content.len()].copy_from_slice(content);
        if is_whole {
            slot[..5].copy_from_slice(b"AKLR\x01");
            let checksum = crc32fast::hash(&slot[..508]);
            slot[508..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    file
}

/// Makes a log of several segments with two topics and a group.
fn make(variant: usize) -> Original {
    let (disk, clock) = (SimDisk::new(variant as u64), SimClock::new());
    let mut payloads = HashMap::new();
    let log = options(&disk, &clock).open_on(disk.storage()).expect("opens");
    for i in 0..60_usize {
        let name = if i % 3 == 0 { "a" } else { "b" };
        let topic = log.topic(name).expect("a topic");
        let payload = vec![b'0' + (i % 70) as u8; (i * 37) % 300];
        let record = Record::new(payload.clone()).key([i as u8]).tag("t").header("h", "v");
        let receipt = topic.append(record).expect("appends");
        payloads.insert((name.to_owned(), receipt.offset.0), payload);
        if i % 20 == 10 {
            let group = topic.group("g").expect("a group");
            for delivery in group.poll(5, Duration::ZERO).expect("polls") {
                delivery.ack().expect("acks");
            }
            group.commit().expect("commits");
        }
        if variant < 2 {
            log.maintain().expect("maintains");
        }
    }
    if variant.is_multiple_of(2) {
        log.close().expect("closes");
    } else {
        disk.kill();
    }
    Original { files: files_of(&disk), payloads }
}
