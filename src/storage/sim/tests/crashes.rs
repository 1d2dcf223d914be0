//! What power cuts and kills leave behind.

use super::*;

fn contents(disk: &SimDisk) -> Option<Vec<u8>> {
    disk.file("a")
}

#[test]
fn synced_bytes_and_size_survive_every_power_cut() {
    let disk = disk_with(b"");
    let file = open(&disk);
    file.write_at(&[1; 3000], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([Some(vec![1; 3000])]));
}

#[test]
fn a_kill_keeps_the_cache_and_leaves_it_unsynced() {
    let disk = disk_with(&[1; 8]);
    open(&disk).write_at(&[2; 8], 0).unwrap();
    disk.kill();
    assert_eq!(disk.file("a").unwrap(), [2; 8]);
    assert_eq!(disk.durable_file("a").unwrap(), [1; 8]);
    assert!(outcomes(&disk, contents).contains(&Some(vec![1; 8])));
    open(&disk).sync().unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([Some(vec![2; 8])]));
}

#[test]
fn an_unsynced_sector_ends_up_old_new_half_zero_or_garbage() {
    let disk = disk_with(&[1; 512]);
    open(&disk).write_at(&[2; 512], 0).unwrap();
    let found = outcomes(&disk, |disk| disk.file("a").unwrap());
    let half = [[2; 256], [1; 256]].concat();
    for expected in [vec![1; 512], vec![2; 512], half, vec![0; 512]] {
        assert!(found.contains(&expected));
    }
    assert!(found.len() > 4, "no crash left garbage");
}

#[test]
fn sectors_of_one_write_have_fates_of_their_own() {
    let disk = disk_with(&[1; 1024]);
    open(&disk).write_at(&[2; 1024], 0).unwrap();
    let found = outcomes(&disk, |disk| disk.file("a").unwrap());
    for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 0), (0, 2)] {
        assert!(found.contains(&[[first; 512], [second; 512]].concat()), "{first} {second}");
    }
}

#[test]
fn a_later_write_may_survive_without_an_earlier_one() {
    let disk = disk_with(&[1; 1024]);
    let file = open(&disk);
    file.write_at(&[2; 512], 0).unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    let found = outcomes(&disk, |disk| disk.file("a").unwrap());
    assert!(found.contains(&[[1; 512], [3; 512]].concat()));
}

#[test]
fn the_last_surviving_write_of_a_sector_wins() {
    let disk = disk_with(&[1; 8]);
    let file = open(&disk);
    file.write_at(&[2; 8], 0).unwrap();
    file.write_at(&[3; 8], 0).unwrap();
    let mut found = HashSet::new();
    for seed in 0..500 {
        let fork = disk.fork();
        fork.reseed(seed);
        fork.crash(Crash::Power);
        // With both writes alive, only the later one may show.
        if fork.counts().sector_new == 2 {
            found.insert(fork.file("a").unwrap());
        }
    }
    assert_eq!(found, HashSet::from([vec![3; 8]]));
    assert!(outcomes(&disk, |disk| disk.file("a").unwrap()).contains(&vec![2; 8]));
}

#[test]
fn powersafe_sectors_never_harm_bytes_that_no_write_covers() {
    let disk = disk_with(&[1; 1024]);
    open(&disk).write_at(&[2; 500], 100).unwrap();
    let around = outcomes(&disk, |disk| {
        let mut bytes = disk.file("a").unwrap();
        bytes.drain(100..600);
        bytes
    });
    assert_eq!(around, HashSet::from([vec![1; 524]]));
}

#[test]
fn whole_sectors_harm_the_neighbours_but_no_other_sector() {
    let disk = disk_with(&[1; 1536]);
    disk.set_sector_mode(Sectors::Whole);
    open(&disk).write_at(&[2; 100], 600).unwrap();
    let within = outcomes(&disk, |disk| disk.file("a").unwrap()[512..600].to_vec());
    assert!(within.contains(&vec![0; 88]) && within.len() > 2);
    let others = outcomes(&disk, |disk| {
        let bytes = disk.file("a").unwrap();
        [&bytes[..512], &bytes[1024..]].concat()
    });
    assert_eq!(others, HashSet::from([vec![1; 1024]]));
}

#[test]
fn a_size_may_survive_without_its_data_and_reads_zeros_or_garbage() {
    let disk = disk_with(b"");
    open(&disk).write_at(&[2; 512], 0).unwrap();
    let found = outcomes(&disk, |disk| disk.file("a").unwrap());
    assert!(found.contains(&vec![0; 512]));
    assert!(found.contains(&vec![2; 512]));
    assert!(found.iter().any(|bytes| bytes.len() == 512 && bytes[0] != 2 && bytes[0] != 0));
}

#[test]
fn data_without_its_size_is_lost() {
    let disk = disk_with(b"");
    open(&disk).write_at(&[2; 512], 0).unwrap();
    let lost = (0..2000).find(|seed| {
        let fork = disk.fork();
        fork.reseed(*seed);
        fork.crash(Crash::Power);
        fork.counts().size_lost == 1
            && fork.counts().sector_new == 1
            && fork.file("a").unwrap().is_empty()
    });
    assert!(lost.is_some());
}

#[test]
fn data_below_a_later_surviving_size_may_survive_the_loss_of_its_own() {
    let disk = disk_with(b"");
    let file = open(&disk);
    file.write_at(&[2; 512], 0).unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    let found = (0..2000).find(|seed| {
        let fork = disk.fork();
        fork.reseed(*seed);
        fork.crash(Crash::Power);
        fork.counts().size_lost == 1 && fork.file("a").unwrap() == [[2; 512], [3; 512]].concat()
    });
    assert!(found.is_some());
}

#[test]
fn an_unsynced_cut_may_be_kept_or_undone() {
    let disk = disk_with(&[1; 1000]);
    let file = open(&disk);
    file.set_size(10).unwrap();
    file.set_size(600).unwrap();
    let sizes = outcomes(&disk, |disk| disk.file("a").unwrap().len());
    assert_eq!(sizes, HashSet::from([10, 600, 1000]));
    let kept = outcomes(&disk, |disk| disk.file("a").unwrap()[..10].to_vec());
    assert_eq!(kept, HashSet::from([vec![1; 10]]));
}

#[test]
fn a_synced_file_without_a_synced_name_may_be_gone() {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    let file = storage.create("a").unwrap();
    file.write_at(b"bytes", 0).unwrap();
    file.sync().unwrap();
    let found = outcomes(&disk, contents);
    assert_eq!(found, HashSet::from([None, Some(b"bytes".to_vec())]));
    storage.sync_directory().unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([Some(b"bytes".to_vec())]));
}

#[test]
fn an_unsynced_removal_may_bring_the_whole_file_back() {
    let disk = disk_with(b"bytes");
    let storage = disk.storage();
    storage.remove("a").unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([None, Some(b"bytes".to_vec())]));
    storage.sync_directory().unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([None]));
}

#[test]
fn a_replacing_rename_leaves_the_old_or_the_new_file_never_neither() {
    let disk = disk_with(b"old");
    disk.put("b", b"new");
    disk.storage().rename("b", "a").unwrap();
    let found = outcomes(&disk, |disk| (disk.file("a"), disk.file("b")));
    let kept = (Some(b"new".to_vec()), None);
    let lost = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(found, HashSet::from([kept, lost]));
}

#[test]
fn a_rename_is_lost_with_the_creation_of_its_source() {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    storage.create("b").unwrap();
    storage.rename("b", "a").unwrap();
    let found = outcomes(&disk, |disk| (disk.counts().create_kept, disk.names()));
    let expected = [(0, vec![]), (1, vec!["a".to_owned()]), (1, vec!["b".to_owned()])];
    assert_eq!(found, HashSet::from(expected));
}

#[test]
fn a_new_file_never_replaces_one_whose_removal_was_lost() {
    let disk = disk_with(b"old");
    let storage = disk.storage();
    storage.remove("a").unwrap();
    storage.create("a").unwrap();
    let found = outcomes(&disk, |disk| (disk.counts().unlink_kept, disk.file("a")));
    let expected = [(0, Some(b"old".to_vec())), (1, None), (1, Some(vec![]))];
    assert_eq!(found, HashSet::from(expected));
}

#[test]
fn a_removal_never_takes_the_file_that_a_lost_rename_would_have_replaced() {
    let disk = disk_with(b"old");
    disk.put("b", b"new");
    let storage = disk.storage();
    storage.rename("b", "a").unwrap();
    storage.remove("a").unwrap();
    let found = outcomes(&disk, |disk| disk.names().concat());
    assert_eq!(found, HashSet::from(["ab".to_owned(), "a".to_owned(), String::new()]));
}

#[test]
fn names_survive_in_any_subset_but_half_the_crashes_keep_a_prefix() {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    for name in ["a", "b", "c"] {
        storage.create(name).unwrap();
    }
    assert_eq!(outcomes(&disk, SimDisk::names).len(), 8);
    let is_prefix = |names: &[String]| names.iter().zip(["a", "b", "c"]).all(|(l, r)| l == r);
    let prefixes = (0..1000).filter(|seed| {
        let fork = disk.fork();
        fork.reseed(*seed);
        fork.crash(Crash::Power);
        is_prefix(&fork.names())
    });
    let prefixes = prefixes.count();
    assert!((600..950).contains(&prefixes), "{prefixes} of 1000 crashes kept a prefix");
}

#[test]
fn no_crash_touches_durable_names_that_no_call_named() {
    let disk = disk_with(b"kept");
    let storage = disk.storage();
    storage.create("b").unwrap();
    storage.rename("b", "c").unwrap();
    storage.remove("c").unwrap();
    assert_eq!(outcomes(&disk, contents), HashSet::from([Some(b"kept".to_vec())]));
}

#[test]
fn a_second_crash_changes_nothing_more() {
    let disk = disk_with(&[1; 2000]);
    open(&disk).write_at(&[2; 3000], 0).unwrap();
    disk.storage().create("b").unwrap();
    disk.crash(Crash::Power);
    let after = (disk.file("a"), disk.names());
    disk.crash(Crash::Power);
    assert_eq!((disk.file("a"), disk.names()), after);
}

#[test]
fn every_crash_outcome_is_counted() {
    let disk = disk_with(&[1; 600]);
    disk.put("gone", b"");
    let storage = disk.storage();
    open(&disk).write_at(&[2; 1500], 0).unwrap();
    open(&disk).write_at(&[2; 500], 1536).unwrap();
    storage.create("b").unwrap();
    storage.rename("b", "c").unwrap();
    storage.remove("gone").unwrap();
    let mut sum = Counts::default();
    for seed in 0..500 {
        let fork = disk.fork();
        fork.reseed(seed);
        fork.crash(Crash::Power);
        let counts = fork.counts();
        let sectors = counts.iter().filter(|(name, _)| name.starts_with("sector_"));
        assert_eq!(sectors.map(|(_, count)| count).sum::<u64>(), 4);
        sum.add(&counts);
    }
    assert_eq!(sum.power, 500);
    let never: Vec<_> = sum
        .iter()
        .filter(|(name, count)| *count == 0 && !name.starts_with("fault_"))
        .map(|(name, _)| name)
        .collect();
    let elsewhere = ["kill", "leftover", "killed_in_write", "unmasked"];
    assert_eq!(never, [&elsewhere[..], &["bit_rot", "misdirected", "stale"]].concat());
}

/// The counts of a power cut after which `look` holds; there is one.
fn counts_where(disk: &SimDisk, look: impl Fn(&SimDisk) -> bool) -> Counts {
    let crashed = (0..2000).map(|seed| {
        let fork = disk.fork();
        fork.reseed(seed);
        fork.crash(Crash::Power);
        fork
    });
    crashed.into_iter().find(look).expect("some power cut does that").counts()
}

#[test]
fn a_later_write_that_survived_an_earlier_one_is_counted() {
    let disk = disk_with(&[1; 1024]);
    let file = open(&disk);
    file.write_at(&[2; 512], 0).unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    let kept = |first: u8, second: u8| {
        let expected = [[first; 512], [second; 512]].concat();
        counts_where(&disk, |disk| disk.file("a").unwrap() == expected).reordered
    };
    assert_eq!([kept(1, 1), kept(2, 1), kept(2, 3), kept(1, 3)], [0, 0, 0, 1]);
}

#[test]
fn a_write_of_which_a_part_survived_is_counted() {
    let disk = disk_with(&[1; 1024]);
    open(&disk).write_at(&[2; 1024], 0).unwrap();
    let torn = |first: u8, second: u8| {
        let expected = [[first; 512], [second; 512]].concat();
        counts_where(&disk, |disk| disk.file("a").unwrap() == expected).torn
    };
    assert_eq!([torn(1, 1), torn(2, 2), torn(1, 2), torn(2, 1)], [0, 0, 1, 1]);
}

#[test]
fn data_that_survived_without_its_size_is_counted() {
    let disk = disk_with(b"");
    open(&disk).write_at(&[2; 512], 0).unwrap();
    let counts = counts_where(&disk, |disk| {
        disk.file("a").unwrap().is_empty() && disk.counts().sector_new == 1
    });
    assert_eq!(counts.data_without_size, 1);
    let counts = counts_where(&disk, |disk| disk.file("a").unwrap() == [2; 512]);
    assert_eq!(counts.data_without_size, 0);
}

#[test]
fn a_later_name_that_survived_an_earlier_one_is_counted() {
    let disk = SimDisk::new(1);
    disk.storage().create("a").unwrap();
    disk.storage().create("b").unwrap();
    let counted = |kept: &[&str]| {
        let counts = counts_where(&disk, |disk| disk.names() == kept);
        counts.names_reordered
    };
    assert_eq!(
        [counted(&[]), counted(&["a"]), counted(&["a", "b"]), counted(&["b"])],
        [0, 0, 0, 1]
    );
}

#[test]
fn noise_may_be_what_a_removed_file_left_there() {
    let disk = disk_with(&[7; 2000]);
    let storage = disk.storage();
    storage.remove("a").unwrap();
    storage.sync_directory().unwrap();
    storage.create("a").unwrap().write_at(&[2; 1024], 0).unwrap();
    storage.sync_directory().unwrap();
    let found = outcomes(&disk, |disk| disk.file("a").unwrap());
    assert!(found.iter().any(|bytes| bytes.starts_with(&[7; 512])));
    let counts = counts_where(&disk, |disk| disk.file("a").unwrap().starts_with(&[7; 512]));
    assert!(counts.leftover > 0);
}

/// What a byte of `a` may be after a power cut: what was durable, or anything once written over.
struct Model {
    cached: Vec<u8>,
    durable: Vec<u8>,
    written: Vec<bool>,
    sizes: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let (cached, durable, sizes) = (Vec::new(), Vec::new(), Vec::new());
        Self { cached, durable, written: vec![false; 16_384], sizes }
    }

    fn resize(&mut self, size: usize) {
        // Cutting and growing expose zeros or noise above the cut.
        if size < self.cached.len() {
            self.written[size..self.cached.len()].fill(true);
        }
        self.cached.resize(size, 0);
        self.sizes.push(size);
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        if at + bytes.len() > self.cached.len() {
            self.resize(at + bytes.len());
        }
        self.cached[at..at + bytes.len()].copy_from_slice(bytes);
        self.written[at..at + bytes.len()].fill(true);
    }

    fn sync(&mut self) {
        self.durable = self.cached.clone();
        self.written.fill(false);
        self.sizes.clear();
    }

    fn allows(&self, found: &[u8]) -> bool {
        let size = found.len();
        let bytes = found.iter().zip(&self.durable).enumerate();
        (size == self.durable.len() || self.sizes.contains(&size))
            && bytes.into_iter().all(|(at, (l, r))| l == r || self.written[at])
    }
}

#[test]
fn random_processes_read_what_they_wrote_and_keep_what_they_synced() {
    for seed in 0..300 {
        let disk = disk_with(b"");
        let mut rng = Rng::new(seed);
        let mut model = Model::new();
        for step in 0..40 {
            let file = open(&disk);
            match rng.below(8) {
                0..4 => {
                    let mut bytes = vec![0; rng.index(1500)];
                    rng.fill(&mut bytes);
                    let at = rng.index(9000);
                    if !bytes.is_empty() {
                        file.write_at(&bytes, at as u64).unwrap();
                        model.write(&bytes, at);
                    }
                }
                4 => {
                    let size = rng.index(9000);
                    file.set_size(size as u64).unwrap();
                    model.resize(size);
                }
                5 => {
                    disk.evict();
                    disk.kill();
                }
                6 => {
                    file.sync().unwrap();
                    model.sync();
                    assert_eq!(disk.durable_file("a").unwrap(), model.durable);
                }
                _ => {
                    let fork = disk.fork();
                    fork.reseed(seed ^ step);
                    fork.crash(Crash::Power);
                    assert!(model.allows(&fork.file("a").unwrap()), "seed {seed}, step {step}");
                }
            }
            assert_eq!(disk.file("a").unwrap(), model.cached, "seed {seed}, step {step}");
        }
    }
}
