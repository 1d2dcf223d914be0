//! Replicators with one mistake each: every one is found, by the rule that it breaks.

use std::time::Duration;

use ackline::replicate::conformance::{Report, Rule, Scene};

use crate::pulling::{Flaw, PullingCluster};
use crate::{check_passes, play, suite};

fn report(flaw: Flaw, scenes: &[Scene]) -> Report {
    let directory = tempfile::tempdir().expect("a directory");
    suite(directory.path())
        .only(scenes)
        .patience(Duration::from_secs(3))
        .run(&|shape| Some(Box::new(PullingCluster::new(shape, flaw))))
}

fn check(flaw: Flaw, rule: Rule, scene: Scene) {
    let report = report(flaw, &[scene]);
    assert!(report.found(rule, scene), "{flaw:?} should break {rule:?} in {scene:?}: {report}");
}

/// What is found of each below is found because of its mistake.
#[test]
fn without_a_mistake_it_conforms() {
    let report = play(&|shape| Some(Box::new(PullingCluster::new(shape, Flaw::None))));
    // Function calls are neither doubled nor late.
    let left_out = [Scene::DisturbedLinks, Scene::LateAcks].map(|scene| scene.shapes().len());
    check_passes(&report, left_out.iter().sum());
}

/// Prints all that is found of each.
#[test]
#[ignore = "takes a while, since whatever is missing is waited for"]
fn everything_that_is_found_of_each() {
    let wanted = std::env::var("FLAW").unwrap_or_default();
    let flaws = [
        Flaw::AcksAtOffer,
        Flaw::AcksUnsynced,
        Flaw::Reorders,
        Flaw::DropsAfterReconnect,
        Flaw::IgnoresEpoch,
        Flaw::CountsStaleAcks,
        Flaw::PromotesLagging,
        Flaw::LeadsWithoutPromises,
        Flaw::NeverReconciles,
        Flaw::ShowsAtOnce,
        Flaw::NeverSendsSnapshots,
        Flaw::ForgetsTheRestarted,
    ];
    for flaw in flaws.into_iter().filter(|flaw| format!("{flaw:?}").contains(&wanted)) {
        let report = report(flaw, Scene::ALL);
        println!("{flaw:?}: {report}");
        assert!(!report.findings.is_empty());
    }
}

#[test]
fn acknowledging_what_was_only_offered_is_found() {
    check(Flaw::AcksAtOffer, Rule::AcknowledgedIsDurable, Scene::CutOff);
}

#[test]
fn counting_what_a_replica_has_not_synced_is_found() {
    check(Flaw::AcksUnsynced, Rule::AcknowledgedIsDurable, Scene::HeldDisk);
}

#[test]
fn handing_over_frames_out_of_order_is_found() {
    check(Flaw::Reorders, Rule::EverythingArrives, Scene::BrokenLinks);
}

#[test]
fn dropping_what_was_written_while_a_link_was_cut_is_found() {
    check(Flaw::DropsAfterReconnect, Rule::EverythingArrives, Scene::BrokenLinks);
}

#[test]
fn acknowledging_after_a_newer_epoch_was_promised_is_found() {
    check(Flaw::IgnoresEpoch, Rule::FencedNeverAcknowledges, Scene::StaleLeader);
}

#[test]
fn counting_what_was_said_in_an_earlier_epoch_is_found() {
    check(Flaw::CountsStaleAcks, Rule::StaleAcksDoNotCount, Scene::StaleAcks);
}

#[test]
fn promoting_a_replica_that_lags_is_found() {
    check(Flaw::PromotesLagging, Rule::LaggingNeverLeads, Scene::LaggingCandidate);
}

#[test]
fn leading_without_the_promises_of_others_is_found() {
    check(Flaw::LeadsWithoutPromises, Rule::LaggingNeverLeads, Scene::LaggingCandidate);
}

#[test]
fn keeping_what_a_new_leader_does_not_have_is_found() {
    check(Flaw::NeverReconciles, Rule::SeenStays, Scene::StaleLeader);
}

#[test]
fn showing_what_is_not_replicated_is_found() {
    check(Flaw::ShowsAtOnce, Rule::UnacknowledgedIsInvisible, Scene::StaleLeader);
}

#[test]
fn leaving_a_replica_without_a_snapshot_is_found() {
    check(Flaw::NeverSendsSnapshots, Rule::EverythingArrives, Scene::LateReplica);
}

#[test]
fn forgetting_a_replica_that_was_restarted_is_found() {
    check(Flaw::ForgetsTheRestarted, Rule::EverythingArrives, Scene::RestartedReplica);
}
