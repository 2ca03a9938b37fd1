//! Follows an image down to its layers, and checks links, sizes and manifests on the way.

use super::{ContentKind, PlatformListing, TagListing};
use crate::content::Place;
use crate::error::Result;
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{ImageManifest, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Index, Manifest, Platform, RawManifest, Repository, Tag, media_type};
use crate::store::Store;
use crate::store::provenance::Provenance;
use std::collections::HashMap;

/// Maximum number of manifests read for one tag.
const MAX_MANIFESTS: usize = 10_000;
/// Maximum number of problems reported for one tag.
const MAX_PROBLEMS: usize = 20;

/// The content that the image `digest` of the repository reaches, with its sizes.
///
/// # Errors
/// `Storage` if it can't be read.
pub(crate) fn reach(store: &Store, repository: &Repository, digest: &Digest) -> Result<HashMap<Digest, u64>> {
    let (_, reached) = walk_image(store, repository, None, Some(*digest), &Provenance::default())?;
    Ok(reached.0)
}

/// Blobs and their sizes.
#[derive(Default)]
pub(crate) struct Reached(pub(crate) HashMap<Digest, u64>);

impl Reached {
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// Follows everything that an image of the repository reaches. Its name is `tag`, if it has one.
pub(super) fn walk_image(
    store: &Store,
    repository: &Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
    provenance: &Provenance,
) -> Result<(TagListing, Reached)> {
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
    let place = Place { repository: repository.clone(), tag };
    let record = digest.and_then(|digest| provenance.source(&place, &digest));
    let listing = TagListing {
        source: record.map(|record| record.source.clone()),
        saved: record.map(|record| record.time),
        tag: place.tag,
        digest,
        media_type,
        kind: walk.kind,
        artifact_type: walk.artifact_type,
        platforms: walk.platforms,
        bytes: walk.reached.bytes(),
        unique_bytes: 0,
        referrers: Vec::new(),
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
            if depth == MAX_INDEX_DEPTH || self.manifests == MAX_MANIFESTS {
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
