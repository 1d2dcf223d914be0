//! How many copies a quorum wants, and how patient it is.

use std::time::Duration;

use crate::error::{Error, Result};

/// How a [`Quorum`](super::Quorum) counts.
///
/// # Examples
///
/// ```
/// use ackline::replicate::QuorumOptions;
///
/// // Of three replicas, two must hold a record before it is acknowledged.
/// let options = QuorumOptions::new(2);
/// ```
#[derive(Clone, Debug)]
pub struct QuorumOptions {
    copies: usize,
    min_in_sync: Option<usize>,
    window_bytes: u64,
    resend_after: Duration,
    lost_after: Duration,
    pub(super) log_id: u128,
}

impl QuorumOptions {
    /// An append is answered once this many replicas hold it durably, the leader's own copy
    /// included.
    ///
    /// A replica can be made the leader while all but `copies - 1` replicas are there to promise
    /// it, so that one of those holds whatever was answered: two copies of three survive the loss
    /// of any one replica, and so do three of five of any two.
    pub fn new(copies: usize) -> Self {
        Self {
            copies,
            min_in_sync: None,
            window_bytes: 4 << 20,
            resend_after: Duration::from_millis(500),
            lost_after: Duration::from_secs(2),
            log_id: 1,
        }
    }

    /// Appends are refused, before anything is written, while fewer replicas than this are in sync,
    /// the leader included; see [`PeerReport::in_sync`](super::PeerReport::in_sync). Default: as many
    /// as there must be copies.
    #[must_use]
    pub fn min_in_sync(mut self, replicas: usize) -> Self {
        self.min_in_sync = Some(replicas);
        self
    }

    /// How many bytes of frames may be on their way to one replica. Default: 4 MiB. One that does
    /// not keep up is fed from the log later, and costs no memory.
    #[must_use]
    pub fn window_bytes(mut self, bytes: u64) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// The identity that a new log takes: the same for all replicas of one log, and another one for
    /// each log, so that replicas of different logs are never taken for copies of one. Default: 1.
    /// A log that exists keeps its own, and a replica that is empty takes over that of its leader.
    #[must_use]
    pub fn log_id(mut self, id: u128) -> Self {
        self.log_id = id;
        self
    }

    /// How long an answer may take before something is said again. Default: 500 ms.
    #[must_use]
    pub fn resend_after(mut self, patience: Duration) -> Self {
        self.resend_after = patience;
        self
    }

    /// How long a replica may be silent, and how long it may take to catch up with what is written,
    /// and still count as in sync. Default: 2 s.
    #[must_use]
    pub fn lost_after(mut self, silence: Duration) -> Self {
        self.lost_after = silence;
        self
    }

    /// Checks the options for a quorum of `nodes` replicas.
    pub(super) fn rules(&self, nodes: usize) -> Result<Rules> {
        let check = |ok: bool, option, reason: String| {
            if ok { Ok(()) } else { Err(Error::InvalidOption { option, reason }) }
        };
        let copies = self.copies;
        let reason = format!("{copies} of {nodes} replicas");
        check((1..=nodes).contains(&copies), "copies", reason)?;
        let in_sync = self.min_in_sync.unwrap_or(copies);
        let reason = format!("{in_sync}, for {copies} copies on {nodes} replicas");
        check((copies..=nodes).contains(&in_sync), "min_in_sync", reason)?;
        check(self.window_bytes > 0, "window_bytes", "zero".to_owned())?;
        check(!self.resend_after.is_zero(), "resend_after", "zero".to_owned())?;
        let patient = self.lost_after >= self.resend_after;
        check(patient, "lost_after", "less than resend_after".to_owned())?;
        Ok(Rules {
            nodes,
            copies,
            in_sync,
            window: self.window_bytes,
            resend_after: self.resend_after,
            lost_after: self.lost_after,
        })
    }
}

/// The options, checked, for a number of replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) nodes: usize,
    pub(super) copies: usize,
    pub(super) in_sync: usize,
    pub(super) window: u64,
    pub(super) resend_after: Duration,
    pub(super) lost_after: Duration,
}

impl Rules {
    /// How many replicas, the candidate included, must have promised an epoch before it is led.
    /// With one fewer, `copies` others could hold what none of these has heard of.
    pub(super) fn promises(&self) -> usize {
        self.nodes - self.copies + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &QuorumOptions, nodes: usize, refused: Option<&str>) {
        match (options.rules(nodes), refused) {
            (Ok(_), None) => {}
            (Err(Error::InvalidOption { option, .. }), Some(refused)) => {
                assert_eq!(option, refused);
            }
            (result, _) => panic!("{result:?}"),
        }
    }

    #[test]
    fn copies_and_replicas_in_sync_must_be_possible() {
        check(&QuorumOptions::new(2), 3, None);
        check(&QuorumOptions::new(2).min_in_sync(3), 3, None);
        check(&QuorumOptions::new(0), 3, Some("copies"));
        check(&QuorumOptions::new(4), 3, Some("copies"));
        check(&QuorumOptions::new(2).min_in_sync(1), 3, Some("min_in_sync"));
        check(&QuorumOptions::new(2).min_in_sync(4), 3, Some("min_in_sync"));
        check(&QuorumOptions::new(2).window_bytes(0), 3, Some("window_bytes"));
    }

    #[test]
    fn any_set_of_copies_meets_any_set_of_promises() {
        for nodes in 1..8 {
            for copies in 1..=nodes {
                let rules = QuorumOptions::new(copies).rules(nodes).expect("possible");
                assert_eq!(copies + rules.promises(), nodes + 1);
            }
        }
    }
}
