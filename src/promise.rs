//! What a replica has promised, outside of the log: the newest epoch, a step that must be finished
//! before the log is read, and a few bytes of the host's. It never holds what the log holds.
//!
//! A small file of two equal slots. A change is written to one and synced, then to the other one:
//! whichever a crash tears, the other one is whole, and a lost sector hides nothing that was
//! answered.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{name, u32_at, u64_at};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, NUMBER_MAX, Position};
use crate::storage::{Storage, StorageFile, read_full, write_full};
use crate::sync::Mutex;

/// The most that a host can keep here.
pub(crate) const CELL_BYTES_MAX: usize = 256;

const MAGIC: u32 = u32::from_le_bytes(*b"AKLR");
const VERSION: u8 = 1;
const SLOT_BYTES: usize = 512;
/// The slots lie in different sectors, whatever sectors a disk has.
const SLOTS_AT: [u64; 2] = [0, 4096];
/// Where a slot says which step is to be finished.
pub(crate) const INTENT_AT: u64 = 5;
const CELL_AT: usize = 64;
const CHECKSUM_AT: usize = SLOT_BYTES - 4;

/// A step of several changes to the directory, which opening finishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Intent {
    #[default]
    None,
    /// Frames from there on are given up.
    Truncate(Position),
    /// All segments give way to the prepared one of that base.
    Reset(Position),
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Nothing older is followed or led.
    pub(crate) epoch: Epoch,
    /// A position below which all was visible once: it must not be given up.
    pub(crate) visible: Position,
    pub(crate) intent: Intent,
    pub(crate) cell: Vec<u8>,
}

impl Promise {
    fn encode(&self, generation: u64) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        let (intent, at) = match self.intent {
            Intent::None => (0, 0),
            Intent::Truncate(at) => (1, at.0),
            Intent::Reset(at) => (2, at.0),
        };
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[5] = intent;
        out[8..16].copy_from_slice(&generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.visible.0.to_le_bytes());
        out[32..40].copy_from_slice(&at.to_le_bytes());
        let cell_bytes = u32::try_from(self.cell.len()).expect("the cell is small");
        out[40..44].copy_from_slice(&cell_bytes.to_le_bytes());
        out[CELL_AT..CELL_AT + self.cell.len()].copy_from_slice(&self.cell);
        let checksum = crc32fast::hash(&out[..CHECKSUM_AT]);
        out[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let whole = slot.len() == SLOT_BYTES
            && u32_at(slot, 0) == MAGIC
            && u32_at(slot, CHECKSUM_AT) == crc32fast::hash(&slot[..CHECKSUM_AT])
            && slot[4] == VERSION
            && [8, 16, 24, 32].iter().all(|at| u64_at(slot, *at) < NUMBER_MAX);
        let cell_bytes = u32_at(slot.get(40..44).filter(|_| whole)?, 0) as usize;
        let at = Position(u64_at(slot, 32));
        let intent = match slot[5] {
            0 => Intent::None,
            1 => Intent::Truncate(at),
            2 => Intent::Reset(at),
            _ => return None,
        };
        let cell = slot[..CHECKSUM_AT].get(CELL_AT..)?.get(..cell_bytes)?.to_vec();
        let (epoch, visible) = (Epoch(u64_at(slot, 16)), Position(u64_at(slot, 24)));
        Some((u64_at(slot, 8), Self { epoch, visible, intent, cell }))
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct PromiseFile {
    file: Arc<dyn StorageFile>,
    /// The generation that was written last. Held while one is written; who asks what is promised does
    /// not wait for the disk.
    written: Mutex<u64>,
    kept: Mutex<Promise>,
}

impl PromiseFile {
    /// Reads the file, if there is one.
    pub(crate) fn open(storage: &dyn Storage) -> Result<Self> {
        let io = |e| Error::io("read", name::replica(), e);
        let file = storage.open(&name::replica()).map_err(io)?;
        let mut newest: Option<(u64, Promise)> = None;
        let mut order = SLOTS_AT;
        for at in SLOTS_AT {
            let mut slot = [0; SLOT_BYTES];
            let read = read_full(&*file, &mut slot, at).map_err(io)?;
            if let Some(found) = Promise::decode(&slot[..read])
                && newest.as_ref().is_none_or(|known| known.0 < found.0)
            {
                newest = Some(found);
                order = if at == SLOTS_AT[0] { [SLOTS_AT[1], at] } else { SLOTS_AT };
            }
        }
        let Some((generation, kept)) = newest else {
            let found = "two slots that are damaged";
            return Err(Error::corrupt(name::replica(), 0, "what this replica promised", found));
        };
        let opened = Self { file, written: Mutex::new(generation), kept: Mutex::new(kept) };
        // One slot may be of a change that was not answered, or be there in the cache alone. The one
        // that counts stays until the other one is whole.
        opened.store(order, |_| {})?;
        Ok(opened)
    }

    /// Makes the file, durable with its name.
    pub(crate) fn create(storage: &dyn Storage) -> Result<Self> {
        let (unfinished, file_name) = (name::replica_unfinished(), name::replica());
        let created =
            storage.create(&unfinished).map_err(|e| Error::io("create", &unfinished, e))?;
        let made = Self { file: created, written: Mutex::default(), kept: Mutex::default() };
        made.change(|_| {})?;
        storage
            .rename(&unfinished, &file_name)
            .and_then(|()| storage.sync_directory())
            .map_err(|e| Error::io("rename", unfinished, e))?;
        Ok(made)
    }

    pub(crate) fn get(&self) -> Promise {
        self.kept.lock().clone()
    }

    /// Changes what is promised, durably. After an error it is unknown what a reader would find:
    /// the log must not go on.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Promise)) -> Result<()> {
        self.store(SLOTS_AT, change)
    }

    fn store(&self, order: [u64; 2], change: impl FnOnce(&mut Promise)) -> Result<()> {
        let mut written = self.written.lock();
        let (generation, mut promise) = (*written + 1, self.get());
        change(&mut promise);
        let slot = promise.encode(generation);
        for at in order {
            let io = |operation| move |e| Error::io(operation, name::replica(), e);
            write_full(&*self.file, &slot, at).map_err(io("write"))?;
            if !mutant::on(Mutant::PromiseNotDurable) {
                self.file.sync().map_err(io("sync"))?;
            }
        }
        *written = generation;
        *self.kept.lock() = promise;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::{Crash, SimDisk};

    fn promise(epoch: u64) -> Promise {
        Promise {
            epoch: Epoch(epoch),
            visible: Position(epoch * 10),
            intent: Intent::Truncate(Position(epoch * 11)),
            cell: epoch.to_le_bytes().to_vec(),
        }
    }

    fn stored(disk: &SimDisk) -> Promise {
        PromiseFile::open(&*disk.storage()).expect("it opens").get()
    }

    #[test]
    fn what_is_promised_survives_a_power_cut_at_any_call() {
        for call in 0..40 {
            let disk = SimDisk::new(call);
            let file = PromiseFile::create(&*disk.storage()).expect("it is made");
            disk.die_at(disk.calls() + call);
            let mut answered = 0;
            for epoch in 1..=3 {
                if file.change(|kept| *kept = promise(epoch)).is_err() {
                    break;
                }
                answered = epoch;
            }
            disk.crash(Crash::Power);
            let found = stored(&disk).epoch.0;
            assert!(found == answered || found == answered + 1, "{found} after {answered}");
            if found > 0 {
                assert_eq!(stored(&disk), promise(found));
            }
        }
    }

    #[test]
    fn the_slot_that_counts_is_not_written_before_the_other_one_is_whole() {
        for (seed, lost) in (0..32).flat_map(|seed| SLOTS_AT.map(|at| (seed, at))) {
            for call in 0..8 {
                let disk = SimDisk::new(seed);
                let file = PromiseFile::create(&*disk.storage()).expect("it is made");
                file.change(|kept| *kept = promise(2)).expect("it is kept");
                write_full(&*file.file, &[7; 30], lost + 20).expect("writes");
                file.file.sync().expect("syncs");
                disk.die_at(disk.calls() + call);
                drop(PromiseFile::open(&*disk.storage()));
                disk.crash(Crash::Power);
                assert_eq!(stored(&disk), promise(2), "seed {seed}, slot {lost}, call {call}");
            }
        }
    }

    #[test]
    fn one_damaged_slot_hides_nothing_and_two_are_refused() {
        let disk = SimDisk::new(1);
        let file = PromiseFile::create(&*disk.storage()).expect("it is made");
        for epoch in 1..=2 {
            file.change(|kept| *kept = promise(epoch)).expect("it is kept");
        }
        for at in SLOTS_AT {
            let fork = disk.fork();
            let storage = fork.storage();
            let file = storage.open(&name::replica()).expect("it is there");
            write_full(&*file, &[7; 30], at + 20).expect("writes");
            assert_eq!(stored(&fork), promise(2));
            for at in SLOTS_AT {
                write_full(&*file, &[7; 30], at + 20).expect("writes");
            }
            let refused = PromiseFile::open(&*storage);
            assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        }
    }

    #[test]
    fn arbitrary_slots_never_panic() {
        for byte in 0..=255 {
            assert!(Promise::decode(&[byte; SLOT_BYTES]).is_none());
        }
        let with = |at: usize, bytes: &[u8]| {
            let mut slot = promise(1).encode(4);
            slot[at..at + bytes.len()].copy_from_slice(bytes);
            let checksum = crc32fast::hash(&slot[..CHECKSUM_AT]);
            slot[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
            Promise::decode(&slot)
        };
        assert!(with(40, &u32::MAX.to_le_bytes()).is_none(), "a length that does not fit");
        for at in [8, 16, 24, 32] {
            assert!(with(at, &(NUMBER_MAX - 1).to_le_bytes()).is_some(), "the last number");
            assert!(with(at, &NUMBER_MAX.to_le_bytes()).is_none(), "a number nobody wrote");
        }
    }
}
