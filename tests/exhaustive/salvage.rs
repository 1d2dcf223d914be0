//! Every kind of fault at every call of a salvage: what it saves in the end is always the same,
//! and the damaged file is kept.

use ackline::simulation::{Crash, Fault, SimDisk, salvage_on};
use ackline::{Error, Media, Offset, Result};

use super::recorder::Recorder;
use super::world::{Op, Step, World, options};

/// How many random outcomes of a power cut are looked at behind each fault.
const POWER_CUTS: u64 = 4;

/// Which segment is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Second,
    Newest,
}

/// A log that was closed, and then damaged.
pub(crate) struct Damaged {
    media: Media,
    world: World,
    /// The damaged file and what is in it.
    file: String,
    bytes: Vec<u8>,
}

/// What can be read, and between which offsets readers are told that something is gone.
type Left = (Vec<Vec<u8>>, Vec<(Offset, Offset)>);

impl Damaged {
    /// A log of several segments, of which one has a flipped bit.
    pub(crate) fn new(media: Media, segment: Which, byte: u64) -> Self {
        let mut world = World::new(media, None);
        world.apply(Step::Open);
        let ops = [Op::CreateTopic, Op::CreateGroup, Op::Append, Op::Roll, Op::Roll, Op::Append];
        for op in ops.into_iter().chain([Op::Roll, Op::Append]) {
            world.apply(Step::Do(op));
        }
        world.apply(Step::Close);
        world.disk.kill();
        let segments = world.disk.names().into_iter().filter(|name| name.contains(".seg"));
        let segments: Vec<_> = segments.collect();
        let file = match segment {
            Which::Second => segments[1].clone(),
            Which::Newest => segments[segments.len() - 1].clone(),
        };
        world.disk.flip_bit(&file, byte, 3);
        let bytes = world.disk.file(&file).expect("it was listed");
        Self { media, world, file, bytes }
    }

    fn read(&self, disk: &SimDisk) -> Result<Left> {
        let log = options(self.media, &self.world.clock, disk.calls()).open_on(disk.storage())?;
        let (mut payloads, mut gone) = (Vec::new(), Vec::new());
        for message in log.topic("t")?.read_from(Offset(0))? {
            match message {
                Ok(message) => payloads.push(message.payload().to_vec()),
                Err(Error::Lagged { from, to }) => gone.push((from, to)),
                Err(error) => return Err(error),
            }
        }
        Ok((payloads, gone))
    }

    /// Puts each kind of fault at each call; returns how many struck.
    pub(crate) fn sweep(&self, faults: &[Fault]) -> std::result::Result<u64, String> {
        let dry = self.world.disk.fork();
        let recorder = Recorder::new(&dry, None);
        let report = salvage_on(&*recorder.storage()).map_err(|error| error.to_string())?;
        assert!(!report.lost.is_empty(), "the damage costs something");
        dry.kill();
        let expected = self.read(&dry).map_err(|error| error.to_string())?;
        let mut struck = 0;
        for fault in faults {
            for call in recorder.calls() {
                let told = |error: String| {
                    format!("{error}\nsalvage of {}: {fault:?} at {call:?}", self.file)
                };
                struck += u64::from(self.strike(*fault, call.number, &expected).map_err(told)?);
            }
        }
        Ok(struck)
    }

    fn strike(
        &self,
        fault: Fault,
        call: u64,
        expected: &Left,
    ) -> std::result::Result<bool, String> {
        let disk = self.world.disk.fork();
        disk.reseed(call);
        disk.fail_at(call, fault);
        let result = salvage_on(&*disk.storage());
        disk.clear_faults();
        let is_error = !matches!(fault, Fault::Interrupted | Fault::Short);
        match result {
            Ok(_) => {}
            Err(Error::Io { .. } | Error::Full { .. }) if is_error => {}
            Err(error) => return Err(format!("not documented: {error:?}")),
        }
        let struck = disk.counts().iter().any(|(name, n)| name.starts_with("fault_") && n > 0);
        for end in 0..POWER_CUTS + 3 {
            let ended = disk.fork();
            match end {
                0 => ended.kill(),
                1 => ended.crash_as(&ended.unsynced().all(false)),
                2 => ended.crash_as(&ended.unsynced().all(true)),
                seed => {
                    ended.reseed(seed);
                    ended.crash(Crash::Power);
                }
            }
            self.finish(&ended, expected).map_err(|error| format!("{error}\nafter end {end}"))?;
        }
        Ok(struck)
    }

    /// Salvages again, and compares what is left with what it should be.
    fn finish(&self, disk: &SimDisk, expected: &Left) -> std::result::Result<(), String> {
        let say = |error: Error| format!("{error:?}");
        salvage_on(&*disk.storage()).map_err(say)?;
        disk.kill();
        let left = self.read(disk).map_err(say)?;
        if left != *expected {
            return Err(format!("{} messages, {:?} are gone", left.0.len(), left.1));
        }
        let kept = disk
            .quarantined()
            .iter()
            .any(|name| disk.quarantined_file(name).is_some_and(|bytes| bytes == self.bytes));
        if kept { Ok(()) } else { Err("the damaged file is not kept".to_owned()) }
    }
}
