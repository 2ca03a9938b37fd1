//! An archive as a [`Source`].

use super::read_docker::{self, ArchiveContents};
use super::tar_index::{MemberData, TarIndex, not_an_archive};
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{INDEX, LayoutIndex, ListedImage, MARKER, MAX_INDEX_SIZE, check_marker};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use std::fs::File;
use std::sync::Arc;

/// A tar file of images. Clones share their state.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    file: File,
    name: String,
    contents: ArchiveContents,
}

impl Archive {
    /// Reads the contents of `file`, an uncompressed tar that messages call `name`. In an archive with both an
    /// image layout and `manifest.json`, as Docker writes them since version 25, the layout counts: it has the
    /// original manifests.
    ///
    /// Blocking; compressed layers of a docker-archive are read completely.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a tar or contains no images, `Corrupt` if it is damaged, `Storage` if it cannot
    /// be read.
    pub fn open(file: File, name: &str) -> Result<Self> {
        let contents = read(&file).map_err(|error| with_archive_name(error, name))?;
        Ok(Self { inner: Arc::new(Inner { file, name: name.to_owned(), contents }) })
    }

    /// The images that the archive lists.
    #[must_use]
    pub fn images(&self) -> &[ListedImage] {
        &self.inner.contents.images
    }

    fn data(&self, digest: &Digest) -> Result<MemberData> {
        let data = self.inner.contents.blobs.get(digest).copied();
        data.ok_or_else(|| self.error(ErrorKind::NotFound, digest, "not in the archive"))
    }

    fn error(&self, kind: ErrorKind, subject: impl std::fmt::Display, message: &str) -> Error {
        Error::new(kind, format!("{}: {subject}", self.inner.name), message).on(Side::Source)
    }
}

/// The same error with the name of the archive in its subject.
fn with_archive_name(error: Error, name: &str) -> Error {
    let subject =
        if error.subject().is_empty() { name.to_owned() } else { format!("{name}: {}", error.subject()) };
    error.with_subject(subject).on(Side::Source)
}

fn read(file: &File) -> Result<ArchiveContents> {
    let index = TarIndex::read(file)?;
    if let (Some(marker), Some(listing)) = (index.find(MARKER)?, index.find(INDEX)?) {
        if marker.size.max(listing.size) > MAX_INDEX_SIZE {
            return Err(Error::new(ErrorKind::Corrupt, INDEX, "the document is too large"));
        }
        check_marker(&marker.read(file)?)?;
        let images = LayoutIndex::parse(&listing.read(file)?)?.images();
        let blobs = index.with_prefix("blobs/sha256/");
        let blobs = blobs.filter_map(|(name, data)| Some((Digest::from_hex(name).ok()?, data))).collect();
        return Ok(ArchiveContents { images, blobs, ..ArchiveContents::default() });
    }
    match index.find(read_docker::MANIFEST)? {
        Some(listing) => read_docker::read(file, &index, listing),
        None => Err(not_an_archive(format!(
            "the tar file contains no images: it has neither {} nor {INDEX}",
            read_docker::MANIFEST
        ))),
    }
}

impl Source for Archive {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        match self.images().iter().find(|image| image.is(repository, tag)) {
            Some(image) => Ok(Resolved { digest: image.root.clone()?.digest, manifest: None }),
            None => {
                let subject = format!("{repository}:{tag}");
                Err(self.error(ErrorKind::NotFound, subject, "not in the archive"))
            }
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
        };
        if let Some(generated) = self.inner.contents.manifests.get(&digest) {
            return Ok(generated.clone());
        }
        let data = self.data(&digest)?;
        if data.size > MAX_MANIFEST_SIZE {
            return Err(self.error(ErrorKind::Corrupt, digest, "too large for a manifest"));
        }
        let raw = RawManifest::new(data.read(&self.inner.file)?.into(), None)
            .map_err(|error| error.on(Side::Source))?;
        if raw.digest == digest {
            return Ok(raw);
        }
        let message = format!("the archive is damaged: the manifest's bytes hash to {}", raw.digest);
        Err(self.error(ErrorKind::Corrupt, digest, &message))
    }

    async fn blob(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = &descriptor.digest;
        let data = self.data(digest)?;
        let file = self.inner.file.try_clone().map_err(|cause| {
            Error::new(
                ErrorKind::Storage,
                &self.inner.name,
                format!("cannot duplicate the file handle: {cause}"),
            )
            .on(Side::Source)
        })?;
        let subject = format!("{}: {digest}", self.inner.name);
        Ok(FileBlob { file, offset: data.offset, length: data.size, subject }.stream(from, to))
    }
}
