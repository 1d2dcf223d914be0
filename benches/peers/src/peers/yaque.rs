//! yaque: a queue with one sender and one receiver.

use std::path::PathBuf;
use std::sync::Mutex;

use yaque::queue::ReceiverBuilder;
use yaque::{QueueIter, Receiver, Sender, TryRecvError};

use crate::peer::{Failure, Kind, NO_PANIC, Peer, Setup, Take, Visit};

/// It has one way of writing.
const WRITES: &str = "`Sender::try_send`, `try_send_batch`: there is no other";

pub(crate) const KIND: Kind = Kind {
    name: "yaque",
    open,
    durable: WRITES,
    unsynced: Some(WRITES),
    topics: None,
    in_flight: "`try_send_batch` of 128",
    acked: Some("`RecvGuard::commit`, with `save_every_nth(Some(1))`"),
    documentation: "https://docs.rs/yaque/{}/yaque/queue/struct.Sender.html#method.try_send",
    remark: "All threads share one sender behind a lock. It has no checksums of records.",
};

struct Yaque {
    sender: Mutex<Sender>,
    /// There can be one; it is there if there are consumers.
    receiver: Mutex<Option<Receiver>>,
    directory: PathBuf,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let sender = Mutex::new(Sender::open(setup.directory)?);
    let receiver = match setup.consumers {
        0 => None,
        _ => Some(ReceiverBuilder::new().save_every_nth(Some(1)).open(setup.directory)?),
    };
    let (receiver, directory) = (Mutex::new(receiver), setup.directory.to_owned());
    Ok(Box::new(Yaque { sender, receiver, directory }))
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

    fn consume(&self, _: usize, max: usize, take: &mut Take<'_>) -> Result<usize, Failure> {
        let mut receiver = self.receiver.lock().expect(NO_PANIC);
        let receiver = receiver.as_mut().ok_or("it was opened without consumers")?;
        match receiver.try_recv_batch_up_to(max) {
            Ok(records) => {
                records.iter().for_each(|record| take(record));
                let count = records.len();
                records.commit()?;
                Ok(count)
            }
            Err(TryRecvError::QueueEmpty) => Ok(0),
            Err(TryRecvError::Io(error)) => Err(error.into()),
        }
    }

    fn read_rest(&self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        // Two cannot read from where the position was saved.
        self.receiver.lock().expect(NO_PANIC).take();
        self.read(0, visit)
    }
}
