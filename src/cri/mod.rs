//! The image service of the Kubernetes Container Runtime Interface (CRI) over a tree: what kubelets and crictl ask for images.
//!
//! Answers `runtime.v1` and `runtime.v1alpha2` alike: the messages are the same, and only the package's name in the path differs. Of the
//! runtime service there is `Version`, by which clients find out that somebody is there. Pulls go through [`ImageSaver`](crate::ImageSaver), so
//! through the one engine; removals through [`prune`](crate::prune). Images are stored under their full names
//! ([`NameRule::Domain`](crate::save::NameRule::Domain)), which is what gives the names back: there is no state beside the tree.

mod auth;
mod authority_compat;
mod document;
mod fs_info;
mod hpack;
mod image_index;
mod images;
mod name;
pub mod proto;
mod service;
mod single_flight;
mod snapshot;
mod socket;
mod status;

use crate::error::Result;
use crate::oci::{Platform, PlatformSet};
use crate::save::SaveOptions;
use authority_compat::{Acceptable, PREFACE};
use hyper::body::Incoming;
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use images::Images;
use proto::image_service_server::ImageServiceServer;
use proto::runtime_service_server::RuntimeServiceServer;
use service::{Api, Service};
use socket::Socket;
pub use socket::path as socket_path;
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service as _;

/// How long a client may take to say that it speaks HTTP/2.
const PREFACE_PATIENCE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is still there, which its library answers, and how long it may take to.
const SIGN_OF_LIFE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// How long to wait when there is no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most calls at a time on one connection.
const MAX_CALLS: u32 = 128;
/// The most bytes of a call's headers.
const MAX_HEADERS: u32 = 16 << 10;
/// The longest message that is read, in bytes. Those of kubelets have a few hundred, and a pod's whole sandbox at most.
const MAX_MESSAGE: usize = 4 << 20;
/// How long pulls that are cut at the end may take to leave the tree.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

/// How a [`Server`] works.
#[derive(Clone)]
#[non_exhaustive]
pub struct CriOptions {
    /// How images are pulled, and into which directory. Names and platforms are set by what is below.
    pub save: SaveOptions,
    /// The platform whose images are answered for: this machine's by default.
    pub platform: Platform,
    /// What is pulled of an image of several platforms: that platform alone by default.
    pub platforms: PlatformSet,
    /// The most connections at a time, 256 by default; further ones wait.
    pub max_connections: usize,
    /// How long calls that are under way at the end may still take: 30 seconds by default.
    pub drain_timeout: Duration,
}

impl CriOptions {
    /// The defaults, for the tree that `save` names.
    #[must_use]
    pub fn new(save: SaveOptions) -> Self {
        let platform = host();
        Self {
            save,
            platforms: PlatformSet::Only(vec![platform.clone()]),
            platform,
            max_connections: 256,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The platform of this machine.
fn host() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    Platform::new("linux", architecture).normal()
}

/// A CRI image service that listens, and answers once [`run`](Server::run) is called.
pub struct Server {
    service: Service,
    socket: Socket,
    max_connections: usize,
    drain_timeout: Duration,
}

impl Server {
    /// Opens the tree and listens on `address`: `unix:///run/saver.sock`, or the path alone. The socket is its owner's only; one
    /// that nobody listens on any more is replaced. Call it before other work begins: the process's file mode mask changes for a moment.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is no socket's, and for a directory that has other things in it and no tree; `Unavailable` when a
    /// server answers there; `Storage` when the socket can't be made, or the tree not be written to.
    pub fn bind(address: &str, options: CriOptions) -> Result<Self> {
        let path = socket::path(address)?;
        let images = Images::new(images::pulling(options.save, options.platforms), options.platform)?;
        Ok(Self {
            service: Service { images: Arc::new(images) },
            socket: Socket::bind(&path)?,
            max_connections: options.max_connections.clamp(1, Semaphore::MAX_PERMITS),
            drain_timeout: options.drain_timeout,
        })
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Answers until `shutdown` is ready; then accepts nothing more, lets calls under way end for at most
    /// [`drain_timeout`](CriOptions::drain_timeout), gives up the rest, and returns. The socket is removed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = async {
                // The semaphore is never closed, so an error here can't be.
                let slot = Arc::clone(&slots).acquire_owned().await.ok();
                (self.socket.listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (service, watcher) = (self.service.clone(), graceful.watcher());
                    connections.spawn(async move {
                        converse(stream, service, watcher).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(self.socket);
        if tokio::time::timeout(self.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::info!("some calls were cut at the end");
        }
        connections.shutdown().await;
        // What is published now is seen to its end.
        let _ = tokio::time::timeout(LEAVE_PATIENCE, self.service.images.end()).await;
    }
}

/// Answers a connection's calls until it ends.
async fn converse(mut stream: UnixStream, service: Service, watcher: Watcher) {
    let mut preface = [0; PREFACE.len()];
    let read = tokio::time::timeout(PREFACE_PATIENCE, stream.read_exact(&mut preface)).await;
    if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
        tracing::debug!("a connection that is not HTTP/2 was closed");
        return;
    }
    let runtime = RuntimeServiceServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let answer = service_fn(move |request| answer(request, runtime.clone(), images.clone()));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(Some(SIGN_OF_LIFE.0))
        .keep_alive_timeout(SIGN_OF_LIFE.1)
        .serve_connection(TokioIo::new(Acceptable::new(stream)), answer);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers one call.
async fn answer(
    mut request: hyper::Request<Incoming>,
    mut runtime: RuntimeServiceServer<Service>,
    mut images: ImageServiceServer<Service>,
) -> std::result::Result<hyper::Response<Body>, Infallible> {
    let mut api = "v1";
    if let Some(path) = of_v1(request.uri().path()) {
        api = "v1alpha2";
        *request.uri_mut() = Uri::from(path);
    }
    request.extensions_mut().insert(Api(api));
    if request.uri().path().starts_with("/runtime.v1.ImageService/") {
        images.call(request).await
    } else {
        // Of the runtime there is one call; it says of the others that there are none.
        runtime.call(request).await
    }
}

/// The path that a call of v1alpha2 has in v1.
fn of_v1(path: &str) -> Option<PathAndQuery> {
    format!("/runtime.v1.{}", path.strip_prefix("/runtime.v1alpha2.")?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_package_s_calls_are_the_new_one_s() {
        let path = of_v1("/runtime.v1alpha2.ImageService/PullImage").unwrap();
        assert_eq!(path.as_str(), "/runtime.v1.ImageService/PullImage");
        assert!(of_v1("/runtime.v1.ImageService/PullImage").is_none());
        assert!(of_v1("/runtime.v1alpha22.X/Y").is_none());
    }

    #[test]
    fn this_machine_s_platform_is_known() {
        let platform = host();
        assert_eq!(Platform::parse(&platform.to_string(), "linux").unwrap(), platform);
    }
}
