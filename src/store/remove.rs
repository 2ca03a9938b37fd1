//! Removal of parts of the tree, and repair of links. Callers hold the exclusive lock ([`Store::lock_exclusive`]).
//!
//! Whatever makes a part visible is removed first: a tag's directory disappears at once, a link before its directory. Callers
//! choose the order of the parts: tags, indexes, other revisions, blob links, blobs. Between them they wait for a barrier
//! ([`Store::sync`]), since a power loss may otherwise keep a later removal without an earlier one.

use super::{Durability, Store, link, path, storage};
use crate::driver::EntryKind;
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use std::io;

impl Store {
    /// Removes a tag.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<()> {
        self.remove_at_once(&path::tag(repository, tag))
    }

    /// Removes the repository's link to the manifest `digest`, but not its content.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_revision(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::revision_link(repository, digest))
    }

    /// Removes the repository's link to the blob `digest`, but not its content.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_layer(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::layer_link(repository, digest))
    }

    /// Removes one entry of a tag's history.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_history(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::tag_index(repository, tag, digest))
    }

    /// Removes content that no link points to.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::data(digest))?;
        self.remove_if_empty(path::parent(&path::blob(digest)))
    }

    /// Removes an empty repository and the directories above it that this leaves empty. A repository with uploads in progress stays.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_repository(&self, repository: &Repository) -> Result<()> {
        let directory = path::repository(repository);
        let uploads = format!("{directory}/{}", path::UPLOADS);
        if !self.list(&uploads)?.is_empty() {
            // A registry may be receiving a push.
            return Ok(());
        }
        // In this order: garbage collection fails on a repository that has `_manifests` but no `_layers`.
        for part in [path::MANIFESTS, path::UPLOADS, path::LAYERS] {
            self.remove_all(&format!("{directory}/{part}"))?;
        }
        let mut directory = directory.as_str();
        while directory.len() > path::REPOSITORIES.len() {
            self.remove_if_empty(directory)?;
            directory = path::parent(directory);
        }
        Ok(())
    }

    /// Removes interrupted downloads, and what a repair moved out of the tree.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_internal_files(&self) -> Result<()> {
        self.remove_all(path::PARTIAL)?;
        self.remove_all(path::DAMAGED)
    }

    /// Moves the entry at `path` out of the tree, to the same path below `.saver/damaged`. Returns the new path.
    ///
    /// # Errors
    /// `Storage`.
    pub fn set_aside(&self, path: &str) -> Result<String> {
        let to = path::damaged(path);
        let driver = &*self.inner.driver;
        // A file that an earlier repair moved there under the same name is replaced.
        if driver.kind(&to).map_err(|error| storage(driver, &to, "look at", error))?.is_some() {
            self.remove_all(&to)?;
        }
        match driver.set_aside(path, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(storage(driver, path, "move away", error))
            }
            _ => Ok(to),
        }
    }

    /// Creates the directories that every repository needs: those of its blob links and of its tags.
    ///
    /// # Errors
    /// `Storage`.
    pub fn create_directories(&self, repository: &Repository) -> Result<()> {
        let driver = &*self.inner.driver;
        for path in [path::layers(repository), path::tags(repository)] {
            driver
                .create_dir(&path)
                .map_err(|error| storage(driver, &path, "create the directory", error))?;
        }
        Ok(())
    }

    /// Writes the repository's link to the blob `digest`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn link_layer(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.write_link(&path::layer_link(repository, digest), digest)
    }

    /// Writes the repository's link to the manifest `digest`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn link_revision(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.write_link(&path::revision_link(repository, digest), digest)
    }

    /// Waits until everything done before is on stable storage, unless the store was opened without durability.
    ///
    /// # Errors
    /// `Storage`.
    pub fn sync(&self) -> Result<()> {
        if self.inner.commit.durability() == Durability::None {
            return Ok(());
        }
        let driver = &*self.inner.driver;
        driver.barrier().map_err(|error| storage(driver, "", "sync to stable storage", error))
    }

    fn write_link(&self, path: &str, digest: &Digest) -> Result<()> {
        let driver = &*self.inner.driver;
        if self.kind(path)? == Some(EntryKind::Directory) {
            self.set_aside(path)?;
        }
        let staged = self.inner.staged_path()?;
        let written = driver.stage(&staged, link::format(digest).as_bytes());
        written
            .and_then(|()| driver.publish(&staged, path))
            .map_err(|error| storage(driver, path, "write the link", error))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let driver = &*self.inner.driver;
        driver.remove(path).map_err(|error| storage(driver, path, "remove", error))
    }

    /// Removes a file and then the directory that contains it alone.
    fn remove_with_directory(&self, file: &str) -> Result<()> {
        self.remove(file)?;
        self.remove_all(path::parent(file))
    }

    /// Removes the entry at `path` and everything below it, top first: nobody sees a part of it.
    fn remove_at_once(&self, path: &str) -> Result<()> {
        let driver = &*self.inner.driver;
        let staged = self.inner.staged_path()?;
        match driver.set_aside(path, &staged) {
            Ok(()) => self.remove_all(&staged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(storage(driver, path, "remove", error)),
        }
    }

    fn remove_all(&self, path: &str) -> Result<()> {
        let driver = &*self.inner.driver;
        driver.remove_all(path).map_err(|error| storage(driver, path, "remove", error))
    }

    fn remove_if_empty(&self, path: &str) -> Result<()> {
        if self.list(path)?.is_empty() { self.remove(path) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;
    use std::fs;

    #[test]
    fn directory_in_the_place_of_a_link_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let (repository, digest): (Repository, _) = ("app".parse().unwrap(), Digest::of(b"x"));
        for path in [path::layer_link(&repository, &digest), path::revision_link(&repository, &digest)] {
            fs::create_dir_all(dir.path().join(path).join("below")).unwrap();
        }
        store.link_layer(&repository, &digest).unwrap();
        store.link_revision(&repository, &digest).unwrap();
        assert!(store.has_layer(&repository, &digest).unwrap());
        assert!(store.has_revision(&repository, &digest).unwrap());
    }
}
