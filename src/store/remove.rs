//! Taking things away, and mending links. Callers hold the exclusive lock ([`Store::lock_exclusive`]).
//!
//! What makes a thing count goes first: a tag's `current` link before its history, a link before its directory. The order
//! *between* things is the caller's: tags, revisions that name others, revisions, blob links, blobs; with a barrier
//! ([`Store::settle`]) between the kinds, since a power loss may otherwise keep a later removal and not an earlier one.

use super::{Durability, Store, link, path, storage};
use crate::driver::EntryKind;
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use std::io;
use std::sync::atomic::Ordering;

impl Store {
    /// Removes a tag.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<()> {
        self.remove(&path::tag_current(repository, tag))?;
        self.remove_below(&path::tag(repository, tag))
    }

    /// Removes the repository's link to the manifest `digest`, whose content stays.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_revision(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::revision_link(repository, digest))
    }

    /// Removes the repository's link to the blob `digest`, whose content stays.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_layer(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::layer_link(repository, digest))
    }

    /// Removes one entry of what a tag has named.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_history(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::tag_index(repository, tag, digest))
    }

    /// Removes content that nothing links to, and what was received of it before.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.remove_with_directory(&path::data(digest))?;
        self.remove_if_empty(path::parent(&path::blob(digest)))
    }

    /// Removes a repository in which nothing is left, unless there is an upload in it, and the directories above it that this empties.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_repository(&self, repository: &Repository) -> Result<()> {
        let directory = path::repository(repository);
        let uploads = format!("{directory}/{}", path::UPLOADS);
        if !self.list(&uploads)?.is_empty() {
            // A registry may be receiving something.
            return Ok(());
        }
        // A registry's garbage collection trips over manifests without a directory of layers.
        for part in [path::MANIFESTS, path::UPLOADS, path::LAYERS] {
            self.remove_below(&format!("{directory}/{part}"))?;
        }
        let mut directory = directory.as_str();
        while directory.len() > path::REPOSITORIES.len() {
            self.remove_if_empty(directory)?;
            directory = path::parent(directory);
        }
        Ok(())
    }

    /// Moves what stands at `path` out of the tree, to the same path below saver's own directory; answers the new path.
    ///
    /// # Errors
    /// `Storage`.
    pub fn set_aside(&self, path: &str) -> Result<String> {
        let to = path::damaged(path);
        let driver = &*self.inner.driver;
        // What an earlier repair put there makes room: it had the same name, and nothing was made of it.
        if driver.kind(&to).map_err(|error| storage(driver, &to, "look at", error))?.is_some() {
            self.remove_below(&to)?;
        }
        match driver.set_aside(path, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(storage(driver, path, "move out of the way", error))
            }
            _ => Ok(to),
        }
    }

    /// Makes the repository's directory of blob links.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_layers(&self, repository: &Repository) -> Result<()> {
        let (driver, path) = (&*self.inner.driver, path::layers(repository));
        driver.create_dir(&path).map_err(|error| storage(driver, &path, "make the directory", error))
    }

    /// Lets the repository serve the blob `digest`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn link_layer(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.write_link(&path::layer_link(repository, digest), digest)
    }

    /// Lets the repository serve the manifest `digest`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn link_revision(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.write_link(&path::revision_link(repository, digest), digest)
    }

    /// Waits until everything done before is on stable storage, unless the store's durability asks for nothing.
    ///
    /// # Errors
    /// `Storage`.
    pub fn settle(&self) -> Result<()> {
        if self.inner.publisher.durability() == Durability::None {
            return Ok(());
        }
        let driver = &*self.inner.driver;
        driver.barrier().map_err(|error| storage(driver, "", "bring what was done to stable storage", error))
    }

    fn write_link(&self, path: &str, digest: &Digest) -> Result<()> {
        let driver = &*self.inner.driver;
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        let staged = format!("{}/{number}", self.inner.area()?);
        let written = driver.stage(&staged, link::format(digest).as_bytes());
        written
            .and_then(|()| driver.publish(&staged, path))
            .map_err(|error| storage(driver, path, "write the link", error))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let driver = &*self.inner.driver;
        driver.remove(path).map_err(|error| storage(driver, path, "remove", error))
    }

    /// Removes a file, then the directory that is its own.
    fn remove_with_directory(&self, file: &str) -> Result<()> {
        self.remove(file)?;
        self.remove_below(path::parent(file))
    }

    /// Removes `path` and everything below it.
    fn remove_below(&self, path: &str) -> Result<()> {
        // Kept by hand: how deep it goes is not ours to say.
        let mut open = vec![(path.to_owned(), false)];
        while let Some((path, emptied)) = open.pop() {
            if emptied {
                self.remove(&path)?;
                continue;
            }
            let entries = self.list(&path)?;
            open.push((path.clone(), true));
            for entry in entries {
                let below = format!("{path}/{}", entry.name);
                match entry.kind {
                    EntryKind::Directory => open.push((below, false)),
                    _ => self.remove(&below)?,
                }
            }
        }
        Ok(())
    }

    fn remove_if_empty(&self, path: &str) -> Result<()> {
        if self.list(path)?.is_empty() { self.remove(path) } else { Ok(()) }
    }
}
