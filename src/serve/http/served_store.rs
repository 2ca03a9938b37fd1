//! The store that requests read, opened again when another directory takes its place.

use super::error::ApiError;
use crate::error::{Error, Result};
use crate::store::Store;
use parking_lot::Mutex;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A store, or the directory that it is opened in.
pub(super) enum ServedStore {
    Fixed(Store),
    Directory { path: PathBuf, opened: Mutex<OpenedStore> },
}

/// An open store keeps its directory open, and so would serve a directory that was renamed or unmounted for ever.
pub(super) struct OpenedStore {
    store: Store,
    identity: DirectoryIdentity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryIdentity {
    device: u64,
    inode: u64,
}

impl DirectoryIdentity {
    fn read(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl OpenedStore {
    fn open(path: &Path) -> Result<Self> {
        loop {
            let read = || DirectoryIdentity::read(path);
            let failed = |error| Error::storage(path.display(), "open the directory", error);
            let identity = read().map_err(failed)?;
            let store = Store::open_read_only(path)?;
            store.check_is_tree()?;
            if read().map_err(failed)? == identity {
                return Ok(Self { store, identity });
            }
        }
    }
}

impl ServedStore {
    /// Opens the tree in `path`.
    ///
    /// # Errors
    /// `InvalidInput` if the directory is not a tree; `Storage` if it cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = OpenedStore::open(path)?;
        Ok(Self::Directory { path: path.to_owned(), opened: Mutex::new(opened) })
    }

    /// The store to read now.
    ///
    /// # Errors
    /// Status 503 if the directory is missing or not a tree, as an empty mount point is: 404 would say that images do not exist.
    pub(super) fn current(&self) -> std::result::Result<Store, ApiError> {
        let (path, opened) = match self {
            Self::Fixed(store) => return Ok(store.clone()),
            Self::Directory { path, opened } => (path, opened),
        };
        let mut opened = opened.lock();
        if DirectoryIdentity::read(path).ok() != Some(opened.identity) {
            *opened = OpenedStore::open(path).map_err(|error| ApiError::unavailable(&error))?;
            tracing::warn!(dir = %path.display(), "the directory was replaced: serving the new one");
        }
        Ok(opened.store.clone())
    }
}
