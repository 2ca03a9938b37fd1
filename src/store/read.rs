//! Answers from the tree as it is now.

use super::{Store, link, path, storage};
use crate::driver::EntryKind;
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use bytes::Bytes;
use std::fs::File;

impl Store {
    /// Every repository, sorted: each directory with a valid name that holds blob links or manifests.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn repositories(&self) -> Result<Vec<Repository>> {
        self.repository_names(&mut Vec::new())
    }

    /// The repository's tags, sorted: each directory with a valid name, as registries list them. One that a crash left without
    /// content is among them; [`Store::read_tag`] answers none for it.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        let entries = self.list(&path::tags(repository))?;
        let directories = entries.into_iter().filter(|entry| entry.kind == EntryKind::Directory);
        let mut tags: Vec<Tag> = directories.filter_map(|entry| entry.name.parse().ok()).collect();
        tags.sort();
        Ok(tags)
    }

    /// Every digest that the repository may serve as a manifest, sorted.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn revisions(&self, repository: &Repository) -> Result<Vec<Digest>> {
        self.digests_in(&path::revisions(repository))
    }

    /// The names in a directory that are digests, sorted.
    pub(super) fn digests_in(&self, directory: &str) -> Result<Vec<Digest>> {
        let entries = self.list(directory)?.into_iter();
        let mut digests: Vec<Digest> =
            entries.filter_map(|entry| Digest::from_hex(&entry.name).ok()).collect();
        digests.sort();
        Ok(digests)
    }

    /// Whether there is such a repository: as for [`Store::repositories`].
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn has_repository(&self, repository: &Repository) -> Result<bool> {
        let entries = self.list(&path::repository(repository))?;
        Ok(entries.iter().any(|entry| {
            entry.kind == EntryKind::Directory
                && (entry.name == path::LAYERS || entry.name == path::MANIFESTS)
        }))
    }

    /// What `repository:tag` names now; none when there is no such tag or its link is damaged.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn read_tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        self.read_link(&path::tag_current(repository, tag))
    }

    /// Whether `repository:tag` names `digest`, or has named it before.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        self.links_to(&path::tag_index(repository, tag, digest), digest)
    }

    /// Whether the repository may serve `digest` as a manifest.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn has_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.links_to(&path::revision_link(repository, digest), digest)
    }

    /// Whether the repository may serve `digest` as a blob.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn has_layer(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.links_to(&path::layer_link(repository, digest), digest)
    }

    /// The content of `digest`, not verified; none when it is absent or longer than `limit` bytes.
    ///
    /// # Errors
    /// `Storage` when it can't be read.
    pub fn read_content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let path = path::data(digest);
        let content = self.inner.driver.read(&path, limit);
        Ok(content.map_err(|error| storage(&*self.inner.driver, &path, "read", error))?.map(Bytes::from))
    }

    /// The content of `digest`, not verified, opened for reading, and its length in bytes.
    ///
    /// # Errors
    /// `Storage` when it can't be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        let path = path::data(digest);
        self.inner.driver.open(&path).map_err(|error| storage(&*self.inner.driver, &path, "open", error))
    }

    /// The length of the content of `digest` in bytes; none when it is absent.
    ///
    /// # Errors
    /// `Storage` when it can't be looked at.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = path::data(digest);
        self.inner.driver.size(&path).map_err(|error| storage(&*self.inner.driver, &path, "look at", error))
    }

    pub(crate) fn links_to(&self, path: &str, digest: &Digest) -> Result<bool> {
        Ok(self.read_link(path)? == Some(*digest))
    }

    fn read_link(&self, path: &str) -> Result<Option<Digest>> {
        let content = self.inner.driver.read(path, link::LENGTH);
        let content = content.map_err(|error| storage(&*self.inner.driver, path, "read", error))?;
        Ok(content.and_then(|content| link::parse(&content)))
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<crate::driver::Entry>> {
        self.inner.driver.list(path).map_err(|error| storage(&*self.inner.driver, path, "list", error))
    }
}
