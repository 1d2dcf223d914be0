//! One file for each peer.

pub(crate) mod ackline;
pub(crate) mod commitlog;
pub(crate) mod fjall;
pub(crate) mod okaywal;
pub(crate) mod queue_file;
pub(crate) mod raft_engine;
pub(crate) mod redb;
pub(crate) mod sled;
pub(crate) mod sqlite;
pub(crate) mod walrus;
pub(crate) mod yaque;
