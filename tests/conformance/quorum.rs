//! `Quorum`, over links in one process.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ackline::replicate::conformance::{Cluster, Delay, Outcome, Seat, Shape, Suite};
use ackline::replicate::{Quorum, QuorumOptions};
use ackline::{Epoch, Log, Options, Result};

use crate::net::Net;
use crate::{check_passes, play};

struct Quorums {
    shape: Shape,
    net: Arc<Net>,
    /// Whether nodes are told when a link is cut or joined.
    tells: bool,
    threads: Vec<JoinHandle<()>>,
    members: std::cell::RefCell<Vec<Option<Quorum>>>,
}

impl Quorums {
    fn new(shape: Shape, tells: bool) -> Self {
        let net = Net::new(shape.nodes);
        let threads = net.start();
        Self { shape, net, tells, threads, members: vec![None; shape.nodes].into() }
    }
}

impl Drop for Quorums {
    fn drop(&mut self) {
        self.net.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("a link does not panic");
        }
    }
}

impl Cluster for Quorums {
    fn start(&self, node: usize, options: Options, seats: &[Seat]) -> Result<Log> {
        let counting = QuorumOptions::new(self.shape.copies)
            .resend_after(Duration::from_millis(200))
            .lost_after(Duration::from_secs(1));
        let quorum = Quorum::new(&counting, self.net.links(node))?;
        let log = seats[node].open(options.replicator(Arc::new(quorum.clone())))?;
        self.net.set_quorum(node, Some(quorum.clone()));
        self.members.borrow_mut()[node] = Some(quorum);
        Ok(log)
    }

    fn stopped(&self, node: usize) {
        self.net.set_quorum(node, None);
        self.members.borrow_mut()[node] = None;
    }

    fn promote(&self, node: usize, epoch: Epoch) -> Outcome {
        let quorum = self.members.borrow()[node].clone().expect("it is started");
        Ok(quorum.promote(epoch, Duration::from_secs(1))?)
    }

    fn cut(&self, a: usize, b: usize) -> Outcome {
        self.net.set_cut(a, b, true);
        if self.tells {
            self.net.tell(a, b, false);
        }
        Ok(())
    }

    fn join(&self, a: usize, b: usize) -> Outcome {
        self.net.set_cut(a, b, false);
        if self.tells {
            self.net.tell(a, b, true);
        }
        Ok(())
    }

    fn delay(&self, from: usize, to: usize, delay: Delay) -> Outcome {
        self.net.delay(from, to, delay);
        Ok(())
    }

    fn disturb(&self, on: bool) -> Outcome {
        self.net.disturb(on);
        Ok(())
    }
}

#[test]
fn a_quorum_conforms() {
    check_passes(&play(&|shape| Some(Box::new(Quorums::new(shape, false)))), 0);
}

#[test]
fn a_quorum_conforms_whose_host_tells_of_connections() {
    check_passes(&play(&|shape| Some(Box::new(Quorums::new(shape, true)))), 0);
}

#[test]
fn a_quorum_conforms_whose_replicas_lose_their_power() {
    let report = Suite::on_simulated_disks(7)
        .run(&|shape| Some(Box::new(Quorums::new(shape, shape == Shape::ALL))));
    check_passes(&report, 0);
}
