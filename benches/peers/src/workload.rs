//! The list of what is measured.

use crate::peer::{Kind, Mode};

/// The records of one batch.
pub(crate) const BATCH_RECORDS: usize = 100;
/// The records that one thread has under way.
pub(crate) const IN_FLIGHT: usize = 128;
/// The records that a consumer polls at a time, at most.
pub(crate) const POLL_MAX: usize = 100;
/// Those who consume what others append.
pub(crate) const CONSUMERS: usize = 4;

/// What the threads of a workload do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Append one record at a time.
    Append(Mode),
    /// Append [`BATCH_RECORDS`] records at a time, durably.
    Batch,
    /// Append with [`IN_FLIGHT`] records under way, durably.
    Submit,
    /// Acknowledge one record at a time, durably.
    Ack,
    /// Append one record at a time, durably, while [`CONSUMERS`] consume them.
    Cycle,
    /// Read everything again and again.
    Read,
}

/// One row of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) work: Work,
    pub(crate) threads: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) topics: usize,
    /// Whether it is measured for the sake of its number of topics.
    pub(crate) compares_topics: bool,
}

impl Workload {
    const fn new(work: Work, threads: usize, payload_bytes: usize) -> Self {
        Self { work, threads, payload_bytes, topics: 1, compares_topics: false }
    }

    const fn topics(topics: usize) -> Self {
        let work = Work::Append(Mode::Durable);
        Self { topics, compares_topics: true, ..Self::new(work, 16, 100) }
    }

    /// What it is called in tables, and what it is chosen by.
    pub(crate) fn name(&self) -> String {
        let topics = &self.topics;
        let bytes = match self.payload_bytes {
            1024 => "1 KiB".to_owned(),
            bytes => format!("{bytes} B"),
        };
        let threads = self.threads_name();
        let topics = match (self.compares_topics, topics) {
            (false, _) => String::new(),
            (true, 1) => ", 1 topic".to_owned(),
            (true, topics) => format!(", {topics} topics"),
        };
        match self.work {
            Work::Append(Mode::Durable) => format!("append, {threads}, {bytes}{topics}"),
            Work::Append(Mode::Unsynced) => format!("append without sync, {threads}, {bytes}"),
            Work::Batch => format!("batch of {BATCH_RECORDS}, {threads}, {bytes}"),
            Work::Submit => format!("submit, {IN_FLIGHT} in flight, {bytes}"),
            Work::Ack => format!("durable ack, one at a time, {bytes}"),
            Work::Cycle => format!("cycle, {threads} and {CONSUMERS} consumers, {bytes}"),
            Work::Read => format!("read, {threads}, {bytes}"),
        }
    }

    /// The part of the name that says how many threads there are.
    pub(crate) fn threads_name(&self) -> String {
        if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) }
    }

    /// What it is divided by.
    pub(crate) fn limit(&self) -> &'static str {
        match (self.work, self.threads) {
            (Work::Append(Mode::Durable), 1) => "pwrite of the record + fdatasync",
            (Work::Append(Mode::Durable), _) => "the fastest group commit without a queue",
            (Work::Append(Mode::Unsynced), _) => "pwrite of the record",
            (Work::Batch, _) => "pwrite of the batch + fdatasync",
            (Work::Submit, _) => "pwrite of the records under way + fdatasync",
            (Work::Ack, _) => "pwrite of 16 B + fdatasync",
            (Work::Cycle, _) => "the fastest group commit, and nobody consumes",
            (Work::Read, _) => "pread of 1 MiB at a time + a CRC-32 of each record",
        }
    }

    /// How many consume.
    pub(crate) fn consumers(&self) -> usize {
        match self.work {
            Work::Ack => 1,
            Work::Cycle => CONSUMERS,
            Work::Append(_) | Work::Batch | Work::Submit | Work::Read => 0,
        }
    }

    /// Whether a peer has what this asks for.
    pub(crate) fn suits(&self, kind: &Kind) -> bool {
        let has_mode = self.work != Work::Append(Mode::Unsynced) || kind.unsynced.is_some();
        let has_acks = self.consumers() == 0 || kind.acked.is_some();
        has_mode && has_acks && (!self.compares_topics || kind.topics.is_some())
    }
}

/// All of them, in the order of the tables.
pub(crate) fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    let sizes = [100, 1024];
    for threads in [1, 16, 64] {
        all.extend(sizes.map(|bytes| Workload::new(Work::Append(Mode::Durable), threads, bytes)));
    }
    all.extend(sizes.map(|bytes| Workload::new(Work::Batch, 1, bytes)));
    all.extend(sizes.map(|bytes| Workload::new(Work::Submit, 1, bytes)));
    all.push(Workload::new(Work::Ack, 1, 100));
    all.push(Workload::new(Work::Cycle, 16, 100));
    all.extend(sizes.map(|bytes| Workload::new(Work::Append(Mode::Unsynced), 1, bytes)));
    all.extend(sizes.map(|bytes| Workload::new(Work::Read, 1, bytes)));
    all.extend([1, 100, 1000].map(Workload::topics));
    all
}
