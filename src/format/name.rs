//! The one place where file names are made and parsed, and where the names of topics and groups
//! are checked.

use crate::error::{Error, Result};
use crate::offset::Position;

/// The longest name of a topic or group, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 249;

const SEGMENT_SUFFIX: &str = ".seg";
const INDEX_SUFFIX: &str = ".idx";
const TEMPORARY_SUFFIX: &str = ".tmp";
const REPLICA: &str = "REPLICA";
const REPLICA_STEM: &str = "replica";
const DIGITS: usize = 20;

/// What a file in a log's directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment(Position),
    Index(Position),
    /// What this replica has promised.
    Replica,
    /// Left over from an unfinished step; never read, removed at open.
    Temporary,
    /// Looks like ours, but its name does not parse.
    Misnamed,
    /// Not ours; never touched.
    Foreign,
}

pub(crate) fn segment(base: Position) -> String {
    format!("{:0DIGITS$}{SEGMENT_SUFFIX}", base.0)
}

pub(crate) fn index(base: Position) -> String {
    format!("{:0DIGITS$}{INDEX_SUFFIX}", base.0)
}

/// The segment that is being prepared for the next roll.
pub(crate) fn spare() -> String {
    format!("spare{TEMPORARY_SUFFIX}")
}

/// A segment or index that is being written and not in use yet.
pub(crate) fn unfinished(base: Position) -> String {
    format!("{:0DIGITS$}{TEMPORARY_SUFFIX}", base.0)
}

/// What a replica has promised.
pub(crate) fn replica() -> String {
    REPLICA.to_owned()
}

/// The same, while it is made.
pub(crate) fn replica_unfinished() -> String {
    format!("{REPLICA_STEM}{TEMPORARY_SUFFIX}")
}

pub(crate) fn parse(name: &str) -> FileKind {
    if name == REPLICA {
        return FileKind::Replica;
    }
    let number = |stem: &str| {
        let all_digits = stem.len() == DIGITS && stem.bytes().all(|b| b.is_ascii_digit());
        if all_digits { stem.parse().ok().map(Position) } else { None }
    };
    if let Some(stem) = name.strip_suffix(SEGMENT_SUFFIX) {
        return number(stem).map_or(FileKind::Misnamed, FileKind::Segment);
    }
    if let Some(stem) = name.strip_suffix(INDEX_SUFFIX) {
        return number(stem).map_or(FileKind::Foreign, FileKind::Index);
    }
    if let Some(stem) = name.strip_suffix(TEMPORARY_SUFFIX)
        && (stem == "spare" || stem == REPLICA_STEM || number(stem).is_some())
    {
        return FileKind::Temporary;
    }
    FileKind::Foreign
}

/// Whether a file that is not ours may lie in a directory in which a new log is made.
pub(crate) fn is_harmless(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found" || name == "quarantine"
}

/// Checks the name of a topic or group.
pub(crate) fn check(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "it is longer than 249 bytes"
    } else if name.contains(['/', '\\']) {
        "it contains a path separator"
    } else if name.chars().any(char::is_control) {
        "it contains a control character"
    } else if name == "." || name == ".." {
        "it is a path"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { name: name.chars().take(300).collect(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_parse_to_what_they_were_made_from() {
        for base in [0, 1, 4096, u64::MAX] {
            let base = Position(base);
            assert_eq!(parse(&segment(base)), FileKind::Segment(base));
            assert_eq!(parse(&index(base)), FileKind::Index(base));
            assert_eq!(parse(&unfinished(base)), FileKind::Temporary);
        }
        assert_eq!(parse(&spare()), FileKind::Temporary);
        assert_eq!(parse(&replica()), FileKind::Replica);
        assert_eq!(parse(&replica_unfinished()), FileKind::Temporary);
    }

    #[test]
    fn names_that_are_not_ours_are_told_apart() {
        assert_eq!(parse("17.seg"), FileKind::Misnamed);
        assert_eq!(parse("99999999999999999999.seg"), FileKind::Misnamed);
        assert_eq!(parse("notes.tmp"), FileKind::Foreign);
        assert_eq!(parse("README"), FileKind::Foreign);
    }

    #[test]
    fn topic_and_group_names_are_checked() {
        for good in ["orders", "a.b-c_d", "größe", "with space", &"x".repeat(249)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a\\b", "a\0b", "a\nb", ".", "..", &"x".repeat(300)] {
            assert!(matches!(check(bad), Err(Error::InvalidName { .. })), "{bad}");
        }
    }
}
