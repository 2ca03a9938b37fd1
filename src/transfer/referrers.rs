//! Finds the referrers of an image: signatures, attestations, SBOMs.
//!
//! The source is asked what refers to the image's digest and to each of its manifests, then what refers to the referrers that are
//! new: a signature of an SBOM. Whatever a source lists is verified: a referrer must name the subject that it was listed for.

use super::graph::ImageWalk;
use super::node::{ImageContent, ReferrerContent};
use super::options::MissingReferrers;
use super::report::ReferrerReport;
use super::stats::ImageStats;
use super::{Engine, Image};
use crate::content::{Place, PublishedReferrers, Referrer, ReferrerList, Sink, Source, Target};
use crate::error::{Error, ErrorKind, ErrorReport, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{ListedReferrer, MAX_REFERRERS, ReferrerTag, entry_length, is_signature_type};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest};
use futures::future::join_all;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How many levels of referrers are followed: the referrers of an image are the first.
const MAX_DEPTH: usize = 4;
/// The maximum size of the manifests of one image's referrers together, in bytes.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;
/// The maximum size of the blobs of one image's referrers together, in bytes.
const MAX_BLOB_BYTES: u64 = 1 << 30;
/// The maximum size of the list of referrers of one manifest: that of a manifest, with room for its other fields.
const MAX_LIST_BYTES: u64 = MAX_MANIFEST_SIZE - 1024;

const HINT: &str =
    "--missing-referrers warn continues without it, and --referrers none leaves all referrers out";

/// The referrers of the root as they were listed while the manifests were read, and its digest.
pub(super) type FirstList = (Digest, Result<Vec<Referrer>>);

impl<K: Sink> Engine<K> {
    /// The referrers of `root`, if they are to be transferred, or its signatures checked.
    pub(super) async fn first_referrers<S: Source>(
        &self,
        image: &Image<S>,
        root: Digest,
        stats: &ImageStats,
    ) -> Option<FirstList> {
        let pinned = image.pinned.as_deref().and_then(|pinned| pinned.referrers.as_ref());
        let selects_none = !self.options.referrers.selects_any() || pinned.is_some_and(HashSet::is_empty);
        if selects_none && !self.needs_signatures(&image.reference) {
            return None;
        }
        Some((root, self.list_referrers(&*image.source, &image.reference.repository, root, stats).await))
    }

    /// What the source lists for `subject`.
    pub(super) async fn list_referrers<S: Source>(
        &self,
        source: &S,
        repository: &crate::oci::Repository,
        subject: Digest,
        stats: &ImageStats,
    ) -> Result<Vec<Referrer>> {
        let ask = || source.referrers(repository, &subject);
        match self.attempt(stats, &subject, ask).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        }
    }

    /// Whether every place lists the referrers and has their tags.
    pub(super) async fn are_referrers_listed(
        &self,
        referrers: &PublishedReferrers,
        places: &[Place],
        stats: &ImageStats,
    ) -> Result<bool> {
        for Place { repository, .. } in places {
            for (tag, digest) in &referrers.tags {
                if self.tag(repository, &tag.tag(), stats).await? != Some(*digest) {
                    return Ok(false);
                }
            }
            for ReferrerList { subject, referrers } in &referrers.lists {
                let listed = || self.sink.lists_referrers(repository, subject, referrers);
                if !self.attempt(stats, subject, listed).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl<S: Source, K: Sink> ImageWalk<'_, S, K> {
    /// The manifest that a tag names; `None` if the tag does not exist any more.
    pub(super) async fn tagged_referrer(&self, tag: &ReferrerTag) -> Result<Option<Arc<RawManifest>>> {
        let (engine, stats, repository) = (self.engine, self.stats, &self.reference.repository);
        let tag = tag.tag();
        // A tag that the sink has is most likely unchanged, which a HEAD request shows.
        let resolved = match engine.tag(&self.home.repository, &tag, stats).await? {
            Some(_) => {
                let ask = || self.source.resolve(repository, &tag);
                engine.attempt(stats, &tag, ask).await.map(|resolved| (resolved.digest, resolved.manifest))
            }
            None => {
                let target = Target::Tag(tag.clone());
                let ask = || self.source.manifest(repository, &target);
                engine.attempt(stats, &tag, ask).await.map(|raw| (raw.digest, Some(raw)))
            }
        };
        match resolved {
            Ok((_, Some(raw))) => {
                engine.count_read(stats, raw.bytes.len());
                Ok(Some(Arc::new(raw)))
            }
            Ok((digest, None)) => self.manifest(digest).await.map(|found| Some(found.raw)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A referrer that the source lists for a subject.
#[derive(Clone, Debug)]
struct Candidate {
    subject: Digest,
    referrer: Referrer,
}

impl Candidate {
    /// Its artifact type, if the list says so.
    fn artifact_type(&self) -> Option<&str> {
        match &self.referrer {
            Referrer::Listed(entry) => entry.artifact_type.as_deref(),
            Referrer::Tagged(tag) => tag.kind.artifact_type(),
        }
    }

    fn row(&self) -> ReferrerReport {
        let (digest, tag) = match &self.referrer {
            Referrer::Listed(entry) => (Some(entry.digest), None),
            Referrer::Tagged(tag) => (None, Some(tag.tag())),
        };
        let artifact_type = self.artifact_type().map(str::to_owned);
        ReferrerReport { subject: self.subject, digest, tag, artifact_type, error: None }
    }
}

/// A referrer that was read.
struct FoundReferrer {
    /// Its entry in the list of its subject.
    descriptor: Descriptor,
    /// Its manifests, children first and its own last.
    manifests: Vec<Arc<RawManifest>>,
    blobs: Vec<Descriptor>,
}

/// The search for the referrers of one image.
pub(super) struct ReferrerSearch<'a, S, K: Sink> {
    walk: &'a ImageWalk<'a, S, K>,
    content: &'a ImageContent,
    /// The digest that the image's tag will name.
    root: Digest,
    found: ReferrerContent,
    /// The manifests that are part of the image or were found.
    seen: HashSet<Digest>,
    /// The position of each subject's list.
    lists: HashMap<Digest, usize>,
    /// The size of each subject's list, in bytes.
    list_bytes: HashMap<Digest, u64>,
    /// The number of referrers so far.
    count: usize,
    manifest_bytes: u64,
    blob_bytes: u64,
    /// Referrers that the source lists and the lock file does not.
    not_pinned: Vec<Digest>,
}

impl<'a, S: Source, K: Sink> ReferrerSearch<'a, S, K> {
    /// A search for what refers to `content`, which `walk` read and which will be tagged as `root`.
    pub(super) fn new(walk: &'a ImageWalk<'a, S, K>, content: &'a ImageContent, root: Digest) -> Self {
        Self {
            walk,
            content,
            root,
            found: ReferrerContent::default(),
            seen: content.manifests.iter().map(|raw| raw.digest).collect(),
            lists: HashMap::new(),
            list_bytes: HashMap::new(),
            count: 0,
            manifest_bytes: 0,
            blob_bytes: 0,
            not_pinned: Vec::new(),
        }
    }

    fn engine(&self) -> &'a Engine<K> {
        self.walk.engine
    }

    /// Everything that refers to the image. `first` is the list of its root, if it was requested already.
    ///
    /// # Errors
    /// The failure of the first referrer that cannot be transferred, unless they may be missing.
    pub(super) async fn find(mut self, mut first: Option<FirstList>) -> Result<ReferrerContent> {
        let pinned = self.walk.pinned;
        let has_none = pinned.is_some_and(|pinned| pinned.referrers.as_ref().is_some_and(HashSet::is_empty));
        if !self.engine().options.referrers.selects_any() || has_none {
            return Ok(self.found);
        }
        let mut subjects = self.subjects();
        for depth in 0.. {
            let candidates = self.candidates(&subjects, first.take()).await?;
            if candidates.is_empty() {
                break;
            }
            if depth == MAX_DEPTH {
                let message = format!("referrers of referrers are nested more than {MAX_DEPTH} levels deep");
                self.record_failure(candidates[0].row(), self.error(ErrorKind::Unsupported, message))?;
                break;
            }
            let read = join_all(candidates.iter().map(|candidate| self.read(candidate))).await;
            let mut next = Vec::new();
            for (candidate, read) in candidates.iter().zip(read) {
                let found = match read {
                    Ok(Some(found)) if !self.is_pinned(&found.descriptor.digest) => {
                        self.not_pinned.push(found.descriptor.digest);
                        continue;
                    }
                    other => other,
                };
                // `None`: it was removed in the meantime, or is not of a selected type.
                match found.and_then(|found| found.map(|found| self.add(candidate, found)).transpose()) {
                    Ok(added) => next.extend(added.flatten()),
                    Err(error) => self.record_failure(candidate.row(), error)?,
                }
            }
            subjects = self.subjects_to_search(next).await?;
        }
        if let Some(pinned) = pinned {
            let found = self.found.rows.iter().filter_map(|row| row.digest).collect();
            pinned.check_referrers(self.walk.reference, &found, &self.not_pinned)?;
        }
        self.keep_source_root();
        Ok(self.found)
    }

    /// Whether the lock file, if there is one, lists a referrer.
    fn is_pinned(&self, referrer: &Digest) -> bool {
        self.walk.pinned.is_none_or(|pinned| pinned.selects(referrer))
    }

    /// The manifests of the image that may have referrers.
    fn subjects(&self) -> Vec<Digest> {
        let is_kept = |digest: &Digest| K::LISTS_REFERRERS || self.seen.contains(digest);
        self.content.subjects.iter().copied().filter(is_kept).collect()
    }

    /// What the source lists for `subjects`, as far as it is selected and new.
    async fn candidates(&mut self, subjects: &[Digest], first: Option<FirstList>) -> Result<Vec<Candidate>> {
        let mut known: HashMap<Digest, Result<Vec<Referrer>>> = first.into_iter().collect();
        let requested = subjects.iter().filter(|subject| !known.contains_key(subject));
        let requested = requested.map(async |subject| (*subject, self.list(*subject).await));
        let requested = join_all(requested).await;
        known.extend(requested);
        let mut candidates = Vec::new();
        let mut seen = HashSet::new();
        for subject in subjects {
            let list = match known.remove(subject) {
                Some(Ok(list)) => list,
                Some(Err(error)) => {
                    let error = error.context("cannot list what refers to it");
                    let row = ReferrerReport {
                        subject: *subject,
                        digest: None,
                        tag: None,
                        artifact_type: None,
                        error: None,
                    };
                    self.record_failure(row, error)?;
                    continue;
                }
                None => continue,
            };
            for referrer in list {
                let candidate = Candidate { subject: *subject, referrer };
                let ReferrerReport { subject, digest, tag, .. } = candidate.row();
                if let Some(other) = digest.filter(|digest| !self.is_pinned(digest)) {
                    self.not_pinned.push(other);
                    continue;
                }
                if self.may_select(&candidate) && seen.insert((subject, digest, tag)) {
                    candidates.push(candidate);
                }
            }
        }
        let room = MAX_REFERRERS - self.count;
        if let Some(first_left_out) = candidates.get(room).map(Candidate::row) {
            let message = format!("the image has more than {MAX_REFERRERS} referrers");
            self.record_failure(first_left_out, self.error(ErrorKind::TooLarge, message))?;
            candidates.truncate(room);
        }
        self.count += candidates.len();
        Ok(candidates)
    }

    async fn list(&self, subject: Digest) -> Result<Vec<Referrer>> {
        let repository = &self.walk.reference.repository;
        self.engine().list_referrers(self.walk.source, repository, subject, self.walk.stats).await
    }

    /// Whether a referrer is selected, as far as its list tells.
    fn may_select(&self, candidate: &Candidate) -> bool {
        let options = &self.engine().options.referrers;
        options.selects_all() || candidate.artifact_type().is_none_or(|kind| options.selects(Some(kind)))
    }

    /// Reads a referrer and everything below it; `None` if it does not exist any more, or is not selected.
    async fn read(&self, candidate: &Candidate) -> Result<Option<FoundReferrer>> {
        let raw = match &candidate.referrer {
            Referrer::Listed(entry) => self.listed(candidate, entry).await?,
            Referrer::Tagged(tag) => self.walk.tagged_referrer(tag).await?,
        };
        let Some(raw) = raw else { return Ok(None) };
        let listed = ListedReferrer::read(&raw.bytes, raw.digest);
        let Some(ListedReferrer { subject, descriptor }) = listed else {
            return Err(
                self.error(ErrorKind::Corrupt, format!("the referrer {} is not a manifest", raw.digest))
            );
        };
        if let Referrer::Listed(entry) = &candidate.referrer {
            if subject != Some(candidate.subject) {
                let named = subject.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
                let message =
                    format!("the referrer {} of {} refers to {named}", raw.digest, candidate.subject);
                return Err(self.error(ErrorKind::Corrupt, message));
            }
            if entry.size != raw.bytes.len() as u64 {
                let size = raw.bytes.len();
                let message = format!(
                    "the referrer {} is listed with {} bytes, but has {size}",
                    raw.digest, entry.size
                );
                return Err(self.error(ErrorKind::Corrupt, message));
            }
            let options = &self.engine().options.referrers;
            if !options.selects_all() && !options.selects(descriptor.artifact_type.as_deref()) {
                return Ok(None);
            }
        }
        let (manifests, blobs) = self.below(raw).await?;
        Ok(Some(FoundReferrer { descriptor, manifests, blobs }))
    }

    /// The manifest of a listed referrer; `None` if it is not listed any more.
    async fn listed(&self, candidate: &Candidate, entry: &Descriptor) -> Result<Option<Arc<RawManifest>>> {
        match self.walk.manifest(entry.digest).await {
            Ok(found) => Ok(Some(found.raw)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.engine().options.sparse
                    || !self.list(candidate.subject).await?.contains(&candidate.referrer)
                {
                    return Ok(None);
                }
                Err(error.context("it is listed as a referrer, and missing"))
            }
            Err(error) => Err(error),
        }
    }

    /// A referrer's manifests, children first, and its blobs.
    async fn below(&self, raw: Arc<RawManifest>) -> Result<(Vec<Arc<RawManifest>>, Vec<Descriptor>)> {
        let (mut manifests, mut blobs) = (Vec::new(), Vec::new());
        let mut seen = HashSet::from([raw.digest]);
        let mut open = vec![raw];
        while let Some(raw) = open.pop() {
            match raw.parse()? {
                Manifest::Image(image) => blobs.extend(image.blobs().cloned()),
                Manifest::Index(index) => {
                    if seen.len() + index.manifests.len() > MAX_REFERRERS {
                        let message = format!("a referrer consists of more than {MAX_REFERRERS} manifests");
                        return Err(self.error(ErrorKind::TooLarge, message));
                    }
                    for entry in index.manifests.iter().filter(|entry| seen.insert(entry.digest)) {
                        open.push(self.walk.manifest(entry.digest).await?.raw);
                    }
                }
            }
            manifests.push(raw);
        }
        manifests.reverse();
        Ok((manifests, blobs))
    }

    /// Checks that the list of the candidate's subject has room for `entry`, and counts it.
    fn check_list(&mut self, candidate: &Candidate, entry: &Descriptor) -> Result<()> {
        if matches!(candidate.referrer, Referrer::Tagged(_)) {
            return Ok(());
        }
        let subject = candidate.subject;
        let length = self.list_bytes.entry(subject).or_default();
        let longer = *length + entry_length(entry);
        if longer > MAX_LIST_BYTES {
            let message =
                format!("the list of what refers to {subject} has more than {MAX_LIST_BYTES} bytes");
            return Err(self.error(ErrorKind::TooLarge, message));
        }
        *length = longer;
        Ok(())
    }

    /// Adds a referrer; returns it as a subject of others, unless it is a signature.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the referrers would exceed a limit with this one, which is not added then.
    fn add(&mut self, candidate: &Candidate, found: FoundReferrer) -> Result<Option<Candidate>> {
        self.check_list(candidate, &found.descriptor)?;
        let FoundReferrer { descriptor, manifests, blobs } = found;
        let manifests: Vec<_> =
            manifests.into_iter().filter(|raw| !self.seen.contains(&raw.digest)).collect();
        let manifest_bytes =
            manifests.iter().fold(self.manifest_bytes, |sum, raw| sum + raw.bytes.len() as u64);
        let blob_bytes = blobs.iter().fold(self.blob_bytes, |sum, blob| sum.saturating_add(blob.size));
        if manifest_bytes > MAX_MANIFEST_BYTES || blob_bytes > MAX_BLOB_BYTES {
            let message = format!(
                "the referrers of the image have more than {MAX_BLOB_BYTES} bytes, or {MAX_MANIFEST_BYTES} bytes of manifests"
            );
            return Err(self.error(ErrorKind::TooLarge, message));
        }
        self.manifest_bytes = manifest_bytes;
        self.blob_bytes = blob_bytes;
        self.seen.extend(manifests.iter().map(|raw| raw.digest));
        self.found.manifests.extend(manifests);
        self.found.blobs.extend(blobs);
        let mut row = candidate.row();
        row.digest = Some(descriptor.digest);
        let published = &mut self.found.published;
        match &candidate.referrer {
            Referrer::Tagged(tag) => published.tags.push((*tag, descriptor.digest)),
            Referrer::Listed(_) => {
                row.artifact_type.clone_from(&descriptor.artifact_type);
                let position = *self.lists.entry(candidate.subject).or_insert_with(|| {
                    published.lists.push(ReferrerList { subject: candidate.subject, referrers: Vec::new() });
                    published.lists.len() - 1
                });
                published.lists[position].referrers.push(descriptor.clone());
            }
        }
        let is_signature = row.artifact_type.as_deref().is_some_and(is_signature_type);
        self.found.rows.push(row);
        let referrer = match &candidate.referrer {
            Referrer::Listed(_) => Referrer::Listed(descriptor),
            tagged @ Referrer::Tagged(_) => tagged.clone(),
        };
        Ok((!is_signature).then_some(Candidate { subject: candidate.subject, referrer }))
    }

    /// The digests of these referrers whose own referrers may be missing at the destination. An image with a tag there is complete,
    /// so only the referrers that it has got since are searched: a run with nothing to do makes one request an image.
    async fn subjects_to_search(&self, added: Vec<Candidate>) -> Result<Vec<Digest>> {
        let engine = self.engine();
        let Place { repository, tag } = self.walk.home;
        let mut is_tagged = false;
        let may_be_complete = !added.is_empty() && !engine.options.sparse && self.walk.pinned.is_none();
        if let Some(tag) = tag.as_ref().filter(|_| may_be_complete) {
            is_tagged = engine.tag(repository, tag, self.walk.stats).await? == Some(self.root);
        }
        let mut digests = Vec::new();
        for candidate in added {
            let (digest, is_known) = match &candidate.referrer {
                Referrer::Listed(entry) => {
                    let entries = std::slice::from_ref(entry);
                    let listed = || engine.sink.lists_referrers(repository, &candidate.subject, entries);
                    let is_known =
                        is_tagged && engine.attempt(self.walk.stats, &entry.digest, listed).await?;
                    (Some(entry.digest), is_known)
                }
                Referrer::Tagged(tag) => {
                    let tags = &self.found.published.tags;
                    let digest = tags.iter().find(|(known, _)| known == tag).map(|(_, digest)| *digest);
                    let is_known =
                        is_tagged && engine.tag(repository, &tag.tag(), self.walk.stats).await? == digest;
                    (digest, is_known)
                }
            };
            digests.extend(digest.filter(|_| !is_known));
        }
        Ok(digests)
    }

    /// Keeps the root at the source, so that its signatures can be verified by the digest that they sign. A registry would refuse an
    /// index of which it lacks a part.
    fn keep_source_root(&mut self) {
        let Some(root) = self.content.source_root.as_ref().filter(|_| K::SHARES_BLOBS_ACROSS_REPOSITORIES)
        else {
            return;
        };
        let published = &self.found.published;
        let has_referrers = published.lists.iter().any(|list| list.subject == root.digest)
            || published.tags.iter().any(|(tag, _)| tag.subject == root.digest);
        self.found.source_root = has_referrers.then(|| root.clone());
    }

    /// Records a referrer that cannot be transferred.
    ///
    /// # Errors
    /// `error`, unless referrers may be missing.
    fn record_failure(&mut self, row: ReferrerReport, error: Error) -> Result<()> {
        let is_fatal =
            matches!(error.kind(), ErrorKind::Storage | ErrorKind::Cancelled | ErrorKind::Internal);
        if is_fatal || self.engine().options.referrers.missing == MissingReferrers::Fail {
            return Err(if is_fatal || error.hint().is_some() { error } else { error.with_hint(HINT) });
        }
        self.found.warnings.push(format!("a referrer is missing: {error}"));
        self.found.rows.push(ReferrerReport { error: Some(ErrorReport::from(&error)), ..row });
        Ok(())
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, self.walk.reference, message).on(Side::Source).with_hint(HINT)
    }
}
