//! The input files: which they are, what is in them, and how they are cut for the producers.
//!
//! Everything is counted here straight from the files, without the queue: the run is checked
//! against these numbers at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::tally::Tally;

/// The largest line that is accepted; the log is opened with the same limit.
pub(crate) const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Producers take a file in parts of about this size.
const PART_BYTES: u64 = 1024 * 1024;

/// A file and what its lines add up to.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) topic: String,
    pub(crate) expected: Tally,
}

/// Whole lines of one file, for one producer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Which of the inputs.
    pub(crate) input: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The number of the first line, from 1.
    pub(crate) first_line: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) files: Vec<Input>,
    pub(crate) parts: Vec<Part>,
    /// What the archive of each topic must hold; lines are taken without their numbers.
    pub(crate) topics: BTreeMap<String, Tally>,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

impl Inputs {
    /// Reads all files once.
    pub(crate) fn read(paths: Vec<PathBuf>) -> Result<Self, Failure> {
        let mut inputs = Self::default();
        for path in paths {
            inputs
                .read_file(&path)
                .map_err(|error| format!("cannot use {}: {error}", path.display()))?;
        }
        Ok(inputs)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Failure> {
        let topic = topic_of(path);
        let archived = self.topics.entry(topic.clone()).or_default();
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
        let (mut expected, mut line) = (Tally::default(), Vec::new());
        let mut part = Part { input: self.files.len(), start: 0, end: 0, first_line: 1 };
        while read_line(&mut reader, &mut line)? {
            part.end += line.len() as u64;
            let content = line.strip_suffix(b"\n").unwrap_or(&line);
            if content.len() > LINE_BYTES_MAX {
                let number = expected.lines + 1;
                let more = format!("line {number} is longer than the limit of {LINE_BYTES_MAX} B");
                return Err(more.into());
            }
            let words = count_word_starts(content);
            expected.add_line(expected.lines + 1, content, words);
            archived.add_line(0, content, words);
            if part.end - part.start >= PART_BYTES {
                self.parts.push(part);
                part = Part { start: part.end, first_line: expected.lines + 1, ..part };
            }
        }
        if part.end > part.start {
            self.parts.push(part);
        }
        self.lines += expected.lines;
        self.bytes += part.end;
        self.files.push(Input { path: path.to_owned(), topic, expected });
        Ok(())
    }
}

/// Reads the next line with its end, or a little more than the limit of a longer one. `false`
/// at the end of the file.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Failure> {
    line.clear();
    let mut limited = reader.take(LINE_BYTES_MAX as u64 + 2);
    Ok(limited.read_until(b'\n', line)? > 0)
}

/// Counts the places where a word begins. The workers split at white space instead: two ways
/// that must agree.
fn count_word_starts(line: &[u8]) -> u64 {
    let (mut words, mut in_word) = (0, false);
    for byte in line {
        let belongs = !byte.is_ascii_whitespace();
        words += u64::from(belongs && !in_word);
        in_word = belongs;
    }
    words
}

/// The file's type: its extension, or `none` where there is none that can name a topic.
fn topic_of(path: &Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let fits = |extension: &&str| {
        extension.len() <= 100 && extension.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    extension.filter(fits).filter(|extension| !extension.is_empty()).unwrap_or("none").to_owned()
}

/// The sources of the repository that this example was built in.
pub(crate) fn own_sources() -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if kind?.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs" || e == "md" || e == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
