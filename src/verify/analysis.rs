//! Inspects a whole tree and reports what is wrong with it.

use super::expected::{self, Completeness};
use super::report::{Note, NoteKind, Problem, ProblemKind, VerifyReport};
use super::repository::{RepositoryCheck, RepositoryFindings};
use super::signatures::TrustReport;
use super::{VerifyOptions, hash, signatures};
use crate::content::Place;
use crate::error::Result;
use crate::oci::{Digest, Reference};
use crate::save::NameRule;
use crate::store::document::{ContentFault, ManifestContent, StoredManifest};
use crate::store::inventory::{Inventory, RepositoryInventory, StrayKind};
use crate::store::{Store, path};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// The result of an inspection: the report, and what a repair needs.
pub(super) struct TreeInspection {
    pub(super) report: VerifyReport,
    pub(super) inventory: Inventory,
    /// The findings for each repository of the inventory, in the same order.
    pub(super) repositories: Vec<RepositoryFindings>,
    /// Blobs with invalid content.
    pub(super) faults: BTreeMap<Digest, ContentFault>,
}

/// How long to wait for a process that is removing something, before the tree is inspected again beside it.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Inspects the tree.
pub(super) fn inspect(store: &Store, options: &VerifyOptions) -> Result<TreeInspection> {
    let start = Instant::now();
    options.check_cancelled()?;
    let inventory = store.inventory()?;
    options.check_cancelled()?;
    let manifests = store.stored_manifests(&inventory)?;
    let mut suspects: Vec<(Digest, u64)> = inventory.blobs.iter().map(|(d, size)| (*d, *size)).collect();
    if !options.deep {
        let suspicious = wrong_size(&inventory, &manifests);
        suspects.retain(|(digest, _)| suspicious.contains(digest));
    }
    let mut faults = hash::check(store, suspects, options, &*options.observer)?;
    // A blob that was removed in the meantime is missing, not damaged.
    faults.retain(|_, fault| *fault != ContentFault::Missing);
    let expected = completeness(store, &inventory, &manifests, options)?;
    let trust = trust(store, &inventory, options)?;
    let mut found = check(store, inventory, &manifests, faults)?;
    found.report.expected = expected;
    found.report.trust = trust;
    found.report.deep = options.deep;
    found.report.seconds = start.elapsed().as_secs_f64();
    Ok(found)
}

/// Which of the expected images the tree has, if the options name any.
fn completeness(
    store: &Store,
    inventory: &Inventory,
    manifests: &HashMap<Digest, StoredManifest>,
    options: &VerifyOptions,
) -> Result<Option<Completeness>> {
    let Some(images) = &options.expected else { return Ok(None) };
    let names = NameRule::of(store, options.names.as_ref())?;
    expected::check(store, inventory, manifests, &names, images).map(Some)
}

/// Which of the images satisfy the signature policy, if there is one.
fn trust(store: &Store, inventory: &Inventory, options: &VerifyOptions) -> Result<Option<TrustReport>> {
    let Some(policy) = options.policy.as_deref() else { return Ok(None) };
    let names = NameRule::of(store, options.names.as_ref())?;
    signatures::check(store, inventory, &names, policy).map(Some)
}

/// Inspects the tree again after `found` had problems, lacked images or had untrusted ones, and keeps what is found again. Processes that remove something
/// are held off meanwhile where possible, since a removal in progress looks like damage. Only blobs with faults are hashed again.
pub(super) fn confirm(
    store: &Store,
    found: TreeInspection,
    options: &VerifyOptions,
) -> Result<TreeInspection> {
    let start = Instant::now();
    let lock = store.hold_off_removals(REMOVAL_TIMEOUT);
    let suspects = found.inventory.blobs.iter().filter(|(digest, _)| found.faults.contains_key(digest));
    let suspects = suspects.map(|(digest, size)| (*digest, *size)).collect();
    let mut faults = hash::check(store, suspects, options, &())?;
    faults.retain(|_, fault| *fault != ContentFault::Missing);
    let inventory = store.inventory()?;
    let manifests = store.stored_manifests(&inventory)?;
    let expected = completeness(store, &inventory, &manifests, options)?;
    let trust = trust(store, &inventory, options)?;
    let mut again = check(store, inventory, &manifests, faults)?;
    again.report.expected = expected;
    again.report.trust = trust;
    if lock.is_none() {
        // A removal may have been in progress both times, but hardly of the same parts.
        again.report.problems.retain(|problem| found.report.problems.contains(problem));
        again.report.broken.retain(|image| found.report.broken.contains(image));
    }
    again.report.deep = options.deep;
    again.report.seconds = found.report.seconds + start.elapsed().as_secs_f64();
    Ok(again)
}

/// Inspects the tree with known `faults`, without hashing any blob.
pub(super) fn inspect_with_faults(
    store: &Store,
    faults: &BTreeMap<Digest, ContentFault>,
) -> Result<TreeInspection> {
    let start = Instant::now();
    let inventory = store.inventory()?;
    let manifests = store.stored_manifests(&inventory)?;
    let mut found = check(store, inventory, &manifests, faults.clone())?;
    found.report.seconds = start.elapsed().as_secs_f64();
    Ok(found)
}

fn check(
    store: &Store,
    inventory: Inventory,
    manifests: &HashMap<Digest, StoredManifest>,
    mut faults: BTreeMap<Digest, ContentFault>,
) -> Result<TreeInspection> {
    for (digest, document) in manifests {
        if let ManifestContent::ContentFault(
            fault @ (ContentFault::Corrupt(_) | ContentFault::Unreadable(_)),
        ) = &document.content
        {
            faults.insert(*digest, fault.clone());
        }
    }
    let repositories: Vec<RepositoryFindings> = inventory
        .repositories
        .par_iter()
        .map(|repository| RepositoryCheck::new(store, repository, &inventory.blobs, manifests, &faults).run())
        .collect();
    let mut report = report(store, &inventory, &repositories, &faults)?;
    report.manifests = manifests.len();
    Ok(TreeInspection { report, inventory, repositories, faults })
}

/// The blobs whose size shows that they, or a manifest that references them, are wrong.
fn wrong_size(inventory: &Inventory, manifests: &HashMap<Digest, StoredManifest>) -> HashSet<Digest> {
    let empty_digest = Digest::of(b"");
    let empty = inventory.blobs.iter().filter(|(digest, size)| **size == 0 && **digest != empty_digest);
    let mut suspicious: HashSet<Digest> = empty.map(|(digest, _)| *digest).collect();
    for document in manifests.values() {
        let ManifestContent::Image(blobs) = &document.content else { continue };
        for blob in blobs {
            if inventory.blobs.get(&blob.digest).is_some_and(|size| *size != blob.size) {
                suspicious.insert(blob.digest);
            }
        }
    }
    suspicious
}

fn report(
    store: &Store,
    inventory: &Inventory,
    repositories: &[RepositoryFindings],
    faults: &BTreeMap<Digest, ContentFault>,
) -> Result<VerifyReport> {
    let mut problems: Vec<Problem> = Vec::new();
    // Repositories share content: report each fault once, with the affected images of all repositories.
    let mut content: BTreeMap<Digest, (ProblemKind, String, BTreeSet<String>)> = BTreeMap::new();
    for (digest, fault) in faults {
        let (kind, message) = match fault {
            ContentFault::Unreadable(why) => (ProblemKind::Unreadable, why),
            ContentFault::Corrupt(why) | ContentFault::NotAManifest(why) => (ProblemKind::Corrupt, why),
            ContentFault::Missing => continue,
        };
        content.insert(*digest, (kind, message.clone(), BTreeSet::new()));
    }
    for findings in repositories {
        problems.extend(findings.problems.iter().cloned());
        for (digest, images) in &findings.content {
            let missing = || (ProblemKind::Missing, "the content is missing".into(), BTreeSet::new());
            content.entry(*digest).or_insert_with(missing).2.extend(images.iter().cloned());
        }
    }
    problems.extend(content.into_iter().map(|(digest, (kind, message, images))| Problem {
        path: store.blob_path(&digest),
        kind,
        digest: Some(digest),
        images: images.into_iter().collect(),
        message,
    }));
    problems.extend(stray_problems(inventory));
    problems.sort();
    let sources = sources(store, inventory, &problems)?;
    let tags = |repository: &RepositoryInventory| {
        repository.tags.keys().filter(|tag| !tag.is_of_referrers()).count()
    };
    Ok(VerifyReport {
        schema: VerifyReport::SCHEMA,
        deep: false,
        repositories: inventory.repositories.len(),
        tags: inventory.repositories.iter().map(tags).sum(),
        manifests: 0,
        blobs: inventory.blobs.len(),
        blob_bytes: inventory.blobs.values().sum(),
        problems,
        notes: notes(store, inventory, repositories)?,
        expected: None,
        trust: None,
        sources,
        broken: repositories.iter().flat_map(RepositoryFindings::broken_tags).collect(),
        seconds: 0.0,
    })
}

/// Where the affected images come from, as far as that is recorded, by their names in the tree.
fn sources(
    store: &Store,
    inventory: &Inventory,
    problems: &[Problem],
) -> Result<BTreeMap<String, Reference>> {
    let affected: BTreeSet<&String> = problems.iter().flat_map(|problem| &problem.images).collect();
    let mut sources = BTreeMap::new();
    if affected.is_empty() {
        return Ok(sources);
    }
    let provenance = store.provenance()?;
    for repository in &inventory.repositories {
        for (tag, links) in &repository.tags {
            let place = Place { repository: repository.name.clone(), tag: Some(tag.clone()) };
            let name = place.to_string();
            if let Some(digest) = links.digest()
                && affected.contains(&name)
                && let Some(record) = provenance.source(&place, &digest)
            {
                sources.insert(name, record.source.clone());
            }
        }
    }
    Ok(sources)
}

/// Stray entries on which registries fail.
fn stray_problems(inventory: &Inventory) -> impl Iterator<Item = Problem> {
    inventory.strays.iter().filter_map(|stray| {
        let message = match stray.kind {
            StrayKind::Harmless => return None,
            StrayKind::Tag => "not a tag, but registries list it as one",
            StrayKind::Repository => {
                "not a valid repository name; garbage collection of registries fails on it"
            }
            StrayKind::Data => {
                "content in a directory whose name is not a digest; garbage collection of registries fails on it"
            }
            StrayKind::Irregular => "a symbolic link, FIFO or device; saver does not follow it",
            StrayKind::Root => {
                "not a directory, although the images should be in it; saver does not follow symbolic links here"
            }
            StrayKind::WrongType => "a file in place of a directory, or a directory in place of a file",
        };
        Some(Problem {
            path: stray.path.clone(),
            kind: ProblemKind::Foreign,
            digest: None,
            images: Vec::new(),
            message: message.into(),
        })
    })
}

fn notes(store: &Store, inventory: &Inventory, repositories: &[RepositoryFindings]) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    let mut note = |kind, message: &str, paths: Vec<String>, bytes| {
        if !paths.is_empty() {
            notes.push(Note { kind, message: message.into(), paths, bytes });
        }
    };
    if inventory.repositories.is_empty() && inventory.blobs.is_empty() {
        note(NoteKind::NoTree, "there are no images in this directory", vec![String::new()], None);
    }
    let linked: HashSet<&Digest> =
        inventory.repositories.iter().flat_map(|one| one.revisions.keys().chain(one.layers.keys())).collect();
    let unreferenced = || inventory.blobs.iter().filter(|(digest, _)| !linked.contains(digest));
    let paths = unreferenced().map(|(digest, _)| store.blob_path(digest)).collect();
    let bytes = unreferenced().map(|(_, size)| size).sum();
    note(
        NoteKind::Unreferenced,
        "blobs that no repository links to; saver gc removes them",
        paths,
        Some(bytes),
    );
    let opaque = repositories.iter().flat_map(|findings| &findings.opaque).cloned().collect();
    note(
        NoteKind::Opaque,
        "manifests in a format that saver does not support; what they reference was not checked",
        opaque,
        None,
    );
    let harmless = inventory.strays.iter().filter(|stray| stray.kind == StrayKind::Harmless);
    note(
        NoteKind::Foreign,
        "entries that do not belong in a directory of images; registries ignore them",
        harmless.map(|stray| stray.path.clone()).collect(),
        None,
    );
    let internal = store.internal_files()?;
    if internal.partial.files > 0 {
        note(
            NoteKind::Partial,
            "interrupted downloads; the next save of the same images resumes them",
            vec![path::PARTIAL.to_owned()],
            Some(internal.partial.bytes),
        );
    }
    if internal.damaged.files > 0 {
        note(
            NoteKind::SetAside,
            "files that a repair moved away; saver gc removes them",
            vec![path::DAMAGED.to_owned()],
            Some(internal.damaged.bytes),
        );
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_that_is_gone_at_the_second_look_is_not_reported() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("docker/registry/v2/repositories/app");
        std::fs::create_dir_all(repository.join("_manifests/tags/removed")).unwrap();
        let store = Store::open_read_only(dir.path()).unwrap();
        let options = VerifyOptions::default();
        let found = inspect(&store, &options).unwrap();
        assert!(!found.report.is_clean());
        std::fs::remove_dir_all(&repository).unwrap();
        assert!(confirm(&store, found, &options).unwrap().report.is_clean());
    }
}
