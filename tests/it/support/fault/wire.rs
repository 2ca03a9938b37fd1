//! The scripted registry's socket: reads requests, finds the right response, damages it as scripted.

use super::{Fault, Seen, Shared};
use bytes::Bytes;
use saver::oci::Digest;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An answer, before anything is done to it.
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"STATUS","message":"answer {status}"}}]}}"#);
        Self::json(status, body)
    }

    pub(super) fn json(status: u16, body: String) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.into() }
    }

    /// Sets a header, or removes it where the value is empty.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// How the answer's bytes go out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Whole,
    Cut(usize),
    Stall(usize),
    Chunked(usize),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(Box::new(stream), &shared).await;
                    }
                }
                None => serve(Box::new(stream), &shared).await,
            }
        });
    }
}

/// Counts a connection while it is served.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.state().open += 1;
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}

/// Serves one connection until either side has enough.
async fn serve(mut stream: Box<dyn Stream>, shared: &Shared) {
    let mut connection = None;
    let mut buffer = Vec::new();
    let _open = Open::new(shared);
    while let Some(seen) = read_request(&mut stream, &mut buffer).await {
        let Some(mut seen) = seen else {
            // As Go's server answers a ClientHello.
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nnot HTTP").await;
            return;
        };
        seen.connection = *connection.get_or_insert_with(|| {
            let mut state = shared.state();
            state.connections += 1;
            state.connections - 1
        });
        if !respond(&mut stream, shared, seen).await {
            return;
        }
    }
}

/// The next request; `None` at the connection's end, `Some(None)` for what is not HTTP.
async fn read_request(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> Option<Option<Seen>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if buffer.first().is_some_and(|first| !first.is_ascii_alphabetic()) {
            return Some(None);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    // A proxy is asked for whole addresses: the server then plays every host there is.
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]).to_owned(),
        None => target.to_owned(),
    };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let (body, content) = (String::new(), Bytes::new());
    let mut seen = Seen { method, path, headers, body, content, cut: false, connection: 0 };
    let length: usize = seen.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while buffer.len() < length && !seen.cut {
        seen.cut = stream.read_buf(buffer).await.unwrap_or(0) == 0;
    }
    let came = length.min(buffer.len());
    seen.content = Bytes::copy_from_slice(&buffer[..came]);
    seen.body = String::from_utf8_lossy(&seen.content).into_owned();
    buffer.drain(..came);
    Some(Some(seen))
}

/// Answers one request; false when the connection is to end.
async fn respond(stream: &mut Box<dyn Stream>, shared: &Shared, seen: Seen) -> bool {
    let (reply, fault) = {
        let mut state = shared.state();
        state.seen.push(seen.clone());
        let own_url = format!("{}://{}", shared.scheme, shared.address);
        let refusal = if seen.path.starts_with("/v2/") { state.auth.check(&seen, &own_url) } else { None };
        match refusal {
            Some(refusal) => (refusal, None),
            None => {
                let fault = state.fault(&seen);
                (right_answer(&mut state, &seen, fault.as_ref()), fault)
            }
        }
    };
    if seen.cut {
        return false;
    }
    let mut reply = reply;
    let length = reply.body.len();
    reply.set("Content-Length", &length.to_string());
    let delivery = match fault {
        Some(fault) => match spoil(&mut reply, fault).await {
            Some(delivery) => delivery,
            None => return false,
        },
        None => Delivery::Whole,
    };
    send(stream, &seen, reply, delivery).await.unwrap_or(false)
}

/// Applies a fault; `None` when there is to be no answer.
async fn spoil(reply: &mut Reply, fault: Fault) -> Option<Delivery> {
    match fault {
        Fault::Status(status, headers, body) => {
            *reply = Reply { status, headers, body };
            let length = reply.body.len();
            reply.set("Content-Length", &length.to_string());
        }
        Fault::Cut(at) => return Some(Delivery::Cut(at)),
        Fault::Stall(at) => return Some(Delivery::Stall(at)),
        Fault::Silence => std::future::pending().await,
        Fault::Close | Fault::Take(_) => return None,
        Fault::Flip(at) if !reply.body.is_empty() => {
            let mut bytes = reply.body.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1;
            reply.body = bytes.into();
        }
        Fault::Body(body) => {
            reply.set("Content-Length", &body.len().to_string());
            (reply.status, reply.body) = (200, body);
        }
        Fault::Length(length) => {
            reply.set("Content-Length", &length.to_string());
            return Some(Delivery::Cut(usize::MAX));
        }
        Fault::Chunked => return Some(Delivery::Chunked(usize::MAX)),
        Fault::ChunkedEnd(at) => return Some(Delivery::Chunked(at)),
        Fault::As(status) => reply.status = status,
        Fault::Headers(headers) => {
            for (name, value) in headers {
                reply.set(&name, &value);
            }
        }
        Fault::ContentRange(value) => {
            reply.status = 206;
            reply.set("Content-Range", &value);
        }
        Fault::Redirect(location) => {
            *reply = Reply { status: 307, headers: vec![("Location".into(), location)], body: Bytes::new() };
            reply.set("Content-Length", "0");
        }
        Fault::Delay(delay) => tokio::time::sleep(delay).await,
        Fault::IgnoreRange | Fault::Flip(_) => {}
    }
    Some(Delivery::Whole)
}

async fn send(
    stream: &mut Box<dyn Stream>,
    seen: &Seen,
    mut reply: Reply,
    delivery: Delivery,
) -> std::io::Result<bool> {
    if let Delivery::Chunked(_) = delivery {
        reply.set("Content-Length", "");
        reply.set("Transfer-Encoding", "chunked");
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if seen.method == "HEAD" {
        stream.flush().await?;
        return Ok(true);
    }
    let body = match delivery {
        Delivery::Cut(at) | Delivery::Stall(at) | Delivery::Chunked(at) => {
            reply.body.slice(..at.min(reply.body.len()))
        }
        Delivery::Whole => reply.body,
    };
    if let Delivery::Chunked(_) = delivery {
        for chunk in body.chunks(1000) {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            stream.write_all(chunk).await?;
            stream.write_all(b"\r\n").await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
    } else {
        stream.write_all(&body).await?;
    }
    stream.flush().await?;
    match delivery {
        Delivery::Stall(_) => {
            // Until the client goes, or the server is dropped.
            let _ = stream.read(&mut [0]).await;
            Ok(false)
        }
        Delivery::Cut(_) => {
            let _ = stream.shutdown().await;
            Ok(false)
        }
        Delivery::Whole | Delivery::Chunked(_) => Ok(true),
    }
}

/// What a good registry would answer.
fn right_answer(state: &mut super::State, seen: &Seen, fault: Option<&Fault>) -> Reply {
    let path = seen.path.split('?').next().unwrap_or_default();
    if path == "/token" {
        return state.auth.token(seen);
    }
    if let Some(reply) = super::upload::answer(state, seen, fault) {
        return reply;
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return blob_elsewhere(state, path, seen, fault) };
    if let Some(reply) = super::referrers::answer(state, rest) {
        return reply;
    }
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        let key = (repository.to_owned(), reference.to_owned());
        let Some((media_type, bytes)) = state.manifests.get(&key) else { return Reply::status(404) };
        let mut reply = Reply { status: 200, headers: Vec::new(), body: bytes.clone() };
        reply.set("Content-Type", media_type);
        reply.set("Docker-Content-Digest", &Digest::of(bytes).to_string());
        return reply;
    }
    match rest.split_once("/blobs/") {
        Some((_, digest)) => blob(state, digest, seen, fault),
        None => Reply::status(404),
    }
}

/// `/cdn/DIGEST`: the same blobs, as a content server would have them, without authentication.
fn blob_elsewhere(state: &super::State, path: &str, seen: &Seen, fault: Option<&Fault>) -> Reply {
    match path.strip_prefix("/cdn/") {
        Some(digest) => blob(state, digest, seen, fault),
        None => Reply::status(404),
    }
}

fn blob(state: &super::State, digest: &str, seen: &Seen, fault: Option<&Fault>) -> Reply {
    let bytes = digest.parse::<Digest>().ok().and_then(|digest| state.blobs.get(&digest));
    let Some(bytes) = bytes else { return Reply::status(404) };
    let mut reply = Reply { status: 200, headers: Vec::new(), body: bytes.clone() };
    reply.set("Content-Type", "application/octet-stream");
    reply.set("Accept-Ranges", "bytes");
    let range = seen.header("range").filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return reply;
    };
    let first: usize = first.parse().unwrap_or(0);
    let last: usize = last.parse().unwrap_or(usize::MAX).min(bytes.len().saturating_sub(1));
    if first > last {
        let mut reply = Reply::status(416);
        reply.set("Content-Range", &format!("bytes */{}", bytes.len()));
        return reply;
    }
    reply.status = 206;
    reply.set("Content-Range", &format!("bytes {first}-{last}/{}", bytes.len()));
    reply.body = bytes.slice(first..=last);
    reply
}
