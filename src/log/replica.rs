//! A log as one of several replicas: who leads, what is given up, where a replica begins anew.

use std::sync::Arc;
use std::time::Duration;

use crate::commit::Found;
use crate::commit::replicas::{Outlet, Standing};
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, NUMBER_MAX, Position};
use crate::promise::{Intent, Promise, PromiseFile};
use crate::replicate::{EpochStart, Frames, History, LogEnd, ReplicaStatus, Replicator, Snapshot};
use crate::segment::sealed::open_segment;
use crate::shared::Shared;

use super::cut::{Bench, finish};
use super::older::read_head;
use super::open::{list, recover};

/// A replicator, as the commit machinery knows it.
#[derive(Debug)]
pub(super) struct Attached(pub(super) Arc<dyn Replicator>);

impl Outlet for Attached {
    fn offer(&self, frames: &Frames) {
        self.0.offer(frames);
    }

    fn synced(&self, epoch: Epoch, end: Position) {
        self.0.synced(epoch, end);
    }

    fn settle(&self) {
        self.0.settle();
    }

    fn check_available(&self) -> Result<()> {
        match self.0.status() {
            ReplicaStatus::Unavailable { needed, available } => {
                Err(Error::ReplicasUnavailable { needed, available })
            }
            _ => Ok(()),
        }
    }

    fn needed_from(&self) -> Option<Position> {
        self.0.needed_from()
    }

    fn tick(&self, now: Duration) {
        self.0.tick(now);
    }

    fn detach(&self, within: Duration) {
        self.0.detach(within);
    }
}

#[cfg(any(test, feature = "conformance"))]
impl super::Log {
    /// What its replicator was given.
    pub(crate) fn replica(&self) -> crate::replicate::LogHandle {
        crate::replicate::LogHandle::new(&self.handle.shared)
    }
}

/// One that is larger than any in a file was chosen by mistake, and no epoch would be left behind it.
fn check_epoch(epoch: Epoch) -> Result<()> {
    if epoch.0 < NUMBER_MAX {
        return Ok(());
    }
    let reason = format!("{epoch} is not below {NUMBER_MAX}");
    Err(Error::InvalidOption { option: "epoch", reason })
}

impl Shared {
    fn promises(&self) -> Result<&PromiseFile> {
        self.promises.as_ref().ok_or(Error::Closed)
    }

    pub(crate) fn promise(&self) -> Result<Promise> {
        self.check_open()?;
        Ok(self.promises()?.get())
    }

    pub(crate) fn store_cell(&self, bytes: &[u8]) -> Result<()> {
        let _changing = self.changing.lock();
        self.check_open()?;
        if bytes.len() > crate::promise::CELL_BYTES_MAX {
            let (bytes, max) = (bytes.len() as u64, crate::promise::CELL_BYTES_MAX as u64);
            return Err(Error::TooLarge { what: "cell", bytes, max });
        }
        self.change_promise(|promise| promise.cell = bytes.to_vec())
    }

    pub(crate) fn history(&self) -> Result<History> {
        self.check_attached()?;
        let segments = &self.commits.segments;
        let core = self.commits.core.lock();
        let epochs = core.state.epochs();
        let end = core.end;
        drop(core);
        let epochs = epochs.into_iter().map(|(epoch, start)| EpochStart { epoch, start }).collect();
        Ok(History { log_id: segments.log_id(), epochs, start: segments.view().bases[0], end })
    }

    pub(crate) fn follow(&self, epoch: Epoch) -> Result<()> {
        let _changing = self.changing.lock();
        self.follow_locked(epoch)
    }

    fn follow_locked(&self, epoch: Epoch) -> Result<()> {
        check_epoch(epoch)?;
        let promised = self.promise()?.epoch;
        let standing = self.commits.standing();
        let leads_it = matches!(standing, Standing::Leading { epoch: ours, .. } if ours == epoch);
        if epoch < promised || leads_it {
            return Err(Error::Fenced { epoch: promised });
        }
        if epoch == promised && matches!(standing, Standing::Following { .. }) {
            return Ok(());
        }
        // First of all nothing more is acknowledged, whatever the disk says.
        self.end_leadership(epoch);
        self.change_promise(|promise| promise.epoch = epoch)
    }

    /// Takes no more appends; what consumers hold is of no use any more.
    fn end_leadership(&self, epoch: Epoch) {
        self.commits.stop_leading(epoch);
        let groups = std::mem::take(&mut *self.groups.lock());
        for group in groups.into_values() {
            group.runtime.lock().ended = Some(Error::Fenced { epoch });
        }
        self.wake_all();
    }

    pub(crate) fn lead(&self, epoch: Epoch, needed: LogEnd) -> Result<()> {
        let _changing = self.changing.lock();
        check_epoch(epoch)?;
        let promised = self.promise()?.epoch;
        let ours = self.history()?.log_end();
        if epoch < promised || epoch <= ours.epoch.max(self.promised_at_open) {
            return Err(Error::Fenced { epoch: promised.max(ours.epoch) });
        }
        if ours < needed {
            let LogEnd { epoch, end } = ours;
            let LogEnd { epoch: needed_epoch, end: needed } = needed;
            return Err(Error::Lagging { epoch, end, needed_epoch, needed });
        }
        self.end_leadership(epoch);
        self.change_promise(|promise| promise.epoch = epoch)?;
        let ends = self.commits.core.lock().state.topics().iter().map(|topic| topic.next).collect();
        // What may have been delivered by the leaders before is delivered anew, one at a time.
        *self.ends_at_open.lock() = ends;
        self.commits.begin_epoch(epoch)
    }

    /// Fails unless this log follows that epoch.
    fn check_following(&self, epoch: Epoch) -> Result<()> {
        match self.commits.standing() {
            Standing::Following { promised } if promised == epoch => Ok(()),
            Standing::Following { promised: newer } | Standing::Leading { epoch: newer, .. } => {
                Err(Error::Fenced { epoch: newer })
            }
            Standing::Alone => Err(Error::Closed),
        }
    }

    fn bench(&self) -> Bench<'_> {
        let commits = &self.commits;
        Bench {
            storage: &*commits.storage,
            config: &commits.config,
            clock: &*commits.clock,
            draws: &commits.draws,
        }
    }

    pub(crate) fn truncate(&self, epoch: Epoch, end: Position) -> Result<()> {
        let _changing = self.changing.lock();
        // Files come and go in the background otherwise.
        let _keeping = self.commits.keeping.lock();
        self.check_open()?;
        self.check_following(epoch)?;
        let paused = self.commits.pause_for_files()?;
        let (visible, last) = (self.commits.marks.visible(), self.commits.end());
        let visible = visible.max(self.promise()?.visible.min(last));
        if end < visible {
            let reason = format!("everything below {visible} was acknowledged");
            return Err(Error::Diverged { at: end, reason });
        }
        if end >= last {
            drop(paused);
            return if end == last {
                Ok(())
            } else {
                Err(Error::NotContinuous { start: end, end: last })
            };
        }
        self.commits.sync_written()?;
        let bench = self.bench();
        // Fails where no frame ends there, before anything is changed.
        let kept = bench.keep(&list(bench.storage)?, end)?;
        // Nor is anything where the disk is full.
        bench.prepare_cut(&kept, end)?;
        self.carry_out(Intent::Truncate(end))
    }

    pub(crate) fn reset(&self, epoch: Epoch, snapshot: &Snapshot) -> Result<()> {
        let _changing = self.changing.lock();
        let _keeping = self.commits.keeping.lock();
        self.check_open()?;
        self.check_following(epoch)?;
        let paused = self.commits.pause_for_files()?;
        let history = self.history()?;
        let (ours, base) = (history.log_end(), snapshot.position());
        let is_empty = ours == LogEnd::default() && history.start == Position(0);
        if !is_empty && history.log_id != snapshot.log_id() {
            let reason = "they are not copies of one log".to_owned();
            return Err(Error::Diverged { at: base, reason });
        }
        if ours.end > base {
            let reason = format!("this one goes on to {}", ours.end);
            return Err(Error::Diverged { at: base, reason });
        }
        self.bench().prepare_reset(&snapshot.head, snapshot.checkpoint())?;
        let done = self.carry_out(Intent::Reset(base));
        drop(paused);
        done
    }

    /// Changes the files of a paused log as intended, and goes on with what is there then.
    fn carry_out(&self, intent: Intent) -> Result<()> {
        // What groups had done in frames that are given up was not done.
        *self.proven.lock() = None;
        if !mutant::on(Mutant::TruncationNotIntended) {
            self.change_promise(|promise| promise.intent = intent)?;
        }
        // From here on, a failure leaves the files between two states; opening finishes the step.
        self.finish_intent(intent).map_err(|error| self.commits.fail(&error))?;
        self.change_promise(|promise| promise.intent = Intent::None)
    }

    fn finish_intent(&self, intent: Intent) -> Result<()> {
        let (bench, commits) = (self.bench(), &self.commits);
        finish(bench.storage, intent)?;
        let listing = list(bench.storage)?;
        let by = (bench.clock, bench.draws);
        let recovered = recover(bench.storage, &listing, bench.config, by)?;
        let mut log_bytes = recovered.active.segment.file_bytes;
        for base in &recovered.bases[..recovered.bases.len() - 1] {
            log_bytes += read_head(bench.storage, *base)?.file_bytes;
        }
        let (_, checkpoint) = open_segment(bench.storage, recovered.bases[0])?;
        let oldest = read_head(bench.storage, recovered.bases[0])?.head;
        let starts = crate::segment::sealed::starts_of(
            &checkpoint,
            oldest.checkpoint_entries,
            "the oldest segment",
        )?;
        commits.go_on_with(Found {
            state: recovered.state,
            end: recovered.end,
            tail: recovered.tail,
            bases: recovered.bases,
            active: recovered.active,
            log_bytes,
            starts,
        });
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.check_attached()?;
        let segments = &self.commits.segments;
        loop {
            let view = segments.view();
            match open_segment(&*self.commits.storage, view.bases[0]) {
                Ok((segment, checkpoint)) => return Ok(Snapshot::new(segment.head, &checkpoint)),
                Err(_) if segments.is_outdated(&view) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
