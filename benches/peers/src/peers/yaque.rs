//! yaque: a queue with one sender and one receiver.

use std::path::PathBuf;
use std::sync::Mutex;

use yaque::{QueueIter, Sender};

use crate::peer::{Failure, Kind, NO_PANIC, Peer, Setup, Visit};

/// It has one way of writing.
const WRITES: &str = "`Sender::try_send`, `try_send_batch`: there is no other";

pub(crate) const KIND: Kind = Kind {
    name: "yaque",
    open,
    durable: WRITES,
    unsynced: Some(WRITES),
    topics: None,
    in_flight: "`try_send_batch` of 128",
    documentation: "https://docs.rs/yaque/{}/yaque/queue/struct.Sender.html#method.try_send",
    remark: "All threads share one sender behind a lock. It has no checksums of records.",
};

struct Yaque {
    sender: Mutex<Sender>,
    directory: PathBuf,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let sender = Mutex::new(Sender::open(setup.directory)?);
    Ok(Box::new(Yaque { sender, directory: setup.directory.to_owned() }))
}

impl Peer for Yaque {
    fn append(&self, _: usize, _: usize, record: &[u8]) -> Result<(), Failure> {
        let sent = self.sender.lock().expect(NO_PANIC).try_send(record);
        sent.map_err(|error| error.to_string().into())
    }

    fn append_batch(&self, _: usize, _: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let sent = self.sender.lock().expect(NO_PANIC).try_send_batch(records);
        sent.map_err(|error| error.to_string().into())
    }

    /// From where the receiver was saved, which is the beginning: nothing is received.
    fn read(&self, _: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        for record in QueueIter::open(&self.directory)? {
            if visit(&record?).is_break() {
                break;
            }
        }
        Ok(())
    }
}
