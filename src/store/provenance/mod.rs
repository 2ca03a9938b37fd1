//! Where the images of a tree come from.
//!
//! One record for each published tag, and for each image published by digest alone, in `.saver/sources/<n>.jsonl`: a JSON object a
//! line, with a version. Each process that publishes has one of these files for itself and adds to its end, before the first barrier
//! of the publication: so the record is on stable storage before anything of the image appears, and costs no barrier of its own.
//!
//! A record counts for a tag while the tag points to the digest in the record. So a record whose tag was never published, an
//! older one, and one whose tag another tool has moved since do no harm. Of several for one tag and digest the last one counts.
//!
//! Records are advisory: a damaged line, a line of a later version, and a directory that may not be read count as absent.
//! A file of which little counts any more is rewritten; `prune` and `rm` drop the records of what they remove.

pub(super) mod log;

use super::{Store, path, storage, storage_read};
use crate::content::{ImageOrigin, Place, Publication};
use crate::driver::{Driver, EntryKind};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Repository, Tag};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// The version of the form of a record.
const VERSION: u32 = 1;
/// Maximum length of a file that is read, in bytes. A file of this length has some half a million records.
const MAX_FILE: u64 = 256 << 20;
/// Maximum length of a line that is read, in bytes.
const MAX_LINE: usize = 64 << 10;
/// How often a file that disappears while the directory is read makes it be read again.
const MAX_ATTEMPTS: usize = 10;

/// Where one image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceRecord {
    /// The version of this form.
    #[serde(rename = "v")]
    version: u32,
    /// Its repository in the tree.
    pub repository: Repository,
    /// Its tag in the tree; `None` for an image saved by digest alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Its digest in the tree.
    pub digest: Digest,
    /// Its name at the source.
    pub source: Reference,
    /// Its digest at the source.
    pub source_digest: Digest,
    /// The platforms that were saved.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// How its index was saved: `keep`, `prune` or `flatten`.
    #[serde(default)]
    pub index: String,
    /// The rule by which the directory names images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// When the run started that saved it, in seconds since 1970.
    #[serde(default)]
    pub time: u64,
}

impl SourceRecord {
    /// Whether `origin` says the same, apart from when.
    fn matches(&self, origin: &ImageOrigin) -> bool {
        self.source == origin.reference
            && self.source_digest == origin.digest
            && self.platforms == origin.platforms
            && self.index == origin.index
    }

    /// Whether the image comes from the registry and repository of `reference`.
    #[must_use]
    pub(crate) fn is_from(&self, reference: &Reference) -> bool {
        self.source.registry == reference.registry && self.source.repository == reference.repository
    }

    fn key(&self) -> RecordKey {
        (self.repository.clone(), self.tag.clone(), self.digest)
    }
}

type RecordKey = (Repository, Option<Tag>, Digest);

/// The records of a tree.
#[derive(Debug, Default)]
pub struct Provenance {
    records: HashMap<RecordKey, SourceRecord>,
    names: Option<String>,
    /// Number of lines, including those that a later one replaces.
    lines: usize,
}

impl Provenance {
    /// Where `place` comes from, if it holds `digest`.
    #[must_use]
    pub fn source(&self, place: &Place, digest: &Digest) -> Option<&SourceRecord> {
        self.records.get(&(place.repository.clone(), place.tag.clone(), *digest))
    }

    /// The rule by which the directory names images.
    #[must_use]
    pub fn names(&self) -> Option<&str> {
        self.names.as_deref()
    }

    /// The records, unordered.
    pub fn records(&self) -> impl Iterator<Item = &SourceRecord> {
        self.records.values()
    }

    fn add(&mut self, content: &[u8]) {
        for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if line.len() > MAX_LINE {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<SourceRecord>(line) else { continue };
            if record.version != VERSION {
                continue;
            }
            self.lines += 1;
            if record.names.is_some() {
                self.names.clone_from(&record.names);
            }
            self.records.insert(record.key(), record);
        }
    }
}

/// Whether a manifest that no tag needs is an image that was saved by digest, rather than what a tag pointed to before. Without a
/// record, those that never had a tag count as saved by digest: what nobody knows about is not removed.
#[must_use]
pub(crate) fn is_saved_by_digest(is_recorded: bool, was_tagged: bool) -> bool {
    is_recorded || !was_tagged
}

/// What is known of the records while a store is open.
#[derive(Debug, Default)]
pub(super) struct KnownSources {
    /// The numbers and sizes of the files when they were read.
    files: Vec<(u64, u64)>,
    read: Option<Arc<Provenance>>,
    /// The records that this process has added.
    own: HashMap<RecordKey, SourceRecord>,
}

impl Store {
    /// Reads where the images come from. Of a tree that no saver has written, or whose records may not be read, nothing is known.
    ///
    /// # Errors
    /// `Storage` if the records can't be read for another reason.
    pub fn provenance(&self) -> Result<Provenance> {
        let driver = &*self.inner.driver;
        read(driver, &|_| true).map_err(|error| storage_read(driver, path::SOURCES, "read", error))
    }

    /// Where `place` comes from, if it holds `digest`. With `refresh`, records that others have added meanwhile are read too.
    fn known_source(&self, place: &Place, digest: &Digest, refresh: bool) -> Result<Option<SourceRecord>> {
        let mut known = self.inner.sources.lock();
        let key = (place.repository.clone(), place.tag.clone(), *digest);
        let found = known.own.get(&key).or_else(|| known.read.as_ref()?.records.get(&key));
        if found.is_some() || (known.read.is_some() && !refresh) {
            return Ok(found.cloned());
        }
        Ok(self.refresh(&mut known)?.records.get(&key).cloned())
    }

    /// What is recorded, read again only if other processes have added to it.
    ///
    /// # Errors
    /// `Storage` if the records can't be read.
    #[cfg(feature = "serve")]
    pub(crate) fn current_provenance(&self) -> Result<Arc<Provenance>> {
        self.refresh(&mut self.inner.sources.lock())
    }

    fn refresh(&self, known: &mut KnownSources) -> Result<Arc<Provenance>> {
        let files = self.source_files()?;
        if let Some(read) = known.read.as_ref().filter(|_| known.files == files) {
            return Ok(Arc::clone(read));
        }
        let read = Arc::new(self.provenance()?);
        known.read = Some(Arc::clone(&read));
        known.files = files;
        Ok(read)
    }

    /// The rule by which the directory names images, if it is recorded.
    ///
    /// # Errors
    /// `Storage` if the records can't be read.
    pub fn recorded_names(&self) -> Result<Option<String>> {
        let mut known = self.inner.sources.lock();
        let read = match &known.read {
            Some(read) => Arc::clone(read),
            None => self.refresh(&mut known)?,
        };
        Ok(read.names.clone())
    }

    /// The source that is recorded for what `place` holds now.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn source_of(&self, place: &Place, digest: &Digest) -> Result<Option<SourceRecord>> {
        self.known_source(place, digest, true)
    }

    /// The numbers and sizes of the files, in order, without the one that this process has written to.
    fn source_files(&self) -> Result<Vec<(u64, u64)>> {
        let own = self.inner.commit.source_file();
        let driver = &*self.inner.driver;
        let mut files = Vec::new();
        for number in numbers(driver).map_err(|error| storage_read(driver, path::SOURCES, "list", error))? {
            let path = path::sources(number);
            let size = driver.size(&path).map_err(|error| storage_read(driver, &path, "access", error))?;
            files.extend(size.filter(|_| own != Some(number)).map(|size| (number, size)));
        }
        Ok(files)
    }

    /// Refuses to let a tag point to an image from another registry or repository than the one that it points to.
    pub(super) fn check_origin(&self, image: &Publication) -> Result<()> {
        let (Some(origin), Some(root)) = (&image.origin, image.root()) else { return Ok(()) };
        if self.inner.replace {
            return Ok(());
        }
        for place in &image.places {
            let Some(tag) = &place.tag else { continue };
            let Some(now) = self.read_tag(&place.repository, tag)?.filter(|now| *now != root) else {
                continue;
            };
            let Some(known) = self.known_source(place, &now, true)? else { continue };
            if !known.is_from(&origin.reference) {
                return Err(source_conflict(place, &known.source, &origin.reference));
            }
        }
        Ok(())
    }

    /// The lines that record where `image` comes from; empty if that is known already.
    pub(super) fn source_lines(&self, image: &Publication) -> Result<String> {
        let mut lines = String::new();
        let (Some(origin), Some(root)) = (&image.origin, image.root()) else { return Ok(lines) };
        for place in &image.places {
            if self.known_source(place, &root, false)?.is_some_and(|known| known.matches(origin)) {
                continue;
            }
            let record = SourceRecord {
                version: VERSION,
                repository: place.repository.clone(),
                tag: place.tag.clone(),
                digest: root,
                source: origin.reference.clone(),
                source_digest: origin.digest,
                platforms: origin.platforms.clone(),
                index: origin.index.to_owned(),
                names: self.inner.names.clone(),
                time: self.inner.opened,
            };
            lines.push_str(&line(&record)?);
            self.inner.sources.lock().own.insert(record.key(), record);
        }
        Ok(lines)
    }

    /// Whether something is to be recorded of an image that is complete: where it comes from if that is unknown, as in trees from
    /// before there were records, or if another source may be replaced.
    pub(super) fn needs_source_record(&self, image: &Publication) -> Result<bool> {
        let (Some(origin), Some(root)) = (&image.origin, image.root()) else { return Ok(false) };
        for place in &image.places {
            let known = self.known_source(place, &root, false)?;
            if known.is_none_or(|known| self.inner.replace && !known.is_from(&origin.reference)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rewrites the records without those for which `is_gone`, in a new file. Returns the files that it replaces, which the
    /// caller removes ([`remove_source_files`](Self::remove_source_files)) once the new one is on stable storage. For holders of the
    /// exclusive lock.
    pub(crate) fn forget_sources(&self, is_gone: &dyn Fn(&SourceRecord) -> bool) -> Result<Vec<u64>> {
        let driver = &*self.inner.driver;
        let failed = |error| storage(driver, path::SOURCES, "write", error);
        let files = numbers(driver).map_err(failed)?;
        let all = self.provenance()?;
        let mut kept: Vec<&SourceRecord> = all.records().filter(|record| !is_gone(record)).collect();
        if kept.len() == all.lines && files.len() <= 1 {
            return Ok(Vec::new());
        }
        kept.sort_by_cached_key(|record| record.key());
        let text = kept.into_iter().map(line).collect::<Result<String>>()?;
        *self.inner.sources.lock() = KnownSources::default();
        if !text.is_empty() {
            log::create(driver, &text).map_err(failed)?;
        }
        Ok(files)
    }

    /// Removes files of records.
    pub(crate) fn remove_source_files(&self, files: &[u64]) -> Result<()> {
        let driver = &*self.inner.driver;
        for path in files.iter().map(|number| path::sources(*number)) {
            driver.remove(&path).map_err(|error| storage(driver, &path, "remove", error))?;
        }
        Ok(())
    }
}

fn line(record: &SourceRecord) -> Result<String> {
    let json = serde_json::to_string(record);
    let json = json.map_err(|_| Error::internal(format!("{}:{:?}", record.repository, record.tag)))?;
    Ok(json + "\n")
}

/// The numbers of the files of records, in order. None if the directory may not be read.
fn numbers(driver: &dyn Driver) -> io::Result<Vec<u64>> {
    let entries = match driver.list(path::SOURCES) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        entries => entries?,
    };
    let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
    let mut numbers: Vec<u64> = files.filter_map(|entry| path::sources_number(&entry.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the records in the files with `wanted` numbers.
fn read(driver: &dyn Driver, wanted: &dyn Fn(u64) -> bool) -> io::Result<Provenance> {
    for _ in 0..MAX_ATTEMPTS {
        let mut provenance = Provenance::default();
        let mut is_whole = true;
        // In order: a file is removed only when all that counts of it is in one with a higher number.
        for number in numbers(driver)?.into_iter().filter(|number| wanted(*number)) {
            let path = path::sources(number);
            match driver.read(&path, MAX_FILE) {
                Ok(Some(content)) => provenance.add(&content),
                Ok(None) => is_whole &= driver.kind(&path)?.is_some(),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        if is_whole {
            return Ok(provenance);
        }
    }
    Err(io::Error::other("the files change too often"))
}

fn source_conflict(place: &Place, recorded: &Reference, requested: &Reference) -> Error {
    let detail = Detail::SourceConflict {
        place: place.to_string(),
        recorded: recorded.to_string(),
        requested: requested.to_string(),
    };
    Error::from_detail(ErrorKind::InvalidInput, requested, detail).with_hint(
        "use --replace to replace it, or save into another directory with --names domain to keep both",
    )
}

/// The error for a rule of names that is not the one of the directory.
pub(crate) fn names_conflict(recorded: &str, requested: &str) -> Error {
    let message = format!(
        "the directory was saved with --names {recorded}; with two rules in one directory, images would be saved twice, \
         and not be found under their names"
    );
    Error::new(ErrorKind::InvalidInput, format!("--names {requested}"), message)
        .with_hint("leave --names out to use the recorded rule, or use another directory")
}

#[cfg(test)]
mod tests;
