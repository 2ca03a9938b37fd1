//! The docker/distribution file tree, which registries mount and serve.
//!
//! Reads are synchronous and take no lock, since every change is one atomic rename. Nothing that is read is trusted: a damaged
//! link counts as absent, and content is hashed by its user.
//!
//! Writes go through [`Sink`](crate::content::Sink). Blobs are downloaded to files outside the tree, each of which has one writer
//! (`partial.rs`); small files are staged there too. `publish.rs` then moves all of them to their final paths, for many images at
//! once, with a barrier wherever one change relies on another. Several processes may write to one tree at the same time. Only
//! removing something requires exclusive access ([`lock`]).
//!
//! No path leaves the directory. The directory itself may be a symbolic link, but none below it is followed, `docker` included. To
//! keep content on another disk, mount that disk on the whole directory: renames do not work across file systems.
//!
//! Only `path.rs` knows the paths; a driver ([`crate::driver::Driver`]) stores the files.

mod claims;
pub mod document;
#[cfg(test)]
pub(crate) mod faulty_driver;
pub mod inventory;
pub mod link;
pub mod lock;
mod partial;
pub(crate) mod path;
mod preflight;
pub mod provenance;
mod publication_locks;
mod publish;
mod read;
mod referrers;
mod remove;
mod sink;
mod source;

pub use crate::driver::FreeSpace;
pub use lock::StoreLock;
pub use partial::StoreWriter;

use crate::driver::{Driver, FsDriver};
use crate::error::{Error, Result};
use claims::BlobClaims;
use parking_lot::Mutex;
use provenance::KnownSources;
use publish::GroupCommit;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Options of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// When an image counts as saved.
    pub durability: Durability,
    /// How long to wait for another process that is downloading the same blob without making progress.
    pub peer_timeout: Duration,
    /// The rule by which images are named, which is recorded with the source of each image.
    pub names: Option<String>,
    /// Whether a tag may be replaced by an image from another registry or repository.
    pub replace: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            peer_timeout: Duration::from_secs(120),
            names: None,
            replace: false,
        }
    }
}

/// What a saved image is guaranteed to survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power loss: images are synced to stable storage. Many images share one sync.
    #[default]
    Batch,
    /// The end of the process, but not a power loss: nothing is synced.
    None,
}

/// A tree in a directory. Clones share all state.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    driver: Arc<dyn Driver>,
    claims: Arc<BlobClaims>,
    commit: GroupCommit,
    peer_timeout: Duration,
    names: Option<String>,
    replace: bool,
    /// When it was opened, in seconds since 1970.
    opened: u64,
    sources: Mutex<KnownSources>,
    /// The directory for staged files, once it exists.
    area: OnceLock<String>,
    /// Number of files and directories staged so far, from which they get their names.
    staged: AtomicU64,
    /// Held while an image is published, if there are few inodes left.
    one_by_one: tokio::sync::Mutex<()>,
    /// Whether waiting for another process has been logged.
    logged_wait: AtomicBool,
}

impl StoreInner {
    /// A new path in the stage area.
    fn staged_path(&self) -> Result<String> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{}/{number}", self.area()?))
    }

    fn area(&self) -> Result<&str> {
        if let Some(area) = self.area.get() {
            return Ok(area);
        }
        let made = self.driver.stage_area(path::STAGE);
        let made =
            made.map_err(|error| storage(&*self.driver, path::STAGE, "create the directory", error))?;
        Ok(self.area.get_or_init(|| made))
    }
}

impl Store {
    /// Opens the tree in `dir` and creates the directory if it is missing. Nothing in it changes until something is written.
    ///
    /// # Errors
    /// `Storage` if the directory can't be created or opened.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self> {
        let driver = FsDriver::create(dir)
            .map_err(|error| Error::storage(dir.display(), "open or create the directory", error))?;
        Ok(Self::with_driver(Arc::new(driver), options))
    }

    /// Opens the tree in the existing directory `dir` for reading.
    ///
    /// # Errors
    /// `Storage` if the directory can't be opened.
    pub fn open_read_only(dir: &Path) -> Result<Self> {
        let driver = FsDriver::open(dir)
            .map_err(|error| reading(Error::storage(dir.display(), "open the directory", error)))?;
        Ok(Self::with_driver(Arc::new(driver), StoreOptions::default()))
    }

    /// A tree on any medium.
    #[must_use]
    pub fn with_driver(driver: Arc<dyn Driver>, options: StoreOptions) -> Self {
        let opened = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let inner = StoreInner {
            claims: Arc::default(),
            commit: GroupCommit::new(driver.clone(), options.durability, options.names.clone()),
            peer_timeout: options.peer_timeout,
            names: options.names,
            replace: options.replace,
            opened: opened.as_secs(),
            sources: Mutex::default(),
            area: OnceLock::new(),
            staged: AtomicU64::new(0),
            one_by_one: tokio::sync::Mutex::new(()),
            logged_wait: AtomicBool::new(false),
            driver,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same tree with other options.
    #[must_use]
    pub fn with_options(&self, options: StoreOptions) -> Self {
        Self::with_driver(self.inner.driver.clone(), options)
    }

    /// Runs file-system work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|_| Err(Error::internal(self.inner.driver.location(""))))
    }

    /// Runs a quick look-up: in the calling task on a local file system, where it takes a few microseconds, and on a thread that may
    /// block otherwise.
    async fn lookup<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.inner.driver.is_remote() { self.blocking(work).await } else { work(self) }
    }

    /// The space left in the file system, or `None` if it does not say.
    ///
    /// # Errors
    /// `Storage` if it can't be determined.
    pub fn free_space(&self) -> Result<Option<FreeSpace>> {
        self.inner
            .driver
            .free_space()
            .map_err(|error| storage(&*self.inner.driver, "", "read the free space", error))
    }
}

/// How few inodes count as none: other threads may have freed some since the operation failed.
const NO_INODES: u64 = 32;
/// With this many free bytes, a full file system is one without free inodes.
const SOME_SPACE: u64 = 1 << 20;

/// The error of a driver's operation on `path`, with a hint for what is particular to a tree.
fn storage(driver: &dyn Driver, path: &str, doing: &str, cause: io::Error) -> Error {
    let code = cause.raw_os_error();
    if code == Some(libc::ENOSPC) && is_out_of_inodes(driver) {
        return Error::storage(driver.location(path), doing, cause)
            .context("the file system has no free inodes")
            .with_hint(
                "remove files, or use a file system with more inodes, and run the same command again: \
                 finished downloads are kept",
            );
    }
    let error = Error::storage(driver.location(path), doing, cause);
    match code {
        Some(libc::ELOOP) => error.with_hint(
            "there is a symbolic link inside the directory, and saver follows none there: \
             replace it by what it points to, or mount that in its place",
        ),
        Some(libc::EXDEV) => error.with_hint("docker/ and .saver/ must be on the same file system"),
        _ => error,
    }
}

/// As [`storage`], for operations that only read: the hint does not ask for write permission.
fn storage_read(driver: &dyn Driver, path: &str, doing: &str, cause: io::Error) -> Error {
    reading(storage(driver, path, doing, cause))
}

/// Replaces the hint of an error that denied permission to read.
fn reading(error: Error) -> Error {
    if error.io_kind() == Some(io::ErrorKind::PermissionDenied) {
        return error.with_hint("run as a user who may read it");
    }
    error
}

fn is_out_of_inodes(driver: &dyn Driver) -> bool {
    let space = driver.free_space().ok().flatten();
    space.is_some_and(|space| {
        let is_out = |inodes| inodes == 0 || (inodes < NO_INODES && space.bytes > SOME_SPACE);
        space.inodes.is_some_and(is_out)
    })
}
