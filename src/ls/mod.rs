//! Lists the repositories, tags, platforms and sizes of a tree.
//!
//! Links, file sizes and the digests of manifests are checked. The content of layers is not; that is what `verify` does.

mod referrers;
mod walk;

pub use referrers::ReferrerListing;

pub(crate) use walk::{Reached, reach};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Repository, Tag, wildcard};
use crate::store::Store;
use crate::store::inventory::{FileCount, InternalFiles};
use crate::store::provenance::{Provenance, is_saved_by_digest};
use rayon::prelude::*;
use referrers::RepositoryReferrers;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use walk::walk_image;

/// The contents of a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Listing {
    /// The version of this format, which changes when a field is removed or changes its meaning.
    pub schema: u32,
    /// The repositories.
    pub repositories: Vec<RepositoryListing>,
    /// Totals over all listed repositories.
    pub totals: Totals,
    /// Files outside the tree: interrupted downloads, and what a repair moved away.
    pub internal: InternalFiles,
}

/// The tags of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RepositoryListing {
    /// The name of the repository.
    pub repository: Repository,
    /// Its tags.
    pub tags: Vec<TagListing>,
    /// Its images that were saved by digest alone.
    #[serde(default)]
    pub untagged: Vec<TagListing>,
    /// Total size of the content that its tags and untagged images reach, each blob counted once.
    pub bytes: u64,
    /// The part of these bytes that no other repository needs.
    #[serde(default)]
    pub unique_bytes: u64,
}

/// A tag and the image that it points to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TagListing {
    /// The tag; `None` for an image that was saved by digest alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The name that it was saved from, if it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Reference>,
    /// When the run started that saved it, in seconds since 1970, if it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<u64>,
    /// The digest that it points to; `None` if its link is damaged.
    pub digest: Option<Digest>,
    /// The media type of the manifest or index.
    pub media_type: Option<String>,
    /// What the tag is.
    pub kind: ContentKind,
    /// The artifact type, if it is neither an image nor a chart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its platforms, in the order of the index.
    pub platforms: Vec<PlatformListing>,
    /// Total size of the stored content that it reaches, including manifests, each blob counted once.
    pub bytes: u64,
    /// The part of these bytes that no other tag or untagged image needs: what removing it frees.
    #[serde(default)]
    pub unique_bytes: u64,
    /// The signatures, attestations, SBOMs and other referrers of the image. Their own tags are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerListing>,
    /// What is wrong with it; empty if it can be pulled.
    pub problems: Vec<String>,
}

/// A platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PlatformListing {
    /// Its name: `linux/arm64/v8`.
    pub platform: String,
    /// Whether it is stored. An index may list platforms that were not saved.
    pub present: bool,
}

/// What a tag can be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ContentKind {
    /// A runnable image.
    Image,
    /// A Helm chart.
    HelmChart,
    /// Another artifact: a signature, an SBOM.
    Artifact,
    /// It could not be read.
    #[default]
    Unknown,
}

impl ContentKind {
    /// Its name for display.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::HelmChart => "helm chart",
            Self::Artifact => "artifact",
            Self::Unknown => "unknown",
        }
    }
}

/// Totals over a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Totals {
    /// Number of repositories.
    pub repositories: usize,
    /// Number of tags of images; those of signatures and other referrers do not count.
    pub tags: usize,
    /// Number of images that were saved by digest alone.
    #[serde(default)]
    pub untagged: usize,
    /// Number of tags and untagged images with problems.
    pub damaged: usize,
    /// Total size of the content that they reach, each blob counted once.
    pub bytes: u64,
    /// Blobs in the directory that no image reaches, which garbage collection removes; none if only some repositories are listed.
    /// With these, `bytes` are all bytes of the directory's blobs.
    #[serde(default)]
    pub unreferenced: FileCount,
}

/// Options of a listing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListOptions {
    /// The repositories to list; all if there are neither these nor patterns.
    pub repositories: Vec<Repository>,
    /// Patterns with `*` and `?` for the images to list, by their names in the directory or those that they were saved from:
    /// `repository`, `repository:tag`, `registry/repository:tag`.
    pub patterns: Vec<String>,
    /// The order.
    pub sort: SortOrder,
    /// Cancelling this token ends the listing.
    pub cancel: CancellationToken,
}

impl ListOptions {
    /// Lists these repositories only.
    #[must_use]
    pub fn with_repositories(self, repositories: impl IntoIterator<Item = Repository>) -> Self {
        Self { repositories: repositories.into_iter().collect(), ..self }
    }

    /// Lists only what one of these patterns matches.
    #[must_use]
    pub fn with_patterns(self, patterns: impl IntoIterator<Item = String>) -> Self {
        Self { patterns: patterns.into_iter().collect(), ..self }
    }

    /// Lists in this order.
    #[must_use]
    pub fn with_sort(self, sort: SortOrder) -> Self {
        Self { sort, ..self }
    }

    /// Ends the listing when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// The order of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By name.
    #[default]
    Name,
    /// The largest first, repositories as well as the images in each.
    Size,
}

/// How long to wait for a process that is removing something, before a damaged tag is read again beside it.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Lists a tree. Damaged tags are listed with their problems. Since a removal in progress looks like damage, problems count only if
/// they are found again while nothing is being removed.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree, `Storage` if it can't be read, `NotFound` for a repository that does not exist,
/// `Cancelled`.
pub fn list(store: &Store, options: &ListOptions) -> Result<Listing> {
    store.check_is_tree()?;
    let first = read(store, options)?;
    if first.totals.damaged == 0 {
        return Ok(first);
    }
    let lock = store.hold_off_removals(REMOVAL_TIMEOUT);
    let mut again = read(store, options)?;
    if lock.is_none() {
        again.keep_problems_of(&first);
    }
    Ok(again)
}

impl RepositoryListing {
    /// Its tags and untagged images.
    pub fn images(&self) -> impl Iterator<Item = &TagListing> {
        self.tags.iter().chain(&self.untagged)
    }
}

impl Listing {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;

    /// Drops the problems that `first` does not have.
    fn keep_problems_of(&mut self, first: &Self) {
        let all = first.repositories.iter().flat_map(|listed| {
            listed
                .images()
                .map(move |image| ((&listed.repository, &image.tag, image.digest), &*image.problems))
        });
        let problems: HashMap<_, &[String]> = all.collect();
        self.totals.damaged = 0;
        for listed in &mut self.repositories {
            for image in listed.tags.iter_mut().chain(&mut listed.untagged) {
                let known = problems.get(&(&listed.repository, &image.tag, image.digest));
                let known = known.copied().unwrap_or_default();
                image.problems.retain(|problem| known.contains(problem));
                self.totals.damaged += usize::from(!image.problems.is_empty());
            }
        }
    }
}

/// A repository as it was walked: each of its images with what it reaches.
struct WalkedRepository {
    repository: Repository,
    tags: Vec<(TagListing, Reached)>,
    untagged: Vec<(TagListing, Reached)>,
}

impl WalkedRepository {
    fn images(&self) -> impl Iterator<Item = &(TagListing, Reached)> {
        self.tags.iter().chain(&self.untagged)
    }

    /// What its images reach.
    fn reached(&self) -> Reached {
        let all = self.images().flat_map(|(_, reached)| &reached.0);
        Reached(all.map(|(digest, size)| (*digest, *size)).collect())
    }
}

/// In how many images and repositories each blob is.
#[derive(Default)]
struct UseCounts {
    images: HashMap<Digest, usize>,
    repositories: HashMap<Digest, usize>,
}

impl UseCounts {
    fn of(walked: &[WalkedRepository]) -> Self {
        let mut counts = Self::default();
        for repository in walked {
            for digest in repository.images().flat_map(|(_, reached)| reached.0.keys()) {
                *counts.images.entry(*digest).or_default() += 1;
            }
            for digest in repository.reached().0.into_keys() {
                *counts.repositories.entry(digest).or_default() += 1;
            }
        }
        counts
    }
}

fn read(store: &Store, options: &ListOptions) -> Result<Listing> {
    let only: BTreeSet<&Repository> = options.repositories.iter().collect();
    for repository in &only {
        if !store.has_repository(repository)? {
            return Err(Error::new(ErrorKind::NotFound, repository, "the directory has no such repository")
                .with_hint("run saver ls without a name to list all repositories"));
        }
    }
    let provenance = store.provenance()?;
    // All of them, since any may share content with those that are listed.
    let walk = |repository| {
        if options.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, repository, "the listing was cancelled"));
        }
        walk_repository(store, repository, &provenance)
    };
    let walked: Vec<WalkedRepository> =
        store.repositories()?.into_par_iter().map(walk).collect::<Result<_>>()?;
    let counts = UseCounts::of(&walked);
    let is_filtered = !only.is_empty() || !options.patterns.is_empty();
    let mut totals = Totals::default();
    let mut repositories = Vec::new();
    let mut seen = Reached::default();
    for mut one in walked {
        if !only.is_empty() && !only.contains(&one.repository) {
            continue;
        }
        if !options.patterns.is_empty() {
            let name = one.repository.clone();
            one.tags.retain(|(image, _)| matches(&options.patterns, &name, image));
            one.untagged.retain(|(image, _)| matches(&options.patterns, &name, image));
            if one.images().next().is_none() {
                continue;
            }
        }
        let reached = one.reached();
        let listed = listing(one, &reached, &counts, options.sort);
        seen.0.extend(reached.0);
        totals.repositories += 1;
        totals.tags += listed.tags.iter().filter(|image| is_of_image(image)).count();
        totals.untagged += listed.untagged.len();
        totals.damaged += listed.images().filter(|image| !image.problems.is_empty()).count();
        repositories.push(listed);
    }
    if options.sort == SortOrder::Size {
        repositories.sort_by_key(|listed| Reverse(listed.bytes));
    }
    totals.bytes = seen.bytes();
    if !is_filtered {
        for (_, size) in store.blobs()?.into_iter().filter(|(digest, _)| !seen.0.contains_key(digest)) {
            totals.unreferenced.files += 1;
            totals.unreferenced.bytes = totals.unreferenced.bytes.saturating_add(size);
        }
    }
    Ok(Listing { schema: Listing::SCHEMA, repositories, totals, internal: store.internal_files()? })
}

/// Whether a tag is an image's rather than that of a referrer, which is listed by itself where its subject is missing.
fn is_of_image(image: &TagListing) -> bool {
    image.tag.as_ref().is_some_and(|tag| !tag.is_of_referrers())
}

/// Whether one of the patterns matches the image by one of its names.
fn matches(patterns: &[String], repository: &Repository, image: &TagListing) -> bool {
    let mut names = vec![repository.to_string()];
    names.extend(image.tag.as_ref().map(|tag| format!("{repository}:{tag}")));
    names.extend(image.source.as_ref().map(ToString::to_string));
    patterns.iter().any(|pattern| names.iter().any(|name| wildcard::matches(pattern, name)))
}

fn listing(
    walked: WalkedRepository,
    reached: &Reached,
    counts: &UseCounts,
    sort: SortOrder,
) -> RepositoryListing {
    let own = |reached: &Reached, counts: &HashMap<Digest, usize>| {
        let own = reached.0.iter().filter(|(digest, _)| counts.get(digest) == Some(&1));
        own.fold(0_u64, |sum, (_, size)| sum.saturating_add(*size))
    };
    let images = |images: Vec<(TagListing, Reached)>| {
        let mut images: Vec<TagListing> = images
            .into_iter()
            .map(|(image, reached)| TagListing { unique_bytes: own(&reached, &counts.images), ..image })
            .collect();
        if sort == SortOrder::Size {
            images.sort_by_key(|image| Reverse(image.bytes));
        }
        images
    };
    RepositoryListing {
        bytes: reached.bytes(),
        unique_bytes: own(reached, &counts.repositories),
        repository: walked.repository,
        tags: images(walked.tags),
        untagged: images(walked.untagged),
    }
}

fn walk_repository(
    store: &Store,
    repository: Repository,
    provenance: &Provenance,
) -> Result<WalkedRepository> {
    let images = RepositoryWalk::read(store, &repository)?;
    let tags: Vec<_> = images.tags().iter().map(|tag| images.tag(tag, provenance)).collect::<Result<_>>()?;
    let untagged = images.untagged(tags.iter().map(|(_, reached)| reached), provenance)?;
    Ok(WalkedRepository { repository, tags, untagged })
}

/// The images of a repository: its tags, without those that name referrers of others, and what was saved by digest.
pub(crate) struct RepositoryWalk<'a> {
    store: &'a Store,
    repository: &'a Repository,
    tags: Vec<Tag>,
    referrers: RepositoryReferrers<'a>,
}

impl<'a> RepositoryWalk<'a> {
    /// # Errors
    /// `Storage` if the tree cannot be read.
    pub(crate) fn read(store: &'a Store, repository: &'a Repository) -> Result<Self> {
        let mut tags = store.tags(repository)?;
        let referrers = RepositoryReferrers::take(store, repository, &mut tags)?;
        Ok(Self { store, repository, tags, referrers })
    }

    /// The tags of images.
    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// A tag with everything that it reaches, its referrers included.
    ///
    /// # Errors
    /// `Storage` if the tree cannot be read.
    pub(crate) fn tag(&self, tag: &Tag, provenance: &Provenance) -> Result<(TagListing, Reached)> {
        let digest = self.store.read_tag(self.repository, tag)?;
        let (mut image, mut reached) =
            walk_image(self.store, self.repository, Some(tag.clone()), digest, provenance)?;
        self.referrers.add_to(&mut image, &mut reached)?;
        Ok((image, reached))
    }

    /// The image `digest` with everything that it reaches, as if `tag` named it.
    ///
    /// # Errors
    /// `Storage` if the tree cannot be read.
    #[cfg(feature = "archive")]
    pub(crate) fn image(
        &self,
        tag: Option<Tag>,
        digest: Digest,
        provenance: &Provenance,
    ) -> Result<(TagListing, Reached)> {
        let (mut image, mut reached) =
            walk_image(self.store, self.repository, tag, Some(digest), provenance)?;
        self.referrers.add_to(&mut image, &mut reached)?;
        Ok((image, reached))
    }

    /// The images that were saved by digest.
    ///
    /// # Errors
    /// `Storage` if the tree cannot be read.
    pub(crate) fn saved_by_digest(&self, provenance: &Provenance) -> Result<Vec<(TagListing, Reached)>> {
        let tagged = self.tags.iter().map(|tag| self.tag(tag, provenance));
        let tagged: Vec<_> = tagged.collect::<Result<_>>()?;
        self.untagged(tagged.iter().map(|(_, reached)| reached), provenance)
    }

    /// The images that were saved by digest. `tagged` is what each of the tags reaches.
    fn untagged<'r>(
        &self,
        tagged: impl Iterator<Item = &'r Reached>,
        provenance: &Provenance,
    ) -> Result<Vec<(TagListing, Reached)>> {
        let (store, repository) = (self.store, self.repository);
        let tagged: HashSet<Digest> = tagged.flat_map(|reached| reached.0.keys()).copied().collect();
        let mut others = Vec::new();
        for digest in store.revisions(repository)?.into_iter().filter(|digest| !tagged.contains(digest)) {
            let (image, reached) = walk_image(store, repository, None, Some(digest), provenance)?;
            // What can't be read may be a part of any of the tags; verify reports it.
            if image.media_type.is_some() {
                others.push((image, reached));
            }
        }
        if others.is_empty() {
            return Ok(others);
        }
        let mut was_tagged = self.referrers.lists_and_sources()?;
        for tag in &self.tags {
            was_tagged.extend(store.tag_history(repository, tag)?);
        }
        // Each of them reaches itself, and a part of another is reached by that too.
        let mut reaching: HashMap<Digest, usize> = HashMap::new();
        for digest in others.iter().flat_map(|(_, reached)| reached.0.keys()) {
            *reaching.entry(*digest).or_default() += 1;
        }
        let mut untagged = Vec::new();
        for (mut image, mut reached) in others {
            let Some(digest) = image.digest else { continue };
            let own = usize::from(reached.0.contains_key(&digest));
            let is_part = reaching.get(&digest).is_some_and(|count| *count > own);
            if !is_part && is_saved_by_digest(image.source.is_some(), was_tagged.contains(&digest)) {
                self.referrers.add_to(&mut image, &mut reached)?;
                untagged.push((image, reached));
            }
        }
        Ok(untagged)
    }
}
