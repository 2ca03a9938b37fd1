//! A store that fails on demand, for tests of its users.

use super::{Store, StoreOptions};
use crate::driver::{DirectoryEntry, Driver, EntryKind, FreeSpace, FsDriver, Partial, Stamp};
use crate::oci::Digest;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Opens the tree in `dir`. Reading the size of the `broken` blob fails.
pub(crate) fn open(dir: &Path, broken: Broken) -> io::Result<Store> {
    let driver = FaultyDriver(FsDriver::open(dir)?, broken);
    Ok(Store::with_driver(Arc::new(driver), StoreOptions::default()))
}

/// A driver that fails to read the size of one blob while that is set.
struct FaultyDriver(FsDriver, Broken);

/// The blob that is broken now.
pub(crate) type Broken = Arc<Mutex<Option<Digest>>>;

impl Driver for FaultyDriver {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.0.read(path, limit)
    }
    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match &*self.1.lock() {
            Some(broken) if path.contains(&broken.hex()) => Err(io::Error::other("no size now")),
            _ => self.0.size(path),
        }
    }
    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        self.0.open(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        self.0.list(path)
    }
    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        self.0.kind(path)
    }
    fn stamp(&self, path: &str) -> io::Result<Stamp> {
        self.0.stamp(path)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.0.set_aside(path, to)
    }
    fn stage_area(&self, parent: &str) -> io::Result<String> {
        self.0.stage_area(parent)
    }
    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        self.0.stage(path, content)
    }
    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        self.0.publish(staged, path)
    }
    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        self.0.publish_dir(staged, path)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }
    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        self.0.partial(path, size)
    }
    fn log(&self, path: &str) -> io::Result<Option<Box<dyn Partial>>> {
        self.0.log(path)
    }
    fn barrier(&self) -> io::Result<()> {
        self.0.barrier()
    }
    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        self.0.lock_file(path)
    }
    fn free_space(&self) -> io::Result<Option<FreeSpace>> {
        self.0.free_space()
    }
    fn location(&self, path: &str) -> String {
        self.0.location(path)
    }
}
