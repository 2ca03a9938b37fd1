//! The accept loop of every server: connection limit, shutdown and draining.

use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The pause before the next accept when the process or the system is out of file descriptors or memory.
const EXHAUSTED_DELAY: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub(crate) trait Accept {
    /// An accepted connection.
    type Stream;

    /// Accepts the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// The limits of an accept loop.
pub(crate) struct AcceptLimits {
    /// The number of connections at a time; further ones wait in the listen queue.
    pub(crate) max_connections: usize,
    /// How long open connections may continue after shutdown.
    pub(crate) drain_timeout: Duration,
}

/// Accepts connections and runs `handle` on each, until `shutdown` is ready. Then closes the listener, waits up to the drain
/// timeout for connections to end, and aborts the rest. Dropping the future aborts all connections at once.
pub(crate) async fn accept_until<L: Accept, F>(
    listener: L,
    limits: AcceptLimits,
    shutdown: impl Future<Output = ()>,
    handle: impl Fn(L::Stream, Watcher) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = limits.max_connections.clamp(1, Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(permits));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed, so this never fails.
            let permit = permits.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok(stream) => {
                let connection = handle(stream, graceful.watcher());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                if is_exhausted(&error) {
                    tokio::time::sleep(EXHAUSTED_DELAY).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::info!("aborting the connections that did not end within the drain timeout");
    }
    connections.shutdown().await;
}

/// Whether accepting would fail again at once. Other errors concern only the connection that was to be accepted.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
