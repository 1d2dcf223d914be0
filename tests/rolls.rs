//! Going on in a new segment while the background threads do their work.
#![allow(clippy::disallowed_methods, reason = "a test that needs a moment of real time")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ackline::simulation::{FileName, LockError, LockGuard, SimDisk, Storage, StorageFile};
use ackline::{Offset, Options};

const SPARE: &str = "spare.tmp";

/// A disk on which a segment is put in place so slowly that the file keeper comes by meanwhile.
#[derive(Debug)]
struct SlowRename {
    disk: Arc<dyn Storage>,
    renaming: AtomicBool,
    intruded: AtomicBool,
}

impl Storage for SlowRename {
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if from == SPARE {
            self.renaming.store(true, Ordering::SeqCst);
            // The file keeper wakes once a second. A machine on which it does not get here in
            // time only makes the test weaker.
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1500)
                && !self.intruded.load(Ordering::SeqCst)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.renaming.store(false, Ordering::SeqCst);
        }
        self.disk.rename(from, to)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        if name == SPARE && self.renaming.load(Ordering::SeqCst) {
            self.intruded.store(true, Ordering::SeqCst);
        }
        self.disk.create(name)
    }

    fn lock(&self) -> Result<Box<dyn LockGuard>, LockError> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(name)
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.disk.quarantine(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

#[test]
fn nobody_prepares_a_segment_while_one_is_put_in_place() {
    let disk = SimDisk::new(1);
    let (renaming, intruded) = (AtomicBool::new(false), AtomicBool::new(false));
    let storage = Arc::new(SlowRename { disk: disk.storage(), renaming, intruded });
    let options = Options::new().segment_bytes(8192);
    let log = options.open_on(Arc::clone(&storage) as _).expect("opens");
    let topic = log.topic("t").expect("a topic");
    for _ in 0..8 {
        topic.append(&[0; 1000]).expect("rolls without being disturbed");
    }
    assert!(log.stats().rolls > 0, "the segments were small enough");
    assert!(!storage.intruded.load(Ordering::SeqCst));
    assert_eq!(topic.read_from(Offset(0)).expect("reads").flatten().count(), 8);
}
