//! Judging one repository.

use super::report::{Problem, ProblemKind};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::store::Store;
use crate::store::document::{Document, DocumentContent, Fault, top_down};
use crate::store::inventory::{Link, RepositoryCensus};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What is to be said of a repository.
pub(super) struct Verdict {
    pub(super) name: Repository,
    pub(super) problems: Vec<Problem>,
    /// Damaged or absent content that it needs, and the images that suffer.
    pub(super) content: BTreeMap<Digest, Vec<String>>,
    /// Tags whose closure is not whole.
    pub(super) tags: Vec<Tag>,
    /// Manifests whose closure is not whole, those that name others first.
    pub(super) revisions: Vec<Digest>,
    /// Blob links that are needed and not there, though the blob is.
    pub(super) unlinked: BTreeSet<Digest>,
    /// Paths of tags without content.
    pub(super) unfinished: Vec<String>,
    /// Paths of manifests that are not read.
    pub(super) opaque: Vec<String>,
}

impl Verdict {
    /// The broken tags as images' names.
    pub(super) fn broken_tags(&self) -> Vec<String> {
        self.tags.iter().map(|tag| format!("{}:{tag}", self.name)).collect()
    }
}

/// A repository before the judge.
pub(super) struct Judge<'a> {
    store: &'a Store,
    repository: &'a RepositoryCensus,
    blobs: &'a BTreeMap<Digest, u64>,
    documents: &'a HashMap<Digest, Document>,
    faults: &'a BTreeMap<Digest, Fault>,
    /// The manifests that name a digest.
    parents: HashMap<Digest, Vec<Digest>>,
    /// The tags that name a digest.
    named: HashMap<Digest, Vec<&'a Tag>>,
    broken: BTreeSet<Digest>,
    verdict: Verdict,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        store: &'a Store,
        repository: &'a RepositoryCensus,
        blobs: &'a BTreeMap<Digest, u64>,
        documents: &'a HashMap<Digest, Document>,
        faults: &'a BTreeMap<Digest, Fault>,
    ) -> Self {
        let mut parents: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for digest in repository.revisions.keys() {
            let below = documents.get(digest).map(Document::below).unwrap_or_default();
            for child in below {
                parents.entry(child.digest).or_default().push(*digest);
            }
        }
        let mut named: HashMap<Digest, Vec<&Tag>> = HashMap::new();
        for (tag, held) in &repository.tags {
            if let Some(Link::To(digest)) = &held.current {
                named.entry(*digest).or_default().push(tag);
            }
        }
        let verdict = Verdict {
            name: repository.name.clone(),
            problems: Vec::new(),
            content: BTreeMap::new(),
            tags: Vec::new(),
            revisions: Vec::new(),
            unlinked: BTreeSet::new(),
            unfinished: Vec::new(),
            opaque: Vec::new(),
        };
        let broken = BTreeSet::new();
        Self { store, repository, blobs, documents, faults, parents, named, broken, verdict }
    }

    pub(super) fn judge(mut self) -> Verdict {
        if !self.repository.has_layers {
            let path = self.store.layers_path(&self.repository.name);
            let why = "the directory of blob links is not there; a registry's garbage collection would empty this repository, or fail";
            self.problem(ProblemKind::NoLayers, path, None, why.into());
        }
        for (digest, link) in &self.repository.revisions {
            self.revision(digest, link);
        }
        self.empty_indexes();
        self.layers();
        self.spread();
        for tag in self.repository.tags.keys() {
            self.tag(tag);
        }
        self.verdict
    }

    /// The images that need `digest`: those with a tag; where there is none, the topmost manifests.
    fn images(&self, digest: &Digest) -> Vec<String> {
        let (mut tags, mut roots) = (BTreeSet::new(), BTreeSet::new());
        let mut seen = HashSet::from([*digest]);
        let mut open = vec![*digest];
        let name = &self.repository.name;
        while let Some(at) = open.pop() {
            let above = self.parents.get(&at);
            tags.extend(self.named.get(&at).into_iter().flatten().map(|tag| format!("{name}:{tag}")));
            if above.is_none() && self.repository.revisions.contains_key(&at) {
                roots.insert(format!("{name}@{at}"));
            }
            open.extend(above.into_iter().flatten().filter(|parent| seen.insert(**parent)));
        }
        let found = if tags.is_empty() { roots } else { tags };
        found.into_iter().collect()
    }

    fn problem(&mut self, kind: ProblemKind, path: String, digest: Option<&Digest>, message: String) {
        let images = digest.map(|digest| self.images(digest)).unwrap_or_default();
        self.verdict.problems.push(Problem { path, kind, digest: digest.copied(), images, message });
    }

    /// Notes that content is absent or damaged; the report says which.
    fn content(&mut self, digest: &Digest) {
        if !self.verdict.content.contains_key(digest) {
            let images = self.images(digest);
            self.verdict.content.insert(*digest, images);
        }
    }

    fn revision(&mut self, digest: &Digest, link: &Link) {
        let path = self.store.revision_path(&self.repository.name, digest);
        if let Link::Damaged(why) = link {
            self.broken.insert(*digest);
            let message = format!("the link is damaged: {why}");
            self.problem(ProblemKind::DamagedLink, path.clone(), Some(digest), message);
        }
        let documents = self.documents;
        let Some(document) = documents.get(digest) else { return };
        let whole = match &document.content {
            DocumentContent::Fault(Fault::NotAManifest(why)) => {
                self.problem(
                    ProblemKind::Corrupt,
                    path,
                    Some(digest),
                    format!("it leads to content, but {why}"),
                );
                false
            }
            DocumentContent::Fault(_) => {
                self.content(digest);
                false
            }
            DocumentContent::Opaque(_) => {
                self.verdict.opaque.push(path);
                true
            }
            DocumentContent::Index(entries) => self.index(digest, entries),
            // Each is looked at, for all that is wrong to be told.
            DocumentContent::Image(blobs) => {
                blobs.iter().filter(|blob| !self.blob(digest, blob)).count() == 0
            }
        };
        if !whole {
            self.broken.insert(*digest);
        }
    }

    /// Whether the index is in order, whatever its manifests are: which are there was the saver's choice.
    fn index(&mut self, digest: &Digest, entries: &[Descriptor]) -> bool {
        let mut sound = true;
        for entry in entries.iter().filter(|entry| self.repository.revisions.contains_key(&entry.digest)) {
            let found = self.documents.get(&entry.digest);
            let found = found.filter(|found| !matches!(found.content, DocumentContent::Fault(_)));
            if let Some(found) = found.filter(|found| found.size != entry.size) {
                sound = false;
                self.wrong_size(digest, entry, found.size);
            }
        }
        sound
    }

    /// An index may lead to nothing (nothing under it was asked for) only below another that leads to something.
    fn empty_indexes(&mut self) {
        let is_index = |digest: &Digest| {
            matches!(self.documents.get(digest).map(|found| &found.content),
                Some(DocumentContent::Index(entries)) if !entries.is_empty())
        };
        let (indexes, mut open): (Vec<Digest>, Vec<Digest>) =
            self.repository.revisions.keys().copied().partition(is_index);
        let mut filled: HashSet<Digest> = open.iter().copied().collect();
        while let Some(digest) = open.pop() {
            let above = self.parents.get(&digest).into_iter().flatten();
            open.extend(above.filter(|parent| filled.insert(**parent)));
        }
        for digest in indexes {
            let is_root = !self.parents.contains_key(&digest) || self.named.contains_key(&digest);
            if is_root && !filled.contains(&digest) {
                self.broken.insert(digest);
                let message = "the repository has none of the index's manifests".to_owned();
                self.problem(ProblemKind::EmptyIndex, self.store.blob_path(&digest), Some(&digest), message);
            }
        }
    }

    fn wrong_size(&mut self, digest: &Digest, entry: &Descriptor, found: u64) {
        let message = format!("it says that {} has {} bytes, which has {found}", entry.digest, entry.size);
        self.problem(ProblemKind::Size, self.store.blob_path(digest), Some(digest), message);
    }

    /// Whether a configuration or layer that the manifest `digest` needs is there.
    fn blob(&mut self, digest: &Digest, blob: &Descriptor) -> bool {
        let link = self.repository.layers.get(&blob.digest);
        let mut whole = matches!(link, Some(Link::To(_)));
        match self.blobs.get(&blob.digest) {
            None => {
                whole = false;
                self.content(&blob.digest);
            }
            Some(_) if self.faults.contains_key(&blob.digest) => {
                whole = false;
                self.content(&blob.digest);
            }
            Some(size) if *size != blob.size => {
                whole = false;
                self.wrong_size(digest, blob, *size);
            }
            Some(_) if link.is_none() && self.verdict.unlinked.insert(blob.digest) => {
                let path = self.store.layer_path(&self.repository.name, &blob.digest);
                let message = "the blob is there, but without this link the repository does not serve it";
                self.problem(ProblemKind::MissingLink, path, Some(&blob.digest), message.into());
            }
            Some(_) => {}
        }
        whole
    }

    fn layers(&mut self) {
        for (digest, link) in &self.repository.layers {
            let path = self.store.layer_path(&self.repository.name, digest);
            match link {
                Link::Damaged(why) => {
                    let message = format!("the link is damaged: {why}");
                    self.problem(ProblemKind::DamagedLink, path, Some(digest), message);
                }
                Link::To(_) if !self.blobs.contains_key(digest) => {
                    if !self.parents.contains_key(digest) {
                        let message = "it leads to content that is not there, and that nothing needs";
                        self.problem(ProblemKind::DanglingLink, path, Some(digest), message.into());
                    }
                }
                Link::To(_) => {}
            }
        }
    }

    /// What names something broken is broken.
    fn spread(&mut self) {
        let mut open: Vec<Digest> = self.broken.iter().copied().collect();
        while let Some(digest) = open.pop() {
            for parent in self.parents.get(&digest).into_iter().flatten() {
                if self.broken.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        self.verdict.revisions = top_down(&self.broken, self.documents);
    }

    fn tag(&mut self, tag: &Tag) {
        let name = &self.repository.name;
        let image = format!("{name}:{tag}");
        let Some(held) = self.repository.tags.get(tag) else { return };
        for (digest, link) in &held.history {
            if let Link::Damaged(why) = link {
                self.verdict.problems.push(Problem {
                    path: self.store.history_path(name, tag, digest),
                    kind: ProblemKind::DamagedLink,
                    digest: Some(*digest),
                    images: vec![image.clone()],
                    message: format!("the link is damaged: {why}"),
                });
            }
        }
        let wrong = match &held.current {
            None => {
                self.verdict.unfinished.push(self.store.tag_path(name, tag));
                return;
            }
            Some(Link::To(digest)) if self.repository.revisions.contains_key(digest) => {
                if self.broken.contains(digest) {
                    self.verdict.tags.push(tag.clone());
                }
                return;
            }
            Some(Link::To(digest)) => Problem {
                path: self.store.revision_path(name, digest),
                kind: ProblemKind::MissingLink,
                digest: Some(*digest),
                images: vec![image],
                message: "without this link the repository does not serve what the tag names".into(),
            },
            Some(Link::Damaged(why)) => Problem {
                path: self.store.tag_path(name, tag),
                kind: ProblemKind::DamagedLink,
                digest: None,
                images: vec![image],
                message: format!("the link is damaged: {why}"),
            },
        };
        self.verdict.problems.push(wrong);
        self.verdict.tags.push(tag.clone());
    }
}
