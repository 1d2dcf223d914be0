//! Making a log where there is none.

use crate::clock::Clock;
use crate::commit::{Config, FIRST_SEGMENT_BYTES};
use crate::draws::Draws;
use crate::error::{Error, Result};
use crate::format::name;
use crate::offset::Position;
use crate::segment::index::SegmentIndex;
use crate::segment::writer::{self, Blocks, Start};
use crate::segment::{Active, Starts, Tail};
use crate::state::State;
use crate::storage::Storage;
use crate::sync::RwLock;

use super::open::{Listing, Recovered, report};
use super::report::Ending;

/// Makes the first segment, unless what is there says that this is no place for a new log.
pub(super) fn create(
    storage: &dyn Storage,
    listing: &Listing,
    (config, log_id): (&Config, Option<u128>),
    (clock, draws): (&dyn Clock, &Draws),
) -> Result<Recovered> {
    if let Some(index) = listing.indexes.first() {
        let file = name::segment(*index);
        return Err(Error::corrupt(file, 0, "a segment", "its index alone"));
    }
    // No step leaves it without a segment. A log that began anew here could lack what this replica
    // has vouched for.
    if listing.has_replica {
        let (expected, found) = ("a replica with its segments", "what it promised alone");
        return Err(Error::corrupt(name::replica(), 0, expected, found));
    }
    if let Some(name) = listing.foreign.iter().find(|name| !name::is_harmless(name)) {
        let (path, name) = (storage.describe(), name.clone());
        return Err(Error::ForeignFile { path, name });
    }
    let base = Position(0);
    let bytes = config.segment_bytes.min(FIRST_SEGMENT_BYTES);
    let spare = writer::prepare(storage, &name::unfinished(base), bytes, Blocks::Filled)?;
    let start = Start {
        // By it, segments of another log are told apart.
        log_id: log_id.unwrap_or_else(|| u128::from(draws.draw()) | u128::from(draws.draw()) << 64),
        base,
        previous_base: None,
        sequence: 0,
        epoch: 0,
        chain: 0,
        created_ms: clock.wall_ms(),
        salt: draws.salt(),
    };
    let segment = writer::activate(storage, spare, &start, &(Vec::new(), 0), &[], &start.marker())?;
    Ok(Recovered {
        older_bytes: 0,
        bases: vec![base],
        active: Active {
            segment,
            starts: Starts::default(),
            index: RwLock::new(SegmentIndex::default()),
        },
        state: State::default(),
        tail: Tail { sequence: 0, chain: 0, epoch: 0 },
        end: base,
        report: report(Ending::New),
    })
}
