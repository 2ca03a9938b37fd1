//! Manifests in the store, hashed and parsed as far as possible.

use super::inventory::Inventory;
use super::{Store, path, storage_read};
use crate::error::{ErrorKind, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, media_type};
use bytes::Bytes;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// A manifest and what it references.
#[derive(Debug)]
pub struct StoredManifest {
    /// Its content.
    pub content: ManifestContent,
    /// The manifest that it refers to, such as the image of a signature.
    pub subject: Option<Digest>,
    /// The foreign layers that it references, which may be absent.
    pub foreign: Vec<Digest>,
    /// Its length in bytes.
    pub size: u64,
}

impl StoredManifest {
    /// The manifests or blobs that it references, without foreign layers.
    #[must_use]
    pub fn references(&self) -> &[Descriptor] {
        match &self.content {
            ManifestContent::Index(below) | ManifestContent::Image(below) => below,
            ManifestContent::Opaque(_) | ManifestContent::ContentFault(_) => &[],
        }
    }
}

/// Sorts manifests so that each comes after those that reference it, which is the order for removing their links.
#[must_use]
pub fn top_down(digests: &BTreeSet<Digest>, manifests: &HashMap<Digest, StoredManifest>) -> Vec<Digest> {
    let below = |digest: &Digest| -> BTreeSet<Digest> {
        let named = manifests.get(digest).map(StoredManifest::references).unwrap_or_default();
        named.iter().map(|entry| entry.digest).filter(|digest| digests.contains(digest)).collect()
    };
    let mut above: BTreeMap<Digest, usize> = digests.iter().map(|digest| (*digest, 0)).collect();
    for child in digests.iter().flat_map(below) {
        *above.entry(child).or_default() += 1;
    }
    let mut ready: Vec<Digest> =
        above.iter().filter(|(_, count)| **count == 0).map(|(digest, _)| *digest).collect();
    let mut order = Vec::with_capacity(digests.len());
    while let Some(digest) = ready.pop() {
        order.push(digest);
        for child in below(&digest) {
            if let Some(count) = above.get_mut(&child) {
                *count -= 1;
                if *count == 0 {
                    ready.push(child);
                }
            }
        }
    }
    order
}

/// The content of a manifest.
#[derive(Debug)]
pub enum ManifestContent {
    /// An index, with its entries.
    Index(Vec<Descriptor>),
    /// An image or artifact, with its config and its layers except foreign ones.
    Image(Vec<Descriptor>),
    /// A format that saver does not support, such as schema 1, and why. The bytes match the digest.
    Opaque(String),
    /// Invalid or missing content.
    ContentFault(ContentFault),
}

/// What is wrong with stored content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentFault {
    /// It is missing.
    Missing,
    /// It does not match its digest; the text describes it.
    Corrupt(String),
    /// It matches its digest, but is not a valid manifest; the text says why.
    NotAManifest(String),
    /// Reading it failed; the text is the error.
    Unreadable(String),
}

impl Store {
    /// Reads the manifest `digest`.
    ///
    /// # Errors
    /// `Storage` if the file can't be opened.
    pub fn stored_manifest(&self, digest: &Digest) -> Result<StoredManifest> {
        let of = |content, subject, size| StoredManifest { content, subject, foreign: Vec::new(), size };
        let fault = |size, fault| of(ManifestContent::ContentFault(fault), None, size);
        let Some(size) = self.blob_size(digest)? else { return Ok(fault(0, ContentFault::Missing)) };
        if size > MAX_MANIFEST_SIZE {
            let why = format!("it has {size} bytes, more than a manifest may have");
            return Ok(fault(size, ContentFault::NotAManifest(why)));
        }
        let (driver, path) = (&*self.inner.driver, path::data(digest));
        let bytes = match driver.read(&path, MAX_MANIFEST_SIZE) {
            Ok(Some(bytes)) => Bytes::from(bytes),
            Ok(None) => return Ok(fault(0, ContentFault::Missing)),
            // Without permission nothing is known about the file; a bad sector is a fault of this file.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(storage_read(driver, &path, "read", error));
            }
            Err(error) => return Ok(fault(size, ContentFault::Unreadable(error.to_string()))),
        };
        let size = bytes.len() as u64;
        Ok(match RawManifest::verified(bytes.clone(), *digest) {
            Ok(None) => {
                let found = if size == 0 { "it is empty".into() } else { hashes_to(&Digest::of(&bytes)) };
                fault(size, ContentFault::Corrupt(found))
            }
            Ok(Some((_, Manifest::Index(index)))) => {
                let subject = index.subject.map(|subject| subject.digest);
                of(ManifestContent::Index(index.manifests), subject, size)
            }
            Ok(Some((_, Manifest::Image(image)))) => {
                let is_foreign = |blob: &Descriptor| media_type::is_foreign_layer(&blob.media_type);
                let (foreign, own): (Vec<_>, Vec<_>) = image.blobs().cloned().partition(is_foreign);
                let subject = image.subject.map(|subject| subject.digest);
                let foreign = foreign.into_iter().map(|layer| layer.digest).collect();
                StoredManifest { foreign, ..of(ManifestContent::Image(own), subject, size) }
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                of(ManifestContent::Opaque(error.message().to_owned()), None, size)
            }
            Err(error) => fault(
                size,
                ContentFault::NotAManifest(format!("it is not a valid manifest: {}", error.message())),
            ),
        })
    }

    /// Every manifest that a repository of the inventory links to.
    ///
    /// # Errors
    /// `Storage` if one of them can't be opened.
    pub fn stored_manifests(&self, inventory: &Inventory) -> Result<HashMap<Digest, StoredManifest>> {
        let links = inventory.repositories.iter().flat_map(|repository| repository.revisions.keys());
        let digests: Vec<Digest> = links.copied().collect::<BTreeSet<_>>().into_iter().collect();
        digests.into_par_iter().map(|digest| Ok((digest, self.stored_manifest(&digest)?))).collect()
    }
}

/// The description of content that does not match its digest.
pub(crate) fn hashes_to(digest: &Digest) -> String {
    format!("its bytes hash to {digest}")
}
