//! What every storage must do, run against the real one and the simulated one.

use std::io::ErrorKind;
use std::sync::Arc;

use super::disk::DiskStorage;
use super::sim::SimDisk;
use super::{LockError, Storage, StorageFile, read_full, write_full};

/// Runs one claim on an empty, locked directory of each kind.
fn check(claim: impl Fn(&dyn Storage)) {
    // Any file system can be asked whether it keeps the rules.
    let place = match std::env::var_os("ACKLINE_TEST_DIRECTORY") {
        Some(given) => tempfile::tempdir_in(given).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let disk = DiskStorage::new(place.path().join("log"));
    let guard = disk.lock().unwrap();
    claim(&disk);
    drop(guard);

    let sim = SimDisk::new(1).storage();
    let guard = sim.lock().unwrap();
    claim(&*sim);
    drop(guard);
}

fn make(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Arc<dyn StorageFile> {
    let file = storage.create(name).unwrap();
    write_full(&*file, bytes, 0).unwrap();
    file
}

fn read(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    assert_eq!(read_full(file, &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn names(storage: &dyn Storage) -> Vec<String> {
    let mut names: Vec<_> = storage.list().unwrap().into_iter().map(|found| found.name).collect();
    names.sort();
    names
}

fn error_of<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("the call must fail").kind()
}

#[test]
fn a_written_file_reads_back_through_another_handle() {
    check(|storage| {
        let file = make(storage, "a", b"hello");
        file.write_at(b"J", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(read(&*storage.open("a").unwrap()), b"Jello");
    });
}

#[test]
fn creating_an_existing_name_is_refused() {
    check(|storage| {
        make(storage, "a", b"kept");
        assert_eq!(error_of(storage.create("a")), ErrorKind::AlreadyExists);
        assert_eq!(read(&*storage.open("a").unwrap()), b"kept");
    });
}

#[test]
fn a_missing_name_is_not_found() {
    check(|storage| {
        assert_eq!(error_of(storage.open("a")), ErrorKind::NotFound);
        assert_eq!(error_of(storage.remove("a")), ErrorKind::NotFound);
        assert_eq!(error_of(storage.rename("a", "b")), ErrorKind::NotFound);
        assert_eq!(error_of(storage.quarantine("a")), ErrorKind::NotFound);
    });
}

#[test]
fn a_name_with_a_separator_or_a_reserved_name_is_refused() {
    check(|storage| {
        for name in ["", ".", "..", "a/b", "/a", "LOCK", "quarantine"] {
            assert_eq!(error_of(storage.create(name)), ErrorKind::InvalidInput, "{name:?}");
            assert_eq!(error_of(storage.remove(name)), ErrorKind::InvalidInput, "{name:?}");
        }
    });
}

#[test]
fn the_listing_shows_files_but_not_the_lock() {
    check(|storage| {
        make(storage, "b", b"");
        make(storage, "a", b"");
        assert_eq!(names(storage), ["a", "b"]);
        assert!(storage.list().unwrap().iter().all(|found| found.is_file));
    });
}

#[test]
fn a_rename_replaces_what_had_the_name() {
    check(|storage| {
        make(storage, "old", b"old");
        make(storage, "new", b"new");
        storage.rename("new", "old").unwrap();
        storage.sync_directory().unwrap();
        assert_eq!(names(storage), ["old"]);
        assert_eq!(read(&*storage.open("old").unwrap()), b"new");
    });
}

#[test]
fn a_removed_file_stays_readable_through_handles_and_maps() {
    check(|storage| {
        let file = make(storage, "a", b"bytes");
        let map = file.map().unwrap();
        storage.remove("a").unwrap();
        storage.sync_directory().unwrap();
        assert_eq!(names(storage), [""; 0]);
        assert_eq!(read(&*file), b"bytes");
        assert_eq!(&map[..], b"bytes");
    });
}

#[test]
fn a_quarantined_file_leaves_the_directory_and_never_replaces_another() {
    check(|storage| {
        for bytes in [b"1", b"2", b"3"] {
            make(storage, "a", bytes);
            storage.quarantine("a").unwrap();
        }
        assert_eq!(names(storage), ["quarantine"]);
        assert!(!storage.list().unwrap()[0].is_file);
    });
}

#[test]
fn reads_stop_at_the_end_of_the_file() {
    check(|storage| {
        let file = make(storage, "a", b"12345");
        let mut buffer = [9; 4];
        assert_eq!(read_full(&*file, &mut buffer, 3).unwrap(), 2);
        assert_eq!(buffer, *b"45\x09\x09");
        assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    });
}

#[test]
fn a_write_past_the_end_leaves_zeros_between() {
    check(|storage| {
        let file = make(storage, "a", b"12");
        write_full(&*file, b"9", 4).unwrap();
        assert_eq!(read(&*file), b"12\0\x009");
    });
}

#[test]
fn writes_across_pages_read_back() {
    check(|storage| {
        let bytes: Vec<u8> = (0..20_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let file = make(storage, "a", &bytes);
        write_full(&*file, &[255; 5000], 3000).unwrap();
        let mut expected = bytes;
        expected[3000..8000].fill(255);
        assert_eq!(read(&*file), expected);
        assert_eq!(&file.map().unwrap()[..], expected);
    });
}

#[test]
fn a_file_that_was_cut_and_extended_reads_zeros_there() {
    check(|storage| {
        let file = make(storage, "a", &[7; 10_000]);
        file.set_size(5).unwrap();
        file.set_size(9000).unwrap();
        let mut expected = vec![7; 5];
        expected.resize(9000, 0);
        assert_eq!(read(&*file), expected);
    });
}

#[test]
fn allocating_extends_with_zeros_and_never_cuts() {
    check(|storage| {
        let file = make(storage, "a", b"12");
        file.allocate(8192).unwrap();
        assert_eq!(file.size().unwrap(), 8192);
        file.allocate(1).unwrap();
        file.allocate(0).unwrap();
        assert_eq!(file.size().unwrap(), 8192);
        assert_eq!(&read(&*file)[..4], b"12\0\0");
    });
}

#[test]
fn an_empty_file_maps_to_nothing() {
    check(|storage| {
        assert!(make(storage, "a", b"").map().unwrap().is_empty());
    });
}

#[test]
fn an_empty_write_changes_nothing() {
    check(|storage| {
        let file = make(storage, "a", b"12");
        assert_eq!(file.write_at(b"", 100).unwrap(), 0);
        assert_eq!(file.size().unwrap(), 2);
    });
}

#[test]
fn a_held_lock_refuses_a_second_opener_and_a_dropped_one_does_not() {
    fn claim(first: &dyn Storage, second: &dyn Storage) {
        let guard = first.lock().unwrap();
        match second.lock() {
            Err(LockError::Held { holder }) => assert!(holder.is_some()),
            other => panic!("expected a held lock, found {other:?}"),
        }
        drop(guard);
        second.lock().unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    claim(&DiskStorage::new(place.path()), &DiskStorage::new(place.path()));
    let sim = SimDisk::new(1);
    claim(&*sim.storage(), &*sim.storage());
}

#[test]
fn there_is_free_space_on_a_fresh_disk() {
    check(|storage| assert!(storage.free_bytes().unwrap() > 0));
}
