//! Look-ups in the tree as it is now.

use super::{Store, link, path, storage_read};
use crate::driver::{DirectoryEntry, EntryKind};
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use bytes::Bytes;
use std::fs::File;

impl Store {
    /// All repositories, sorted: every directory with a valid name that contains blob links or manifests.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn repositories(&self) -> Result<Vec<Repository>> {
        self.repository_names(&mut Vec::new())
    }

    /// The tags of the repository, sorted. A tag counts once it has a `current` link, even a damaged one: registries create a tag's
    /// directory before that link.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for tag in self.tag_directories(repository)? {
            if self.kind(&path::tag_current(repository, &tag))?.is_some() {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    /// The tags that have a directory, sorted: also those that have no `current` link (yet).
    pub(super) fn tag_directories(&self, repository: &Repository) -> Result<Vec<Tag>> {
        let entries = self.list(&path::tags(repository))?;
        let directories = entries.into_iter().filter(|entry| entry.kind == EntryKind::Directory);
        let mut tags: Vec<Tag> = directories.filter_map(|entry| entry.name.parse().ok()).collect();
        tags.sort();
        Ok(tags)
    }

    /// The digests that the tag points or has pointed to, sorted.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn tag_history(&self, repository: &Repository, tag: &Tag) -> Result<Vec<Digest>> {
        self.digests_in(&path::tag_history(repository, tag))
    }

    /// The digests that the repository serves as manifests, sorted.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn revisions(&self, repository: &Repository) -> Result<Vec<Digest>> {
        self.digests_in(&path::revisions(repository))
    }

    /// The digests that the repository has a directory for among its layer links, sorted. The links themselves are not read.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn layers(&self, repository: &Repository) -> Result<Vec<Digest>> {
        self.digests_in(&path::layer_links(repository))
    }

    /// The digests among the names in a directory, sorted.
    pub(super) fn digests_in(&self, directory: &str) -> Result<Vec<Digest>> {
        let entries = self.list(directory)?.into_iter();
        let mut digests: Vec<Digest> =
            entries.filter_map(|entry| Digest::from_hex(&entry.name).ok()).collect();
        digests.sort();
        Ok(digests)
    }

    /// Whether the repository exists, as [`Store::repositories`] defines it.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn has_repository(&self, repository: &Repository) -> Result<bool> {
        let entries = self.list(&path::repository(repository))?;
        Ok(entries.iter().any(|entry| {
            entry.kind == EntryKind::Directory
                && (entry.name == path::LAYERS || entry.name == path::MANIFESTS)
        }))
    }

    /// The digest that `repository:tag` points to, or `None` if there is no such tag or its link is damaged.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn read_tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        self.read_link(&path::tag_current(repository, tag))
    }

    /// Whether `repository:tag` points to `digest`, or has pointed to it before.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        self.links_to(&path::tag_index(repository, tag, digest), digest)
    }

    /// Whether the repository serves `digest` as a manifest.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn has_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.links_to(&path::revision_link(repository, digest), digest)
    }

    /// Whether the repository serves `digest` as a blob.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn has_layer(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.links_to(&path::layer_link(repository, digest), digest)
    }

    /// The content of `digest`, unverified, or `None` if it is absent or longer than `limit` bytes.
    ///
    /// # Errors
    /// `Storage` if it can't be read.
    pub fn read_content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let path = path::data(digest);
        let content = self.inner.driver.read(&path, limit);
        Ok(content.map_err(|error| storage_read(&*self.inner.driver, &path, "read", error))?.map(Bytes::from))
    }

    /// Opens the content of `digest`, unverified, and returns it with its length in bytes.
    ///
    /// # Errors
    /// `Storage` if it can't be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        let path = path::data(digest);
        self.inner.driver.open(&path).map_err(|error| storage_read(&*self.inner.driver, &path, "open", error))
    }

    /// The length of the content of `digest` in bytes, or `None` if it is absent.
    ///
    /// # Errors
    /// `Storage` if it can't be accessed.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = path::data(digest);
        self.inner
            .driver
            .size(&path)
            .map_err(|error| storage_read(&*self.inner.driver, &path, "access", error))
    }

    pub(crate) fn links_to(&self, path: &str, digest: &Digest) -> Result<bool> {
        Ok(self.read_link(path)? == Some(*digest))
    }

    fn read_link(&self, path: &str) -> Result<Option<Digest>> {
        let content = self.inner.driver.read(path, link::LENGTH);
        let content = content.map_err(|error| storage_read(&*self.inner.driver, path, "read", error))?;
        Ok(content.and_then(|content| link::parse(&content)))
    }

    /// The type of the entry at `path`, or `None` if there is none.
    pub(super) fn kind(&self, path: &str) -> Result<Option<EntryKind>> {
        let driver = &*self.inner.driver;
        driver.kind(path).map_err(|error| storage_read(driver, path, "access", error))
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<DirectoryEntry>> {
        self.inner.driver.list(path).map_err(|error| storage_read(&*self.inner.driver, path, "list", error))
    }
}
