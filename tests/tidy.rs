//! The house rules that no lint checks: sizes, layers, where `unsafe` may be, and what may not
//! be left in.
#![allow(clippy::disallowed_methods, reason = "the rules are about the files of the crate")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;

/// The layers from the lowest: a module imports only from the layers below it, from its own
/// folder, and in the layers marked so, from its neighbours.
const LAYERS: &[(&[&str], bool)] = &[
    (&["error", "offset", "mutant"], true),
    (&["clock", "sync", "storage", "format", "draws"], true),
    (&["state"], false),
    (&["segment"], false),
    (&["watermark", "pending", "promise"], true),
    (&["commit"], false),
    (&["shared", "record", "group", "topic", "batch", "retention", "stats"], true),
    (&["options", "log", "replicate", "lib"], true),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder of the crate, by their path in it.
fn files(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // What a crate of its own was built into holds the files of others.
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a readable file");
                let path = path.strip_prefix(root()).expect("it is below the crate").to_owned();
                found.insert(path, text);
            }
        }
    }
    found
}

fn sources() -> BTreeMap<PathBuf, String> {
    let sources = files("src");
    assert!(sources.len() > 20, "the sources were found");
    sources
}

/// The top-level module that a file of `src` belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix("src").expect("a source");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().expect("a name").to_string_lossy();
    let in_tests = path.iter().any(|part| part == "tests");
    stem.ends_with("_tests") || stem == "tests" || in_tests
}

/// The code of a source file, without comments and without its unit tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().expect("there is a first part");
    code.lines()
        .map(|line| line.split("//").next().expect("there is a first part"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The top-level modules that code names by `crate::`, also in nested imports.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `#[cfg(doc)] use` is for links in the documentation alone.
        if code[..at].trim_end().ends_with("#[cfg(doc)]\nuse") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        assert!(
            !name.is_empty(),
            "write out the imports one by one: {}",
            &rest[..rest.len().min(40)]
        );
        found.push(name);
    }
    found
}

fn layer(module: &str) -> usize {
    let at = LAYERS.iter().position(|(modules, _)| modules.contains(&module));
    at.unwrap_or_else(|| panic!("{module} has no layer: add it to the table"))
}

#[test]
fn no_source_file_is_over_500_lines() {
    for folder in ["src", "tests", "examples", "benches"] {
        for (path, text) in files(folder) {
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_module_imports_only_from_layers_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if is_test(&path) || own == "lib" {
            continue;
        }
        let own_layer = layer(&own);
        let siblings = LAYERS[own_layer].1;
        for import in imports(&code(&text)) {
            // What `lib` exports is named in links alone.
            if import.starts_with(char::is_uppercase) || import == own {
                continue;
            }
            let its_layer = layer(&import);
            if its_layer > own_layer || (its_layer == own_layer && !siblings) {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_table_exists() {
    let modules: Vec<_> = sources().keys().map(|path| module(path)).collect();
    for (layer, _) in LAYERS {
        for name in *layer {
            assert!(modules.iter().any(|module| module == name), "there is no module {name}");
        }
    }
}

#[test]
fn unsafe_is_in_one_module_only() {
    for (path, text) in sources() {
        let uses = code(&text).lines().any(|line| {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|word| word == "unsafe")
        });
        assert!(!uses || path == Path::new("src/storage/map.rs"), "{}", path.display());
    }
}

/// A model checker takes the place of the primitives in `sync`, and sees no others. The disk and
/// the simulated one are calls of the system to it, and the mutants' switch is set before.
#[test]
fn only_sync_names_what_threads_coordinate_by() {
    for (path, text) in sources() {
        let exempt = ["sync", "storage", "mutant"].contains(&module(&path).as_str());
        if exempt || is_test(&path) {
            continue;
        }
        let code = code(text.split("#[cfg(all(test").next().expect("there is a first part"));
        let primitives = ["Mutex", "RwLock", "Condvar", "Once", "Barrier", "atomic", "mpsc"];
        let names = |line: &str| {
            let of_sync = line.contains("std::sync") && primitives.iter().any(|p| line.contains(p));
            of_sync || line.contains("std::thread")
        };
        if let Some(line) = code.lines().find(|line| names(line)) {
            panic!("{}: {line}", path.display());
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        let says = first.starts_with("//!") || first.starts_with("#![doc = include_str!");
        assert!(says, "{} begins with {first:?}", path.display());
    }
}

#[test]
fn nothing_unfinished_and_no_place_of_a_machine_is_left_in() {
    // Written in parts, so that this file does not contain them.
    let paths = ["/work", "/home", "/root", "/Users", "/tmp"].map(|path| format!("{path}/"));
    let unfinished = ["todo", "dbg", "unimplemented"].map(|name| format!("{name}!("));
    for folder in ["src", "tests", "examples", "benches"] {
        for (path, text) in files(folder) {
            for bad in paths.iter().chain(&unfinished) {
                assert!(!text.contains(bad.as_str()), "{} contains {bad}", path.display());
            }
        }
    }
}

#[test]
fn the_document_has_a_row_for_every_mutant_and_for_no_other() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a readable file");
    let list = read("src/mutant.rs");
    let (_, list) = list.split_once("\nmutants! {").expect("the list");
    let (list, _) = list.split_once("\n}").expect("its end");
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.trim().split_once(" \""))
        .map(|(name, _)| name)
        .collect();
    let document = read("docs/mutants.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let rows: Vec<&str> = cells.filter(|cell| *cell != "mutant").collect();
    assert!(names.len() > 30, "{} names", names.len());
    assert_eq!(rows, names);
}
