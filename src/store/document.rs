//! A manifest as it stands in the store: hashed, and read as far as it can be.

use super::inventory::Census;
use super::{Store, path, storage};
use crate::error::{ErrorKind, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, media_type};
use bytes::Bytes;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// A manifest and what it points at.
#[derive(Debug)]
pub struct Document {
    /// What is in it.
    pub content: DocumentContent,
    /// The manifest that it refers to (a signature's image, say).
    pub subject: Option<Digest>,
    /// The foreign layers that it names: they may be there, and need not be.
    pub foreign: Vec<Digest>,
    /// Its length in bytes.
    pub size: u64,
}

impl Document {
    /// What it names: manifests or blobs, foreign layers left out.
    #[must_use]
    pub fn below(&self) -> &[Descriptor] {
        match &self.content {
            DocumentContent::Index(below) | DocumentContent::Image(below) => below,
            DocumentContent::Opaque(_) | DocumentContent::Fault(_) => &[],
        }
    }
}

/// Orders manifests so that none stands before one that names it: the order in which links may go.
#[must_use]
pub fn top_down(digests: &BTreeSet<Digest>, documents: &HashMap<Digest, Document>) -> Vec<Digest> {
    let below = |digest: &Digest| -> BTreeSet<Digest> {
        let named = documents.get(digest).map(Document::below).unwrap_or_default();
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

/// What is in a manifest.
#[derive(Debug)]
pub enum DocumentContent {
    /// An index: its entries.
    Index(Vec<Descriptor>),
    /// An image or artifact: its configuration and layers, foreign layers left out.
    Image(Vec<Descriptor>),
    /// Of a form that saver does not read (schema 1, say), and why; its bytes are what they should be.
    Opaque(String),
    /// Not what the digest promises.
    Fault(Fault),
}

/// What is wrong with content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It has other bytes than its digest promises; described.
    Corrupt(String),
    /// Its bytes are what they should be, but not a manifest's; described.
    NotAManifest(String),
    /// The medium failed; described.
    Unreadable(String),
}

impl Store {
    /// Reads the manifest `digest`.
    ///
    /// # Errors
    /// `Storage` when the file can't be opened.
    pub fn document(&self, digest: &Digest) -> Result<Document> {
        let of = |content, subject, size| Document { content, subject, foreign: Vec::new(), size };
        let fault = |size, fault| of(DocumentContent::Fault(fault), None, size);
        let Some(size) = self.blob_size(digest)? else { return Ok(fault(0, Fault::Missing)) };
        if size > MAX_MANIFEST_SIZE {
            let why = format!("it has {size} bytes, more than any manifest");
            return Ok(fault(size, Fault::NotAManifest(why)));
        }
        let (driver, path) = (&*self.inner.driver, path::data(digest));
        let bytes = match driver.read(&path, MAX_MANIFEST_SIZE) {
            Ok(Some(bytes)) => Bytes::from(bytes),
            Ok(None) => return Ok(fault(0, Fault::Missing)),
            // Nothing can be said of what may not be read; a bad sector is one file's trouble.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(storage(driver, &path, "read", error));
            }
            Err(error) => return Ok(fault(size, Fault::Unreadable(error.to_string()))),
        };
        let size = bytes.len() as u64;
        Ok(match RawManifest::verified(bytes.clone(), *digest) {
            Ok(None) => {
                let found = if size == 0 { "it is empty".into() } else { hashes_to(&Digest::of(&bytes)) };
                fault(size, Fault::Corrupt(found))
            }
            Ok(Some((_, Manifest::Index(index)))) => {
                let subject = index.subject.map(|subject| subject.digest);
                of(DocumentContent::Index(index.manifests), subject, size)
            }
            Ok(Some((_, Manifest::Image(image)))) => {
                let is_foreign = |blob: &Descriptor| media_type::is_foreign_layer(&blob.media_type);
                let (foreign, own): (Vec<_>, Vec<_>) = image.blobs().cloned().partition(is_foreign);
                let subject = image.subject.map(|subject| subject.digest);
                let foreign = foreign.into_iter().map(|layer| layer.digest).collect();
                Document { foreign, ..of(DocumentContent::Image(own), subject, size) }
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                of(DocumentContent::Opaque(error.message().to_owned()), None, size)
            }
            Err(error) => fault(size, Fault::NotAManifest(format!("it is no manifest: {}", error.message()))),
        })
    }

    /// Every manifest that some repository of the census links to.
    ///
    /// # Errors
    /// `Storage` when one can't be opened.
    pub fn documents(&self, census: &Census) -> Result<HashMap<Digest, Document>> {
        let links = census.repositories.iter().flat_map(|repository| repository.revisions.keys());
        let digests: Vec<Digest> = links.copied().collect::<BTreeSet<_>>().into_iter().collect();
        digests.into_par_iter().map(|digest| Ok((digest, self.document(&digest)?))).collect()
    }
}

/// What is said of content that has another digest than its name.
pub(crate) fn hashes_to(digest: &Digest) -> String {
    format!("its bytes hash to {digest}")
}
