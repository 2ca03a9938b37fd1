//! A registry as the destination of images (distribution-spec "Push").

pub(super) mod location;
mod publish;
mod sparse_index;
mod upload;

pub use upload::Upload;

use super::credential::CredentialSource;
use super::endpoint::{Endpoint, UploadStart};
use super::limiter::Priority;
use super::manifest::content_digest;
use super::options::SessionOptions;
use crate::content::{Ingest, Publication, Sink, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Registry, Repository, Tag};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use reqwest::StatusCode;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// The client of a registry that images are pushed to in one run. Clones share one client.
///
/// Its tokens are for reading and writing; mirrors are not used. Blobs that the registry has in one repository are mounted in
/// others (a cross-repository mount) if it supports that.
#[derive(Clone)]
pub struct Pusher(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    known: Mutex<KnownContent>,
    /// The size of upload chunks, once the registry has refused larger requests; 0 for none.
    chunk_size: AtomicU64,
    /// Whether the registry has accepted a sparse index in this run.
    accepts_sparse_indexes: AtomicBool,
}

/// What was learned about the registry's content in this run.
#[derive(Default)]
struct KnownContent {
    /// The repositories that have a blob of this digest and size.
    holders: HashMap<(Digest, u64), Vec<Repository>>,
    /// Blobs that were found missing: the next check can be skipped.
    absent: HashSet<(Repository, Digest)>,
    /// Manifests that exist.
    revisions: HashSet<(Repository, Digest)>,
    /// Locks that serialise the uploads of one manifest, which several images may have. Kept as long as `revisions`.
    upload_locks: HashMap<(Repository, Digest), Arc<tokio::sync::Mutex<()>>>,
    /// Referrers that the registry lists by itself (OCI-Subject), so that no index of them need be pushed.
    listed: HashSet<(Repository, Digest)>,
    /// A repository that may have blobs of which nothing else is known.
    mount_source: Option<Repository>,
}

impl Pusher {
    /// A client of `registry`. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` for a registry whose name is no valid host.
    pub fn new(
        registry: &Registry,
        credentials: Arc<dyn CredentialSource>,
        options: SessionOptions,
    ) -> Result<Self> {
        let options = SessionOptions { mirrors: Vec::new(), ..options };
        let chunk_size = AtomicU64::new(options.upload_chunk_size.unwrap_or(0));
        let accepts_sparse_indexes = AtomicBool::new(false);
        let endpoint = Endpoint::writable(registry, credentials, options)?;
        Ok(Self(Arc::new(Inner { endpoint, known: Mutex::default(), chunk_size, accepts_sparse_indexes })))
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.endpoint.registry
    }

    /// Tries to mount blobs from `repository`, the source of a copy within the registry.
    pub fn link_from(&self, repository: &Repository) {
        self.0.known().mount_source = Some(repository.clone());
    }

    /// The digest of a manifest in the repository, if it exists.
    async fn head(&self, repository: &Repository, target: &Target) -> Result<Option<Digest>> {
        let endpoint = &self.0.endpoint;
        let subject = self.0.subject(repository, target);
        let response = endpoint.head_manifest(&subject, repository, target, Priority::Continuation).await?;
        let status = response.status();
        match (status, target) {
            (StatusCode::OK, Target::Digest(digest)) => {
                // A registry that names another digest has other content.
                let actual = content_digest(response.headers());
                Ok(actual.is_none_or(|actual| actual == *digest).then_some(*digest))
            }
            (StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED, _) => {
                match content_digest(response.headers()).filter(|_| status == StatusCode::OK) {
                    Some(digest) => Ok(Some(digest)),
                    None => self.get(&subject, repository, target).await,
                }
            }
            _ if status == StatusCode::UNAUTHORIZED || status.is_server_error() => {
                Err(endpoint.status_error(&subject, repository, response).await)
            }
            // The repository does not exist yet, or may not be read: writing will show.
            _ => Ok(None),
        }
    }

    /// As `head`, for a registry that does not support HEAD.
    async fn get(&self, subject: &str, repository: &Repository, target: &Target) -> Result<Option<Digest>> {
        match self.0.endpoint.manifest(subject, repository, target).await {
            Ok(raw) => Ok(Some(raw.digest)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    fn subject(&self, repository: &Repository, what: impl fmt::Display) -> String {
        let registry = &self.endpoint.registry;
        let what = what.to_string();
        let sign = if what.contains(':') { '@' } else { ':' };
        format!("{registry}/{repository}{sign}{what}")
    }

    fn known(&self) -> MutexGuard<'_, KnownContent> {
        self.known.lock()
    }

    fn note_blob(&self, repository: &Repository, blob: &Descriptor) {
        let mut known = self.known();
        let holders = known.holders.entry((blob.digest, blob.size)).or_default();
        if !holders.contains(repository) {
            holders.push(repository.clone());
        }
    }

    fn holds(&self, repository: &Repository, blob: &Descriptor) -> bool {
        self.known()
            .holders
            .get(&(blob.digest, blob.size))
            .is_some_and(|holders| holders.contains(repository))
    }

    /// Another repository that has the blob.
    fn holder(&self, repository: &Repository, blob: &Descriptor) -> Option<Repository> {
        let known = self.known();
        let holders =
            known.holders.get(&(blob.digest, blob.size)).into_iter().flatten().chain(&known.mount_source);
        holders.into_iter().find(|holder| *holder != repository).cloned()
    }

    async fn has_blob(&self, repository: &Repository, blob: &Descriptor) -> Result<bool> {
        let digest = &blob.digest;
        if self.holds(repository, blob) {
            return Ok(true);
        }
        let exists = self.endpoint.has_blob(&self.subject(repository, digest), repository, blob).await?;
        if exists {
            self.note_blob(repository, blob);
        } else {
            self.known().absent.insert((repository.clone(), *digest));
        }
        Ok(exists)
    }

    /// Mounts the blob from a repository that has it, or starts an upload.
    async fn start_upload(&self, repository: &Repository, blob: &Descriptor) -> Result<UploadStart> {
        let digest = &blob.digest;
        let subject = self.subject(repository, digest);
        if let Some(from) = self.holder(repository, blob) {
            match self.endpoint.begin_upload(&subject, repository, digest, Some(&from)).await {
                // The other repository may be unreadable, or no longer have the blob: upload it.
                Err(error) if !error.kind().is_retryable() => {
                    tracing::debug!(%subject, %from, %error, "mounting failed; uploading the blob");
                }
                begun => return begun,
            }
        }
        self.endpoint.begin_upload(&subject, repository, digest, None).await
    }
}

impl Sink for Pusher {
    type Writer = Infallible;
    type Upload = Upload;
    const SHARES_BLOBS_ACROSS_REPOSITORIES: bool = false;
    const LISTS_REFERRERS: bool = true;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        self.head(repository, &Target::Tag(tag.clone())).await.map_err(of_sink)
    }

    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        Ok(self.tag(repository, tag).await? == Some(*digest))
    }

    async fn content(&self, _: &Digest, _: u64) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn has_blob(&self, repository: &Repository, descriptor: &Descriptor) -> Result<bool> {
        self.0.has_blob(repository, descriptor).await.map_err(of_sink)
    }

    async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let subject = self.0.subject(repository, digest);
        let size = self.0.endpoint.blob_size(&subject, repository, digest).await.map_err(of_sink)?;
        Ok(size.is_some())
    }

    async fn is_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let key = (repository.clone(), *digest);
        if self.0.known().revisions.contains(&key) {
            return Ok(true);
        }
        let found = self.head(repository, &Target::Digest(*digest)).await.map_err(of_sink)?;
        if found.is_some() {
            self.0.known().revisions.insert(key);
        }
        Ok(found.is_some())
    }

    async fn lists_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<bool> {
        let name = self.0.subject(repository, subject);
        let known = self.0.endpoint.referrer_list(&name, repository, subject).await.map_err(of_sink)?;
        Ok(known.contains(referrers))
    }

    fn assume_present(&self, repository: &Repository, blobs: &[Descriptor]) {
        blobs.iter().for_each(|blob| self.0.note_blob(repository, blob));
    }

    async fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<Infallible, Upload>> {
        let key = (repository.clone(), descriptor.digest);
        let absent = self.0.known().absent.remove(&key);
        if !absent && self.has_blob(repository, descriptor).await? {
            return Ok(Ingest::Present);
        }
        self.0.known().absent.remove(&key);
        match self.0.start_upload(repository, descriptor).await.map_err(of_sink)? {
            UploadStart::Mounted => {
                self.0.note_blob(repository, descriptor);
                Ok(Ingest::Present)
            }
            UploadStart::Location { url, min_chunk } => {
                Ok(Ingest::Upload(Upload::new(self.0.clone(), repository, descriptor, url, min_chunk)))
            }
        }
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        publish::publish(self, &image).await.map_err(of_sink)
    }

    async fn preflight(&self, image: &Publication) -> Result<()> {
        sparse_index::check(self, image).await.map_err(of_sink)
    }
}

/// The error, on the side of the sink.
fn of_sink(error: Error) -> Error {
    let error = error.on(Side::Sink);
    match (error.kind(), error.http_status()) {
        (ErrorKind::Unauthorized, Some(403)) => {
            let host = error.subject().split('/').next().unwrap_or_default().to_owned();
            error.with_hint(format!("check the name and your push permission: docker login {host}"))
        }
        (ErrorKind::NotFound, _) => error.with_hint(
            "check the name; some registries require the project or repository to be created first",
        ),
        _ => error,
    }
}

impl fmt::Debug for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pusher").field("registry", self.registry()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{BlobUpload, conformance};
    use crate::registry::Anonymous;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// docker-registry over an empty directory.
    struct Peer {
        address: String,
        child: Child,
        _dir: tempfile::TempDir,
    }

    impl Peer {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = dir.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
                dir.path().join("tree")
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = command.stderr(Stdio::piped()).spawn().expect("scripts/peers.sh installs it");
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let address = lines.by_ref().find_map(|line| {
                let line = line.unwrap();
                Some(line.split_once("listening on ")?.1.split(['"', ',']).next()?.to_owned())
            });
            std::thread::spawn(move || lines.for_each(drop));
            Self { address: address.unwrap(), child, _dir: dir }
        }
    }

    impl Drop for Peer {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn pusher(peer: &Peer) -> Pusher {
        let registry = peer.address.parse().unwrap();
        Pusher::new(&registry, Arc::new(Anonymous), SessionOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn registry_conforms_to_the_sink_contract() {
        let mut peers = Vec::new();
        conformance::uploads(|| {
            peers.push(Peer::start());
            pusher(&peers[peers.len() - 1])
        })
        .await;
    }

    #[tokio::test]
    async fn blob_is_mounted_from_another_repository() {
        let peer = Peer::start();
        let (one, other): (Repository, Repository) = ("a/one".parse().unwrap(), "b/other".parse().unwrap());
        let content = Bytes::from_static(b"a layer that two have");
        let blob = Descriptor::new("application/octet-stream", Digest::of(&content), content.len() as u64);
        let sink = pusher(&peer);
        let Ingest::Upload(mut upload) = sink.ingest(&one, &blob).await.unwrap() else { panic!("present") };
        upload.write(content).await.unwrap();
        upload.commit(&blob.digest).await.unwrap();
        assert!(matches!(sink.ingest(&other, &blob).await.unwrap(), Ingest::Present));
        // Another run does not know the repository.
        let (third, sink) = ("c".parse().unwrap(), pusher(&peer));
        sink.assume_present(&other, std::slice::from_ref(&blob));
        assert!(matches!(sink.ingest(&third, &blob).await.unwrap(), Ingest::Present));
        assert!(pusher(&peer).has_blob(&third, &blob).await.unwrap());
        // A wrong assumption costs one request.
        let absent = Descriptor::new("x", Digest::of(b"absent"), 6);
        sink.assume_present(&other, std::slice::from_ref(&absent));
        assert!(matches!(sink.ingest(&third, &absent).await.unwrap(), Ingest::Upload(_)));
    }
}
