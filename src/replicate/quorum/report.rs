//! What a quorum tells its host of itself.

use std::time::Duration;

use crate::offset::{Epoch, Position};

use super::links::{Peer, State};
use super::options::Rules;

/// What a replica is in its quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It follows whoever leads.
    Following,
    /// It collects promises for an epoch.
    Campaigning {
        /// The epoch that it wants to lead.
        epoch: Epoch,
    },
    /// It leads, or is about to.
    Leading {
        /// The epoch that it leads.
        epoch: Epoch,
    },
}

/// What a leader knows of one other replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerReport {
    /// How it stands.
    pub state: PeerState,
    /// Whether it counts as in sync: it is connected, was heard of within
    /// [`lost_after`](super::QuorumOptions::lost_after), and takes no longer than that to catch up
    /// with what is written. What was written since may still be on its way.
    pub in_sync: bool,
    /// Why it could not follow or be fed, if so, since it last did.
    pub failure: Option<String>,
}

/// How another replica stands to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// It is not connected, or was not told of this epoch yet.
    Silent,
    /// It was told, and is to say how far it goes, maybe after a snapshot.
    Joining,
    /// Its log is a beginning of the leader's.
    Following {
        /// It holds all below, durably.
        end: Position,
    },
    /// It cannot follow; [`PeerReport::failure`] says why. It is asked again now and then.
    Failed,
}

/// What is told of a replica.
pub(super) fn report(peer: &Peer, rules: &Rules, now: Duration) -> PeerReport {
    PeerReport {
        state: match &peer.state {
            State::Silent => PeerState::Silent,
            State::Probing { .. } => PeerState::Joining,
            State::Following(progress) => PeerState::Following { end: progress.matched },
            State::Failed { .. } => PeerState::Failed,
        },
        in_sync: peer.is_available(now, rules.lost_after),
        failure: peer.failure.clone(),
    }
}
