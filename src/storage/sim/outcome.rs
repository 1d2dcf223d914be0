//! Power cuts whose outcome is chosen rather than drawn, so that a test can go through them all.

use super::SimDisk;
use super::crash::{Fates, SectorFate};
use super::rng::Rng;
use super::state::State;

/// What a power cut would keep or lose of what is not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsynced {
    /// Changes of names: new files, renames, removals.
    pub names: usize,
    /// Changes of files' sizes.
    pub sizes: usize,
    /// Sectors of writes, counted once per write, that differ from what is there without them.
    pub sectors: usize,
}

/// How one power cut ends: a fate for everything that [`SimDisk::unsynced`] counts, in the order
/// in which it was done, file by file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which changes of names survive.
    pub names: Vec<bool>,
    /// Which changes of sizes survive.
    pub sizes: Vec<bool>,
    /// What becomes of each sector.
    pub sectors: Vec<SectorFate>,
    /// Whether a size that survives exposes noise: then zeros that were written there are lost.
    pub noise: bool,
}

impl Unsynced {
    /// The outcome in which everything survives, or nothing.
    pub fn all(&self, survive: bool) -> Outcome {
        let fate = if survive { SectorFate::New } else { SectorFate::Old };
        Outcome {
            names: vec![survive; self.names],
            sizes: vec![survive; self.sizes],
            sectors: vec![fate; self.sectors],
            noise: false,
        }
    }
}

impl SimDisk {
    /// What the next power cut decides about.
    pub fn unsynced(&self) -> Unsynced {
        self.state().unsynced().0
    }

    /// Cuts the power, with this outcome.
    ///
    /// # Panics
    ///
    /// Panics if the outcome has not as many fates as [`unsynced`](Self::unsynced) asks for.
    pub fn crash_as(&self, outcome: &Outcome) {
        self.state().crash_as(outcome);
    }

    /// A hash of all that a later process could find, now or after a crash: two disks with the
    /// same hash behave the same, but for random choices.
    pub fn content_hash(&self) -> u64 {
        self.state().content_hash()
    }
}

impl State {
    /// What is not synced, and for each sector of each unsynced write whether it matters.
    fn unsynced(&self) -> (Unsynced, Vec<bool>) {
        let mut unsynced = Unsynced { names: self.names.pending(), ..Unsynced::default() };
        let mut matter = Vec::new();
        for inode in self.unclean() {
            unsynced.sizes += inode.pending_sizes();
            inode.mark_differing(&mut matter);
        }
        unsynced.sectors = matter.iter().filter(|matters| **matters).count();
        (unsynced, matter)
    }

    fn crash_as(&mut self, outcome: &Outcome) {
        let (unsynced, matter) = self.unsynced();
        let given = Unsynced {
            names: outcome.names.len(),
            sizes: outcome.sizes.len(),
            sectors: outcome.sectors.len(),
        };
        assert_eq!(given, unsynced, "the outcome was made for this disk");
        let mut rng = self.rng.clone();
        let mut fates = ChosenFates {
            names: &outcome.names,
            sizes: outcome.sizes.iter(),
            sectors: outcome.sectors.iter(),
            matter: matter.iter(),
            noise: outcome.noise,
            rng: &mut rng,
        };
        self.crash_with(&mut fates);
        self.rng = rng;
    }
}

/// Hands out fates that were chosen before.
struct ChosenFates<'a> {
    names: &'a [bool],
    sizes: std::slice::Iter<'a, bool>,
    sectors: std::slice::Iter<'a, SectorFate>,
    matter: std::slice::Iter<'a, bool>,
    noise: bool,
    rng: &'a mut Rng,
}

impl Fates for ChosenFates<'_> {
    fn begin_file(&mut self, _sectors: usize) {}

    fn sector(&mut self) -> SectorFate {
        if *self.matter.next().expect("every sector was counted") {
            return *self.sectors.next().expect("every sector that matters was counted");
        }
        if self.noise { SectorFate::Old } else { SectorFate::New }
    }

    fn size(&mut self) -> bool {
        *self.sizes.next().expect("every size was counted")
    }

    fn exposes_noise(&mut self) -> bool {
        self.noise
    }

    fn noise(&mut self, bytes: &mut [u8]) {
        self.rng.fill(bytes);
    }

    fn names(&mut self, changes: usize) -> Vec<bool> {
        debug_assert_eq!(changes, self.names.len(), "every change of a name was counted");
        self.names.to_vec()
    }
}
