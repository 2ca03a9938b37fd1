//! Checks one repository.

use super::report::{Problem, ProblemKind};
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::store::Store;
use crate::store::document::{ContentFault, ManifestContent, StoredManifest, top_down};
use crate::store::inventory::{LinkState, RepositoryInventory};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The result of checking a repository.
pub(super) struct RepositoryFindings {
    pub(super) name: Repository,
    pub(super) problems: Vec<Problem>,
    /// Invalid or missing content that it needs, and the images affected.
    pub(super) content: BTreeMap<Digest, Vec<String>>,
    /// Tags that are not complete.
    pub(super) tags: Vec<Tag>,
    /// Manifests that are not complete, each before those that it references.
    pub(super) revisions: Vec<Digest>,
    /// Blobs that are stored and needed, but not linked.
    pub(super) unlinked: BTreeSet<Digest>,
    /// Tags without a `current` link.
    pub(super) unfinished: Vec<Tag>,
    /// Paths of manifests in an unsupported format.
    pub(super) opaque: Vec<String>,
}

impl RepositoryFindings {
    /// The incomplete tags as `repository:tag`.
    pub(super) fn broken_tags(&self) -> Vec<String> {
        self.tags.iter().map(|tag| format!("{}:{tag}", self.name)).collect()
    }
}

/// The check of one repository.
pub(super) struct RepositoryCheck<'a> {
    store: &'a Store,
    repository: &'a RepositoryInventory,
    blobs: &'a BTreeMap<Digest, u64>,
    manifests: &'a HashMap<Digest, StoredManifest>,
    faults: &'a BTreeMap<Digest, ContentFault>,
    /// The manifests that reference a digest.
    parents: HashMap<Digest, Vec<Digest>>,
    /// The tags that point to a digest.
    tagged: HashMap<Digest, Vec<&'a Tag>>,
    broken: BTreeSet<Digest>,
    findings: RepositoryFindings,
}

impl<'a> RepositoryCheck<'a> {
    pub(super) fn new(
        store: &'a Store,
        repository: &'a RepositoryInventory,
        blobs: &'a BTreeMap<Digest, u64>,
        manifests: &'a HashMap<Digest, StoredManifest>,
        faults: &'a BTreeMap<Digest, ContentFault>,
    ) -> Self {
        let mut parents: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for digest in repository.revisions.keys() {
            let references = manifests.get(digest).map(StoredManifest::references).unwrap_or_default();
            for child in references {
                parents.entry(child.digest).or_default().push(*digest);
            }
        }
        let mut tagged: HashMap<Digest, Vec<&Tag>> = HashMap::new();
        for (tag, links) in &repository.tags {
            if let Some(digest) = links.digest() {
                tagged.entry(digest).or_default().push(tag);
            }
        }
        let findings = RepositoryFindings {
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
        Self { store, repository, blobs, manifests, faults, parents, tagged, broken, findings }
    }

    pub(super) fn run(mut self) -> RepositoryFindings {
        if !self.repository.has_layers {
            let path = self.store.layers_path(&self.repository.name);
            let why = "the directory of blob links is missing; garbage collection of registries would empty this repository, or fail";
            self.problem(ProblemKind::NoLayers, path, None, why.into());
        }
        if !self.repository.has_tags && !self.repository.revisions.is_empty() {
            let path = self.store.tags_path(&self.repository.name);
            let why = "the directory of tags is missing; garbage-collect --delete-untagged would fail for the whole directory";
            self.problem(ProblemKind::NoTags, path, None, why.into());
        }
        for (digest, link) in &self.repository.revisions {
            self.revision(digest, link);
        }
        self.empty_indexes();
        self.layers();
        self.propagate();
        for tag in self.repository.tags.keys() {
            self.tag(tag);
        }
        self.findings
    }

    /// The images that need `digest`: its tags or, if there are none, the topmost manifests.
    fn images(&self, digest: &Digest) -> Vec<String> {
        let (mut tags, mut roots) = (BTreeSet::new(), BTreeSet::new());
        let mut seen = HashSet::from([*digest]);
        let mut open = vec![*digest];
        let name = &self.repository.name;
        while let Some(at) = open.pop() {
            let above = self.parents.get(&at);
            for tag in self.tagged.get(&at).into_iter().flatten() {
                // A signature belongs to the image that it signs.
                match ReferrerTag::parse(tag).map(|tag| tag.subject) {
                    Some(subject) if self.repository.revisions.contains_key(&subject) => {
                        open.extend(seen.insert(subject).then_some(subject));
                    }
                    _ => {
                        tags.insert(format!("{name}:{tag}"));
                    }
                }
            }
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
        self.findings.problems.push(Problem { path, kind, digest: digest.copied(), images, message });
    }

    /// Records that content is missing or invalid; the report says which.
    fn content(&mut self, digest: &Digest) {
        if !self.findings.content.contains_key(digest) {
            let images = self.images(digest);
            self.findings.content.insert(*digest, images);
        }
    }

    fn revision(&mut self, digest: &Digest, link: &LinkState) {
        let path = self.store.revision_path(&self.repository.name, digest);
        if let LinkState::Damaged(why) = link {
            self.broken.insert(*digest);
            let message = format!("the link is damaged: {why}");
            self.problem(ProblemKind::DamagedLink, path.clone(), Some(digest), message);
        }
        let manifests = self.manifests;
        let Some(document) = manifests.get(digest) else { return };
        let is_complete = match &document.content {
            ManifestContent::ContentFault(ContentFault::NotAManifest(why)) => {
                self.problem(
                    ProblemKind::Corrupt,
                    path,
                    Some(digest),
                    format!("it points to content, but {why}"),
                );
                false
            }
            ManifestContent::ContentFault(_) => {
                self.content(digest);
                false
            }
            ManifestContent::Opaque(_) => {
                self.findings.opaque.push(path);
                true
            }
            ManifestContent::Index(entries) => self.index(digest, entries),
            // Check every blob, so that all problems are reported.
            ManifestContent::Image(blobs) => {
                blobs.iter().filter(|blob| !self.blob(digest, blob)).count() == 0
            }
        };
        if !is_complete {
            self.broken.insert(*digest);
        }
    }

    /// Whether the index is valid. Which of its manifests are stored is up to whoever saved it.
    fn index(&mut self, digest: &Digest, entries: &[Descriptor]) -> bool {
        let mut is_valid = true;
        for entry in entries.iter().filter(|entry| self.repository.revisions.contains_key(&entry.digest)) {
            let found = self.manifests.get(&entry.digest);
            let found = found.filter(|found| !matches!(found.content, ManifestContent::ContentFault(_)));
            if let Some(found) = found.filter(|found| found.size != entry.size) {
                is_valid = false;
                self.wrong_size(digest, entry, found.size);
            }
        }
        is_valid
    }

    /// Reports indexes without any stored manifest. A nested index may have none, if nothing below it was selected.
    fn empty_indexes(&mut self) {
        let is_index = |digest: &Digest| {
            matches!(self.manifests.get(digest).map(|found| &found.content),
                Some(ManifestContent::Index(entries)) if !entries.is_empty())
        };
        let (indexes, mut open): (Vec<Digest>, Vec<Digest>) =
            self.repository.revisions.keys().copied().partition(is_index);
        let mut filled: HashSet<Digest> = open.iter().copied().collect();
        while let Some(digest) = open.pop() {
            let above = self.parents.get(&digest).into_iter().flatten();
            open.extend(above.filter(|parent| filled.insert(**parent)));
        }
        for digest in indexes {
            let is_root = !self.parents.contains_key(&digest) || self.tagged.contains_key(&digest);
            if is_root && !filled.contains(&digest) {
                self.broken.insert(digest);
                let message = "the repository has none of the manifests of this index".to_owned();
                self.problem(ProblemKind::EmptyIndex, self.store.blob_path(&digest), Some(&digest), message);
            }
        }
    }

    fn wrong_size(&mut self, digest: &Digest, entry: &Descriptor, found: u64) {
        let message =
            format!("it gives the size of {} as {} bytes, but it has {found}", entry.digest, entry.size);
        self.problem(ProblemKind::Size, self.store.blob_path(digest), Some(digest), message);
    }

    /// Whether a config or layer of the manifest `digest` is stored and linked.
    fn blob(&mut self, digest: &Digest, blob: &Descriptor) -> bool {
        let link = self.repository.layers.get(&blob.digest);
        let mut is_complete = matches!(link, Some(LinkState::Valid(_)));
        match self.blobs.get(&blob.digest) {
            None => {
                is_complete = false;
                self.content(&blob.digest);
            }
            Some(_) if self.faults.contains_key(&blob.digest) => {
                is_complete = false;
                self.content(&blob.digest);
            }
            Some(size) if *size != blob.size => {
                is_complete = false;
                self.wrong_size(digest, blob, *size);
            }
            Some(_) if link.is_none() && self.findings.unlinked.insert(blob.digest) => {
                let path = self.store.layer_path(&self.repository.name, &blob.digest);
                let message = "the blob is stored, but the repository does not serve it without this link";
                self.problem(ProblemKind::MissingLink, path, Some(&blob.digest), message.into());
            }
            Some(_) => {}
        }
        is_complete
    }

    fn layers(&mut self) {
        for (digest, link) in &self.repository.layers {
            let path = self.store.layer_path(&self.repository.name, digest);
            match link {
                LinkState::Damaged(why) => {
                    let message = format!("the link is damaged: {why}");
                    self.problem(ProblemKind::DamagedLink, path, Some(digest), message);
                }
                LinkState::Valid(_) if !self.blobs.contains_key(digest) => {
                    if !self.parents.contains_key(digest) {
                        let message = "it points to content that is missing and that nothing needs";
                        self.problem(ProblemKind::DanglingLink, path, Some(digest), message.into());
                    }
                }
                LinkState::Valid(_) => {}
            }
        }
    }

    /// Marks every manifest that references a broken one as broken.
    fn propagate(&mut self) {
        let mut open: Vec<Digest> = self.broken.iter().copied().collect();
        while let Some(digest) = open.pop() {
            for parent in self.parents.get(&digest).into_iter().flatten() {
                if self.broken.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        self.findings.revisions = top_down(&self.broken, self.manifests);
    }

    fn tag(&mut self, tag: &Tag) {
        let name = &self.repository.name;
        let image = format!("{name}:{tag}");
        let Some(links) = self.repository.tags.get(tag) else { return };
        for (digest, link) in &links.history {
            if let LinkState::Damaged(why) = link {
                self.findings.problems.push(Problem {
                    path: self.store.history_path(name, tag, digest),
                    kind: ProblemKind::DamagedLink,
                    digest: Some(*digest),
                    images: vec![image.clone()],
                    message: format!("the link is damaged: {why}"),
                });
            }
        }
        let wrong = match &links.current {
            None => {
                self.findings.unfinished.push(tag.clone());
                let path = self.store.tag_directory_path(name, tag);
                let why = "the tag has no current link: registries list it, but it can't be pulled";
                self.problem(ProblemKind::UnfinishedTag, path, None, why.into());
                return;
            }
            Some(LinkState::Valid(digest)) if self.repository.revisions.contains_key(digest) => {
                if self.broken.contains(digest) {
                    self.findings.tags.push(tag.clone());
                }
                return;
            }
            Some(LinkState::Valid(digest)) => Problem {
                path: self.store.revision_path(name, digest),
                kind: ProblemKind::MissingLink,
                digest: Some(*digest),
                images: vec![image],
                message: "the repository does not serve the manifest of the tag without this link".into(),
            },
            Some(LinkState::Damaged(why)) => Problem {
                path: self.store.tag_path(name, tag),
                kind: ProblemKind::DamagedLink,
                digest: None,
                images: vec![image],
                message: format!("the link is damaged: {why}"),
            },
        };
        self.findings.problems.push(wrong);
        self.findings.tags.push(tag.clone());
    }
}
