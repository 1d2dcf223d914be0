//! The producers: every line of every file becomes a durable record.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ackline::{Log, Pending, Receipt, Record, Topic};

use crate::Failure;
use crate::input::{Inputs, Part, read_line};
use crate::meter::Meter;

/// How many appends of one producer are on their way at a time. More of them share a sync.
const WINDOW: usize = 4096;

pub(crate) struct Producers<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) topics: HashMap<&'a str, Topic>,
    pub(crate) meter: &'a Meter,
    /// The next part that no producer has taken.
    pub(crate) next: AtomicUsize,
    /// Forget one line, to show that the check at the end notices.
    pub(crate) pretend_lost: AtomicBool,
}

impl<'a> Producers<'a> {
    pub(crate) fn new(
        log: &Log,
        inputs: &'a Inputs,
        meter: &'a Meter,
        pretend_lost: bool,
    ) -> Result<Self, Failure> {
        let names = inputs.topics.keys().map(String::as_str);
        let topics = names.map(|name| Ok((name, log.topic(name)?)));
        let topics = topics.collect::<ackline::Result<_>>()?;
        let (next, pretend_lost) = (AtomicUsize::new(0), AtomicBool::new(pretend_lost));
        Ok(Self { inputs, topics, meter, next, pretend_lost })
    }

    /// Appends everything from `threads` threads. When it returns, all of it is durable.
    pub(crate) fn run(&self, threads: usize) -> Result<(), Failure> {
        thread::scope(|scope| {
            let producers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.produce())).collect();
            let mut joined = producers.into_iter().map(thread::ScopedJoinHandle::join);
            joined.try_for_each(|result| result.map_err(|_| "a producer panicked")?)
        })
    }

    /// One producer: takes parts until there are none left.
    fn produce(&self) -> Result<(), Failure> {
        let mut window = VecDeque::with_capacity(WINDOW);
        while let Some(part) = self.inputs.parts.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.append_part(*part, &mut window)?;
        }
        // An append counts only once its handle has resolved: each one is waited for.
        window.drain(..).try_for_each(|pending| self.confirm(pending))
    }

    fn append_part(
        &self,
        part: Part,
        window: &mut VecDeque<Pending<Receipt>>,
    ) -> Result<(), Failure> {
        let input = &self.inputs.files[part.input];
        let topic = &self.topics[input.topic.as_str()];
        let mut file = File::open(&input.path)?;
        file.seek(SeekFrom::Start(part.start))?;
        let mut reader = BufReader::with_capacity(1 << 18, file.take(part.end - part.start));
        let (mut line, mut number) = (Vec::new(), part.first_line);
        while read_line(&mut reader, &mut line)? {
            let content = line.strip_suffix(b"\n").unwrap_or(&line);
            if !self.pretend_lost.swap(false, Ordering::Relaxed) {
                let record = Record::new(content)
                    .key(input.path.as_os_str().as_bytes())
                    .header("line", number.to_le_bytes());
                if window.len() == WINDOW
                    && let Some(oldest) = window.pop_front()
                {
                    self.confirm(oldest)?;
                }
                window.push_back(topic.submit(record));
            }
            number += 1;
        }
        Ok(())
    }

    fn confirm(&self, pending: Pending<Receipt>) -> Result<(), Failure> {
        pending.wait()?;
        self.meter.add(1);
        Ok(())
    }
}
