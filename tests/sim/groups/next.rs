//! Tasks that wait for the next message of a group. Whatever a task could have must have woken
//! it: one that sleeps is polled all the same, and is to find nothing.

use std::task::Poll;

use ackline::simulation::{Clock, Rng};
use ackline::{Delivery, Error, Explanation, Result};

use super::super::world::{Waiting, World};
use super::super::{Checked, ensure, violation};

impl World {
    /// Begins to wait for a message, goes on if it was woken, or gives up.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Checked {
        if self.actor().waiting.is_none() {
            let Some(group) = self.draw_group(rng) else { return Ok(()) };
            self.count("next");
            self.note(|| format!("wait for a message of group {group}"));
            // A suspect that it is about to get is cleared if its lease ends unseen.
            for progress in &mut self.model.groups[group].offsets {
                progress.suspect = false;
            }
            let handle = self.live().groups[group].clone();
            let mut waiting = Waiting::new(group, handle, self.now());
            let first = waiting.task.poll();
            if !matches!(first, Poll::Ready(Err(_))) {
                self.succeeded("next")?;
            }
            return self.take_next(waiting, first);
        }
        if rng.chance(1, 8) {
            self.count("next_dropped");
            self.note(|| "wait no longer for a message".to_owned());
            let group = self.actor().waiting.take().expect("it was just seen").group;
            // What it was about to get may count as delivered.
            self.model.groups[group].unseen += 1;
            return Ok(());
        }
        let waiting = self.actor().waiting.as_mut().expect("it was just seen");
        if waiting.task.is_woken() {
            return self.poll_next();
        }
        if rng.chance(1, 4) {
            // It is moved to another task, which must then be the one that is woken.
            waiting.task.move_on();
            return self.poll_next();
        }
        Ok(())
    }

    /// Polls the task of the one who acts.
    fn poll_next(&mut self) -> Checked {
        let Some(mut waiting) = self.actor().waiting.take() else { return Ok(()) };
        let polled = self.poll_task(&mut waiting);
        self.take_next(waiting, polled)
    }

    /// Sees what a task was answered.
    fn take_next(&mut self, waiting: Waiting, polled: Poll<Result<Delivery>>) -> Checked {
        let group = waiting.group;
        match polled {
            Poll::Pending => {
                self.actor().waiting = Some(waiting);
                // It may have sent messages to the dead letters on its way.
                if self.poisoned() || self.dead() { Ok(()) } else { self.take_exhausted(group) }
            }
            Poll::Ready(result) => self.got(group, result),
        }
    }

    /// Polls a task, which may find that what it was about to get has been taken from it: where a
    /// whole lease has passed, that is counted as a delivery, and the task goes on to the next one.
    fn poll_task(&mut self, waiting: &mut Waiting) -> Poll<Result<Delivery>> {
        let (group, now) = (&mut self.model.groups[waiting.group], self.clock.monotonic());
        if now >= waiting.polled_at + self.setup.groups[group.plan].lease {
            group.unseen += 1;
        }
        waiting.polled_at = now;
        waiting.task.poll()
    }

    fn got(&mut self, group: usize, result: Result<Delivery>) -> Checked {
        let delivery = match result {
            Ok(delivery) => delivery,
            Err(error) => return self.no_delivery(group, "next", &error),
        };
        let (offset, attempt) = (delivery.offset(), delivery.attempt());
        self.note(|| format!("  next of group {group}: {offset}, attempt {attempt}"));
        let until = match self.live().groups[group].explain(offset) {
            Ok(Explanation::Leased { attempt: counted, ends_in }) if counted == attempt => {
                self.succeeded("explain")?;
                let lease = self.setup.groups[self.model.groups[group].plan].lease;
                // However long the task slept: the lease begins when the message is handed out.
                ensure!(ends_in == lease, "a lease of {lease:?} ends in {ends_in:?}");
                self.count("next_delivered");
                self.now() + ends_in
            }
            // Retention took it from the group while the task slept.
            Ok(Explanation::Gone) if self.setup.lossy => self.now(),
            // It waited for the log alone, and that had the attempt before it failed. It can do
            // nothing with the message.
            Err(error) => {
                self.model.groups[group].unseen += 1;
                return self.failed("explain", &error).map(|_| ());
            }
            other => violation!("next gave out {offset}, attempt {attempt}, which is {other:?}"),
        };
        self.take(group, delivery, true, until)?;
        self.take_exhausted(group)
    }

    /// Checks that nobody sleeps who could have a message.
    pub(crate) fn check_sleepers(&mut self) -> Checked {
        let acting = self.acting;
        // The background thread wakes those whose time has come.
        self.maintain()?;
        self.count("sleepers");
        for actor in 0..self.live().actors.len() {
            if self.dead() || self.poisoned() {
                break;
            }
            self.acting = actor;
            self.check_sleeper()?;
        }
        self.acting = acting;
        Ok(())
    }

    fn check_sleeper(&mut self) -> Checked {
        for _ in 0..3 {
            let Some(waiting) = &mut self.actor().waiting else { return Ok(()) };
            if waiting.task.is_woken() {
                return self.poll_next();
            }
            self.poll_sleeper()?;
            // Had it found a message, it would wait for what is to be logged before.
            let Some(waiting) = &self.actor().waiting else { return Ok(()) };
            let found = waiting.task.is_woken();
            self.maintain()?;
            if self.dead() || self.poisoned() || found {
                return Ok(());
            }
            if self.actor().waiting.as_ref().is_some_and(|waiting| waiting.task.is_woken()) {
                self.poll_sleeper()?;
            }
        }
        Ok(())
    }

    /// Polls a task that has nothing to get.
    fn poll_sleeper(&mut self) -> Checked {
        let mut waiting = self.actor().waiting.take().expect("it waits");
        let group = waiting.group;
        match self.poll_task(&mut waiting) {
            Poll::Ready(Ok(delivery)) => {
                violation!("nobody woke a task for {} of group {group}", delivery.offset());
            }
            Poll::Ready(Err(error)) => self.no_delivery(group, "next", &error),
            Poll::Pending => {
                self.actor().waiting = Some(waiting);
                Ok(())
            }
        }
    }

    /// Checks that closing the log has ended the wait of a task.
    pub(crate) fn check_closed_waiting(&mut self, acting: usize) -> Checked {
        let Some(mut waiting) = self.live().actors[acting].waiting.take() else { return Ok(()) };
        self.model.groups[waiting.group].unseen += 1;
        while waiting.task.is_woken() {
            match waiting.task.poll() {
                // It lets others run.
                Poll::Pending => {}
                Poll::Ready(Err(Error::Closed | Error::Poisoned { .. })) => return Ok(()),
                Poll::Ready(other) => violation!("waiting after close answers {other:?}"),
            }
        }
        violation!("close left a task asleep that waits for a message");
    }
}
