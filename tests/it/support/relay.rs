//! Stands between clients and a registry: limits the rate, counts what passes, remembers what was asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How much is passed on at once.
const PIECE: usize = 16 << 10;

/// A running relay. Its threads live as long as the test's process.
pub(crate) struct Relay {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    /// Bytes a second for all connections together; 0: as fast as can be.
    rate: AtomicU64,
    passed: AtomicU64,
    asked: Mutex<Vec<String>>,
    /// When the next piece may go.
    next: Mutex<Instant>,
}

impl Relay {
    /// A relay in front of `upstream`, a HOST:PORT that speaks plain HTTP/1.1.
    pub(crate) fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            rate: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            asked: Mutex::default(),
            next: Mutex::new(Instant::now()),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.connect(client));
            }
        });
        Self { address, shared }
    }

    /// Limits what passes to so many bytes a second; 0 lifts the limit.
    pub(crate) fn limit(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Bytes that went to clients, heads of answers included.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// The first line of every request so far, and the range that it asks for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Counts from zero again.
    pub(crate) fn reset(&self) {
        self.shared.passed.store(0, Ordering::Relaxed);
        self.shared.asked.lock().unwrap().clear();
    }
}

impl Shared {
    fn connect(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.upstream) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
        let shared = Arc::clone(&self);
        std::thread::spawn(move || shared.requests(client_too, server_too));
        self.answers(server, client);
    }

    /// Passes requests on, which have no bodies here, and notes each one.
    fn requests(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut head = Vec::new();
        let mut piece = [0; PIECE];
        while let Some(length) = client.read(&mut piece).ok().filter(|length| *length > 0) {
            head.extend_from_slice(&piece[..length]);
            while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&head[..end]);
                let range = text.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"));
                let line = [text.lines().next().unwrap_or_default(), range.unwrap_or_default()].join(" ");
                self.asked.lock().unwrap().push(line);
                head.drain(..end + 4);
            }
            if server.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    }

    fn answers(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut piece = [0; PIECE];
        while let Some(length) = server.read(&mut piece).ok().filter(|length| *length > 0) {
            self.wait_for_turn(length);
            if client.write_all(&piece[..length]).is_err() {
                break;
            }
            self.passed.fetch_add(length as u64, Ordering::Relaxed);
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    fn wait_for_turn(&self, length: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        let mut next = self.next.lock().unwrap();
        let due = (*next).max(now);
        *next = due + Duration::from_secs_f64(length as f64 / rate as f64);
        drop(next);
        std::thread::sleep(due - now);
    }
}
