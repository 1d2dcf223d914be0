//! The bytes of one file, in pages that copies share until one of them writes.

use std::sync::Arc;

use super::trace::{Trace, hash_bytes};

const PAGE: usize = 4096;

/// Comparing with it is much faster than looking at byte after byte.
static ZEROS: Page = [0; PAGE];

type Page = [u8; PAGE];

/// The bytes of a file. What no page holds reads as zeros, and so does every byte of a page
/// past the size, so that growing exposes zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Option<Arc<Page>>>,
    size: u64,
}

impl Content {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.set_size(bytes.len() as u64);
        content.write(bytes, 0);
        content
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Cuts or extends, with zeros.
    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.size {
            let (page, offset) = place(size);
            self.pages.truncate(page + 1);
            if let Some(Some(last)) = self.pages.get_mut(page) {
                Arc::make_mut(last)[offset..].fill(0);
            }
        }
        self.size = size;
    }

    /// Reads up to the end of the file.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> usize {
        let length = buffer.len().min(index(self.size.saturating_sub(at)));
        let mut done = 0;
        while done < length {
            let (page, offset) = place(at + done as u64);
            let part = (length - done).min(PAGE - offset);
            let to = &mut buffer[done..done + part];
            match self.pages.get(page) {
                Some(Some(from)) => to.copy_from_slice(&from[offset..offset + part]),
                _ => to.fill(0),
            }
            done += part;
        }
        length
    }

    /// Writes what lies within the size and drops the rest.
    pub(super) fn write(&mut self, bytes: &[u8], at: u64) {
        let length = bytes.len().min(index(self.size.saturating_sub(at)));
        let mut done = 0;
        while done < length {
            let (page, offset) = place(at + done as u64);
            let part = (length - done).min(PAGE - offset);
            self.write_page(page, offset, &bytes[done..done + part]);
            done += part;
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.size)];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Mixes in the size and every page that is not all zeros.
    pub(super) fn mix_into(&self, trace: &mut Trace) {
        trace.mix(self.size);
        for (number, page) in (0..).zip(&self.pages) {
            if let Some(page) = page.as_deref().filter(|page| **page != ZEROS) {
                trace.mix_all(&[number, hash_bytes(page)]);
            }
        }
    }

    /// Takes the pages that `wanted` chooses, and the size, from another content.
    pub(super) fn take_pages(&mut self, other: &Self, mut wanted: impl FnMut(usize) -> bool) {
        self.set_size(other.size);
        let pages = self.pages.len().max(other.pages.len());
        self.pages.resize(pages, None);
        for page in 0..pages {
            if wanted(page) {
                self.pages[page] = other.pages.get(page).cloned().flatten();
            }
        }
    }

    fn write_page(&mut self, page: usize, offset: usize, bytes: &[u8]) {
        let missing = self.pages.get(page).is_none_or(Option::is_none);
        // A missing page reads as zeros already, so zero-filling a file costs no memory.
        if missing && bytes == &ZEROS[..bytes.len()] {
            return;
        }
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
        Arc::make_mut(page)[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn place(at: u64) -> (usize, usize) {
    let at = index(at);
    (at / PAGE, at % PAGE)
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("simulated files fit into memory")
}
