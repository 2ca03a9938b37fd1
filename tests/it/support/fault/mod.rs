//! A scripted registry: serves content from memory and misbehaves exactly as scripted.
//!
//! ```ignore
//! let server = FaultServer::start().await;
//! let image = server.add_image("app", "v1", &[b"layer"]);
//! server.on("GET", "/blobs/").times(2).answer(Fault::Cut(3));     // the first two blob requests
//! server.on("HEAD", "/manifests/").skip(1).answer(Fault::status(503)); // all but the first
//! server.on("", "").one_in(3, 42).answer(Fault::Close);            // a third of all, by seed
//! // ... run ...
//! assert_eq!(server.count("GET", "/blobs/"), 5);
//! ```
//! Rules are tried in the order in which they were made; the first that matches and isn't used up
//! decides, and no rule means a correct answer. A rule's first word is a method, or "" for any; the second a part of the path, query
//! included. Every request is recorded, those that were answered wrongly too. The server speaks raw HTTP/1.1 over a
//! socket of its own at a free loopback port, plain or TLS, and stops when dropped.
//!
//! Authentication is checked before rules: [`FaultServer::require_basic`], [`FaultServer::require_tokens`].
//! The server can stand in as a plain HTTP proxy: it then plays every host there is.
//! The token server is the same server's `/token`, to which rules apply as to any path.

#![allow(dead_code, reason = "a kit: not every way to misbehave is in use at every moment")]

mod auth;
mod referrers;
mod tls;
mod upload;
mod wire;

pub(crate) use auth::TokenAuth;
pub(crate) use tls::Authority;

use bytes::Bytes;
use saver::oci::{Descriptor, Digest, Registry, media_type};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;

/// One way to misbehave.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with these headers and body.
    Status(u16, Vec<(String, String)>, Bytes),
    /// The right head, this many bytes of the body, and the connection closes.
    Cut(usize),
    /// The right head, this many bytes of the body, then silence until the client goes.
    Stall(usize),
    /// Silence from the start.
    Silence,
    /// The connection closes without an answer.
    Close,
    /// The byte at this offset of what is sent is flipped (modulo the body's length).
    Flip(usize),
    /// Status 200 with this body instead, its length right.
    Body(Bytes),
    /// This Content-Length with the right body, and the connection closes.
    Length(u64),
    /// The right body in chunks, without Content-Length.
    Chunked,
    /// As `Chunked`, properly ended after this many bytes.
    ChunkedEnd(usize),
    /// The right answer with these headers set, or removed where the value is empty.
    Headers(Vec<(String, String)>),
    /// Status 200 and the whole blob, whatever range was asked for.
    IgnoreRange,
    /// Status 206 and the right bytes under this Content-Range.
    ContentRange(String),
    /// The right answer under this status.
    As(u16),
    /// 307 to this address.
    Redirect(String),
    /// The right answer, after this long.
    Delay(Duration),
    /// So many bytes of what is uploaded are kept, and the connection closes.
    Take(usize),
}

impl Fault {
    /// A status with an error body as the distribution spec has it.
    pub(crate) fn status(code: u16) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"SCRIPTED","message":"answer {code}"}}]}}"#);
        Self::Status(code, vec![("Content-Type".into(), "application/json".into())], body.into())
    }

    /// As `status`, with a Retry-After.
    pub(crate) fn retry_after(code: u16, value: &str) -> Self {
        Self::Status(code, vec![("Retry-After".into(), value.into())], Bytes::new())
    }

    /// The right answer with one header set (removed where the value is empty).
    pub(crate) fn header(name: &str, value: &str) -> Self {
        Self::Headers(vec![(name.into(), value.into())])
    }

    /// A captive portal's page.
    pub(crate) fn web_page() -> Self {
        let headers = vec![("Content-Type".into(), "text/html; charset=utf-8".into())];
        Self::Status(200, headers, "<html><title>Log in</title></html>".into())
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The same as bytes.
    content: Bytes,
    /// Whether the client went before all of it had come.
    cut: bool,
    /// Which connection it came over, counted from 0.
    pub(crate) connection: usize,
}

impl Seen {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What an image that was added consists of.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Digest,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// The server.
pub(crate) struct FaultServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    scheme: &'static str,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    /// By repository and by tag or digest.
    manifests: HashMap<(String, String), (String, Bytes)>,
    rules: Vec<RuleState>,
    seen: Vec<Seen>,
    connections: usize,
    open: usize,
    auth: auth::Auth,
    uploads: upload::Uploads,
    /// Whether it has the referrers API, and lists of tags.
    lists: referrers::Lists,
}

struct RuleState {
    method: String,
    part: String,
    skip: usize,
    left: usize,
    one_in: Option<(u64, fastrand::Rng)>,
    fault: Fault,
}

/// A rule being made; it does nothing before [`Rule::answer`].
pub(crate) struct Rule<'a> {
    server: &'a FaultServer,
    state: RuleState,
}

impl Rule<'_> {
    /// For so many matching requests only.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.state.left = times;
        self
    }

    /// Not for the first so many matching requests.
    pub(crate) fn skip(mut self, skip: usize) -> Self {
        self.state.skip = skip;
        self
    }

    /// For one in `n` matching requests, by chance from `seed`.
    pub(crate) fn one_in(mut self, n: u64, seed: u64) -> Self {
        self.state.one_in = Some((n, fastrand::Rng::with_seed(seed)));
        self
    }

    /// What is to happen.
    pub(crate) fn answer(mut self, fault: Fault) {
        self.state.fault = fault;
        self.server.state().rules.push(self.state);
    }
}

impl FaultServer {
    /// A server that speaks plain HTTP.
    pub(crate) async fn start() -> Self {
        Self::listen("http", None).await
    }

    /// A server that speaks TLS, with a certificate that `authority` made for `names`.
    pub(crate) async fn start_tls(authority: &Authority, names: &[&str]) -> Self {
        Self::listen("https", Some(authority.acceptor(names, false))).await
    }

    /// A server whose certificate is its own authority's, as `openssl req -x509` makes it; and that certificate, PEM.
    pub(crate) async fn start_self_signed(names: &[&str], years: std::ops::Range<i32>) -> (Self, String) {
        let (pem, acceptor) = tls::self_signed(names, years);
        (Self::listen("https", Some(acceptor)).await, pem)
    }

    /// As `start_tls`; clients must show a certificate of the same authority.
    pub(crate) async fn start_mutual_tls(authority: &Authority, names: &[&str]) -> Self {
        Self::listen("https", Some(authority.acceptor(names, true))).await
    }

    async fn listen(scheme: &'static str, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { scheme, address, state: Mutex::default() });
        let task = tokio::spawn(wire::accept(listener, tls, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn registry(&self) -> Registry {
        self.address.to_string().parse().unwrap()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same server by the name `localhost`: another host, as far as a client can tell.
    pub(crate) fn localhost(&self) -> Registry {
        format!("localhost:{}", self.address.port()).parse().unwrap()
    }

    /// `http://127.0.0.1:PORT` or `https://...`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.shared.scheme, self.address)
    }

    /// Begins a rule: what happens to requests of this method ("" for any) with this part in their path.
    pub(crate) fn on(&self, method: &str, part: &str) -> Rule<'_> {
        let (method, part) = (method.to_owned(), part.to_owned());
        let state = RuleState { method, part, skip: 0, left: usize::MAX, one_in: None, fault: Fault::Close };
        Rule { server: self, state }
    }

    /// Forgets all rules: from here on the server behaves.
    pub(crate) fn behave(&self) {
        self.state().rules.clear();
    }

    /// Adds a blob.
    pub(crate) fn add_blob(&self, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        self.state().blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    /// Adds a manifest or index under its digest and, if there is one, a tag.
    pub(crate) fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        for reference in [Some(digest.to_string()), tag.map(str::to_owned)].into_iter().flatten() {
            let key = (repository.to_owned(), reference);
            self.state().manifests.insert(key, (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Adds an image for linux/amd64 with these layers.
    pub(crate) fn add_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = self.add_blob(media_type::OCI_CONFIG, config);
        let layer = |bytes: &&[u8]| {
            self.add_blob("application/vnd.oci.image.layer.v1.tar+gzip", Bytes::copy_from_slice(bytes))
        };
        let layers: Vec<Descriptor> = layers.iter().map(layer).collect();
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
        });
        let bytes = serde_json::to_vec(&document).unwrap();
        let manifest = self.add_manifest(repository, Some(tag), media_type::OCI_MANIFEST, bytes);
        Image { manifest, config, layers }
    }

    /// From here on repositories want this user and password.
    pub(crate) fn require_basic(&self, username: &str, password: &str) {
        self.state().auth.require_basic(username, password);
    }

    /// Unauthorised requests for anything but `/v2/` get this status and no challenge.
    pub(crate) fn on_anonymous(&self, status: u16) {
        self.state().auth.hide_challenge(status);
    }

    /// From here on repositories want a token.
    pub(crate) fn require_tokens(&self, tokens: TokenAuth) {
        self.state().auth.require_tokens(tokens);
    }

    /// All tokens that were given out are refused from here on.
    pub(crate) fn expire_tokens(&self) {
        self.state().auth.expire();
    }

    /// The blob of this digest, as it was added or pushed.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.state().blobs.get(digest).cloned()
    }

    /// What a tag, or a digest, names in a repository: the media type and the manifest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Bytes)> {
        self.state().manifests.get(&(repository.to_owned(), reference.to_owned())).cloned()
    }

    /// Every request so far, in the order of their coming.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests of this method ("" for any) had this part in their path.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.state().seen.iter().filter(|seen| matches(method, part, seen)).count()
    }

    /// How many connections are open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.state().open
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// The fault that the rules have for a request.
    fn fault(&mut self, seen: &Seen) -> Option<Fault> {
        self.rules.iter_mut().find_map(|rule| {
            if rule.left == 0 || !matches(&rule.method, &rule.part, seen) {
                return None;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            if let Some((n, chance)) = &mut rule.one_in
                && chance.u64(0..*n) != 0
            {
                return None;
            }
            rule.left = rule.left.saturating_sub(usize::from(rule.left != usize::MAX));
            Some(rule.fault.clone())
        })
    }
}

fn matches(method: &str, part: &str, seen: &Seen) -> bool {
    (method.is_empty() || method == seen.method) && seen.path.contains(part)
}
