//! `saver cri` as a process, and a client that speaks gRPC without a gRPC library.

use super::program::{Home, Ran, Victim};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use saver::cri::proto::{
    AuthConfig, Image, ImageFilter, ImageSpec, ImageStatusRequest, ImageStatusResponse, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// A running service over a tree of its own.
pub(crate) struct Cri {
    pub(crate) home: Home,
    process: Option<Victim>,
}

impl Cri {
    /// Serves `amd64` from an empty tree.
    pub(crate) fn start() -> Self {
        Self::with(Home::new(), &[])
    }

    pub(crate) fn with(home: Home, more: &[&str]) -> Self {
        let mut command = home.saver(["cri", "--arch", "amd64", "--retries", "1", "--dir"]);
        command.arg(home.path("tree")).arg("--listen").arg(format!("unix://{}", home.path("s").display()));
        let process = Some(Victim::start(command.args(more)));
        let mut this = Self { home, process };
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(this.socket()).is_err() {
            if !this.process.as_mut().unwrap().is_running() || begin.elapsed() > Duration::from_secs(30) {
                panic!("it does not listen: {:?}", this.process.take().unwrap().finish());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        this
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path("s")
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.home.path("tree")
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// `kill -9`, and the home to start again in.
    pub(crate) fn kill(mut self) -> Home {
        self.process.take().unwrap().kill();
        self.home
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let process = rustix::process::Pid::from_raw(self.id().cast_signed()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its own end.
    pub(crate) fn finish(mut self) -> Ran {
        self.process.take().unwrap().finish()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket(), "runtime.v1").await
    }
}

/// A refusal: the gRPC code by its number, and the message.
pub(crate) type Refusal = (u32, String);

#[derive(Clone)]
pub(crate) struct Client {
    send: SendRequest<Full<Bytes>>,
    package: &'static str,
}

impl Client {
    pub(crate) async fn connect(socket: &Path, package: &'static str) -> Self {
        let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        Self { send, package }
    }

    /// The same connection, speaking another version.
    pub(crate) fn of(&self, package: &'static str) -> Self {
        Self { package, ..self.clone() }
    }

    /// One call.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Refusal> {
        self.raw(method, message.encode_to_vec()).await
    }

    /// One call of these bytes.
    pub(crate) async fn raw<A: Message + Default>(
        &self,
        method: &str,
        message: Vec<u8>,
    ) -> Result<A, Refusal> {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.put_slice(&message);
        let request = hyper::Request::post(format!("http://localhost/{}.{method}", self.package))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .unwrap();
        let mut send = self.send.clone();
        send.ready().await.map_err(|error| (99, error.to_string()))?;
        let response = send.send_request(request).await.map_err(|error| (99, error.to_string()))?;
        assert_eq!(response.status(), 200);
        let mut headers = response.headers().clone();
        let collected = response.into_body().collect().await.map_err(|error| (99, error.to_string()))?;
        headers.extend(collected.trailers().cloned().unwrap_or_default());
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let code = text("grpc-status").parse().unwrap();
        if code != 0 {
            return Err((code, text("grpc-message").replace("%20", " ").replace("%22", "\"")));
        }
        Ok(A::decode(&collected.to_bytes()[5..]).unwrap())
    }

    pub(crate) async fn pull(&self, image: &str) -> Result<String, Refusal> {
        self.pull_as(image, None).await
    }

    pub(crate) async fn pull_as(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, Refusal> {
        let request = PullImageRequest { image: spec(image), auth };
        let response: PullImageResponse = self.call("ImageService/PullImage", &request).await?;
        Ok(response.image_ref)
    }

    pub(crate) async fn list(&self, filter: &str) -> Result<Vec<Image>, Refusal> {
        let filter = (!filter.is_empty()).then(|| ImageFilter { image: spec(filter) });
        let response: ListImagesResponse =
            self.call("ImageService/ListImages", &ListImagesRequest { filter }).await?;
        Ok(response.images)
    }

    pub(crate) async fn status(&self, image: &str) -> Result<Option<Image>, Refusal> {
        Ok(self.inspect(image, false).await?.image)
    }

    pub(crate) async fn inspect(&self, image: &str, verbose: bool) -> Result<ImageStatusResponse, Refusal> {
        self.call("ImageService/ImageStatus", &ImageStatusRequest { image: spec(image), verbose }).await
    }

    pub(crate) async fn remove(&self, image: &str) -> Result<(), Refusal> {
        let request = RemoveImageRequest { image: spec(image) };
        let _: RemoveImageResponse = self.call("ImageService/RemoveImage", &request).await?;
        Ok(())
    }
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}
