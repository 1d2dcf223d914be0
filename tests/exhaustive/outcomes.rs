//! All the ways in which one power cut can end.

use ackline::simulation::{Outcome, SectorFate, Unsynced};

/// Up to so many unsynced sectors, every subset of them is gone through.
pub(crate) const SECTORS_MAX: usize = 12;

/// Above so many outcomes of one crash, names and sizes no longer go through all their subsets
/// for each subset of the sectors.
const PRODUCT_MAX: usize = 1 << SECTORS_MAX;

/// The outcomes of a power cut, and how many were left out. With `tears`, each sector is also
/// torn in every way.
pub(crate) fn outcomes(unsynced: Unsynced, tears: bool) -> (Vec<Outcome>, u64) {
    let Unsynced { names, sizes, sectors } = unsynced;
    let whole = sectors_of(sectors);
    let mut left_out =
        if sectors > SECTORS_MAX { (1_u64 << sectors.min(63)) - whole.len() as u64 } else { 0 };
    let others = names + sizes;
    let product = whole.len() << others.min(20);
    let few = few(names, sizes);
    let mut found = Vec::new();
    if product <= PRODUCT_MAX || 1 << others <= few.len() {
        for bits in 0..1_u64 << others {
            let (kept_names, kept_sizes) = (subset(bits, names), subset(bits >> names, sizes));
            for sectors in &whole {
                found.push(outcome(&kept_names, &kept_sizes, sectors));
            }
        }
    } else {
        for (kept_names, kept_sizes) in few {
            for sectors in &whole {
                found.push(outcome(&kept_names, &kept_sizes, sectors));
            }
        }
        left_out += (product - found.len()) as u64;
    }
    if tears {
        torn(unsynced, &mut found);
    }
    if sizes > 0 {
        for survive in [false, true] {
            let fate = if survive { SectorFate::New } else { SectorFate::Old };
            let kept = unsynced.all(true);
            found.push(Outcome { sectors: vec![fate; sectors], noise: true, ..kept });
        }
    }
    (found, left_out)
}

/// Each sector torn in each way, with all others lost and with all others there.
fn torn(unsynced: Unsynced, found: &mut Vec<Outcome>) {
    for survive in [false, true] {
        let fate = if survive { SectorFate::New } else { SectorFate::Old };
        let plain = Outcome { sectors: vec![fate; unsynced.sectors], ..unsynced.all(true) };
        for victim in 0..unsynced.sectors {
            for fate in [SectorFate::Half, SectorFate::Zero, SectorFate::Garbage] {
                let mut torn = plain.clone();
                torn.sectors[victim] = fate;
                found.push(torn);
            }
        }
    }
}

fn outcome(names: &[bool], sizes: &[bool], sectors: &[SectorFate]) -> Outcome {
    let (names, sizes, sectors) = (names.to_vec(), sizes.to_vec(), sectors.to_vec());
    Outcome { names, sizes, sectors, noise: false }
}

fn subset(bits: u64, of: usize) -> Vec<bool> {
    (0..of).map(|i| bits >> i & 1 == 1).collect()
}

/// All subsets of the sectors; where those are too many, the ones in which one sector or the
/// sectors before or behind a place have another fate than the rest.
fn sectors_of(sectors: usize) -> Vec<Vec<SectorFate>> {
    let fates = |kept: Vec<bool>| {
        let fate = |kept: bool| if kept { SectorFate::New } else { SectorFate::Old };
        kept.into_iter().map(fate).collect::<Vec<_>>()
    };
    if sectors <= SECTORS_MAX {
        return (0..1_u64 << sectors).map(|bits| fates(subset(bits, sectors))).collect();
    }
    let mut found = Vec::new();
    for place in 0..=sectors {
        for flip in [false, true] {
            found.push(fates((0..sectors).map(|i| (i < place) != flip).collect()));
            if place < sectors {
                found.push(fates((0..sectors).map(|i| (i == place) != flip).collect()));
            }
        }
    }
    found
}

/// Names and sizes that all survive, all do not, survive up to a place, or all but one.
fn few(names: usize, sizes: usize) -> Vec<(Vec<bool>, Vec<bool>)> {
    let mut found = Vec::new();
    for place in 0..=names {
        let prefix: Vec<bool> = (0..names).map(|i| i < place).collect();
        let all_but_one: Vec<bool> = (0..names).map(|i| i != place).collect();
        for kept in [false, true] {
            found.push((prefix.clone(), vec![kept; sizes]));
            if place < names {
                found.push((all_but_one.clone(), vec![kept; sizes]));
            }
        }
    }
    found
}
