//! Operations in orders that a draw of single ones hardly ever brings about, each of them one in
//! which a mutant hid.

use std::time::Duration;

use ackline::simulation::{Call, Fault, Rng};

use super::Checked;
use super::world::World;

impl World {
    pub(super) fn situation(&mut self, rng: &mut Rng) -> Checked {
        self.count("situation");
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        match rng.below(9) {
            0 => self.consume_all(rng)?,
            1 => self.ack_late(rng, group)?,
            2 => self.poll_ahead(rng, group)?,
            3 => self.hold_too_long(rng, group)?,
            4 => self.fail_to_sync(rng)?,
            5 => self.bury(rng, group)?,
            6 => self.settle_once(rng, group)?,
            7 => self.fail_to_sync_names(rng)?,
            _ => return self.die_and_go_on(rng),
        }
        if self.dead() { Ok(()) } else { self.check_fork(rng, true) }
    }

    /// Whether the process lives and its log works.
    fn goes_on(&mut self) -> Checked<bool> {
        self.take_in()?;
        Ok(!self.dead() && !self.poisoned())
    }

    /// Nothing is needed any more, and the files go before anybody has synced.
    fn consume_all(&mut self, rng: &mut Rng) -> Checked {
        for _ in 0..3 + rng.index(6) {
            self.append_batch(rng)?;
        }
        for group in 0..self.live().groups.len() {
            for _ in 0..2 {
                if !self.goes_on()? {
                    return Ok(());
                }
                self.poll_group(group, 100)?;
                self.ack_all()?;
            }
        }
        // The acknowledgements ride along, where it takes no sync to write.
        self.append(rng, false)?;
        if self.goes_on()? { self.maintain() } else { Ok(()) }
    }

    /// Acknowledgements ride along, or find no room to, and then nobody writes for a second.
    fn ack_late(&mut self, rng: &mut Rng, group: usize) -> Checked {
        for _ in 0..6 {
            self.append(rng, false)?;
            if !self.goes_on()? {
                return Ok(());
            }
            self.poll_group(group, 2)?;
            self.ack_all()?;
        }
        self.pass(Duration::from_millis(1100));
        if self.goes_on()? { self.maintain() } else { Ok(()) }
    }

    /// One poll uses up what the log says may be delivered, the next ones come right behind it.
    fn poll_ahead(&mut self, rng: &mut Rng, group: usize) -> Checked {
        for _ in 0..8 {
            self.append_batch(rng)?;
        }
        for max in [9, 1 + rng.index(8), 1 + rng.index(8), 1 + rng.index(8)] {
            if self.goes_on()? {
                self.poll_group(group, max)?;
            }
        }
        Ok(())
    }

    /// A lease ends, the message goes to somebody else, and the first holder comes back.
    fn hold_too_long(&mut self, rng: &mut Rng, group: usize) -> Checked {
        self.poll_group(group, 1)?;
        let plan = self.model.groups[group].plan;
        self.pass(self.setup.groups[plan].lease + Duration::from_millis(1));
        self.poll_group(group, 1)?;
        for _ in 0..2 {
            if self.goes_on()? {
                self.settle(rng)?;
                self.poll_group(group, 2)?;
            }
        }
        Ok(())
    }

    /// Messages go to the dead letters, and nothing is written behind them.
    fn bury(&mut self, rng: &mut Rng, group: usize) -> Checked {
        self.append_batch(rng)?;
        if self.goes_on()? {
            self.poll_group(group, 2)?;
        }
        while let Some(hand) = self.actor().hands.pop() {
            if !self.goes_on()? {
                break;
            }
            self.reject_hand(hand)?;
        }
        Ok(())
    }

    /// Messages are settled in one way, and nothing else says so.
    fn settle_once(&mut self, rng: &mut Rng, group: usize) -> Checked {
        self.append_batch(rng)?;
        if !self.goes_on()? {
            return Ok(());
        }
        self.poll_group(group, 3)?;
        match rng.below(4) {
            0 => {
                self.ack_all()?;
                self.sync()
            }
            1 => {
                self.ack_all()?;
                self.commit(rng)
            }
            2 => {
                self.ack_all()?;
                self.seek_group(rng, group)?;
                if self.goes_on()? { self.append(rng, false) } else { Ok(()) }
            }
            _ => self.batch(rng),
        }
    }

    /// A sync fails that nobody's append waits for.
    fn fail_to_sync(&mut self, rng: &mut Rng) -> Checked {
        for _ in 0..=rng.index(3) {
            self.append(rng, false)?;
        }
        if self.goes_on()? {
            let call = self.disk.calls() + rng.below(3);
            self.watch.plan(&self.disk, call, Fault::SyncLost);
            self.note(|| format!("  plan a lost sync at call {call}"));
            self.sync()?;
        }
        self.disk.clear_faults();
        Ok(())
    }

    /// The log goes on in a new segment whose name no sync has brought to the disk.
    fn fail_to_sync_names(&mut self, rng: &mut Rng) -> Checked {
        self.watch.plan_next(&self.disk, Call::SyncDirectory, Fault::SyncLost);
        self.note(|| "  plan a lost sync of the directory".to_owned());
        for _ in 0..8 {
            if self.goes_on()? {
                self.append_batch(rng)?;
            }
        }
        self.disk.clear_faults();
        Ok(())
    }

    /// The process dies while the log grows, and the next one goes on at once.
    fn die_and_go_on(&mut self, rng: &mut Rng) -> Checked {
        let call = self.disk.calls() + rng.below(30);
        self.plan_death(rng, call);
        for _ in 0..8 {
            if self.goes_on()? {
                self.append_batch(rng)?;
            }
        }
        if self.dead() {
            self.crash(rng)?;
            self.append(rng, false)?;
        }
        if self.goes_on()? { self.check_fork(rng, true) } else { Ok(()) }
    }
}
