//! The simulated directory: which name leads to which file, on the disk and in the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::counts::Counts;
use super::crash::Fates;
use super::inode::tally;
use super::trace::{Trace, hash_bytes};

/// The number of a file, never used twice.
pub(super) type InodeId = u64;

/// Names, and the changes of names that no sync has made durable yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    durable: BTreeMap<Arc<str>, InodeId>,
    cached: BTreeMap<Arc<str>, InodeId>,
    pending: Vec<NameOp>,
    /// Whether the cache may show names that neither the disk holds nor `pending` will bring.
    lying: bool,
}

#[derive(Clone, Debug)]
enum NameOp {
    Create { name: Arc<str>, inode: InodeId },
    Rename { from: Arc<str>, to: Arc<str>, inode: InodeId },
    Remove { name: Arc<str>, inode: InodeId },
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<InodeId> {
        self.cached.get(name).copied()
    }

    pub(super) fn get_durable(&self, name: &str) -> Option<InodeId> {
        self.durable.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, InodeId)> {
        self.cached.iter().map(|(name, inode)| (&**name, *inode))
    }

    /// Whether a name leads to `inode`, or may do so after a crash.
    pub(super) fn refers_to(&self, inode: InodeId) -> bool {
        self.cached.values().any(|known| *known == inode)
            || self.durable.values().any(|known| *known == inode)
            || self.pending.iter().any(|op| op.inode() == inode)
    }

    pub(super) fn create(&mut self, name: &str, inode: InodeId) {
        let name: Arc<str> = name.into();
        self.cached.insert(name.clone(), inode);
        self.pending.push(NameOp::Create { name, inode });
    }

    /// Answers whether there was such a name.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some((from, inode)) = self.cached.remove_entry(from) else {
            return false;
        };
        let to: Arc<str> = to.into();
        self.cached.insert(to.clone(), inode);
        // A rename onto itself changes nothing.
        if from != to {
            self.pending.push(NameOp::Rename { from, to, inode });
        }
        true
    }

    /// The file that had the name.
    pub(super) fn remove(&mut self, name: &str) -> Option<InodeId> {
        let (name, inode) = self.cached.remove_entry(name)?;
        self.pending.push(NameOp::Remove { name, inode });
        Some(inode)
    }

    /// Makes every pending change durable.
    pub(super) fn sync(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    /// Makes the first `kept` pending changes durable and leaves the others pending.
    pub(super) fn sync_prefix(&mut self, kept: usize) {
        for op in self.pending.drain(..kept) {
            op.apply(&mut self.durable);
        }
    }

    /// Loses the pending changes: the cache goes on to show them, and no later sync brings them.
    /// Answers whether there were any.
    pub(super) fn lose_changes(&mut self) -> bool {
        let lost = !self.pending.is_empty();
        self.pending.clear();
        self.lying |= lost;
        lost
    }

    /// Reads the directory anew: it shows what is durable or pending from now on.
    pub(super) fn evict(&mut self) {
        if std::mem::take(&mut self.lying) {
            self.cached.clone_from(&self.durable);
            for op in &self.pending {
                op.apply(&mut self.cached);
            }
        }
    }

    /// Mixes in which names lead to which files, each file by the hash of what is in it.
    pub(super) fn mix_into(&self, trace: &mut Trace, hash_of: impl Fn(InodeId) -> u64) {
        for names in [&self.durable, &self.cached] {
            trace.mix(names.len() as u64);
            for (name, inode) in names {
                trace.mix_all(&[hash_bytes(name.as_bytes()), hash_of(*inode)]);
            }
        }
        for op in &self.pending {
            let (kind, from, to) = match op {
                NameOp::Create { name, .. } => (1, name, name),
                NameOp::Rename { from, to, .. } => (2, from, to),
                NameOp::Remove { name, .. } => (3, name, name),
            };
            let names = [from, to].map(|name| hash_bytes(name.as_bytes()));
            trace.mix_all(&[kind, names[0], names[1], hash_of(op.inode())]);
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Cuts the power: each pending change survives or does not, and the cache is gone.
    pub(super) fn crash(&mut self, fates: &mut impl Fates, counts: &mut Counts) {
        let kept = fates.names(self.pending.len());
        let (mut lost, mut reordered) = (false, false);
        for (op, kept) in self.pending.drain(..).zip(kept) {
            let kept = kept && op.apply(&mut self.durable);
            reordered |= lost && kept;
            lost |= !kept;
            match op {
                NameOp::Create { .. } => {
                    tally(kept, &mut counts.create_kept, &mut counts.create_lost)
                }
                NameOp::Rename { .. } => {
                    tally(kept, &mut counts.rename_kept, &mut counts.rename_lost)
                }
                NameOp::Remove { .. } => {
                    tally(kept, &mut counts.unlink_kept, &mut counts.unlink_lost)
                }
            };
        }
        counts.names_reordered += u64::from(reordered);
        self.cached.clone_from(&self.durable);
        self.lying = false;
    }
}

impl NameOp {
    fn inode(&self) -> InodeId {
        match self {
            Self::Create { inode, .. }
            | Self::Rename { inode, .. }
            | Self::Remove { inode, .. } => *inode,
        }
    }

    /// Applies the change where what it builds on is there, and answers whether it was.
    ///
    /// A rename needs its source, a removal the name with just this file, and a new name must
    /// not be taken: it never replaces a file whose removal was lost.
    fn apply(&self, durable: &mut BTreeMap<Arc<str>, InodeId>) -> bool {
        match self {
            Self::Create { name, inode } => {
                let free = !durable.contains_key(name);
                if free {
                    durable.insert(name.clone(), *inode);
                }
                free
            }
            Self::Rename { from, to, inode } => {
                let there = durable.get(from) == Some(inode);
                if there {
                    durable.remove(from);
                    durable.insert(to.clone(), *inode);
                }
                there
            }
            Self::Remove { name, inode } => {
                let there = durable.get(name) == Some(inode);
                if there {
                    durable.remove(name);
                }
                there
            }
        }
    }
}
