//! Proof that a simulation did what it says: how often each outcome and each fault came up.

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often each crash outcome and each fault happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Adds every count of `other` to this one's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counts! {
    /// Processes killed with the cache left behind.
    kill,
    /// Power cuts.
    power,
    /// Unsynced sectors that a power cut lost.
    sector_old,
    /// Unsynced sectors that survived a power cut.
    sector_new,
    /// Unsynced sectors of which a power cut kept the first half.
    sector_half,
    /// Unsynced sectors that read as zeros after a power cut.
    sector_zero,
    /// Unsynced sectors that read as noise after a power cut.
    sector_garbage,
    /// Unsynced changes of a file's size that survived a power cut.
    size_kept,
    /// Unsynced changes of a file's size that a power cut lost.
    size_lost,
    /// Sectors that a surviving size exposed as zeros before any data of theirs landed.
    exposed_zero,
    /// Sectors that a surviving size exposed as noise before any data of theirs landed.
    exposed_garbage,
    /// Unsynced sectors that a power cut kept and no surviving size covers.
    data_without_size,
    /// Unsynced writes of which a power cut kept a part.
    torn,
    /// Files in which a power cut kept a later write and lost an earlier one.
    reordered,
    /// Sectors of noise that were what a removed file had left there.
    leftover,
    /// Power cuts that kept a later change of a name and lost an earlier one.
    names_reordered,
    /// Unsynced new names that survived a power cut.
    create_kept,
    /// Unsynced new names that a power cut lost.
    create_lost,
    /// Unsynced renames that survived a power cut.
    rename_kept,
    /// Unsynced renames that a power cut lost.
    rename_lost,
    /// Unsynced removals that survived a power cut.
    unlink_kept,
    /// Unsynced removals that a power cut undid.
    unlink_lost,
    /// Calls that failed with an input/output error.
    fault_io,
    /// Of these, calls that took effect all the same.
    fault_io_done,
    /// Syncs of the directory that failed.
    fault_sync_directory,
    /// Of these, those that lost changes of names for good, which the cache went on to show.
    fault_names_lost,
    /// Processes killed in the middle of a write.
    killed_in_write,
    /// Calls that failed for want of space, by a fault or at the capacity.
    fault_no_space,
    /// Calls that a signal interrupted.
    fault_interrupted,
    /// Reads and writes that did only a part.
    fault_short,
    /// Syncs that failed and marked the cached pages clean.
    fault_sync_lost,
    /// Files whose cache showed what the disk did not hold, and then was lost.
    unmasked,
    /// Bits flipped in durable bytes.
    bit_rot,
    /// Sectors that landed in the wrong place.
    misdirected,
    /// Sectors that the disk claimed to have written and did not.
    stale,
}
