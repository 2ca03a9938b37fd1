//! The names of the members of a part.
//!
//! A part is a subtree of the tree, so its members have the tree's paths. Only a range of a blob that is cut has a name of its own:
//! `data.<start>-<total>` beside `data`, which registries ignore. The start has 16 digits, so that names sort by offset.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::oci::descriptor::MAX_SIZE;
use crate::store::path;

/// What a member of a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartMember {
    /// All of a blob or manifest.
    Blob(Digest),
    /// The bytes of a blob of `total` bytes from `start` on.
    Range { digest: Digest, start: u64, total: u64 },
    /// A link or an empty directory of a repository. Unbundling does not read it: `bundle.json` lists the images.
    Repository,
}

/// The name of the range of a blob of `total` bytes that begins at `start`.
pub(super) fn range_path(digest: &Digest, start: u64, total: u64) -> String {
    format!("{}.{start:016}-{total}", path::data(digest))
}

impl PartMember {
    /// Parses the name of a member.
    ///
    /// # Errors
    /// `Corrupt` for a name that no part has, such as one that leads out of the tree.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let found = match name.strip_prefix(path::BLOBS).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => Self::content(name, rest),
            None => is_below_repositories(name).then_some(Self::Repository),
        };
        found.ok_or_else(|| {
            let why = "a part of a bundle has no such member";
            Error::new(ErrorKind::Corrupt, format!("{name:?}"), why).on(Side::Source)
        })
    }

    /// A member below the directory of all content; `rest` is its name in there.
    fn content(name: &str, rest: &str) -> Option<Self> {
        let digest = Digest::from_hex(rest.split('/').nth(2)?).ok()?;
        let suffix = name.strip_prefix(&path::data(&digest))?;
        if suffix.is_empty() {
            return Some(Self::Blob(digest));
        }
        let (start, total) = suffix.strip_prefix('.')?.split_once('-')?;
        let start = start.parse().ok()?;
        let total = total.parse().ok()?;
        let is_canonical = name == range_path(&digest, start, total);
        (is_canonical && start < total && total <= MAX_SIZE).then_some(Self::Range { digest, start, total })
    }
}

fn is_below_repositories(name: &str) -> bool {
    let rest = name.strip_prefix(path::REPOSITORIES).and_then(|rest| rest.strip_prefix('/'));
    let is_component = |component: &str| !matches!(component, "" | "." | "..");
    rest.is_some_and(|rest| rest.strip_suffix('/').unwrap_or(rest).split('/').all(is_component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_members_are_parsed() {
        let digest = Digest::of(b"x");
        let data = path::data(&digest);
        let range = range_path(&digest, 4096, 10_000);
        assert!(range.ends_with("/data.0000000000004096-10000"), "{range}");
        for (name, member) in [
            (data.as_str(), PartMember::Blob(digest)),
            (range.as_str(), PartMember::Range { digest, start: 4096, total: 10_000 }),
            ("docker/registry/v2/repositories/a/b/_layers/", PartMember::Repository),
            ("docker/registry/v2/repositories/a/_manifests/tags/v1/current/link", PartMember::Repository),
        ] {
            assert_eq!(PartMember::parse(name).unwrap(), member, "{name}");
        }
    }

    #[test]
    fn names_outside_the_layout_are_refused() {
        let digest = Digest::of(b"x");
        let data = path::data(&digest);
        let hex = digest.hex();
        for name in [
            "",
            "/etc/passwd",
            "../docker/registry/v2/repositories/a/link",
            "docker/registry/v2/repositories/../../../etc/passwd",
            "docker/registry/v2/repositories/a//link",
            "docker/registry/v2/repositories/",
            "docker/registry/v2/blobs/sha256/00/zz/data",
            ".saver/lock",
            &format!("./{data}"),
            &format!("{data}/"),
            &format!("{data}.1-2"),
            &format!("{data}.0000000000000002-2"),
            &format!("{data}.0000000000000000-99999999999999999"),
            &format!("{data}.0000000000000000-+5"),
            &format!("docker/registry/v2/blobs/sha256/00/{hex}/data"),
            &data.to_uppercase(),
        ] {
            let error = PartMember::parse(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        }
    }
}
