//! What every replicator must pass: a test suite for those who write one. With the feature
//! `conformance`.
//!
//! It plays [`Scene`]s, each with a new cluster of replicas in new directories, and reports which
//! [`Rule`] was broken, and how. A scene cuts links, holds up syncs of disks, kills and reopens
//! logs and promotes replicas, all through the [`Cluster`] that you provide. What your replicator
//! cannot do, say to be cut off, is answered by [`Refusal::Unsupported`]; the report lists the
//! scenes that were left out for it, so look at [`Report::skipped`], too.
//!
//! Speed decides nothing. What must happen may take half a minute; what must not happen is made
//! impossible for a correct replicator by a sync that does not return or a link that is cut, and
//! is looked for after an append has given up.
//!
//! It is behind a feature because it can hold up and kill what it opens, which no program that
//! serves anyone should contain. It has no dependencies of its own: name the crate once more among
//! the `dev-dependencies`, with `features = ["conformance"]`. With the feature `simulation`,
//! [`Suite::on_simulated_disks`] also takes the power from the replicas that it kills.
//!
//! # Examples
//!
//! A host's tests, outside of this crate, against a replicator `Mine` over a network of its own:
//!
//! ```
//! use std::sync::Arc;
//! use ackline::replicate::conformance::{Cluster, Outcome, Seat, Shape, Suite};
//! use ackline::{Epoch, Log, Options, Result};
//! # use ackline::replicate::{Mirror as Mine};
//! # struct Network;
//! # impl Network {
//! #     fn new(_: usize, _: usize) -> Self { Self }
//! #     fn replicator(&self, _: usize) -> Arc<Mine> { unreachable!() }
//! #     fn promote(&self, _: usize, _: Epoch) -> Result<()> { unreachable!() }
//! #     fn set_link(&self, _: usize, _: usize, _: bool) {}
//! # }
//!
//! struct MyCluster(Network);
//!
//! impl Cluster for MyCluster {
//!     fn start(&self, node: usize, options: Options, seats: &[Seat]) -> Result<Log> {
//!         seats[node].open(options.replicator(self.0.replicator(node)))
//!     }
//!
//!     fn promote(&self, node: usize, epoch: Epoch) -> Outcome {
//!         Ok(self.0.promote(node, epoch)?) // It gives up by itself, after a second or two.
//!     }
//!
//!     fn cut(&self, a: usize, b: usize) -> Outcome {
//!         Ok(self.0.set_link(a, b, false))
//!     }
//!
//!     fn join(&self, a: usize, b: usize) -> Outcome {
//!         Ok(self.0.set_link(a, b, true))
//!     }
//! }
//!
//! # fn my_test(directory: &std::path::Path) {
//! let report = Suite::in_directory(directory).run(&|shape: Shape| {
//!     Some(Box::new(MyCluster(Network::new(shape.nodes, shape.copies))))
//! });
//! assert!(report.findings.is_empty() && report.skipped.is_empty(), "{report}");
//! # }
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `mod` | what an implementer fills in, and the run |
//! | `report` | scenes, rules, findings |
//! | `seat` | disks that can be held up and taken away |
//! | `stage` | a cluster, and what scenes do with it |
//! | `ledger` | what it was given, and what it has shown |
//! | `copies` | what lies on the disks in the end |
//! | `steady` | the scenes with one leader |
//! | `failover` | the scenes with several |

mod copies;
mod failover;
mod ledger;
mod report;
mod seat;
mod stage;
mod steady;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::offset::Epoch;
use crate::options::Options;

pub use report::{Finding, Report, Rule, Scene, Skipped};
use seat::Ground;
pub use seat::Seat;
use stage::{Stage, Stop};

/// How many replicas there are, and how many must hold a record before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Replicas, the leader included.
    pub nodes: usize,
    /// Durable copies, the leader's included.
    pub copies: usize,
}

impl Shape {
    /// Two replicas, both of which must hold it: a mirror.
    pub const PAIR: Self = Self { nodes: 2, copies: 2 };
    /// Two of three.
    pub const MAJORITY: Self = Self { nodes: 3, copies: 2 };
    /// All three.
    pub const ALL: Self = Self { nodes: 3, copies: 3 };
}

/// Why a [`Cluster`] did not do what it was asked to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// It has no means to. Scenes that need it are left out.
    Unsupported,
    /// It tried.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What becomes of messages from one node to another one; see [`Cluster::delay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// What is sent from now on is put aside.
    Begin,
    /// What is sent from now on arrives as ever. What was put aside stays so.
    End,
    /// What was put aside arrives now, even if the nodes are cut off from each other by now.
    Arrive,
}

/// What a [`Cluster`] answers.
pub type Outcome = Result<(), Refusal>;

/// Some replicas of one log, as their implementer connects them; made anew for each scene, with
/// all links whole and no node started. Nodes are numbered from 0.
///
/// All calls come from one thread. `Drop` should end its threads.
pub trait Cluster {
    /// Opens the log of a node, by [`Seat::open`] of the seat with the node's number, with these
    /// options and a replicator that is made anew: a node that is started again has forgotten
    /// everything but its disk.
    ///
    /// # Errors
    ///
    /// Those of [`Seat::open`].
    fn start(&self, node: usize, options: Options, seats: &[Seat]) -> Result<Log>;

    /// The log of that node was closed, or its process has died.
    fn stopped(&self, _: usize) {}

    /// How many nodes are started, the first ones; the others are copies that one of those opens
    /// by itself, such as a mirror's. Default: as many as there are.
    fn logs(&self, shape: Shape) -> usize {
        shape.nodes
    }

    /// Makes a node the leader of an epoch; it leads when this returns. Gives up after a second or
    /// two; the suite tries again with another epoch, where it should have succeeded.
    ///
    /// # Errors
    ///
    /// Whatever kept it from leading: [`Error::Lagging`] where it lacks what others hold.
    fn promote(&self, node: usize, epoch: Epoch) -> Outcome;

    /// Nothing passes between two nodes any more, in either direction. What is on its way is lost.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unsupported`] by default.
    fn cut(&self, a: usize, b: usize) -> Outcome {
        let (_, _) = (a, b);
        Err(Refusal::Unsupported)
    }

    /// Ends [`cut`](Self::cut).
    ///
    /// # Errors
    ///
    /// [`Refusal::Unsupported`] by default.
    fn join(&self, a: usize, b: usize) -> Outcome {
        let (_, _) = (a, b);
        Err(Refusal::Unsupported)
    }

    /// Whether messages overtake one another and come twice now and then.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unsupported`] by default: a transport may exclude it.
    fn disturb(&self, _: bool) -> Outcome {
        Err(Refusal::Unsupported)
    }

    /// Puts messages from one node to another one aside, and lets them arrive much later.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unsupported`] by default: a transport may exclude it.
    fn delay(&self, from: usize, to: usize, delay: Delay) -> Outcome {
        let (_, _, _) = (from, to, delay);
        Err(Refusal::Unsupported)
    }
}

/// Makes the cluster for a scene; `None` if there is none of that shape.
pub type Make<'a> = &'a dyn Fn(Shape) -> Option<Box<dyn Cluster>>;

/// The scenes to play, and where.
#[derive(Debug)]
pub struct Suite {
    root: Root,
    scenes: Vec<Scene>,
    patience: Duration,
}

#[derive(Debug)]
enum Root {
    Directory(PathBuf),
    #[cfg(any(test, feature = "simulation"))]
    Disks(u64),
}

impl Root {
    fn seats(&self, scene: Scene, shape: Shape) -> Vec<Seat> {
        let ground = |node: usize| match self {
            Self::Directory(root) => {
                let name = format!("{scene:?}-{}-of-{}", shape.copies, shape.nodes);
                Ground::Directory(root.join(name).join(node.to_string()))
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Disks(seed) => {
                let seed = seed.wrapping_mul(31).wrapping_add(node as u64);
                Ground::Disk(Box::new(crate::storage::sim::SimDisk::new(seed)))
            }
        };
        (0..shape.nodes).map(|node| Seat::new(ground(node))).collect()
    }
}

impl Suite {
    /// All scenes, each in folders of its own below an empty directory, which the caller removes.
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        Self::new(Root::Directory(directory.as_ref().to_owned()))
    }

    /// All scenes on simulated disks. A killed replica loses what it had not synced.
    #[cfg(any(test, feature = "simulation"))]
    pub fn on_simulated_disks(seed: u64) -> Self {
        Self::new(Root::Disks(seed))
    }

    fn new(root: Root) -> Self {
        Self { root, scenes: Scene::ALL.to_vec(), patience: Duration::from_secs(40) }
    }

    /// How long what must happen may take at least, each time; it ends as soon as it has happened.
    /// Default: 40 s. Less only makes it quicker to see that something does not happen.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// These scenes alone.
    #[must_use]
    pub fn only(mut self, scenes: &[Scene]) -> Self {
        self.scenes = scenes.to_vec();
        self
    }

    /// Plays the scenes, one after the other, each in all of its shapes that there is a cluster
    /// for.
    pub fn run(&self, make: Make<'_>) -> Report {
        let mut report = Report::default();
        for scene in &self.scenes {
            for shape in scene.shapes() {
                let Some(cluster) = make(*shape) else {
                    let why = "there is no cluster of that shape".to_owned();
                    report.skipped.push(Skipped { scene: *scene, shape: *shape, why });
                    continue;
                };
                let seats = self.root.seats(*scene, *shape);
                let mut stage = Stage::new(cluster, *shape, seats, self.patience);
                match play(*scene, &mut stage) {
                    Ok(()) => report.passed.push((*scene, *shape)),
                    Err(Stop::Unsupported(what)) => {
                        let why = format!("the cluster does not support `{what}`");
                        report.skipped.push(Skipped { scene: *scene, shape: *shape, why });
                    }
                    Err(Stop::Broken(rule, what)) => {
                        report.findings.push(Finding { rule, scene: *scene, shape: *shape, what });
                    }
                }
            }
        }
        report
    }
}

fn play(scene: Scene, stage: &mut Stage) -> stage::Played {
    match scene {
        Scene::HeldDisk => steady::held_disk(stage),
        Scene::CutOff => steady::cut_off(stage),
        Scene::ManyAtOnce => steady::many_at_once(stage),
        Scene::BrokenLinks => steady::broken_links(stage),
        Scene::DisturbedLinks => steady::disturbed_links(stage),
        Scene::LateReplica => steady::late_replica(stage),
        Scene::RestartedReplica => steady::restarted_replica(stage),
        Scene::RestartedLeader => failover::restarted_leader(stage),
        Scene::StaleLeader => failover::stale_leader(stage),
        Scene::LaggingCandidate => failover::lagging_candidate(stage),
        Scene::StaleAcks => failover::stale_acks(stage),
        Scene::LateAcks => failover::late_acks(stage),
        Scene::Groups => failover::groups(stage),
        Scene::TakingTurns => failover::taking_turns(stage),
    }?;
    stage.finish()
}
