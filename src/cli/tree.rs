//! Opening the directory of saved images.

use crate::error::Result;
use crate::store::Store;
use std::io::ErrorKind as IoError;
use std::path::Path;

/// Opens the directory for reading, and checks that images are saved in it.
///
/// # Errors
/// As [`open_unchecked`]; `InvalidInput` if the directory is not a tree.
pub(super) fn open(dir: &Path) -> Result<Store> {
    let store = open_unchecked(dir)?;
    store.check_is_tree()?;
    Ok(store)
}

/// Opens the directory for reading.
///
/// # Errors
/// `Storage` when it is not a directory that can be opened.
pub(super) fn open_unchecked(dir: &Path) -> Result<Store> {
    Store::open_read_only(dir).map_err(|error| match error.io_kind() {
        Some(IoError::NotFound | IoError::NotADirectory) => {
            error.with_hint("name the directory that images were saved to")
        }
        _ => error,
    })
}
