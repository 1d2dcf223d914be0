//! Links between quorums in one process: queues with a thread at the end of each, that can be cut
//! and disturbed. What goes over them is encoded and decoded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use ackline::replicate::conformance::Delay;
use ackline::replicate::{Link, Message, Quorum};

/// As long as this, and more is lost.
const QUEUE_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Net {
    nodes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// By sender and receiver.
    queues: Vec<VecDeque<Vec<u8>>>,
    cut: Vec<bool>,
    /// What was put aside, and whether more is.
    aside: Vec<(VecDeque<Vec<u8>>, bool)>,
    disturbed: bool,
    sent: u64,
    quorums: Vec<Option<Quorum>>,
    stopped: bool,
}

/// The way from one node to another one.
#[derive(Debug)]
struct To {
    net: Arc<Net>,
    at: usize,
}

impl Link for To {
    fn send(&self, message: Message) {
        let mut state = self.net.state();
        if state.cut[self.at] || state.queues[self.at].len() >= QUEUE_MAX {
            return;
        }
        let bytes = message.encode();
        if let (aside, true) = &mut state.aside[self.at] {
            aside.push_back(bytes);
            return;
        }
        state.sent += 1;
        let sent = state.sent;
        let disturbed = state.disturbed;
        let queue = &mut state.queues[self.at];
        if disturbed && sent.is_multiple_of(3) {
            queue.push_front(bytes.clone());
        }
        if !(disturbed && sent.is_multiple_of(7)) {
            queue.push_back(bytes);
        }
        if disturbed && sent.is_multiple_of(5) {
            queue.make_contiguous().reverse();
        }
        drop(state);
        self.net.changed.notify_all();
    }
}

/// The link of a node to each of the others, in the order of their numbers.
fn peers(nodes: usize, node: usize) -> impl Iterator<Item = usize> {
    (0..nodes).filter(move |peer| *peer != node)
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Arc<Self> {
        let state = State {
            queues: vec![VecDeque::new(); nodes * nodes],
            cut: vec![false; nodes * nodes],
            aside: vec![(VecDeque::new(), false); nodes * nodes],
            disturbed: false,
            sent: 0,
            quorums: vec![None; nodes],
            stopped: false,
        };
        Arc::new(Self { nodes, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }

    pub(crate) fn links(self: &Arc<Self>, node: usize) -> Vec<Arc<dyn Link>> {
        let to = |peer| To { net: Arc::clone(self), at: node * self.nodes + peer };
        peers(self.nodes, node).map(|peer| Arc::new(to(peer)) as Arc<dyn Link>).collect()
    }

    pub(crate) fn set_quorum(&self, node: usize, quorum: Option<Quorum>) {
        let before = std::mem::replace(&mut self.state().quorums[node], quorum);
        drop(before);
    }

    pub(crate) fn set_cut(&self, a: usize, b: usize, cut: bool) {
        let mut state = self.state();
        for at in [a * self.nodes + b, b * self.nodes + a] {
            state.cut[at] = cut;
            if cut {
                state.queues[at].clear();
            }
        }
    }

    /// Tells both ends, as a transport with connections does.
    pub(crate) fn tell(&self, a: usize, b: usize, connected: bool) {
        for (node, peer) in [(a, b), (b, a)] {
            let quorum = self.state().quorums[node].clone();
            let link = peers(self.nodes, node).position(|other| other == peer);
            match (quorum, link.expect("another node")) {
                (Some(quorum), link) if connected => quorum.connected(link),
                (Some(quorum), link) => quorum.disconnected(link),
                _ => {}
            }
        }
    }

    pub(crate) fn delay(&self, from: usize, to: usize, delay: Delay) {
        let (mut state, at) = (self.state(), from * self.nodes + to);
        state.aside[at].1 = delay == Delay::Begin;
        if delay == Delay::Arrive {
            let aside = std::mem::take(&mut state.aside[at].0);
            state.queues[at].extend(aside);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn disturb(&self, on: bool) {
        self.state().disturbed = on;
    }

    /// Starts a thread for each direction of each link.
    pub(crate) fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let pairs = (0..self.nodes).flat_map(|a| peers(self.nodes, a).map(move |b| (a, b)));
        pairs
            .map(|(from, to)| {
                let net = Arc::clone(self);
                std::thread::spawn(move || net.deliver(from, to))
            })
            .collect()
    }

    fn deliver(&self, from: usize, to: usize) {
        let at = from * self.nodes + to;
        let link = peers(self.nodes, to).position(|peer| peer == from).expect("another node");
        loop {
            let state = self.state();
            let waiting = |state: &mut State| state.queues[at].is_empty() && !state.stopped;
            let mut state = self.changed.wait_while(state, waiting).expect("nobody panicked");
            if state.stopped {
                return;
            }
            let arrived = std::mem::take(&mut state.queues[at]);
            let quorum = state.quorums[to].clone();
            drop(state);
            let decode = |bytes: Vec<u8>| Message::decode(&bytes).expect("nothing is damaged");
            if let Some(quorum) = quorum {
                quorum.received_all(link, arrived.into_iter().map(decode));
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}
