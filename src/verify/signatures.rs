//! Whether the images of a tree satisfy a signature policy, by the signatures that were saved with them.
//!
//! A policy speaks of the names of images at their sources, which the tree records. The record of an image counts only if the image
//! is where the rule of names puts it: else a record could pass one image off as another, which is signed.

use crate::content::{
    MAX_SIGNATURE_SIZE, Place, Referrer, SignatureLayer, SignaturePolicy, SignatureSet, SignedManifest,
};
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{ReferrerTag, ReferrerTagKind};
use crate::oci::{Digest, Manifest, RawManifest, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::inventory::Inventory;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Maximum depth of nested indexes.
const MAX_DEPTH: usize = 8;

/// Which images of a tree satisfy the signature policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TrustReport {
    /// Number of images that were checked: tags, and images saved by digest.
    pub images: usize,
    /// Those that do not satisfy it, sorted by name.
    pub untrusted: Vec<UntrustedImage>,
}

/// An image that does not satisfy the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UntrustedImage {
    /// The image in the tree: `repository:tag`, or `repository@digest`.
    pub image: String,
    /// Its name at its source, if that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Reference>,
    /// Its digest in the tree.
    pub digest: Digest,
    /// Why it is not trusted.
    pub error: ErrorReport,
}

/// A repository, a tag or nothing for an image saved by digest, and a digest.
type StoredImage = (Repository, Option<Tag>, Digest);

/// Checks every image of the inventory.
pub(super) fn check(
    store: &Store,
    inventory: &Inventory,
    names: &NameRule,
    policy: &dyn SignaturePolicy,
) -> Result<TrustReport> {
    let mut images: BTreeSet<StoredImage> = BTreeSet::new();
    for repository in &inventory.repositories {
        for (tag, links) in &repository.tags {
            let Some(digest) = links.digest() else { continue };
            let is_referrer = ReferrerTag::parse(tag)
                .is_some_and(|referrer| repository.revisions.contains_key(&referrer.subject));
            if !is_referrer {
                images.insert((repository.name.clone(), Some(tag.clone()), digest));
            }
        }
    }
    for record in store.provenance()?.records().filter(|record| record.tag.is_none()) {
        if store.has_revision(&record.repository, &record.digest)? {
            images.insert((record.repository.clone(), None, record.digest));
        }
    }
    let check = |(repository, tag, digest): &StoredImage| {
        let place = Place { repository: repository.clone(), tag: tag.clone() };
        ImageCheck { store, names, policy, place: &place, digest: *digest }.run()
    };
    let untrusted: Vec<Option<UntrustedImage>> = images.par_iter().map(check).collect::<Result<_>>()?;
    Ok(TrustReport { images: images.len(), untrusted: untrusted.into_iter().flatten().collect() })
}

struct ImageCheck<'a> {
    store: &'a Store,
    names: &'a NameRule,
    policy: &'a dyn SignaturePolicy,
    place: &'a Place,
    digest: Digest,
}

impl ImageCheck<'_> {
    /// # Errors
    /// `Storage` if the tree cannot be read.
    fn run(&self) -> Result<Option<UntrustedImage>> {
        let record = self.store.source_of(self.place, &self.digest)?;
        let source = record.as_ref().map(|record| record.source.clone());
        let verdict = match &record {
            None => {
                Err(self.refuse("the tree does not record its name at the source, which the policy is about"))
            }
            Some(record) if !self.is_placed(&record.source)? => Err(self.refuse(format!(
                "the tree records {} as its source, which belongs elsewhere",
                record.source
            ))),
            Some(record) => self.accept(&record.source, record.source_digest),
        };
        match verdict {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Storage => Err(error),
            Err(error) => {
                let image = match &self.place.tag {
                    Some(_) => self.place.to_string(),
                    None => format!("{}@{}", self.place.repository, self.digest),
                };
                let error = ErrorReport::from(&error);
                Ok(Some(UntrustedImage { image, source, digest: self.digest, error }))
            }
        }
    }

    /// Whether the rule of names puts `source` where the image is.
    fn is_placed(&self, source: &Reference) -> Result<bool> {
        let is_place = |place: &Place| {
            place.repository == self.place.repository
                && (self.place.tag.is_none() || place.tag == self.place.tag)
        };
        Ok(is_place(&self.names.place(source)?) || self.names.alias(source).as_ref().is_some_and(is_place))
    }

    /// The image, whose digest at the source is `original`: by its own signatures, those of what it was made from, or those of each
    /// of its parts.
    fn accept(&self, name: &Reference, original: Digest) -> Result<()> {
        if original != self.digest
            && self.is_made_from(original)?
            && self.accept_subject(name, original).is_ok()
        {
            return Ok(());
        }
        let Err(error) = self.accept_subject(name, self.digest) else { return Ok(()) };
        let parts = self.parts()?;
        if error.kind() != ErrorKind::Untrusted || parts.is_empty() {
            return Err(error);
        }
        for part in parts {
            self.accept_subject(name, part).map_err(|other| error.clone().with_cause(other))?;
        }
        Ok(())
    }

    fn accept_subject(&self, name: &Reference, subject: Digest) -> Result<()> {
        let Some(raw) = self.manifest(subject)? else {
            return Err(self.refuse(format!("the manifest {subject} is missing or damaged")));
        };
        let signatures =
            if self.policy.needs_signatures(name) { self.signatures(subject)? } else { Vec::new() };
        let manifest = SignedManifest { digest: subject, bytes: raw.bytes };
        self.policy.check(name, &manifest, &signatures)
    }

    fn signatures(&self, subject: Digest) -> Result<Vec<SignatureLayer>> {
        let repository = &self.place.repository;
        let listed = self.store.listed_referrers(repository, &subject)?;
        let tag = ReferrerTag { subject, kind: ReferrerTagKind::Signature };
        let referrers = listed.into_iter().map(Referrer::Listed).chain([Referrer::Tagged(tag)]).collect();
        let mut signatures = SignatureSet::new(subject);
        for candidate in signatures.candidates(referrers)? {
            let digest = match &candidate {
                Referrer::Listed(entry) => Some(entry.digest),
                Referrer::Tagged(tag) => self.store.read_tag(repository, &tag.tag())?,
            };
            let raw = match digest {
                Some(digest) => self.manifest(digest)?,
                None => None,
            };
            let Some(raw) = raw else { continue };
            for layer in signatures.layers_of(&candidate, &raw)? {
                let content = self.store.read_content(&layer.digest, MAX_SIGNATURE_SIZE)?;
                if let Some(bytes) = content.filter(|bytes| Digest::of(bytes) == layer.digest) {
                    signatures.add(layer, bytes);
                }
            }
        }
        Ok(signatures.into_layers())
    }

    /// Whether the image consists of manifests of the index `original` only.
    fn is_made_from(&self, original: Digest) -> Result<bool> {
        let entries = self.below(original, 0)?;
        let own = match self.manifest(self.digest)?.map(|raw| raw.parse()).transpose()? {
            Some(Manifest::Index(index)) => index.manifests.iter().map(|entry| entry.digest).collect(),
            _ => vec![self.digest],
        };
        Ok(!own.is_empty() && own.iter().all(|digest| entries.contains(digest)))
    }

    /// The manifests of the image, if it is an index, that are in the tree.
    fn parts(&self) -> Result<Vec<Digest>> {
        let mut parts = Vec::new();
        for digest in self.below(self.digest, 0)? {
            if self.store.has_revision(&self.place.repository, &digest)? {
                parts.push(digest);
            }
        }
        Ok(parts)
    }

    /// Everything that the index `digest` names, and what nested ones name.
    fn below(&self, digest: Digest, depth: usize) -> Result<BTreeSet<Digest>> {
        let mut found = BTreeSet::new();
        let Some(raw) = self.manifest(digest)? else { return Ok(found) };
        if let Manifest::Index(index) = raw.parse()? {
            for entry in &index.manifests {
                found.insert(entry.digest);
                if depth < MAX_DEPTH {
                    found.extend(self.below(entry.digest, depth + 1)?);
                }
            }
        }
        Ok(found)
    }

    /// A manifest of the tree, if it is intact.
    fn manifest(&self, digest: Digest) -> Result<Option<RawManifest>> {
        let content = self.store.read_content(&digest, MAX_MANIFEST_SIZE)?;
        Ok(match content.map(|bytes| RawManifest::verified(bytes, digest)) {
            Some(Ok(Some((raw, _)))) => Some(raw),
            _ => None,
        })
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Untrusted, self.place, message)
    }
}
