//! Every path of the tree: no other file knows one.
//!
//! All paths are relative to the store's directory, with `/` between components.
//!
//! ```text
//! docker/registry/v2/                                  what registries read (distribution, registry/storage/paths.go)
//!   blobs/sha256/<2 hex>/<64 hex>/data                 content of layers, configurations, manifests and indexes alike
//!   repositories/<name>/
//!     _layers/sha256/<hex>/link                        one for each layer and for the configuration
//!     _manifests/revisions/sha256/<hex>/link           one for the index and for each manifest kept under it
//!     _manifests/tags/<tag>/index/sha256/<hex>/link    what the tag has named
//!     _manifests/tags/<tag>/current/link               what the tag names now: the last file written
//! .saver/                                              saver's own; registries do not look here
//!   partial/sha256/<hex>                               a blob that is being received, or was when a run ended
//!   damaged/<path in the tree>                         what a repair took out of the way
//!   stage/<area>/<n>                                   small files before they take their final names; an area per process
//!   lock                                               who may change the tree
//! ```
//!
//! Names reach this file only as [`Repository`], [`Tag`] and [`Digest`], whose grammars have no
//! empty, `.` or `..` component, no backslash and no NUL: no path leaves the store's directory.
//!
//! Paths are joined, not formatted: an image that is there already costs a dozen of them and little else.

pub(super) use crate::driver::parent;
use crate::oci::{Digest, Repository, Tag};

/// Where registries keep all repositories.
pub(crate) const REPOSITORIES: &str = "docker/registry/v2/repositories";
/// Where registries keep all content.
pub(crate) const BLOBS: &str = "docker/registry/v2/blobs";
/// Where small files wait for their final names.
pub(crate) const STAGE: &str = ".saver/stage";
/// Where blobs are received.
pub(crate) const PARTIAL: &str = ".saver/partial/sha256";
/// Where a repair puts what is damaged.
pub(crate) const DAMAGED: &str = ".saver/damaged";
/// The store-wide lock.
pub(crate) const LOCK: &str = ".saver/lock";

/// The directory in a repository that holds its blob links.
pub(crate) const LAYERS: &str = "_layers";
/// The directory in a repository that holds its revisions and tags.
pub(crate) const MANIFESTS: &str = "_manifests";
/// The directory in a repository that holds uploads under way; registries make it.
pub(crate) const UPLOADS: &str = "_uploads";
/// The directory of an algorithm's digests, wherever there are any.
pub(crate) const SHA256: &str = "sha256";
/// The name of a link file.
pub(crate) const LINK: &str = "link";
/// The name of a content file.
pub(crate) const DATA: &str = "data";

/// The first component of a path.
pub(crate) fn top(path: &'static str) -> &'static str {
    path.split('/').next().unwrap_or(path)
}

/// The directory itself and those that every change passes, the uppermost first.
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

/// The repository's own directory.
pub(crate) fn repository(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str()].join("/")
}

/// The directory of a blob's content.
pub(crate) fn blob(digest: &Digest) -> String {
    parent(&data(digest)).to_owned()
}

/// The directory of a repository's manifests and tags.
pub(crate) fn manifests(repository: &Repository) -> String {
    [REPOSITORIES, repository.as_str(), MANIFESTS].join("/")
}

/// Where a repair puts what stands at `path`.
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

/// The directory of what the tag has named.
pub(crate) fn tag_history(repository: &Repository, name: &Tag) -> String {
    [&tag(repository, name), "index", SHA256].join("/")
}

/// One tag's directory.
pub(crate) fn tag(repository: &Repository, tag: &Tag) -> String {
    [&tags(repository), tag.as_str()].join("/")
}

/// What the tag names now.
pub(crate) fn tag_current(repository: &Repository, name: &Tag) -> String {
    [&tag(repository, name), "current", LINK].join("/")
}

/// That the tag names, or has named, `digest`.
pub(crate) fn tag_index(repository: &Repository, name: &Tag, digest: &Digest) -> String {
    [&tag_history(repository, name), &digest.hex(), LINK].join("/")
}

/// Where the blob `digest` is received. The size that was announced is part of the name, so that a lie about it harms no
/// honest blob's partial file.
pub(crate) fn partial(digest: &Digest, size: u64) -> String {
    format!("{PARTIAL}/{}.{size}", digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_registrys() {
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
        assert_eq!(parent("a/b/c"), "a/b");
        assert_eq!(parent("a"), "");
    }
}
