//! A driver that stops after so many writes, as a process does that is killed.

use saver::driver::{DirectoryEntry, Driver, EntryKind, FreeSpace, Partial};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Lets so many writes through; the first one after them is done by half, and then none is.
pub(crate) struct Stopping<D> {
    inner: D,
    count: Arc<Count>,
}

/// What is left, and what was done.
pub(crate) struct Count {
    left: AtomicI64,
    bytes: AtomicU64,
}

fn stopped() -> io::Error {
    io::Error::other("stopped by the test")
}

impl Count {
    pub(crate) fn new(writes: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(writes), bytes: AtomicU64::new(0) })
    }

    /// Whether a write was refused.
    pub(crate) fn has_stopped(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// How many more writes are let through.
    pub(crate) fn left(&self) -> i64 {
        self.left.load(Ordering::SeqCst)
    }

    /// Bytes of blobs that were written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    fn pass(&self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 { Ok(()) } else { Err(stopped()) }
    }

    /// How many of `length` bytes are written still.
    fn share(&self, length: usize) -> usize {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => length,
            0 => length / 2,
            _ => 0,
        }
    }
}

impl<D: Driver> Stopping<D> {
    pub(crate) fn new(inner: D, count: &Arc<Count>) -> Self {
        Self { inner, count: count.clone() }
    }
}

impl<D: Driver> Driver for Stopping<D> {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.inner.read(path, limit)
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.inner.size(path)
    }

    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        self.inner.open(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list(path)
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        self.inner.kind(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.count.pass()?;
        self.inner.create_dir(path)
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        self.inner.stage_area(parent)
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let share = self.count.share(content.len());
        if share > 0 {
            self.inner.stage(path, &content[..share])?;
        }
        if share < content.len() { Err(stopped()) } else { Ok(()) }
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        self.count.pass()?;
        self.inner.publish(staged, path)
    }

    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        self.count.pass()?;
        self.inner.publish_dir(staged, path)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.count.pass()?;
        self.inner.remove(path)
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.count.pass()?;
        self.inner.set_aside(path, to)
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        self.count.pass()?;
        let file = self.inner.partial(path, size)?;
        Ok(file.map(|file| StoppingPartial::open(file, &self.count, true)))
    }

    fn log(&self, path: &str) -> io::Result<Option<Box<dyn Partial>>> {
        self.count.pass()?;
        let file = self.inner.log(path)?;
        Ok(file.map(|file| StoppingPartial::open(file, &self.count, false)))
    }

    fn barrier(&self) -> io::Result<()> {
        self.count.pass()?;
        self.inner.barrier()
    }

    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        self.inner.lock_file(path)
    }

    fn free_space(&self) -> io::Result<Option<FreeSpace>> {
        self.inner.free_space()
    }

    fn location(&self, path: &str) -> String {
        self.inner.location(path)
    }
}

struct StoppingPartial {
    file: Box<dyn Partial>,
    count: Arc<Count>,
    /// Whether it is a blob, whose bytes are counted.
    is_blob: bool,
}

impl StoppingPartial {
    fn open(file: Box<dyn Partial>, count: &Arc<Count>, is_blob: bool) -> Box<dyn Partial> {
        Box::new(Self { file, count: count.clone(), is_blob })
    }
}

impl Partial for StoppingPartial {
    fn length(&self) -> u64 {
        self.file.length()
    }

    fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        self.file.extents()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.count.pass()?;
        self.file.punch(range)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let share = self.count.share(bytes.len());
        self.file.write_at(offset, &bytes[..share])?;
        if self.is_blob {
            self.count.bytes.fetch_add(share as u64, Ordering::SeqCst);
        }
        if share < bytes.len() { Err(stopped()) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn finish(&self) -> io::Result<()> {
        self.file.finish()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.count.pass()?;
        self.file.truncate(length)
    }
}
