//! A read-only registry over a store: the pull half of the OCI distribution specification 1.1.
//!
//! A repository serves the content that docker/distribution would serve: a blob needs its layer link in that repository, a
//! manifest its revision link.

mod access_log;
mod body;
mod cache;
mod error;
mod handlers;
mod htpasswd;
mod idle_timeout;
mod metrics;
mod namespace;
mod page;
mod people;
mod range;
mod recorder;
mod referrers;
mod response;
mod route;
mod served_store;
mod tls;

pub use access_log::AccessRecord;
#[cfg(feature = "containerd")]
pub(crate) use access_log::DateTime;
pub use htpasswd::Htpasswd;
pub use recorder::AccessLog;
pub use tls::TlsIdentity;

use super::accept::{self, AcceptLimits};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use handlers::RequestHandler;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use idle_timeout::IdleTimeout;
use metrics::Metrics;
use recorder::RecordSinks;
use served_store::ServedStore;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The size limit of a request's line and headers, in bytes. A larger request gets status 431.
const MAX_HEAD: usize = 32 << 10;
/// The number of headers that a request may have. A request with more gets status 431.
const MAX_HEADERS: usize = 100;
/// The number of file descriptors that are kept for uses other than connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// Options of a [`RegistryServer`].
#[derive(Clone)]
#[non_exhaustive]
pub struct ServeOptions {
    /// The certificate and key for TLS; `None` for plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// The users that may read, by HTTP Basic authentication; `None` for everybody. `/healthz` never needs credentials.
    pub users: Option<Arc<Htpasswd>>,
    /// Receives a record of each request.
    pub access_log: Option<AccessLog>,
    /// Whether `/metrics` has counters in the Prometheus text format.
    pub metrics: bool,
    /// The number of connections at a time, 4096 by default; further ones wait. The limit on open files lowers it: a connection
    /// takes one file descriptor, and a second one while a blob is sent.
    pub max_connections: usize,
    /// How long a TLS handshake, and the headers of a request, may take: 30 seconds by default.
    pub header_timeout: Duration,
    /// How long a connection may be idle, whether it waits for a request or for the client to read: 60 seconds by default.
    pub idle_timeout: Duration,
    /// How long responses may continue after shutdown: 5 seconds by default.
    pub drain_timeout: Duration,
}

impl ServeOptions {
    /// The default options, with TLS if `tls` is given.
    #[must_use]
    pub fn new(tls: Option<TlsIdentity>) -> Self {
        Self { tls, ..Self::default() }
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tls: None,
            users: None,
            access_log: None,
            metrics: false,
            max_connections: 4096,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions")
            .field("tls", &self.tls)
            .field("users", &self.users)
            .field("access_log", &self.access_log.is_some())
            .field("metrics", &self.metrics)
            .field("max_connections", &self.max_connections)
            .field("header_timeout", &self.header_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("drain_timeout", &self.drain_timeout)
            .finish()
    }
}

/// A registry that listens on a TCP port. It serves once [`run`](RegistryServer::run) is called.
pub struct RegistryServer {
    handler: Arc<RequestHandler>,
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

impl RegistryServer {
    /// Listens on `address`, where port 0 takes a free one, for requests to the tree in the directory `dir`. When another
    /// directory takes its place, by a rename or a mount, that one is served; while there is none, the status is 503.
    ///
    /// # Errors
    /// `InvalidInput` if `dir` is not a tree; `Storage` if it cannot be opened; `Unavailable` as for [`bind`](Self::bind).
    pub async fn open(dir: &Path, address: SocketAddr, options: ServeOptions) -> Result<Self> {
        Self::bind_store(ServedStore::open(dir)?, address, options).await
    }

    /// Listens on `address`, where port 0 takes a free one, for requests to `store`.
    ///
    /// # Errors
    /// `Unavailable` if the port is in use or the address does not belong to this machine.
    pub async fn bind(store: Store, address: SocketAddr, options: ServeOptions) -> Result<Self> {
        Self::bind_store(ServedStore::Fixed(store), address, options).await
    }

    async fn bind_store(store: ServedStore, address: SocketAddr, options: ServeOptions) -> Result<Self> {
        let listen_error = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, address, format!("cannot listen: {error}"))
                .with_hint("choose another address or port with --listen")
                .with_source(error)
        };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let sinks = RecordSinks {
            access_log: options.access_log.clone(),
            metrics: options.metrics.then(|| Arc::new(Metrics::default())),
        };
        let handler = Arc::new(RequestHandler::new(store, options.users.clone(), sinks));
        Ok(Self { handler, listener, address, options })
    }

    /// The address that the server listens on, with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server: `http://127.0.0.1:5000`, or `https://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `shutdown` is ready. Then accepts no more connections, lets responses continue for at most
    /// [`drain_timeout`](ServeOptions::drain_timeout), and returns. Dropping the future ends all connections at once.
    ///
    /// # Errors
    /// None at present: a failed connection concerns that connection alone, and a lack of file descriptors is temporary.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let limits = AcceptLimits {
            max_connections: self.max_connections(),
            drain_timeout: self.options.drain_timeout,
        };
        let handler = self.handler;
        let options = Arc::new(self.options);
        let handle = |stream, watcher| serve_connection(handler.clone(), options.clone(), stream, watcher);
        accept::accept_until(self.listener, limits, shutdown, handle).await;
        Ok(())
    }

    /// The configured limit, as far as the limit on open files allows it.
    fn max_connections(&self) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.unwrap_or(u64::MAX).saturating_sub(SPARE_DESCRIPTORS) / 2;
        let possible = usize::try_from(descriptors).unwrap_or(usize::MAX);
        if possible < self.options.max_connections {
            tracing::info!(
                connections = possible,
                "the limit on open files lowers the number of connections"
            );
        }
        self.options.max_connections.min(possible)
    }
}

async fn serve_connection(
    handler: Arc<RequestHandler>,
    options: Arc<ServeOptions>,
    stream: TcpStream,
    watcher: Watcher,
) {
    let Ok(client) = stream.peer_addr() else {
        tracing::debug!("the client has closed the connection");
        return;
    };
    let connection = HttpConnection { handler, client, header_timeout: options.header_timeout };
    // Nagle's algorithm would delay the last packet of a response until the one before it is acknowledged.
    let _ = stream.set_nodelay(true);
    let stream = IdleTimeout::new(stream, options.idle_timeout);
    let Some(tls) = &options.tls else {
        return connection.serve(stream, watcher).await;
    };
    match tokio::time::timeout(options.header_timeout, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => connection.serve(stream, watcher).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

struct HttpConnection {
    handler: Arc<RequestHandler>,
    client: SocketAddr,
    header_timeout: Duration,
}

impl HttpConnection {
    async fn serve<S>(self, stream: S, watcher: Watcher)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let Self { handler, client, header_timeout } = self;
        let service = service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler.handle(request, client).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            // Scripts exist that search for `Docker-Content-Digest:` in this spelling.
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection failed");
        }
    }
}
