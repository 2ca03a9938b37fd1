//! A client of containerd's gRPC API on its Unix socket.

use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The number of requests of a stream that may wait to be sent.
const STREAM_QUEUE: usize = 1;
/// How often a connection with calls is checked.
const PING_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 10_000 });
/// How long a check may take before the connection is given up: what listens there is not containerd, or it hangs.
const PING_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 20_000 });
/// Maximum length of a name in containerd (containerd, `pkg/identifiers`).
const MAX_IDENTIFIER: usize = 76;
const HINT: &str = "start containerd, or name its socket with --containerd; root may be needed";

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
        let value = AsciiMetadataValue::try_from(namespace).ok().filter(|_| is_identifier(namespace));
        let namespace = value.ok_or_else(|| {
            let why = "not a valid name";
            Error::new(ErrorKind::InvalidInput, format!("namespace {namespace:?}"), why).with_hint(
                "use letters and digits, with single . _ - between them, such as k8s.io, default or moby",
            )
        })?;
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Storage, socket.display(), format!("cannot connect: {error}"))
                .with_hint(HINT)
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
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
        // Only a failure of the connection has a cause here.
        let is_connection = std::error::Error::source(status).is_some();
        let kind = match status.code() {
            // As when nobody listens at the socket.
            _ if is_connection => ErrorKind::Storage,
            Code::NotFound => ErrorKind::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Unauthorized,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                ErrorKind::Unavailable
            }
            Code::FailedPrecondition | Code::DataLoss => ErrorKind::Corrupt,
            Code::Unimplemented => ErrorKind::Unsupported,
            _ => ErrorKind::Storage,
        };
        let why = if is_connection { "the connection failed, or nobody answers: " } else { "" };
        let message = format!("containerd ({}): {why}{}", self.socket.display(), status.message());
        let error = Error::new(kind, subject, message);
        if is_connection { error.with_hint(HINT) } else { error }
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

/// Whether containerd accepts `name` for a namespace.
fn is_identifier(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.len() <= MAX_IDENTIFIER && name.split(['.', '_', '-']).all(is_word)
}

#[cfg(test)]
mod tests {
    use super::super::messages::Empty;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[test]
    fn namespaces_are_checked_as_containerd_does() {
        let (longest, longer) = ("x".repeat(MAX_IDENTIFIER), "x".repeat(MAX_IDENTIFIER + 1));
        for (name, is_valid) in [
            ("k8s.io", true),
            ("default", true),
            ("A_b-c.0", true),
            (&longest, true),
            (&longer, false),
            ("", false),
            ("a b", false),
            ("../x", false),
            ("a/b", false),
            ("-", false),
            ("a..b", false),
            ("a.", false),
            ("\u{e9}", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_identifier(name), is_valid, "{name:?}");
        }
    }

    /// A server that accepts connections, writes a greeting and then reads without an answer.
    #[tokio::test]
    async fn server_that_never_answers_is_given_up() {
        for greeting in [&b""[..], b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\x0012345678"] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("socket");
            let listener = UnixListener::bind(&socket).unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(greeting).await.unwrap();
                let mut requests = Vec::new();
                let _ = stream.read_to_end(&mut requests).await;
            });
            let client = Client::connect(&socket, "k8s.io").await.unwrap();
            let called = client.call::<_, Empty>("/any.Service/Method", Empty {}).await;
            let error = client.error("image", &called.err().unwrap());
            assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
            assert!(error.hint().is_some());
        }
    }
}
