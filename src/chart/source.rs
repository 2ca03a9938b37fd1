//! A chart of a repository as a source of the engine.

use super::{ChartArtifact, ChartRepositories, LocatedChart};
use crate::content::{BlobStream, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, RawManifest, Repository, Tag};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Charts up to this size are kept from the time when their manifest is made until they are written; larger ones are downloaded
/// again. Bounds the memory of a run with many charts.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// One chart, which is downloaded when its turn comes.
#[derive(Debug)]
pub(crate) struct ChartSource {
    repositories: Arc<ChartRepositories>,
    located: LocatedChart,
    /// The manifest that the sink has of this very archive, so that it need not be downloaded.
    known: Option<RawManifest>,
    kept: Mutex<Option<Arc<ChartArtifact>>>,
}

impl ChartSource {
    pub(crate) fn new(
        repositories: Arc<ChartRepositories>,
        located: LocatedChart,
        known: Option<RawManifest>,
    ) -> Self {
        Self { repositories, located, known, kept: Mutex::default() }
    }

    /// The artifact. Callers that come meanwhile wait for the same download.
    async fn artifact(&self) -> Result<Arc<ChartArtifact>> {
        let mut kept = self.kept.lock().await;
        if let Some(artifact) = &*kept {
            return Ok(artifact.clone());
        }
        let package = self.repositories.fetch(&self.located).await?;
        let artifact = Arc::new(package.artifact()?);
        if package.archive().len() <= MAX_KEPT_BYTES {
            *kept = Some(artifact.clone());
        }
        Ok(artifact)
    }

    async fn raw_manifest(&self) -> Result<RawManifest> {
        match &self.known {
            Some(known) => Ok(known.clone()),
            None => Ok(self.artifact().await?.manifest.clone()),
        }
    }

    fn not_found(&self, what: &impl std::fmt::Display) -> Error {
        let message = format!("the chart has no content {what}");
        Error::new(ErrorKind::NotFound, &self.located.reference, message).on(Side::Source)
    }
}

impl Source for ChartSource {
    async fn resolve(&self, _: &Repository, _: &Tag) -> Result<Resolved> {
        let manifest = self.raw_manifest().await?;
        Ok(Resolved { digest: manifest.digest, manifest: Some(manifest) })
    }

    async fn manifest(&self, _: &Repository, target: &Target) -> Result<RawManifest> {
        let manifest = self.raw_manifest().await?;
        match target {
            Target::Digest(digest) if *digest != manifest.digest => Err(self.not_found(digest)),
            _ => Ok(manifest),
        }
    }

    async fn blob(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let artifact = self.artifact().await?;
        let blob = artifact.blobs.iter().find(|(digest, _)| *digest == descriptor.digest);
        let Some((_, content)) = blob else { return Err(self.not_found(&descriptor.digest)) };
        let end = content.len();
        let position = |at: u64| usize::try_from(at).unwrap_or(end).min(end);
        let part: Bytes = content.slice(position(from)..to.map_or(end, position).max(position(from)));
        let length = Some(part.len() as u64);
        let chunks = futures::stream::once(std::future::ready(Ok(part))).boxed();
        Ok(BlobStream { start: position(from) as u64, length, chunks })
    }
}
