//! The image service of the Kubernetes Container Runtime Interface (CRI), as used by kubelets and crictl, over a tree.
//!
//! Serves `runtime.v1` and `runtime.v1alpha2`, whose messages are the same; only the package name in the path differs. Of the
//! runtime service it has `Version` alone, which clients call to find out whether the server is up. Pulls go through
//! [`ImageSaver`](crate::ImageSaver), removals through [`prune`](crate::prune). Images are stored under their full names
//! ([`NameRule::Domain`](crate::save::NameRule::Domain)), so their names can be recovered from the tree, and no other state exists.

mod auth;
mod authority_compat;
mod fs_info;
mod hpack;
mod image_index;
mod image_manager;
mod manifest_summary;
mod name;
pub mod proto;
mod pulls;
mod service;
mod snapshot;
mod socket;
mod status;

use crate::error::Result;
use crate::oci::{Platform, PlatformSet};
use crate::save::SaveOptions;
use crate::serve::accept::{self, AcceptLimits};
use authority_compat::{AuthorityCompat, PREFACE};
use hyper::body::Incoming;
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use image_manager::ImageManager;
use proto::image_service_server::ImageServiceServer;
use proto::runtime_service_server::RuntimeServiceServer;
use service::{ApiVersion, CriService};
use socket::ListenSocket;
pub use socket::path as socket_path;
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

/// How long a client may take to send the HTTP/2 connection preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of HTTP/2 pings on idle connections, and how long to wait for the reply.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The number of concurrent calls on one connection.
const MAX_CONCURRENT_STREAMS: u32 = 128;
/// The size limit of a call's headers, in bytes.
const MAX_HEADER_LIST_SIZE: u32 = 16 << 10;
/// The size limit of a request message, in bytes. Those of kubelets have a few hundred; the largest carries a pod sandbox's
/// configuration.
const MAX_MESSAGE: usize = 4 << 20;
/// How long cancelled pulls may take at shutdown: what is being published is completed.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a [`CriServer`].
#[derive(Clone)]
#[non_exhaustive]
pub struct CriOptions {
    /// How images are pulled, and into which directory. The naming rule and the platforms are overridden.
    pub save: SaveOptions,
    /// The platform whose images are served: this machine's by default.
    pub platform: Platform,
    /// The platforms to pull of each image: [`platform`](Self::platform) only, by default.
    pub platforms: PlatformSet,
    /// The number of connections at a time, 256 by default; further ones wait.
    pub max_connections: usize,
    /// How long calls may continue after shutdown: 30 seconds by default.
    pub drain_timeout: Duration,
}

impl CriOptions {
    /// The default options, for the tree that `save` names.
    #[must_use]
    pub fn new(save: SaveOptions) -> Self {
        let platform = Platform::of_this_machine();
        Self {
            save,
            platforms: PlatformSet::Only(vec![platform.clone()]),
            platform,
            max_connections: 256,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// A CRI image service that listens on a Unix socket. It serves once [`run`](CriServer::run) is called.
pub struct CriServer {
    service: CriService,
    socket: ListenSocket,
    limits: AcceptLimits,
}

impl CriServer {
    /// Opens the tree and listens on `address`, which is `unix:///run/saver.sock` or the path alone. The socket has mode 0600. A
    /// socket without a listener is replaced. Call this before other work starts: it changes the process's umask for a moment.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is not a Unix socket, and for a directory that has other content and no tree;
    /// `Unavailable` when another server listens on the socket; `Storage` when the socket or the tree cannot be written.
    pub fn bind(address: &str, options: CriOptions) -> Result<Self> {
        let path = socket::path(address)?;
        let save = image_manager::pull_options(options.save, options.platforms);
        let images = ImageManager::new(save, options.platform)?;
        Ok(Self {
            service: CriService { images: Arc::new(images) },
            socket: ListenSocket::bind(&path)?,
            limits: AcceptLimits {
                max_connections: options.max_connections,
                drain_timeout: options.drain_timeout,
            },
        })
    }

    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves until `shutdown` is ready. Then removes the socket, lets calls continue for at most
    /// [`drain_timeout`](CriOptions::drain_timeout), cancels the rest, and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let service = &self.service;
        let handle = |stream, watcher| serve_connection(stream, service.clone(), watcher);
        accept::accept_until(self.socket, self.limits, shutdown, handle).await;
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, service.images.shut_down()).await;
    }
}

async fn serve_connection(mut stream: UnixStream, service: CriService, watcher: Watcher) {
    let mut preface = [0; PREFACE.len()];
    let read = tokio::time::timeout(PREFACE_TIMEOUT, stream.read_exact(&mut preface)).await;
    if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
        tracing::debug!("closed a connection that is not HTTP/2");
        return;
    }
    let runtime = RuntimeServiceServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let service = service_fn(move |request| dispatch(request, runtime.clone(), images.clone()));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_SIZE)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(AuthorityCompat::new(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection failed");
    }
}

async fn dispatch(
    mut request: hyper::Request<Incoming>,
    mut runtime: RuntimeServiceServer<CriService>,
    mut images: ImageServiceServer<CriService>,
) -> std::result::Result<hyper::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut version = ApiVersion("v1");
    if let Some(path) = v1_path(&path) {
        version = ApiVersion("v1alpha2");
        *request.uri_mut() = Uri::from(path);
    }
    request.extensions_mut().insert(version);
    let response = if request.uri().path().starts_with("/runtime.v1.ImageService/") {
        images.call(request).await?
    } else {
        runtime.call(request).await?
    };
    // The generated code rejects unknown methods without a message, and people see nothing but the message.
    let status = Status::from_header_map(response.headers());
    if status.is_some_and(|status| status.code() == Code::Unimplemented && status.message().is_empty()) {
        return Ok(unimplemented(&path).into_http());
    }
    Ok(response)
}

/// The error for a method that this service does not have.
fn unimplemented(path: &str) -> Status {
    let method = path.trim_start_matches('/');
    let why = if method.contains("RuntimeService/") {
        "saver cri is an image service and runs no containers: use the container runtime's own socket as the \
         runtime endpoint, and saver's as the image service endpoint"
    } else {
        "saver cri serves ListImages, ImageStatus, PullImage, RemoveImage and ImageFsInfo of runtime.v1 and runtime.v1alpha2"
    };
    Status::unimplemented(format!("{}: not implemented: {why}", method.escape_debug()))
}

/// The `runtime.v1` path of a `runtime.v1alpha2` call.
fn v1_path(path: &str) -> Option<PathAndQuery> {
    format!("/runtime.v1.{}", path.strip_prefix("/runtime.v1alpha2.")?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1alpha2_paths_map_to_v1() {
        let path = v1_path("/runtime.v1alpha2.ImageService/PullImage").unwrap();
        assert_eq!(path.as_str(), "/runtime.v1.ImageService/PullImage");
        assert!(v1_path("/runtime.v1.ImageService/PullImage").is_none());
        assert!(v1_path("/runtime.v1alpha22.X/Y").is_none());
    }
}
