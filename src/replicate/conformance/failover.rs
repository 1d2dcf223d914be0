//! The scenes with several leaders: one is restarted, replaced, cut off, comes back.

use std::time::Duration;

use crate::group::{Delivery, Group, GroupOptions};

use super::stage::{Played, Stage, TOPIC, broken};
use super::steady::Stream;
use super::{Delay, Rule};

pub(super) fn restarted_leader(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    for _ in 0..2 {
        let stream = Stream::start(stage, 1000)?;
        stream.wait_for_some(stage)?;
        let node = stage.leader;
        stage.kill(node);
        stream.stop(stage)?;
        stage.start(node)?;
        stage.lead_on(node)?;
        stage.append(3)?;
        stage.converge()?;
    }
    Ok(())
}

pub(super) fn taking_turns(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    for turn in 1..=stage.shape.nodes + 1 {
        let node = turn % stage.shape.nodes;
        let stream = Stream::start(stage, 1000)?;
        stream.wait_for_some(stage)?;
        stage.lead_on(node)?;
        stream.stop(stage)?;
        stage.append(3)?;
        stage.converge()?;
    }
    Ok(())
}

pub(super) fn stale_leader(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    // As many as are too few to acknowledge anything; the rest can just promote one of theirs.
    let minority: Vec<_> = (0..stage.shape.copies - 1).collect();
    let rest: Vec<_> = (stage.shape.copies - 1..stage.shape.nodes).collect();
    stage.isolate(&minority)?;
    // The first of them is written: nobody knows yet.
    stage.append_in_vain(0, 300, Rule::AcknowledgedIsDurable)?;
    stage.append_in_vain(0, 5000, Rule::AcknowledgedIsDurable)?;
    stage.promote(rest[0])?;
    if rest.len() >= stage.shape.copies {
        stage.append(3)?;
    }
    stage.append_in_vain(0, 300, Rule::FencedNeverAcknowledges)?;
    for other in &rest[1..] {
        // Those who have promised the new epoch can be reached; its leader cannot.
        stage.join(0, *other)?;
        for _ in 0..3 {
            stage.append_in_vain(0, 300, Rule::FencedNeverAcknowledges)?;
        }
    }
    stage.heal()?;
    stage.append(3)?;
    stage.converge()?;
    if stage.handle(0).leading().is_ok_and(|epoch| epoch.is_some()) {
        return broken(Rule::FencedNeverAcknowledges, "node 0 leads still".to_owned());
    }
    stage.append_in_vain(0, 300, Rule::FencedNeverAcknowledges)?;
    // It leads once more, with what the others did meanwhile.
    stage.lead_on(0)?;
    stage.append(3)?;
    stage.converge()
}

pub(super) fn lagging_candidate(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    stage.isolate(&[2])?;
    stage.append(10)?;
    let visible = stage.handle(0).visible();
    let acknowledged = visible.or_else(|e| broken(Rule::GoesOn, format!("node 0: {e}")))?;
    stage.isolate(&[0])?;
    stage.kill(0);
    // Alone, it cannot know what was acknowledged.
    if stage.try_promote(2)?.is_ok() {
        let what = "node 2 leads without the promise of anyone".to_owned();
        return broken(Rule::LaggingNeverLeads, what);
    }
    stage.join(1, 2)?;
    // It may lead after it has got what it lacks, or be refused.
    for _ in 0..3 {
        if stage.try_promote(2)?.is_err() {
            continue;
        }
        let history = stage.handle(2).history();
        let start = history.map(|history| {
            let last = history.epochs.last().map(|last| last.start);
            last.unwrap_or(history.end)
        });
        match start {
            Ok(start) if start >= acknowledged => {}
            other => {
                let what = format!("{acknowledged} was acknowledged, node 2 began at {other:?}");
                return broken(Rule::LaggingNeverLeads, what);
            }
        }
    }
    stage.lead_on(1)?;
    stage.append(3)?;
    stage.start(0)?;
    stage.heal()?;
    stage.converge()
}

pub(super) fn stale_acks(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    // Node 1 holds it and says so; node 2 does not, so it is not acknowledged.
    stage.isolate(&[2])?;
    stage.append_in_vain(0, 60_000, Rule::AcknowledgedIsDurable)?;
    stage.promote(2)?;
    stage.heal()?;
    stage.append(2)?;
    stage.converge()?;
    stage.lead_on(0)?;
    stage.append(1)?;
    stage.converge()?;
    // What node 1 has said in the first epoch goes further than this.
    stage.cut(0, 1)?;
    stage.cut(1, 2)?;
    let late = stage.append_in_vain(0, 300, Rule::StaleAcksDoNotCount)?;
    stage.heal()?;
    stage.append(3)?;
    stage.must_land(late)
}

pub(super) fn late_acks(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(3)?;
    stage.converge()?;
    // Node 1 holds it, and what it says of that does not arrive; node 2 does not hold it.
    stage.isolate(&[2])?;
    stage.delay(1, 0, Delay::Begin)?;
    stage.append_in_vain(0, 30_000, Rule::AcknowledgedIsDurable)?;
    stage.append_in_vain(0, 300, Rule::AcknowledgedIsDurable)?;
    stage.delay(1, 0, Delay::End)?;
    stage.promote(2)?;
    stage.heal()?;
    stage.append(2)?;
    stage.converge()?;
    stage.lead_on(0)?;
    stage.append(1)?;
    stage.converge()?;
    stage.cut(0, 1)?;
    stage.cut(1, 2)?;
    // What node 1 has said covers the first of these, which it does not hold.
    let first = stage.append_in_vain(0, 300, Rule::StaleAcksDoNotCount)?;
    let second = stage.append_in_vain(0, 60_000, Rule::StaleAcksDoNotCount)?;
    stage.delay(1, 0, Delay::Arrive)?;
    stage.append_in_vain(0, 300, Rule::StaleAcksDoNotCount)?;
    if let Some((_, payload)) = &first {
        stage.check_invisible(payload, Rule::StaleAcksDoNotCount)?;
    }
    stage.heal()?;
    stage.append(3)?;
    stage.must_land(first)?;
    stage.must_land(second)
}

pub(super) fn groups(stage: &mut Stage) -> Played {
    stage.begin(&[])?;
    stage.append(5)?;
    let group = open_group(stage)?;
    for expected in 0..3 {
        let delivery = next(stage, &group)?;
        check(&delivery, expected, 1)?;
        let done = if expected < 2 { delivery.ack() } else { delivery.retry_after(Duration::ZERO) };
        done.or_else(|e| broken(Rule::GoesOn, format!("offset {expected}: {e}")))?;
    }
    let mut last = None;
    let committed = stage.eventually(|_| {
        last = group.commit().err();
        Ok(last.is_none())
    })?;
    if !committed {
        return broken(Rule::GoesOn, format!("a group cannot commit: {last:?}"));
    }
    drop(group);
    stage.converge()?;
    if stage.open().count() > 1 {
        stage.lead_on(1)?;
    } else {
        stage.kill(0);
        stage.start(0)?;
        stage.lead_on(0)?;
    }
    let group = open_group(stage)?;
    for (offset, attempts) in [(2, 2), (3, 1), (4, 1)] {
        let delivery = next(stage, &group)?;
        check(&delivery, offset, attempts)?;
        delivery.ack().or_else(|e| broken(Rule::GoesOn, format!("offset {offset}: {e}")))?;
    }
    Ok(())
}

fn open_group(stage: &mut Stage) -> Played<Group> {
    let leader = stage.leader;
    let mut found = None;
    stage.eventually(|stage| {
        let options = GroupOptions::new().start(crate::topic::Start::Earliest);
        let topic = stage.log(leader).topic(TOPIC);
        found = Some(topic.and_then(|topic| topic.group_with("g", options)));
        Ok(found.as_ref().is_some_and(Result::is_ok))
    })?;
    match found {
        Some(Ok(group)) => Ok(group),
        other => broken(Rule::GoesOn, format!("node {leader} leads, and its group is {other:?}")),
    }
}

/// The next message of a group.
fn next(stage: &mut Stage, group: &Group) -> Played<Delivery> {
    let mut found = None;
    let mut last = None;
    stage.eventually(|_| {
        match group.poll(1, Duration::ZERO) {
            Ok(mut polled) => found = polled.pop(),
            Err(error) => last = Some(error),
        }
        Ok(found.is_some())
    })?;
    match found {
        Some(delivery) => Ok(delivery),
        None => broken(Rule::GroupsGoOn, format!("a group gets nothing more: {last:?}")),
    }
}

/// More attempts than were made by hand are possible: a delivery may have been counted that
/// reached nobody.
fn check(delivery: &Delivery, offset: u64, attempts: u32) -> Played {
    let (found, attempt) = (delivery.message().offset().0, delivery.attempt());
    if found != offset || attempt < attempts {
        let what = format!(
            "offset {found} was delivered in attempt {attempt}, expected {offset} in {attempts}"
        );
        return broken(Rule::GroupsGoOn, what);
    }
    Ok(())
}
