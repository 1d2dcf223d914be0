//! Runs on a disk that lies or rots: opening may refuse, but what it shows is true.

use super::Checked;
use super::world::World;

pub(super) fn is_drawn(_seed: u64) -> bool {
    false
}

pub(super) fn run(_world: &mut World) -> Checked {
    Ok(())
}
