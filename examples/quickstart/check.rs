//! The check at the end: what came out of the queue against what is in the files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ackline::{Log, Offset};

use crate::Failure;
use crate::archive;
use crate::input::{Inputs, read_line};
use crate::tally::Tally;
use crate::work::COUNTS;

/// What was found of one group's work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Lines that took effect.
    pub(crate) lines: u64,
    /// Lines that should have and did not.
    pub(crate) lost: u64,
    /// Lines that took effect more than once.
    pub(crate) doubled: u64,
    /// Words in those lines; only the word counters know.
    pub(crate) words: u64,
}

/// Both groups, and everything that is not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) words: Outcome,
    pub(crate) archive: Outcome,
    pub(crate) differences: Vec<String>,
}

impl Findings {
    pub(crate) fn gather(log: &Log, inputs: &Inputs, directory: &Path) -> Result<Self, Failure> {
        let mut findings = Self::default();
        findings.check_counts(log, inputs)?;
        for (topic, expected) in &inputs.topics {
            let archived = tally_of_archive(&archive::path(directory, topic))?;
            // The archiver does not count words, the lines say it all.
            let expected = Tally { words: 0, ..*expected };
            let differs = compare(&mut findings.archive, &expected, &archived);
            if differs {
                findings.differences.push(format!("archive of {topic}: {expected}, {archived}"));
            }
        }
        Ok(findings)
    }

    /// Sums up the counts of each file.
    fn check_counts(&mut self, log: &Log, inputs: &Inputs) -> Result<(), Failure> {
        let mut counted: BTreeMap<Vec<u8>, Tally> = BTreeMap::new();
        for count in log.topic(COUNTS)?.read_from(Offset(0))? {
            let count = count?;
            let file = count.key().ok_or("a count without its file")?.to_vec();
            *counted.entry(file).or_default() += str::from_utf8(count.payload())?.parse()?;
        }
        for input in &inputs.files {
            let file = input.path.as_os_str().as_bytes();
            let counted = counted.remove(file).unwrap_or_default();
            if compare(&mut self.words, &input.expected, &counted) {
                let (path, expected) = (input.path.display(), input.expected);
                self.differences.push(format!("counts of {path}: {expected}, {counted}"));
            }
        }
        for (file, tally) in counted {
            self.differences.push(format!("counts of {}: none, {tally}", file.escape_ascii()));
        }
        Ok(())
    }
}

/// Adds what was found to the outcome; says whether it is not what was expected.
fn compare(outcome: &mut Outcome, expected: &Tally, found: &Tally) -> bool {
    outcome.lines += found.lines;
    outcome.words += found.words;
    outcome.lost += expected.lines.saturating_sub(found.lines);
    outcome.doubled += found.lines.saturating_sub(expected.lines);
    expected != found
}

fn tally_of_archive(path: &Path) -> Result<Tally, Failure> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
    let (mut tally, mut line) = (Tally::default(), Vec::new());
    while read_line(&mut reader, &mut line)? {
        let content = line.strip_suffix(b"\n").ok_or("the archive ends within a line")?;
        tally.add_line(0, content, 0);
    }
    Ok(tally)
}
