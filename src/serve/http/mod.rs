//! A read-only registry over a store: the pull half of the OCI distribution specification 1.1.
//!
//! What a repository can serve is what docker/distribution would: a blob needs its layer link in that repository, a
//! manifest its revision link. Files are read where the request is handled; only listings, which walk
//! directories, go to threads of their own.

mod body;
mod cache;
mod error;
mod handlers;
mod idle_timeout;
mod page;
mod range;
mod referrers;
mod route;
mod tls;

pub use tls::TlsIdentity;

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use handlers::Registry;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use idle_timeout::Watched;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The most bytes of a request's line and headers; more is answered with 431.
const MAX_HEAD: usize = 32 << 10;
/// The most headers of a request; more is answered with 431.
const MAX_HEADERS: usize = 100;
/// How long to wait when there is no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the process may need descriptors for beside connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// How a [`Server`] treats its clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Speak TLS with this certificate and key; plain HTTP without.
    pub tls: Option<TlsIdentity>,
    /// The most connections at a time, 4096 by default; further ones wait. The limit on open files lowers
    /// it: a connection takes one descriptor, and a second while it is sent a blob.
    pub max_connections: usize,
    /// How long a request's headers, or a TLS handshake, may take: 30 seconds by default.
    pub header_timeout: Duration,
    /// How long a connection may stand still, waiting for a request or for the client to take what it asked
    /// for: 60 seconds by default.
    pub idle_timeout: Duration,
    /// How long answers that are under way at the end may still take: 5 seconds by default.
    pub drain_timeout: Duration,
}

impl ServeOptions {
    /// The defaults, with TLS where `tls` is given.
    #[must_use]
    pub fn new(tls: Option<TlsIdentity>) -> Self {
        Self { tls, ..Self::default() }
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tls: None,
            max_connections: 4096,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A registry that listens, and answers once [`run`](Server::run) is called.
pub struct Server {
    registry: Arc<Registry>,
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

impl Server {
    /// Listens on `address` (port 0 takes a free one) for requests on `store`.
    ///
    /// # Errors
    /// `Unavailable` if the address is taken or not this machine's.
    pub async fn bind(store: Store, address: SocketAddr, options: ServeOptions) -> Result<Self> {
        let refuse = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, address, format!("cannot listen: {error}"))
                .with_hint("choose another address or port with --listen")
                .with_source(error)
        };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Self { registry: Arc::new(Registry::new(store)), listener, address, options })
    }

    /// The address listened on, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients write it: `http://127.0.0.1:5000`, or `https://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers until `shutdown` is ready; then accepts nothing more, lets answers under way end for at most
    /// [`drain_timeout`](ServeOptions::drain_timeout), and returns. When the future is dropped, all connections end at once.
    ///
    /// # Errors
    /// None at present: faults of single connections are theirs alone, and a lack of descriptors passes.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let slots = Arc::new(Semaphore::new(self.slots()));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = async {
                // The semaphore is never closed, so an error here can't be.
                let slot = Arc::clone(&slots).acquire_owned().await.ok();
                (self.listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = self.connection(stream, graceful.watcher());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    if is_lack_of_resources(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(self.listener);
        let drained = tokio::time::timeout(self.options.drain_timeout, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::info!("some answers were cut at the end");
        }
        connections.shutdown().await;
        Ok(())
    }

    fn slots(&self) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.unwrap_or(u64::MAX).saturating_sub(SPARE_DESCRIPTORS) / 2;
        let possible = usize::try_from(descriptors).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        if possible < self.options.max_connections {
            tracing::info!(connections = possible, "the limit on open files bounds the connections");
        }
        self.options.max_connections.min(possible).max(1)
    }

    /// One connection's whole life.
    fn connection(&self, stream: TcpStream, watcher: Watcher) -> impl Future<Output = ()> + Send + use<> {
        let registry = Arc::clone(&self.registry);
        let acceptor = self.options.tls.as_ref().map(TlsIdentity::acceptor);
        let (header_timeout, idle_timeout) = (self.options.header_timeout, self.options.idle_timeout);
        async move {
            // An answer's last packet must not wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let stream = Watched::new(stream, idle_timeout);
            let Some(acceptor) = acceptor else {
                return converse(registry, stream, header_timeout, watcher).await;
            };
            match tokio::time::timeout(header_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(registry, stream, header_timeout, watcher).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
}

/// Answers a connection's requests until it ends.
async fn converse<S>(registry: Arc<Registry>, stream: S, header_timeout: Duration, watcher: Watcher)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let registry = Arc::clone(&registry);
        async move { Ok::<_, Infallible>(registry.answer(&request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        // Scripts that look for `Docker-Content-Digest:` exist.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Whether accepting will fail again at once; the other errors are the single connection's.
fn is_lack_of_resources(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
