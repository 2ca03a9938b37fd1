//! A sink that takes note: the engine walks an image's manifests, selects by platform and looks whether all of it is there, and
//! nothing is moved.

use crate::content::{Ingest, Publication, Sink};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::store::Store;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

/// What was selected of a tree.
pub(super) struct Selection {
    store: Store,
    /// By the place that an image was to go to.
    taken: Mutex<BTreeMap<String, Publication>>,
}

impl Selection {
    pub(super) fn new(store: Store) -> Self {
        Self { store, taken: Mutex::default() }
    }

    /// What has been selected since this was last asked.
    pub(super) fn take(&self) -> BTreeMap<String, Publication> {
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Selection {
    type Writer = Infallible;
    type Upload = Infallible;

    async fn tag(&self, _: &Repository, _: &Tag) -> Result<Option<Digest>> {
        Ok(None)
    }

    async fn tag_has_named(&self, _: &Repository, _: &Tag, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    /// The engine is to ask the tree, which tells what a repository really holds.
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
        let why = match self.store.blob_size(digest)? {
            None => "the tree does not hold this blob".to_owned(),
            Some(found) => {
                format!("the tree is damaged: this blob has {found} bytes there, and should have {size}")
            }
        };
        let error = Error::new(ErrorKind::Corrupt, digest, why).on(Side::Source);
        Err(error.with_hint("saver verify tells all that is wrong with the tree; saving the image again brings what is missing"))
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &image.places {
            taken.insert(place.to_string(), image.clone());
        }
        Ok(())
    }
}
