//! Apart from what they test, which the benchmark of the limits includes.

use std::path::Path;

use crate::machine::{UNKNOWN, file_system, version};
use crate::peer;

#[test]
fn the_lock_file_knows_the_version_of_every_peer() {
    for kind in peer::ALL {
        assert_ne!(version(kind.name), UNKNOWN, "{}", kind.name);
    }
}

#[test]
fn the_file_system_is_the_one_mounted_nearest() {
    let mounts = "a / ext4 rw 0 0\nb /proc proc ro 0 0\n";
    assert_eq!(file_system(mounts, Path::new("/proc")), "proc (ro)");
    assert_eq!(file_system(mounts, Path::new("/")), "ext4 (rw)");
}
