//! Looking at a simulated disk from outside, and damaging what it promised to keep.

use super::SimDisk;
use super::inode::Inode;
use super::state::State;

impl SimDisk {
    /// The names in the directory as a process sees them, in order.
    pub fn names(&self) -> Vec<String> {
        self.state().names.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// The bytes of a file as a process sees them.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inode(state.names.get(name)?).cached().to_vec())
    }

    /// The size of a file as a process sees it.
    pub fn size(&self, name: &str) -> Option<u64> {
        let state = self.state();
        Some(state.inode(state.names.get(name)?).cached().size())
    }

    /// The bytes of a file that survive every crash, if its name does.
    pub fn durable_file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inode(state.names.get_durable(name)?).durable().to_vec())
    }

    /// The names of the files in quarantine, in order.
    pub fn quarantined(&self) -> Vec<String> {
        self.state().quarantined.keys().map(|name| (**name).to_owned()).collect()
    }

    /// The bytes of a file in quarantine.
    pub fn quarantined_file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inode(*state.quarantined.get(name)?).cached().to_vec())
    }

    /// Puts a durable file there, replacing any other of that name. All names become durable.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.add_inode(Inode::durable_from(bytes));
        state.names.remove(name);
        state.names.create(name, inode);
        state.settle_names();
    }

    /// Flips bit `bit` (0 to 7) of a byte, on the disk and in the cache.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file, byte or bit.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) {
        assert!(bit < 8, "a byte has 8 bits");
        let mut state = self.state();
        let mut found = [0];
        let file = state.named(name);
        assert_eq!(file.cached().read(&mut found, byte), 1, "{name} has no byte {byte}");
        file.damage(&[found[0] ^ (1 << bit)], byte);
        state.counts.bit_rot += 1;
    }

    /// Overwrites bytes on the disk and in the cache, as far as the file goes.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file.
    pub fn overwrite(&self, name: &str, at: u64, bytes: &[u8]) {
        self.state().named(name).damage(bytes, at);
    }

    /// Cuts or extends a file durably. All of its content becomes durable.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file.
    pub fn truncate(&self, name: &str, size: u64) {
        let mut state = self.state();
        let file = state.named(name);
        file.set_size(size);
        file.sync();
    }

    /// Removes a name durably. All names become durable.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        assert!(state.names.remove(name).is_some(), "there is no file {name}");
        state.settle_names();
    }

    /// Renames a file durably, replacing what had the new name. All names become durable.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file.
    pub fn rename_durable(&self, from: &str, to: &str) {
        let mut state = self.state();
        assert!(state.names.rename(from, to), "there is no file {from}");
        state.settle_names();
    }
}

impl State {
    fn named(&mut self, name: &str) -> &mut Inode {
        match self.names.get(name) {
            Some(inode) => self.inode_mut(inode),
            None => panic!("there is no file {name}"),
        }
    }

    fn settle_names(&mut self) {
        self.names.sync();
        self.collect();
    }
}
