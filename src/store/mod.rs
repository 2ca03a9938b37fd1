//! The docker/distribution file tree: what registries mount and serve.
//!
//! Reading is synchronous and takes no lock, since every change is one atomic rename. Nothing that is read is believed:
//! a damaged link is an absent one, and content is hashed by whoever uses it.
//!
//! Writing goes through [`Sink`](crate::content::Sink): a blob is received in a file beside the tree, which one writer
//! has to itself (`partial.rs`); small files are staged beside the tree too; and `publish.rs` gives all of them their
//! final names, for many images at a time, with a barrier between what relies on what. Several processes may do so in one directory. Only
//! taking something away needs the tree for oneself ([`lock`]).
//!
//! No path leaves the directory. The directory itself may be a symbolic link; below it none is followed, and `docker` is no
//! exception: whoever wants content on another disk mounts that (on all of the directory, since a rename cannot cross disks).
//!
//! Only this module's `path.rs` knows a path; a driver ([`crate::driver::Driver`]) stores files under it.

pub mod document;
#[cfg(test)]
pub(crate) mod faulty_driver;
mod fingerprint;
pub mod inventory;
pub mod link;
pub mod link_cache;
pub mod lock;
mod partial;
mod path;
mod preflight;
mod publish;
mod read;
mod remove;
mod sink;
mod source;

pub use crate::driver::FreeSpace;
pub use lock::StoreLock;
pub use partial::Writer;

use crate::driver::{Driver, FsDriver};
use crate::error::{Error, Result};
use partial::Claims;
use publish::Publisher;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

/// How a store writes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreOptions {
    /// What a published image has survived.
    pub durability: Durability,
}

/// What is waited for before an image counts as saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Stable storage: the image outlives a power loss. Many images share one sync.
    #[default]
    Batch,
    /// Nothing: the image outlives the process, not the machine.
    None,
}

/// A tree in a directory. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<dyn Driver>,
    claims: Arc<Claims>,
    publisher: Publisher,
    /// Where this store stages small files, once it has.
    area: OnceLock<String>,
    /// How many it has staged: their names.
    staged: AtomicU64,
    /// Whether it was said that another process is waited for.
    told: AtomicBool,
}

impl Inner {
    fn area(&self) -> Result<&str> {
        if let Some(area) = self.area.get() {
            return Ok(area);
        }
        let made = self.driver.stage_area(path::STAGE);
        let made = made.map_err(|error| storage(&*self.driver, path::STAGE, "make the directory", error))?;
        Ok(self.area.get_or_init(|| made))
    }
}

impl Store {
    /// Opens the tree in `dir`, making the directory if it is missing. Nothing in it is changed before something is written.
    ///
    /// # Errors
    /// `Storage` when the directory can't be made or opened.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self> {
        let driver = FsDriver::create(dir)
            .map_err(|error| Error::storage(dir.display(), "open or make the directory", error))?;
        Ok(Self::with_driver(Arc::new(driver), options))
    }

    /// Opens the tree in `dir`, which must be there, for reading.
    ///
    /// # Errors
    /// `Storage` when the directory can't be opened.
    pub fn open_read_only(dir: &Path) -> Result<Self> {
        let driver = FsDriver::open(dir)
            .map_err(|error| Error::storage(dir.display(), "open the directory", error))?;
        Ok(Self::with_driver(Arc::new(driver), StoreOptions::default()))
    }

    /// A tree on any medium.
    #[must_use]
    pub fn with_driver(driver: Arc<dyn Driver>, options: StoreOptions) -> Self {
        let publisher = Publisher::new(driver.clone(), options.durability);
        let (claims, area, staged, told) = Default::default();
        Self { inner: Arc::new(Inner { driver, claims, publisher, area, staged, told }) }
    }

    /// How much more fits.
    ///
    /// # Errors
    /// `Storage`.
    pub fn free_space(&self) -> Result<FreeSpace> {
        self.inner
            .driver
            .free_space()
            .map_err(|error| storage(&*self.inner.driver, "", "read the free space", error))
    }
}

/// A driver's error at `path`, said to a person.
fn storage(driver: &dyn Driver, path: &str, doing: &str, cause: io::Error) -> Error {
    let code = cause.raw_os_error();
    let error = Error::storage(driver.location(path), doing, cause);
    match code {
        Some(libc::ELOOP) => error.with_hint(
            "a symbolic link stands inside the store's directory, where none is followed: replace it by what it points at, or mount that there",
        ),
        Some(libc::EXDEV) => {
            error.with_hint("docker/ and .saver/ inside the store's directory must be on one file system")
        }
        _ => error,
    }
}
