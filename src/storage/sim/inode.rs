//! One simulated file: what the disk holds, what the cache shows, and what lies between them.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::content::Content;
use super::counts::Counts;
use super::crash::{Fates, SectorFate, Sectors};
use super::freed::Freed;
use super::rng::Rng;
use super::trace::{Trace, hash_bytes};

/// The unit in which a disk writes.
pub(super) const SECTOR: u64 = 512;

const SECTOR_BYTES: usize = 512;

/// A file without its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    durable: Content,
    cached: Content,
    /// What turns `durable` into `cached`, unless a sync lied.
    pending: Vec<Op>,
    /// Whether the cache may show bytes that neither the disk holds nor `pending` will bring.
    lying: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, bytes: Arc<[u8]> },
    Size(u64),
}

impl Inode {
    pub(super) fn durable_from(bytes: &[u8]) -> Self {
        let content = Content::of(bytes);
        Self { durable: content.clone(), cached: content, pending: Vec::new(), lying: false }
    }

    pub(super) fn cached(&self) -> &Content {
        &self.cached
    }

    pub(super) fn durable(&self) -> &Content {
        &self.durable
    }

    /// Whether the cache shows just what the disk holds.
    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty() && !self.lying
    }

    /// Whether the cache may show what the disk does not hold.
    pub(super) fn is_lying(&self) -> bool {
        self.lying
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: u64) {
        let end = at + bytes.len() as u64;
        // The size comes first, because a write that lands outside the size is lost.
        if end > self.cached.size() {
            self.set_size(end);
        }
        self.cached.write(bytes, at);
        self.pending.push(Op::Write { at, bytes: bytes.into() });
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size != self.cached.size() {
            self.cached.set_size(size);
            self.pending.push(Op::Size(size));
        }
    }

    /// Makes every pending operation durable.
    pub(super) fn sync(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    /// Fails a sync as ext4 and XFS do: the pages count as clean, and the disk never gets them.
    /// The size, which is the journal's business, stays to be written.
    pub(super) fn lose_writes(&mut self) {
        let before = self.pending.len();
        self.pending.retain(|op| matches!(op, Op::Size(_)));
        self.lying |= self.pending.len() < before;
    }

    /// Syncs all but one sector of one write, and answers which one that was.
    pub(super) fn sync_without(&mut self, lost: usize) -> (Vec<u8>, Range<u64>) {
        let (at, bytes) = self
            .pieces()
            .nth(lost)
            .map(|(at, bytes)| (at, bytes.to_vec()))
            .expect("the lost sector is one of the pending ones");
        let mut before = vec![0; bytes.len()];
        self.durable.read(&mut before, at);
        let lost_range = at..at + bytes.len() as u64;
        self.sync();
        self.durable.write(&before, at);
        self.lying = true;
        (bytes, lost_range)
    }

    /// Puts `bytes` onto the disk behind the cache's back.
    pub(super) fn write_durable(&mut self, bytes: &[u8], at: u64) {
        self.durable.write(bytes, at);
        self.lying = true;
    }

    /// Puts `bytes` onto the disk and into the cache.
    pub(super) fn damage(&mut self, bytes: &[u8], at: u64) {
        self.durable.write(bytes, at);
        self.cached.write(bytes, at);
    }

    /// How many sectors the pending writes cover, counted once per write.
    pub(super) fn pending_sectors(&self) -> usize {
        self.pieces().count()
    }

    /// How many changes of the size are pending.
    pub(super) fn pending_sizes(&self) -> usize {
        self.pending.iter().filter(|op| matches!(op, Op::Size(_))).count()
    }

    /// Says of each pending sector whether the disk can differ by what becomes of it: it does
    /// not where the very same bytes are there already.
    pub(super) fn mark_differing(&self, marks: &mut Vec<bool>) {
        let mut written: Vec<Range<u64>> = Vec::new();
        let mut old = [0; SECTOR_BYTES];
        // A cut may take what is there now.
        let is_cut = |op: &Op| matches!(op, Op::Size(size) if *size < self.durable.size());
        let is_cut = self.pending.iter().any(is_cut);
        for (at, piece) in self.pieces() {
            let range = at..at + piece.len() as u64;
            let old = &mut old[..piece.len()];
            // What lies behind the size reads as zeros once a size exposes it.
            let read = self.durable.read(old, at);
            old[read..].fill(0);
            let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
            let differs = is_cut || old != piece || written.iter().any(overlaps);
            if differs {
                written.push(range);
            }
            marks.push(differs);
        }
    }

    /// A hash of the bytes and of what is pending.
    pub(super) fn content_hash(&self) -> u64 {
        let mut trace = Trace::default();
        self.durable.mix_into(&mut trace);
        if !self.is_clean() {
            self.cached.mix_into(&mut trace);
        }
        for op in &self.pending {
            match op {
                Op::Write { at, bytes } => trace.mix_all(&[1, *at, hash_bytes(bytes)]),
                Op::Size(size) => trace.mix_all(&[2, *size]),
            }
        }
        trace.hash()
    }

    /// Forgets the clean pages, so that reads show what is durable or pending.
    pub(super) fn evict(&mut self) {
        self.cached = self.truth();
        self.lying = false;
    }

    /// Forgets each clean page with even odds.
    pub(super) fn evict_some(&mut self, rng: &mut Rng) {
        let truth = self.truth();
        self.cached.take_pages(&truth, |_| rng.chance(1, 2));
    }

    /// What reads would show if every clean page were read from the disk again.
    fn truth(&self) -> Content {
        let mut truth = self.durable.clone();
        for op in &self.pending {
            op.apply(&mut truth);
        }
        truth
    }

    /// Writes a part of what is pending, and leaves it pending.
    pub(super) fn sync_partly(&mut self, fates: &mut impl Fates) {
        let pending = self.pending.clone();
        let mut uncounted = Counts::default();
        self.settle(Sectors::Powersafe, fates, &Freed::default(), &mut uncounted);
        self.pending = pending;
    }

    /// Cuts the power: what is pending meets its fate, and the cache is gone.
    pub(super) fn crash(
        &mut self,
        mode: Sectors,
        fates: &mut impl Fates,
        freed: &Freed,
        counts: &mut Counts,
    ) {
        self.settle(mode, fates, freed, counts);
        counts.unmasked += u64::from(self.lying);
        self.cached = self.durable.clone();
        self.lying = false;
    }

    fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pending.iter().flat_map(|op| match op {
            Op::Write { at, bytes } => Pieces { at: *at, bytes },
            Op::Size(_) => Pieces { at: 0, bytes: &[] },
        })
    }

    /// Decides about every pending operation, in order.
    ///
    /// A file's sizes and its data live in different places, so that each may survive alone. The
    /// operations are taken in runs that end where a surviving cut of the file does: within a
    /// run, data survives if it lies below the largest surviving size, whether or not the size
    /// that came with it did.
    fn settle(
        &mut self,
        mode: Sectors,
        fates: &mut impl Fates,
        freed: &Freed,
        counts: &mut Counts,
    ) {
        fates.begin_file(self.pending_sectors());
        let ops = mem::take(&mut self.pending);
        let kept: Vec<bool> = ops
            .iter()
            .map(|op| match op {
                Op::Write { .. } => false,
                Op::Size(_) => tally(fates.size(), &mut counts.size_kept, &mut counts.size_lost),
            })
            .collect();
        let mut cut = PowerCut { mode, fates, freed, counts, lost: false, reordered: false };
        let mut rest = ops.iter().zip(kept).peekable();
        while rest.peek().is_some() {
            let mut writes = Vec::new();
            let mut size = self.durable.size();
            let mut cut_to = None;
            for (op, kept) in rest.by_ref() {
                match op {
                    Op::Write { at, bytes } => writes.push((*at, bytes)),
                    Op::Size(to) if kept && *to < size => {
                        cut_to = Some(*to);
                        break;
                    }
                    Op::Size(to) if kept => size = *to,
                    Op::Size(_) => {}
                }
            }
            cut.expose(&mut self.durable, size);
            for (at, bytes) in writes {
                cut.settle_write(&mut self.durable, at, bytes);
            }
            if let Some(to) = cut_to {
                self.durable.set_size(to);
            }
        }
        let reordered = cut.reordered;
        counts.reordered += u64::from(reordered);
    }
}

/// A power cut, as it meets one file.
struct PowerCut<'a, F> {
    mode: Sectors,
    fates: &'a mut F,
    freed: &'a Freed,
    counts: &'a mut Counts,
    /// A sector of an earlier write was lost.
    lost: bool,
    /// A sector of a later one was kept.
    reordered: bool,
}

impl<F: Fates> PowerCut<'_, F> {
    /// Grows the durable file to `size`, whose new bytes the disk may never have zeroed.
    fn expose(&mut self, durable: &mut Content, size: u64) {
        let mut at = durable.size();
        if size <= at {
            return;
        }
        durable.set_size(size);
        while at < size {
            let end = (at / SECTOR * SECTOR + SECTOR).min(size);
            let mut noise = [0; SECTOR_BYTES];
            let noise = &mut noise[..in_sector(end - at)];
            let (yes, no) = (&mut self.counts.exposed_garbage, &mut self.counts.exposed_zero);
            if tally(self.fates.exposes_noise(), yes, no) {
                self.fill(noise, at);
                durable.write(noise, at);
            }
            at = end;
        }
    }

    fn fill(&mut self, noise: &mut [u8], at: u64) {
        self.fates.noise(noise);
        self.counts.leftover += u64::from(self.freed.haunt(noise, at));
    }

    fn settle_write(&mut self, durable: &mut Content, at: u64, bytes: &[u8]) {
        let (mut kept, mut lost) = (false, false);
        for (at, piece) in (Pieces { at, bytes }) {
            let fate = self.settle_sector(durable, at, piece);
            kept |= fate == SectorFate::New;
            lost |= fate != SectorFate::New;
        }
        self.reordered |= self.lost && kept;
        self.lost |= lost;
        self.counts.torn += u64::from(kept && lost);
    }

    fn settle_sector(&mut self, durable: &mut Content, at: u64, piece: &[u8]) -> SectorFate {
        let sector = at / SECTOR * SECTOR;
        let (harm_at, harm_length) = match self.mode {
            Sectors::Powersafe => (at, piece.len()),
            Sectors::Whole => (sector, SECTOR_BYTES),
        };
        let mut harm = [0; SECTOR_BYTES];
        let fate = self.fates.sector();
        match fate {
            SectorFate::Old => self.counts.sector_old += 1,
            SectorFate::New => {
                self.counts.sector_new += 1;
                self.counts.data_without_size += u64::from(at >= durable.size());
                durable.write(piece, at);
            }
            SectorFate::Half => {
                self.counts.sector_half += 1;
                let new = match self.mode {
                    Sectors::Powersafe => piece.len() / 2,
                    Sectors::Whole => {
                        in_sector((sector + SECTOR / 2).saturating_sub(at)).min(piece.len())
                    }
                };
                durable.write(&piece[..new], at);
            }
            SectorFate::Zero => {
                self.counts.sector_zero += 1;
                durable.write(&harm[..harm_length], harm_at);
            }
            SectorFate::Garbage => {
                self.counts.sector_garbage += 1;
                self.fill(&mut harm[..harm_length], harm_at);
                durable.write(&harm[..harm_length], harm_at);
            }
        }
        fate
    }
}

impl Op {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { at, bytes } => content.write(bytes, *at),
            Self::Size(to) => content.set_size(*to),
        }
    }
}

/// The parts of a write, one per sector that it touches.
struct Pieces<'a> {
    at: u64,
    bytes: &'a [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let room = in_sector(SECTOR - self.at % SECTOR);
        let (piece, rest) = self.bytes.split_at(room.min(self.bytes.len()));
        let at = self.at;
        self.at += piece.len() as u64;
        self.bytes = rest;
        Some((at, piece))
    }
}

fn in_sector(bytes: u64) -> usize {
    usize::try_from(bytes.min(SECTOR)).expect("a sector is short")
}

/// Counts `outcome` and hands it on.
pub(super) fn tally(outcome: bool, yes: &mut u64, no: &mut u64) -> bool {
    *(if outcome { yes } else { no }) += 1;
    outcome
}
