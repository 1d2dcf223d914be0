//! A disk that is full, and a disk that fails, at every call that an operation makes.
//!
//! A full disk is a state: appends are refused, what is acknowledged stays, acknowledgements go
//! on, and appends resume once there is room. A failed write or sync poisons the log: nothing
//! is lost, and reopening recovers it. Interruptions and short transfers never show.

#[macro_use]
mod common;

#[path = "full_disk/room.rs"]
mod room;

use std::collections::BTreeMap;

use ackline::simulation::{Crash, Fault};
use ackline::{Error, Group, Log, Options, Result, Topic};

use common::{Machine, fill, payload, poll, read_all, small, try_read_all};

/// A log at work, and what it has promised.
struct Ready {
    machine: Machine,
    handles: Option<(Log, Topic, Group)>,
    /// The records `0..appended` are acknowledged.
    appended: u64,
    /// The messages `0..committed` are acknowledged by the group, durably.
    committed: u64,
}

impl Ready {
    fn at_work(records: u64) -> Self {
        let machine = Machine::new(5);
        let log = machine.open(small());
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        fill(&topic, 0..records);
        Self { machine, handles: Some((log, topic, group)), appended: records, committed: 0 }
    }

    /// Like [`Self::at_work`], with nothing open.
    fn closed(records: u64) -> Self {
        let mut ready = Self::at_work(records);
        let (log, ..) = ready.handles.take().expect("it was opened");
        log.close().expect("closes");
        ready
    }

    fn handles(&self) -> &(Log, Topic, Group) {
        self.handles.as_ref().expect("the log is open")
    }

    fn append(&mut self) -> Result<()> {
        self.handles().1.append(payload(self.appended))?;
        self.appended += 1;
        Ok(())
    }

    /// Appends until a new segment is in place.
    fn append_to_next_segment(&mut self) -> Result<()> {
        let rolls = self.handles().0.stats().rolls;
        while self.handles().0.stats().rolls == rolls {
            self.append()?;
        }
        Ok(())
    }

    fn ack_some(&mut self) -> Result<()> {
        let group = &self.handles().2;
        let polled = group.poll(3, std::time::Duration::ZERO)?;
        let some = polled.len() as u64;
        for delivery in polled {
            delivery.ack()?;
        }
        group.commit()?;
        self.committed += some;
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let log = self.machine.try_open(small())?;
        let topic = log.topic("t")?;
        let group = topic.group("g")?;
        self.handles = Some((log, topic, group));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let (log, ..) = self.handles.take().expect("the log is open");
        log.close()
    }

    /// Cuts the power and checks that every promise was kept. `unknown` records more may be
    /// there, and the group may be further by the messages that it was about to acknowledge.
    fn check_promises(&mut self, unknown: u64, context: &str) {
        self.machine.disk.clear_faults();
        self.machine.disk.crash(Crash::Power);
        self.handles = None;
        let log = self.machine.open(small());
        let topic = log.topic("t").expect("a topic");
        let found = read_all(&topic);
        let expected: Vec<_> = (0..self.appended + unknown).map(payload).collect();
        let whole = found.len() as u64 >= self.appended && expected.starts_with(&found);
        assert!(whole, "{context}: {} of {} records", found.len(), self.appended);
        let group = topic.group("g").expect("a group");
        let left = group.lag().expect("lag").messages;
        let acked = found.len() as u64 - left;
        let known = self.committed..=self.committed + 3;
        assert!(known.contains(&acked), "{context}: {acked} acknowledged of {known:?}");
        assert_eq!(poll(&group, 1).first().map(|first| first.offset().0), Some(acked), "{context}");
        topic.append("goes on").expect("a reopened log takes appends");
    }
}

type Prepare = fn() -> Ready;
type Act = fn(&mut Ready) -> Result<()>;

/// The operations, each with what makes it ready.
fn operations() -> Vec<(&'static str, Prepare, Act)> {
    vec![
        ("open a closed log", || Ready::closed(20), Ready::open),
        (
            "open after a power cut",
            || {
                let mut ready = Ready::at_work(20);
                ready.machine.disk.crash(Crash::Power);
                ready.handles = None;
                ready
            },
            Ready::open,
        ),
        ("append", || Ready::at_work(3), Ready::append),
        ("roll", || Ready::at_work(3), Ready::append_to_next_segment),
        ("acknowledge", || Ready::at_work(6), Ready::ack_some),
        ("close", || Ready::at_work(6), Ready::close),
        ("maintain", || Ready::at_work(6), |ready| ready.handles().0.maintain()),
    ]
}

/// Lets `fault` strike each call of each operation in turn, and hands the outcome to `check`.
/// Returns how many calls of each operation were struck.
fn strike_every_call(
    fault: Fault,
    mut check: impl FnMut(&str, &mut Ready, Act, Result<()>),
) -> BTreeMap<&'static str, u64> {
    let mut struck = BTreeMap::new();
    for (name, ready, act) in operations() {
        for call in 0.. {
            let mut ready = ready();
            let first = ready.machine.disk.calls();
            ready.machine.disk.fail_at(first + call, fault);
            let faults = faults(&ready);
            let outcome = act(&mut ready);
            if ready.machine.disk.calls() <= first + call {
                outcome.expect("nothing struck");
                break;
            }
            if self::faults(&ready) == faults {
                // The fault cannot strike this kind of call.
                outcome.expect("nothing struck");
                continue;
            }
            *struck.entry(name).or_default() += 1;
            check(&format!("{fault:?} at call {call} of {name}"), &mut ready, act, outcome);
        }
    }
    struck
}

fn faults(ready: &Ready) -> u64 {
    let counts = ready.machine.disk.counts();
    let names = ["fault_io", "fault_no_space", "fault_interrupted", "fault_short"];
    counts.iter().filter(|count| names.contains(&count.0)).map(|count| count.1).sum()
}

fn is_no_space(error: &Error) -> bool {
    match error {
        Error::Full { .. } => true,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        Error::Poisoned { cause } => is_no_space(cause),
        _ => false,
    }
}

#[test]
fn no_space_at_any_call_loses_nothing_and_is_answered_as_such() {
    let mut poisoned = 0;
    let struck = strike_every_call(Fault::NoSpace, |context, ready, act, outcome| {
        if let Err(error) = &outcome {
            assert!(is_no_space(error), "{context}: {error:?}");
        }
        let was_open = ready.handles.is_some();
        match outcome {
            // The room was promised when the segment was made: a write or sync there that
            // finds none is a failure like any other.
            Err(Error::Poisoned { cause }) => {
                let was_promised = matches!(*cause, Error::Io { operation: "write" | "sync", .. });
                assert!(was_promised, "{context}: {cause:?}");
                poisoned += 1;
            }
            Err(_) if was_open => {
                assert!(!ready.handles().0.stats().poisoned, "{context}");
                act(ready).unwrap_or_else(|error| panic!("{context}, then again: {error:?}"));
            }
            _ => {}
        }
        let unknown = u64::from(context.ends_with("append") || context.ends_with("roll"));
        ready.check_promises(unknown, context);
    });
    println!("struck: {struck:?}, poisoned: {poisoned}");
    assert_eq!(struck.len(), operations().len(), "every operation was struck: {struck:?}");
}

#[test]
fn an_io_error_at_any_call_loses_nothing_and_poisons_writes_only() {
    let mut poisoned = 0;
    let struck = strike_every_call(Fault::Io, |context, ready, act, outcome| {
        let error = outcome.as_ref().err();
        let typed = matches!(
            error,
            None | Some(Error::Io { .. } | Error::Poisoned { .. } | Error::Corrupt { .. })
        );
        assert!(typed, "{context}: {error:?}");
        if let Some((log, topic, group)) = &ready.handles {
            if log.stats().poisoned {
                poisoned += 1;
                let end = topic.offsets().end.0;
                assert!(end >= ready.appended, "{context}: what is visible stays so");
                assert_error!(topic.append("x"), Error::Poisoned { .. });
                assert_error!(topic.submit("x").wait(), Error::Poisoned { .. });
                assert_error!(group.commit(), Error::Poisoned { .. });
                assert_error!(log.topic("new"), Error::Poisoned { .. });
                assert_error!(log.sync(), Error::Poisoned { .. });
                let read = try_read_all(topic).expect("a poisoned log can be read");
                assert_eq!(read.len() as u64, end, "{context}");
            } else {
                act(ready).unwrap_or_else(|error| panic!("{context}, then again: {error:?}"));
            }
        }
        let unknown = u64::from(context.ends_with("append") || context.ends_with("roll"));
        ready.check_promises(unknown, context);
    });
    println!("struck: {struck:?}, poisoned: {poisoned}");
    assert!(poisoned > 0, "some of them are writes");
    assert_eq!(struck.len(), operations().len(), "every operation was struck: {struck:?}");
}

#[test]
fn interruptions_and_short_transfers_never_show() {
    for fault in [Fault::Interrupted, Fault::Short] {
        let struck = strike_every_call(fault, |context, ready, _, outcome| {
            outcome.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            ready.check_promises(0, context);
        });
        println!("{fault:?} struck: {struck:?}");
        assert_eq!(struck.len(), operations().len(), "every operation was struck: {struck:?}");
    }
}

#[test]
fn a_new_log_on_a_disk_without_room_is_refused_and_opens_later() {
    for call in 0.. {
        let machine = Machine::new(5);
        machine.disk.fail_at(call, Fault::NoSpace);
        let outcome = machine.try_open(small());
        if machine.disk.calls() <= call {
            outcome.expect("nothing struck");
            assert!(call > 5, "opening makes several calls");
            return;
        }
        if let Err(error) = outcome {
            assert!(is_no_space(&error), "call {call}: {error:?}");
        }
        machine.disk.crash(Crash::Power);
        let log = machine.open(small());
        log.topic("t").expect("a topic").append("x").expect("appends");
    }
}

#[test]
fn a_sync_that_loses_writes_poisons_and_reopening_does_not_trust_the_cache() {
    for crash in [Crash::Kill, Crash::Power] {
        let mut ready = Ready::at_work(3);
        let first = ready.machine.disk.calls();
        // The write, then the sync.
        ready.machine.disk.fail_at(first + 1, Fault::SyncLost);
        let error = ready.append().expect_err("the sync failed");
        assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
        ready.machine.disk.crash(crash);
        ready.handles = None;
        // The cache still shows the record, the disk does not have it.
        let log = ready.machine.open(Options::new().segment_bytes(4096));
        let found = read_all(&log.topic("t").expect("a topic"));
        ready.machine.disk.crash(Crash::Power);
        drop(log);
        let log = ready.machine.open(small());
        let again = read_all(&log.topic("t").expect("a topic"));
        assert_eq!(found, again, "what was shown after {crash:?} is on the disk");
        assert!(again.len() >= 3);
    }
}
