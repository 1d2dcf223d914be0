//! Whole logs under a model checker: their threads run one at a time, in orders that are drawn
//! from a seed, on a simulated disk.
//!
//! ```text
//! RUSTFLAGS="--cfg ackline_shuttle" cargo test --release --test interleavings
//! ```
//!
//! Wherever a thread takes a lock, reads or writes an atomic, sleeps or calls the disk, another
//! one may go on. A schedule in which nobody can go on is a deadlock, so a lost wake-up is found
//! as one: time stands still but where a test lets it pass. `ACKLINE_SCHEDULES=n` runs n times as
//! many schedules; a failure says which `ACKLINE_SCHEDULE` repeats it. See `docs/testing.md`.
#![cfg(ackline_shuttle)]

#[path = "interleavings/appends.rs"]
mod appends;
#[path = "interleavings/closing.rs"]
mod closing;
#[path = "interleavings/crashes.rs"]
mod crashes;
#[path = "interleavings/failures.rs"]
mod failures;
#[path = "interleavings/groups.rs"]
mod groups;
#[path = "interleavings/harness.rs"]
mod harness;
#[path = "interleavings/machine.rs"]
mod machine;
#[path = "interleavings/pendings.rs"]
mod pendings;
#[path = "interleavings/promises.rs"]
mod promises;
#[path = "interleavings/replicas.rs"]
mod replicas;
#[path = "interleavings/rolls.rs"]
mod rolls;
#[path = "interleavings/waking.rs"]
mod waking;
