//! Tests of the real directory.

use std::process;

use super::*;
use crate::storage::write_full;

#[test]
fn locking_creates_missing_parents() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a/b/c");
    let storage = DiskStorage::new(&path);
    let _guard = storage.lock().unwrap();
    assert!(path.is_dir());
    assert_eq!(storage.describe(), path.display().to_string());
}

#[test]
fn a_file_in_the_place_of_the_directory_is_said_to_be_one() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a");
    fs::write(&path, b"").unwrap();
    let found = DiskStorage::new(&path).lock().err();
    assert!(matches!(found, Some(LockError::NotADirectory)), "found {found:?}");
}

#[test]
fn a_held_lock_names_its_holder() {
    let place = tempfile::tempdir().unwrap();
    let _guard = DiskStorage::new(place.path()).lock().unwrap();
    match DiskStorage::new(place.path()).lock() {
        Err(LockError::Held { holder }) => assert_eq!(holder, Some(process::id())),
        other => panic!("expected a held lock, found {other:?}"),
    }
}

#[test]
fn a_lock_file_of_a_dead_process_is_taken_over() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join(LOCK), b"1234567890").unwrap();
    let _guard = DiskStorage::new(place.path()).lock().unwrap();
    let written = fs::read_to_string(place.path().join(LOCK)).unwrap();
    assert_eq!(written.trim_end(), process::id().to_string());
}

#[test]
fn a_lock_file_without_a_number_leaves_the_holder_unknown() {
    let place = tempfile::tempdir().unwrap();
    let file = File::create(place.path().join(LOCK)).unwrap();
    file.lock().unwrap();
    match DiskStorage::new(place.path()).lock() {
        Err(LockError::Held { holder }) => assert_eq!(holder, None),
        other => panic!("expected a held lock, found {other:?}"),
    }
}

#[test]
fn quarantined_files_keep_their_bytes_under_numbered_names() {
    let place = tempfile::tempdir().unwrap();
    let storage = DiskStorage::new(place.path());
    let _guard = storage.lock().unwrap();
    for bytes in [b"1", b"2", b"3"] {
        write_full(&*storage.create("a").unwrap(), bytes, 0).unwrap();
        storage.quarantine("a").unwrap();
    }
    let kept = ["a", "a.1", "a.2"].map(|name| fs::read(place.path().join(QUARANTINE).join(name)));
    assert_eq!(kept.map(Result::unwrap), [b"1", b"2", b"3"]);
}

#[test]
fn the_listing_tells_directories_and_links_from_files() {
    let place = tempfile::tempdir().unwrap();
    let storage = DiskStorage::new(place.path());
    fs::create_dir(place.path().join("directory")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path().join("link")).unwrap();
    let listed = storage.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|found| !found.is_file), "found {listed:?}");
}

#[test]
fn extending_never_cuts() {
    let place = tempfile::tempdir().unwrap();
    let file = File::create(place.path().join("a")).unwrap();
    extend(&file, 100).unwrap();
    extend(&file, 50).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100);
}
