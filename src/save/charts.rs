//! Charts of Helm repositories among the images to save.

use super::SaveImage;
use crate::chart::{ChartRepositories, ChartSource, LocatedChart};
use crate::content::{BlobStream, Place, Referrer, Resolved, Source, Target};
use crate::error::Result;
use crate::list::{ChartName, ListEntry, ListedChart};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Reference, Repository, Tag};
use crate::registry::Session;
use crate::store::Store;
use futures::stream::{self, StreamExt};
use std::sync::Arc;

/// How many charts are looked up at a time.
const CONCURRENCY: usize = 8;

/// A chart to save: where its archive is, or why it was not found.
#[derive(Clone, Debug)]
pub struct ChartToSave {
    repositories: Arc<ChartRepositories>,
    located: Result<LocatedChart>,
}

/// Finds the versions of charts in the indexes of their repositories, and returns what to save. A chart that is not found is an image
/// that fails, and does not stop the others.
///
/// # Errors
/// `InvalidInput` for a chart that can have no name in a registry.
pub async fn resolve_charts(
    charts: Vec<ListedChart>,
    repositories: ChartRepositories,
) -> Result<Vec<(ListEntry, SaveImage)>> {
    let repositories = Arc::new(repositories);
    // Checked before anything is requested.
    let named = charts.into_iter().map(|one| Ok((unversioned(&one.chart)?, one)));
    let named: Vec<(Reference, ListedChart)> = named.collect::<Result<_>>()?;
    let located = stream::iter(named).map(|(name, listed)| {
        let repositories = repositories.clone();
        async move {
            let located = repositories.locate(&listed.chart).await;
            let reference = located.as_ref().map_or(name, |located| located.reference.clone());
            let chart = located.as_ref().map_or(listed.chart, |located| located.chart.clone());
            let entry = ListEntry {
                chart: Some(Arc::new(chart)),
                ..ListEntry::new(reference.clone(), listed.origin)
            };
            let chart = Some(Box::new(ChartToSave { repositories, located }));
            (entry, SaveImage { chart, ..SaveImage::from(reference) })
        }
    });
    Ok(located.buffered(CONCURRENCY).collect().await)
}

/// The name of a chart whose version is not known.
fn unversioned(chart: &ChartName) -> Result<Reference> {
    Ok(Reference { tag: None, ..chart.reference("0")? })
}

/// Where an image is saved from.
pub(super) enum SaveSource {
    Registry(Arc<Session>),
    Chart(Box<ChartSource>),
}

impl ChartToSave {
    /// The source of the chart, which need not be downloaded if `place` has its archive.
    ///
    /// # Errors
    /// Why the chart was not found; `Storage` if the directory cannot be read.
    pub(super) fn source(&self, store: &Store, place: &Place) -> Result<ChartSource> {
        let located = self.located.clone()?;
        let known =
            located.digest.map(|archive| known_manifest(store, place, archive)).transpose()?.flatten();
        Ok(ChartSource::new(self.repositories.clone(), located, known))
    }
}

/// The manifest that `place` names, if it is that of a chart whose archive has the digest `archive` and nothing of it is missing.
fn known_manifest(store: &Store, place: &Place, archive: Digest) -> Result<Option<RawManifest>> {
    let Some(tag) = &place.tag else { return Ok(None) };
    let Some(digest) = store.read_tag(&place.repository, tag)? else { return Ok(None) };
    let Some(content) = store.read_content(&digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
    // A manifest that is damaged is replaced.
    let Ok(Some((raw, Manifest::Image(image)))) = RawManifest::verified(content, digest) else {
        return Ok(None);
    };
    if image.layers.first().is_none_or(|layer| layer.digest != archive) {
        return Ok(None);
    }
    for blob in image.blobs() {
        if store.blob_size(&blob.digest)? != Some(blob.size) {
            return Ok(None);
        }
    }
    Ok(Some(raw))
}

impl Source for SaveSource {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        match self {
            Self::Registry(session) => session.resolve(repository, tag).await,
            Self::Chart(chart) => chart.resolve(repository, tag).await,
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        match self {
            Self::Registry(session) => session.manifest(repository, target).await,
            Self::Chart(chart) => chart.manifest(repository, target).await,
        }
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        match self {
            Self::Registry(session) => session.blob(repository, descriptor, from, to).await,
            Self::Chart(chart) => chart.blob(repository, descriptor, from, to).await,
        }
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        match self {
            Self::Registry(session) => session.referrers(repository, subject).await,
            Self::Chart(_) => Ok(Vec::new()),
        }
    }

    fn report_corrupt(&self, repository: &Repository, digest: &Digest) {
        if let Self::Registry(session) = self {
            session.report_corrupt(repository, digest);
        }
    }
}
