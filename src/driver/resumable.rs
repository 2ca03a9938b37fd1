//! A blob that comes into a file of its own, whatever it is for: what has come of it, and what the next one to open the file can go
//! on with. Who may write it, and what becomes of it when it is whole, is its owner's.

use super::Partial;
use super::extents::Extents;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file that takes a blob of a known size.
pub(crate) struct Incoming {
    file: Box<dyn Partial>,
    size: u64,
    /// What had come when the file was opened: an unbroken front, and what lies behind it.
    received: u64,
    islands: Vec<Range<u64>>,
    extents: Mutex<Extents>,
}

impl Incoming {
    /// What is in `file` of a blob of `size` bytes.
    pub(crate) fn found(file: Box<dyn Partial>, size: u64) -> Self {
        let extents = Extents::found(&*file);
        let (received, islands) = (extents.front, extents.islands().collect());
        Self { file, size, received, islands, extents: Mutex::new(extents) }
    }

    fn extents(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes from its beginning had come when the file was opened.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// What had come beyond these.
    pub(crate) fn islands(&self) -> &[Range<u64>] {
        &self.islands
    }

    /// Why `length` bytes at `offset` are none of the blob's, if they are not.
    pub(crate) fn beyond(&self, offset: u64, length: usize) -> Option<String> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.size);
        let why = || format!("{length} bytes at offset {offset} go beyond its {} bytes", self.size);
        end.is_none().then(why)
    }

    /// Writes bytes that are within the blob.
    ///
    /// # Errors
    /// What the medium says.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)?;
        self.extents().insert(offset, offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Reads what was written; fewer bytes than asked for only at the end.
    ///
    /// # Errors
    /// What the medium says.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    /// How many bytes from the beginning have come, where that is not all of them.
    pub(crate) fn lacking(&self) -> Option<u64> {
        let front = self.extents().front;
        (front != self.size).then_some(front)
    }

    /// Ends the writing of a blob of which all has come.
    ///
    /// # Errors
    /// What the medium says.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.file.finish()
    }

    /// The file, which nobody else writes to as long as it is kept.
    pub(crate) fn into_file(self) -> Box<dyn Partial> {
        self.file
    }

    /// Leaves the file as the next one to open it can go on with it; whether there is anything to go on with.
    pub(crate) fn leave(&self) -> bool {
        self.extents().leave(&*self.file)
    }
}
