//! Links over TCP: all that a [`Quorum`] has to be given to reach other machines.
//!
//! Each node dials each of the others, and sends on the connections that it has dialled alone; on
//! those that it has accepted it reads. A message is four bytes of length and
//! [`Message::encode`]; a connection begins with a byte each way, the number of the node at that
//! end, so that it counts only once the right process has taken it.
//!
//! A sender writes to the socket itself, so that no thread has to be woken on the way of a record.
//! What the socket does not take at once waits for the link's own thread, up to a limit; beyond
//! that it is lost, and the quorum says it again later.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ackline::replicate::{Link, Message, Quorum};

/// More than the window of the quorum, so that only a peer that has stalled loses messages.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// No message is longer: the largest batch is smaller.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 256 << 10;
/// How long a dialler waits before it tries again.
const REDIAL_AFTER: Duration = Duration::from_millis(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the rest of a message waits for a socket that is full.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// The way to one other node.
#[derive(Debug)]
pub(crate) struct TcpLink {
    address: SocketAddr,
    number: u8,
    own_number: u8,
    outgoing: Mutex<Outgoing>,
    /// There is a connection, or none any more, or something is left to write.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Outgoing {
    socket: Option<TcpStream>,
    /// What the socket did not take yet.
    rest: Vec<u8>,
}

impl Link for TcpLink {
    fn send(&self, message: Message) {
        let bytes = message.encode();
        let Ok(length) = u32::try_from(bytes.len()) else { return };
        let mut outgoing = self.outgoing();
        let Outgoing { socket: Some(socket), rest } = &mut *outgoing else { return };
        let (length, mut sent) = (length.to_le_bytes(), 0);
        if rest.is_empty() {
            match socket.write_vectored(&[IoSlice::new(&length), IoSlice::new(&bytes)]) {
                Ok(n) => sent = n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    outgoing.socket = None;
                    self.changed.notify_all();
                    return;
                }
            }
        } else if rest.len() + bytes.len() > BACKLOG_BYTES_MAX {
            return;
        }
        if sent < length.len() + bytes.len() {
            rest.extend_from_slice(&length[sent.min(length.len())..]);
            rest.extend_from_slice(&bytes[sent.saturating_sub(length.len())..]);
            self.changed.notify_all();
        }
    }
}

impl TcpLink {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().expect("no sender panics")
    }

    /// Keeps up the connection that this node sends on.
    fn run(&self, link: usize, quorum: &Quorum) {
        loop {
            let Ok(socket) = self.dial() else {
                thread::sleep(REDIAL_AFTER);
                continue;
            };
            self.outgoing().socket = Some(socket);
            self.changed.notify_all();
            quorum.connected(link);
            self.write_rests();
            quorum.disconnected(link);
        }
    }

    fn dial(&self) -> std::io::Result<TcpStream> {
        let mut socket = TcpStream::connect_timeout(&self.address, DIAL_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DIAL_TIMEOUT))?;
        socket.write_all(&[self.own_number])?;
        // A process that is about to die may still have been dialled.
        let mut number = [0];
        socket.read_exact(&mut number)?;
        if number != [self.number] {
            return Err(ErrorKind::InvalidData.into());
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Writes what senders could not, until the connection breaks.
    fn write_rests(&self) {
        let mut outgoing = self.outgoing();
        while let Outgoing { socket: Some(socket), rest } = &mut *outgoing {
            if rest.is_empty() {
                outgoing = self.changed.wait(outgoing).expect("no sender panics");
                continue;
            }
            match socket.write(rest) {
                Ok(sent) => drop(rest.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    drop(outgoing);
                    thread::sleep(FULL_PAUSE);
                    outgoing = self.outgoing();
                }
                Err(_) => outgoing.socket = None,
            }
        }
        outgoing.rest.clear();
    }

    fn hang_up(&self) {
        self.outgoing().socket = None;
        self.changed.notify_all();
    }

    /// Waits until this node can answer.
    fn await_connection(&self) {
        let without = |outgoing: &mut Outgoing| outgoing.socket.is_none();
        drop(self.changed.wait_while(self.outgoing(), without).expect("no sender panics"));
    }
}

/// One node's part in the network.
#[derive(Debug)]
pub(crate) struct Network {
    number: u8,
    address: SocketAddr,
    links: Vec<Arc<TcpLink>>,
}

impl Network {
    /// The node with this number; the addresses are those of all nodes, in order.
    pub(crate) fn new(own_number: u8, addresses: &[SocketAddr]) -> Self {
        let link = |(number, address): (u8, &SocketAddr)| {
            let (outgoing, changed) = (Mutex::default(), Condvar::new());
            Arc::new(TcpLink { address: *address, number, own_number, outgoing, changed })
        };
        let others = (0..).zip(addresses).filter(|(number, _)| *number != own_number);
        let address = addresses[usize::from(own_number)];
        Self { number: own_number, address, links: others.map(link).collect() }
    }

    /// A link to each of the others, for a quorum.
    pub(crate) fn links(&self) -> Vec<Arc<dyn Link>> {
        self.links.iter().map(|link| Arc::clone(link) as Arc<dyn Link>).collect()
    }

    /// Connects the quorum, once its log is open. The connections last as long as the process.
    pub(crate) fn start(&self, quorum: &Quorum) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        for (link, peer) in self.links.iter().enumerate() {
            // Until it is dialled, nobody is there.
            quorum.disconnected(link);
            let (peer, quorum) = (Arc::clone(peer), quorum.clone());
            thread::spawn(move || peer.run(link, &quorum));
        }
        let (number, links, quorum) = (self.number, self.links.clone(), quorum.clone());
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (links, quorum) = (links.clone(), quorum.clone());
                thread::spawn(move || serve(socket, number, &links, &quorum));
            }
        });
        Ok(())
    }
}

/// Reads from a node that has dialled this one.
fn serve(mut socket: TcpStream, own_number: u8, links: &[Arc<TcpLink>], quorum: &Quorum) {
    let mut number = [0];
    if socket.read_exact(&mut number).is_err() || socket.write_all(&[own_number]).is_err() {
        return;
    }
    let Some(link) = links.iter().position(|link| [link.number] == number) else { return };
    // What is asked on this connection is answered on the other one.
    links[link].await_connection();
    // However it ends: the process at the other end of both connections is gone, or confused.
    drop(read(&mut socket, link, quorum));
    links[link].hang_up();
}

/// Hands what comes from the other node to the quorum, until the connection breaks.
fn read(socket: &mut TcpStream, link: usize, quorum: &Quorum) -> std::io::Result<()> {
    let (mut chunk, mut bytes) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let read = socket.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
        let (mut messages, mut at) = (Vec::new(), 0);
        while let Some((length, rest)) = bytes[at..].split_first_chunk() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            if length > MESSAGE_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            let Some(message) = rest.get(..length) else { break };
            let message = Message::decode(message);
            messages.push(message.map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))?);
            at += 4 + length;
        }
        bytes.drain(..at);
        // All at once: frames among them share one sync.
        quorum.received_all(link, messages);
    }
}
