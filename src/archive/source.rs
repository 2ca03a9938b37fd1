//! An archive as the place that images come from.

use super::docker::{self, Found};
use super::index::{Part, TarIndex};
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{INDEX, LayoutIndex, MARKER, MAX_INDEX_SIZE, Offer, check_marker};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use std::fs::File;
use std::sync::Arc;

/// A tar file of images. Clones share everything.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    file: File,
    name: String,
    form: &'static str,
    found: Found,
}

impl Archive {
    /// Reads what is in `file`, a tar that is not compressed and called `name` in messages. Where it holds both a layout and
    /// `manifest.json`, as Docker's newer archives do, the layout counts: it has the images' own manifests.
    ///
    /// Blocking, and it reads compressed layers of a docker-archive whole.
    ///
    /// # Errors
    /// `InvalidInput` for no tar or one without images, `Corrupt` for one that is damaged, `Storage` when it can't be read.
    pub fn open(file: File, name: &str) -> Result<Self> {
        let (form, found) = read(&file).map_err(|error| told(&error, name))?;
        Ok(Self { inner: Arc::new(Inner { file, name: name.to_owned(), form, found }) })
    }

    /// Which form it has: `docker-archive` or `oci-archive`.
    #[must_use]
    pub fn form(&self) -> &'static str {
        self.inner.form
    }

    /// The images that it holds.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.inner.found.offers
    }

    fn part(&self, digest: &Digest) -> Result<Part> {
        let part = self.inner.found.blobs.get(digest);
        part.copied()
            .ok_or_else(|| self.wrong(ErrorKind::NotFound, digest, "the archive does not hold this content"))
    }

    fn wrong(&self, kind: ErrorKind, subject: impl std::fmt::Display, why: &str) -> Error {
        Error::new(kind, format!("{}: {subject}", self.inner.name), why).on(Side::Source)
    }
}

/// The same error with the archive's name, which it was made without.
fn told(error: &Error, name: &str) -> Error {
    let subject =
        if error.subject().is_empty() { name.to_owned() } else { format!("{name}: {}", error.subject()) };
    error.clone().with_subject(subject).on(Side::Source)
}

fn read(file: &File) -> Result<(&'static str, Found)> {
    let index = TarIndex::read(file)?;
    if let (Some(marker), Some(listing)) = (index.find(MARKER)?, index.find(INDEX)?) {
        if marker.size.max(listing.size) > MAX_INDEX_SIZE {
            return Err(Error::new(ErrorKind::Corrupt, INDEX, "it is too long to be read"));
        }
        check_marker(&marker.read(file)?)?;
        let offers = LayoutIndex::parse(&listing.read(file)?)?.offers();
        let blobs = index.below("blobs/sha256/");
        let blobs = blobs.filter_map(|(name, part)| Some((Digest::from_hex(name).ok()?, part))).collect();
        return Ok(("oci-archive", Found { offers, blobs, ..Found::default() }));
    }
    if let Some(listing) = index.find(docker::MANIFEST)? {
        return Ok(("docker-archive", docker::read(file, &index, listing)?));
    }
    let why = format!("a tar file without images: there is no {} and no {INDEX} in it", docker::MANIFEST);
    Err(Error::new(ErrorKind::InvalidInput, "", why)
        .with_hint("what docker save, podman save, skopeo copy and crane pull write can be read"))
}

impl Source for Archive {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        match self.offers().iter().find(|offer| offer.is(repository, tag)) {
            Some(offer) => Ok(Resolved { digest: offer.root.clone()?.digest, manifest: None }),
            None => {
                let subject = format!("{repository}:{tag}");
                Err(self.wrong(ErrorKind::NotFound, subject, "the archive holds no image of this name"))
            }
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
        };
        if let Some(made) = self.inner.found.manifests.get(&digest) {
            return Ok(made.clone());
        }
        let part = self.part(&digest)?;
        if part.size > MAX_MANIFEST_SIZE {
            return Err(self.wrong(ErrorKind::Corrupt, digest, "it is too long for a manifest"));
        }
        let raw = RawManifest::new(part.read(&self.inner.file)?.into(), None)
            .map_err(|error| error.on(Side::Source))?;
        if raw.digest == digest {
            return Ok(raw);
        }
        let why = format!("the archive is damaged: the bytes there hash to {}", raw.digest);
        Err(self.wrong(ErrorKind::Corrupt, digest, &why))
    }

    async fn blob(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = &descriptor.digest;
        let part = self.part(digest)?;
        let file = self.inner.file.try_clone().map_err(|cause| {
            Error::new(ErrorKind::Storage, &self.inner.name, format!("cannot open it again: {cause}"))
                .on(Side::Source)
        })?;
        let subject = format!("{}: {digest}", self.inner.name);
        Ok(FileBlob { file, offset: part.offset, length: part.size, subject }.stream(from, to))
    }
}
