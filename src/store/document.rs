//! A manifest as it stands in the store: hashed, and read as far as it can be.

use super::{Store, path, storage};
use crate::error::{ErrorKind, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, media_type};
use bytes::Bytes;
use std::io;

/// A manifest and what it points at.
#[derive(Debug)]
pub struct Document {
    /// What is in it.
    pub content: DocumentContent,
    /// The manifest that it refers to (a signature's image, say).
    pub subject: Option<Digest>,
    /// Its length in bytes.
    pub size: u64,
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
        let fault = |size, fault| Document { content: DocumentContent::Fault(fault), subject: None, size };
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
        if Digest::of(&bytes) != *digest {
            let found = if size == 0 { "it is empty".into() } else { hashes_to(&Digest::of(&bytes)) };
            return Ok(fault(size, Fault::Corrupt(found)));
        }
        let parsed = RawManifest::new(bytes, None).and_then(|raw| raw.parse());
        Ok(match parsed {
            Ok(Manifest::Index(index)) => Document {
                content: DocumentContent::Index(index.manifests),
                subject: index.subject.map(|subject| subject.digest),
                size,
            },
            Ok(Manifest::Image(image)) => Document {
                content: DocumentContent::Image(
                    image
                        .blobs()
                        .filter(|blob| !media_type::is_foreign_layer(&blob.media_type))
                        .cloned()
                        .collect(),
                ),
                subject: image.subject.map(|subject| subject.digest),
                size,
            },
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Document { content: DocumentContent::Opaque(error.message().to_owned()), subject: None, size }
            }
            Err(error) => fault(size, Fault::NotAManifest(format!("it is no manifest: {}", error.message()))),
        })
    }
}

/// What is said of content that has another digest than its name.
pub(crate) fn hashes_to(digest: &Digest) -> String {
    format!("its bytes hash to {digest}")
}
