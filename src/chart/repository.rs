//! Classic Helm repositories: finds charts in their indexes, and downloads them.

use super::index::{ChartIndex, MAX_INDEX_BYTES};
use super::package::{ChartPackage, MAX_PACKAGE_BYTES};
use crate::content::document::retrying;
use crate::content::retry::RetryPolicy;
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::list::ChartName;
use crate::oci::{Digest, Reference};
use crate::registry::{Access, RemoteFile, Sessions};
use crate::single_flight::SingleFlight;
use bytes::Bytes;
use std::sync::Arc;
use url::Url;

/// How many charts of a host are downloaded at a time.
const CONNECTIONS: usize = 8;
/// Maximum size of a provenance file in bytes.
pub const MAX_PROVENANCE_BYTES: usize = 1 << 20;

/// A version of a chart, as the index of its repository describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedChart {
    /// The chart, with the version in the index.
    pub chart: ChartName,
    /// Its name as an image.
    pub reference: Reference,
    /// The archive.
    pub url: Url,
    /// The digest of the archive, if the index has it.
    pub digest: Option<Digest>,
}

/// The clients of Helm repositories. Each index is downloaded once.
#[derive(Debug)]
pub struct ChartRepositories {
    sessions: Sessions,
    indexes: SingleFlight<Url, Result<Arc<ChartIndex>>>,
    retry: RetryPolicy,
}

impl ChartRepositories {
    /// Repositories with the settings and credentials of `access`, by host as for registries.
    #[must_use]
    pub fn new(access: Access, retry: RetryPolicy) -> Self {
        let sessions = Sessions::new(access, CONNECTIONS);
        Self { sessions, indexes: SingleFlight::remembering(), retry }
    }

    /// Finds the version of a chart.
    ///
    /// # Errors
    /// Those of downloading the index; `NotFound` if it has no such version; `Corrupt` for an invalid index.
    pub async fn locate(&self, chart: &ChartName) -> Result<LocatedChart> {
        let flight = self.indexes.join(chart.repository.clone());
        let index = flight.run(retrying(&self.retry, || self.index(chart))).await?;
        let entry = index.select(chart)?;
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, chart, why).on(Side::Source);
        let version = entry.version.clone().unwrap_or_default();
        let url =
            entry.urls.iter().flatten().next().ok_or_else(|| corrupt("the index has no URL of the chart"))?;
        let url =
            chart.repository.join(url).map_err(|_| corrupt("the index has an invalid URL of the chart"))?;
        let digest = entry.digest().map_err(|()| corrupt("the index has an invalid digest of the chart"))?;
        let reference = chart.reference(&version)?;
        Ok(LocatedChart { chart: ChartName { version, ..chart.clone() }, reference, url, digest })
    }

    async fn index(&self, chart: &ChartName) -> Result<Arc<ChartIndex>> {
        let url = chart.repository.join("index.yaml").map_err(|_| Error::internal(&chart.repository))?;
        let subject = url.to_string();
        let name = ChartName { version: "1".into(), ..chart.clone() }.reference("1")?;
        let file = RemoteFile {
            subject: &subject,
            repository: &name.repository,
            url: &url,
            linked_from: None,
            max: MAX_INDEX_BYTES,
            compressed: true,
        };
        let text = self.sessions.download(file).await?;
        // Parsing takes up to a second.
        let parsed = tokio::task::spawn_blocking(move || ChartIndex::parse(&subject, &text)).await;
        parsed.map_err(|_| Error::internal(url))?.map(Arc::new)
    }

    /// Downloads a chart and its provenance file, with one attempt.
    ///
    /// # Errors
    /// Those of downloading it; `Corrupt` if it is not what the index says, or no chart.
    pub async fn fetch(&self, located: &LocatedChart) -> Result<ChartPackage> {
        let subject = located.reference.to_string();
        let archive = self.download(&subject, located, &located.url, MAX_PACKAGE_BYTES).await?;
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, &subject, why).on(Side::Source);
        let found = Digest::of(&archive);
        if let Some(expected) = located.digest.filter(|expected| *expected != found) {
            let detail = Detail::Mismatch { expected: expected.to_string(), actual: found.to_string() };
            return Err(corrupt("the chart is not the one in the index").with_detail(detail));
        }
        let name = subject.clone();
        let package = tokio::task::spawn_blocking(move || ChartPackage::read(&name, archive)).await;
        let package = package.map_err(|_| Error::internal(&subject))??;
        let chart = &located.chart;
        if (package.name(), package.version()) != (&chart.name, &chart.version) {
            let (name, version) = (package.name(), package.version());
            return Err(corrupt(&format!("the archive contains the chart {name:?}, version {version:?}")));
        }
        Ok(package.with_provenance(self.provenance(&subject, located).await?))
    }

    /// The provenance file beside the archive. Many hosts answer 403 for a file that does not exist.
    async fn provenance(&self, subject: &str, located: &LocatedChart) -> Result<Option<Bytes>> {
        let mut url = located.url.clone();
        url.set_path(&format!("{}.prov", url.path()));
        match self.download(subject, located, &url, MAX_PROVENANCE_BYTES).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind().is_retryable() => Err(error),
            Err(_) => Ok(None),
        }
    }

    async fn download(&self, subject: &str, located: &LocatedChart, url: &Url, max: usize) -> Result<Bytes> {
        let file = RemoteFile {
            subject,
            repository: &located.reference.repository,
            url,
            linked_from: Some(&located.chart.repository),
            max,
            compressed: false,
        };
        self.sessions.download(file).await
    }
}
