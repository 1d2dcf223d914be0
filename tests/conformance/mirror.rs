//! `Mirror`, which leads by itself and has no links.

use std::sync::Arc;

use ackline::replicate::Mirror;
use ackline::replicate::conformance::{Cluster, Outcome, Refusal, Scene, Seat, Shape, Suite};
use ackline::{Epoch, Log, Options, Result};

use crate::{check_passes, play};

struct Mirrored;

impl Cluster for Mirrored {
    fn start(&self, _: usize, options: Options, seats: &[Seat]) -> Result<Log> {
        let mirror = Mirror::open_on(options.clone(), seats[1].storage())?;
        seats[0].open(options.replicator(Arc::new(mirror)))
    }

    fn logs(&self, _: Shape) -> usize {
        1
    }

    fn promote(&self, node: usize, _: Epoch) -> Outcome {
        if node == 0 { Ok(()) } else { Err(Refusal::Unsupported) }
    }
}

fn mirrored(shape: Shape) -> Option<Box<dyn Cluster>> {
    (shape == Shape::PAIR).then(|| Box::new(Mirrored) as Box<dyn Cluster>)
}

/// What needs three nodes.
fn left_out() -> usize {
    Scene::ALL
        .iter()
        .flat_map(|scene| scene.shapes())
        .filter(|shape| **shape != Shape::PAIR)
        .count()
}

#[test]
fn a_mirror_conforms() {
    check_passes(&play(&mirrored), left_out());
}

#[test]
fn a_mirror_conforms_that_loses_its_power() {
    check_passes(&Suite::on_simulated_disks(3).run(&mirrored), left_out());
}
