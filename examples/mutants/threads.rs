//! The second check: wake-ups between real threads, on a simulated disk.
//!
//! A run of the simulation has one thread, so nobody in it ever waits for another. Here several
//! do, in rounds that must come to an end: a wake-up that is lost shows as a round that stands
//! still. How long the machine takes for a round does not matter, as long as something happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use ackline::simulation::{SimDisk, Storage};
use ackline::{Delivery, Log, Options, SyncPolicy, Topic};

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/common/gate.rs"]
mod gate;

use gate::{Gate, GatedStorage};

/// A round in which nothing happens for so long hangs.
const HANG: Duration = Duration::from_secs(10);

/// Longer than any round: who waits for this waits for ever.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// After so long without work, the background threads sleep until they are told of some.
const UNTIL_IDLE: Duration = Duration::from_millis(300);

/// Why a round did not come to a good end.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// The number of the round, from 1.
    pub(crate) round: u64,
    pub(crate) why: String,
}

/// What everybody in a round does next raises this count.
type Steps = Arc<AtomicU64>;

type Round = fn(&SimDisk, &Steps);

const KINDS: [(&str, Round); 7] = [
    ("everybody", everybody),
    ("callbacks", callbacks),
    ("late callback", late_callback),
    ("task", task),
    ("turns", turns),
    ("failing disk", failing_disk),
    ("idle log", idle_log),
];

/// Runs rounds of all kinds until so many are over or one hangs.
pub(crate) fn trial(seed: u64, rounds: u64) -> Result<(), Stuck> {
    for round in 1..=rounds {
        let index = usize::try_from(round - 1).expect("rounds are few") % KINDS.len();
        let (name, run) = KINDS[index];
        let disk = SimDisk::new(seed.wrapping_add(round));
        let steps = Steps::default();
        let (done, over) = channel();
        let counted = Arc::clone(&steps);
        std::thread::spawn(move || {
            let caught = std::panic::catch_unwind(|| run(&disk, &counted));
            // Nobody listens any more once the round was given up.
            done.send(caught.is_ok()).ok();
        });
        let mut before = 0;
        loop {
            match over.recv_timeout(HANG) {
                Ok(true) => break,
                Ok(false) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(Stuck { round, why: format!("threads, {name}: error") });
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = steps.load(Ordering::SeqCst);
                    if now == before {
                        return Err(Stuck { round, why: format!("threads, {name}: hang") });
                    }
                    before = now;
                }
            }
        }
    }
    Ok(())
}

fn open(disk: &SimDisk, policy: SyncPolicy) -> (Log, Topic) {
    open_on(disk.storage(), policy)
}

fn open_on(storage: Arc<dyn Storage>, policy: SyncPolicy) -> (Log, Topic) {
    let options = Options::new().segment_bytes(64 * 1024).sync_timeout(FOR_EVER).sync(policy);
    let log = options.open_on(storage).expect("a new log opens");
    let topic = log.topic("orders").expect("a topic is made");
    (log, topic)
}

fn step(steps: &Steps) {
    steps.fetch_add(1, Ordering::SeqCst);
}

fn start(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(run)
}

fn finish(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        assert!(thread.join().is_ok(), "nobody panicked");
    }
}

fn start_appender(topic: &Topic, steps: &Steps, times: usize) -> JoinHandle<()> {
    let (topic, steps) = (topic.clone(), Arc::clone(steps));
    start(move || {
        for _ in 0..times {
            topic.append("waited for").expect("an append succeeds");
            step(&steps);
        }
    })
}

/// One who goes on when called back.
fn start_submitter(topic: &Topic, steps: &Steps, times: usize) -> JoinHandle<()> {
    let (topic, steps) = (topic.clone(), Arc::clone(steps));
    start(move || {
        for _ in 0..times {
            let (called, back) = channel();
            topic.submit("called back").on_complete(move |result| {
                called.send(result.is_ok()).expect("the submitter waits");
            });
            assert_eq!(back.recv(), Ok(true));
            step(&steps);
        }
    })
}

/// Appenders that wait, one who has itself called back, and one who polls it all.
fn everybody(disk: &SimDisk, steps: &Steps) {
    const APPENDERS: usize = 4;
    const EACH: usize = 25;
    let (log, topic) = open(disk, SyncPolicy::default());
    let group = topic.group("all").expect("a group is made");
    let mut threads = Vec::new();
    for _ in 0..APPENDERS {
        threads.push(start_appender(&topic, steps, EACH));
    }
    threads.push(start_submitter(&topic, steps, EACH));
    let counted = Arc::clone(steps);
    threads.push(start(move || {
        let mut left = (APPENDERS + 1) * EACH;
        while left > 0 {
            let polled = group.poll(10, FOR_EVER).expect("a poll succeeds");
            left -= polled.len();
            for delivery in polled {
                delivery.ack().expect("an ack succeeds");
            }
            step(&counted);
        }
        group.commit().expect("a commit succeeds");
    }));
    finish(threads);
    log.close().expect("the log closes");
}

/// Those who submit are called back though others write their records, in a log whose background
/// threads have nothing else to wake up for: no marker and no progress is due.
fn callbacks(disk: &SimDisk, steps: &Steps) {
    let (log, topic) = open(disk, SyncPolicy::Never);
    let mut threads: Vec<_> = (0..2).map(|_| start_submitter(&topic, steps, 300)).collect();
    threads.extend((0..2).map(|_| start_appender(&topic, steps, 300)));
    finish(threads);
    log.close().expect("the log closes");
}

/// One who asks to be called back about what somebody else is just writing, when everybody else has
/// gone to sleep.
fn late_callback(disk: &SimDisk, steps: &Steps) {
    let gate = Gate::default();
    let (log, topic) = open_on(GatedStorage::on(disk, &gate), SyncPolicy::Never);
    // The background is told of the first write, whatever it carries.
    topic.append("the first").expect("an append succeeds");
    gate.close_for_writes();
    let pending = topic.submit("called back");
    let appender = start_appender(&topic, steps, 1);
    gate.await_arrival();
    let (called, back) = channel();
    pending.on_complete(move |result| called.send(result.is_ok()).expect("somebody waits"));
    // If the background wrote it, or is awake still, it only makes the check weaker.
    std::thread::sleep(UNTIL_IDLE);
    gate.open();
    assert_eq!(back.recv(), Ok(true));
    step(steps);
    finish(vec![appender]);
    log.close().expect("the log closes");
}

/// A task that waits for each message, and an appender that waits for the task.
fn task(disk: &SimDisk, steps: &Steps) {
    let (log, topic) = open(disk, SyncPolicy::default());
    let group = topic.group("all").expect("a group is made");
    let (taken, next) = channel();
    let consumer = start(move || {
        for _ in 0..20 {
            let delivery: Delivery = block_on(group.next()).expect("a message comes");
            delivery.ack().expect("an ack succeeds");
            taken.send(()).expect("the appender waits");
        }
    });
    for _ in 0..20 {
        topic.append("for the task").expect("an append succeeds");
        next.recv().expect("the task goes on");
        step(steps);
    }
    finish(vec![consumer]);
    log.close().expect("the log closes");
}

/// One who appends and one who polls, in turns: each falls asleep when the other is about to do
/// what it waits for.
fn turns(disk: &SimDisk, steps: &Steps) {
    const TURNS: usize = 5000;
    const SPINS_MAX: usize = 400;
    let (log, topic) = open(disk, SyncPolicy::default());
    let group = topic.group("all").expect("a group is made");
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let consumer = start(move || {
        for turn in 0..TURNS {
            // So that it comes to look, now before what it waits for, now just then, now after.
            for _ in 0..turn % SPINS_MAX {
                std::hint::spin_loop();
            }
            for delivery in group.poll(1, FOR_EVER).expect("a poll succeeds") {
                delivery.ack().expect("an ack succeeds");
            }
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    for turn in 0..TURNS {
        topic.append("your turn").expect("an append succeeds");
        // Awake, to come when the consumer is about to sleep rather than long after.
        while taken.load(Ordering::SeqCst) <= turn {
            std::thread::yield_now();
        }
        step(steps);
    }
    finish(vec![consumer]);
    log.close().expect("the log closes");
}

/// Appenders whose records wait for a write that fails: each is told.
fn failing_disk(disk: &SimDisk, steps: &Steps) {
    let gate = Gate::default();
    let (log, topic) = open_on(GatedStorage::on(disk, &gate), SyncPolicy::default());
    gate.close();
    let append = |topic: &Topic, steps: &Steps| {
        let (topic, steps) = (topic.clone(), Arc::clone(steps));
        start(move || {
            topic.append("on a failing disk").expect_err("the disk fails");
            step(&steps);
        })
    };
    let first = append(&topic, steps);
    gate.await_arrival();
    let mut appenders: Vec<_> = (0..4).map(|_| append(&topic, steps)).collect();
    // Whoever is not in the queue by then only makes the check weaker.
    std::thread::sleep(Duration::from_millis(20));
    gate.fail_next();
    gate.open();
    appenders.push(first);
    finish(appenders);
    assert!(log.close().is_err(), "a log that failed says so when it is closed");
}

/// A record that nobody waits for, after everybody went to sleep.
fn idle_log(disk: &SimDisk, steps: &Steps) {
    let (log, topic) = open(disk, SyncPolicy::default());
    let group = topic.group("all").expect("a group is made");
    std::thread::sleep(UNTIL_IDLE);
    topic.submit("by itself").detach();
    let polled = group.poll(1, FOR_EVER).expect("a poll succeeds");
    assert_eq!(polled.len(), 1);
    step(steps);
    drop(polled);
    log.close().expect("the log closes");
}

/// Wakes the thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}
