//! A layout as a [`Source`].

use super::{Inner, Layout, storage};
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Place, Publication, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{ListedImage, blob};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};
use std::collections::HashSet;

/// The most manifests that are read to find the reachable content. Content beyond that is checked again when it is
/// written.
const MAX_SCANNED: usize = 20_000;

impl Layout {
    /// The images that the layout lists.
    ///
    /// # Errors
    /// `Corrupt` for an invalid `index.json`, `Storage`.
    pub fn images(&self) -> Result<Vec<ListedImage>> {
        Ok(self.inner.index()?.map(|index| index.images()).unwrap_or_default())
    }
}

impl Source for Layout {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        let image = self.images()?.into_iter().find(|image| image.is(repository, tag));
        match image {
            Some(image) => Ok(Resolved { digest: image.root?.digest, manifest: None }),
            None => {
                let message = "not in the image layout";
                Err(Error::new(ErrorKind::NotFound, format!("{repository}:{tag}"), message).on(Side::Source))
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
                let message = format!("the layout is damaged: the manifest's bytes hash to {}", raw.digest);
                Err(Error::new(ErrorKind::Corrupt, digest, message).on(Side::Source))
            }
            None => Err(missing(&digest)),
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
        let Some((file, length)) = opened? else { return Err(missing(&descriptor.digest)) };
        Ok(FileBlob { file, offset: 0, length, subject: driver.location(&path) }.stream(from, to))
    }
}

fn missing(digest: &Digest) -> Error {
    let message = "not in the image layout (a symbolic link in its place is not followed)";
    Error::new(ErrorKind::NotFound, digest, message).on(Side::Source)
}

impl Inner {
    /// The manifest at the path of `digest`, which is not verified.
    fn manifest(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        let path = blob(digest);
        let read = self.driver.read(&path, MAX_MANIFEST_SIZE);
        let content = read.map_err(|error| storage(&*self.driver, &path, "read", error).on(Side::Source))?;
        content
            .map(|content| RawManifest::new(content.into(), None).map_err(|error| error.on(Side::Source)))
            .transpose()
    }

    /// Follows `index.json` to all content that is reachable now.
    pub(super) fn scan(&self) -> Result<ReachableContent> {
        let mut reachable = ReachableContent::default();
        let Some(index) = self.index()? else { return Ok(reachable) };
        let mut pending: Vec<Digest> = Vec::new();
        for image in index.images() {
            // Entries of other tools that saver cannot parse are preserved, and ignored here.
            let Ok(root) = image.root else { continue };
            reachable.named.insert((image.label, root.digest));
            pending.push(root.digest);
        }
        while let Some(digest) = pending.pop() {
            if reachable.manifests.len() >= MAX_SCANNED || !reachable.manifests.insert(digest) {
                continue;
            }
            let raw = self.manifest(&digest).ok().flatten().filter(|raw| raw.digest == digest);
            match raw.and_then(|raw| raw.parse().ok()) {
                Some(Manifest::Index(index)) => {
                    pending.extend(index.manifests.iter().map(|entry| entry.digest));
                }
                Some(Manifest::Image(image)) => reachable.blobs.extend(image.blobs().map(|blob| blob.digest)),
                None => {}
            }
        }
        Ok(reachable)
    }
}

/// The content that is reachable from `index.json`, or has been since the layout was opened.
#[derive(Default)]
pub(super) struct ReachableContent {
    /// The names of entries, with the digests they refer to.
    pub(super) named: HashSet<(String, Digest)>,
    pub(super) manifests: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
}

impl ReachableContent {
    pub(super) fn add(&mut self, image: &Publication, name: impl Fn(&Place) -> String) {
        self.manifests.extend(image.manifests.iter().map(|manifest| manifest.digest));
        self.blobs.extend(&image.blobs);
        if let Some(root) = image.root() {
            self.named.extend(image.places.iter().map(|place| (name(place), root)));
        }
    }
}
