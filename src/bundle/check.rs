//! Checks a bundle without a tree.

use super::document::{BundleDocument, FILE, SUMS};
use super::member::PartMember;
use super::tar_reader::{TarMember, TarReader};
use super::{BundleObserver, BundleVerifier};
use crate::error::{Error, ErrorKind, ErrorReport, Result, Side};
use crate::oci::Digest;
use crate::oci::sha256::Sha256State;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// How many bytes are read at once.
const CHUNK: usize = 1 << 20;

/// The text of `SHA256SUMS`, as `sha256sum -c` reads it.
pub(super) struct FileSums(String);

impl FileSums {
    /// The digests of the files of a bundle; `bytes` are those of its document.
    pub(super) fn of(document: &BundleDocument, bytes: &[u8]) -> Self {
        let mut text = String::new();
        for part in &document.parts {
            let _ = writeln!(text, "{}  {}", part.digest.hex(), part.file);
        }
        let _ = writeln!(text, "{}  {FILE}", Digest::of(bytes).hex());
        Self(text)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The result of checking a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundleCheck {
    /// The version of this format: 1.
    pub schema: u32,
    /// The ID of the bundle.
    pub id: Digest,
    /// Its parts.
    pub parts: Vec<CheckedPart>,
    /// The content that the document promises and no part has.
    pub missing: Vec<Digest>,
}

/// A part that was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckedPart {
    /// Its file.
    pub file: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

impl BundleCheck {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.parts.iter().all(|part| part.error.is_none())
    }
}

/// Reads all parts of the bundle in the directory `dir` and compares them with its document, and their content with its digests. With
/// a `verifier`, its signature is verified first.
///
/// # Errors
/// `InvalidInput` if `dir` is not a bundle, or its document is damaged or not signed; what `verifier` returns; `Storage` if that can't be read. A damaged part is not an error.
pub fn check_bundle(
    dir: &Path,
    verifier: Option<&dyn BundleVerifier>,
    observer: &dyn BundleObserver,
) -> Result<BundleCheck> {
    let document = BundleDocument::read_verified(&dir.join(FILE), verifier)?;
    observer.started(document.parts.iter().map(|part| part.bytes).sum());
    let mut check = BundleCheck { schema: 1, id: document.id, parts: Vec::new(), missing: Vec::new() };
    let mut content = PartContents::default();
    for part in &document.parts {
        let outcome = content.read(&dir.join(&part.file), observer);
        let outcome = outcome.and_then(|(digest, bytes)| {
            if digest == part.digest && bytes == part.bytes {
                return Ok(());
            }
            let why = format!("its digest is {digest} instead of {}", part.digest);
            Err(Error::new(ErrorKind::Corrupt, &part.file, why).on(Side::Source))
        });
        let error = outcome.err().map(|error| ErrorReport::from(&error));
        check.parts.push(CheckedPart { file: part.file.clone(), error });
    }
    let bytes = document.to_bytes()?;
    let expected = FileSums::of(&document, &bytes);
    let error = match std::fs::read(dir.join(SUMS)) {
        Ok(found) if found == expected.as_bytes() => None,
        Ok(_) => Some(Error::new(ErrorKind::Corrupt, SUMS, "it does not match bundle.json").on(Side::Source)),
        Err(cause) => Some(Error::storage(SUMS, "read", cause).on(Side::Source)),
    };
    let error = error.map(|error| ErrorReport::from(&error));
    check.parts.push(CheckedPart { file: SUMS.to_owned(), error });
    let promised = document.content.iter().filter(|content| !content.parts.is_empty());
    let absent = promised.filter(|one| content.bytes.get(&one.digest) != Some(&one.size));
    check.missing = absent.map(|one| one.digest).collect();
    Ok(check)
}

/// The content of the parts read so far.
#[derive(Default)]
struct PartContents {
    /// How many verified bytes there are of each blob.
    bytes: HashMap<Digest, u64>,
    /// The state of each blob that is cut, after its last range.
    cut: HashMap<Digest, Sha256State>,
}

impl PartContents {
    fn read(&mut self, path: &Path, observer: &dyn BundleObserver) -> Result<(Digest, u64)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = File::open(path).map_err(|cause| Error::storage(&name, "open", cause).on(Side::Source))?;
        let mut tar = TarReader::new(BufReader::with_capacity(CHUNK, file));
        let mut chunk = vec![0; CHUNK];
        while let Some(TarMember { name, size, is_directory }) = tar.next()? {
            let (digest, range, total) = match PartMember::parse(&name)? {
                PartMember::Repository => continue,
                PartMember::Blob(digest) => (digest, 0..size, size),
                PartMember::Range { digest, start, total } => {
                    (digest, start..start.saturating_add(size), total)
                }
            };
            let mut state = self.cut.remove(&digest).unwrap_or_default();
            if is_directory || state.len() != range.start || range.end > total {
                let why = "it is not the next range of its blob";
                return Err(Error::new(ErrorKind::Corrupt, name, why).on(Side::Source));
            }
            loop {
                match tar.data(&mut chunk, Some(&mut state))? {
                    0 => break,
                    count => observer.moved(count as u64),
                }
            }
            if range.end < total {
                self.cut.insert(digest, state);
                continue;
            }
            let actual = Digest::from_bytes(state.finish());
            if actual != digest {
                let why = format!("its content hashes to {actual}");
                return Err(Error::new(ErrorKind::Corrupt, format!("blob {digest}"), why).on(Side::Source));
            }
            self.bytes.insert(digest, total);
        }
        tar.finish()
    }
}
