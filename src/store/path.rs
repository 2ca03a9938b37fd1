//! Every path of the tree. No other file contains one.
//!
//! Paths are relative to the directory of the store.
//!
//! ```text
//! docker/registry/v2/                                  read by registries (distribution, registry/storage/paths.go)
//!   blobs/sha256/<2 hex>/<64 hex>/data                 content of layers, configs, manifests and indexes
//!   repositories/<name>/
//!     _layers/sha256/<hex>/link                        one for each layer and the config
//!     _manifests/revisions/sha256/<hex>/link           one for the index and each of its manifests that is stored
//!     _manifests/tags/<tag>/index/sha256/<hex>/link    digests that the tag has pointed to
//!     _manifests/tags/<tag>/current/link               digest that the tag points to
//! .saver/                                              internal to saver, mode 0700; ignored by registries
//!   partial/sha256/<hex>.<size>                        a blob that is being downloaded, or an interrupted download
//!   damaged/<path in the tree>                         files that a repair moved out of the tree
//!   sources/<n>.jsonl                                  where images come from, see `provenance`
//!   stage/<area>/<n>                                   files and tag directories before they are published; an area per process
//!   lock                                               the store-wide lock
//! ```
//!
//! Names reach this file only as [`Repository`], [`Tag`] and [`Digest`], whose grammars have no
//! empty, `.` or `..` component, no backslash and no NUL. So no path leaves the directory of the store.
//!
//! Paths are joined rather than formatted, since checking an unchanged image costs little more than a dozen of them.

pub(super) use crate::driver::parent;
use crate::oci::{Digest, Repository, Tag};

/// The directory of all repositories.
pub(crate) const REPOSITORIES: &str = "docker/registry/v2/repositories";
/// The directory of all content.
pub(crate) const BLOBS: &str = "docker/registry/v2/blobs";
/// The directory for internal files.
pub(crate) const INTERNAL: &str = ".saver";
/// The directory for files that are not published yet.
pub(crate) const STAGE: &str = ".saver/stage";
/// The directory for blobs that are being downloaded.
pub(crate) const PARTIAL: &str = ".saver/partial/sha256";
/// The directory for files that a repair moves out of the tree.
pub(crate) const DAMAGED: &str = ".saver/damaged";
/// The directory of the records of where images come from.
pub(crate) const SOURCES: &str = ".saver/sources";
/// The store-wide lock.
pub(crate) const LOCK: &str = ".saver/lock";

/// The directory of the blob links in a repository.
pub(crate) const LAYERS: &str = "_layers";
/// The directory of the revisions and tags in a repository.
pub(crate) const MANIFESTS: &str = "_manifests";
/// The directory of the uploads in progress in a repository, which registries create.
pub(crate) const UPLOADS: &str = "_uploads";
/// The directory of the SHA-256 digests in every directory that holds digests.
pub(crate) const SHA256: &str = "sha256";
/// The name of a link file.
pub(crate) const LINK: &str = "link";
/// The name of a content file.
pub(crate) const DATA: &str = "data";

/// The first component of a path.
pub(crate) fn top(path: &'static str) -> &'static str {
    path.split('/').next().unwrap_or(path)
}

/// The root and the directories below it that every change affects, from the top down.
pub(crate) fn trunk() -> impl Iterator<Item = &'static str> {
    let above = |path: &'static str| {
        std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| parent(path)))
    };
    let mut trunk: Vec<_> = above(REPOSITORIES).collect();
    trunk.reverse();
    trunk.into_iter().chain([BLOBS])
}

/// The content of `digest`.
pub(crate) fn data(digest: &Digest) -> String {
    let hex = digest.hex();
    [BLOBS, SHA256, &hex[..2], &hex, DATA].join("/")
}

/// The directory of the repository.
pub(crate) fn repository(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str()].join("/")
}

/// The directory of the content of `digest`.
pub(crate) fn blob(digest: &Digest) -> String {
    parent(&data(digest)).to_owned()
}

/// The directory of the revisions and tags of a repository.
pub(crate) fn manifests(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str(), MANIFESTS].join("/")
}

/// Where a repair moves the file or directory at `path`.
pub(crate) fn damaged(path: &str) -> String {
    [DAMAGED, path].join("/")
}

/// The directory of the repository's blob links.
pub(crate) fn layers(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str(), LAYERS].join("/")
}

/// The directory of the links that [`layer_link`] names.
pub(crate) fn layer_links(repository: &Repository) -> String {
    [&layers(repository), SHA256].join("/")
}

/// The link that lets the repository serve `digest` as a blob.
pub(crate) fn layer_link(repository: &Repository, digest: &Digest) -> String {
    [&layer_links(repository), &digest.hex(), LINK].join("/")
}

/// The directory of the repository's revision links.
pub(crate) fn revisions(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str(), MANIFESTS, "revisions", SHA256].join("/")
}

/// The link that lets the repository serve `digest` as a manifest.
pub(crate) fn revision_link(repository: &Repository, digest: &Digest) -> String {
    [&revisions(repository), &digest.hex(), LINK].join("/")
}

/// The directory of the repository's tags.
pub(crate) fn tags(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str(), MANIFESTS, "tags"].join("/")
}

/// The directory of the digests that the tag has pointed to.
pub(crate) fn tag_history(repository: &Repository, name: &Tag) -> String {
    [&tag(repository, name), "index", SHA256].join("/")
}

/// The directory of one tag.
pub(crate) fn tag(repository: &Repository, tag: &Tag) -> String {
    [&tags(repository), tag.as_str()].join("/")
}

/// The link to the digest that the tag points to.
pub(crate) fn tag_current(repository: &Repository, name: &Tag) -> String {
    [&tag(repository, name), "current", LINK].join("/")
}

/// The link that records that the tag points, or has pointed, to `digest`.
pub(crate) fn tag_index(repository: &Repository, name: &Tag, digest: &Digest) -> String {
    [&tag_history(repository, name), &digest.hex(), LINK].join("/")
}

/// The parts of a tag's directory, relative to it: the link to what it points to, and the history entry of `digest`. The history
/// comes first, since the tag exists once it has the other link.
pub(crate) fn tag_files(digest: &Digest) -> [String; 2] {
    let current = ["current", LINK].join("/");
    [["index", SHA256, &digest.hex(), LINK].join("/"), current]
}

/// One file of records of where images come from.
pub(crate) fn sources(number: u64) -> String {
    format!("{SOURCES}/{number}.jsonl")
}

/// The number of a file in [`SOURCES`].
pub(crate) fn sources_number(name: &str) -> Option<u64> {
    // Far more than there ever are, and so few that there is always a higher one.
    let number: u32 = name.strip_suffix(".jsonl")?.parse().ok()?;
    (format!("{number}.jsonl") == name).then_some(number.into())
}

/// Where the blob `digest` is downloaded. The announced size is part of the name, so that a false size cannot spoil the
/// partial file of the true one.
pub(crate) fn partial(digest: &Digest, size: u64) -> String {
    format!("{PARTIAL}/{}.{size}", digest.hex())
}

/// The file that locks the list of referrers of `subject`: one among the partial blobs, which are cleaned up together.
pub(crate) fn list_lock(subject: &Digest) -> String {
    lock(&format!("referrers of {subject}"))
}

/// The file that locks a tag while an image is published under it.
pub(crate) fn tag_lock(repository: &Repository, tag: &Tag) -> String {
    lock(&format!("{repository}:{tag}"))
}

fn lock(name: &str) -> String {
    partial(&Digest::of(name.as_bytes()), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_distribution() {
        let name: Repository = "library/nginx".parse().unwrap();
        let latest: Tag = "1.25".parse().unwrap();
        let digest = Digest::of(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let root = "docker/registry/v2";
        for (path, expect) in [
            (data(&digest), format!("{root}/blobs/sha256/e3/{hex}/data")),
            (
                layer_link(&name, &digest),
                format!("{root}/repositories/library/nginx/_layers/sha256/{hex}/link"),
            ),
            (
                revision_link(&name, &digest),
                format!("{root}/repositories/library/nginx/_manifests/revisions/sha256/{hex}/link"),
            ),
            (
                tag_index(&name, &latest, &digest),
                format!("{root}/repositories/library/nginx/_manifests/tags/1.25/index/sha256/{hex}/link"),
            ),
            (
                tag_current(&name, &latest),
                format!("{root}/repositories/library/nginx/_manifests/tags/1.25/current/link"),
            ),
            (partial(&digest, 7), format!(".saver/partial/sha256/{hex}.7")),
        ] {
            assert_eq!(path, expect);
        }
        for (name, number) in [
            ("7.jsonl", Some(7)),
            ("07.jsonl", None),
            ("7.json", None),
            ("-7.jsonl", None),
            // No file could have a higher number.
            ("18446744073709551615.jsonl", None),
        ] {
            assert_eq!(sources_number(name), number, "{name}");
        }
        assert_eq!(parent("a/b/c"), "a/b");
        assert_eq!(parent("a"), "");
    }
}
