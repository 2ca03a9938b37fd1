//! Completeness: whether a tree has the images and platforms that it should have.

use crate::content::Place;
use crate::error::Result;
use crate::oci::config::ImageConfig;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Platform, PlatformSet, Reference, Repository};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::document::{ManifestContent, StoredManifest};
use crate::store::inventory::{Inventory, RepositoryInventory};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// An image that a tree should have.
#[derive(Clone, Debug)]
pub struct ExpectedImage {
    /// Its name at its registry.
    pub reference: Reference,
    /// The platforms that should be there.
    pub platforms: PlatformSet,
    /// Manifests that should be there, whatever the index says.
    pub manifests: Vec<Digest>,
}

/// Which of the expected images a tree has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Completeness {
    /// Number of expected images.
    pub images: usize,
    /// Those that are missing or lack a platform, in the order of the list.
    pub missing: Vec<MissingImage>,
}

/// An expected image that a tree does not have completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct MissingImage {
    /// The image.
    pub reference: Reference,
    /// What is missing.
    pub kind: MissingKind,
    /// The platforms that are missing; empty if the image is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// The digest that is in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where the image comes from that is in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Reference>,
}

/// What is missing of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MissingKind {
    /// The whole image.
    Image,
    /// Some platforms.
    Platform,
    /// The digest that the list pins: the tag names another one, or the image has another manifest.
    OtherDigest,
    /// The whole image: an image from another registry or repository is in its place.
    OtherSource,
}

/// Compares a tree with `expected`. Whether what is there is intact is not checked here.
pub(super) fn check(
    store: &Store,
    inventory: &Inventory,
    manifests: &HashMap<Digest, StoredManifest>,
    names: &NameRule,
    expected: &[ExpectedImage],
) -> Result<Completeness> {
    let repositories =
        inventory.repositories.iter().map(|repository| (&repository.name, repository)).collect();
    let check = CompletenessCheck { store, repositories, manifests, names };
    let mut missing = Vec::new();
    for image in expected {
        missing.extend(check.missing(image)?);
    }
    Ok(Completeness { images: expected.len(), missing })
}

struct CompletenessCheck<'a> {
    store: &'a Store,
    repositories: HashMap<&'a Repository, &'a RepositoryInventory>,
    manifests: &'a HashMap<Digest, StoredManifest>,
    names: &'a NameRule,
}

impl CompletenessCheck<'_> {
    fn missing(&self, image: &ExpectedImage) -> Result<Option<MissingImage>> {
        let reference = &image.reference;
        let missing = |kind, platforms, source| {
            Some(MissingImage { reference: reference.clone(), kind, platforms, digest: None, source })
        };
        let other = |digest| {
            let (reference, kind) = (reference.clone(), MissingKind::OtherDigest);
            let digest = Some(digest);
            Some(MissingImage { reference, kind, platforms: Vec::new(), digest, source: None })
        };
        let place = self.names.place(reference)?;
        let Some(repository) = self.repositories.get(&place.repository) else {
            return Ok(missing(MissingKind::Image, Vec::new(), None));
        };
        let Some(digest) = named(repository, &place, reference) else {
            return Ok(missing(MissingKind::Image, Vec::new(), None));
        };
        let record = self.store.source_of(&place, &digest)?;
        match reference.digest {
            None => {
                if let Some(record) = record.filter(|record| !record.is_from(reference)) {
                    return Ok(missing(MissingKind::OtherSource, Vec::new(), Some(record.source)));
                }
            }
            // An index that was pruned or flattened has another digest than its source.
            Some(pinned)
                if pinned != digest && record.is_none_or(|record| record.source_digest != pinned) =>
            {
                return Ok(other(digest));
            }
            Some(_) => {}
        }
        if image.manifests.iter().any(|manifest| !repository.revisions.contains_key(manifest)) {
            return Ok(other(digest));
        }
        let platforms = self.missing_platforms(repository, &digest, &image.platforms)?;
        Ok(if platforms.is_empty() { None } else { missing(MissingKind::Platform, platforms, None) })
    }

    fn missing_platforms(
        &self,
        repository: &RepositoryInventory,
        digest: &Digest,
        wanted: &PlatformSet,
    ) -> Result<Vec<String>> {
        match self.manifests.get(digest).map(|document| &document.content) {
            Some(ManifestContent::Index(entries)) => {
                let entries: Vec<Descriptor> = self.flatten(entries).into_iter().cloned().collect();
                Ok(missing_entries(&entries, repository, wanted))
            }
            Some(ManifestContent::Image(blobs)) => {
                let config = blobs.first().map(|config| config.digest);
                let config = config.map(|digest| self.store.read_content(&digest, MAX_MANIFEST_SIZE));
                let platform = config
                    .transpose()?
                    .flatten()
                    .and_then(|config| ImageConfig::platform_of(&config).ok().flatten());
                Ok(match (platform, wanted) {
                    (Some(platform), PlatformSet::Only(wanted)) => {
                        let is_other = |wanted: &&Platform| {
                            !PlatformSet::Only(vec![(*wanted).clone()]).accepts(&platform)
                        };
                        wanted.iter().filter(is_other).map(ToString::to_string).collect()
                    }
                    // Artifacts have no platform.
                    _ => Vec::new(),
                })
            }
            // What can't be read is a problem of its own.
            _ => Ok(Vec::new()),
        }
    }

    /// The entries of an index, each stored index among them replaced by its own.
    fn flatten<'e>(&'e self, entries: &'e [Descriptor]) -> Vec<&'e Descriptor> {
        let mut flat = Vec::new();
        let mut seen = HashSet::new();
        let mut open: Vec<&Descriptor> = entries.iter().rev().collect();
        while let Some(entry) = open.pop() {
            match self.manifests.get(&entry.digest).map(|document| &document.content) {
                Some(ManifestContent::Index(below)) => {
                    if seen.insert(entry.digest) {
                        open.extend(below.iter().rev());
                    }
                }
                _ => flat.push(entry),
            }
        }
        flat
    }
}

/// The digest of what `place` holds.
fn named(repository: &RepositoryInventory, place: &Place, reference: &Reference) -> Option<Digest> {
    match &place.tag {
        Some(tag) => repository.tags.get(tag)?.digest(),
        None => reference.digest.filter(|digest| repository.revisions.contains_key(digest)),
    }
}

/// The wanted platforms of which the repository does not have the manifest.
fn missing_entries(
    entries: &[Descriptor],
    repository: &RepositoryInventory,
    wanted: &PlatformSet,
) -> Vec<String> {
    let has = |entry: &Descriptor| repository.revisions.contains_key(&entry.digest);
    let platform = |entry: &Descriptor| {
        entry.platform.clone().filter(|platform| !platform.is_unknown() && !entry.is_attestation())
    };
    let mut missing = Vec::new();
    match wanted {
        PlatformSet::Only(wanted) => {
            for one in wanted {
                let chosen = PlatformSet::Only(vec![one.clone()]);
                let chosen: Vec<_> =
                    chosen.choose(entries).into_iter().filter(|entry| platform(entry).is_some()).collect();
                if chosen.is_empty() || !chosen.into_iter().any(has) {
                    missing.push(one.to_string());
                }
            }
        }
        _ => {
            for entry in entries.iter().filter(|entry| !has(entry)) {
                missing.extend(platform(entry).map(|platform| platform.to_string()));
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::inventory::LinkState;
    use std::collections::BTreeMap;

    #[test]
    fn platforms_without_a_manifest_are_missing() {
        let entry = |platform: &str| Descriptor {
            platform: Some(Platform::parse(platform, "linux").unwrap()),
            ..Descriptor::new(
                "application/vnd.oci.image.manifest.v1+json",
                Digest::of(platform.as_bytes()),
                2,
            )
        };
        let entries = ["linux/amd64", "linux/arm64", "linux/arm/v6"].map(entry);
        let repository = RepositoryInventory {
            name: "a".parse().unwrap(),
            has_layers: true,
            has_tags: true,
            tags: BTreeMap::new(),
            revisions: [(entries[0].digest, LinkState::Valid(entries[0].digest))].into(),
            layers: BTreeMap::new(),
        };
        for (wanted, missing) in [
            ("amd64", &[][..]),
            ("amd64,arm64", &["linux/arm64"]),
            ("s390x", &["linux/s390x"]),
            ("all", &["linux/arm64", "linux/arm/v6"]),
        ] {
            let wanted: PlatformSet = wanted.parse().unwrap();
            assert_eq!(missing_entries(&entries, &repository, &wanted), missing, "{wanted}");
        }
    }
}
