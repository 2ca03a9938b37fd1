//! Opening the directory of saved images.

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::save::NameRule;
use crate::store::Store;
use std::collections::BTreeSet;
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
/// `InvalidInput` when it is not a directory; `Storage` when it cannot be opened.
pub(super) fn open_unchecked(dir: &Path) -> Result<Store> {
    Store::open_read_only(dir).map_err(|error| match error.io_kind() {
        Some(IoError::NotFound | IoError::NotADirectory) => {
            error.with_kind(ErrorKind::InvalidInput).with_hint("name the directory that images were saved to")
        }
        _ => error,
    })
}

/// The error about one of the images `written`, with its name as it was written: what that is short for is a name at Docker Hub, which
/// the directory need not have it from.
pub(super) fn named_as_written(error: Error, written: &[String]) -> Error {
    let is_subject =
        |text: &&String| Reference::parse(text).is_ok_and(|image| image.to_string() == error.subject());
    match written.iter().find(is_subject) {
        Some(text) => error.with_subject(text),
        None => error,
    }
}

/// The original names of all images with tags: those that are recorded, else as far as the names in the directory tell them.
///
/// # Errors
/// `InvalidInput` if none is known; `Storage` if the directory can't be read.
pub(super) fn original_names(store: &Store, names: &NameRule) -> Result<Vec<Reference>> {
    let provenance = store.provenance()?;
    let mut originals = BTreeSet::new();
    for repository in store.repositories()? {
        for tag in store.tags(&repository)? {
            let Some(digest) = store.read_tag(&repository, &tag)? else { continue };
            let place = Place { repository: repository.clone(), tag: Some(tag.clone()) };
            let original = match provenance.source(&place, &digest) {
                Some(record) => Some(record.source.clone()),
                None => names.original(&repository).map(|(registry, repository)| Reference {
                    registry,
                    repository,
                    tag: Some(tag),
                    digest: None,
                }),
            };
            originals.extend(original);
        }
    }
    if originals.is_empty() {
        let why = "the directory does not tell which registries its images are from";
        return Err(Error::new(ErrorKind::InvalidInput, "images", why)
            .with_hint("name the images, or give the list that they were saved from with --list FILE"));
    }
    Ok(originals.into_iter().collect())
}
