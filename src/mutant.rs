//! Deliberate bugs, one at a time: the proof that the tests would find them.
//!
//! A hook is one line at the place of the bug: `if mutant::on(Mutant::Name)`. Without the feature
//! `mutants`, [`on`] is `false` when the crate is compiled, and no hook is left in it. With the
//! feature it looks at a switch of the whole process, the one global of the crate, so one process
//! tries one mutant at a time. `examples/mutants.rs` tries them all.

macro_rules! mutants {
    ($($area:literal: $($name:ident $what:literal)*;)*) => {
        /// A bug that a careful engineer could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $what] $name,)*)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// All of them, area by area.
            pub const ALL: &[Self] = &[$($(Self::$name,)*)*];

            /// The name, as it is written in the source.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$name => stringify!($name),)*)*
                }
            }

            /// What goes wrong, in a sentence.
            pub fn what(self) -> &'static str {
                match self {
                    $($(Self::$name => $what,)*)*
                }
            }

            /// The part of the library in which it goes wrong.
            pub fn area(self) -> &'static str {
                match self {
                    $($(Self::$name => $area,)*)*
                }
            }
        }
    };
}

mutants! {
    "commit":
        AckBeforeSync "A commit is answered without a sync, which comes with a later one."
        SyncWrongFile "The leader goes on to sync the oldest segment after the log has rolled."
        RetryFailedSync "A sync that failed is tried again, and believed when it then succeeds."
        PoisonNotLatched "A failed write or sync is answered once and then forgotten."
        BackgroundSyncIgnored "An error of the sync in the background is taken for a success."
        IntervalCountsAsDurable "Under the interval policy, what is written counts as durable."
        WatermarkTooHigh "A frame's header says that the frame itself is durable."
        WatermarkMissing "The headers carry no watermark."
        MarkerBeforeDurable "A marker vouches for records that are as little synced as itself."
        CallbackBeforeDurable "The callback of a submit is called when the record is queued."
        PaddingForgotten "Commits share sectors on media that harm whole sectors."
        BatchSplit "The last record of a batch is written after the others."
        FullAfterEnqueue "An append is refused for want of room after it was queued."
        ConditionOnVisible "`append_if` compares with the visible end, not with what is queued."
        TopicNotSynced "A new topic is not synced under the policies that sync later.";
    "files":
        ShortWriteNotContinued "The rest of a short write is not written."
        InterruptedWriteDropped "A write that a signal interrupted is taken for done."
        ShortReadTakenForEnd "A short read is taken for the end of the file."
        SkipDirectorySync "The directory is not synced after a segment got its name."
        RetryFailedDirectorySync "A sync of the directory that failed is tried again, and believed then."
        SkipDirectorySyncAtOpen "Opening trusts names that the directory may not hold durably."
        SizeNotSynced "A segment gets its size after its last sync."
        NewSegmentNotSynced "The head of a new segment is not synced before it is in use."
        CheckpointWrittenLate "A segment gets its name before its checkpoint is written."
        OldSegmentNotSynced "Rolling does not sync what the old segment still has unsynced."
        SealedTooEarly "The old segment is marked as sealed before the new one is there."
        SealNotMarked "The old segment is never marked as sealed."
        CheckpointWithoutAttempts "A checkpoint leaves out the attempts."
        CheckpointWithoutTimes "A checkpoint leaves out the latest time of each topic.";
    "recovery":
        TrustCachedTail "Opening trusts a tail that nothing on the disk vouches for."
        CutBeforeCopy "A tail is cut off its old segment before its copy is safe."
        SkipChainCheck "A frame need not continue the frame before it."
        SkipPositionCheck "A frame may lie anywhere."
        SkipHeaderChecksum "The checksum of a frame's header is not compared."
        SkipBodyChecksum "Recovery does not compare the checksum of a frame's body."
        SkipCheckpointChecksum "The checksum of a checkpoint is not compared."
        SaltKept "What recovery writes again has the salt of the old file."
        ForeignHeadIgnored "A head with another salt than all that the file holds is believed."
        EchoesNotWritten "Markers have no echoes."
        SkipSizeCheck "A segment that was cut short is taken as it is."
        SkipPreviousCheck "Nobody checks that the older segments are there."
        ReopeningNotMarked "The marker of a clean close is not revoked when the log is opened."
        ClosingNotMarked "Closing writes no marker."
        ClosingForgetsAcks "Closing does not log what the groups have not logged yet.";
    "reading":
        ReadsUnsynced "Readers see what is written, synced or not."
        SkipBodyChecksumInReads "Readers do not compare the checksum of a frame's body."
        IndexTrusted "A sidecar index is used although its checksum is wrong."
        IndexPointsKept "A new segment's index lacks topics that the old one's had."
        LatestAboveVisible "The latest message includes those that nobody can see yet.";
    "retention":
        NeededSegmentDeleted "A segment goes although a group lacks its last message."
        DeletedBeforeSync "A segment goes before the progress by which it may go is synced."
        RemovalNotSynced "The directory is not synced between two removals."
        StartNotRaised "The topics' first offsets stay where they were."
        UnreadTopicDeleted "Topics without groups count as consumed."
        MayLagIgnored "At the size limit, every group may lose messages.";
    "groups":
        FloorPastHole "The floor advances past a message that is not settled."
        LoggedRangesJoined "What was settled is logged as one range, holes included."
        LeaseFreedTwice "The holder of a lease that is over ends the next one's lease."
        StaleAckAccepted "An ack counts although the message was leased again."
        InFlightOffByOne "One message more than allowed is in flight."
        AttemptNotLogged "The attempt of a redelivery is not logged."
        DeliveredBeforeLogged "A message is delivered before its attempt is durable."
        ReserveNotLogged "First deliveries are not logged."
        ReserveUsedEarly "A delivery reserve is used before it is durable."
        AttemptsOffByOne "A message is delivered once more than allowed."
        BuriedTooEarly "A message goes to the dead letters one delivery early."
        SuspectsTogether "After a crash, what may have caused it is delivered with the rest."
        RetryAtOnce "The delay of a retry is ignored."
        CommitAboveVisible "`commit_through` settles what nobody can see yet."
        SeekNotLogged "A seek is not logged."
        SeekKeepsDelta "What was settled before a seek is logged after it."
        DeltaDropped "What could not be logged for want of room is never logged."
        RiderLost "A group announces only once that it has something to log."
        CommitBeforeDurable "A group's commit does not wait for the disk."
        CommitForgetsRiders "A group's commit does not wait for what another write carries."
        SyncForgetsAcks "Syncing the log does not log what the groups have not logged yet."
        DeadLetterBeforeDurable "A reject is answered before the dead letter is durable."
        DeadLetterApart "A dead letter and the acknowledgement of its source are two frames."
        BatchAcksApart "A batch's acknowledgements are not in its frame."
        FilterMovesFloor "Skipping a message by its tag settles all before it."
        GroupMixedUp "The progress of every group is logged as that of the first.";
    "replication":
        VisibleBeforeReplicated "Readers see what is durable here, replicated or not."
        AdvanceWithoutEpochCheck "What an earlier leader says of replicas is believed."
        InheritedCountsAtOnce "What a leader inherited counts before a frame of its own epoch does."
        TruncateByWatermark "A follower cuts its log at its watermark, not where the epochs part."
        PromiseNotDurable "A promise to follow an epoch is answered before it is durable."
        TruncationNotIntended "Nothing on the disk says that a truncation is under way."
        PromiseBeforeLog "A replica's promise is made before the log that it is about."
        StaleAckCounted "An ack of an earlier epoch counts in this one."
        PromoteLagging "A replica that lacks acknowledged records is made the leader."
        TooFewPromises "A candidate leads with one promise too few."
        FollowerAcksUnsynced "A follower acks frames before they are durable."
        FollowerAcksUnmatched "A follower acks all that it holds, whether or not it is the leader's.";
    "wake-ups":
        WaiterNotWoken "A commit that is done does not wake the threads that wait for it."
        LeadNotHandedOn "A waiter is made the leader and not woken."
        LeadNotReturned "A leader who leaves nobody behind goes on to count as the leader."
        FailureLeavesWaiters "A failed write answers only those whose records it carried."
        PollerNotWoken "What becomes visible does not wake the threads that poll."
        TaskNotWoken "What becomes visible does not wake the tasks that wait."
        WorkNotAnnounced "What nobody waits for is queued without a word to the background."
        AwakeInItsSleep "The background sleeps until it is told, and nobody knows that."
        CallbackNotAnnounced "A callback is left to the background without a word to it."
        ChangeMissed "A thread goes to sleep though something changed since it looked.";
}

/// Whether this mutant is the one that is switched on.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "no trace of a hook may be left, not even a call")]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub(crate) use switch::on;
#[cfg(feature = "mutants")]
pub use switch::{activate, deactivate};

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutant;

    const NONE: usize = usize::MAX;

    static ACTIVE: AtomicUsize = AtomicUsize::new(NONE);

    /// Switches a mutant on, in the whole process, and any other one off.
    pub fn activate(mutant: Mutant) {
        ACTIVE.store(mutant as usize, Ordering::SeqCst);
    }

    /// Switches all mutants off.
    pub fn deactivate() {
        ACTIVE.store(NONE, Ordering::SeqCst);
    }

    pub(crate) fn on(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as usize
    }
}
