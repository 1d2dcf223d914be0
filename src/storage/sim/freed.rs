//! What removed files leave on the disk: the blocks of a new file may still hold it.

use std::collections::VecDeque;

use super::content::Content;
use super::inode::SECTOR;

/// How many removed files are remembered.
const FILES_MAX: usize = 4;

/// The files that were removed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Freed {
    files: VecDeque<Content>,
}

impl Freed {
    /// Remembers a file that nothing leads to any more.
    pub(super) fn bury(&mut self, content: &Content) {
        if content.size() == 0 {
            return;
        }
        if self.files.len() == FILES_MAX {
            self.files.pop_front();
        }
        self.files.push_back(content.clone());
    }

    /// Turns noise at a place of a file into what a removed file held, at times: mostly at the
    /// same place, where it looks most like what belongs there. The noise itself decides.
    /// Answers whether it did.
    pub(super) fn haunt(&self, noise: &mut [u8], at: u64) -> bool {
        let Some((draw, _)) = noise.split_first_chunk::<8>() else { return false };
        let draw = u64::from_le_bytes(*draw);
        let files = self.files.len() as u64;
        if files == 0 || draw & 1 == 0 {
            return false;
        }
        let file = usize::try_from((draw >> 8) % files).expect("below a small number");
        let file = &self.files[file];
        let sectors = file.size().div_ceil(SECTOR);
        let within = at % SECTOR;
        let same = draw & 6 != 0 && at < file.size();
        let at = if same { at } else { (draw >> 16) % sectors * SECTOR + within };
        file.read(noise, at) == noise.len()
    }
}
