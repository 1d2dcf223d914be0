//! Power cuts whose outcome is chosen: what can be chosen is what can be drawn.

use super::*;

/// All lists of so many out of `choices`.
fn all<T: Copy>(choices: &[T], length: usize) -> Vec<Vec<T>> {
    let mut lists = vec![Vec::new()];
    for _ in 0..length {
        let longer = lists.iter().flat_map(|list: &Vec<T>| {
            choices.iter().map(|choice| list.iter().copied().chain([*choice]).collect())
        });
        lists = longer.collect();
    }
    lists
}

/// The names and bytes that every outcome without noise leaves behind.
fn chosen(disk: &SimDisk) -> HashSet<Vec<(String, Vec<u8>)>> {
    const FATES: [SectorFate; 4] =
        [SectorFate::Old, SectorFate::New, SectorFate::Half, SectorFate::Zero];
    let unsynced = disk.unsynced();
    let mut found = HashSet::new();
    for names in all(&[false, true], unsynced.names) {
        for sizes in all(&[false, true], unsynced.sizes) {
            for sectors in all(&FATES, unsynced.sectors) {
                let fork = disk.fork();
                let (names, sizes) = (names.clone(), sizes.clone());
                fork.crash_as(&Outcome { names, sizes, sectors, noise: false });
                found.insert(contents(&fork));
            }
        }
    }
    found
}

fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.names().into_iter().map(|name| (name.clone(), disk.file(&name).unwrap())).collect()
}

/// The same of many random power cuts, but for those that left noise.
fn drawn(disk: &SimDisk) -> HashSet<Vec<(String, Vec<u8>)>> {
    let mut found = HashSet::new();
    for seed in 0..20_000 {
        let fork = disk.fork();
        fork.reseed(seed);
        fork.crash(Crash::Power);
        let counts = fork.counts();
        if counts.sector_garbage + counts.exposed_garbage == 0 {
            found.insert(contents(&fork));
        }
    }
    found
}

#[test]
fn what_can_be_drawn_can_be_chosen_and_the_other_way_round() {
    for mode in [Sectors::Powersafe, Sectors::Whole] {
        let disk = disk_with(&[1; 1024]);
        disk.set_sector_mode(mode);
        let storage = disk.storage();
        open(&disk).write_at(&[2; 700], 200).unwrap();
        let file = storage.create("b").unwrap();
        file.allocate(600).unwrap();
        file.write_at(&[0; 600], 0).unwrap();
        storage.rename("b", "c").unwrap();
        let (chosen, drawn) = (chosen(&disk), drawn(&disk));
        assert_eq!(chosen.len(), drawn.len(), "{mode:?}");
        assert!(chosen == drawn, "{mode:?}");
    }
}

#[test]
fn a_sector_that_is_written_as_it_was_does_not_count() {
    let disk = disk_with(&[1; 1024]);
    open(&disk).write_at(&[1; 512], 0).unwrap();
    assert_eq!(disk.unsynced().sectors, 0);
    open(&disk).write_at(&[2; 8], 600).unwrap();
    assert_eq!(disk.unsynced().sectors, 1);
    // What was written over it may be lost, and then it matters.
    open(&disk).write_at(&[1; 8], 600).unwrap();
    assert_eq!(disk.unsynced().sectors, 2);
}

#[test]
fn equal_contents_have_equal_hashes_whatever_led_to_them() {
    let (one, other) = (disk_with(&[1; 8]), disk_with(&[2; 8]));
    assert_ne!(one.content_hash(), other.content_hash());
    open(&other).write_at(&[1; 8], 0).unwrap();
    assert_ne!(one.content_hash(), other.content_hash(), "a crash can tell them apart");
    open(&other).sync().unwrap();
    assert_eq!(one.content_hash(), other.content_hash());
}
