//! A layout as the place that images come from.

use super::{Inner, Layout, storage};
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Place, Publication, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{Offer, blob};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};
use std::collections::HashSet;

/// The most manifests that are read to learn what a layout reaches. What lies beyond is only looked at again when it is written.
const MAX_SURVEYED: usize = 20_000;

impl Layout {
    /// The images that the layout lists.
    ///
    /// # Errors
    /// `Corrupt` for an `index.json` that can't be read, `Storage`.
    pub fn offers(&self) -> Result<Vec<Offer>> {
        Ok(self.inner.index()?.map(|index| index.offers()).unwrap_or_default())
    }
}

impl Source for Layout {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        let found = self.offers()?.into_iter().find(|offer| offer.is(repository, tag));
        match found {
            Some(offer) => Ok(Resolved { digest: offer.root?.digest, manifest: None }),
            None => {
                let why = "the layout lists no image of this name";
                Err(Error::new(ErrorKind::NotFound, format!("{repository}:{tag}"), why).on(Side::Source))
            }
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
        };
        match self.inner.manifest(&digest)? {
            Some(raw) if raw.digest == digest => Ok(raw),
            Some(raw) => {
                let why = format!("the layout is damaged: the bytes there hash to {}", raw.digest);
                Err(Error::new(ErrorKind::Corrupt, digest, why).on(Side::Source))
            }
            None => Err(absent(&digest)),
        }
    }

    async fn blob(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let (driver, path) = (&*self.inner.driver, blob(&descriptor.digest));
        let opened =
            driver.open(&path).map_err(|error| storage(driver, &path, "open", error).on(Side::Source));
        let Some((file, length)) = opened? else { return Err(absent(&descriptor.digest)) };
        Ok(FileBlob { file, offset: 0, length, subject: driver.location(&path) }.stream(from, to))
    }
}

fn absent(digest: &Digest) -> Error {
    let why = "the layout does not hold this content (a symbolic link in its place is not followed)";
    Error::new(ErrorKind::NotFound, digest, why).on(Side::Source)
}

impl Inner {
    /// The manifest that stands where `digest`'s should; not compared with it.
    fn manifest(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        let path = blob(digest);
        let read = self.driver.read(&path, MAX_MANIFEST_SIZE);
        let content = read.map_err(|error| storage(&*self.driver, &path, "read", error).on(Side::Source))?;
        content
            .map(|content| RawManifest::new(content.into(), None).map_err(|error| error.on(Side::Source)))
            .transpose()
    }

    /// What `index.json` reaches now.
    pub(super) fn survey(&self) -> Result<Known> {
        let mut known = Known::default();
        let Some(index) = self.index()? else { return Ok(known) };
        let mut left: Vec<Digest> = Vec::new();
        for offer in index.offers() {
            // An entry that saver can't read is somebody else's, and stays.
            let Ok(root) = offer.root else { continue };
            known.named.insert((offer.label, root.digest));
            left.push(root.digest);
        }
        while let Some(digest) = left.pop() {
            if known.manifests.len() >= MAX_SURVEYED || !known.manifests.insert(digest) {
                continue;
            }
            let raw = self.manifest(&digest).ok().flatten().filter(|raw| raw.digest == digest);
            match raw.and_then(|raw| raw.parse().ok()) {
                Some(Manifest::Index(index)) => left.extend(index.manifests.iter().map(|entry| entry.digest)),
                Some(Manifest::Image(image)) => known.blobs.extend(image.blobs().map(|blob| blob.digest)),
                None => {}
            }
        }
        Ok(known)
    }
}

/// What a layout reaches, or has reached since it was opened.
#[derive(Default)]
pub(super) struct Known {
    /// What names name.
    pub(super) named: HashSet<(String, Digest)>,
    pub(super) manifests: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
}

impl Known {
    pub(super) fn add(&mut self, image: &Publication, name: impl Fn(&Place) -> String) {
        self.manifests.extend(image.manifests.iter().map(|manifest| manifest.digest));
        self.blobs.extend(&image.blobs);
        if let Some(root) = image.root() {
            self.named.extend(image.places.iter().map(|place| (name(place), root)));
        }
    }
}
