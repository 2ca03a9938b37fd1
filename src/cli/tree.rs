//! The directory that images were saved to, for commands that read from it.

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use std::io::ErrorKind as IoError;
use std::path::{Path, PathBuf};

/// The directory that `--dir` names.
///
/// # Errors
/// `InvalidInput` when it is not given.
pub(super) fn dir(given: Option<&PathBuf>) -> Result<&Path> {
    let missing = || {
        Error::new(ErrorKind::InvalidInput, "--dir", "is missing")
            .with_hint("add --dir DIR, the directory that images were saved to")
    };
    given.map(PathBuf::as_path).ok_or_else(missing)
}

/// Opens the tree in `dir` and checks that it is one.
///
/// # Errors
/// As [`there`]; `InvalidInput` if the directory is not a tree.
pub(super) fn open(dir: &Path) -> Result<Store> {
    let store = there(dir)?;
    store.check_is_tree()?;
    Ok(store)
}

/// Opens the tree in `dir`.
///
/// # Errors
/// `Storage` when that is no directory that can be opened.
pub(super) fn there(dir: &Path) -> Result<Store> {
    Store::open_read_only(dir).map_err(|error| match error.io_kind() {
        Some(IoError::NotFound | IoError::NotADirectory) => {
            error.with_hint("name the directory that images were saved to")
        }
        _ => error,
    })
}
