//! Reads bundles from directories, files and streams.

use super::BundleVerifier;
use super::document::{self, BundleDocument, BundlePart, MAX_DOCUMENT, MAX_SIGNATURE};
use super::receive::{ReceivedPart, Receiver, is_final};
use super::report::{PartStatus, UnbundledPart};
use super::tar_reader::{TarMember, TarReader};
use crate::error::{Error, ErrorKind, ErrorReport, Result, Side};
use crate::oci::Digest;
use crate::store::Store;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// How many bytes are read from a file at once.
const BUFFER: usize = 1 << 20;
/// The name of a stream in messages.
const STREAM: &str = "stdin";

/// Where parts come from.
#[non_exhaustive]
pub enum UnbundleFrom {
    /// The directory of a bundle, with some or all of its parts; one part; or a file that holds a stream.
    Path(PathBuf),
    /// A stream as [`BundleTo::Stream`](super::BundleTo::Stream) writes it.
    Stream(Box<dyn Read + Send>),
}

/// An input that is open.
pub(super) enum BundleInput {
    Directory(PathBuf, BundleDocument),
    Document(BundleDocument),
    Tar(String, Box<dyn Read + Send>),
}

impl BundleInput {
    /// Opens an input, and reads and verifies its document.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a bundle, or not signed; what `verifier` returns.
    pub(super) fn open(from: UnbundleFrom, verifier: Option<&dyn BundleVerifier>) -> Result<Self> {
        let path = match from {
            UnbundleFrom::Stream(stream) => return Ok(Self::Tar(STREAM.to_owned(), stream)),
            UnbundleFrom::Path(path) => path,
        };
        let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, path.display(), why).on(Side::Source);
        if path.is_dir() {
            let file = path.join(document::FILE);
            if !file.is_file() {
                let hint = "name the directory that saver bundle wrote, or a part of it";
                return Err(refuse("it is not a bundle: it has no bundle.json").with_hint(hint));
            }
            let document = BundleDocument::read_verified(&file, verifier)?;
            return Ok(Self::Directory(path, document));
        }
        if path.file_name().is_some_and(|name| name == document::FILE) {
            return BundleDocument::read_verified(&path, verifier).map(Self::Document);
        }
        let file = File::open(&path).map_err(|cause| super::unreadable(&path, &cause))?;
        Ok(Self::Tar(path.display().to_string(), Box::new(file)))
    }

    pub(super) fn document(&self) -> Option<&BundleDocument> {
        match self {
            Self::Directory(_, document) | Self::Document(document) => Some(document),
            Self::Tar(..) => None,
        }
    }
}

/// What was read of all inputs.
pub(super) struct ReadInputs {
    pub(super) parts: Vec<UnbundledPart>,
    pub(super) documents: Vec<BundleDocument>,
    /// The blobs that were written.
    pub(super) written: Vec<Digest>,
    pub(super) bytes_written: u64,
    pub(super) bytes_present: u64,
}

/// Reads inputs, and writes their content into a tree.
pub(super) struct InputReader<'a> {
    receiver: Receiver<'a>,
    store: &'a Store,
    verifier: Option<&'a dyn BundleVerifier>,
    parts: Vec<UnbundledPart>,
    documents: Vec<BundleDocument>,
    /// What was read before the document that describes it: the row, the name of the part, and what it turned out to be.
    digests: Vec<(usize, String, ReceivedPart)>,
}

impl<'a> InputReader<'a> {
    pub(super) fn new(
        store: &'a Store,
        receiver: Receiver<'a>,
        verifier: Option<&'a dyn BundleVerifier>,
    ) -> Self {
        Self { receiver, store, verifier, parts: Vec::new(), documents: Vec::new(), digests: Vec::new() }
    }

    /// Reads one input.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a bundle; whatever keeps the run from continuing. A damaged part is a row.
    pub(super) fn input(&mut self, input: BundleInput) -> Result<()> {
        match input {
            BundleInput::Directory(dir, document) => {
                for (index, part) in document.parts.iter().enumerate() {
                    self.file(&dir, &document, index + 1, part)?;
                }
                self.add(document);
                Ok(())
            }
            BundleInput::Document(document) => {
                self.add(document);
                Ok(())
            }
            BundleInput::Tar(name, input) => self.tar(&name, input),
        }
    }

    fn add(&mut self, document: BundleDocument) {
        if !self.documents.iter().any(|known| known.id == document.id) {
            self.documents.push(document);
        }
    }

    fn row(&mut self, file: String, status: PartStatus, error: Option<&Error>) {
        let error = error.map(ErrorReport::from);
        self.parts.push(UnbundledPart { file, status, error });
    }

    /// Reads a part of a directory.
    fn file(
        &mut self,
        dir: &Path,
        document: &BundleDocument,
        number: usize,
        part: &BundlePart,
    ) -> Result<()> {
        let path = dir.join(&part.file);
        let name = path.display().to_string();
        if self.has_all(document, number)? {
            self.row(name, PartStatus::Skipped, None);
            return Ok(());
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.row(name, PartStatus::Absent, None);
                return Ok(());
            }
            Err(error) => {
                let error = Error::storage(&name, "open", error).on(Side::Source);
                self.row(name, PartStatus::Damaged, Some(&error));
                return Ok(());
            }
        };
        let mut tar = TarReader::new(BufReader::with_capacity(BUFFER, file));
        let first = tar.next();
        let outcome = first.and_then(|first| self.receiver.part(tar, first));
        self.read(name, outcome.and_then(|read| checked(read, document, part).map(|_| None)))
    }

    /// Whether the tree has all content of a part, so that it need not be read. A part without content is read.
    fn has_all(&self, document: &BundleDocument, number: usize) -> Result<bool> {
        let mut is_empty = true;
        for content in document.content_of(number) {
            is_empty = false;
            if self.store.blob_size(&content.digest)? != Some(content.size) {
                return Ok(false);
            }
        }
        Ok(!is_empty)
    }

    /// Adds the row of a part; with what it turned out to be, if that is to be compared with a document that follows.
    fn read(&mut self, name: String, outcome: Result<Option<(String, ReceivedPart)>>) -> Result<()> {
        match outcome {
            Ok(pending) => {
                let row = self.parts.len();
                self.digests.extend(pending.map(|(file, read)| (row, file, read)));
                self.row(name, PartStatus::Read, None);
                Ok(())
            }
            Err(error) if is_final(&error) => Err(error),
            Err(error) => {
                self.row(name, PartStatus::Damaged, Some(&error));
                Ok(())
            }
        }
    }

    /// Reads a part, or a stream of the files of a bundle.
    fn tar(&mut self, name: &str, input: Box<dyn Read + Send>) -> Result<()> {
        let named = |error: Error| if error.subject().is_empty() { error.with_subject(name) } else { error };
        let mut tar = TarReader::new(BufReader::with_capacity(BUFFER, input));
        let mut member = match tar.next() {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Err(named(error.with_kind(ErrorKind::InvalidInput)).context("it is not a bundle"));
            }
            first => first.map_err(named)?,
        };
        if tar.bundle().is_some() {
            let outcome = self.receiver.part(tar, member).map_err(named);
            let file = Path::new(name).file_name().unwrap_or_default().to_string_lossy().into_owned();
            return self.read(name.to_owned(), outcome.map(|read| Some((file, read))));
        }
        let mut has_parts = false;
        let mut document = None;
        let mut signature = None;
        while let Some(TarMember { name: path, .. }) = member {
            let file = path.rsplit('/').next().unwrap_or_default().to_owned();
            if file == document::FILE {
                document = Some(tar.document(MAX_DOCUMENT).map_err(named)?);
            } else if file == document::SIGNATURE {
                signature = Some(tar.document(MAX_SIGNATURE).map_err(named)?);
            } else if file.starts_with("part-") && file.ends_with(".tar") {
                let mut inner = TarReader::new(&mut tar);
                let outcome = inner.next().and_then(|first| self.receiver.part(inner, first)).map_err(named);
                self.read(file.clone(), outcome.map(|read| Some((file, read))))?;
                has_parts = true;
            }
            member = match tar.next() {
                Ok(member) => member,
                Err(error) => {
                    self.row(name.to_owned(), PartStatus::Damaged, Some(&named(error)));
                    return Ok(());
                }
            };
        }
        if let Some(bytes) = document {
            match (self.verifier, signature) {
                (Some(verifier), Some(signature)) => verifier.verify(&bytes, &signature)?,
                (Some(_), None) => return Err(document::unsigned(name)),
                (None, _) => {}
            }
            self.add(BundleDocument::parse(&bytes)?);
        } else if !has_parts {
            let why = "it is not a bundle: it has neither a part nor bundle.json";
            return Err(Error::new(ErrorKind::InvalidInput, name, why).on(Side::Source));
        }
        Ok(())
    }

    /// Compares parts with the documents that came after them, and puts ranges together.
    ///
    /// # Errors
    /// Whatever keeps the run from continuing.
    pub(super) fn finish(mut self) -> Result<ReadInputs> {
        for (row, file, read) in std::mem::take(&mut self.digests) {
            let document = self.documents.iter().find(|document| Some(document.id) == read.bundle);
            let part = document.and_then(|document| document.parts.iter().find(|part| part.file == file));
            let (Some(document), Some(part)) = (document, part) else { continue };
            if let Err(error) = checked(read, document, part) {
                let row = &mut self.parts[row];
                row.status = PartStatus::Damaged;
                row.error = Some(ErrorReport::from(&error));
            }
        }
        for document in &self.documents {
            self.receiver.assemble(document)?;
        }
        Ok(ReadInputs {
            parts: self.parts,
            documents: self.documents,
            written: self.receiver.written,
            bytes_written: self.receiver.bytes_written,
            bytes_present: self.receiver.bytes_present,
        })
    }
}

/// Compares a part with its description.
fn checked(read: ReceivedPart, document: &BundleDocument, part: &BundlePart) -> Result<()> {
    let refuse = |why: String| Error::new(ErrorKind::Corrupt, &part.file, why).on(Side::Source);
    match read.bundle {
        Some(id) if id != document.id => Err(refuse(format!("it is a part of another bundle, {id}"))),
        None => Err(refuse("it does not say which bundle it belongs to".into())),
        _ if read.bytes != part.bytes => {
            Err(refuse(format!("it has {} bytes instead of {}", read.bytes, part.bytes)))
        }
        _ if read.digest != part.digest => {
            Err(refuse(format!("its digest is {} instead of {}", read.digest, part.digest)))
        }
        _ => Ok(()),
    }
}
