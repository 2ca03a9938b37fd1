//! A sink that records: the engine reads an image's manifests, selects platforms and checks that the content
//! exists, and no content is moved.

use crate::content::{Ingest, Publication, Sink};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::store::Store;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Records the publications of images whose content is in a tree.
pub(super) struct RecordingSink {
    store: Store,
    /// By the place of each image.
    recorded: Mutex<BTreeMap<String, Publication>>,
}

impl RecordingSink {
    pub(super) fn new(store: Store) -> Self {
        Self { store, recorded: Mutex::default() }
    }

    /// Removes and returns what was recorded.
    pub(super) fn take(&self) -> BTreeMap<String, Publication> {
        std::mem::take(&mut *self.recorded.lock())
    }
}

impl Sink for RecordingSink {
    type Writer = Infallible;
    type Upload = Infallible;

    async fn tag(&self, _: &Repository, _: &Tag) -> Result<Option<Digest>> {
        Ok(None)
    }

    async fn tag_has_named(&self, _: &Repository, _: &Tag, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    /// Nothing, so that the engine reads from the tree, which knows what each repository contains.
    async fn content(&self, _: &Digest, _: u64) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.store.blob_size(&descriptor.digest)? == Some(descriptor.size))
    }

    async fn is_linked(&self, _: &Repository, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    async fn is_revision(&self, _: &Repository, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    async fn ingest(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<Infallible, Infallible>> {
        let Descriptor { digest, size, .. } = descriptor;
        let message = match self.store.blob_size(digest)? {
            None => "the directory is damaged: the blob is missing".to_owned(),
            Some(actual) => {
                format!("the directory is damaged: the blob has {actual} bytes, expected {size}")
            }
        };
        let error = Error::new(ErrorKind::Corrupt, digest, message).on(Side::Source);
        Err(error
            .with_hint("saver verify lists all damage in a directory; saving the image again repairs it"))
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        let mut recorded = self.recorded.lock();
        for place in &image.places {
            recorded.insert(place.to_string(), image.clone());
        }
        Ok(())
    }
}
