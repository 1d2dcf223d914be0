//! What one process shall do, and when it shall be killed: all of it follows from the seed.

use std::fmt;
use std::time::Duration;

use ackline::{Media, Options, SyncPolicy};

use crate::Failure;
use crate::random::Random;

/// The sync policies by their names on the command line.
pub(crate) const POLICIES: [&str; 4] = ["group-commit", "each-append", "interval", "never"];

/// How one process opens the log and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) run: u32,
    /// An index into [`POLICIES`].
    pub(crate) policy: usize,
    pub(crate) segment_kib: u64,
    /// 0 is no limit.
    pub(crate) max_kib: u64,
    pub(crate) whole_sectors: bool,
    pub(crate) map: bool,
    /// Consume everything and close.
    pub(crate) drain: bool,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, policy, segment_kib, max_kib, whole_sectors, map, drain } = self;
        let flags = [whole_sectors, map, drain].map(|flag| u8::from(*flag));
        let [whole_sectors, map, drain] = flags;
        write!(f, "{run} {policy} {segment_kib} {max_kib} {whole_sectors} {map} {drain}")
    }
}

impl Plan {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [run, policy, segment_kib, max_kib, whole_sectors, map, drain] = numbers[..] else {
            return Err(format!("{text:?} is no plan").into());
        };
        Ok(Self {
            run: u32::try_from(run)?,
            policy: usize::try_from(policy)?,
            segment_kib,
            max_kib,
            whole_sectors: whole_sectors != 0,
            map: map != 0,
            drain: drain != 0,
        })
    }

    /// Draws a process; mostly with the default policy, unless one is given.
    pub(crate) fn draw(random: &mut Random, run: u32, policy: Option<usize>) -> Self {
        let drawn = match random.below(10) {
            0 => 1,
            1 => 2,
            2 => 3,
            _ => 0,
        };
        let segment_kib =
            [32, 64, 128, 256][usize::try_from(random.below(4)).expect("it is small")];
        Self {
            run,
            policy: policy.unwrap_or(drawn),
            segment_kib,
            max_kib: if random.one_in(5) { 1024 } else { 0 },
            whole_sectors: random.one_in(5),
            map: !random.one_in(5),
            drain: false,
        }
    }

    /// The last process, which nobody kills.
    pub(crate) fn drain(run: u32) -> Self {
        let (segment_kib, max_kib) = (64, 0);
        Self { run, policy: 0, segment_kib, max_kib, whole_sectors: false, map: true, drain: true }
    }

    /// Whether a call returns only when what it did is on the disk.
    pub(crate) fn syncs(&self) -> bool {
        self.policy < 2
    }

    /// Whether readers see only what is on the disk.
    pub(crate) fn shows_only_durable(&self) -> bool {
        self.policy < 3
    }

    pub(crate) fn options(&self) -> Options {
        let policy = match self.policy {
            0 if self.run % 4 == 3 => {
                SyncPolicy::GroupCommit { linger: Duration::from_micros(200) }
            }
            0 => SyncPolicy::default(),
            1 => SyncPolicy::EachAppend,
            2 => SyncPolicy::Interval { every: Duration::from_millis(20), bytes: 64 * 1024 },
            _ => SyncPolicy::Never,
        };
        let media = if self.whole_sectors { Media::WholeSectors } else { Media::default() };
        let options = Options::new()
            .sync(policy)
            .media(media)
            .map_segments(self.map)
            .segment_bytes(self.segment_kib * 1024)
            // A machine under load may be slow to sync, and that is no finding.
            .sync_timeout(Duration::from_secs(50))
            .recent_bytes(64 * 1024)
            .open_segments_max(4);
        if self.max_kib > 0 { options.max_bytes(self.max_kib * 1024) } else { options }
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doom {
    /// The moment that counts.
    pub(crate) from: Moment,
    /// How long after it.
    pub(crate) after: Duration,
    /// Then it is told to close, and is killed only so much later; never, if it is too fast.
    pub(crate) closing: Option<Duration>,
}

/// A moment in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    Started,
    Opening,
    Opened,
    Working,
    Closing,
    Closed,
}

impl Doom {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let (from, after) = match random.below(20) {
            0 => (Moment::Started, random.up_to_ms(4)),
            1..5 => (Moment::Opening, random.up_to_ms(6)),
            5 => (Moment::Opened, random.up_to_ms(5)),
            6..8 => (Moment::Working, random.up_to_ms(10)),
            8..18 => (Moment::Working, random.up_to_ms(150)),
            _ => (Moment::Working, random.up_to_ms(450)),
        };
        let closing = (from == Moment::Working && random.one_in(12))
            .then(|| if random.one_in(3) { Duration::from_secs(60) } else { random.up_to_ms(4) });
        Self { from, after, closing }
    }
}
