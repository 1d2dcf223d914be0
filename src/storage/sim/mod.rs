//! A simulated disk that crashes on demand, for tests. Not for production use.
//!
//! A [`SimDisk`] keeps for every file the bytes that are durable, the bytes that the cache shows,
//! and the ordered list of operations between the two; and the same for the names. A sync of a
//! file makes its content and size durable, but not its name; a sync of the directory makes the
//! names durable. A [`Crash::Power`] drops the cache and lets every operation that was not synced
//! survive in whole, in part or not at all, drawn from one seed. The same seed and the same calls
//! give the same [`SimDisk::trace_hash`].
//!
//! A process is a *life*: what [`SimDisk::storage`] hands out belongs to the life that runs at
//! that time. A crash ends it, and every handle of it answers errors from then on, so that
//! handles that leak cannot touch the disk of the next life.

mod clock;
mod content;
mod counts;
mod crash;
mod damage;
mod fault;
mod freed;
mod handles;
mod inode;
mod names;
mod outcome;
mod rng;
mod state;
mod trace;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::clock::SimClock;
pub use self::counts::Counts;
pub use self::crash::{Crash, SectorFate, Sectors};
pub use self::fault::{Call, Fault};
use self::handles::SimStorage;
pub use self::outcome::{Outcome, Unsynced};
pub use self::rng::Rng;
use self::state::State;
use crate::storage::Storage;

/// A simulated disk with one directory. Clones are the same disk; [`SimDisk::fork`] copies it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk, all of whose random choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// The disk as the running process sees it.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(SimStorage::new(self.clone()))
    }

    /// A copy of the disk that shares no fate with this one. No process runs on it yet, no faults
    /// are planned, and its counts begin at zero.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.end_life();
        state.clear_faults();
        state.calls_max = u64::MAX;
        state.counts = Counts::default();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets all further random choices follow from `seed`.
    pub fn reseed(&self, seed: u64) {
        self.state().rng = Rng::new(seed);
    }

    /// Ends the running process in the given way. Planned faults stay planned.
    pub fn crash(&self, kind: Crash) {
        self.state().crash(kind);
    }

    /// Ends the running process and leaves the machine running: [`Crash::Kill`].
    pub fn kill(&self) {
        self.crash(Crash::Kill);
    }

    /// Ends the running process just before its call with the number `call`, counted as
    /// [`SimDisk::calls`] does. The disk stays as it is; follow with a [`SimDisk::crash`].
    pub fn die_at(&self, call: u64) {
        let mut state = self.state();
        state.dies_at = Some(call);
        state.syncs_left = None;
    }

    /// Ends the running process just before it syncs a file or the directory, after `syncs` more
    /// that succeed: that is when the most is done and the least of it durable.
    pub fn die_at_sync(&self, syncs: u64) {
        self.state().syncs_left = Some(syncs);
    }

    /// How many calls all processes have made: of the storage, `list`, `create`, `open`,
    /// `rename`, `quarantine`, `remove` and `sync_directory`; of files, all. The next call has
    /// this number.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Plans `fault` for the call with the number `call`, in place of an earlier plan for it.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// Plans `fault` for the next call of this kind that no other fault strikes.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.state().next_faults.push((call, fault));
    }

    /// Drops all plans of [`SimDisk::fail_at`] and [`SimDisk::fail_next`].
    pub fn clear_faults(&self) {
        self.state().clear_faults();
    }

    /// Lets the processes make so many calls from now on. One more is a panic: whoever makes it
    /// is in a loop that does not end.
    pub fn allow_calls(&self, calls: u64) {
        let mut state = self.state();
        state.calls_max = state.calls.saturating_add(calls);
    }

    /// Limits the total of all file sizes. A write that does not fit is short, and one of which
    /// nothing fits fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Chooses whether blocks can be reserved before they are written, as most file systems can.
    pub fn set_reserves(&self, reserves: bool) {
        self.state().reserves = reserves;
    }

    /// Chooses what torn writes do to the rest of their sectors.
    pub fn set_sector_mode(&self, mode: Sectors) {
        self.state().sectors = mode;
    }

    /// Drops the clean pages from the cache: where a failed or false sync left the cache showing
    /// what the disk does not hold, reads show the disk from now on. Unsynced writes stay.
    pub fn evict(&self) {
        self.state().evict();
    }

    /// The same for single pages, each with even odds.
    pub fn evict_some(&self) {
        self.state().evict_some();
    }

    /// What has happened on this disk since it was made or forked.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// A hash of every call with its outcome, and of every crash.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
