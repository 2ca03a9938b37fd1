//! A client of containerd's gRPC API on its Unix socket.

use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The number of requests of a stream that may wait to be sent.
const STREAM_QUEUE: usize = 1;

/// A connection, with the namespace and lease of its requests.
#[derive(Clone)]
pub(super) struct Client {
    connection: Connection,
    socket: PathBuf,
    namespace: AsciiMetadataValue,
    lease: Option<AsciiMetadataValue>,
}

#[derive(Clone)]
struct Connection(SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Client {
    /// Connects to `socket`.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid namespace; `Storage` if containerd does not listen there.
    pub(super) async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let value = AsciiMetadataValue::try_from(namespace).ok().filter(|_| !namespace.is_empty());
        let namespace = value.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("namespace {namespace:?}"), "not a valid name")
        })?;
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Storage, socket.display(), format!("cannot connect: {error}"))
                .with_hint("start containerd, or name its socket with --containerd; root may be needed")
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (send, connection) = handshake.map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to containerd failed");
            }
        });
        Ok(Self { connection: Connection(send), socket: socket.to_owned(), namespace, lease: None })
    }

    /// The same, with a lease on everything that requests create.
    pub(super) fn with_lease(&self, id: &str) -> Self {
        Self { lease: AsciiMetadataValue::try_from(id).ok(), ..self.clone() }
    }

    /// Calls a method with one request and one response.
    pub(super) async fn call<Q, A>(&self, method: &'static str, request: Q) -> std::result::Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(method);
        let response = grpc.unary(self.request(request), path, ProstCodec::<Q, A>::default()).await;
        Ok(response?.into_inner())
    }

    /// Calls a method with streams of requests and responses, of which every request has one response.
    pub(super) async fn open<Q, A>(
        &self,
        method: &'static str,
        first: Q,
    ) -> std::result::Result<Exchange<Q, A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let (requests, mut queue) = mpsc::channel(STREAM_QUEUE);
        // There is room for the first request, without which containerd does not begin to respond.
        let _ = requests.try_send(first);
        let stream = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let path = PathAndQuery::from_static(method);
        let responses = grpc.streaming(self.request(stream), path, ProstCodec::<Q, A>::default()).await?;
        Ok(Exchange { requests, responses: responses.into_inner() })
    }

    async fn grpc(&self) -> std::result::Result<tonic::client::Grpc<Connection>, Status> {
        let origin = Uri::from_static("http://localhost");
        let mut grpc = tonic::client::Grpc::with_origin(self.connection.clone(), origin);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    /// The error of a call about `subject`.
    pub(super) fn error(&self, subject: impl std::fmt::Display, status: &Status) -> Error {
        let kind = match status.code() {
            Code::NotFound => ErrorKind::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Unauthorized,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                ErrorKind::Unavailable
            }
            Code::FailedPrecondition | Code::DataLoss => ErrorKind::Corrupt,
            Code::Unimplemented => ErrorKind::Unsupported,
            _ => ErrorKind::Storage,
        };
        let message = format!("containerd ({}): {}", self.socket.display(), status.message());
        Error::new(kind, subject, message)
    }
}

/// A stream of requests, each with one response.
pub(super) struct Exchange<Q, A> {
    requests: mpsc::Sender<Q>,
    responses: Streaming<A>,
}

impl<Q, A> Exchange<Q, A> {
    /// The next response.
    pub(super) async fn response(&mut self) -> std::result::Result<A, Status> {
        let response = self.responses.message().await?;
        response.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    /// Sends a request and waits for its response.
    pub(super) async fn send(&mut self, request: Q) -> std::result::Result<A, Status> {
        // The reason why the queue is closed arrives as a response.
        let _ = self.requests.send(request).await;
        self.response().await
    }
}
