//! A proxy at the level of TCP: it stands between a client and a server and does to the bytes what bad networks do.
//!
//! ```ignore
//! let proxy = Proxy::start(server.address(), 1, |connection, random| match connection {
//!     0 => Conduct::good(),
//!     1 => Conduct::cut_after(1000),
//!     _ => Conduct { rate: Some(10_000), ..Conduct::good() },
//! }).await;
//! // ... ask proxy.registry() ...
//! assert_eq!(proxy.flipped(), 0);
//! ```
//! What a connection suffers is decided when it comes, by its number (counted from 0) and by chance: the same seed makes
//! the same choices for the same numbers. Bytes from the client always pass unharmed. The proxy understands just as much HTTP/1.1
//! as it takes to tell bodies from heads.

#![allow(dead_code, reason = "a kit: not every way to misbehave is in use at every moment")]

use fastrand::Rng;
use saver::oci::Registry;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What one connection suffers.
#[derive(Clone, Debug)]
pub(crate) struct Conduct {
    /// How long the server's first byte is held back.
    pub(crate) delay: Duration,
    /// The most bytes a second that reach the client.
    pub(crate) rate: Option<u64>,
    /// How the connection ends, if not by its two sides.
    pub(crate) end: End,
    /// After how many bytes from the client it is closed.
    pub(crate) takes: u64,
    /// One byte in so many is changed, on average.
    pub(crate) flip: Option<(u64, Where)>,
}

/// How a connection ends. Bytes are those that the client was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By its two sides.
    Natural,
    /// It is closed after so many bytes.
    Cut(u64),
    /// It falls silent after so many bytes, until the client goes.
    Stall(u64),
}

/// Which bytes may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// Those of bodies whose length their head tells.
    Bodies,
    /// Any.
    Anywhere,
}

impl Conduct {
    /// Everything passes as it is.
    pub(crate) fn good() -> Self {
        Self { delay: Duration::ZERO, rate: None, end: End::Natural, takes: u64::MAX, flip: None }
    }

    /// Closed after so many bytes.
    pub(crate) fn cut_after(bytes: u64) -> Self {
        Self { end: End::Cut(bytes), ..Self::good() }
    }

    /// Silent after so many bytes.
    pub(crate) fn stall_after(bytes: u64) -> Self {
        Self { end: End::Stall(bytes), ..Self::good() }
    }
}

type Decide = Box<dyn Fn(usize, &mut Rng) -> Conduct + Send + Sync>;

/// The proxy; it stops when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    to: SocketAddr,
    seed: u64,
    decide: Mutex<Decide>,
    connections: AtomicUsize,
    bytes: AtomicU64,
    flipped: AtomicU64,
}

impl Proxy {
    /// A proxy before `to`; `decide` says what a connection of this number suffers.
    pub(crate) async fn start(
        to: SocketAddr,
        seed: u64,
        decide: impl Fn(usize, &mut Rng) -> Conduct + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            seed,
            decide: Mutex::new(Box::new(decide)),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            flipped: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, task }
    }

    /// From here on connections pass unharmed; those that are there go on as they began.
    pub(crate) fn behave(&self) {
        let good: Decide = Box::new(|_, _| Conduct::good());
        *self.shared.decide.lock().unwrap_or_else(PoisonError::into_inner) = good;
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn registry(&self) -> Registry {
        self.address.to_string().parse().unwrap()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many bytes clients were sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How many of them were changed.
    pub(crate) fn flipped(&self) -> u64 {
        self.shared.flipped.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        connections.spawn(async move {
            // A connection that fails is what a proxy is for.
            let _ = carry(client, number, &shared).await;
        });
    }
}

/// Carries one connection to its end.
async fn carry(client: TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    let mut random = Rng::with_seed(shared.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number as u64));
    let conduct = (shared.decide.lock().unwrap_or_else(PoisonError::into_inner))(number, &mut random);
    let server = TcpStream::connect(shared.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asked = Asked::default();
    let mut up = std::pin::pin!(up(from_client, to_server, &asked, conduct.takes));
    let down = Down { conduct, framing: Framing::new(&asked), random, shared };
    tokio::select! {
        stalled = down.run(from_server, to_client) => if let Some(_open) = stalled? {
            up.await?;
        },
        gone = &mut up => gone?,
    }
    Ok(())
}

/// Of each request that was not answered yet, whether it is a HEAD.
#[derive(Default)]
struct Asked(Mutex<VecDeque<bool>>);

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: &Asked, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    // Requests' heads only. What a body is, is not understood: one that is long is passed over.
    let mut head = Vec::new();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..count]);
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let is_head = head.starts_with(b"HEAD ");
            head.drain(..end + 4);
            asked.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(is_head);
        }
        if head.len() > 64 << 10 {
            head.clear();
        }
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..count]).await?;
        left -= count as u64;
        if left == 0 {
            return to.shutdown().await;
        }
    }
}

struct Down<'a> {
    conduct: Conduct,
    framing: Framing<'a>,
    random: Rng,
    shared: &'a Shared,
}

impl Down<'_> {
    /// Until the server ends or the conduct says so; the client's side where it is to stay open, silent.
    async fn run(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
    ) -> io::Result<Option<OwnedWriteHalf>> {
        // Small pieces where time is to pass between them.
        let piece = if self.conduct.rate.is_some() { 2 << 10 } else { 64 << 10 };
        let mut buffer = vec![0; piece];
        let mut sent = 0;
        let mut next_flip = self.distance();
        let mut delay = self.conduct.delay;
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(None);
            }
            tokio::time::sleep(std::mem::take(&mut delay)).await;
            let left = match self.conduct.end {
                End::Natural => u64::MAX,
                End::Cut(after) | End::Stall(after) => after - sent,
            };
            let bytes = &mut buffer[..count.min(usize::try_from(left).unwrap_or(usize::MAX))];
            self.spoil(bytes, &mut next_flip);
            to.write_all(bytes).await?;
            sent += bytes.len() as u64;
            self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if bytes.len() as u64 == left {
                to.flush().await?;
                return Ok(matches!(self.conduct.end, End::Stall(_)).then_some(to));
            }
            if let Some(rate) = self.conduct.rate {
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64)).await;
            }
        }
    }

    fn distance(&mut self) -> u64 {
        // Exponential, so that it does not matter over how many connections the bytes are spread.
        self.conduct
            .flip
            .map_or(u64::MAX, |(one_in, _)| (-(1.0 - self.random.f64()).ln() * one_in as f64) as u64)
    }

    fn spoil(&mut self, bytes: &mut [u8], next: &mut u64) {
        let Some((_, place)) = self.conduct.flip else { return };
        for byte in bytes {
            let in_body = self.framing.is_body(*byte);
            if !in_body && place == Where::Bodies {
                continue;
            }
            if *next == 0 {
                *byte ^= 1 << self.random.u32(0..8);
                self.shared.flipped.fetch_add(1, Ordering::Relaxed);
                *next = self.distance();
            } else {
                *next -= 1;
            }
        }
    }
}

/// Where in the server's answers the stream is.
struct Framing<'a> {
    asked: &'a Asked,
    head: Vec<u8>,
    body_left: u64,
    /// A body of which the head tells no length: nothing after it is understood.
    lost: bool,
}

impl<'a> Framing<'a> {
    fn new(asked: &'a Asked) -> Self {
        Self { asked, head: Vec::new(), body_left: 0, lost: false }
    }

    /// Takes the stream's next byte; whether it is a body's.
    fn is_body(&mut self, byte: u8) -> bool {
        if self.lost {
            return false;
        }
        if self.body_left > 0 {
            self.body_left -= 1;
            return true;
        }
        self.head.push(byte);
        if self.head.ends_with(b"\r\n\r\n") {
            self.answer();
        }
        false
    }

    fn answer(&mut self) {
        let head = String::from_utf8_lossy(&std::mem::take(&mut self.head)).to_ascii_lowercase();
        let is_head = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        match (is_head, length) {
            (Some(true), _) => {}
            (Some(false), Some(length)) => self.body_left = length,
            _ => self.lost = true,
        }
    }
}
