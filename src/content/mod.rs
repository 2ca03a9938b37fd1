//! The interfaces between the engine and the places that content comes from and goes to.
//!
//! The comments on the traits are contracts for implementations. The engine verifies all content, so that no implementation can
//! forget to: a source may send anything, and a sink receives only what was hashed.

#[cfg(test)]
pub(crate) mod conformance;
pub mod document;
pub mod file;
pub mod memory;
pub mod retry;
mod signature;

pub(crate) use signature::{MAX_SIGNATURE_SIZE, SignatureSet};
pub use signature::{SignatureLayer, SignaturePolicy, SignedManifest};

use crate::error::Result;
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Descriptor, Digest, RawManifest, Reference, Repository, Tag};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::convert::Infallible;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

/// Identifies a manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The one that the tag names now.
    Tag(Tag),
    /// The one with this digest.
    Digest(Digest),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// What a tag names at the source.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest's digest as reported by the source. The engine verifies it when it has the bytes.
    pub digest: Digest,
    /// The manifest, if finding the digest took fetching it (a server that answers HEAD without a Docker-Content-Digest
    /// header).
    pub manifest: Option<RawManifest>,
}

/// A referrer as its source lists it. The engine verifies that its manifest names the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Referrer {
    /// A manifest that names its subject.
    Listed(Descriptor),
    /// A manifest that only its tag connects with the subject, as cosign writes them.
    Tagged(ReferrerTag),
}

/// A response with a blob's bytes.
pub struct BlobStream {
    /// The offset of the first byte from the blob's start: the requested one, or 0 if the source sends the whole blob whatever
    /// was requested.
    pub start: u64,
    /// The number of bytes to come, if the source announces it.
    pub length: Option<u64>,
    /// The bytes, in order. May end early, with an error or without: the engine counts.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// A place that content comes from: a registry, a store, a layout.
///
/// Methods make one attempt each: the engine retries by the error's kind. They are called from many tasks at once; the source
/// limits its own load.
pub trait Source: Send + Sync + 'static {
    /// Resolves `tag`. In registries this is a HEAD request, which does not count against pull quotas.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized` and so on.
    fn resolve(&self, repository: &Repository, tag: &Tag) -> impl Future<Output = Result<Resolved>> + Send;

    /// The manifest or index `target`; at most [`MAX_MANIFEST_SIZE`](crate::oci::manifest::MAX_MANIFEST_SIZE) bytes.
    ///
    /// # Errors
    /// As `resolve`; `Corrupt` or `Unsupported` for what is not a valid manifest.
    fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> impl Future<Output = Result<RawManifest>> + Send;

    /// Opens the blob `descriptor` from byte `from` up to, but not including, byte `to` (to the end if `None`).
    ///
    /// A stream that receives nothing for the source's idle timeout ends with `Unavailable`.
    ///
    /// # Errors
    /// As `resolve`.
    fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> impl Future<Output = Result<BlobStream>> + Send;

    /// What refers to the manifest `subject`: signatures, attestations, SBOMs. Nothing, unless the source overrides this.
    ///
    /// # Errors
    /// As `resolve`; `TooLarge` if there are more than [`MAX_REFERRERS`](crate::oci::referrer::MAX_REFERRERS). A subject or
    /// repository that does not exist has no referrers.
    fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> impl Future<Output = Result<Vec<Referrer>>> + Send {
        let _ = (repository, subject);
        std::future::ready(Ok(Vec::new()))
    }

    /// The engine reports that the blob `digest`, all of it from this source, did not have that digest.
    ///
    /// A source with several endpoints (a registry with mirrors) no longer requests this digest from the one that served it.
    /// Others need do nothing.
    fn report_corrupt(&self, repository: &Repository, digest: &Digest) {
        let _ = (repository, digest);
    }
}

/// Lists what a source has. Used by commands, not by the engine.
pub trait Catalog: Send + Sync {
    /// The tags of `repository`, sorted.
    ///
    /// # Errors
    /// As [`Source::resolve`]; `NotFound` for a repository that does not exist.
    fn tags(&self, repository: &Repository) -> impl Future<Output = Result<Vec<Tag>>> + Send;
}

/// A place that content goes to: a store, a registry, an archive.
///
/// A sink exposes only complete content: blobs become visible through [`BlobWriter::commit`], and [`Sink::publish`] creates
/// links before manifests, children before parents, and tags last. A reader at any moment, or after a crash, finds only
/// complete images.
///
/// Queries reflect the current state and are cheap (tens of microseconds in a store).
pub trait Sink: Send + Sync + 'static {
    /// Accepts a blob's bytes at any offset; [`Infallible`] if the sink has no such writer.
    type Writer: BlobWriter;
    /// Accepts a blob's bytes in order and cannot read them back; [`Infallible`] if the sink has no such upload.
    type Upload: BlobUpload;

    /// Whether repositories share blobs, so that one that was written for any of them can be linked in the others. If not, as in
    /// registries, the engine ingests each blob for each repository, one after the other.
    const SHARES_BLOBS_ACROSS_REPOSITORIES: bool = true;

    /// Whether the sink connects referrers with manifests that it may not have, so that they can be found by the digest of an index
    /// that was rewritten.
    const LISTS_REFERRERS: bool = false;

    /// The digest that `repository:tag` names.
    ///
    /// # Errors
    /// `Storage` if the sink cannot be read. A tag that does not exist, or whose link is damaged, is `None`.
    fn tag(&self, repository: &Repository, tag: &Tag) -> impl Future<Output = Result<Option<Digest>>> + Send;

    /// Whether `repository:tag` names `digest` or has named it before (the tag's history).
    ///
    /// # Errors
    /// As `tag`.
    fn tag_has_named(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The content of `digest`, if any repository of the sink has it and it has at most `limit` bytes: a manifest or configuration.
    /// The bytes are not verified. If reading takes a request, `None` is a valid answer.
    ///
    /// # Errors
    /// As `tag`.
    fn content(&self, digest: &Digest, limit: u64) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Whether the sink has a blob of exactly this digest and size: in any repository if blobs are
    /// [shared](Self::SHARES_BLOBS_ACROSS_REPOSITORIES), else in this one.
    ///
    /// # Errors
    /// As `tag`.
    fn has_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether `repository` can serve `digest` as a blob, because it is linked there.
    ///
    /// # Errors
    /// As `tag`.
    fn is_linked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether `repository` can serve `digest` as a manifest, because it has a revision link there.
    ///
    /// # Errors
    /// As `tag`.
    fn is_revision(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether `repository` lists all of `referrers` for `subject`. A sink that keeps no such lists returns true.
    ///
    /// # Errors
    /// As `tag`.
    fn lists_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> impl Future<Output = Result<bool>> + Send {
        let _ = (repository, subject, referrers);
        std::future::ready(Ok(true))
    }

    /// The space that is left, if it is known.
    ///
    /// # Errors
    /// As `tag`.
    fn room(&self) -> impl Future<Output = Result<Option<Room>>> + Send {
        std::future::ready(Ok(None))
    }

    /// The engine found every manifest of an image in `repository`, so that most likely its blobs exist there too. A registry may
    /// mount them from there into other repositories.
    fn assume_present(&self, repository: &Repository, blobs: &[Descriptor]) {
        let _ = (repository, blobs);
    }

    /// Opens a blob for writing. Waits while another writer, of this process or another, has the same blob open, and returns
    /// [`Ingest::Present`] if the blob is complete then.
    ///
    /// `repository` is the first one that needs the blob. If blobs are not [shared](Self::SHARES_BLOBS_ACROSS_REPOSITORIES) it
    /// is written for that one only; a registry that can mount it from another repository returns `Present` too.
    ///
    /// # Errors
    /// `Storage`, or what a request to the registry fails with.
    fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<Ingest<Self::Writer, Self::Upload>>> + Send;

    /// Publishes an image whose blobs are all present or committed: links, manifests, then tags. Returns when all of it is on
    /// stable storage. May be called again after a transient failure.
    ///
    /// # Errors
    /// As `ingest`.
    fn publish(&self, image: Publication) -> impl Future<Output = Result<()>> + Send;

    /// Called when an image is planned and before any of its blobs is transferred, unless nothing of it has changed. A sink that
    /// would refuse the image in the end refuses it here.
    ///
    /// # Errors
    /// Why the image cannot be published.
    fn preflight(&self, image: &Publication) -> impl Future<Output = Result<()>> + Send {
        let _ = image;
        std::future::ready(Ok(()))
    }

    /// Called instead of [`publish`](Self::publish) for an image of which nothing has changed. A sink that records where images
    /// come from adds what it does not know yet.
    ///
    /// # Errors
    /// As `publish`.
    fn record_origin(&self, image: &Publication) -> impl Future<Output = Result<()>> + Send {
        let _ = image;
        std::future::ready(Ok(()))
    }
}

/// The space of a sink, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The directory on the disk.
    pub directory: String,
    /// What is free.
    pub free: u64,
    /// The capacity.
    pub total: u64,
}

/// The result of [`Sink::ingest`].
pub enum Ingest<W, U> {
    /// The blob exists.
    Present,
    /// The blob is to be written; the writer knows what an earlier run left.
    Write(W),
    /// The blob is to be uploaded in order.
    Upload(U),
}

/// Accepts one blob's bytes, at any offset and in any order, from several tasks.
///
/// If dropped without `commit` or `discard` it keeps what was written, for a later run to resume.
pub trait BlobWriter: Send + Sync + 'static {
    /// The number of contiguous bytes from the start that an earlier attempt left, unverified.
    fn received(&self) -> u64;

    /// Other ranges that an earlier attempt left, beyond [`received`](Self::received): in order, disjoint, unverified.
    fn extents(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Writes `bytes` at `offset`. Blocks no longer than writing to the page cache takes.
    ///
    /// # Errors
    /// `Storage`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Reads back what was written, into `buffer`; returns the number of bytes read.
    ///
    /// # Errors
    /// `Storage`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Makes the blob, whose bytes have `digest`, visible as a whole. Returns once that is queued; a later [`Sink::publish`] is
    /// ordered after it.
    ///
    /// # Errors
    /// `Storage`.
    fn commit(self, digest: &Digest) -> Result<()>;

    /// Discards what was written, because it is wrong. A later `ingest` of the same blob starts from nothing.
    ///
    /// # Errors
    /// `Storage`.
    fn discard(self) -> Result<()>;
}

/// Accepts one blob's bytes in order; they cannot be read back.
///
/// The engine commits only what has the right digest. The upload survives failures: the engine calls
/// [`received`](Self::received) and continues from there. If dropped without `commit` nothing of it is visible.
pub trait BlobUpload: Send + 'static {
    /// The number of bytes from the blob's start that the receiver has stored. Called before the first byte and after each
    /// failure. May be less than before, if the receiver lost the upload, but never more than was written.
    ///
    /// # Errors
    /// What the request fails with, if it takes one.
    fn received(&mut self) -> impl Future<Output = Result<u64>> + Send;

    /// Sends `bytes`, which follow what was written or, after a failure, what was received.
    ///
    /// Returns when they are sent, not when they have arrived.
    ///
    /// # Errors
    /// `Unavailable` and so on; `received` returns how much arrived.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Makes the blob, whose bytes have `digest`, visible. May be called again after a transient failure, once `received` has
    /// returned its full size.
    ///
    /// # Errors
    /// As `write`; `Corrupt` if the receiver computed another digest.
    fn commit(&mut self, digest: &Digest) -> impl Future<Output = Result<()>> + Send;
}

/// For sinks without writers.
impl BlobWriter for Infallible {
    fn received(&self) -> u64 {
        match *self {}
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        match *self {}
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<usize> {
        match *self {}
    }

    fn commit(self, _: &Digest) -> Result<()> {
        match self {}
    }

    fn discard(self) -> Result<()> {
        match self {}
    }
}

/// For sinks without uploads.
impl BlobUpload for Infallible {
    async fn received(&mut self) -> Result<u64> {
        match *self {}
    }

    async fn write(&mut self, _: Bytes) -> Result<()> {
        match *self {}
    }

    async fn commit(&mut self, _: &Digest) -> Result<()> {
        match *self {}
    }
}

/// An image that is ready to be published.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The destinations: each repository gets all links, and its tag.
    pub places: Vec<Place>,
    /// The manifests and indexes, children first, the root last. Those of referrers come before those of the image.
    pub manifests: Vec<Arc<RawManifest>>,
    /// The configurations and layers to link, without duplicates.
    pub blobs: Vec<Digest>,
    /// Where it comes from, if its source has a name for it.
    pub origin: Option<ImageOrigin>,
    /// The referrers among the manifests. They are listed, and their tags written, before the tags of the places.
    pub referrers: PublishedReferrers,
}

/// Where an image comes from, for sinks that record it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOrigin {
    /// Its name at the source.
    pub reference: Reference,
    /// The digest that it has at the source.
    pub digest: Digest,
    /// The platforms that are transferred.
    pub platforms: Vec<String>,
    /// How its index is published: `keep`, `prune` or `flatten`.
    pub index: &'static str,
}

/// The referrers of an image that is published.
#[derive(Clone, Debug, Default)]
pub struct PublishedReferrers {
    /// The lists, one for each subject that has referrers.
    pub lists: Vec<ReferrerList>,
    /// The manifests that tags connect with their subject.
    pub tags: Vec<(ReferrerTag, Digest)>,
}

impl PublishedReferrers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.tags.is_empty()
    }
}

/// The referrers of one manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerList {
    /// The manifest that they refer to.
    pub subject: Digest,
    /// Their descriptors.
    pub referrers: Vec<Descriptor>,
}

impl Publication {
    /// The digest that the tags will name.
    #[must_use]
    pub fn root(&self) -> Option<Digest> {
        self.manifests.last().map(|manifest| manifest.digest)
    }
}

/// A repository, and the tag in it that will name the image; `None` for an image pinned by digest only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The repository.
    pub repository: Repository,
    /// The tag.
    pub tag: Option<Tag>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.repository),
            None => self.repository.fmt(f),
        }
    }
}
