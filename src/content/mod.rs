//! The seams: what the engine needs of the place content comes from and of the place it goes to.
//!
//! The traits are contracts; the comments say what an implementation must hold. The engine verifies
//! everything, so that neither end can forget to: a source may lie, a sink may be handed nothing
//! that was not hashed.

#[cfg(test)]
pub(crate) mod conformance;
pub mod document;
pub mod file;
pub mod memory;
pub mod retry;

use crate::error::Result;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::convert::Infallible;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

/// Which manifest of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The one that the tag names now.
    Tag(Tag),
    /// The one of this digest.
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

/// What a tag names at the source now.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest's digest, as the source says; the engine believes it only once it has hashed the bytes.
    pub digest: Digest,
    /// The manifest itself, where finding the digest took fetching it (a server that
    /// answers HEAD without a Docker-Content-Digest header).
    pub manifest: Option<RawManifest>,
}

/// A running answer to a request for a blob's bytes.
pub struct BlobStream {
    /// The offset of the first byte that comes, counted from the blob's start: what was asked for, or
    /// 0 where the source sends the whole blob whatever is asked.
    pub start: u64,
    /// How many bytes the source says will come, where it says.
    pub length: Option<u64>,
    /// The bytes, in order. Ends early with an error, or silently when the source lies: the engine counts.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// Where content comes from: a registry, a store, a layout.
///
/// Methods make one attempt each: the engine decides about retries by the error's kind. They may be
/// called from many tasks at once; the source bounds its own load.
pub trait Source: Send + Sync + 'static {
    /// What `tag` names now. In registries a HEAD, which does not count against pull quotas.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized` and so on, with the source's own words and what to try.
    fn resolve(&self, repository: &Repository, tag: &Tag) -> impl Future<Output = Result<Resolved>> + Send;

    /// The manifest or index that `target` names, whole; never more than
    /// [`MAX_MANIFEST_SIZE`](crate::oci::manifest::MAX_MANIFEST_SIZE) bytes.
    ///
    /// # Errors
    /// As `resolve`; `Corrupt` or `Unsupported` for what is no manifest.
    fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> impl Future<Output = Result<RawManifest>> + Send;

    /// Opens the blob `descriptor` from byte `from`, up to but without byte `to` (to the end when `None`).
    ///
    /// Chunks that do not come for the source's idle timeout end the stream with `Unavailable`.
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

    /// The engine hashed the blob `digest`, all of it from this source, and the bytes were wrong.
    ///
    /// A source with several places to ask (a registry with mirrors) asks the one that served
    /// them no more for this digest, so that another try can go better. Others need do nothing.
    fn refuted(&self, repository: &Repository, digest: &Digest) {
        let _ = (repository, digest);
    }
}

/// What there is at a source: for people who look for a name. The engine has no use for it.
pub trait Catalog: Send + Sync {
    /// The tags of `repository`, sorted.
    ///
    /// # Errors
    /// As [`Source::resolve`]; `NotFound` for a repository that is not there.
    fn tags(&self, repository: &Repository) -> impl Future<Output = Result<Vec<Tag>>> + Send;
}

/// Where content goes: a store, a registry, an archive.
///
/// A sink shows nothing before it is whole: blobs appear at their final place only through
/// [`BlobWriter::commit`], and [`Sink::publish`] makes links before manifests' links, children
/// before parents, tags last. Whoever reads it at any moment, or after a crash, finds only what is whole.
///
/// Queries answer from what is on disk now and are cheap (tens of microseconds in a store).
pub trait Sink: Send + Sync + 'static {
    /// What takes a blob's bytes at any offset; [`Infallible`] where nothing does.
    type Writer: BlobWriter;
    /// What takes a blob's bytes in order and can't read them back; [`Infallible`] where nothing does.
    type Upload: BlobUpload;

    /// Whether content is one for all repositories: what was brought for one of them can be linked in any other.
    /// Where it is not, as in registries, the engine asks and ingests for each repository, one after the first.
    const SHARES_BLOBS_ACROSS_REPOSITORIES: bool = true;

    /// The digest that `repository:tag` names now.
    ///
    /// # Errors
    /// `Storage` when the sink can't be read. A tag that is not there, or whose link is damaged, is `None`.
    fn tag(&self, repository: &Repository, tag: &Tag) -> impl Future<Output = Result<Option<Digest>>> + Send;

    /// Whether `repository:tag` names `digest`, or has named it before (the tag's history).
    ///
    /// # Errors
    /// As `tag`.
    fn tag_has_named(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The content of `digest` if the sink holds it in any repository and it has at most `limit` bytes: a manifest or a configuration.
    /// The bytes are as found: the engine hashes them. Where reading back costs a request, `None` is a good answer.
    ///
    /// # Errors
    /// As `tag`.
    fn content(&self, digest: &Digest, limit: u64) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Whether the sink holds a blob of exactly this digest and size: in whatever repository where content is
    /// [shared](Self::SHARES_BLOBS_ACROSS_REPOSITORIES), else in this one.
    ///
    /// # Errors
    /// As `tag`.
    fn has_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether `repository` can serve `digest` as a blob: it is linked there.
    ///
    /// # Errors
    /// As `tag`.
    fn is_linked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether `repository` can serve `digest` as a manifest: it has a revision link there.
    ///
    /// # Errors
    /// As `tag`.
    fn is_revision(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// How much the sink has room for, where it can tell.
    ///
    /// # Errors
    /// As `tag`.
    fn room(&self) -> impl Future<Output = Result<Option<Room>>> + Send {
        std::future::ready(Ok(None))
    }

    /// The engine found every manifest of an image in `repository`, so that these blobs are there too, most likely. A registry
    /// may link them from there in other repositories.
    fn presume(&self, repository: &Repository, blobs: &[Descriptor]) {
        let _ = (repository, blobs);
    }

    /// Opens a blob for writing. Waits while another writer, of this process or another, holds the same blob;
    /// answers [`Ingest::Present`] when it is there by then.
    ///
    /// `repository` is the one that it is wanted for first. Where content is not [shared](Self::SHARES_BLOBS_ACROSS_REPOSITORIES), it is there for that
    /// one only; a registry that holds it in another repository may link it from there, which is `Present` too.
    ///
    /// # Errors
    /// `Storage`; of a registry what its requests come to.
    fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<Ingest<Self::Writer, Self::Upload>>> + Send;

    /// Publishes an image whose blobs are all present or committed: links, manifests, then tags.
    /// Returns when all of it is on stable storage. May be called again after a failure that passes.
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
}

/// How much a sink has room for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Now.
    pub free: u64,
    /// When nothing else were in it.
    pub total: u64,
}

/// A sink's answer to an ingest.
pub enum Ingest<W, U> {
    /// The blob is there already, whole.
    Present,
    /// The blob is to be written; the writer says how much an earlier run left behind.
    Write(W),
    /// The blob is to be sent in order.
    Upload(U),
}

/// Takes one blob's bytes, at any offset and in any order, from several tasks.
///
/// Dropped without `commit` or `discard` it keeps what was written for a later run to go on with.
pub trait BlobWriter: Send + Sync + 'static {
    /// Bytes that an earlier attempt left, contiguous from the start: unverified, to be read back and hashed.
    fn received(&self) -> u64;

    /// What else an earlier attempt left, beyond [`received`](Self::received): in order, disjoint, as unverified as that. A writer that
    /// keeps only what is contiguous has none.
    fn islands(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Writes `bytes` at `offset`. Blocking, but only as long as the page cache takes.
    ///
    /// # Errors
    /// `Storage`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Reads back what was written, into the whole of `buffer`; answers how many bytes there were.
    ///
    /// # Errors
    /// `Storage`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Makes the blob, whose bytes hashed to `digest`, visible: whole or not at all. Returns once it is queued; a [`Sink::publish`]
    /// that comes later is ordered behind it.
    ///
    /// # Errors
    /// `Storage`.
    fn commit(self, digest: &Digest) -> Result<()>;

    /// Forgets what was written: it was wrong. A later `ingest` of the same blob starts from nothing.
    ///
    /// # Errors
    /// `Storage`.
    fn discard(self) -> Result<()>;
}

/// Takes one blob's bytes in order, to where they can't be read back from.
///
/// The engine hashes what it writes and commits only what hashed right. Whatever fails, the upload lives on: the engine
/// asks [`received`](Self::received) and goes on from there. Dropped without `commit` nothing of it is visible.
pub trait BlobUpload: Send + 'static {
    /// How many bytes the other side surely holds, from the blob's start. Asked before the first byte and after each
    /// failure; never more than was written. It may be fewer than before: an upload that the other side lost begins anew.
    ///
    /// # Errors
    /// What the request came to, where it took one.
    fn received(&mut self) -> impl Future<Output = Result<u64>> + Send;

    /// Sends `bytes`, those that follow what was written or, after a failure, what was received.
    ///
    /// Returns when they are on their way, which is not when they have arrived.
    ///
    /// # Errors
    /// `Unavailable` and so on: then `received` tells how far it came.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Makes the blob, whose bytes hashed to `digest`, visible. After a failure that passes it may be called again, once
    /// `received` has told that all is there.
    ///
    /// # Errors
    /// As `write`; `Corrupt` when the other side hashed something else.
    fn commit(&mut self, digest: &Digest) -> impl Future<Output = Result<()>> + Send;
}

/// No writer at all: for sinks that take uploads only.
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

/// No upload at all: for sinks that are written at any offset.
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

/// One image ready to be made visible.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Where it goes: each repository gets all links, and each tag named.
    pub places: Vec<Place>,
    /// The manifests and indexes, children first, the root last.
    pub manifests: Vec<Arc<RawManifest>>,
    /// The configurations and layers to link, without duplicates.
    pub blobs: Vec<Digest>,
}

impl Publication {
    /// The digest that tags will name.
    #[must_use]
    pub fn root(&self) -> Option<Digest> {
        self.manifests.last().map(|manifest| manifest.digest)
    }
}

/// A repository, and the tag in it that shall name the image (none for an image pinned by digest alone).
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
