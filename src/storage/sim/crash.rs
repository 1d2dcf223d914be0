//! What a power cut leaves behind. The model decides nothing itself: it asks a [`Fates`], which
//! draws at random here; the one of `outcome` was told what to answer.

use super::rng::Rng;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies and the machine goes on: the cache survives, still unsynced.
    Kill,
    /// The machine dies: the cache is lost, and what was unsynced meets a random fate.
    Power,
}

/// What a torn write may do to the rest of its sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sectors {
    /// Only the bytes that the write covers are harmed. `SQLite` calls the assumption
    /// "powersafe overwrite" and makes it by default, too.
    #[default]
    Powersafe,
    /// The whole sector is harmed, with the durable bytes in it that nobody wrote to.
    Whole,
}

/// What became of one sector of an unsynced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorFate {
    /// The write is lost.
    Old,
    /// The write is there.
    New,
    /// Its first half is there.
    Half,
    /// It reads as zeros.
    Zero,
    /// It reads as noise.
    Garbage,
}

/// Decides what survives a power cut.
pub(super) trait Fates {
    /// The next file's turn comes, with so many unsynced sectors to ask about.
    fn begin_file(&mut self, sectors: usize);
    /// The fate of the next sector, in the order of the writes.
    fn sector(&mut self) -> SectorFate;
    /// Whether the next change of the file's size survives.
    fn size(&mut self) -> bool;
    /// Whether a sector that a surviving size exposes holds noise rather than zeros.
    fn exposes_noise(&mut self) -> bool;
    /// Fills in what garbage looks like.
    fn noise(&mut self, bytes: &mut [u8]);
    /// Which of so many pending changes of names survive.
    fn names(&mut self, changes: usize) -> Vec<bool>;
}

/// What one crash is like. Drawing every sector uniformly would hardly ever lose or keep
/// everything, and those are the states in which protocols fail.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// The fates in the order of [`SectorFate`], by weight; `sizes` of 8 sizes survive.
    Weighted { fates: [u64; 5], sizes: u64 },
    /// In each file, all up to one random sector survives in order, and nothing after it.
    TornInOrder,
    /// In each file, all but one random sector survives.
    OneVictim,
}

const MOODS: [Mood; 10] = [
    Mood::Weighted { fates: [1, 0, 0, 0, 0], sizes: 0 },
    Mood::Weighted { fates: [0, 1, 0, 0, 0], sizes: 8 },
    Mood::Weighted { fates: [1, 1, 1, 1, 1], sizes: 4 },
    Mood::Weighted { fates: [1, 1, 0, 0, 0], sizes: 6 },
    Mood::Weighted { fates: [2, 28, 1, 1, 1], sizes: 7 },
    Mood::Weighted { fates: [28, 2, 1, 1, 1], sizes: 2 },
    // The size without the data, and the data without the size.
    Mood::Weighted { fates: [1, 0, 0, 0, 0], sizes: 8 },
    Mood::Weighted { fates: [0, 1, 0, 0, 0], sizes: 0 },
    Mood::TornInOrder,
    Mood::OneVictim,
];

/// How often of 8 an exposed sector is noise. Most file systems expose zeros.
const NOISE: [u64; 4] = [0, 0, 2, 8];

/// How many of 8 changes of names survive, where each has a fate of its own.
const NAMES: [u64; 3] = [1, 4, 7];

const FATES: [SectorFate; 5] =
    [SectorFate::Old, SectorFate::New, SectorFate::Half, SectorFate::Zero, SectorFate::Garbage];

/// Draws every fate from a seeded generator.
#[derive(Debug)]
pub(super) struct RandomFates<'a> {
    rng: &'a mut Rng,
    mood: Mood,
    noise: u64,
    /// Where a file's order breaks, for the moods that have such a place.
    special: usize,
    sector: usize,
}

impl<'a> RandomFates<'a> {
    pub(super) fn new(rng: &'a mut Rng) -> Self {
        let mood = MOODS[rng.index(MOODS.len())];
        Self::with_mood(rng, mood)
    }

    /// Each sector and size is wholly there or wholly not, as a device that fails leaves them.
    pub(super) fn undamaged(rng: &'a mut Rng) -> Self {
        Self::with_mood(rng, Mood::Weighted { fates: [1, 1, 0, 0, 0], sizes: 4 })
    }

    fn with_mood(rng: &'a mut Rng, mood: Mood) -> Self {
        let noise = NOISE[rng.index(NOISE.len())];
        Self { rng, mood, noise, special: 0, sector: 0 }
    }

    fn any_but_new(&mut self) -> SectorFate {
        [SectorFate::Old, SectorFate::Half, SectorFate::Zero, SectorFate::Garbage]
            [self.rng.index(4)]
    }

    fn weighted(&mut self, weights: [u64; 5]) -> SectorFate {
        let mut drawn = self.rng.below(weights.iter().sum());
        for (fate, weight) in FATES.into_iter().zip(weights) {
            if drawn < weight {
                return fate;
            }
            drawn -= weight;
        }
        SectorFate::Old
    }
}

impl Fates for RandomFates<'_> {
    fn begin_file(&mut self, sectors: usize) {
        self.sector = 0;
        self.special = match self.mood {
            Mood::Weighted { .. } => 0,
            Mood::TornInOrder => self.rng.index(sectors + 1),
            Mood::OneVictim => self.rng.index(sectors),
        };
    }

    fn sector(&mut self) -> SectorFate {
        let sector = self.sector;
        self.sector += 1;
        match self.mood {
            Mood::Weighted { fates, .. } => self.weighted(fates),
            Mood::TornInOrder | Mood::OneVictim if sector == self.special => self.any_but_new(),
            Mood::TornInOrder if sector > self.special => SectorFate::Old,
            Mood::TornInOrder | Mood::OneVictim => SectorFate::New,
        }
    }

    fn size(&mut self) -> bool {
        match self.mood {
            Mood::Weighted { sizes, .. } => self.rng.chance(sizes, 8),
            Mood::TornInOrder => self.rng.chance(7, 8),
            Mood::OneVictim => true,
        }
    }

    fn exposes_noise(&mut self) -> bool {
        self.noise > 0 && self.rng.chance(self.noise, 8)
    }

    fn noise(&mut self, bytes: &mut [u8]) {
        self.rng.fill(bytes);
    }

    /// A journal keeps a prefix; a file system without one keeps anything. Names and data have
    /// moods of their own, so that either may survive without the other.
    fn names(&mut self, changes: usize) -> Vec<bool> {
        if self.rng.chance(1, 2) {
            let kept = match self.rng.below(4) {
                0 => 0,
                1 => changes,
                _ => self.rng.index(changes + 1),
            };
            (0..changes).map(|change| change < kept).collect()
        } else {
            let odds = NAMES[self.rng.index(NAMES.len())];
            (0..changes).map(|_| self.rng.chance(odds, 8)).collect()
        }
    }
}
