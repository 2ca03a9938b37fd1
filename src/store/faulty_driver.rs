//! A store that fails, for tests of those who use one.

use super::{Store, StoreOptions};
use crate::driver::{Driver, Entry, EntryKind, FreeSpace, FsDriver, Partial, Stamp};
use crate::oci::Digest;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The tree in `dir`, in which the size of what is `broken` can't be told.
pub(crate) fn open(dir: &Path, broken: Broken) -> io::Result<Store> {
    let driver = Failing(FsDriver::open(dir)?, broken);
    Ok(Store::with_driver(Arc::new(driver), StoreOptions::default()))
}

/// A driver that can't tell the size of one blob for as long as that is set.
struct Failing(FsDriver, Broken);

/// What is broken now.
pub(crate) type Broken = Arc<Mutex<Option<Digest>>>;

impl Driver for Failing {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.0.read(path, limit)
    }
    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match &*self.1.lock().unwrap() {
            Some(broken) if path.contains(&broken.hex()) => Err(io::Error::other("no size now")),
            _ => self.0.size(path),
        }
    }
    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        self.0.open(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
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
    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }
    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        self.0.partial(path, size)
    }
    fn barrier(&self) -> io::Result<()> {
        self.0.barrier()
    }
    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        self.0.lock_file(path)
    }
    fn free_space(&self) -> io::Result<FreeSpace> {
        self.0.free_space()
    }
    fn location(&self, path: &str) -> String {
        self.0.location(path)
    }
}
