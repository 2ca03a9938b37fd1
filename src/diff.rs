//! Differences between two sets of images: directories, reports, lock files and lists.
//!
//! Images are compared by the names that they were saved from and, where both sets say so, by their digests. Two directories whose
//! images are named by the same rule are compared by the names in them.

use crate::content::Place;
use crate::error::Result;
use crate::list::LockedImage;
use crate::ls::{RepositoryWalk, reach};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use crate::transfer::{ImageReport, Report, Status};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One of the sets to compare.
#[derive(Clone)]
#[non_exhaustive]
pub enum ImageSet {
    /// The images in a directory.
    Directory(Store),
    /// The images that a run left in place.
    Report(Box<Report>),
    /// The images of a lock file.
    Lock(Vec<LockedImage>),
    /// The images of a list, whose digests are known only if they are pinned.
    List(Vec<Reference>),
}

impl std::fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageSet::{:?}", self.kind())
    }
}

/// The kind of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImageSetKind {
    /// A directory.
    Directory,
    /// A report.
    Report,
    /// A lock file.
    Lock,
    /// A list.
    List,
}

/// The differences between two sets, A and B.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Diff {
    /// The version of this format, which changes when a field is removed or changes its meaning.
    pub schema: u32,
    /// What A is.
    pub a: ImageSetSummary,
    /// What B is.
    pub b: ImageSetSummary,
    /// The images that only B has.
    pub added: Vec<DiffImage>,
    /// The images that only A has.
    pub removed: Vec<DiffImage>,
    /// The images that have another digest in B.
    pub moved: Vec<MovedImage>,
    /// Number of images without a known difference.
    pub unchanged: usize,
    /// Total size in bytes of the content that A lacks of B; `None` if it is not known. If B is a lock file or a report it is an upper
    /// bound: the sizes of image manifests with their layers, of which some may be shared.
    pub bytes: Option<u64>,
}

impl Diff {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;

    /// Whether the sets are equal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.moved.is_empty()
    }
}

/// What one of the sets is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageSetSummary {
    /// Its kind.
    pub kind: ImageSetKind,
    /// Number of images.
    pub images: usize,
}

/// An image that one set has and the other has not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiffImage {
    /// Its name.
    pub image: String,
    /// Its digest, if it is known.
    pub digest: Option<Digest>,
    /// The size in bytes of its manifests that A lacks, with their layers, if a lock file or report says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// An image that has two digests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MovedImage {
    /// Its name.
    pub image: String,
    /// Its digest in A.
    pub from: Digest,
    /// Its digest in B.
    pub to: Digest,
    /// The size in bytes of its manifests that A lacks, with their layers, if a lock file or report says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// An image of a set.
struct DiffEntry {
    digest: Option<Digest>,
    /// Its repository, if the set is a directory.
    repository: Option<Repository>,
    /// The sizes of its manifests with their layers, if the set says so.
    manifests: Option<Vec<(Digest, u64)>>,
}

impl DiffEntry {
    /// An image of a directory.
    fn stored(digest: Digest, repository: &Repository) -> Self {
        Self { digest: Some(digest), repository: Some(repository.clone()), manifests: None }
    }
}

impl DiffImage {
    fn new(image: &str, entry: &DiffEntry) -> Self {
        Self { image: image.to_owned(), digest: entry.digest, bytes: None }
    }
}

type DiffEntries = BTreeMap<String, DiffEntry>;

/// Compares two sets.
///
/// # Errors
/// `InvalidInput` if a directory is not a tree; `Storage` if one can't be read.
pub fn diff(a: &ImageSet, b: &ImageSet) -> Result<Diff> {
    let by_place = match (a, b) {
        (ImageSet::Directory(a), ImageSet::Directory(b)) => {
            let (a, b) = (a.recorded_names()?, b.recorded_names()?);
            a.is_none() || b.is_none() || a == b
        }
        _ => false,
    };
    let (old, new) = (a.entries(by_place)?, b.entries(by_place)?);
    let mut diff = Diff {
        schema: Diff::SCHEMA,
        a: ImageSetSummary { kind: a.kind(), images: old.len() },
        b: ImageSetSummary { kind: b.kind(), images: new.len() },
        added: Vec::new(),
        removed: Vec::new(),
        moved: Vec::new(),
        unchanged: 0,
        bytes: None,
    };
    let known: HashSet<Digest> =
        old.values().flat_map(|entry| entry.manifests.iter().flatten().map(|(digest, _)| *digest)).collect();
    let lacks = |digest: &Digest| match a {
        ImageSet::Directory(a) => Ok(a.blob_size(digest)?.is_none()),
        _ => Ok(!known.contains(digest)),
    };
    let mut changed = Vec::new();
    let mut unchanged = Vec::new();
    for (image, entry) in &new {
        match old.get(image).map(|entry| entry.digest) {
            None => {
                diff.added
                    .push(DiffImage { bytes: lacking(&[entry], lacks)?, ..DiffImage::new(image, entry) });
                changed.push(entry);
            }
            Some(before) => match (before, entry.digest) {
                (Some(from), Some(to)) if from != to => {
                    diff.moved.push(MovedImage {
                        image: image.clone(),
                        from,
                        to,
                        bytes: lacking(&[entry], lacks)?,
                    });
                    changed.push(entry);
                }
                _ => unchanged.push(entry),
            },
        }
    }
    let gone = old.iter().filter(|(image, _)| !new.contains_key(*image));
    diff.removed.extend(gone.map(|(image, entry)| DiffImage::new(image, entry)));
    diff.unchanged = unchanged.len();
    diff.bytes = lacking(&changed, lacks)?;
    if let ImageSet::Directory(store) = b {
        diff.bytes = Some(match a {
            ImageSet::Directory(a) => {
                missing_bytes(store, &changed, |digest| Ok(a.blob_size(digest)?.is_some()))?
            }
            _ => {
                let present = reached(store, &unchanged)?;
                missing_bytes(store, &changed, |digest| Ok(present.contains_key(digest)))?
            }
        });
    }
    Ok(diff)
}

/// The total size of the manifests of images that `lacks` says of, with their layers; `None` if a set does not say it.
fn lacking(entries: &[&DiffEntry], lacks: impl Fn(&Digest) -> Result<bool>) -> Result<Option<u64>> {
    let mut sizes = HashMap::new();
    for entry in entries {
        let Some(manifests) = &entry.manifests else { return Ok(None) };
        sizes.extend(manifests.iter().copied());
    }
    let mut bytes = 0_u64;
    for (digest, size) in sizes {
        bytes = bytes.saturating_add(if lacks(&digest)? { size } else { 0 });
    }
    Ok(Some(bytes))
}

/// The content of images of a directory, with its sizes.
fn reached(store: &Store, entries: &[&DiffEntry]) -> Result<HashMap<Digest, u64>> {
    let each = entries.par_iter().filter_map(|entry| Some((entry.repository.as_ref()?, entry.digest?)));
    let each: Vec<_> =
        each.map(|(repository, digest)| reach(store, repository, &digest)).collect::<Result<_>>()?;
    Ok(each.into_iter().flatten().collect())
}

/// The total size of the content of images of a directory that is not present elsewhere.
fn missing_bytes(
    store: &Store,
    entries: &[&DiffEntry],
    is_present: impl Fn(&Digest) -> Result<bool>,
) -> Result<u64> {
    let mut bytes = 0_u64;
    for (digest, size) in reached(store, entries)? {
        if !is_present(&digest)? {
            bytes = bytes.saturating_add(size);
        }
    }
    Ok(bytes)
}

impl ImageSet {
    fn kind(&self) -> ImageSetKind {
        match self {
            Self::Directory(_) => ImageSetKind::Directory,
            Self::Report(_) => ImageSetKind::Report,
            Self::Lock(_) => ImageSetKind::Lock,
            Self::List(_) => ImageSetKind::List,
        }
    }

    fn entries(&self, by_place: bool) -> Result<DiffEntries> {
        let entry = |reference: &Reference, digest, manifests| {
            (key(reference), DiffEntry { digest, repository: None, manifests })
        };
        Ok(match self {
            Self::Directory(store) => directory(store, by_place)?,
            Self::Report(report) => {
                let present = report.images.iter().filter(|row| {
                    row.status.is_done() || row.status.is_planned() || row.status == Status::Unchanged
                });
                let manifests =
                    |row: &ImageReport| row.manifests.iter().map(|one| (one.digest, one.bytes)).collect();
                present.map(|row| entry(&row.reference, row.digest, Some(manifests(row)))).collect()
            }
            Self::Lock(images) => {
                let manifests = |image: &LockedImage| {
                    image.manifests.iter().map(|one| Some((one.digest, one.bytes?))).collect()
                };
                images
                    .iter()
                    .map(|image| entry(&image.reference, image.reference.digest, manifests(image)))
                    .collect()
            }
            Self::List(images) => images.iter().map(|image| entry(image, image.digest, None)).collect(),
        })
    }
}

/// The images of a directory, by their names in it or by those that they were saved from.
fn directory(store: &Store, by_place: bool) -> Result<DiffEntries> {
    store.check_is_tree()?;
    let provenance = store.provenance()?;
    let name = |place: &Place, digest: &Digest| match provenance.source(place, digest) {
        _ if by_place && place.tag.is_some() => place.to_string(),
        _ if by_place => format!("{place}@{digest}"),
        Some(record) => key(&record.source),
        None => name_in_tree(place, digest),
    };
    let images = |repository: Repository| -> Result<Vec<(String, DiffEntry)>> {
        let images = RepositoryWalk::read(store, &repository)?;
        let mut found = Vec::new();
        for tag in images.tags() {
            let digest = store.read_tag(&repository, tag)?;
            found.extend(digest.map(|digest| (Some(tag.clone()), digest)));
        }
        if has_more_revisions(store, &repository, &found)? {
            let untagged = images.saved_by_digest(&provenance)?;
            found.extend(untagged.into_iter().filter_map(|(image, _)| Some((None, image.digest?))));
        }
        let entries = found.into_iter().map(|(tag, digest)| {
            let entry = DiffEntry::stored(digest, &repository);
            (name(&Place { repository: repository.clone(), tag }, &digest), entry)
        });
        Ok(entries.collect())
    };
    let entries: Vec<_> = store.repositories()?.into_par_iter().map(images).collect::<Result<_>>()?;
    Ok(entries.into_iter().flatten().collect())
}

/// Whether a repository has other revisions than these.
fn has_more_revisions(
    store: &Store,
    repository: &Repository,
    images: &[(Option<Tag>, Digest)],
) -> Result<bool> {
    let known: HashSet<&Digest> = images.iter().map(|(_, digest)| digest).collect();
    Ok(store.revisions(repository)?.iter().any(|digest| !known.contains(digest)))
}

/// The name of an image by which sets are compared. That of a tag has no digest: this may differ.
fn key(reference: &Reference) -> String {
    let digest = reference.digest.filter(|_| reference.tag.is_none());
    Reference { digest, ..reference.clone() }.to_string()
}

/// The name that an image of unknown source most likely comes from: that with the domain in its name in the tree, if it has one.
fn name_in_tree(place: &Place, digest: &Digest) -> String {
    let name = match NameRule::origin(&place.repository) {
        Some((registry, repository)) => format!("{registry}/{repository}"),
        None => place.repository.to_string(),
    };
    let text = match &place.tag {
        Some(tag) => format!("{name}:{tag}"),
        None => format!("{name}@{digest}"),
    };
    Reference::parse(&text).map_or(text, |reference| key(&reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> ImageSet {
        ImageSet::List(names.iter().map(|name| Reference::parse(name).unwrap()).collect())
    }

    fn names(images: &[DiffImage]) -> Vec<&str> {
        images.iter().map(|image| image.image.as_str()).collect()
    }

    #[test]
    fn lists_differ_by_names_and_pinned_digests() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let (old, new) = (digest("old"), digest("new"));
        let a = list(&["a.io/one:1", "a.io/two:1", &format!("a.io/three:1@{old}"), "a.io/four:1"]);
        let b =
            list(&["a.io/one:1", "a.io/five", &format!("a.io/three:1@{new}"), &format!("a.io/four:1@{new}")]);
        let found = diff(&a, &b).unwrap();
        assert_eq!(names(&found.added), ["a.io/five:latest"]);
        assert_eq!(names(&found.removed), ["a.io/two:1"]);
        assert_eq!(found.moved.len(), 1);
        assert_eq!((found.moved[0].from, found.moved[0].to), (old, new));
        assert_eq!((found.unchanged, found.bytes), (2, None), "without a digest, no difference is known");
        assert!(diff(&a, &a).unwrap().is_empty());
    }

    #[test]
    fn unknown_source_is_read_from_the_name_in_the_tree() {
        for (place, expected) in [
            ("library/nginx", "docker.io/library/nginx:1"),
            ("quay.io/a/b", "quay.io/a/b:1"),
            ("localhost_5000/a", "localhost:5000/a:1"),
        ] {
            let place = Place { repository: place.parse().unwrap(), tag: Some("1".parse().unwrap()) };
            assert_eq!(name_in_tree(&place, &Digest::of(b"x")), expected);
        }
    }
}
