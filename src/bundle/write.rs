//! Writes a planned bundle: into a directory, which appears when it is complete, or to a stream.

use super::check::FileSums;
use super::document::{BundleDocument, FILE, SIGNATURE, SUMS};
use super::plan::{BundlePlan, PlannedMember, PlannedPart};
use super::tar_writer::{TarWriter, comment, header};
use super::{BundleObserver, BundleSigner};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::oci::sha256::Sha256State;
use crate::store::{Store, link};
use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many bytes are read at once.
const CHUNK: usize = 1 << 20;

/// Writes the bundle of `plan` into the directory `dir`, which must not exist or be empty.
///
/// # Errors
/// `InvalidInput` if there is something at `dir`; `Corrupt` if the content of the tree does not match its digests; `Storage`.
pub(super) fn to_directory(
    plan: BundlePlan,
    store: &Store,
    dir: &Path,
    signer: Option<&dyn BundleSigner>,
    observer: &dyn BundleObserver,
) -> Result<BundleDocument> {
    let temporary = TemporaryDirectory::create(dir)?;
    temporary.check_room(plan.bytes())?;
    let mut writer = PartWriter::new(store, plan.document.id, observer);
    let mut document = plan.document;
    for (part, entry) in plan.parts.iter().zip(&mut document.parts) {
        let path = temporary.path.join(&entry.file);
        let file = File::create_new(&path).map_err(|cause| failed(&path, "create", cause))?;
        let (file, digest) = writer.write(part, file, &path.display().to_string())?;
        file.sync_all().map_err(|cause| failed(&path, "sync", cause))?;
        entry.digest = digest;
    }
    for (name, content) in documents(&document, signer)? {
        let path = temporary.path.join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        });
        written.map_err(|cause| failed(&path, "write", cause))?;
    }
    temporary.publish(dir)?;
    Ok(document)
}

/// Writes the bundle of `plan` to `out` as one tar file, which holds the files of its directory: the parts, then the documents.
///
/// # Errors
/// As [`to_directory`].
pub(super) fn to_stream(
    plan: BundlePlan,
    store: &Store,
    mut out: Box<dyn Write + Send>,
    signer: Option<&dyn BundleSigner>,
    observer: &dyn BundleObserver,
) -> Result<BundleDocument> {
    let lost = |cause| Error::storage("the stream", "write", cause);
    let mut writer = PartWriter::new(store, plan.document.id, observer);
    let mut document = plan.document;
    for (part, entry) in plan.parts.iter().zip(&mut document.parts) {
        out.write_all(&header(&entry.file, part.bytes())?).map_err(lost)?;
        let (_, digest) = writer.write(part, &mut out, "the stream")?;
        entry.digest = digest;
    }
    let mut tar = TarWriter::new(out, "the stream");
    for (name, content) in documents(&document, signer)? {
        tar.document(name, &content)?;
    }
    tar.finish()?;
    Ok(document)
}

/// The files that describe a bundle, with their names.
fn documents(
    document: &BundleDocument,
    signer: Option<&dyn BundleSigner>,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let bytes = document.to_bytes()?;
    let sums = FileSums::of(document, &bytes).as_bytes().to_vec();
    let signature = signer.map(|signer| signer.sign(&bytes)).transpose()?;
    let mut files = vec![(FILE, bytes)];
    files.extend(signature.map(|signature| (SIGNATURE, signature)));
    files.push((SUMS, sums));
    Ok(files)
}

fn failed(path: &Path, operation: &str, cause: io::Error) -> Error {
    let is_too_large = cause.raw_os_error() == Some(libc::EFBIG);
    let error = Error::storage(path.display(), operation, cause);
    if is_too_large {
        error.with_hint("the file system holds no files of this size: use --part-size")
    } else {
        error
    }
}

/// Writes parts in order, and verifies all content on the way.
struct PartWriter<'a> {
    store: &'a Store,
    id: Digest,
    observer: &'a dyn BundleObserver,
    /// The state of each blob that is cut, after its last range.
    cut: HashMap<Digest, Sha256State>,
    chunk: Vec<u8>,
}

impl<'a> PartWriter<'a> {
    fn new(store: &'a Store, id: Digest, observer: &'a dyn BundleObserver) -> Self {
        Self { store, id, observer, cut: HashMap::new(), chunk: vec![0; CHUNK] }
    }

    /// Writes `part` to `out`, which messages call `name`; returns its digest.
    fn write<W: Write>(&mut self, part: &PlannedPart, out: W, name: &str) -> Result<(W, Digest)> {
        let mut tar = TarWriter::new(out, name);
        tar.raw(&comment(&self.id))?;
        for member in &part.members {
            match member {
                PlannedMember::Directory { path } => tar.document(path, b"")?,
                PlannedMember::Link { path, digest } => {
                    tar.document(path, link::format(digest).as_bytes())?
                }
                PlannedMember::Blob { digest, size } => {
                    self.range(&mut tar, member, digest, 0..*size, *size)?;
                }
                PlannedMember::Range { digest, start, length, total } => {
                    self.range(&mut tar, member, digest, *start..start + length, *total)?;
                }
            }
        }
        tar.finish()
    }

    /// Writes a range of a blob of `total` bytes, and compares the digest after the last one.
    fn range<W: Write>(
        &mut self,
        tar: &mut TarWriter<W>,
        member: &PlannedMember,
        digest: &Digest,
        range: std::ops::Range<u64>,
        total: u64,
    ) -> Result<()> {
        let file = match self.store.open_blob(digest)? {
            Some((file, length)) if length == total => file,
            _ => return Err(damaged(digest, "it is missing or has another size".into())),
        };
        let length = range.end - range.start;
        tar.raw(&header(&member.path(), length)?)?;
        let mut state = self.cut.remove(digest).unwrap_or_default();
        let mut at = range.start;
        while at < range.end {
            let room = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            let count = match file.read_at(&mut self.chunk[..room], at) {
                Ok(0) => return Err(damaged(digest, "it was truncated".into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(digest, format!("it cannot be read: {error}"))),
            };
            tar.data(&self.chunk[..count], &mut state)?;
            self.observer.moved(count as u64);
            at += count as u64;
        }
        tar.pad(length)?;
        if range.end < total {
            self.cut.insert(*digest, state);
            return Ok(());
        }
        let actual = Digest::from_bytes(state.finish());
        if actual != *digest {
            let detail = Detail::Mismatch { expected: digest.to_string(), actual: actual.to_string() };
            return Err(damaged(digest, "its digest is wrong".into()).with_detail(detail));
        }
        Ok(())
    }
}

fn damaged(digest: &Digest, why: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("blob {digest}"), format!("the directory is damaged: {why}"))
        .on(Side::Source)
        .with_hint(
            "run saver verify --deep to find out what is damaged, and saver verify --repair to repair it",
        )
}

/// The directory of a bundle until it is complete: a hidden one beside it, which one process writes at a time. What an interrupted
/// process has left in it is removed.
struct TemporaryDirectory {
    path: PathBuf,
    /// Open, and so locked, until the directory has its name.
    _lock: File,
    is_published: bool,
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if !self.is_published {
            // If this fails, the next run removes it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl TemporaryDirectory {
    fn create(dir: &Path) -> Result<Self> {
        let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, dir.display(), why);
        match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                let error = refuse("cannot write the bundle: the directory is not empty");
                return Err(error.with_hint("choose another name, or remove the directory"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(refuse("cannot write the bundle: there is a file of this name"));
            }
            Err(error) => return Err(failed(dir, "read the directory", error)),
        }
        let name = dir.file_name().ok_or_else(|| refuse("not a name for a bundle"))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".saver-tmp");
        let path = dir.with_file_name(hidden);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse("cannot write the bundle: the directory above it does not exist"));
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&path, "create the directory", error));
            }
            _ => {}
        }
        let lock = File::open(&path).map_err(|cause| failed(&path, "open the directory", cause))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let why = "another process is writing this bundle";
            return Err(Error::new(ErrorKind::Storage, dir.display(), why));
        }
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&path)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        remove().map_err(|cause| failed(&path, "empty the directory", cause))?;
        Ok(Self { path, _lock: lock, is_published: false })
    }

    fn check_room(&self, needed: u64) -> Result<()> {
        let space = rustix::fs::statvfs(&self.path)
            .map_err(|cause| failed(&self.path, "read the free space of", cause.into()))?;
        let available = space.f_bavail.saturating_mul(space.f_frsize);
        // Some network and FUSE file systems report no blocks at all.
        if space.f_blocks > 0 && available < needed {
            let why = format!("not enough disk space: {needed} bytes needed, {available} available");
            return Err(Error::new(ErrorKind::Storage, self.path.display(), why)
                .with_hint("free some space, or write the bundle to another disk"));
        }
        Ok(())
    }

    fn publish(mut self, dir: &Path) -> Result<()> {
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        sync(&self.path).map_err(|cause| failed(&self.path, "sync", cause))?;
        fs::rename(&self.path, dir).map_err(|cause| failed(dir, "rename the bundle to", cause))?;
        self.is_published = true;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        sync(parent).map_err(|cause| failed(parent, "sync", cause))
    }
}
