//! The other process: a raw one that writes and syncs what it is sent, or a follower.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ackline::replicate::{Link, Message, Quorum, QuorumOptions};
use ackline::{Log, Options, Retention};

use crate::Places;
use crate::measure::{Counts, Meter, Side, stamp};
use crate::raw::{FILE_BYTES, zero_filled};
use crate::tcp::Network;

/// A process that ends with this one.
#[derive(Debug)]
pub(crate) struct Partner {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Partner {
    /// Starts this program in another role. It tells the address that it listens on.
    pub(crate) fn start(
        role: &str,
        places: &Places<'_>,
        own: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?;
        let mut command = match places.core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut process = command
            .args([role, own, "--other-pause", &places.pause.as_micros().to_string(), "--dir"])
            .arg(places.other)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("the other process ended: {}; see --cores", process.wait()?).into());
        }
        Ok(Self { process, address: line.trim().parse()? })
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        // If it has ended already, all the better.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Tells that this process is ready, and ends with the one that started it.
fn serve_until_orphaned(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    println!("{address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// How the logs of both processes are opened.
pub(crate) fn open(
    directory: &Path,
    network: &Network,
    pause: Duration,
) -> Result<(Log, Quorum), Box<dyn Error>> {
    let slow = |link| Arc::new(SlowDisk { link, pause }) as Arc<dyn Link>;
    let links = network.links().into_iter().map(slow).collect();
    let quorum = Quorum::new(&QuorumOptions::new(2), links)?;
    let options = Options::new().retention(Retention::keep_consumed());
    let log = options.replicator(Arc::new(quorum.clone())).open(directory)?;
    network.start(&quorum)?;
    Ok((log, quorum))
}

/// The follower of a leader with that address.
pub(crate) fn follow(
    directory: &Path,
    addresses: &[SocketAddr],
    pause: Duration,
) -> Result<(), Box<dyn Error>> {
    let opened = open(&directory.join("follower"), &Network::new(1, addresses), pause)?;
    serve_until_orphaned(addresses[1])?;
    drop(opened);
    Ok(())
}

/// Takes writes of a fixed size; the first byte of each says whether to keep it.
pub(crate) fn write_and_sync(
    directory: &Path,
    bytes: usize,
    pause: Duration,
) -> Result<(), Box<dyn Error>> {
    let directory = directory.join(format!("process {}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let (file, listener) = (zero_filled(&directory)?, TcpListener::bind("127.0.0.1:0")?);
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("it is dialled");
        socket.set_nodelay(true).expect("a socket has the option");
        let (mut record, mut at) = (vec![0; bytes], 0);
        while socket.read_exact(&mut record).is_ok() {
            if record[0] == KEEP {
                file.write_all_at(&record, at).expect("the raw file takes a write");
                file.sync_data().expect("the raw file syncs");
                wait(pause);
                at = (at + bytes as u64) % (FILE_BYTES / bytes * bytes) as u64;
            }
            if socket.write_all(&record[..1]).is_err() {
                return;
            }
        }
    });
    serve_until_orphaned(address)
}

/// The rest of a slow disk's sync.
fn wait(pause: Duration) {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}

/// A link of one whose disk is slow. What is durable is said on the thread that has synced it, so
/// that a pause before that is one of the sync.
#[derive(Debug)]
struct SlowDisk {
    link: Arc<dyn Link>,
    pause: Duration,
}

impl Link for SlowDisk {
    fn send(&self, message: Message) {
        if matches!(message, Message::Synced { .. }) {
            wait(self.pause);
        }
        self.link.send(message);
    }
}

const KEEP: u8 = 1;
const ECHO: u8 = 2;

/// What a record has to do before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the other process and back.
    RoundTrip,
    /// To the other process's disk, and back.
    Remote,
    /// To the other process's disk and back, and meanwhile to the own disk.
    Both,
}

/// Raw writes that a raw process answers, one at a time.
#[derive(Debug)]
pub(crate) struct Remote {
    way: Way,
    socket: Mutex<TcpStream>,
    file: std::fs::File,
    bytes: usize,
    done: AtomicU64,
    partner: Partner,
}

impl Remote {
    pub(crate) fn new(way: Way, places: &Places<'_>, bytes: usize) -> Result<Self, Box<dyn Error>> {
        let partner = Partner::start("--write", places, &bytes.to_string())?;
        let socket = TcpStream::connect(partner.address)?;
        socket.set_nodelay(true)?;
        let (socket, file) = (Mutex::new(socket), zero_filled(places.own)?);
        Ok(Self { way, socket, file, bytes, done: AtomicU64::new(0), partner })
    }

    fn socket(&self) -> MutexGuard<'_, TcpStream> {
        self.socket.lock().expect("no writer panics")
    }
}

impl Side for Remote {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut record, mut number) = (vec![0; self.bytes], first);
        let (mut socket, mut answer) = (self.socket(), [0]);
        while meter.goes_on() {
            stamp(&mut record, thread, number);
            record[0] = if self.way == Way::RoundTrip { ECHO } else { KEEP };
            if self.way == Way::Both {
                let slot = number % (FILE_BYTES / self.bytes) as u64;
                let at = slot * self.bytes as u64;
                self.file.write_all_at(&record, at).expect("the raw file takes a write");
            }
            socket.write_all(&record).expect("the partner lives");
            if self.way == Way::Both {
                self.file.sync_data().expect("the raw file syncs");
            }
            socket.read_exact(&mut answer).expect("the partner lives");
            self.done.fetch_add(1, Ordering::Relaxed);
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::of_syncs(self.done.load(Ordering::Relaxed))
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let done = self.done.load(Ordering::Relaxed);
        let lives = self.partner.process.id() > 0;
        if lives && *acknowledged == [done] { Ok(()) } else { Err(format!("{done} were done")) }
    }
}
