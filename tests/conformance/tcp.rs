//! The links of `examples/replicated_tcp`, over sockets of this machine. Each way goes through a
//! relay that can be cut, as a cable can.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ackline::replicate::conformance::{Cluster, Outcome, Seat, Shape};
use ackline::replicate::{Quorum, QuorumOptions};
use ackline::{Epoch, Log, Options, Result};

use crate::{check_passes, play};

#[path = "../../examples/replicated_tcp/tcp.rs"]
mod link;

/// Scenes that need messages to be doubled, reordered or held back, which TCP does not do.
const SKIPPED: usize = 3;

/// Any port that is free.
const ANY: &str = "127.0.0.1:0";

/// One way between two nodes: what dials the relay's address is connected to the target.
#[derive(Debug)]
struct Relay {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None while the node at the other end is not there.
    target: Option<SocketAddr>,
    is_cut: bool,
    /// The node that dials is gone for ever.
    is_over: bool,
    sockets: Vec<TcpStream>,
}

impl Relay {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind(ANY).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = State { target: None, is_cut: false, is_over: false, sockets: Vec::new() };
        let relay = Arc::new(Self { address, state: Mutex::new(state) });
        let accepting = Arc::clone(&relay);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if accepting.state().is_over {
                    return;
                }
                accepting.connect(socket);
            }
        });
        relay
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }

    fn connect(&self, socket: TcpStream) {
        let mut state = self.state();
        let Some(target) = state.target.filter(|_| !state.is_cut) else { return };
        let Ok(other) = TcpStream::connect(target) else { return };
        for (from, to) in [(&socket, &other), (&other, &socket)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            thread::spawn(move || carry(from, to));
        }
        state.sockets.extend([socket, other]);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        // Whatever was under way is lost.
        for socket in state.sockets.drain(..) {
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    drop(to.set_nodelay(true));
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// A node of this life: where it listens, and its ways to the others.
#[derive(Debug)]
struct Node {
    address: SocketAddr,
    quorum: Quorum,
    relays: Vec<Option<Arc<Relay>>>,
}

#[derive(Debug)]
struct Sockets {
    shape: Shape,
    nodes: RefCell<Vec<Option<Node>>>,
    cut: RefCell<Vec<(usize, usize)>>,
}

impl Sockets {
    fn new(shape: Shape) -> Self {
        let nodes = RefCell::new((0..shape.nodes).map(|_| None).collect());
        Self { shape, nodes, cut: RefCell::default() }
    }

    fn relay(&self, from: usize, to: usize, change: impl FnOnce(&mut State)) {
        if let Some(node) = &self.nodes.borrow()[from]
            && let Some(relay) = &node.relays[to]
        {
            relay.change(change);
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.borrow().contains(&(a.min(b), a.max(b)))
    }
}

impl Cluster for Sockets {
    fn start(&self, node: usize, options: Options, seats: &[Seat]) -> Result<Log> {
        let relays: Vec<_> =
            (0..self.shape.nodes).map(|to| (to != node).then(Relay::start)).collect();
        // A port that is free now; nobody else on this machine is likely to take it meanwhile.
        let own = TcpListener::bind(ANY).and_then(|socket| socket.local_addr());
        let address = own.expect("a port is free");
        let addresses: Vec<SocketAddr> =
            relays.iter().map(|relay| relay.as_ref().map_or(address, |r| r.address)).collect();
        let number = u8::try_from(node).expect("few nodes");
        let network = link::Network::new(number, &addresses);
        let counting = QuorumOptions::new(self.shape.copies)
            .resend_after(Duration::from_millis(200))
            .lost_after(Duration::from_secs(1));
        let quorum = Quorum::new(&counting, network.links())?;
        let log = seats[node].open(options.replicator(Arc::new(quorum.clone())))?;
        network.start(&quorum).expect("the port is free");
        self.nodes.borrow_mut()[node] = Some(Node { address, quorum, relays });
        for other in (0..self.shape.nodes).filter(|other| *other != node) {
            let is_cut = self.is_cut(node, other);
            let theirs = self.nodes.borrow()[other].as_ref().map(|other| other.address);
            self.relay(node, other, |state| (state.target, state.is_cut) = (theirs, is_cut));
            self.relay(other, node, |state| state.target = Some(address));
        }
        Ok(log)
    }

    fn stopped(&self, node: usize) {
        let Some(stopped) = self.nodes.borrow_mut()[node].take() else { return };
        for relay in stopped.relays.into_iter().flatten() {
            relay.change(|state| (state.is_over, state.target) = (true, None));
        }
        for other in (0..self.shape.nodes).filter(|other| *other != node) {
            self.relay(other, node, |state| state.target = None);
        }
    }

    fn promote(&self, node: usize, epoch: Epoch) -> Outcome {
        let quorum = self.nodes.borrow()[node].as_ref().map(|node| node.quorum.clone());
        Ok(quorum.expect("it is started").promote(epoch, Duration::from_secs(1))?)
    }

    fn cut(&self, a: usize, b: usize) -> Outcome {
        self.cut.borrow_mut().push((a.min(b), a.max(b)));
        self.relay(a, b, |state| state.is_cut = true);
        self.relay(b, a, |state| state.is_cut = true);
        Ok(())
    }

    fn join(&self, a: usize, b: usize) -> Outcome {
        self.cut.borrow_mut().retain(|cut| *cut != (a.min(b), a.max(b)));
        self.relay(a, b, |state| state.is_cut = false);
        self.relay(b, a, |state| state.is_cut = false);
        Ok(())
    }
}

#[test]
fn the_quorum_of_the_tcp_example_conforms() {
    check_passes(&play(&|shape| Some(Box::new(Sockets::new(shape)))), SKIPPED);
}
