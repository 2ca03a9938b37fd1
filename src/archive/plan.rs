//! The plan of an archive: its members, in order, after everything that they contain has been read and verified once.

use super::layer;
use super::tar_writer::TarWriter;
use crate::content::Publication;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::EntryName;
use crate::oci::{Digest, Reference};
use bytes::Bytes;
use std::fmt;
use std::io::{Read, Write};

/// An image to write into an archive.
#[derive(Clone, Debug)]
pub struct ArchiveImage {
    /// The image's name in error messages.
    pub reference: Reference,
    /// The names of its entry in `index.json`; a docker-archive uses the full name.
    pub name: EntryName,
    /// Its manifests and the blobs they reference.
    pub content: Publication,
}

impl ArchiveImage {
    pub(super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, &self.reference, message).on(Side::Source)
    }

    /// The failure of a part of this image, as a failure of the image.
    pub(super) fn with_context(&self, error: &Error, context: impl fmt::Display) -> Error {
        error.clone().context(context).with_subject(&self.reference).on(Side::Source)
    }
}

/// A blob opened for reading, and its length in bytes.
pub type OpenedContent<'c> = (Box<dyn Read + Send + 'c>, u64);

/// Opens a blob by digest; `None` if it does not exist. Called from several threads at once.
pub type OpenContent<'c> = dyn Fn(&Digest) -> Result<Option<OpenedContent<'c>>> + Sync + 'c;

/// The members of an archive whose content has been read and verified; what remains is to write them.
pub struct ArchivePlan {
    /// The result for each image, in the order given. Images that failed are not part of the archive.
    pub outcomes: Vec<Result<()>>,
    pub(super) members: Vec<PlannedMember>,
}

/// One file of the archive.
pub(super) struct PlannedMember {
    pub(super) path: String,
    pub(super) source: MemberSource,
    /// Length in bytes of the member as written.
    pub(super) size: u64,
}

/// Where a member's bytes come from.
pub(super) enum MemberSource {
    /// Held in memory: documents, and manifests. A rewritten index exists nowhere else.
    Memory(Bytes),
    /// The blob of this digest, as is.
    Blob(Digest),
    /// The layer `blob`, decompressed into a tar with the digest `diff_id`.
    Decompressed { blob: Digest, diff_id: Digest },
}

impl PlannedMember {
    pub(super) fn memory(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        Self { path: path.into(), source: MemberSource::Memory(bytes), size }
    }
}

impl ArchivePlan {
    /// Number of images in the archive.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    }

    /// Length of the archive in bytes: a header for each member, content padded to 512-byte blocks, and two zero
    /// blocks.
    #[must_use]
    pub fn size(&self) -> u64 {
        let padded = |size: u64| size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
        self.members
            .iter()
            .fold(1024, |sum, member| sum.saturating_add(512).saturating_add(padded(member.size)))
    }

    /// Writes the archive to `out`, which messages call `name`, and verifies all content again. The output is a valid
    /// archive only if this succeeds.
    ///
    /// # Errors
    /// `Corrupt` if content changed since it was planned; `Storage` if it cannot be read or written.
    pub fn write<W: Write>(&self, content: &OpenContent<'_>, out: W, name: &str) -> Result<W> {
        let mut tar = TarWriter::new(out, name);
        for PlannedMember { path, source, size } in &self.members {
            match source {
                MemberSource::Memory(bytes) => tar.document(path, bytes)?,
                MemberSource::Blob(digest) => {
                    let (reader, _) = open(content, digest)?;
                    tar.content(path, *size, digest, reader)?;
                }
                MemberSource::Decompressed { blob, diff_id } => {
                    let (reader, _) = open(content, blob)?;
                    let (reader, _) = layer::decompressed(reader).map_err(|cause| {
                        Error::new(ErrorKind::Corrupt, blob, format!("cannot read the layer: {cause}"))
                    })?;
                    tar.content(path, *size, diff_id, reader)?;
                }
            }
        }
        tar.finish()
    }
}

/// Opens the blob `digest`, which must exist.
pub(super) fn open<'c>(content: &OpenContent<'c>, digest: &Digest) -> Result<OpenedContent<'c>> {
    let missing = || Error::new(ErrorKind::NotFound, digest, "missing blob").on(Side::Source);
    content(digest)?.ok_or_else(missing)
}
