//! Polling: plan what to deliver, make durable what must be, read it, hand it out.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::commit::Class;
use crate::commit::queue::TopicRuntime;
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::pending::{Committer, Pending, Ticket};
use crate::record::{Home, Message};
use crate::segment::chunk::Chunk;
use crate::segment::cursor::{Found, Step, TopicCursor};
use crate::state::lease::{Exhausted, FreshRun, Granted, Leases, NO_TOKEN, Plan};
use crate::sync::atomic::Ordering;
use crate::watermark::Ack;

use super::shared::{GroupShared, Runtime, progress_bytes};
use super::{Delivery, Group, GroupOptions};

/// How long a message waits that is out of attempts, while its dead letter finds no room.
const BURY_AGAIN: Duration = Duration::from_secs(1);

/// A plan whose messages are leased, and perhaps a log entry to wait for. Dropping it gives the
/// messages back as if they had not been leased.
struct Begun<'a> {
    group: &'a GroupShared,
    plan: Option<Plan>,
    ticket: Option<Arc<Ticket>>,
    /// When the messages are handed out, but for the time that others have the group's lock.
    now: Duration,
}

impl Begun<'_> {
    /// Whether there is anything in the plan, be it for a consumer or not.
    fn found_work(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| !plan.is_empty())
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(plan) = self.plan.take()
            && let Some(mut runtime) = self.group.runtime.lock_in_drop()
        {
            runtime.leases.plan_failed(&plan);
            self.group.changed(&mut runtime);
            drop(runtime);
            self.group.topic.wake();
        }
    }
}

pub(super) fn poll(group: &Group, max: usize, timeout: Duration) -> Result<Vec<Delivery>> {
    let clock = &group.topic.shared().commits.clock;
    // Looking at the clock takes as long as much of the rest: it is done as seldom as can be.
    let deadline = (!timeout.is_zero()).then(|| clock.monotonic().saturating_add(timeout));
    loop {
        let observed = group.topic.runtime.signal.observe();
        group.topic.shared().check_open()?;
        let mut begun = begin(&group.shared, max)?;
        if let Some(ticket) = &begun.ticket
            && !mutant::on(Mutant::DeliveredBeforeLogged)
        {
            group.shared.wait(ticket)?;
            begun.now = clock.monotonic();
        }
        let found_work = begun.found_work();
        let (deliveries, letter) = finish(group, &mut begun)?;
        if let Some(letter) = letter {
            group.shared.wait(&letter)?;
        }
        if !deliveries.is_empty() || max == 0 {
            return Ok(deliveries);
        }
        let now = clock.monotonic();
        // What was planned was settled instead, by the tag filter or as a dead letter: what
        // comes behind it may be wanted, and nothing will wake this thread for it.
        if found_work && deadline.is_none_or(|deadline| now < deadline) {
            continue;
        }
        let Some(deadline) = deadline.filter(|deadline| now < *deadline) else {
            return Ok(deliveries);
        };
        let event = group.shared.next_event().map_or(deadline, |event| event.min(deadline));
        // An event that is already due is one that the bounds hold back.
        let sleep = event.saturating_sub(now).max(Duration::from_millis(1));
        group.topic.runtime.signal.wait(observed, Some(sleep));
    }
}

pub(super) async fn next(group: &Group) -> Result<Delivery> {
    let commits = &group.topic.shared().commits;
    loop {
        // Register first: what becomes visible after the look below wakes the task.
        let observed = group.topic.runtime.signal.observe();
        group.topic.shared().check_open()?;
        let mut begun = begin(&group.shared, 1)?;
        if let Some(ticket) = begun.ticket.take() {
            Pending::queued((), |()| None, ticket, Ack::Replicated).await?;
            begun.now = commits.clock.monotonic();
        }
        let found_work = begun.found_work();
        let (mut deliveries, letter) = finish(group, &mut begun)?;
        if let Some(letter) = letter {
            Pending::queued((), |()| None, letter, Ack::Replicated).await?;
        }
        if let Some(delivery) = deliveries.pop() {
            return Ok(delivery);
        }
        if found_work {
            // What was planned was filtered out. There may be a million more of these: let
            // other tasks run in between.
            let mut yielded = false;
            poll_fn(|context| {
                if std::mem::replace(&mut yielded, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            continue;
        }
        let mut slept = false;
        let mut waiting = Waiting { topic: &group.topic.runtime, id: None };
        poll_fn(|context| {
            let runtime = &group.topic.runtime;
            if slept || runtime.signal.observe() != observed {
                return Poll::Ready(());
            }
            slept = true;
            waiting.id = Some(runtime.wakers.lock().add(context.waker().clone()));
            // The background thread knows when a lease ends or a retry is due.
            commits.nudge();
            // Something may have come between the look and the registration.
            if runtime.signal.observe() == observed { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

/// A task that waits for messages. One that stops waiting, say because its future is dropped for
/// another branch of a `select!`, is forgotten.
struct Waiting<'a> {
    topic: &'a TopicRuntime,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && let Some(mut wakers) = self.topic.wakers.lock_in_drop()
        {
            wakers.remove(id);
        }
    }
}

/// Plans what to deliver and queues what must be durable first.
fn begin(group: &GroupShared, max: usize) -> Result<Begun<'_>> {
    let mut runtime = group.caught_up_runtime()?;
    let (now, commits) = (group.commits.clock.monotonic(), &group.commits);
    let visible = group.topic.visible_next.load(Ordering::Acquire);
    let before = runtime.leases.held_back();
    let plan = runtime.leases.plan(now, max, visible);
    // Planning ends the leases whose time is over, and may leave some of that room to others.
    let is_eased = group.changed_since(&mut runtime, before);
    let mut begun = Begun { group, plan: Some(plan), ticket: None, now };
    let log = begun.plan.as_ref().and_then(Plan::log);
    if let (Some(plan), Some((reserve, ticket))) = (&begun.plan, &runtime.reserve)
        && plan.needs_only(*reserve)
    {
        // It is on its way already.
        begun.ticket = Some(Arc::clone(ticket));
    } else if let Some(progress) = log {
        let bytes = progress_bytes(&progress);
        let enlisted = commits.enlist(Class::Progress, bytes, |enlisting| {
            enlisting.progress(group.id, progress);
            Ok(())
        });
        match enlisted {
            Ok(((), ticket)) => begun.ticket = Some(ticket),
            Err(error) => {
                // The guard takes the group's lock to give the messages back.
                drop(runtime);
                return Err(error);
            }
        }
    } else if runtime.reserve.is_none()
        && let Some(reserve) = runtime.leases.wants_reserve()
    {
        group.log_reserve(&mut runtime, reserve);
        commits.hurry();
    }
    drop(runtime);
    if is_eased {
        group.topic.wake();
    }
    Ok(begun)
}

/// Reads what was planned. On an error nothing of the plan is delivered.
///
/// The ticket is that of the last dead letter, where there are any: who sees the group done must
/// find them in their topic.
fn finish(group: &Group, begun: &mut Begun<'_>) -> Result<(Vec<Delivery>, Option<Arc<Ticket>>)> {
    // The directory may be another opener's by now, and its files may be gone.
    group.topic.shared().check_readable()?;
    let Some(plan) = &begun.plan else { return Ok((Vec::new(), None)) };
    if plan.is_empty() {
        begun.plan = None;
        return Ok((Vec::new(), None));
    }
    let mut runtime = group.shared.runtime.lock();
    let before = runtime.leases.held_back();
    runtime.leases.plan_logged(plan);
    let fresh = runtime.leases.hand_out(plan, begun.now);
    let read = read_plan(group, &mut runtime, plan, fresh);
    let deliveries = match read {
        Ok(deliveries) => deliveries,
        Err(error) => {
            // The guard takes the group's lock to give the messages back.
            drop(runtime);
            return Err(error);
        }
    };
    let mut letter = None;
    for exhausted in &plan.exhausted {
        letter = bury_exhausted(&group.shared, &mut runtime, *exhausted).or(letter);
    }
    begun.plan = None;
    group.shared.let_go(runtime, before);
    Ok((deliveries, letter))
}

/// Reads the messages of a plan. On an error, the plan as a whole is to be given back.
fn read_plan(
    group: &Group,
    runtime: &mut Runtime,
    plan: &Plan,
    fresh: Vec<FreshRun>,
) -> Result<Vec<Delivery>> {
    let Runtime { leases, cursor, options, lagged, .. } = runtime;
    let deliveries = Unread(Vec::with_capacity(plan.granted_len()));
    let mut reading = Reading { group, leases, options, lagged, home: None, deliveries };
    reading.redeliver(plan)?;
    reading.deliver(fresh, cursor)?;
    Ok(std::mem::take(&mut reading.deliveries.0))
}

/// Deliveries of which the last are not read yet. Until then they must not end their own leases, be
/// it on an error or a panic: the group is locked, and the plan ends them.
struct Unread(Vec<Delivery>);

impl Drop for Unread {
    fn drop(&mut self) {
        for delivery in &mut self.0 {
            delivery.token = NO_TOKEN;
        }
    }
}

/// The messages of a plan while they are read.
struct Reading<'a> {
    group: &'a Group,
    leases: &'a mut Leases,
    options: &'a GroupOptions,
    lagged: &'a mut Option<(u64, u64)>,
    /// That of the last message.
    home: Option<Arc<Home>>,
    deliveries: Unread,
}

impl Reading<'_> {
    /// While the poll waited for the log, a lease may have ended, and its place under the bounds of
    /// the group, if not the message, may have become somebody else's.
    fn is_ours(&self, granted: &Granted) -> bool {
        self.leases.holds(granted.offset, granted.token)
    }

    fn redeliver(&mut self, plan: &Plan) -> Result<()> {
        let shared = &self.group.shared;
        for granted in &plan.redeliveries {
            if self.is_ours(granted) {
                let mut cursor = TopicCursor::new(shared.topic.id, granted.offset);
                self.take(*granted, step(shared, &mut cursor)?);
            }
        }
        Ok(())
    }

    /// Delivers for the first time.
    fn deliver(&mut self, fresh: Vec<FreshRun>, cursor: &mut TopicCursor) -> Result<()> {
        let shared = &self.group.shared;
        for run in fresh {
            let mut offset = run.offsets.start;
            while offset < run.offsets.end {
                let granted = run.of(offset);
                offset += 1;
                // What is gone may be more than what was looked for.
                if self.lagged.is_some() && !self.is_ours(&granted) {
                    continue;
                }
                cursor.seek(granted.offset);
                let is_found = self.take(granted, step(shared, cursor)?);
                if is_found && self.lagged.is_none() {
                    let end = run.offsets.end.min(visible_end(shared));
                    cursor.go_on_in_frame(end, |chunk, found| {
                        self.take_message(run.of(offset), chunk, found);
                        offset += 1;
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes a delivery of what was read, or settles what is not to be delivered. Says whether a
    /// message was there.
    fn take(&mut self, granted: Granted, step: Step<'_>) -> bool {
        match step {
            Step::Message(chunk, found) => {
                if !self.home.as_ref().is_some_and(|home| home.is_in(chunk)) {
                    self.home = Some(Home::of_group(chunk, &self.group.origin));
                }
                self.take_message(granted, chunk, found);
                return true;
            }
            Step::Gone { to } => {
                // Lost to retention or salvage: nothing will ever be read there.
                self.leases.settle_filtered(granted.offset..to);
                let from = self.lagged.map_or(granted.offset, |lagged| lagged.0);
                *self.lagged = Some((from, to));
            }
            // Not reached: what is planned is visible. If it were, the lease would run out.
            Step::End => {}
        }
        false
    }

    /// Takes a message in the memory of the last one.
    #[expect(
        clippy::inline_always,
        reason = "run for each message, of which most need little of this"
    )]
    #[inline(always)]
    fn take_message(&mut self, granted: Granted, chunk: &Chunk, found: Found) {
        let Granted { offset, token, attempt } = granted;
        if self.options.selects() && !self.is_wanted(chunk, found) {
            let from = if mutant::on(Mutant::FilterMovesFloor) { 0 } else { offset };
            self.leases.settle_filtered(from..offset + 1);
            return;
        }
        let home = self.home.as_ref().expect("a message was found in this memory before");
        let home = Arc::clone(home);
        // Said here, it tells the compiler that nothing fails below, so that the delivery is made in
        // its place rather than moved there.
        let deliveries = &mut self.deliveries.0;
        assert!(deliveries.len() < deliveries.capacity(), "there is room for the whole plan");
        let message = Message::new(home, found);
        deliveries.push(Delivery { message, token, attempt });
    }

    /// By value: where a message is lent, it has to be in memory, and is put together there first.
    #[inline(never)]
    fn is_wanted(&self, chunk: &Chunk, found: Found) -> bool {
        self.options.wants(found.message.parts.tag(&chunk.buffer))
    }
}

/// The offset up to which the topic is visible.
fn visible_end(shared: &GroupShared) -> u64 {
    shared.topic.visible_next.load(Ordering::Acquire)
}

fn step<'a>(shared: &GroupShared, cursor: &'a mut TopicCursor) -> Result<Step<'a>> {
    cursor.step(&shared.commits.segments, visible_end(shared), shared.commits.marks.visible())
}

/// Sends a message that is out of attempts to the dead-letter topic, or tries again later.
fn bury_exhausted(
    shared: &GroupShared,
    runtime: &mut Runtime,
    exhausted: Exhausted,
) -> Option<Arc<Ticket>> {
    let Exhausted { offset, token, count } = exhausted;
    if runtime.leases.check(offset, token).is_err() {
        // The poll waited for the log for longer than the lease: somebody else has buried it.
        return None;
    }
    let mut cursor = TopicCursor::new(shared.topic.id, offset);
    let buried = match step(shared, &mut cursor) {
        Ok(Step::Message(chunk, found)) => {
            if runtime.options.wants(found.message.parts.tag(&chunk.buffer)) {
                let home = Home::of_topic(chunk, &shared.topic.name);
                let message = Message::new(home, found);
                shared.bury(runtime, &message, count, "out of attempts").map(Some)
            } else {
                // It counts as delivered because it was reserved, but it was never meant for
                // this group: it is skipped here as it is where it is delivered.
                Ok(None)
            }
        }
        Ok(Step::Gone { .. }) => Ok(None),
        Ok(Step::End) => Err(Error::NotLeased { offset: Offset(offset) }),
        Err(error) => Err(error),
    };
    let refused = if buried.is_ok() {
        runtime.leases.settle_exhausted(offset, token)
    } else {
        runtime.leases.unbury(offset, token, shared.commits.clock.now(), BURY_AGAIN)
    };
    // Where the lease has ended meanwhile, there is nothing to take back: it is due already.
    debug_assert!(refused.is_ok() || buried.is_err(), "the acknowledgement was just checked");
    buried.unwrap_or(None)
}

#[expect(dead_code, reason = "the future returned by next must stay movable between threads")]
fn next_is_send(group: &Group) -> Pin<Box<dyn Future<Output = Result<Delivery>> + Send + '_>> {
    Box::pin(next(group))
}
