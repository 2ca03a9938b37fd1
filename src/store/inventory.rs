//! The complete inventory of a tree, as found, for verifying it and for removing from it.
//!
//! Tags are read before revisions, revisions before blob links, and blobs last: the reverse of the order in which they are
//! written. So if another process adds to the tree meanwhile, everything that the inventory has is there with what it needs.

use super::{Store, link, path, storage_read};
use crate::driver::{DirectoryEntry, EntryKind};
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Maximum length of a repository name, which also bounds the depth of the search.
pub(super) const MAX_REPOSITORY_LENGTH: usize = 255;
/// Maximum number of bytes of a link file that are read. A damaged one may be longer than a link.
const MAX_LINK_READ: u64 = 4096;

/// The contents of a tree.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The repositories, sorted by name.
    pub repositories: Vec<RepositoryInventory>,
    /// The blobs and their lengths in bytes.
    pub blobs: BTreeMap<Digest, u64>,
    /// Entries that do not belong in a tree.
    pub strays: Vec<Stray>,
}

/// The contents of a repository.
#[derive(Debug)]
pub struct RepositoryInventory {
    /// Its name.
    pub name: Repository,
    /// Whether the directory of its blob links exists.
    pub has_layers: bool,
    /// Whether the directory of its tags exists.
    pub has_tags: bool,
    /// The tags. A tag that is being created may have no links yet.
    pub tags: BTreeMap<Tag, TagLinks>,
    /// The revision links, by the digest that they are stored under.
    pub revisions: BTreeMap<Digest, LinkState>,
    /// The blob links, by the digest that they are stored under.
    pub layers: BTreeMap<Digest, LinkState>,
}

/// The links of a tag.
#[derive(Debug, Default)]
pub struct TagLinks {
    /// The link to what it points to.
    pub current: Option<LinkState>,
    /// The links to what it has pointed to.
    pub history: BTreeMap<Digest, LinkState>,
}

impl TagLinks {
    /// The digest that the tag points to; `None` if its link is missing or damaged.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self.current {
            Some(LinkState::Valid(digest)) => Some(digest),
            Some(LinkState::Damaged(_)) | None => None,
        }
    }
}

/// The content of a link file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// A digest: the one that the link is stored under, if it is stored under one.
    Valid(Digest),
    /// Anything else; the text describes it.
    Damaged(String),
}

/// An entry that does not belong in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its path.
    pub path: String,
    /// Its effect on registries.
    pub kind: StrayKind,
}

/// The effect of a stray entry on registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrayKind {
    /// Registries list it as a tag.
    Tag,
    /// A repository with an invalid name. Garbage collection fails on it.
    Repository,
    /// Content in a directory whose name is not a digest. Garbage collection fails on it.
    Data,
    /// A symbolic link, FIFO or device. A registry follows symbolic links, saver does not.
    Irregular,
    /// A file in place of a directory, or the other way round.
    WrongType,
    /// A symbolic link or file in place of the whole tree or a large part of it.
    Root,
    /// None.
    Harmless,
}

impl Store {
    /// Takes the inventory of the whole tree. Only link files are read.
    ///
    /// # Errors
    /// `Storage` if something can't be read.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for (root, depth) in [(path::REPOSITORIES, 3), (path::BLOBS, 3)] {
            let mut levels = vec![root];
            levels.extend((0..depth).scan(root, |at, _| {
                *at = path::parent(at);
                Some(*at)
            }));
            let bad = levels.iter().rev().find_map(|level| match self.kind(level) {
                Ok(Some(EntryKind::Directory) | None) => None,
                Ok(Some(_)) => Some(Ok(Stray { path: (*level).to_owned(), kind: StrayKind::Root })),
                Err(error) => Some(Err(error)),
            });
            if let Some(stray) = bad.transpose()?.filter(|stray| !inventory.strays.contains(stray)) {
                inventory.strays.push(stray);
            }
        }
        let names = self.repository_names(&mut inventory.strays)?;
        let found: Vec<_> =
            names.into_par_iter().map(|name| self.repository_inventory(name)).collect::<Result<_>>()?;
        for (repository, strays) in found {
            inventory.repositories.push(repository);
            inventory.strays.extend(strays);
        }
        self.blob_inventory(&mut inventory)?;
        inventory.strays.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(inventory)
    }

    /// The names of all repositories, sorted. Other entries between them are added to `strays`.
    pub(super) fn repository_names(&self, strays: &mut Vec<Stray>) -> Result<Vec<Repository>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            let directory = match name.as_str() {
                "" => path::REPOSITORIES.to_owned(),
                name => format!("{}/{name}", path::REPOSITORIES),
            };
            let mut is_repository = false;
            for entry in self.list(&directory)? {
                let own = entry.name == path::LAYERS || entry.name == path::MANIFESTS;
                let at = format!("{directory}/{}", entry.name);
                match entry.kind {
                    EntryKind::Directory if own && !name.is_empty() => is_repository = true,
                    EntryKind::Directory if entry.name.starts_with('_') => {
                        if entry.name != path::UPLOADS {
                            strays.push(Stray { path: at, kind: StrayKind::Harmless });
                        }
                    }
                    EntryKind::Directory => {
                        let below =
                            if name.is_empty() { entry.name } else { format!("{name}/{}", entry.name) };
                        if below.len() <= MAX_REPOSITORY_LENGTH {
                            open.push(below);
                        } else {
                            strays.push(Stray { path: at, kind: StrayKind::Harmless });
                        }
                    }
                    kind if own => strays.push(misplaced(at, kind)),
                    kind => strays.push(stray(at, kind)),
                }
            }
            if is_repository {
                match name.parse() {
                    Ok(repository) => found.push(repository),
                    Err(_) => strays.push(Stray { path: directory, kind: StrayKind::Repository }),
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn repository_inventory(&self, name: Repository) -> Result<(RepositoryInventory, Vec<Stray>)> {
        let mut strays = Vec::new();
        let tags = self.tag_links(&name, &mut strays)?;
        for entry in self.list(&path::manifests(&name))? {
            let at = format!("{}/{}", path::manifests(&name), entry.name);
            match (entry.name.as_str(), entry.kind) {
                ("tags" | "revisions", EntryKind::Directory) => {}
                ("tags" | "revisions", kind) => strays.push(misplaced(at, kind)),
                (_, kind) => strays.push(stray(at, kind)),
            }
        }
        let revisions = self.links(&path::revisions(&name), &mut strays)?;
        let layers = path::layers(&name);
        let links = self.links(&format!("{layers}/{}", path::SHA256), &mut strays)?;
        let has_layers = self.kind(&layers)? == Some(EntryKind::Directory);
        let has_tags = self.kind(&path::tags(&name))? == Some(EntryKind::Directory);
        Ok((RepositoryInventory { name, has_layers, has_tags, tags, revisions, layers: links }, strays))
    }

    fn tag_links(&self, name: &Repository, strays: &mut Vec<Stray>) -> Result<BTreeMap<Tag, TagLinks>> {
        let directory = path::tags(name);
        let mut tags = BTreeMap::new();
        for entry in self.list(&directory)? {
            let at = format!("{directory}/{}", entry.name);
            match (entry.kind, entry.name.parse::<Tag>()) {
                (EntryKind::Directory, Ok(tag)) => {
                    let current = self.link(&path::tag_current(name, &tag))?;
                    let history = self.links(&path::tag_history(name, &tag), strays)?;
                    tags.insert(tag, TagLinks { current, history });
                }
                (EntryKind::Other, _) => strays.push(Stray { path: at, kind: StrayKind::Irregular }),
                _ => strays.push(Stray { path: at, kind: StrayKind::Tag }),
            }
        }
        Ok(tags)
    }

    /// The links in a directory, by the digests that they are stored under. A digest without a link is ignored, as registries do: an
    /// interrupted write may leave one.
    fn links(&self, directory: &str, strays: &mut Vec<Stray>) -> Result<BTreeMap<Digest, LinkState>> {
        let mut links = BTreeMap::new();
        for entry in self.list(directory)? {
            let at = format!("{directory}/{}", entry.name);
            match (entry.kind, Digest::from_hex(&entry.name)) {
                (EntryKind::Directory, Ok(digest)) => match self.link(&format!("{at}/{}", path::LINK))? {
                    Some(LinkState::Valid(other)) if other != digest => {
                        links.insert(digest, LinkState::Damaged(format!("it points to {other}")));
                    }
                    Some(link) => {
                        links.insert(digest, link);
                    }
                    None => {}
                },
                (kind, _) => strays.push(stray(at, kind)),
            }
        }
        Ok(links)
    }

    fn link(&self, path: &str) -> Result<Option<LinkState>> {
        let driver = &*self.inner.driver;
        let content =
            driver.read(path, MAX_LINK_READ).map_err(|error| storage_read(driver, path, "read", error))?;
        let Some(content) = content else {
            // Absent, too long or not a regular file.
            return Ok(self.kind(path)?.map(|kind| match kind {
                EntryKind::File => LinkState::Damaged(format!("it is longer than {MAX_LINK_READ} bytes")),
                EntryKind::Directory => LinkState::Damaged("it is a directory".into()),
                EntryKind::Other => LinkState::Damaged("it is not a regular file".into()),
            }));
        };
        Ok(Some(match link::parse(&content) {
            Some(digest) => LinkState::Valid(digest),
            None if content.is_empty() => LinkState::Damaged("it is empty".into()),
            None if content.trim_ascii().len() != content.len() => {
                LinkState::Damaged("there is whitespace around the digest".into())
            }
            None => LinkState::Damaged(format!("its {} bytes are not a digest", content.len())),
        }))
    }

    fn blob_inventory(&self, inventory: &mut Inventory) -> Result<()> {
        let mut shards = Vec::new();
        for entry in self.list(path::BLOBS)? {
            let at = format!("{}/{}", path::BLOBS, entry.name);
            match entry.kind {
                EntryKind::Directory if entry.name == path::SHA256 => {
                    for entry in self.list(&at)? {
                        let at = format!("{at}/{}", entry.name);
                        match entry.kind {
                            EntryKind::Directory => shards.push((at, entry.name)),
                            kind => inventory.strays.push(stray(at, kind)),
                        }
                    }
                }
                EntryKind::Directory => inventory.strays.push(Stray { path: at, kind: StrayKind::Harmless }),
                kind => inventory.strays.push(stray(at, kind)),
            }
        }
        let found: Vec<_> =
            shards.into_par_iter().map(|(at, shard)| self.shard(&at, &shard)).collect::<Result<_>>()?;
        for shard in found {
            inventory.blobs.extend(shard.blobs);
            inventory.strays.extend(shard.strays);
        }
        Ok(())
    }

    /// The blobs in one directory of the first level, whose digests have the same first byte.
    fn shard(&self, directory: &str, shard: &str) -> Result<Inventory> {
        let mut found = Inventory::default();
        let Inventory { blobs, strays, .. } = &mut found;
        for DirectoryEntry { name, kind } in self.list(directory)? {
            let at = format!("{directory}/{name}");
            if kind != EntryKind::Directory {
                strays.push(match name.as_str() {
                    path::DATA => Stray { path: at, kind: StrayKind::Data },
                    _ => stray(at, kind),
                });
                continue;
            }
            let data = format!("{at}/{}", path::DATA);
            match (Digest::from_hex(&name), self.kind(&data)?) {
                (Ok(digest), Some(EntryKind::File)) if name.starts_with(shard) => {
                    if let Some(size) = self.blob_size(&digest)? {
                        blobs.insert(digest, size);
                    }
                }
                (Ok(_), None) => {}
                (Ok(_), Some(EntryKind::File)) => strays.push(Stray { path: at, kind: StrayKind::Harmless }),
                (Ok(_), Some(kind)) => strays.push(misplaced(data, kind)),
                (Err(_), Some(EntryKind::File)) => strays.push(Stray { path: at, kind: StrayKind::Data }),
                (Err(_), _) => strays.push(Stray { path: at, kind: StrayKind::Harmless }),
            }
        }
        Ok(found)
    }
}

/// An entry of this type where nothing belongs.
fn stray(path: String, kind: EntryKind) -> Stray {
    let kind = if kind == EntryKind::Other { StrayKind::Irregular } else { StrayKind::Harmless };
    Stray { path, kind }
}

/// An entry of the wrong type where a directory or file belongs.
fn misplaced(path: String, kind: EntryKind) -> Stray {
    let kind = if kind == EntryKind::Other { StrayKind::Irregular } else { StrayKind::WrongType };
    Stray { path, kind }
}

/// Files that saver keeps outside the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InternalFiles {
    /// Interrupted downloads, which the next save of the same image resumes.
    pub partial: FileCount,
    /// Files that a repair moved out of the tree.
    pub damaged: FileCount,
}

/// A number of files and their total size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileCount {
    /// How many files there are.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
}

impl Store {
    /// Counts the files that saver keeps outside the tree. They count as none for a user who may not read them: the directory is
    /// private to the owner of the tree.
    ///
    /// # Errors
    /// `Storage` if they can't be read for another reason.
    pub fn internal_files(&self) -> Result<InternalFiles> {
        let partial = self.count_files(path::PARTIAL);
        let both = partial.and_then(|partial| Ok((partial, self.count_files(path::DAMAGED)?)));
        match both {
            Ok((partial, damaged)) => Ok(InternalFiles { partial, damaged }),
            Err(error) if error.io_kind() == Some(std::io::ErrorKind::PermissionDenied) => {
                Ok(InternalFiles::default())
            }
            Err(error) => Err(error),
        }
    }

    /// The blobs and their lengths in bytes, whether anything links to them or not.
    ///
    /// # Errors
    /// `Storage` if something can't be read.
    pub fn blobs(&self) -> Result<BTreeMap<Digest, u64>> {
        let mut inventory = Inventory::default();
        self.blob_inventory(&mut inventory)?;
        Ok(inventory.blobs)
    }

    fn count_files(&self, directory: &str) -> Result<FileCount> {
        let driver = &*self.inner.driver;
        let mut count = FileCount::default();
        let mut pending = vec![directory.to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in self.list(&directory)? {
                let path = format!("{directory}/{}", entry.name);
                if entry.kind == EntryKind::Directory {
                    pending.push(path);
                    continue;
                }
                let size =
                    driver.size(&path).map_err(|error| storage_read(driver, &path, "access", error))?;
                count.files += 1;
                count.bytes += size.unwrap_or(0);
            }
        }
        Ok(count)
    }
}

/// Paths of parts of the tree, relative to the directory of the store, for reports.
impl Store {
    /// The content of `digest`.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> String {
        path::data(digest)
    }

    /// The directory of the repository's tags.
    #[must_use]
    pub fn tags_path(&self, repository: &Repository) -> String {
        path::tags(repository)
    }

    /// The directory of one tag.
    #[must_use]
    pub fn tag_directory_path(&self, repository: &Repository, tag: &Tag) -> String {
        path::tag(repository, tag)
    }

    /// The directory of the repository's blob links.
    #[must_use]
    pub fn layers_path(&self, repository: &Repository) -> String {
        path::layers(repository)
    }

    /// The repository's link to the blob `digest`.
    #[must_use]
    pub fn layer_path(&self, repository: &Repository, digest: &Digest) -> String {
        path::layer_link(repository, digest)
    }

    /// The repository's link to the manifest `digest`.
    #[must_use]
    pub fn revision_path(&self, repository: &Repository, digest: &Digest) -> String {
        path::revision_link(repository, digest)
    }

    /// The link to what the tag points to.
    #[must_use]
    pub fn tag_path(&self, repository: &Repository, tag: &Tag) -> String {
        path::tag_current(repository, tag)
    }

    /// The link that records that the tag has pointed to `digest`.
    #[must_use]
    pub fn history_path(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> String {
        path::tag_index(repository, tag, digest)
    }
}
