//! A sink of its own: fetches an image into a directory with one file for each blob and manifest, named by its digest.
//!
//! `custom_sink DIR ARCH IMAGE`

// An example prints its result.
#![allow(clippy::print_stdout)]

use bytes::Bytes;
use saver::content::{BlobWriter, Ingest, Place, Publication, Sink};
use saver::error::{Error, ErrorKind, Result};
use saver::oci::{Descriptor, Digest, Repository, Tag};
use saver::registry::{Access, Sessions};
use saver::transfer::{Engine, Image, Silent, TransferOptions};
use saver::{CancellationToken, Reference};
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory.
struct FlatDirectory(PathBuf);

impl FlatDirectory {
    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.join(digest.to_string().replace(':', "-"))
    }
}

fn storage(path: &Path, operation: &str, cause: std::io::Error) -> Error {
    Error::storage(path.display(), operation, cause)
}

/// The engine asks what the sink has, writes the blobs that are missing, and publishes images that are complete.
impl Sink for FlatDirectory {
    type Writer = FileWriter;
    type Upload = Infallible;

    async fn tag(&self, _: &Repository, _: &Tag) -> Result<Option<Digest>> {
        Ok(None)
    }

    async fn tag_has_named(&self, _: &Repository, _: &Tag, _: &Digest) -> Result<bool> {
        Ok(false)
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let path = self.path(digest);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= limit => {
                let bytes = std::fs::read(&path).map_err(|cause| storage(&path, "read", cause))?;
                Ok(Some(bytes.into()))
            }
            _ => Ok(None),
        }
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let metadata = std::fs::metadata(self.path(&descriptor.digest));
        Ok(metadata.is_ok_and(|metadata| metadata.len() == descriptor.size))
    }

    async fn is_linked(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.path(digest).exists())
    }

    async fn is_revision(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.path(digest).exists())
    }

    async fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<FileWriter, Infallible>> {
        if self.has_blob(repository, descriptor).await? {
            return Ok(Ingest::Present);
        }
        let path = self.path(&descriptor.digest);
        let partial = path.with_extension("partial");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial);
        let file = file.map_err(|cause| storage(&partial, "create", cause))?;
        Ok(Ingest::Write(FileWriter { file, partial, path }))
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        for manifest in &image.manifests {
            let path = self.path(&manifest.digest);
            std::fs::write(&path, &manifest.bytes).map_err(|cause| storage(&path, "write", cause))?;
        }
        Ok(())
    }
}

/// A blob that is being written. It gets its name when the engine has verified it.
struct FileWriter {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl BlobWriter for FileWriter {
    fn received(&self) -> u64 {
        0
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|cause| storage(&self.partial, "write", cause))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read_at(buffer, offset).map_err(|cause| storage(&self.partial, "read", cause))
    }

    fn commit(self, _: &Digest) -> Result<()> {
        std::fs::rename(&self.partial, &self.path).map_err(|cause| storage(&self.path, "create", cause))
    }

    fn discard(self) -> Result<()> {
        std::fs::remove_file(&self.partial).map_err(|cause| storage(&self.partial, "remove", cause))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, arch, name] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidInput, "usage", "custom_sink DIR ARCH IMAGE"));
    };
    std::fs::create_dir_all(dir).map_err(|cause| storage(dir.as_ref(), "create", cause))?;
    let reference = Reference::parse(name)?;
    let image = Image {
        source: Sessions::new(Access::default(), 8).with(&reference.registry)?,
        place: Place { repository: reference.repository.clone(), tag: reference.tag.clone() },
        alias: None,
        reference,
        platforms: Some(arch.parse()?),
        resolved: None,
        pinned: None,
        origin: None,
        warnings: Vec::new(),
    };
    let sink = Arc::new(FlatDirectory(dir.into()));
    let engine = Arc::new(Engine::new(sink, TransferOptions::default(), Arc::new(Silent))?);
    let report = engine.run(vec![image], &CancellationToken::new()).await;
    for image in &report.images {
        match &image.error {
            None => println!("{} is {:?}", image.reference, image.digest),
            Some(failure) => println!("{}: {}", image.reference, failure.message),
        }
    }
    Ok(())
}
