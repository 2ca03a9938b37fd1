//! A session: the client of one registry and its mirrors.

use super::credential::CredentialSource;
use super::endpoint::Endpoint;
use super::message::failure;
use super::options::SessionOptions;
use crate::content::{BlobStream, Catalog, Referrer, Resolved, Source, Target};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Registry, Repository, Tag};
use futures::stream::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a mirror that failed is not used.
const MIRROR_BACKOFF: Duration = Duration::from_secs(30);

/// The client of one registry and its mirrors in one run. Clones share one session.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    registry: Registry,
    mirrors: Vec<Mirror>,
    origin: Endpoint,
    /// Which mirrors served which blobs, and which of them were corrupt.
    trust: Mutex<Trust>,
}

struct Mirror {
    endpoint: Endpoint,
    /// Until when it is not used, and why.
    backoff_until: Mutex<Option<(Instant, Error)>>,
}

#[derive(Default)]
struct Trust {
    served: HashSet<(usize, Digest)>,
    corrupt: HashSet<(usize, Digest)>,
}

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Requests to the registry, its mirrors and redirect targets, except those for tokens.
    pub requests: u64,
    /// Requested tokens.
    pub tokens: u64,
}

impl Session {
    /// A session with `registry`. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` for a mirror with an unusable URL.
    pub fn new(
        registry: Registry,
        credentials: Arc<dyn CredentialSource>,
        options: SessionOptions,
    ) -> Result<Self> {
        let mirrors = options
            .mirrors
            .iter()
            .map(|url| {
                let endpoint = Endpoint::mirror(url, Arc::clone(&credentials), &options)?;
                Ok(Mirror { endpoint, backoff_until: Mutex::default() })
            })
            .collect::<Result<_>>()?;
        let origin = Endpoint::origin(&registry, credentials, Arc::new(options))?;
        Ok(Self(Arc::new(Inner { registry, mirrors, origin, trust: Mutex::default() })))
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The registry itself, without its mirrors.
    pub(super) fn origin(&self) -> &Endpoint {
        &self.0.origin
    }

    /// The counters so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let endpoints = self.0.mirrors.iter().map(|mirror| &mirror.endpoint).chain([&self.0.origin]);
        endpoints.map(Endpoint::counts).fold(Statistics::default(), |sum, (requests, tokens)| Statistics {
            requests: sum.requests + requests,
            tokens: sum.tokens + tokens,
        })
    }

    /// The repositories of the registry, sorted. `scope` is the repository whose credentials are used.
    ///
    /// # Errors
    /// Those of the registry: many do not list their repositories.
    pub async fn repositories(&self, scope: &Repository) -> Result<Vec<Repository>> {
        self.0.origin.repositories(&format!("repositories of {}", self.0.registry), scope).await
    }

    fn subject(&self, repository: &Repository, target: &Target) -> String {
        match target {
            Target::Tag(tag) => format!("{}/{repository}:{tag}", self.0.registry),
            Target::Digest(digest) => format!("{}/{repository}@{digest}", self.0.registry),
        }
    }
}

impl Inner {
    /// The mirrors that are not backing off.
    fn available_mirrors(&self) -> impl Iterator<Item = (usize, &Mirror)> {
        self.mirrors.iter().enumerate().filter(|(_, mirror)| {
            let backoff = mirror.backoff_until.lock();
            backoff.as_ref().is_none_or(|(until, _)| *until <= Instant::now())
        })
    }

    /// The failures of the mirrors that are backing off.
    fn backoff_causes(&self) -> Vec<Error> {
        let why = |mirror: &Mirror| {
            let backoff = mirror.backoff_until.lock();
            backoff.as_ref().filter(|(until, _)| *until > Instant::now()).map(|(_, why)| why.clone())
        };
        self.mirrors.iter().filter_map(why).collect()
    }

    /// Records that a mirror failed. After a transient failure it is not used for a while. Returns the failure as a cause, in
    /// case the other endpoints fail too.
    fn note_failure(&self, mirror: &Mirror, error: &Error) -> Error {
        tracing::debug!(mirror = %mirror.endpoint.registry, %error, "the mirror failed; trying the next");
        let why = error.clone().with_subject(format!("mirror {}", mirror.endpoint.registry));
        if error.kind().is_retryable() {
            let backoff = error.retry_after().unwrap_or_default().max(MIRROR_BACKOFF);
            *mirror.backoff_until.lock() = Some((Instant::now() + backoff, why.clone()));
        }
        why
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock()
    }

    fn mark_corrupt(&self, index: usize, digest: Digest) {
        self.trust().corrupt.insert((index, digest));
        if let Some(mirror) = self.mirrors.get(index) {
            mirror.endpoint.forget_blob_url(&digest);
        }
    }

    /// Watches the stream: a mirror whose response breaks off is not used again for that blob, so that the next endpoint
    /// sends the rest.
    fn watch(self: &Arc<Self>, index: usize, digest: Digest, stream: BlobStream) -> BlobStream {
        self.trust().served.insert((index, digest));
        let inner = Arc::clone(self);
        let chunks = stream.chunks.inspect(move |chunk| {
            if chunk.is_err() {
                inner.mark_corrupt(index, digest);
            }
        });
        BlobStream { chunks: chunks.boxed(), ..stream }
    }
}

impl Source for Session {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        let subject = self.subject(repository, &Target::Tag(tag.clone()));
        let mut causes = self.0.backoff_causes();
        for (_, mirror) in self.0.available_mirrors() {
            match mirror.endpoint.resolve(&subject, repository, tag).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => causes.push(self.0.note_failure(mirror, &error)),
            }
        }
        self.0.origin.resolve(&subject, repository, tag).await.map_err(|error| with_mirrors(error, causes))
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let subject = self.subject(repository, target);
        let mut causes = self.0.backoff_causes();
        for (_, mirror) in self.0.available_mirrors() {
            let result = mirror.endpoint.manifest(&subject, repository, target).await;
            match result.and_then(|manifest| expect(&subject, manifest, target)) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => causes.push(self.0.note_failure(mirror, &error)),
            }
        }
        let result = self.0.origin.manifest(&subject, repository, target).await;
        result
            .and_then(|manifest| expect(&subject, manifest, target))
            .map_err(|error| with_mirrors(error, causes))
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = descriptor.digest;
        let subject = self.subject(repository, &Target::Digest(digest));
        let mut causes = self.0.backoff_causes();
        for (index, mirror) in self.0.available_mirrors() {
            if self.0.trust().corrupt.contains(&(index, digest)) {
                continue;
            }
            match mirror.endpoint.blob(&subject, repository, descriptor, from, to).await {
                Ok(stream) => return Ok(self.0.watch(index, digest, stream)),
                Err(error) => causes.push(self.0.note_failure(mirror, &error)),
            }
        }
        let result = self.0.origin.blob(&subject, repository, descriptor, from, to).await;
        result.map_err(|error| with_mirrors(error, causes))
    }

    /// Asks the registry itself, because a mirror may have only some of the referrers; the mirrors if it cannot be reached.
    async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let name = self.subject(repository, &Target::Digest(*subject));
        let error = match self.0.origin.referrers(&name, repository, subject).await {
            Err(error) if is_unreachable(&error) => error,
            found => return found,
        };
        let mut causes = self.0.backoff_causes();
        for (_, mirror) in self.0.available_mirrors() {
            match mirror.endpoint.referrers(&name, repository, subject).await {
                Ok(found) => return Ok(found),
                Err(error) => causes.push(self.0.note_failure(mirror, &error)),
            }
        }
        Err(with_mirrors(error, causes))
    }

    fn report_corrupt(&self, _: &Repository, digest: &Digest) {
        let mut trust = self.0.trust();
        let mirrors: Vec<usize> =
            (0..self.0.mirrors.len()).filter(|index| trust.served.contains(&(*index, *digest))).collect();
        trust.corrupt.extend(mirrors.iter().map(|index| (*index, *digest)));
        drop(trust);
        for mirror in mirrors.iter().filter_map(|index| self.0.mirrors.get(*index)) {
            tracing::debug!(mirror = %mirror.endpoint.registry, %digest, "the mirror served corrupt content; not using it for this blob again");
            mirror.endpoint.forget_blob_url(digest);
        }
        self.0.origin.forget_blob_url(digest);
    }
}

impl Catalog for Session {
    /// Lists the tags of the registry itself, because a mirror may have only some of them.
    async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        let subject = format!("{}/{repository}", self.0.registry);
        self.0.origin.tags(&subject, repository).await
    }
}

/// The registry's own error, with the failures of the mirrors that were tried before.
fn with_mirrors(error: Error, mirrors: Vec<Error>) -> Error {
    mirrors.into_iter().fold(error, Error::with_cause)
}

/// Whether there was no response.
fn is_unreachable(error: &Error) -> bool {
    let kinds = [ErrorKind::Unavailable, ErrorKind::UnknownHost, ErrorKind::ConnectionRefused];
    kinds.contains(&error.kind()) && error.http_status().is_none()
}

/// The manifest, if it is the one that was requested.
fn expect(subject: &str, manifest: RawManifest, target: &Target) -> Result<RawManifest> {
    match target {
        Target::Digest(digest) if manifest.digest != *digest => {
            let detail =
                Detail::Mismatch { expected: digest.to_string(), actual: manifest.digest.to_string() };
            Err(failure(ErrorKind::Corrupt, subject, "wrong digest").with_detail(detail))
        }
        _ => Ok(manifest),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("registry", &self.0.registry)
            .field("mirrors", &self.0.mirrors.len())
            .field("statistics", &self.statistics())
            .finish()
    }
}
