//! A log that leads, and a thread that says what its replica holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ackline::replicate::{Frames, LogHandle, ReplicaStatus, Replicator};
use ackline::{Epoch, Error, Options, Position, Result};
use shuttle::sync::Mutex;
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;

use super::harness::check;
use super::machine::{Machine, texts};

/// Sends the end of what is offered to whoever says that a replica holds it.
#[derive(Debug)]
struct Teller {
    log: OnceLock<LogHandle>,
    ends: Mutex<Option<Sender<Position>>>,
}

impl Teller {
    const EPOCH: Epoch = Epoch(1);

    fn log(&self) -> &LogHandle {
        self.log.get().expect("it is attached")
    }
}

impl Replicator for Teller {
    fn attach(&self, log: LogHandle) -> Result<()> {
        self.log.set(log).expect("it is attached once");
        Ok(())
    }

    fn offer(&self, frames: &Frames) {
        if let Some(ends) = &*self.ends.lock().expect("nobody panics") {
            ends.send(frames.end()).expect("somebody listens");
        }
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Healthy { lag: 0 }
    }

    fn detach(&self, _: Duration) {
        drop(self.ends.lock().expect("nobody panics").take());
    }
}

#[test]
fn what_is_acknowledged_as_replicated_is_there_for_whoever_reads_next() {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let number = Arc::clone(&acknowledged);
    check(3000, move || {
        let (sender, ends) = channel();
        let teller = Arc::new(Teller { log: OnceLock::new(), ends: Mutex::new(Some(sender)) });
        let log = Machine::new().open(Options::new().replicator(Arc::clone(&teller) as _));
        let telling = {
            let teller = Arc::clone(&teller);
            thread::spawn(move || {
                for end in ends {
                    match teller.log().advance(Teller::EPOCH, end) {
                        Ok(()) | Err(Error::Closed) => {}
                        Err(error) => panic!("it leads until it is closed: {error}"),
                    }
                }
            })
        };
        let history = teller.log().history().expect("it is open");
        teller.log().lead(Teller::EPOCH, history.log_end()).expect("it may lead");
        // As nobody waits in a simulation, it depends on the schedule what is answered in time.
        let unknown = |error: &Error| matches!(error, Error::ReplicaTimeout { .. });
        match log.topic("t") {
            Ok(topic) => {
                for text in ["one", "two"] {
                    match topic.append(text) {
                        Ok(_) => {
                            let seen = texts(&topic);
                            assert_eq!(seen.last().map(String::as_str), Some(text));
                            number.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert!(unknown(&error), "{error}"),
                    }
                }
            }
            Err(error) => assert!(unknown(&error), "{error}"),
        }
        log.close().expect("closes");
        telling.join().expect("the thread returns");
    });
    assert!(acknowledged.load(Ordering::Relaxed) > 0, "some were answered in time");
}
