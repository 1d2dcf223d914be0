//! Runs a test under many schedules, and gives it a machine to run on.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use ackline::simulation::Rng;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// A schedule that gets this far does not end.
const STEPS_MAX: usize = 400_000;

/// How the next thread is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Any of those that can go on.
    Random,
    /// The present one, mostly: long stretches without a change.
    Calm,
    /// The one with the highest priority, which are drawn; at a few points, the present one gets
    /// the lowest. Finds what takes few changes in the right places: Burckhardt et al., "A
    /// Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010.
    Priorities,
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::Random, "random"), (Kind::Calm, "calm"), (Kind::Priorities, "priorities")];

/// All that a schedule follows from.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    seed: u64,
    /// How many choices a schedule has, about.
    choices: u64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        let (_, name) = named.expect("every kind has a name");
        write!(f, "{name}-{}-{}", self.seed, self.choices)
    }
}

impl Plan {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let name = parts.next()?;
        let (kind, _) = KINDS.iter().find(|(_, known)| *known == name)?;
        let seed = parts.next()?.parse().ok()?;
        let choices = parts.next()?.parse().ok()?;
        Some(Self { kind: *kind, seed, choices })
    }
}

/// Draws schedules one after the other, each from its own plan.
struct Drawn {
    plans: Plans,
    /// The plan of the present schedule, for whoever reports a failure.
    present: Rc<RefCell<Option<Plan>>>,
    rng: Rng,
    data: Rng,
    /// By task; the lowest number goes first.
    priorities: Vec<u64>,
    lowest: u64,
    changes: Vec<u64>,
    choices: u64,
    choices_max: u64,
}

enum Plans {
    Numbered { next: u64, end: u64 },
    One(Option<Plan>),
}

impl Drawn {
    fn new(plans: Plans, present: Rc<RefCell<Option<Plan>>>) -> Self {
        Self {
            plans,
            present,
            rng: Rng::new(0),
            data: Rng::new(0),
            priorities: Vec::new(),
            lowest: 0,
            changes: Vec::new(),
            choices: 0,
            choices_max: 100,
        }
    }

    fn next_plan(&mut self) -> Option<Plan> {
        match &mut self.plans {
            Plans::One(plan) => plan.take(),
            Plans::Numbered { next, end } if *next < *end => {
                let seed = *next;
                *next += 1;
                let (kind, _) = KINDS[usize::try_from(seed % 3).expect("below 3")];
                Some(Plan { kind, seed, choices: self.choices_max })
            }
            Plans::Numbered { .. } => None,
        }
    }

    fn first_of(&mut self, runnable: &[&Task]) -> TaskId {
        for task in runnable {
            let number: usize = task.id().into();
            while self.priorities.len() <= number {
                // Far below `lowest`, which counts up from the middle.
                let priority = self.rng.below(1 << 40);
                self.priorities.push(priority);
            }
        }
        let priority = |task: &&&Task| self.priorities[usize::from(task.id())];
        runnable.iter().min_by_key(priority).expect("some task can go on").id()
    }

    /// Lets a task go last from now on.
    fn demote(&mut self, task: TaskId) {
        let number: usize = task.into();
        if let Some(priority) = self.priorities.get_mut(number) {
            self.lowest += 1;
            *priority = self.lowest;
        }
    }
}

impl Scheduler for Drawn {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.choices_max = self.choices_max.max(self.choices);
        let plan = self.next_plan()?;
        self.rng = Rng::new(plan.seed);
        self.data = Rng::new(!plan.seed);
        self.priorities.clear();
        self.lowest = 1 << 40;
        self.choices = 0;
        let changes = self.rng.below(5);
        self.changes = (0..changes).map(|_| self.rng.below(plan.choices.max(1))).collect();
        *self.present.borrow_mut() = Some(plan);
        Some(Schedule::new(plan.seed))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let [_, _, ..] = runnable else { return runnable.first().map(|task| task.id()) };
        self.choices += 1;
        let stays = current.filter(|current| runnable.iter().any(|task| task.id() == *current));
        let kind = self.present.borrow().expect("a schedule has begun").kind;
        match (kind, stays) {
            (Kind::Priorities, _) => {
                if let Some(current) = current
                    && (is_yielding || self.changes.contains(&self.choices))
                {
                    self.demote(current);
                }
                Some(self.first_of(runnable))
            }
            (Kind::Calm, Some(current)) if !is_yielding && self.rng.below(16) > 0 => Some(current),
            _ => Some(runnable[self.rng.index(runnable.len())].id()),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next_u64()
    }
}

/// A number below `bound` that is part of the schedule, and so the same when it is repeated.
pub(crate) fn draw(bound: u64) -> u64 {
    use shuttle::rand::RngCore;
    shuttle::rand::thread_rng().next_u64() % bound
}

/// Runs `body` under as many schedules, times `ACKLINE_SCHEDULES`.
///
/// # Panics
///
/// With what the body failed with, and how to repeat it.
#[allow(clippy::print_stderr, reason = "a failure says how to repeat it")]
pub(crate) fn check(schedules: u64, body: impl Fn() + Send + Sync + 'static) {
    let factor = std::env::var("ACKLINE_SCHEDULES")
        .map_or(1, |factor| factor.parse::<u64>().expect("ACKLINE_SCHEDULES is a whole number"));
    let plans = match std::env::var("ACKLINE_SCHEDULE") {
        Ok(text) => {
            Plans::One(Some(Plan::parse(&text).expect("ACKLINE_SCHEDULE as it was printed")))
        }
        Err(_) => Plans::Numbered { next: 0, end: schedules * factor },
    };
    let present = Rc::new(RefCell::new(None));
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let runner = Runner::new(Drawn::new(plans, Rc::clone(&present)), config);
    let ran = catch_unwind(AssertUnwindSafe(|| runner.run(body)));
    if let Err(cause) = ran {
        let plan = present.borrow().expect("a schedule has begun");
        let test = std::thread::current();
        let test = test.name().unwrap_or("the test");
        // Not another panic: the stacks of the schedule's threads are left as they are.
        eprintln!(
            "schedule {} of {test} failed; repeat it with\n  ACKLINE_SCHEDULE={plan} \
             RUSTFLAGS=\"--cfg ackline_shuttle\" cargo test --release --test interleavings -- --exact {test}",
            plan.seed
        );
        resume_unwind(cause);
    }
}
