//! What a replicator can do with a log: leading, following, frames in and out, giving up what
//! differs, beginning anew; and what appends, readers and groups see of it meanwhile.

#[path = "../common/mod.rs"]
mod common;

mod double;
mod failing;
mod faults;
mod files;
mod following;
mod leading;
mod raft;
