//! Inspects an image without transferring it: manifests, platforms, configurations, layers.
//!
//! All documents are verified. The content of layers is not read.

mod layers;

pub use layers::LayerInspection;

use crate::content::retry::RetryPolicy;
use crate::content::{Source, document};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::ls::ContentKind;
use crate::oci::config::Execution;
use crate::oci::manifest::{ImageManifest, MAX_INDEX_DEPTH};
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, Platform, PlatformSet, RawManifest, Reference};
use crate::oci::{Repository, media_type};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashSet};

/// The maximum number of manifests of one image.
const MAX_MANIFESTS: usize = 1000;
/// The number of documents that are requested at a time.
const AT_ONCE: usize = 8;

/// Options of an inspection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InspectOptions {
    /// The platforms to show.
    pub platforms: PlatformSet,
    /// The retry policy.
    pub retry: RetryPolicy,
}

/// The result of an inspection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Inspection {
    /// The schema version; incremented when a field is removed or changes its meaning.
    pub schema: u32,
    /// The name as requested or, of an image in a directory, the one that it was saved from, if that is recorded.
    pub reference: Reference,
    /// The digest of the manifest or index that it names.
    pub digest: Digest,
    /// The media type of that document.
    pub media_type: String,
    /// The size of that document in bytes.
    pub size: u64,
    /// What it is.
    pub kind: ContentKind,
    /// The manifests, one for each platform, in the order of the index.
    pub manifests: Vec<ManifestInspection>,
}

/// One manifest: an image for one platform, or an artifact.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ManifestInspection {
    /// The platform; `None` for artifacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Whether it is present: a tree may have only some manifests of an index. The other fields of one that is not are empty.
    pub present: bool,
    /// The size of the configuration and layers in bytes, without foreign layers and duplicates.
    pub bytes: u64,
    /// The digest of the image that this is an attestation of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_of: Option<Digest>,
    /// The artifact type, if it declares one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    /// The creation time in its configuration (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How containers are run.
    #[serde(default, deserialize_with = "execution", skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Its layers, base first.
    pub layers: Vec<LayerInspection>,
    /// The annotations of its entry in the index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Inspection {
    /// The current schema version.
    pub const SCHEMA: u32 = 1;
}

/// Reads an [`Execution`] as this report writes it: image configurations have the ports as the keys of a map.
fn execution<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Execution>, D::Error> {
    let Some(mut written) = Option::<serde_json::Value>::deserialize(from)? else { return Ok(None) };
    if let Some(ports) = written.get_mut("ExposedPorts").filter(|ports| ports.is_array()) {
        let listed = ports.as_array().into_iter().flatten().filter_map(|port| port.as_str());
        *ports = listed.map(|port| (port.to_owned(), serde_json::Value::Null)).collect();
    }
    serde_json::from_value(written).map(Some).map_err(serde::de::Error::custom)
}

/// Inspects `reference`, whose repository is its name at `source`.
///
/// # Errors
/// As [`Source::resolve`] and [`Source::manifest`]; `PlatformNotFound` if it has none of the requested platforms; `Corrupt` for
/// invalid documents.
pub async fn inspect<S: Source>(
    source: &S,
    reference: &Reference,
    options: &InspectOptions,
) -> Result<Inspection> {
    let digest = document::resolve(source, reference, &options.retry).await?;
    let root = document::manifest(source, &reference.repository, digest, &options.retry).await?;
    let look = Look { source, repository: &reference.repository, options };
    let manifests = look.below(&root, None, 0).await?;
    let wanted = |manifest: &ManifestInspection| match &manifest.platform {
        Some(platform) => options.platforms.accepts(platform),
        // Artifacts have no platform and are never filtered; attestations are shown with all platforms only.
        None => manifest.attestation_of.is_none() || options.platforms == PlatformSet::All,
    };
    let offered: Vec<String> =
        manifests.iter().filter_map(|manifest| manifest.platform.as_ref().map(ToString::to_string)).collect();
    let any = !manifests.is_empty();
    let manifests: Vec<_> = manifests.into_iter().filter(wanted).collect();
    if any && manifests.is_empty() {
        let wanted = match &options.platforms {
            PlatformSet::Only(wanted) => wanted.iter().map(Platform::to_string).collect(),
            other => vec![other.to_string()],
        };
        let detail = Detail::Platform { wanted, available: offered };
        return Err(Error::from_detail(ErrorKind::PlatformNotFound, reference, detail).on(Side::Source));
    }
    Ok(Inspection {
        schema: Inspection::SCHEMA,
        reference: reference.clone(),
        digest,
        size: root.bytes.len() as u64,
        kind: kind(&manifests),
        media_type: root.media_type,
        manifests,
    })
}

/// The digest of `reference`. If it is an index and `platforms` are given, that of the manifest that a runtime would use.
///
/// # Errors
/// As [`inspect`]; `InvalidInput` if several platforms match.
pub async fn digest<S: Source>(
    source: &S,
    reference: &Reference,
    options: &InspectOptions,
) -> Result<Digest> {
    let digest = document::resolve(source, reference, &options.retry).await?;
    if options.platforms == PlatformSet::All {
        return Ok(digest);
    }
    let found = inspect(source, &Reference { digest: Some(digest), ..reference.clone() }, options).await?;
    let images: Vec<&ManifestInspection> =
        found.manifests.iter().filter(|manifest| manifest.platform.is_some()).collect();
    let platforms: Vec<Platform> = images.iter().filter_map(|image| image.platform.clone()).collect();
    let kinds: HashSet<Platform> =
        platforms.iter().map(|platform| platform.normal().without_os_version()).collect();
    match (found.manifests.as_slice(), options.platforms.runnable(&platforms)) {
        ([one], _) => Ok(one.digest),
        // Artifacts beside an image are never filtered, and never what is asked for.
        (_, Some(first)) if is_one(&options.platforms) || kinds.len() == 1 => Ok(images[first].digest),
        (several, _) => {
            let message = format!("{} manifests match {}", several.len(), options.platforms);
            Err(Error::new(ErrorKind::InvalidInput, reference, message)
                .with_hint("request one platform with --arch"))
        }
    }
}

fn is_one(platforms: &PlatformSet) -> bool {
    matches!(platforms, PlatformSet::Only(some) if some.len() == 1)
}

struct Look<'a, S> {
    source: &'a S,
    repository: &'a Repository,
    options: &'a InspectOptions,
}

impl<S: Source> Look<'_, S> {
    /// Inspects `raw` and what is below it; `entry` is its entry in the index.
    fn below<'b>(
        &'b self,
        raw: &'b RawManifest,
        entry: Option<&'b Descriptor>,
        depth: usize,
    ) -> BoxFuture<'b, Result<Vec<ManifestInspection>>> {
        async move {
            let index = match raw.parse()? {
                Manifest::Image(image) => return Ok(vec![self.image(raw, &image, entry).await?]),
                Manifest::Index(index) => index,
            };
            if depth == MAX_INDEX_DEPTH || index.manifests.len() > MAX_MANIFESTS {
                let many = format!(
                    "indexes are nested more than {MAX_INDEX_DEPTH} levels deep, or one has more than {MAX_MANIFESTS} manifests"
                );
                return Err(Error::new(ErrorKind::Unsupported, raw.digest, many).on(Side::Source));
            }
            let entries: Vec<_> = index.manifests.iter().map(|entry| self.entry(entry, depth).boxed()).collect();
            let entries = stream::iter(entries);
            Ok(entries.buffered(AT_ONCE).try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
        }
        .boxed()
    }

    async fn entry(&self, entry: &Descriptor, depth: usize) -> Result<Vec<ManifestInspection>> {
        let known = entry.platform.as_ref().filter(|platform| !platform.is_unknown());
        if known.is_some_and(|platform| !self.options.platforms.accepts(platform)) {
            return Ok(vec![named(entry, true)]);
        }
        match document::manifest(self.source, self.repository, entry.digest, &self.options.retry).await {
            Ok(raw) => self.below(&raw, Some(entry), depth + 1).await,
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![named(entry, false)]),
            Err(error) => Err(error),
        }
    }

    async fn image(
        &self,
        raw: &RawManifest,
        image: &ImageManifest,
        entry: Option<&Descriptor>,
    ) -> Result<ManifestInspection> {
        let own = raw.descriptor();
        let mut manifest = named(entry.unwrap_or(&own), true);
        manifest.media_type.clone_from(&raw.media_type);
        let is_image = image.is_image() && manifest.attestation_of.is_none();
        let config = if is_image {
            document::config(self.source, self.repository, &image.config, &self.options.retry).await?
        } else {
            ImageConfig::default()
        };
        let mut counted = std::collections::HashSet::new();
        let own = image.blobs().filter(|blob| !media_type::is_foreign_layer(&blob.media_type));
        let once = own.filter(|blob| counted.insert(blob.digest));
        manifest.bytes = once.fold(0, |sum, blob| sum.saturating_add(blob.size));
        manifest.artifact_type.clone_from(&image.artifact_type);
        manifest.layers = layers::of(image, &config);
        manifest.config = Some(image.config.clone());
        // cosign stores signatures with an image configuration that names no platform; an index may name one for it.
        if is_image && (manifest.platform.is_some() || !config.platform.is_unknown()) {
            manifest.platform = manifest.platform.or(Some(config.platform));
            manifest.created = config.created;
            manifest.execution = Some(config.config);
        }
        Ok(manifest)
    }
}

/// What an index says about a manifest.
fn named(entry: &Descriptor, present: bool) -> ManifestInspection {
    ManifestInspection {
        platform: entry.platform.clone().filter(|platform| !platform.is_unknown()),
        digest: entry.digest,
        media_type: entry.media_type.clone(),
        present,
        bytes: 0,
        attestation_of: entry.attestation_of(),
        artifact_type: entry.artifact_type.clone(),
        config: None,
        created: None,
        execution: None,
        layers: Vec::new(),
        annotations: entry.annotations.clone(),
    }
}

/// With an image among the manifests it is an image; else the first artifact decides.
fn kind(manifests: &[ManifestInspection]) -> ContentKind {
    let is_chart = |manifest: &ManifestInspection| {
        manifest.config.as_ref().is_some_and(|config| config.media_type == media_type::HELM_CONFIG)
    };
    match manifests {
        [] => ContentKind::Unknown,
        some if some.iter().any(|manifest| manifest.platform.is_some()) => ContentKind::Image,
        some if some.iter().any(is_chart) => ContentKind::HelmChart,
        _ => ContentKind::Artifact,
    }
}
