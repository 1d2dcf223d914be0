//! Scenes, the rules that they can find broken, and what a run says of them.

use std::fmt;

use super::Shape;

/// What is played. Each scene begins with a new cluster that has one leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scene {
    /// The disks of so many replicas do not answer that there cannot be enough copies.
    HeldDisk,
    /// The leader is cut off from so many replicas that there cannot be enough copies.
    CutOff,
    /// Many append at the same time.
    ManyAtOnce,
    /// A link is cut and joined again and again in the middle of a stream.
    BrokenLinks,
    /// Messages are doubled and overtake one another.
    DisturbedLinks,
    /// A replica joins when the beginning of the log is not kept any more; later it is away until
    /// what it needs next is not.
    LateReplica,
    /// A replica is killed and started again in the middle of a stream.
    RestartedReplica,
    /// The leader is killed, started again and promoted again.
    RestartedLeader,
    /// A leader is cut off with records that are not acknowledged, another one is promoted, and
    /// the first one comes back.
    StaleLeader,
    /// The leader dies, and a replica that lacks what was acknowledged is told to lead.
    LaggingCandidate,
    /// A replica has acknowledged what was then given up, and a later leader is the one that it
    /// said that to.
    StaleAcks,
    /// The same, with acknowledgements that only arrive in the later epoch.
    LateAcks,
    /// A consumer group goes on under another leader.
    Groups,
    /// The replicas lead in turn.
    TakingTurns,
}

impl Scene {
    /// All of them, in the order in which they are played.
    pub const ALL: &[Self] = &[
        Self::HeldDisk,
        Self::CutOff,
        Self::ManyAtOnce,
        Self::BrokenLinks,
        Self::DisturbedLinks,
        Self::LateReplica,
        Self::RestartedReplica,
        Self::RestartedLeader,
        Self::StaleLeader,
        Self::LaggingCandidate,
        Self::StaleAcks,
        Self::LateAcks,
        Self::Groups,
        Self::TakingTurns,
    ];

    /// The shapes in which it is played.
    pub fn shapes(self) -> &'static [Shape] {
        match self {
            Self::HeldDisk | Self::ManyAtOnce | Self::RestartedLeader | Self::Groups => {
                &[Shape::PAIR, Shape::MAJORITY, Shape::ALL]
            }
            Self::CutOff
            | Self::BrokenLinks
            | Self::DisturbedLinks
            | Self::RestartedReplica
            | Self::StaleLeader
            | Self::TakingTurns => &[Shape::MAJORITY, Shape::ALL],
            // With fewer nodes than copies to spare, nobody can be away.
            Self::LateReplica | Self::LaggingCandidate => &[Shape::MAJORITY],
            // What one other replica acknowledges is kept for good where two copies do.
            Self::StaleAcks | Self::LateAcks => &[Shape::ALL],
        }
    }
}

/// What a replicator promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// An append is acknowledged only once enough replicas hold it durably.
    AcknowledgedIsDurable,
    /// What is not acknowledged and may vanish is visible to nobody.
    UnacknowledgedIsInvisible,
    /// What was acknowledged is there, at its offset, whoever leads.
    AcknowledgedIsKept,
    /// Each record is there once: also one whose append timed out and that landed later.
    OnceOnly,
    /// What a reader of any replica saw stays.
    SeenStays,
    /// Everything arrives at each replica that is there, whatever happened before.
    EverythingArrives,
    /// All copies hold the same frames.
    CopiesAreEqual,
    /// A leader that was replaced acknowledges nothing, and stops once it hears of it.
    FencedNeverAcknowledges,
    /// A replica that lacks what was acknowledged does not lead.
    LaggingNeverLeads,
    /// What a replica said to the leader of an earlier epoch does not count.
    StaleAcksDoNotCount,
    /// Acknowledgements and attempts of consumer groups survive a change of leader.
    GroupsGoOn,
    /// Once enough replicas can reach one another, one can be promoted and appends succeed.
    GoesOn,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcknowledgedIsDurable => {
                "an append is acknowledged only once enough replicas hold it durably"
            }
            Self::UnacknowledgedIsInvisible => "what may vanish is visible to nobody",
            Self::AcknowledgedIsKept => "what was acknowledged is there, at its offset",
            Self::OnceOnly => "each record is there once",
            Self::SeenStays => "what a reader saw stays",
            Self::EverythingArrives => "everything arrives at each replica that is there",
            Self::CopiesAreEqual => "all copies hold the same frames",
            Self::FencedNeverAcknowledges => "a leader that was replaced acknowledges nothing",
            Self::LaggingNeverLeads => "a replica that lacks what was acknowledged does not lead",
            Self::StaleAcksDoNotCount => "what was said in an earlier epoch does not count",
            Self::GroupsGoOn => "progress of groups survives a change of leader",
            Self::GoesOn => "it goes on once enough replicas are there",
        })
    }
}

/// A rule that was broken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The scene in which it was.
    pub scene: Scene,
    /// With how many replicas and copies.
    pub shape: Shape,
    /// What was seen.
    pub what: String,
}

/// A scene that was not played to its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The scene.
    pub scene: Scene,
    /// With how many replicas and copies.
    pub shape: Shape,
    /// What it needs.
    pub why: String,
}

/// What a run has found. `Display` is for people.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What was played to its end without a finding.
    pub passed: Vec<(Scene, Shape)>,
    /// What was left out, for want of an ability. It proves nothing.
    pub skipped: Vec<Skipped>,
    /// What is wrong; at most one of each scene and shape, which ends with it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether that rule was found broken, in that scene.
    pub fn found(&self, rule: Rule, scene: Scene) -> bool {
        self.findings.iter().any(|finding| (finding.rule, finding.scene) == (rule, scene))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, skipped, findings } = self;
        let (passed, left_out) = (passed.len(), skipped.len());
        writeln!(f, "{passed} passed, {left_out} left out, {} findings", findings.len())?;
        for Finding { rule, scene, shape, what } in findings {
            let Shape { nodes, copies } = shape;
            writeln!(f, "{scene:?}, {copies} of {nodes}: {what}; but {rule} ({rule:?})")?;
        }
        for Skipped { scene, shape, why } in skipped {
            let Shape { nodes, copies } = shape;
            writeln!(f, "{scene:?}, {copies} of {nodes}: left out: {why}")?;
        }
        Ok(())
    }
}
