//! The simulated machine: its files, its running process, its planned faults.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::counts::Counts;
use super::crash::{Crash, Fates, RandomFates, Sectors};
use super::fault::{Call, Fault};
use super::freed::Freed;
use super::inode::{Inode, SECTOR};
use super::names::{InodeId, Names};
use super::rng::Rng;
use super::trace::{Trace, hash_bytes};

/// Free space of a disk without a capacity.
const UNLIMITED: u64 = 1 << 40;

/// Everything that a disk and the process on it are. A clone shares the pages of the files.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) names: Names,
    pub(super) quarantined: BTreeMap<Arc<str>, InodeId>,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    pub(super) sectors: Sectors,
    pub(super) capacity: Option<u64>,
    /// Whether blocks can be reserved before they are written.
    pub(super) reserves: bool,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) next_faults: Vec<(Call, Fault)>,
    pub(super) dies_at: Option<u64>,
    /// How many syncs the process may still do before it dies at the next one.
    pub(super) syncs_left: Option<u64>,
    pub(super) calls: u64,
    pub(super) calls_max: u64,
    /// The running process; handles of any other are dead.
    pub(super) life: u64,
    pub(super) locked: bool,
    inodes: BTreeMap<InodeId, Arc<Inode>>,
    /// How many handles the running process has of each file.
    handles: BTreeMap<InodeId, usize>,
    next_inode: InodeId,
    freed: Freed,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            names: Names::default(),
            quarantined: BTreeMap::new(),
            counts: Counts::default(),
            trace: Trace::default(),
            sectors: Sectors::default(),
            capacity: None,
            reserves: true,
            faults: BTreeMap::new(),
            next_faults: Vec::new(),
            dies_at: None,
            syncs_left: None,
            calls: 0,
            calls_max: u64::MAX,
            life: 1,
            locked: false,
            inodes: BTreeMap::new(),
            handles: BTreeMap::new(),
            next_inode: 0,
            freed: Freed::default(),
        }
    }

    /// Runs one call of the process `life`: counts it, traces it and lets a planned fault strike.
    /// Faults that do a part are left to `act`.
    pub(super) fn call<T>(
        &mut self,
        life: u64,
        call: Call,
        arguments: [u64; 3],
        act: impl FnOnce(&mut Self, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let at = self.calls;
        let syncs = matches!(call, Call::Sync | Call::SyncDirectory);
        let dies = self.dies_at == Some(at) || (syncs && self.is_last_sync());
        if life == self.life && dies {
            self.end_life();
        }
        self.check_alive(life)?;
        self.calls += 1;
        assert!(at < self.calls_max, "livelock: {at} calls have been made, and no end");
        let fault = self.faults.remove(&at).or_else(|| self.take_next_fault(call));
        let fault = fault.filter(|fault| fault.can_strike(call));
        self.trace.mix(call as u64);
        self.trace.mix_all(&arguments);
        let partial = matches!(call, Call::Write | Call::Sync | Call::SyncDirectory);
        let result = match fault {
            Some(Fault::Io) if !partial => {
                self.counts.fault_io += 1;
                // The caller cannot know whether it took effect.
                if call.changes_files() && self.rng.chance(1, 2) && act(self, None).is_ok() {
                    self.counts.fault_io_done += 1;
                }
                Err(input_output_error())
            }
            Some(Fault::Death) => {
                if call == Call::Write {
                    self.counts.killed_in_write += 1;
                    // Nobody is left to hear how much of it was done.
                    drop(act(self, fault));
                }
                self.end_life();
                Err(dead())
            }
            Some(Fault::NoSpace) if call != Call::Sync => Err(self.no_space()),
            Some(Fault::Interrupted) => {
                self.counts.fault_interrupted += 1;
                Err(io::ErrorKind::Interrupted.into())
            }
            fault => act(self, fault),
        };
        self.trace.mix_outcome(result.as_ref().err());
        result
    }

    fn is_last_sync(&mut self) -> bool {
        match &mut self.syncs_left {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn take_next_fault(&mut self, call: Call) -> Option<Fault> {
        let planned = self.next_faults.iter().position(|planned| planned.0 == call)?;
        Some(self.next_faults.remove(planned).1)
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
        self.next_faults.clear();
    }

    pub(super) fn check_alive(&self, life: u64) -> io::Result<()> {
        if life == self.life { Ok(()) } else { Err(dead()) }
    }

    pub(super) fn crash(&mut self, kind: Crash) {
        self.end_life();
        match kind {
            Crash::Kill => self.counts.kill += 1,
            Crash::Power => {
                let mut rng = self.rng.clone();
                self.cut_power(&mut RandomFates::new(&mut rng));
                self.rng = rng;
            }
        }
        self.collect();
        self.trace.mix(kind as u64);
        self.trace.mix(self.rng.clone().next_u64());
    }

    /// A power cut that ends as `fates` say.
    pub(super) fn crash_with(&mut self, fates: &mut impl Fates) {
        self.end_life();
        self.cut_power(fates);
        self.collect();
        self.trace.mix(Crash::Power as u64);
        self.trace.mix(self.content_hash());
    }

    /// Forgets the process: its lock, its handles and the faults planned for it.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        self.dies_at = None;
        self.syncs_left = None;
        self.handles.clear();
    }

    pub(super) fn create_file(&mut self, name: &str) -> io::Result<InodeId> {
        if self.names.get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if self.free() == 0 {
            return Err(self.no_space());
        }
        let inode = self.add_inode(Inode::default());
        self.names.create(name, inode);
        Ok(inode)
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Arc::new(inode));
        id
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        self.inodes.get(&id).expect("a file with a name or a handle exists")
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        Arc::make_mut(self.inodes.get_mut(&id).expect("a file with a name or a handle exists"))
    }

    #[cfg(test)]
    pub(super) fn file_count(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn hold(&mut self, id: InodeId) {
        *self.handles.entry(id).or_default() += 1;
    }

    /// Closes one handle; a file that has lost its name goes with its last one.
    pub(super) fn release(&mut self, life: u64, id: InodeId) {
        if life != self.life {
            return;
        }
        if let Some(count) = self.handles.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.handles.remove(&id);
                if !self.is_needed(id)
                    && let Some(inode) = self.inodes.remove(&id)
                {
                    self.freed.bury(inode.durable());
                }
            }
        }
    }

    pub(super) fn write(
        &mut self,
        id: InodeId,
        bytes: &[u8],
        at: u64,
        fault: Option<Fault>,
    ) -> io::Result<usize> {
        let end = at.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut length = bytes.len();
        match fault {
            Some(Fault::Io) => {
                self.counts.fault_io += 1;
                length = self.rng.index(length + 1);
            }
            Some(Fault::Death) => length = self.rng.index(length + 1),
            Some(Fault::Short) if length > 1 => {
                self.counts.fault_short += 1;
                length = 1 + self.rng.index(length - 1);
            }
            _ => {}
        }
        let limit = self.inode(id).cached().size().saturating_add(self.free());
        // Like a real disk, the last write before the end is short, and the next one fails.
        if self.capacity.is_some() && end > limit && length > 0 {
            match usize::try_from(limit.saturating_sub(at)) {
                Ok(0) => return Err(self.no_space()),
                Ok(room) => length = length.min(room),
                Err(_) => {}
            }
        }
        if length > 0 {
            self.inode_mut(id).write(&bytes[..length], at);
        }
        self.trace.mix(length as u64);
        if fault == Some(Fault::Io) { Err(input_output_error()) } else { Ok(length) }
    }

    pub(super) fn set_size(&mut self, id: InodeId, size: u64) -> io::Result<()> {
        let old = self.inode(id).cached().size();
        if size > old && size - old > self.free() {
            return Err(self.no_space());
        }
        self.inode_mut(id).set_size(size);
        Ok(())
    }

    pub(super) fn sync(&mut self, id: InodeId, fault: Option<Fault>) -> io::Result<()> {
        let fails = matches!(fault, Some(Fault::Io | Fault::SyncLost | Fault::NoSpace));
        if !self.inode(id).has_pending() && !fails {
            return Ok(());
        }
        let file = self.inodes.get_mut(&id).expect("a file with a handle exists");
        let file = Arc::make_mut(file);
        match fault {
            Some(Fault::Io) => {
                self.counts.fault_io += 1;
                match self.rng.below(3) {
                    0 => {}
                    1 => file.sync(),
                    _ => file.sync_partly(&mut RandomFates::undamaged(&mut self.rng)),
                }
                Err(input_output_error())
            }
            Some(Fault::SyncLost) => {
                self.counts.fault_sync_lost += 1;
                file.lose_writes();
                Err(input_output_error())
            }
            Some(Fault::NoSpace) => {
                // Room that was only promised to the cached pages turns out not to be there.
                if self.rng.chance(1, 2) {
                    file.lose_writes();
                }
                Err(self.no_space())
            }
            Some(fault @ (Fault::Stale | Fault::Misdirected)) if file.pending_sectors() > 0 => {
                let lost = self.rng.index(file.pending_sectors());
                let (bytes, range) = file.sync_without(lost);
                if fault == Fault::Stale {
                    self.counts.stale += 1;
                    return Ok(());
                }
                self.counts.misdirected += 1;
                // Any sector of the file but the right one, at the same place within it.
                let sectors = file.durable().size().div_ceil(SECTOR).max(1);
                let right = range.start / SECTOR;
                let wrong = (right + 1 + self.rng.below(sectors.saturating_sub(1))) % sectors;
                if wrong != right {
                    file.write_durable(&bytes, wrong * SECTOR + range.start % SECTOR);
                }
                Ok(())
            }
            _ => {
                file.sync();
                Ok(())
            }
        }
    }

    pub(super) fn sync_directory(&mut self, fault: Option<Fault>) -> io::Result<()> {
        if let Some(fault @ (Fault::Io | Fault::SyncLost)) = fault {
            self.counts.fault_io += u64::from(fault == Fault::Io);
            self.counts.fault_sync_directory += 1;
            let kept = self.rng.index(self.names.pending() + 1);
            self.names.sync_prefix(kept);
            if fault == Fault::SyncLost || self.rng.chance(1, 2) {
                self.counts.fault_names_lost += u64::from(self.names.lose_changes());
            }
            return Err(input_output_error());
        }
        self.names.sync();
        self.collect();
        Ok(())
    }

    /// Moves a file into the quarantine. Durable, so all other names are, too.
    pub(super) fn quarantine(&mut self, name: &str) -> io::Result<()> {
        let inode = self.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        self.names.sync();
        let mut kept: Arc<str> = name.into();
        let mut copies = 0_u64;
        while self.quarantined.contains_key(&kept) {
            copies += 1;
            kept = format!("{name}.{copies}").into();
        }
        self.quarantined.insert(kept, inode);
        self.collect();
        Ok(())
    }

    pub(super) fn evict(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.is_lying()) {
            self.counts.unmasked += 1;
            Arc::make_mut(inode).evict();
        }
    }

    pub(super) fn evict_some(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.is_lying()) {
            self.counts.unmasked += 1;
            Arc::make_mut(inode).evict_some(&mut self.rng);
        }
    }

    pub(super) fn free(&self) -> u64 {
        let Some(capacity) = self.capacity else {
            return UNLIMITED;
        };
        let named = self.names.iter().map(|(_, inode)| inode);
        let files = named.chain(self.quarantined.values().copied());
        capacity.saturating_sub(files.map(|inode| self.inode(inode).cached().size()).sum())
    }

    /// Drops the files that nothing leads to any more.
    pub(super) fn collect(&mut self) {
        let mut inodes = std::mem::take(&mut self.inodes);
        inodes.retain(|id, inode| {
            let is_needed = self.is_needed(*id);
            if !is_needed {
                self.freed.bury(inode.durable());
            }
            is_needed
        });
        self.inodes = inodes;
    }

    fn is_needed(&self, id: InodeId) -> bool {
        self.handles.contains_key(&id)
            || self.names.refers_to(id)
            || self.quarantined.values().any(|known| *known == id)
    }

    /// The files that a power cut may change, in the order in which it decides about them.
    pub(super) fn unclean(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.values().map(|inode| &**inode).filter(|inode| !inode.is_clean())
    }

    fn cut_power(&mut self, fates: &mut impl Fates) {
        self.counts.power += 1;
        self.names.crash(fates, &mut self.counts);
        for inode in self.inodes.values_mut().filter(|inode| !inode.is_clean()) {
            let inode = Arc::make_mut(inode);
            inode.crash(self.sectors, fates, &self.freed, &mut self.counts);
        }
    }

    pub(super) fn content_hash(&self) -> u64 {
        let mut trace = Trace::default();
        let hashes: BTreeMap<InodeId, u64> =
            self.inodes.iter().map(|(id, inode)| (*id, inode.content_hash())).collect();
        self.names.mix_into(&mut trace, |inode| hashes[&inode]);
        for (name, inode) in &self.quarantined {
            trace.mix_all(&[hash_bytes(name.as_bytes()), hashes[inode]]);
        }
        trace.hash()
    }

    fn no_space(&mut self) -> io::Error {
        self.counts.fault_no_space += 1;
        io::ErrorKind::StorageFull.into()
    }
}

fn dead() -> io::Error {
    io::Error::other("process is dead")
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}
