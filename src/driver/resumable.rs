//! A blob that is received into a file and can be resumed by a later run. Who may write the file, and what happens to it
//! once it is complete, is up to the caller.

use super::Partial;
use super::extents::Extents;
use parking_lot::Mutex;
use std::io;
use std::ops::Range;

/// A file that receives a blob of known size.
pub(crate) struct ResumableFile {
    file: Box<dyn Partial>,
    size: u64,
    /// Length of the contiguous front when the file was opened.
    received: u64,
    /// Ranges beyond the front that were present when the file was opened.
    received_beyond: Vec<Range<u64>>,
    extents: Mutex<Extents>,
}

impl ResumableFile {
    /// Resumes a blob of `size` bytes from what `file` holds.
    pub(crate) fn resume(file: Box<dyn Partial>, size: u64) -> Self {
        let extents = Extents::recover(&*file);
        let received = extents.front;
        let received_beyond = extents.beyond().collect();
        Self { file, size, received, received_beyond, extents: Mutex::new(extents) }
    }

    /// Number of contiguous bytes from the beginning that were present when the file was opened.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Ranges beyond [`received`](Self::received) that were present when the file was opened.
    pub(crate) fn received_beyond(&self) -> &[Range<u64>] {
        &self.received_beyond
    }

    /// Why a write of `length` bytes at `offset` is out of bounds; `None` if it is within the blob.
    pub(crate) fn out_of_bounds(&self, offset: u64, length: usize) -> Option<String> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.size);
        let reason = || format!("{length} bytes at offset {offset} exceed its size of {} bytes", self.size);
        end.is_none().then(reason)
    }

    /// Writes bytes that are within the blob.
    ///
    /// # Errors
    /// The driver's error.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)?;
        self.extents.lock().insert(offset, offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Reads back what was written. Returns fewer bytes than requested only at the end of the file.
    ///
    /// # Errors
    /// The driver's error.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    /// Number of contiguous bytes written so far, if the blob is incomplete.
    pub(crate) fn incomplete(&self) -> Option<u64> {
        let front = self.extents.lock().front;
        (front != self.size).then_some(front)
    }

    /// Ends the writing of a complete blob.
    ///
    /// # Errors
    /// The driver's error.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.file.finish()
    }

    /// The file itself. No other writer opens it until it is dropped.
    pub(crate) fn into_file(self) -> Box<dyn Partial> {
        self.file
    }

    /// Prepares the incomplete file for a later run. Returns whether there is anything to resume from.
    pub(crate) fn save(&self) -> bool {
        self.extents.lock().save(&*self.file)
    }
}
