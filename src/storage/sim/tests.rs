//! Tests of the simulated disk.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::storage::{LockError, StorageFile};

mod crashes;
mod faults;
mod outcomes;

/// A disk with the durable file `a`.
fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new(7);
    disk.put("a", bytes);
    disk
}

fn open(disk: &SimDisk) -> Arc<dyn StorageFile> {
    disk.storage().open("a").unwrap()
}

/// The distinct outcomes of many power cuts of copies of `disk`, as `look` sees them.
fn outcomes<T: Eq + std::hash::Hash>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> HashSet<T> {
    let mut found = HashSet::new();
    for seed in 0..2000 {
        let fork = disk.fork();
        fork.reseed(seed);
        fork.crash(Crash::Power);
        found.insert(look(&fork));
    }
    found
}

fn kind_of<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("the call must fail").kind()
}

#[test]
fn handles_of_a_dead_process_answer_errors() {
    let disk = disk_with(b"bytes");
    let storage = disk.storage();
    let file = storage.open("a").unwrap();
    disk.kill();
    assert_eq!(kind_of(file.write_at(b"x", 0)), ErrorKind::Other);
    assert_eq!(kind_of(file.read_at(&mut [0], 0)), ErrorKind::Other);
    assert_eq!(kind_of(storage.list()), ErrorKind::Other);
    assert_eq!(kind_of(storage.free_bytes()), ErrorKind::Other);
    assert!(matches!(storage.lock(), Err(LockError::Io(_))));
    assert_eq!(disk.file("a").unwrap(), b"bytes");
}

#[test]
fn a_crash_frees_the_lock_and_a_leaked_guard_cannot_free_the_next_one() {
    let disk = SimDisk::new(1);
    let leaked = disk.storage().lock().unwrap();
    disk.kill();
    let _guard = disk.storage().lock().unwrap();
    drop(leaked);
    assert!(matches!(disk.storage().lock(), Err(LockError::Held { .. })));
}

#[test]
fn a_leaked_handle_cannot_close_a_file_of_the_next_process() {
    let disk = disk_with(b"bytes");
    let leaked = open(&disk);
    disk.kill();
    let file = open(&disk);
    disk.storage().remove("a").unwrap();
    disk.storage().sync_directory().unwrap();
    drop(leaked);
    assert_eq!(file.size().unwrap(), 5);
}

#[test]
fn a_file_without_a_name_goes_with_its_last_handle_or_its_process() {
    let disk = disk_with(b"bytes");
    disk.put("b", b"bytes");
    let (file, _leaked) = (open(&disk), disk.storage().open("b").unwrap());
    disk.storage().remove("a").unwrap();
    disk.storage().remove("b").unwrap();
    disk.storage().sync_directory().unwrap();
    assert_eq!(disk.state().file_count(), 2);
    drop(file);
    assert_eq!(disk.state().file_count(), 1);
    disk.kill();
    assert_eq!(disk.state().file_count(), 0);
}

#[test]
fn a_process_dies_just_before_the_call_that_it_is_told_to() {
    let disk = disk_with(b"12");
    disk.die_at(disk.calls() + 2);
    let file = open(&disk);
    file.write_at(b"x", 0).unwrap();
    assert_eq!(kind_of(file.write_at(b"x", 1)), ErrorKind::Other);
    assert_eq!(disk.file("a").unwrap(), b"x2");
    open(&disk);
}

#[test]
fn a_fork_and_its_origin_do_not_see_each_others_writes() {
    let disk = disk_with(&[1; 10_000]);
    let file = open(&disk);
    file.write_at(&[2; 5000], 0).unwrap();
    let fork = disk.fork();
    let theirs = open(&fork);
    theirs.write_at(&[3; 100], 4090).unwrap();
    theirs.sync().unwrap();
    file.write_at(&[4; 100], 0).unwrap();
    file.sync().unwrap();
    fork.storage().remove("a").unwrap();

    let mut ours = vec![1; 10_000];
    ours[..5000].fill(2);
    let mut expected = ours.clone();
    expected[4090..4190].fill(3);
    ours[..100].fill(4);
    assert_eq!(disk.durable_file("a").unwrap(), ours);
    assert_eq!(fork.durable_file("a").unwrap(), expected);
}

#[test]
fn a_fork_has_no_process_and_no_lock() {
    let disk = disk_with(b"");
    let _guard = disk.storage().lock().unwrap();
    disk.fork().storage().lock().unwrap();
}

/// A small process with every kind of call, and its trace.
fn traced(seed: u64, bytes: &[u8]) -> u64 {
    let disk = SimDisk::new(seed);
    let storage = disk.storage();
    disk.fail_at(3, Fault::Short);
    let file = storage.create("b").unwrap();
    storage.rename("b", "a").unwrap();
    file.allocate(5000).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.write_at(bytes, 4000).unwrap();
    disk.crash(Crash::Power);
    disk.storage().list().unwrap();
    disk.trace_hash()
}

#[test]
fn the_same_seed_and_calls_give_the_same_trace() {
    assert_eq!(traced(1, &[1; 600]), traced(1, &[1; 600]));
}

#[test]
fn another_seed_or_another_byte_gives_another_trace() {
    let mut other = [1; 600];
    other[599] = 2;
    let traces = HashSet::from([traced(1, &[1; 600]), traced(2, &[1; 600]), traced(1, &other)]);
    assert_eq!(traces.len(), 3);
}

#[test]
fn a_full_disk_cuts_a_write_short_and_then_refuses_the_next() {
    let disk = disk_with(b"1234");
    disk.set_capacity(Some(6));
    let file = open(&disk);
    assert_eq!(disk.storage().free_bytes().unwrap(), 2);
    assert_eq!(file.write_at(b"abcdef", 3).unwrap(), 3);
    assert_eq!(kind_of(file.write_at(b"def", 6)), ErrorKind::StorageFull);
    assert_eq!(file.write_at(b"xyz", 0).unwrap(), 3);
    assert_eq!(disk.file("a").unwrap(), b"xyzabc");
}

#[test]
fn a_full_disk_refuses_new_files_and_growth() {
    let disk = disk_with(b"1234");
    disk.set_capacity(Some(4));
    let file = open(&disk);
    assert_eq!(kind_of(disk.storage().create("b")), ErrorKind::StorageFull);
    assert_eq!(kind_of(file.allocate(5)), ErrorKind::StorageFull);
    assert_eq!(kind_of(file.set_size(5)), ErrorKind::StorageFull);
    assert_eq!(disk.counts().fault_no_space, 3);
    file.set_size(1).unwrap();
    disk.storage().create("b").unwrap();
}

#[test]
fn removing_a_file_frees_its_space() {
    let disk = disk_with(b"1234");
    disk.set_capacity(Some(4));
    disk.storage().remove("a").unwrap();
    assert_eq!(disk.storage().free_bytes().unwrap(), 4);
}

#[test]
fn damage_shows_on_the_disk_and_in_the_cache() {
    let disk = disk_with(b"abcd");
    disk.flip_bit("a", 1, 0);
    disk.overwrite("a", 3, b"xyz");
    assert_eq!(disk.file("a").unwrap(), b"accx");
    assert_eq!(disk.durable_file("a").unwrap(), b"accx");
    assert_eq!(disk.counts().bit_rot, 1);
    disk.truncate("a", 2);
    assert_eq!(disk.durable_file("a").unwrap(), b"ac");
    disk.rename_durable("a", "b");
    assert_eq!(disk.durable_file("b").unwrap(), b"ac");
    disk.delete("b");
    disk.crash(Crash::Power);
    assert_eq!(disk.names(), [""; 0]);
}

#[test]
fn a_quarantined_file_survives_a_power_cut_out_of_the_way() {
    let disk = disk_with(b"1");
    disk.storage().quarantine("a").unwrap();
    disk.put("a", b"2");
    disk.storage().quarantine("a").unwrap();
    disk.crash(Crash::Power);
    assert_eq!(disk.names(), [""; 0]);
    assert_eq!(disk.quarantined(), ["a", "a.1"]);
    assert_eq!(disk.quarantined_file("a.1").unwrap(), b"2");
}

#[test]
fn counts_add_up_by_name() {
    let disk = SimDisk::new(1);
    disk.kill();
    let mut sum = disk.counts();
    sum.add(&disk.counts());
    assert_eq!(sum.iter().find(|(name, _)| *name == "kill"), Some(("kill", 2)));
}

#[test]
fn random_numbers_stay_below_their_bound_and_repeat_with_their_seed() {
    let draw = |seed| {
        let mut rng = Rng::new(seed);
        (0..1000).map(|_| rng.below(7)).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1).into_iter().collect::<HashSet<_>>(), (0..7).collect());
}

#[test]
fn a_simulated_clock_moves_only_when_it_is_told_to() {
    let clock = SimClock::new();
    let start = clock.now();
    assert_eq!(clock.now(), start);
    clock.clone().advance(Duration::from_millis(1500));
    assert_eq!(clock.monotonic(), start.monotonic + Duration::from_millis(1500));
    assert_eq!(clock.wall_ms(), start.wall_ms + 1500);
}
