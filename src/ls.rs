//! What a store holds: repositories, tags, platforms and sizes, as data.
//!
//! Links, sizes of files and manifests' hashes are looked at, layers' bytes are not: that is verification's work.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE, config_platform};
use crate::oci::{Descriptor, Digest, Index, Manifest, Platform, RawManifest, Repository, Tag, media_type};
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How deep indexes in indexes are followed.
const MAX_DEPTH: usize = 8;
/// How many manifests of one tag are looked at.
const MAX_MANIFESTS: usize = 10_000;
/// How many faults of one tag are told.
const MAX_PROBLEMS: usize = 20;

/// The contents of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listing {
    /// The version of this form: 1.
    pub schema: u32,
    /// The repositories, by name.
    pub repositories: Vec<RepositoryListing>,
    /// All of it together.
    pub totals: Totals,
}

/// A repository's tags.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepositoryListing {
    /// Its name.
    pub repository: Repository,
    /// Its tags, by name.
    pub tags: Vec<TagListing>,
    /// The bytes of what its tags reach, each content counted once.
    pub bytes: u64,
}

/// What a tag names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TagListing {
    /// The tag.
    pub tag: Tag,
    /// What it names; none when its link is missing or damaged.
    pub digest: Option<Digest>,
    /// The media type of the manifest or index that it names.
    pub media_type: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// The type of artifact, of what is neither an image nor a chart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The platforms that it has, in the index's order.
    pub platforms: Vec<PlatformListing>,
    /// The bytes that it reaches in the store, manifests among them, each content counted once.
    pub bytes: u64,
    /// What is wrong with it; empty when it can be pulled.
    pub problems: Vec<String>,
}

/// A platform that an image has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlatformListing {
    /// Its name: `linux/arm64/v8`.
    pub platform: String,
    /// Whether it is in the store; an index may name more than what was saved.
    pub present: bool,
}

/// What a tag names, by what can be done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A runnable image.
    Image,
    /// A Helm chart.
    HelmChart,
    /// Another artifact: a signature, an SBOM.
    Artifact,
    /// It can't be read.
    #[default]
    Unknown,
}

impl Kind {
    /// Its name, as people say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::HelmChart => "helm chart",
            Self::Artifact => "artifact",
            Self::Unknown => "unknown",
        }
    }
}

/// Sums over a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    /// How many repositories.
    pub repositories: usize,
    /// How many tags.
    pub tags: usize,
    /// How many tags have something wrong with them.
    pub damaged: usize,
    /// The bytes that the tags reach, each content counted once.
    pub bytes: u64,
}

/// Lists `only` these repositories, or all if it is empty.
///
/// # Errors
/// `Storage` when the tree can't be read, `NotFound` for a repository that is not there. A damaged tag is no error: it is
/// listed with what is wrong.
pub fn list(store: &Store, only: &[Repository]) -> Result<Listing> {
    let names = if only.is_empty() { store.repositories()? } else { only.to_vec() };
    let mut repositories = Vec::with_capacity(names.len());
    let mut seen = Reached::default();
    let mut totals = Totals::default();
    for repository in names {
        if !only.is_empty() && !store.has_repository(&repository)? {
            return Err(Error::new(ErrorKind::NotFound, repository, "no such repository in the store")
                .with_hint("list all of them without naming one"));
        }
        let mut seen_here = Reached::default();
        let mut tags = Vec::new();
        for tag in store.tags(&repository)? {
            let (listing, reached) = list_tag(store, &repository, tag)?;
            totals.damaged += usize::from(!listing.problems.is_empty());
            seen_here.0.extend(reached.0);
            tags.push(listing);
        }
        totals.repositories += 1;
        totals.tags += tags.len();
        repositories.push(RepositoryListing { repository, tags, bytes: seen_here.bytes() });
        seen.0.extend(seen_here.0);
    }
    totals.bytes = seen.bytes();
    Ok(Listing { schema: 1, repositories, totals })
}

/// Contents with their sizes.
#[derive(Default)]
struct Reached(HashMap<Digest, u64>);

impl Reached {
    fn bytes(&self) -> u64 {
        self.0.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

fn list_tag(store: &Store, repository: &Repository, tag: Tag) -> Result<(TagListing, Reached)> {
    let mut walk = Walk {
        store,
        repository,
        reached: Reached::default(),
        manifests: 0,
        kind: Kind::Unknown,
        artifact_type: None,
        platforms: Vec::new(),
        problems: Vec::new(),
    };
    let digest = store.read_tag(repository, &tag)?;
    let mut media_type = None;
    match digest {
        None => walk.problem("the tag's link is missing or damaged".into()),
        Some(digest) => match walk.read(&digest)? {
            Some(raw) => {
                media_type = Some(raw.media_type.clone());
                walk.manifest(&raw, None, 0)?;
            }
            None if walk.problems.is_empty() => {
                walk.problem(format!("manifest {} is missing", digest.short()));
            }
            None => {}
        },
    }
    let listing = TagListing {
        tag,
        digest,
        media_type,
        kind: walk.kind,
        artifact_type: walk.artifact_type,
        platforms: walk.platforms,
        bytes: walk.reached.bytes(),
        problems: walk.problems,
    };
    Ok((listing, walk.reached))
}

/// Everything under one tag.
struct Walk<'a> {
    store: &'a Store,
    repository: &'a Repository,
    reached: Reached,
    manifests: usize,
    kind: Kind,
    artifact_type: Option<String>,
    platforms: Vec<PlatformListing>,
    problems: Vec<String>,
}

impl Walk<'_> {
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&what) {
            self.problems.push(what);
        }
    }

    /// A manifest that the repository can serve; none when it is absent. One that is damaged is a problem, and none too.
    fn read(&mut self, digest: &Digest) -> Result<Option<RawManifest>> {
        if !self.store.has_revision(self.repository, digest)? {
            return Ok(None);
        }
        let Some(bytes) = self.store.read_content(digest, MAX_MANIFEST_SIZE)? else {
            // Linked, it was saved: that is another thing than a platform that nobody asked for.
            self.problem(format!("manifest {} is missing", digest.short()));
            return Ok(None);
        };
        match RawManifest::new(bytes, None) {
            Ok(raw) if raw.digest == *digest => Ok(Some(raw)),
            Ok(_) => {
                self.problem(format!("manifest {} is damaged", digest.short()));
                Ok(None)
            }
            Err(error) => {
                self.problem(format!("manifest {}: {}", digest.short(), error.message()));
                Ok(None)
            }
        }
    }

    /// Follows a manifest; `entry` is what the index above says of it. Answers whether an image or artifact
    /// was found.
    fn manifest(&mut self, raw: &RawManifest, entry: Option<&Descriptor>, depth: usize) -> Result<bool> {
        self.manifests += 1;
        self.reached.0.insert(raw.digest, raw.bytes.len() as u64);
        match raw.parse() {
            Ok(Manifest::Image(image)) => self.image(&image, entry).map(|()| true),
            Ok(Manifest::Index(index)) => self.index(&index, raw, depth),
            Err(error) => {
                self.problem(format!("manifest {}: {}", raw.digest.short(), error.message()));
                Ok(false)
            }
        }
    }

    fn index(&mut self, index: &Index, raw: &RawManifest, depth: usize) -> Result<bool> {
        let mut present = 0;
        for entry in &index.manifests {
            if self.reached.0.contains_key(&entry.digest) {
                present += 1;
                continue;
            }
            if depth == MAX_DEPTH || self.manifests == MAX_MANIFESTS {
                self.problem("more indexes in indexes than are followed".into());
                return Ok(present > 0);
            }
            let problems = self.problems.len();
            match self.read(&entry.digest)? {
                Some(child) => present += usize::from(self.manifest(&child, Some(entry), depth + 1)?),
                None => {
                    if let Some(platform) = &entry.platform {
                        self.platform(platform, false);
                    }
                }
            }
            // One that is there but damaged has been told of; that is another thing than nothing being there.
            present += usize::from(self.problems.len() > problems);
        }
        // An index within another may be there by itself: of its platforms none was asked for.
        if present == 0 && depth == 0 && !index.manifests.is_empty() {
            self.problem(format!("index {}: none of its manifests is there", raw.digest.short()));
        }
        Ok(present > 0)
    }

    fn image(&mut self, image: &ImageManifest, entry: Option<&Descriptor>) -> Result<()> {
        let blobs = image.blobs().filter(|blob| !media_type::is_foreign_layer(&blob.media_type));
        for blob in blobs {
            let short = blob.digest.short();
            if !self.store.has_layer(self.repository, &blob.digest)? {
                self.problem(format!("blob {short} has no link in the repository"));
            }
            match self.store.blob_size(&blob.digest)? {
                Some(size) => {
                    self.reached.0.insert(blob.digest, size);
                    if size != blob.size {
                        self.problem(format!("blob {short} has {size} bytes instead of {}", blob.size));
                    }
                }
                None => self.problem(format!("blob {short} is missing")),
            }
        }
        // An attestation beside an image does not make it another kind of thing.
        if entry.is_some_and(|entry| entry.platform.as_ref().is_some_and(Platform::is_unknown)) {
            return Ok(());
        }
        if !image.is_image() {
            self.artifact(image);
            return Ok(());
        }
        let platform = match entry.and_then(|entry| entry.platform.clone()) {
            Some(platform) => Some(platform),
            None => {
                let config = self.store.read_content(&image.config.digest, MAX_MANIFEST_SIZE)?;
                config.and_then(|config| config_platform(&config).ok())
            }
        };
        // cosign writes signatures with an image's configuration that names no platform.
        if platform.as_ref().is_some_and(|platform| platform.architecture.is_empty()) {
            self.artifact(image);
            return Ok(());
        }
        self.kind = Kind::Image;
        self.artifact_type = None;
        if let Some(platform) = platform {
            self.platform(&platform, true);
        }
        Ok(())
    }

    /// An image beside it says what a tag is; else the first artifact does.
    fn artifact(&mut self, artifact: &ImageManifest) {
        if self.kind != Kind::Unknown {
            return;
        }
        if artifact.config.media_type == media_type::HELM_CONFIG {
            self.kind = Kind::HelmChart;
            return;
        }
        self.kind = Kind::Artifact;
        self.artifact_type = artifact.artifact_type.clone().or_else(|| {
            let of_config = Some(&artifact.config.media_type);
            let of_content = artifact.layers.first().map(|layer| &layer.media_type);
            of_config.filter(|name| !media_type::is_image_config(name)).or(of_content).cloned()
        });
    }

    fn platform(&mut self, platform: &Platform, present: bool) {
        if platform.is_unknown() {
            return;
        }
        let platform = platform.to_string();
        // Windows has a manifest per version of one platform: any of them is enough.
        match self.platforms.iter_mut().find(|listed| listed.platform == platform) {
            Some(listed) => listed.present |= present,
            None => self.platforms.push(PlatformListing { platform, present }),
        }
    }
}
