//! What planned faults do.

use super::*;

type Try<'a> = Box<dyn Fn() -> io::Result<()> + 'a>;

/// The durable file of zeros `a`, opened, with `fault` planned for the next call.
fn failing(bytes: usize, fault: Fault) -> (SimDisk, Arc<dyn StorageFile>) {
    let disk = disk_with(&vec![0; bytes]);
    let file = open(&disk);
    disk.fail_at(disk.calls(), fault);
    (disk, file)
}

#[test]
fn a_fault_strikes_just_the_call_that_it_is_planned_for() {
    let disk = disk_with(b"1");
    let file = open(&disk);
    disk.fail_at(disk.calls() + 1, Fault::Io);
    file.size().unwrap();
    assert!(file.size().is_err());
    file.size().unwrap();
    assert_eq!(disk.counts().fault_io, 1);
}

#[test]
fn an_error_reaches_every_kind_of_call() {
    let disk = disk_with(b"1");
    let file = open(&disk);
    let storage = disk.storage();
    let calls: [Try<'_>; 14] = [
        Box::new(|| storage.list().map(drop)),
        Box::new(|| storage.create("b").map(drop)),
        Box::new(|| storage.open("a").map(drop)),
        Box::new(|| storage.rename("a", "b")),
        Box::new(|| storage.quarantine("a")),
        Box::new(|| storage.remove("a")),
        Box::new(|| storage.sync_directory()),
        Box::new(|| file.size().map(drop)),
        Box::new(|| file.read_at(&mut [0], 0).map(drop)),
        Box::new(|| file.write_at(b"2", 0).map(drop)),
        Box::new(|| file.allocate(10).map(|_| ())),
        Box::new(|| file.set_size(0)),
        Box::new(|| file.sync()),
        Box::new(|| file.map().map(drop)),
    ];
    for (number, call) in calls.iter().enumerate() {
        // What it did all the same is undone, so that the next call finds what it needs.
        disk.put("a", b"1");
        disk.fail_at(disk.calls(), Fault::Io);
        let error = call().expect_err("the planned fault strikes");
        assert_eq!(error.raw_os_error(), Some(5), "call {number}");
    }
    assert_eq!(disk.counts().fault_io, 14);
    assert_eq!(disk.calls(), 15);
    assert!((1..=6).contains(&disk.counts().fault_io_done));
}

type Change = fn(&dyn Storage) -> io::Result<()>;
/// The names, and the size of `a`.
type Left = (&'static str, Option<usize>);

/// What a call leaves behind that answers an error: the names, and the size of `a`.
fn left_behind(call: impl Fn(&dyn Storage) -> io::Result<()>) -> HashSet<(String, Option<usize>)> {
    let mut found = HashSet::new();
    for seed in 0..50 {
        let disk = disk_with(b"12");
        disk.reseed(seed);
        // The call itself may have to open the file first.
        let storage = disk.storage();
        let _file = storage.open("a").unwrap();
        disk.fail_at(disk.calls() + u64::from(seed % 2 == 1), Fault::Io);
        let failed = call(&*storage).is_err();
        if failed {
            let size = disk.file("a").map(|bytes| bytes.len());
            let kept = disk.quarantined().concat();
            found.insert((disk.names().concat() + &kept, size));
        }
    }
    found
}

#[test]
fn a_failed_call_may_have_taken_effect() {
    let cases: [(Change, [Left; 2]); 4] = [
        (|storage| storage.create("b").map(drop), [("a", Some(2)), ("ab", Some(2))]),
        (|storage| storage.rename("a", "b"), [("a", Some(2)), ("b", None)]),
        (|storage| storage.remove("a"), [("a", Some(2)), ("", None)]),
        (|storage| storage.open("a")?.set_size(1), [("a", Some(2)), ("a", Some(1))]),
    ];
    for (call, expected) in cases {
        let expected = expected.map(|(names, size)| (names.to_owned(), size));
        assert_eq!(left_behind(call), HashSet::from(expected));
    }
}

#[test]
fn a_process_may_die_with_a_part_of_a_write_done() {
    let mut done = HashSet::new();
    for seed in 0..200 {
        let (disk, file) = failing(4, Fault::Death);
        disk.reseed(seed);
        assert_eq!(kind_of(file.write_at(b"abcd", 0)), ErrorKind::Other);
        assert_eq!(kind_of(file.read_at(&mut [0], 0)), ErrorKind::Other);
        assert_eq!(disk.counts().killed_in_write, 1);
        done.insert(disk.file("a").unwrap());
    }
    let expected = [b"\0\0\0\0", b"a\0\0\0", b"ab\0\0", b"abc\0", b"abcd"];
    assert_eq!(done, expected.map(|bytes| bytes.to_vec()).into());
}

#[test]
fn a_sync_without_space_may_lose_what_was_to_be_synced() {
    let mut found = HashSet::new();
    for seed in 0..50 {
        let disk = disk_with(&[0; 8]);
        let file = open(&disk);
        file.write_at(&[1; 8], 0).unwrap();
        disk.reseed(seed);
        disk.fail_at(disk.calls(), Fault::NoSpace);
        assert_eq!(kind_of(file.sync()), ErrorKind::StorageFull);
        file.sync().unwrap();
        found.insert(disk.durable_file("a").unwrap());
    }
    assert_eq!(found, HashSet::from([vec![0; 8], vec![1; 8]]));
}

#[test]
fn a_fault_for_the_next_call_of_a_kind_waits_for_it_and_strikes_once() {
    let disk = disk_with(b"1");
    let file = open(&disk);
    disk.fail_next(Call::Rename, Fault::NoSpace);
    disk.fail_next(Call::Sync, Fault::SyncLost);
    file.write_at(b"2", 0).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(kind_of(disk.storage().rename("a", "b")), ErrorKind::StorageFull);
    disk.storage().rename("a", "b").unwrap();
    assert_eq!((disk.counts().fault_sync_lost, disk.counts().fault_no_space), (1, 1));
    disk.fail_next(Call::Size, Fault::Io);
    disk.clear_faults();
    file.size().unwrap();
}

#[test]
#[should_panic(expected = "livelock")]
fn more_calls_than_are_allowed_are_a_livelock() {
    let disk = disk_with(b"1");
    let file = open(&disk);
    disk.allow_calls(2);
    file.size().unwrap();
    file.size().unwrap();
    drop(file.size());
}

#[test]
#[should_panic(expected = "livelock")]
fn more_readings_of_a_clock_than_are_allowed_are_a_livelock() {
    let clock = SimClock::new();
    clock.now();
    clock.allow_readings(3);
    clock.now();
    clock.now();
}

#[test]
fn a_failed_write_may_have_done_a_part() {
    let mut done = HashSet::new();
    for seed in 0..200 {
        let (disk, file) = failing(4, Fault::Io);
        disk.reseed(seed);
        assert!(file.write_at(b"abcd", 0).is_err());
        done.insert(disk.file("a").unwrap());
    }
    let expected = [b"\0\0\0\0", b"a\0\0\0", b"ab\0\0", b"abc\0", b"abcd"];
    assert_eq!(done, expected.map(|bytes| bytes.to_vec()).into());
}

#[test]
fn a_failed_sync_may_have_synced_and_a_later_one_completes_it() {
    let mut durable = HashSet::new();
    for seed in 0..200 {
        let disk = disk_with(&[1; 1024]);
        let file = open(&disk);
        file.write_at(&[2; 1024], 0).unwrap();
        disk.reseed(seed);
        disk.fail_at(disk.calls(), Fault::Io);
        assert!(file.sync().is_err());
        let bytes = disk.durable_file("a").unwrap();
        durable.insert((bytes[0], bytes[1023]));
        assert_eq!(disk.file("a").unwrap(), [2; 1024]);
        file.sync().unwrap();
        assert_eq!(disk.durable_file("a").unwrap(), [2; 1024]);
    }
    assert_eq!(durable, HashSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn no_space_fails_what_needs_space_and_does_nothing() {
    let (disk, file) = failing(1, Fault::NoSpace);
    assert_eq!(kind_of(file.write_at(b"2", 0)), ErrorKind::StorageFull);
    disk.fail_at(disk.calls(), Fault::NoSpace);
    assert_eq!(kind_of(disk.storage().create("b")), ErrorKind::StorageFull);
    disk.fail_at(disk.calls(), Fault::NoSpace);
    file.read_at(&mut [0], 0).unwrap();
    assert_eq!(disk.counts().fault_no_space, 2);
    assert_eq!(disk.file("a").unwrap(), [0]);
    assert_eq!(disk.names(), ["a"]);
}

#[test]
fn an_interruption_does_nothing_and_strikes_reads_and_writes_only() {
    let (disk, file) = failing(1, Fault::Interrupted);
    assert_eq!(kind_of(file.write_at(b"2", 0)), ErrorKind::Interrupted);
    disk.fail_at(disk.calls(), Fault::Interrupted);
    assert_eq!(kind_of(file.read_at(&mut [0], 0)), ErrorKind::Interrupted);
    disk.fail_at(disk.calls(), Fault::Interrupted);
    file.sync().unwrap();
    assert_eq!(disk.file("a").unwrap(), [0]);
    assert_eq!(disk.counts().fault_interrupted, 2);
}

#[test]
fn a_short_call_does_some_but_not_all() {
    let (disk, file) = failing(100, Fault::Short);
    assert!((1..100).contains(&file.write_at(&[1; 100], 0).unwrap()));
    disk.fail_at(disk.calls(), Fault::Short);
    assert!((1..100).contains(&file.read_at(&mut [0; 100], 0).unwrap()));
    assert_eq!(disk.counts().fault_short, 2);
}

#[test]
fn one_byte_cannot_be_short() {
    let (disk, file) = failing(1, Fault::Short);
    assert_eq!(file.write_at(b"1", 0).unwrap(), 1);
    assert_eq!(disk.counts().fault_short, 0);
}

/// A file of zeros whose sync of eight ones was lost.
fn lost() -> (SimDisk, Arc<dyn StorageFile>) {
    let disk = disk_with(&[0; 8]);
    let file = open(&disk);
    file.write_at(&[1; 8], 0).unwrap();
    disk.fail_at(disk.calls(), Fault::SyncLost);
    assert!(file.sync().is_err());
    assert_eq!(disk.counts().fault_sync_lost, 1);
    (disk, file)
}

#[test]
fn a_lost_sync_reads_well_until_the_cache_goes() {
    let (disk, file) = lost();
    assert_eq!(disk.file("a").unwrap(), [1; 8]);
    disk.kill();
    assert_eq!(disk.file("a").unwrap(), [1; 8]);
    assert_eq!(disk.counts().unmasked, 0);
    disk.evict();
    assert_eq!(disk.file("a").unwrap(), [0; 8]);
    assert_eq!(disk.counts().unmasked, 1);
    drop(file);
}

#[test]
fn single_pages_of_a_lost_sync_may_go_before_others() {
    let mut found = HashSet::new();
    for seed in 0..50 {
        let disk = disk_with(&[0; 8192]);
        let file = open(&disk);
        file.write_at(&[1; 8192], 0).unwrap();
        disk.fail_at(disk.calls(), Fault::SyncLost);
        assert!(file.sync().is_err());
        disk.reseed(seed);
        disk.evict_some();
        let bytes = disk.file("a").unwrap();
        found.insert((bytes[0], bytes[8191]));
        disk.evict();
        assert_eq!(disk.file("a").unwrap(), [0; 8192]);
    }
    assert_eq!(found, HashSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
}

#[test]
fn a_sync_after_a_lost_one_succeeds_without_the_bytes() {
    let (disk, file) = lost();
    file.sync().unwrap();
    assert_eq!(disk.durable_file("a").unwrap(), [0; 8]);
    assert_eq!(outcomes(&disk, |disk| disk.file("a")), HashSet::from([Some(vec![0; 8])]));
}

#[test]
fn rewriting_the_bytes_of_a_lost_sync_makes_them_durable_again() {
    let (disk, file) = lost();
    file.write_at(&[1; 8], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.durable_file("a").unwrap(), [1; 8]);
}

#[test]
fn eviction_keeps_what_is_not_synced_yet() {
    let (disk, file) = lost();
    file.write_at(&[2; 2], 6).unwrap();
    disk.evict();
    assert_eq!(disk.file("a").unwrap(), [0, 0, 0, 0, 0, 0, 2, 2]);
    file.sync().unwrap();
    assert_eq!(disk.durable_file("a").unwrap(), [0, 0, 0, 0, 0, 0, 2, 2]);
}

#[test]
fn a_lost_sync_leaves_the_size_to_the_next_one() {
    let disk = disk_with(b"");
    let file = open(&disk);
    file.write_at(&[1; 8], 0).unwrap();
    disk.fail_at(disk.calls(), Fault::SyncLost);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(disk.durable_file("a").unwrap(), [0; 8]);
    assert_eq!(disk.file("a").unwrap(), [1; 8]);
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| u32::from(*byte)).sum()
}

#[test]
fn a_stale_sector_is_synced_in_the_cache_alone() {
    let disk = disk_with(&[0; 2048]);
    let file = open(&disk);
    file.write_at(&[1; 2048], 0).unwrap();
    disk.fail_at(disk.calls(), Fault::Stale);
    file.sync().unwrap();
    assert_eq!(disk.file("a").unwrap(), [1; 2048]);
    disk.evict();
    let bytes = disk.file("a").unwrap();
    assert_eq!(sum_of(&bytes), 1536);
    assert_eq!(disk.counts().stale, 1);
}

#[test]
fn a_misdirected_sector_is_missing_here_and_damages_there() {
    let disk = disk_with(&[0; 2048]);
    let file = open(&disk);
    file.write_at(&[1; 512], 1024).unwrap();
    disk.fail_at(disk.calls(), Fault::Misdirected);
    file.sync().unwrap();
    disk.crash(Crash::Power);
    let bytes = disk.file("a").unwrap();
    assert_eq!(bytes[1024..1536], [0; 512]);
    assert_eq!(sum_of(&bytes), 512);
    assert_eq!(disk.counts().misdirected, 1);
}

/// Which of two new names are durable after a sync of the directory that fails, and after the
/// next one, which does not; and whether names were lost.
fn names_after_a_failed_sync(seed: u64, fault: Fault) -> ([bool; 2], [bool; 2], bool) {
    let disk = SimDisk::new(seed);
    let storage = disk.storage();
    storage.create("a").unwrap();
    storage.create("b").unwrap();
    disk.fail_at(disk.calls(), fault);
    assert!(storage.sync_directory().is_err());
    assert_eq!(disk.names(), ["a", "b"], "the cache goes on to show them");
    let durable = || ["a", "b"].map(|name| disk.durable_file(name).is_some());
    let first = durable();
    storage.sync_directory().unwrap();
    let second = durable();
    disk.crash(Crash::Power);
    assert_eq!(durable(), second);
    (first, second, disk.counts().fault_names_lost > 0)
}

#[test]
fn a_failed_directory_sync_leaves_the_rest_of_the_names_to_the_next_one_or_loses_them() {
    let (mut found, mut lost) = (HashSet::new(), 0);
    for seed in 0..100 {
        let (first, second, is_lost) = names_after_a_failed_sync(seed, Fault::Io);
        found.insert(first);
        assert_eq!(second, if is_lost { first } else { [true, true] });
        lost += u64::from(is_lost);
    }
    assert_eq!(found, HashSet::from([[false, false], [true, false], [true, true]]));
    assert!((10..60).contains(&lost), "a third loses names: {lost}");
}

#[test]
fn a_lost_directory_sync_never_leaves_names_to_the_next_one() {
    let all = (0..100).map(|seed| names_after_a_failed_sync(seed, Fault::SyncLost));
    assert!(all.into_iter().all(|(first, second, _)| first == second));
}

#[test]
fn whoever_locks_the_directory_anew_sees_which_names_are_lost() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let storage = disk.storage();
        storage.create("a").unwrap();
        disk.fail_at(disk.calls(), Fault::SyncLost);
        assert!(storage.sync_directory().is_err());
        storage.create("b").unwrap();
        drop(storage.lock().unwrap());
        let durable = disk.durable_file("a").is_some();
        assert_eq!(disk.names(), if durable { vec!["a", "b"] } else { vec!["b"] });
    }
}
