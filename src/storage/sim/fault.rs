//! Faults, and which calls they can strike.

/// What goes wrong with one call.
///
/// A fault that cannot strike the call that it was planned for is ignored and not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error. What changes a file or a name may have taken effect all the same, a
    /// write in a random part; after a failed sync the disk may hold all, some or none of what
    /// was to be synced, which stays unsynced unless the disk holds it all. Half of the syncs of
    /// the directory lose what they did not do, as with [`Fault::SyncLost`].
    Io,
    /// No space is left, and nothing is done. Strikes what can need space. A sync may lose what
    /// was to be synced, as with [`Fault::SyncLost`]: where a file system looks for room late,
    /// it learns at the sync that there is none.
    NoSpace,
    /// A signal comes first, and nothing is done. Strikes reads and writes.
    Interrupted,
    /// Only a part of the bytes is done, at least one. Strikes reads and writes.
    Short,
    /// A sync of a file fails and marks the pages clean, as on ext4 and XFS: the cache goes on
    /// to read well, the next sync succeeds, and the disk never gets the bytes. The file's size
    /// stays to be synced. One of the directory loses changes of names in the same way, until the
    /// directory is locked again: whoever opens it then sees what the disk has.
    SyncLost,
    /// A sync of a file succeeds, but one sector was never written. The cache does not show it.
    Stale,
    /// A sync of a file succeeds, but one sector was written over another one of the same file
    /// instead. The cache does not show it.
    Misdirected,
    /// The process dies in the middle of the call: a write has done a random part.
    Death,
}

/// The calls that are counted, by the methods of [`Storage`](crate::simulation::Storage) and
/// [`StorageFile`](crate::simulation::StorageFile).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after the method")]
pub enum Call {
    List,
    Create,
    Open,
    Rename,
    Quarantine,
    Remove,
    SyncDirectory,
    Size,
    Read,
    Write,
    Allocate,
    SetSize,
    Sync,
    Map,
}

impl Fault {
    pub(super) fn can_strike(self, call: Call) -> bool {
        match self {
            Self::Io | Self::Death => true,
            Self::NoSpace => {
                !matches!(call, Call::List | Call::Open | Call::Size | Call::Read | Call::Map)
            }
            Self::Interrupted | Self::Short => matches!(call, Call::Read | Call::Write),
            Self::SyncLost => matches!(call, Call::Sync | Call::SyncDirectory),
            Self::Stale | Self::Misdirected => call == Call::Sync,
        }
    }
}

impl Call {
    /// Whether it changes names or files, other than by writing and syncing.
    pub(super) fn changes_files(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::Rename
                | Self::Quarantine
                | Self::Remove
                | Self::Allocate
                | Self::SetSize
        )
    }
}
