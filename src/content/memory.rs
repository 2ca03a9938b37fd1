//! Content in memory, as source and sink. Simple enough to be obviously correct: the reference for other implementations, and
//! the double that the engine is tested with.

use super::{
    BlobStream, BlobWriter, Ingest, Place, Publication, Referrer, ReferrerList, Resolved, Sink, Source,
    Target,
};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::referrer::{self, ReferrerTag, ReferrerTagKind, has_all};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// The size of the chunks that a blob is sent in, in bytes.
const CHUNK: usize = 1 << 20;

/// Everything that is visible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Content of every kind, by digest.
    pub blobs: BTreeMap<Digest, Bytes>,
    /// What each repository serves as a blob.
    pub links: BTreeSet<(Repository, Digest)>,
    /// What each repository serves as a manifest.
    pub revisions: BTreeSet<(Repository, Digest)>,
    /// What tags name.
    pub tags: BTreeMap<(Repository, Tag), Digest>,
    /// What tags name or have named.
    pub history: BTreeSet<(Repository, Tag, Digest)>,
}

#[derive(Default)]
struct State {
    contents: Contents,
    media_types: HashMap<Digest, String>,
    partial: HashMap<Digest, Partial>,
    writing: HashSet<Digest>,
}

/// The bytes received of a blob.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    /// Their ranges, in order and disjoint.
    written: Vec<Range<u64>>,
}

impl Partial {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        // A blob larger than memory cannot have been received.
        let (start, stop) = (offset as usize, end as usize);
        if self.bytes.len() < stop {
            self.bytes.resize(stop, 0);
        }
        self.bytes[start..stop].copy_from_slice(bytes);
        self.written.push(offset..end);
        self.written.sort_unstable_by_key(|range| range.start);
        self.written.dedup_by(|next, last| {
            let touching = next.start <= last.end;
            if touching {
                last.end = last.end.max(next.end);
            }
            touching
        });
    }

    /// The number of contiguous bytes from the start.
    fn front(&self) -> u64 {
        self.written.first().filter(|range| range.start == 0).map_or(0, |range| range.end)
    }
}

/// A registry in memory. Clones share their content.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Memory {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the visible content.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.lock().contents.clone()
    }

    /// Adds `content` as a blob, linked in `repository`.
    pub fn insert_blob(&self, repository: &Repository, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest::of(&content);
        let contents = &mut self.lock().contents;
        contents.blobs.insert(digest, content);
        contents.links.insert((repository.clone(), digest));
        digest
    }

    /// Replaces the bytes of `digest` by wrong ones.
    #[cfg(test)]
    pub(crate) fn replace_blob(&self, digest: &Digest, content: Bytes) {
        self.lock().contents.blobs.insert(*digest, content);
    }

    /// Adds `manifest` to `repository`, named by `tag` if there is one.
    pub fn insert_manifest(&self, repository: &Repository, tag: Option<&Tag>, manifest: &RawManifest) {
        let mut state = self.lock();
        state.add_manifest(repository, manifest);
        if let Some(tag) = tag {
            state.tag(repository, tag, manifest.digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn add_manifest(&mut self, repository: &Repository, manifest: &RawManifest) {
        self.contents.blobs.insert(manifest.digest, manifest.bytes.clone());
        self.media_types.insert(manifest.digest, manifest.media_type.clone());
        self.contents.revisions.insert((repository.clone(), manifest.digest));
    }

    /// The index that the fallback tag of `subject` names.
    fn referrer_index(&self, repository: &Repository, subject: &Digest) -> Option<RawManifest> {
        let tag = (repository.clone(), Tag::referrers(subject));
        let bytes = self.contents.blobs.get(self.contents.tags.get(&tag)?)?;
        RawManifest::new(bytes.clone(), None).ok()
    }

    /// The entries of that index.
    fn listed(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        match self.referrer_index(repository, subject).and_then(|index| index.parse().ok()) {
            Some(Manifest::Index(index)) => index.manifests,
            _ => Vec::new(),
        }
    }

    fn tag(&mut self, repository: &Repository, tag: &Tag, digest: Digest) {
        self.contents.history.insert((repository.clone(), tag.clone(), digest));
        self.contents.tags.insert((repository.clone(), tag.clone()), digest);
    }
}

fn not_found(repository: &Repository, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("{repository}: {what}"), "not found").on(Side::Source)
}

impl Source for Memory {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        let named = self.lock().contents.tags.get(&(repository.clone(), tag.clone())).copied();
        let digest = named.ok_or_else(|| not_found(repository, tag))?;
        Ok(Resolved { digest, manifest: None })
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
            Target::Digest(digest) => *digest,
        };
        let state = self.lock();
        if !state.contents.revisions.contains(&(repository.clone(), digest)) {
            return Err(not_found(repository, target));
        }
        let bytes = state.contents.blobs.get(&digest).ok_or_else(|| not_found(repository, target))?;
        RawManifest::new(bytes.clone(), state.media_types.get(&digest).map(String::as_str))
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let state = self.lock();
        let digest = descriptor.digest;
        let linked = state.contents.links.contains(&(repository.clone(), digest));
        let content = state.contents.blobs.get(&digest).filter(|_| linked);
        let content = content.ok_or_else(|| not_found(repository, digest))?;
        let position = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let (start, end) = (position(from), to.map_or(content.len(), position));
        let bytes = content.slice(start..end.max(start));
        let length = bytes.len();
        let chunk = move |at: usize| Ok(bytes.slice(at..length.min(at + CHUNK)));
        let chunks = futures::stream::iter((0..length).step_by(CHUNK).map(chunk)).boxed();
        Ok(BlobStream { start: start as u64, length: Some(length as u64), chunks })
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let state = self.lock();
        let listed = state.listed(repository, subject).into_iter().map(Referrer::Listed);
        let cosign = ReferrerTagKind::COSIGN.map(|kind| ReferrerTag { subject: *subject, kind });
        let has = |tag: &ReferrerTag| state.contents.tags.contains_key(&(repository.clone(), tag.tag()));
        Ok(listed.chain(cosign.into_iter().filter(has).map(Referrer::Tagged)).collect())
    }
}

impl Sink for Memory {
    type Writer = MemoryWriter;
    type Upload = Infallible;
    const LISTS_REFERRERS: bool = true;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.lock().contents.tags.get(&(repository.clone(), tag.clone())).copied())
    }

    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        Ok(self.lock().contents.history.contains(&(repository.clone(), tag.clone(), *digest)))
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let content = self.lock().contents.blobs.get(digest).cloned();
        Ok(content.filter(|content| content.len() as u64 <= limit))
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let state = self.lock();
        let content = state.contents.blobs.get(&descriptor.digest);
        Ok(content.is_some_and(|content| content.len() as u64 == descriptor.size))
    }

    async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.lock().contents.links.contains(&(repository.clone(), *digest)))
    }

    async fn is_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.lock().contents.revisions.contains(&(repository.clone(), *digest)))
    }

    async fn lists_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<bool> {
        let listed = self.lock().listed(repository, subject);
        Ok(has_all(&listed, referrers))
    }

    async fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<MemoryWriter, Infallible>> {
        let digest = descriptor.digest;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.has_blob(repository, descriptor).await? {
                return Ok(Ingest::Present);
            }
            {
                let mut state = self.lock();
                if state.writing.insert(digest) {
                    let partial = state.partial.entry(digest).or_default();
                    if partial.bytes.len() as u64 > descriptor.size {
                        *partial = Partial::default();
                    }
                    let received = partial.front();
                    let beyond = partial.written.iter().filter(|range| range.start > received);
                    return Ok(Ingest::Write(MemoryWriter {
                        memory: self.clone(),
                        digest,
                        size: descriptor.size,
                        received,
                        extents: beyond.cloned().collect(),
                    }));
                }
            }
            changed.await;
        }
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        let mut state = self.lock();
        for Place { repository, tag } in &image.places {
            for blob in &image.blobs {
                state.contents.links.insert((repository.clone(), *blob));
            }
            for manifest in &image.manifests {
                state.add_manifest(repository, manifest);
            }
            for (tag, digest) in &image.referrers.tags {
                state.tag(repository, &tag.tag(), *digest);
            }
            for ReferrerList { subject, referrers } in &image.referrers.lists {
                let index = referrer::merge(state.referrer_index(repository, subject).as_ref(), referrers)?;
                state.add_manifest(repository, &index);
                state.tag(repository, &Tag::referrers(subject), index.digest);
            }
            if let (Some(tag), Some(root)) = (tag, image.root()) {
                state.tag(repository, tag, root);
            }
        }
        Ok(())
    }
}

/// The writer of one blob.
pub struct MemoryWriter {
    memory: Memory,
    digest: Digest,
    size: u64,
    received: u64,
    extents: Vec<Range<u64>>,
}

impl BlobWriter for MemoryWriter {
    fn received(&self) -> u64 {
        self.received
    }

    fn extents(&self) -> Vec<Range<u64>> {
        self.extents.clone()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.size {
            let message = format!("bytes up to {end} go beyond its {}", self.size);
            return Err(Error::new(ErrorKind::Corrupt, self.digest, message).on(Side::Sink));
        }
        let mut state = self.memory.lock();
        state.partial.entry(self.digest).or_default().write(offset, bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let state = self.memory.lock();
        let partial = state.partial.get(&self.digest).map(|partial| &partial.bytes[..]).unwrap_or_default();
        let rest = partial.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn commit(self, digest: &Digest) -> Result<()> {
        let front = self.memory.lock().partial.get(&self.digest).map_or(0, Partial::front);
        if *digest != self.digest || front != self.size {
            let message = format!("committed as {digest} with {front} of {} bytes", self.size);
            return Err(Error::new(ErrorKind::Corrupt, self.digest, message).on(Side::Sink));
        }
        let mut state = self.memory.lock();
        let content = state.partial.remove(&self.digest).unwrap_or_default();
        state.contents.blobs.insert(self.digest, content.bytes.into());
        Ok(())
    }

    fn discard(self) -> Result<()> {
        self.memory.lock().partial.remove(&self.digest);
        Ok(())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.memory.lock().writing.remove(&self.digest);
        self.memory.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::sink(Memory::new).await;
    }

    #[tokio::test]
    async fn serves_what_was_published() {
        let memory = Memory::new();
        conformance::publish_sample(&memory).await;
        conformance::source(&memory).await;
    }
}
