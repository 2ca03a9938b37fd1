//! Adds records to a file that this process alone writes.

use super::{Provenance, SourceRecord, line, names_conflict, numbers, read};
use crate::driver::{Driver, Partial};
use crate::error::{Error, Result};
use crate::store::{link, path, storage};
use std::io;

/// Length in bytes from which a file is rewritten when it is opened, if more than half of its records do not count any more.
const COMPACT_FROM: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// Maximum number of processes that write to a tree at the same time.
const MAX_WRITERS: u64 = 10_000;

/// Adds records to the tree, one batch for each barrier.
#[derive(Default)]
pub(in crate::store) struct SourceLog {
    /// The file of the last batch, held until that is on stable storage.
    open: Option<OpenLog>,
    /// Whether other files were checked for another rule of names.
    is_checked: bool,
    /// Whether a file was checked for records that do not count any more.
    is_compacted: bool,
}

struct OpenLog {
    file: Box<dyn Partial>,
    number: u64,
    /// The records of the file that this one replaces.
    rewritten: String,
    /// The file that this one replaces after the barrier, held until then so that nobody else writes to it.
    replaced: Option<(u64, Box<dyn Partial>)>,
}

impl SourceLog {
    /// Adds `lines`, which the next barrier covers. If this fails, none of them counts. Returns the number of the file.
    ///
    /// # Errors
    /// `Storage`; `InvalidInput` if another process that started at the same time names images by another rule than `names`.
    pub(in crate::store) fn append(
        &mut self,
        driver: &dyn Driver,
        lines: &str,
        names: Option<&str>,
    ) -> Result<u64> {
        let mut log = self.open(driver).map_err(|error| storage(driver, path::SOURCES, "open", error))?;
        let failed = |error| storage(driver, &path::sources(log.number), "write", error);
        let before = log.file.length();
        // What an earlier process wrote last may be incomplete.
        let separator = if before > 0 { "\n" } else { "" };
        let text = format!("{separator}{}{lines}", log.rewritten);
        log.file.write_at(before, text.as_bytes()).and_then(|()| log.file.finish()).map_err(failed)?;
        if !self.is_checked {
            if let Some(error) = log.other_names(driver, names)? {
                log.file.truncate(before).map_err(failed)?;
                return Err(error);
            }
            self.is_checked = true;
        }
        let number = log.number;
        log.rewritten.clear();
        self.open = Some(log);
        Ok(number)
    }

    /// After a barrier: removes the file that was rewritten, and lets others write.
    pub(in crate::store) fn settle(&mut self, driver: &dyn Driver) {
        let replaced = self.open.take().and_then(|log| log.replaced);
        if let Some((number, _file)) = replaced
            && let Err(error) = driver.remove(&path::sources(number))
        {
            tracing::debug!(%error, "a file of sources that was rewritten stays");
        }
    }

    /// Opens the first file that no other process has open. Once for each process, a large one is rewritten.
    fn open(&mut self, driver: &dyn Driver) -> io::Result<OpenLog> {
        let (number, file) = free_file(driver)?;
        let is_large = file.length() >= COMPACT_FROM;
        if is_large
            && !std::mem::replace(&mut self.is_compacted, true)
            && let Some(rewritten) = live(driver, &*file)?
        {
            let (fresh, empty) = new_file(driver)?;
            return Ok(OpenLog { file: empty, number: fresh, rewritten, replaced: Some((number, file)) });
        }
        Ok(OpenLog { file, number, rewritten: String::new(), replaced: None })
    }
}

impl OpenLog {
    /// The error if another file has another rule of names. Two processes that both wrote before they look here both fail; that
    /// neither does cannot happen.
    fn other_names(&self, driver: &dyn Driver, names: Option<&str>) -> Result<Option<Error>> {
        let Some(names) = names else { return Ok(None) };
        let replaced = self.replaced.as_ref().map(|(number, _)| *number);
        let others = read(driver, &|number| number != self.number && replaced != Some(number));
        let others = others.map_err(|error| storage(driver, path::SOURCES, "read", error))?;
        Ok(others.names().filter(|other| *other != names).map(|other| names_conflict(other, names)))
    }
}

/// Writes a new file with `text`.
pub(super) fn create(driver: &dyn Driver, text: &str) -> io::Result<()> {
    let (_, file) = new_file(driver)?;
    file.write_at(file.length(), text.as_bytes())?;
    file.finish()
}

/// Opens the first file that no other process has open, or a new one.
fn free_file(driver: &dyn Driver) -> io::Result<(u64, Box<dyn Partial>)> {
    for number in numbers(driver)? {
        if let Some(file) = driver.log(&path::sources(number))? {
            return Ok((number, file));
        }
    }
    new_file(driver)
}

/// Creates a file with a higher number than all others.
fn new_file(driver: &dyn Driver) -> io::Result<(u64, Box<dyn Partial>)> {
    // Also above what is not a file, such as a symbolic link that someone has planted.
    let taken = driver.list(path::SOURCES)?;
    let taken = taken.iter().filter_map(|entry| path::sources_number(&entry.name));
    let first = taken.max().map_or(0, |last| last.saturating_add(1));
    for number in first..first.saturating_add(MAX_WRITERS) {
        if let Some(file) = driver.log(&path::sources(number))? {
            return Ok((number, file));
        }
    }
    Err(io::Error::other("too many processes write to the directory"))
}

/// The records of `file` that count, if those are less than half of it.
fn live(driver: &dyn Driver, file: &dyn Partial) -> io::Result<Option<String>> {
    let length = usize::try_from(file.length()).map_err(io::Error::other)?;
    if file.length() > super::MAX_FILE {
        return Ok(Some(String::new()));
    }
    let mut content = vec![0; length];
    let filled = file.read_at(0, &mut content)?;
    let mut all = Provenance::default();
    all.add(&content[..filled]);
    let mut text = String::new();
    let mut count = 0;
    // Nobody is publishing any of these: whoever wrote them has ended.
    for record in all.records() {
        if is_current(driver, record)? {
            text.push_str(&line(record).map_err(io::Error::other)?);
            count += 1;
        }
    }
    Ok((count * 2 < all.lines).then_some(text))
}

/// Whether the tree has what the record is about.
fn is_current(driver: &dyn Driver, record: &SourceRecord) -> io::Result<bool> {
    let path = match &record.tag {
        Some(tag) => path::tag_current(&record.repository, tag),
        None => path::revision_link(&record.repository, &record.digest),
    };
    let content = driver.read(&path, link::LENGTH)?;
    Ok(content.and_then(|content| link::parse(&content)) == Some(record.digest))
}
