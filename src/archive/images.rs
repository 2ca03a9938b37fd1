//! What is to be written into an archive, and what was found to be fit for it.

use super::stream::TarStream;
use crate::content::Publication;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Digest, Reference};
use std::io::{Read, Write};

/// An image to be written.
#[derive(Clone, Debug)]
pub struct ArchiveImage {
    /// What it is called in the archive.
    pub name: Reference,
    /// Its manifests and the blobs they name.
    pub content: Publication,
}

impl ArchiveImage {
    /// The name as it is written: without the digest where there is a tag.
    pub(super) fn label(&self) -> String {
        let Reference { registry, repository, tag, digest } = &self.name;
        match (tag, digest) {
            (Some(tag), _) => format!("{registry}/{repository}:{tag}"),
            (None, Some(digest)) => format!("{registry}/{repository}@{digest}"),
            (None, None) => format!("{registry}/{repository}"),
        }
    }

    pub(super) fn refuse(&self, kind: ErrorKind, why: impl Into<String>) -> Error {
        Error::new(kind, &self.name, why).on(Side::Source)
    }
}

/// Content that was opened, and its length in bytes.
pub type Opened<'c> = (Box<dyn Read + Send + 'c>, u64);

/// Opens content by its digest; none when it is not there. Asked from several threads.
pub type Content<'c> = dyn Fn(&Digest) -> Result<Option<Opened<'c>>> + Sync + 'c;

/// Images that were read and found fit: what is left to do is to write them.
pub struct Prepared {
    /// What became of each image, in the order they were given.
    pub outcomes: Vec<Result<()>>,
    pub(super) documents: Vec<(String, Vec<u8>)>,
    pub(super) members: Vec<Member>,
}

/// Content to be written.
pub(super) struct Member {
    pub(super) path: String,
    /// Whose content it is.
    pub(super) source: Digest,
    /// Whether it is inflated first.
    pub(super) inflate: bool,
    /// What is written: its length in bytes, and its digest.
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl Prepared {
    /// How many images there are to write.
    #[must_use]
    pub fn count(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    }

    /// How long the archive will be, in bytes: headers and padding to blocks of 512, two blocks of zeros at its end.
    #[must_use]
    pub fn size(&self) -> u64 {
        let documents = self.documents.iter().map(|(_, content)| content.len() as u64);
        let members = self.members.iter().map(|member| member.size);
        documents.chain(members).fold(1024, |sum, size| {
            sum.saturating_add(512).saturating_add(size.checked_next_multiple_of(512).unwrap_or(u64::MAX))
        })
    }

    /// Writes the archive to `out`, which messages call `name`, verifying all content once more. What was written is
    /// an archive only if this succeeds.
    ///
    /// # Errors
    /// `Corrupt` when content has changed since it was read first; `Storage` when it can't be read or written.
    pub fn write<W: Write>(&self, content: &Content<'_>, out: W, name: &str) -> Result<W> {
        let mut tar = TarStream::new(out, name);
        for (path, bytes) in &self.documents {
            tar.document(path, bytes)?;
        }
        for member in &self.members {
            let (file, _) = open(content, &member.source)?;
            let reader: Box<dyn Read + Send + '_> = if member.inflate {
                let inflated = super::layer::inflated(file);
                let failed =
                    |cause| Error::new(ErrorKind::Corrupt, member.source, format!("cannot be read: {cause}"));
                inflated.map_err(failed)?.0
            } else {
                file
            };
            tar.content(&member.path, member.size, &member.digest, reader)?;
        }
        tar.finish()
    }
}

pub(super) fn open<'c>(content: &Content<'c>, digest: &Digest) -> Result<Opened<'c>> {
    let gone = || Error::new(ErrorKind::NotFound, digest, "it is not there").on(Side::Source);
    content(digest)?.ok_or_else(gone)
}
