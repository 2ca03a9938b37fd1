//! Everything that stands in a tree, as it stands: for those who judge it or take something away.
//!
//! Tags are read before revisions, these before blob links, and blobs last: the reverse of the order in which they are written. So
//! whatever is found while somebody adds to the tree, what it relies on is found too.

use super::{Store, link, path, storage};
use crate::driver::{Entry, EntryKind};
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The longest name of a repository in characters, thus a bound on how deep directories are searched.
pub(super) const MAX_REPOSITORY_LENGTH: usize = 255;
/// How much of a link file is read: a damaged one may be longer than a link.
const MAX_LINK_READ: u64 = 4096;

/// What a tree holds.
#[derive(Debug, Default)]
pub struct Census {
    /// The repositories, by name.
    pub repositories: Vec<RepositoryCensus>,
    /// The blobs with their lengths in bytes.
    pub blobs: BTreeMap<Digest, u64>,
    /// What has no place in a tree.
    pub strays: Vec<Stray>,
}

/// What a repository holds.
#[derive(Debug)]
pub struct RepositoryCensus {
    /// Its name.
    pub name: Repository,
    /// Whether its directory of blob links is there.
    pub has_layers: bool,
    /// The tags. A crash may leave one without content.
    pub tags: BTreeMap<Tag, TagCensus>,
    /// The links to manifests.
    pub revisions: BTreeMap<Digest, Link>,
    /// The links to blobs.
    pub layers: BTreeMap<Digest, Link>,
}

/// What a tag holds.
#[derive(Debug, Default)]
pub struct TagCensus {
    /// What it names now.
    pub current: Option<Link>,
    /// What it has named.
    pub history: BTreeMap<Digest, Link>,
}

/// What a link file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// A digest; for a link that stands under a digest's name, that digest.
    To(Digest),
    /// Anything else, described.
    Damaged(String),
}

/// A name in the tree that saver does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its path.
    pub path: String,
    /// What is to be said of it.
    pub kind: StrayKind,
}

/// What a stray name does to registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrayKind {
    /// Registries list it as a tag.
    Tag,
    /// A repository whose name none can have; garbage collection fails on it.
    Repository,
    /// Content under what is not a digest; garbage collection fails on it.
    Data,
    /// A symbolic link, pipe or device; a registry would follow it, saver does not.
    Irregular,
    /// A file where a directory has to be, or the other way round.
    InTheWay,
    /// A symbolic link or file in the place of the whole tree or a large part of it.
    Root,
    /// Nothing.
    Harmless,
}

impl Store {
    /// Takes stock of the whole tree. Nothing but link files is read.
    ///
    /// # Errors
    /// `Storage` when something can't be read.
    pub fn census(&self) -> Result<Census> {
        let mut census = Census::default();
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
            if let Some(stray) = bad.transpose()?.filter(|stray| !census.strays.contains(stray)) {
                census.strays.push(stray);
            }
        }
        let names = self.repository_names(&mut census.strays)?;
        let found: Vec<_> =
            names.into_par_iter().map(|name| self.repository_census(name)).collect::<Result<_>>()?;
        for (repository, strays) in found {
            census.repositories.push(repository);
            census.strays.extend(strays);
        }
        self.blob_census(&mut census)?;
        census.strays.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(census)
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>> {
        self.inner.driver.kind(path).map_err(|error| storage(&*self.inner.driver, path, "look at", error))
    }

    /// The names of all repositories, sorted; what else stands among them goes to `strays`.
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

    fn repository_census(&self, name: Repository) -> Result<(RepositoryCensus, Vec<Stray>)> {
        let mut strays = Vec::new();
        let tags = self.tag_census(&name, &mut strays)?;
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
        Ok((RepositoryCensus { name, has_layers, tags, revisions, layers: links }, strays))
    }

    fn tag_census(&self, name: &Repository, strays: &mut Vec<Stray>) -> Result<BTreeMap<Tag, TagCensus>> {
        let directory = path::tags(name);
        let mut tags = BTreeMap::new();
        for entry in self.list(&directory)? {
            let at = format!("{directory}/{}", entry.name);
            match (entry.kind, entry.name.parse::<Tag>()) {
                (EntryKind::Directory, Ok(tag)) => {
                    let current = self.link(&path::tag_current(name, &tag))?;
                    let history = self.links(&path::tag_history(name, &tag), strays)?;
                    tags.insert(tag, TagCensus { current, history });
                }
                (EntryKind::Other, _) => strays.push(Stray { path: at, kind: StrayKind::Irregular }),
                _ => strays.push(Stray { path: at, kind: StrayKind::Tag }),
            }
        }
        Ok(tags)
    }

    /// The links under the digests in a directory. A directory without a link, as a crash leaves it, is nothing.
    fn links(&self, directory: &str, strays: &mut Vec<Stray>) -> Result<BTreeMap<Digest, Link>> {
        let mut links = BTreeMap::new();
        for entry in self.list(directory)? {
            let at = format!("{directory}/{}", entry.name);
            match (entry.kind, Digest::from_hex(&entry.name)) {
                (EntryKind::Directory, Ok(digest)) => match self.link(&format!("{at}/{}", path::LINK))? {
                    Some(Link::To(other)) if other != digest => {
                        links.insert(digest, Link::Damaged(format!("it names {other}")));
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

    fn link(&self, path: &str) -> Result<Option<Link>> {
        let driver = &*self.inner.driver;
        let content =
            driver.read(path, MAX_LINK_READ).map_err(|error| storage(driver, path, "read", error))?;
        let Some(content) = content else {
            // Absent, too long, or not a file.
            return Ok(self.kind(path)?.map(|kind| match kind {
                EntryKind::File => Link::Damaged(format!("it has more than {MAX_LINK_READ} bytes")),
                EntryKind::Directory => Link::Damaged("it is a directory".into()),
                EntryKind::Other => Link::Damaged("it is no regular file".into()),
            }));
        };
        Ok(Some(match link::parse(&content) {
            Some(digest) => Link::To(digest),
            None if content.is_empty() => Link::Damaged("it is empty".into()),
            None if content.trim_ascii().len() != content.len() => {
                Link::Damaged("it has blanks or a line's end around the digest".into())
            }
            None => Link::Damaged(format!("its {} bytes are no digest", content.len())),
        }))
    }

    fn blob_census(&self, census: &mut Census) -> Result<()> {
        let mut shards = Vec::new();
        for entry in self.list(path::BLOBS)? {
            let at = format!("{}/{}", path::BLOBS, entry.name);
            match entry.kind {
                EntryKind::Directory if entry.name == path::SHA256 => {
                    for entry in self.list(&at)? {
                        let at = format!("{at}/{}", entry.name);
                        match entry.kind {
                            EntryKind::Directory => shards.push((at, entry.name)),
                            kind => census.strays.push(stray(at, kind)),
                        }
                    }
                }
                EntryKind::Directory => census.strays.push(Stray { path: at, kind: StrayKind::Harmless }),
                kind => census.strays.push(stray(at, kind)),
            }
        }
        let found: Vec<_> =
            shards.into_par_iter().map(|(at, shard)| self.shard(&at, &shard)).collect::<Result<_>>()?;
        for shard in found {
            census.blobs.extend(shard.blobs);
            census.strays.extend(shard.strays);
        }
        Ok(())
    }

    /// The blobs whose digests start alike.
    fn shard(&self, directory: &str, shard: &str) -> Result<Census> {
        let mut found = Census::default();
        let Census { blobs, strays, .. } = &mut found;
        for Entry { name, kind } in self.list(directory)? {
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

/// Something of that kind, where nothing or something else belongs.
fn stray(path: String, kind: EntryKind) -> Stray {
    let kind = if kind == EntryKind::Other { StrayKind::Irregular } else { StrayKind::Harmless };
    Stray { path, kind }
}

/// Something that is no directory or file, where that belongs.
fn misplaced(path: String, kind: EntryKind) -> Stray {
    let kind = if kind == EntryKind::Other { StrayKind::Irregular } else { StrayKind::InTheWay };
    Stray { path, kind }
}

/// Where things stand, relative to the tree's directory: for what is told of them.
impl Store {
    /// The content of `digest`.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> String {
        path::data(digest)
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

    /// What the tag names now.
    #[must_use]
    pub fn tag_path(&self, repository: &Repository, tag: &Tag) -> String {
        path::tag_current(repository, tag)
    }

    /// That the tag has named `digest`.
    #[must_use]
    pub fn history_path(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> String {
        path::tag_index(repository, tag, digest)
    }
}
