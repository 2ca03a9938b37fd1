//! Lists the repositories, tags, platforms and sizes of a tree.
//!
//! Links, file sizes and the digests of manifests are checked. The content of layers is not; that is what `verify` does.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Index, Manifest, Platform, RawManifest, Repository, Tag, media_type};
use crate::store::Store;
use crate::store::inventory::InternalFiles;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// Maximum depth of nested indexes.
const MAX_DEPTH: usize = 8;
/// Maximum number of manifests read for one tag.
const MAX_MANIFESTS: usize = 10_000;
/// Maximum number of problems reported for one tag.
const MAX_PROBLEMS: usize = 20;

/// The contents of a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listing {
    /// The version of this format: 1.
    pub schema: u32,
    /// The repositories, sorted by name.
    pub repositories: Vec<RepositoryListing>,
    /// Totals over all listed repositories.
    pub totals: Totals,
    /// Files outside the tree: interrupted downloads, and what a repair moved away.
    pub internal: InternalFiles,
}

/// The tags of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepositoryListing {
    /// The name of the repository.
    pub repository: Repository,
    /// Its tags, sorted by name.
    pub tags: Vec<TagListing>,
    /// Total size of the content that its tags reach, each blob counted once.
    pub bytes: u64,
}

/// A tag and the image that it points to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TagListing {
    /// The tag.
    pub tag: Tag,
    /// The digest that it points to; `None` if its link is damaged.
    pub digest: Option<Digest>,
    /// The media type of the manifest or index.
    pub media_type: Option<String>,
    /// What the tag is.
    pub kind: ContentKind,
    /// The artifact type, if it is neither an image nor a chart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its platforms, in the order of the index.
    pub platforms: Vec<PlatformListing>,
    /// Total size of the stored content that it reaches, including manifests, each blob counted once.
    pub bytes: u64,
    /// What is wrong with it; empty if it can be pulled.
    pub problems: Vec<String>,
}

/// A platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlatformListing {
    /// Its name: `linux/arm64/v8`.
    pub platform: String,
    /// Whether it is stored. An index may list platforms that were not saved.
    pub present: bool,
}

/// What a tag can be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ContentKind {
    /// A runnable image.
    Image,
    /// A Helm chart.
    HelmChart,
    /// Another artifact: a signature, an SBOM.
    Artifact,
    /// It could not be read.
    #[default]
    Unknown,
}

impl ContentKind {
    /// Its name for display.
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

/// Totals over a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    /// Number of repositories.
    pub repositories: usize,
    /// Number of tags.
    pub tags: usize,
    /// Number of tags with problems.
    pub damaged: usize,
    /// Total size of the content that the tags reach, each blob counted once.
    pub bytes: u64,
}

/// How long to wait for a process that is removing something, before a damaged tag is read again beside it.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Lists the repositories in `only`, or all if it is empty. Damaged tags are listed with their problems. Since a removal in progress
/// looks like damage, problems count only if they are found again while nothing is being removed.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree, `Storage` if it can't be read, `NotFound` for a repository that does not exist.
pub fn list(store: &Store, only: &[Repository]) -> Result<Listing> {
    store.check_is_tree()?;
    let first = read(store, only)?;
    if first.totals.damaged == 0 {
        return Ok(first);
    }
    let lock = store.hold_off_removals(REMOVAL_TIMEOUT);
    let mut again = read(store, only)?;
    if lock.is_none() {
        again.keep_problems_of(&first);
    }
    Ok(again)
}

impl Listing {
    /// Drops the problems that `first` does not have.
    fn keep_problems_of(&mut self, first: &Self) {
        let all = first
            .repositories
            .iter()
            .flat_map(|listed| listed.tags.iter().map(|tag| (&listed.repository, tag)));
        let problems: HashMap<(&Repository, &Tag), &[String]> =
            all.map(|(repository, tag)| ((repository, &tag.tag), &*tag.problems)).collect();
        self.totals.damaged = 0;
        for listed in &mut self.repositories {
            for tag in &mut listed.tags {
                let known = problems.get(&(&listed.repository, &tag.tag)).copied().unwrap_or_default();
                tag.problems.retain(|problem| known.contains(problem));
                self.totals.damaged += usize::from(!tag.problems.is_empty());
            }
        }
    }
}

fn read(store: &Store, only: &[Repository]) -> Result<Listing> {
    let names = if only.is_empty() { store.repositories()? } else { only.to_vec() };
    let mut repositories = Vec::with_capacity(names.len());
    let mut seen = Reached::default();
    let mut totals = Totals::default();
    for repository in names {
        if !only.is_empty() && !store.has_repository(&repository)? {
            return Err(Error::new(ErrorKind::NotFound, repository, "the tree has no such repository")
                .with_hint("run saver ls without a name to list all repositories"));
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
    Ok(Listing { schema: 1, repositories, totals, internal: store.internal_files()? })
}

/// Blobs and their sizes.
#[derive(Default)]
struct Reached(HashMap<Digest, u64>);

impl Reached {
    fn bytes(&self) -> u64 {
        self.0.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

fn list_tag(store: &Store, repository: &Repository, tag: Tag) -> Result<(TagListing, Reached)> {
    let mut walk = TagWalk {
        store,
        repository,
        reached: Reached::default(),
        manifests: 0,
        kind: ContentKind::Unknown,
        artifact_type: None,
        platforms: Vec::new(),
        problems: Vec::new(),
    };
    let digest = store.read_tag(repository, &tag)?;
    let mut media_type = None;
    match digest {
        None => walk.problem("its link is damaged".into()),
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

/// The walk over everything that one tag reaches.
struct TagWalk<'a> {
    store: &'a Store,
    repository: &'a Repository,
    reached: Reached,
    manifests: usize,
    kind: ContentKind,
    artifact_type: Option<String>,
    platforms: Vec<PlatformListing>,
    problems: Vec<String>,
}

impl TagWalk<'_> {
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&what) {
            self.problems.push(what);
        }
    }

    /// Reads a manifest that the repository serves. Returns `None` if it is absent, or if it is damaged, which is reported as a problem.
    fn read(&mut self, digest: &Digest) -> Result<Option<RawManifest>> {
        if !self.store.has_revision(self.repository, digest)? {
            return Ok(None);
        }
        let Some(bytes) = self.store.read_content(digest, MAX_MANIFEST_SIZE)? else {
            // A linked manifest was saved, unlike a platform that was not selected.
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

    /// Follows a manifest; `entry` is its descriptor in the index above. Returns whether an image or artifact was found.
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
                self.problem("its indexes are nested too deeply, or have too many manifests".into());
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
            // A damaged manifest has been reported, so the index is not empty.
            present += usize::from(self.problems.len() > problems);
        }
        // A nested index may be stored without any manifest, if none of its platforms was selected.
        if present == 0 && depth == 0 && !index.manifests.is_empty() {
            self.problem(format!("index {}: none of its manifests is stored", raw.digest.short()));
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
        // An attestation does not change the kind of the image that it belongs to.
        if entry.is_some_and(Descriptor::is_attestation) {
            return Ok(());
        }
        if !image.is_image() {
            self.artifact(image);
            return Ok(());
        }
        let stated = entry.and_then(|entry| entry.platform.clone());
        let platform = match stated.filter(|platform| !platform.is_unknown()) {
            Some(platform) => Some(platform),
            None => {
                let config = self.store.read_content(&image.config.digest, MAX_MANIFEST_SIZE)?;
                let named = config.map(|config| ImageConfig::platform_of(&config).ok().flatten());
                // cosign stores signatures with an image configuration that names no platform.
                if named == Some(None) {
                    self.artifact(image);
                    return Ok(());
                }
                named.flatten()
            }
        };
        self.kind = ContentKind::Image;
        self.artifact_type = None;
        if let Some(platform) = platform {
            self.platform(&platform, true);
        }
        Ok(())
    }

    /// Records an artifact. The kind of a tag is that of its image, if there is one, and of its first artifact otherwise.
    fn artifact(&mut self, artifact: &ImageManifest) {
        if self.kind != ContentKind::Unknown {
            return;
        }
        if artifact.config.media_type == media_type::HELM_CONFIG {
            self.kind = ContentKind::HelmChart;
            return;
        }
        self.kind = ContentKind::Artifact;
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
        let platform = platform.without_os_version().to_string();
        // Windows images have several manifests of one platform, one for each version; one of them suffices.
        match self.platforms.iter_mut().find(|listed| listed.platform == platform) {
            Some(listed) => listed.present |= present,
            None => self.platforms.push(PlatformListing { platform, present }),
        }
    }
}
