//! The directory that images were saved to, for commands that read from it.

use crate::cli::ui::output::{self, clean};
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

/// Opens the tree in `dir`, and says so where nothing was saved there (yet), which an empty answer would not.
///
/// # Errors
/// As [`there`].
pub(super) fn open(dir: &Path) -> Result<Store> {
    let store = there(dir)?;
    if !dir.join("docker/registry/v2").is_dir() {
        let dir = dir.display().to_string();
        output::stderr(&format!(
            "warning: {}: nothing was saved here: there is no docker/registry/v2 in it",
            clean(&dir)
        ));
    }
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
