//! A file with the lines of one topic, in order, each of them once.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ackline::Delivery;

use crate::Failure;

/// How far an archive is lies in a file beside it: the next offset, and the bytes of the archive
/// up to there. What lies behind those bytes after a crash is cut off, and what is delivered
/// again from before that offset is skipped. So the archive needs no help from the queue to hold
/// each line once.
pub(crate) struct Archive {
    file: BufWriter<File>,
    directory: PathBuf,
    topic: String,
    next: u64,
    bytes: u64,
}

/// The archive of a topic.
pub(crate) fn path(directory: &Path, topic: &str) -> PathBuf {
    directory.join(format!("{topic}.lines"))
}

impl Archive {
    pub(crate) fn open(directory: &Path, topic: &str) -> Result<Self, Failure> {
        fs::create_dir_all(directory)?;
        let (mut next, mut bytes) = (0, 0);
        let mark = directory.join(format!("{topic}.next"));
        if mark.exists() {
            let text = fs::read_to_string(mark)?;
            let (offset, length) = text.split_once(' ').ok_or("a mark has two numbers")?;
            (next, bytes) = (offset.parse()?, length.parse()?);
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path(directory, topic))?;
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        let (file, topic) = (BufWriter::new(file), topic.to_owned());
        Ok(Self { file, directory: directory.to_owned(), topic, next, bytes })
    }

    /// Writes messages, and makes them durable together with the mark behind them. Returns how
    /// many were written and how many were there already.
    pub(crate) fn write(&mut self, messages: &[Delivery]) -> Result<(u64, u64), Failure> {
        let (mut written, mut skipped) = (0, 0);
        for message in messages {
            let offset = message.offset().0;
            if offset < self.next {
                skipped += 1;
                continue;
            }
            if offset > self.next {
                return Err(format!("{}: no {}, but {offset}", self.topic, self.next).into());
            }
            self.file.write_all(message.payload())?;
            self.file.write_all(b"\n")?;
            self.next += 1;
            self.bytes += message.payload().len() as u64 + 1;
            written += 1;
        }
        if written > 0 {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.save_mark()?;
        }
        Ok((written, skipped))
    }

    /// Replaces the mark by a rename, so that it is always whole.
    fn save_mark(&self) -> Result<(), Failure> {
        let temporary = self.directory.join(format!("{}.next.new", self.topic));
        let mut file = File::create(&temporary)?;
        write!(file, "{} {}", self.next, self.bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, self.directory.join(format!("{}.next", self.topic)))?;
        // The messages are acknowledged next: the new name must be on the disk before that.
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}
