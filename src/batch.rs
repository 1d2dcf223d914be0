//! Batches: appends to several topics and acknowledgements of several groups, all or nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::commit::Class;
use crate::error::{Error, Result};
use crate::format::entry::Progress;
use crate::group::delivery::Delivery;
use crate::group::shared::{GroupShared, Runtime, progress_bytes, refusal};
use crate::mutant::{self, Mutant};
use crate::offset::{GroupId, Offset};
use crate::pending::Committer;
use crate::record::{Receipt, Record};
use crate::shared::Handle;
use crate::state::lease::HeldBack;
use crate::sync::MutexGuard;
use crate::topic::{Topic, acknowledged};
use crate::watermark::Ack;

/// Appends and acknowledgements that take effect together: after a crash either all of them are
/// there or none. Made by [`Log::batch`](crate::Log::batch).
///
/// This is how work is handed on exactly once: acknowledge the input and append the output in
/// one batch.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// let log = ackline::Log::open(dir.path())?;
/// let (orders, invoices) = (log.topic("orders")?, log.topic("invoices")?);
/// orders.append("order 1")?;
///
/// let billing = orders.group("billing")?;
/// for order in billing.poll(10, Duration::from_secs(1))? {
///     let invoice = format!("invoice for {:?}", order.payload());
///     log.batch().append(&invoices, invoice).ack(order).commit()?;
/// }
/// # assert_eq!(invoices.offsets().end, ackline::Offset(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    handle: Arc<Handle>,
    appends: Vec<(Topic, Record<'static>)>,
    acks: Vec<Delivery>,
    bytes: usize,
    ack: Ack,
    /// The first mistake, answered at commit.
    error: Option<Error>,
}

impl Batch {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        let (appends, acks, ack) = (Vec::new(), Vec::new(), Ack::default());
        Self { handle, appends, acks, bytes: 0, ack, error: None }
    }

    /// Adds a record for a topic.
    pub fn append<'a>(mut self, topic: &Topic, record: impl Into<Record<'a>>) -> Self {
        let record = record.into();
        let checked = if Arc::ptr_eq(&self.handle.shared, &topic.handle.shared) {
            topic.check(&record)
        } else {
            Err(Error::Foreign { what: "the topic" })
        };
        match checked {
            Ok(bytes) => {
                self.bytes += bytes;
                self.appends.push((topic.clone(), record.into_owned()));
            }
            Err(error) => self.fail(error),
        }
        self
    }

    /// Adds the acknowledgement of a delivery. If the batch is not committed, the delivery's
    /// lease ends, and the message is delivered again.
    pub fn ack(mut self, delivery: Delivery) -> Self {
        if delivery.is_of(&self.handle) {
            self.acks.push(delivery);
        } else {
            self.fail(Error::Foreign { what: "the delivery" });
        }
        self
    }

    /// What [`commit`](Self::commit) waits for. Default: [`Ack::Replicated`], which is no different
    /// where there is no replicator.
    pub fn with_ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Commits all of it and waits until it is as safe as the log's policy says. The receipts
    /// are those of the records, in their order.
    ///
    /// # Errors
    ///
    /// If it fails, nothing of it took effect, but for [`Error::SyncTimeout`],
    /// [`Error::ReplicaTimeout`], [`Error::Poisoned`], and [`Error::Fenced`] of a log that did lead,
    /// whose outcome is unknown. [`Error::StaleLease`] or [`Error::AlreadyAcked`] for a delivery that is not its
    /// holder's any more, [`Error::Foreign`] for a topic or delivery of another log,
    /// [`Error::TooLarge`], and those of [`Topic::append`](crate::Topic::append).
    pub fn commit(mut self) -> Result<Vec<Receipt>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.handle.shared.check_open()?;
        if self.appends.is_empty() && self.acks.is_empty() {
            return Ok(Vec::new());
        }
        let handle = Arc::clone(&self.handle);
        let commits = &handle.shared.commits;
        // All groups are locked, in one order, so that none of the leases can end in between.
        let groups = self.groups();
        let runtimes: BTreeMap<GroupId, _> =
            groups.iter().map(|(id, group)| (*id, group.runtime.lock())).collect();
        let progresses = match self.check_acks(&runtimes) {
            Ok(progresses) => progresses,
            Err(error) => {
                // Deliveries lock their groups when they are dropped.
                drop(runtimes);
                return Err(error);
            }
        };
        let bytes: usize =
            self.bytes + progresses.iter().map(|(_, log)| progress_bytes(log)).sum::<usize>();
        // Progress alone makes room rather than take it.
        let class = if self.appends.is_empty() { Class::Progress } else { Class::Append };
        let now_ms = commits.clock.wall_ms();
        let acknowledged = acknowledged(commits, self.ack);
        let appends = std::mem::take(&mut self.appends);
        let enlisted = commits.enlist(class, bytes, |enlisting| {
            appends.iter().try_for_each(|(topic, _)| topic.check_there())?;
            let position = enlisting.position();
            let receipts = appends.iter().map(|(topic, record)| {
                let time = record.timestamp_ms(now_ms);
                let offset = Offset(enlisting.message(topic.runtime.id, time, &record.content()));
                Receipt { offset, position, acknowledged }
            });
            let receipts: Vec<_> = receipts.collect();
            for (group, progress) in progresses {
                if mutant::on(Mutant::BatchAcksApart) {
                    continue;
                }
                enlisting.progress(group, progress);
            }
            Ok(receipts)
        });
        let (receipts, ticket) = match enlisted {
            Ok(enlisted) => enlisted,
            Err(error) => {
                drop(runtimes);
                return Err(error);
            }
        };
        self.settle(&groups, runtimes);
        let offset = receipts.first().map(|receipt| receipt.offset);
        match commits.wait(&ticket, self.ack, None) {
            Ok(result) => result.map(|()| receipts),
            Err(late) => Err(commits.late(late, offset)),
        }
    }

    /// Ends the leases of what is acknowledged, and lets go of the groups.
    fn settle(
        &mut self,
        groups: &BTreeMap<GroupId, Arc<GroupShared>>,
        mut runtimes: BTreeMap<GroupId, MutexGuard<'_, Runtime>>,
    ) {
        let before: BTreeMap<GroupId, HeldBack> =
            runtimes.iter().map(|(id, runtime)| (*id, runtime.leases.held_back())).collect();
        for delivery in self.acks.drain(..) {
            let (id, offset) = (delivery.group_shared().id, delivery.offset().0);
            let runtime = runtimes.get_mut(&id).expect("every group of the batch is locked");
            let acked = runtime.leases.ack(offset, delivery.token());
            // It must not end its lease when it is dropped: its group is locked here.
            delivery.forget_lease();
            acked.expect("the lease was checked under the same lock");
        }
        let mut eased = Vec::new();
        for (id, runtime) in &mut runtimes {
            if groups[id].changed_since(runtime, before[id]) {
                eased.push(&groups[id].topic);
            }
        }
        drop(runtimes);
        for topic in eased {
            topic.wake();
        }
    }

    /// The progress that the acknowledgements make, if all of them may be made.
    fn check_acks(
        &self,
        runtimes: &BTreeMap<GroupId, MutexGuard<'_, Runtime>>,
    ) -> Result<Vec<(GroupId, Progress)>> {
        let mut acked: BTreeMap<GroupId, Vec<Range<u64>>> = BTreeMap::new();
        for delivery in &self.acks {
            let (id, offset) = (delivery.group_shared().id, delivery.offset().0);
            let runtime = &runtimes[&id];
            if let Some(error) = &runtime.ended {
                return Err(error.clone());
            }
            let checked = runtime.leases.check(offset, delivery.token());
            checked.map_err(|refused| refusal(refused, Offset(offset)))?;
            let ranges = acked.entry(id).or_default();
            match ranges.last_mut() {
                // Neighbours are one range: it takes the place of one in the log.
                Some(last) if last.end == offset => last.end += 1,
                _ => ranges.push(offset..offset + 1),
            }
        }
        let progress = |acked| Progress { acked, ..Progress::default() };
        Ok(acked.into_iter().map(|(id, acked)| (id, progress(acked))).collect())
    }

    fn groups(&self) -> BTreeMap<GroupId, Arc<GroupShared>> {
        let groups = self.acks.iter().map(Delivery::group_shared);
        groups.map(|group| (group.id, Arc::clone(group))).collect()
    }
}
