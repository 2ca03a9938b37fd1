//! Looking at a whole tree and judging it.

use super::report::{Note, NoteKind, Problem, ProblemKind, VerifyReport};
use super::repository::{Judge, Verdict};
use super::{VerifyObserver, VerifyOptions, hash};
use crate::error::Result;
use crate::oci::Digest;
use crate::store::Store;
use crate::store::document::{Document, DocumentContent, Fault};
use crate::store::inventory::{Census, RepositoryCensus, StrayKind};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

/// Everything that was found: the report, and what a repair has to know.
pub(super) struct Findings {
    pub(super) report: VerifyReport,
    pub(super) census: Census,
    /// A verdict for each repository of the census.
    pub(super) verdicts: Vec<Verdict>,
    /// Blobs whose content is not what it should be.
    pub(super) faults: BTreeMap<Digest, Fault>,
}

/// Looks at everything.
pub(super) fn inspect(
    store: &Store,
    options: &VerifyOptions,
    observer: &dyn VerifyObserver,
) -> Result<Findings> {
    let start = Instant::now();
    let census = store.census()?;
    let documents = store.documents(&census)?;
    let mut suspects: Vec<(Digest, u64)> = census.blobs.iter().map(|(d, size)| (*d, *size)).collect();
    if !options.deep {
        let odd = of_odd_size(&census, &documents);
        suspects.retain(|(digest, _)| odd.contains(digest));
    }
    let mut faults = hash::check(store, suspects, options.threads, observer)?;
    // What vanished while it was looked at is absent, not damaged.
    faults.retain(|_, fault| *fault != Fault::Missing);
    let mut found = judge(store, census, &documents, faults);
    found.report.deep = options.deep;
    found.report.seconds = start.elapsed().as_secs_f64();
    Ok(found)
}

/// Looks again, after `faults` were found: no blob is hashed anew.
pub(super) fn inspect_knowing(store: &Store, faults: &BTreeMap<Digest, Fault>) -> Result<Findings> {
    let start = Instant::now();
    let census = store.census()?;
    let documents = store.documents(&census)?;
    let mut found = judge(store, census, &documents, faults.clone());
    found.report.seconds = start.elapsed().as_secs_f64();
    Ok(found)
}

fn judge(
    store: &Store,
    census: Census,
    documents: &HashMap<Digest, Document>,
    mut faults: BTreeMap<Digest, Fault>,
) -> Findings {
    for (digest, document) in documents {
        if let DocumentContent::Fault(fault @ (Fault::Corrupt(_) | Fault::Unreadable(_))) = &document.content
        {
            faults.insert(*digest, fault.clone());
        }
    }
    let verdicts: Vec<Verdict> = census
        .repositories
        .par_iter()
        .map(|repository| Judge::new(store, repository, &census.blobs, documents, &faults).judge())
        .collect();
    let mut report = report(store, &census, &verdicts, &faults);
    report.manifests = documents.len();
    Findings { report, census, verdicts, faults }
}

/// The blobs whose size alone says that something is wrong, with them or with who names them.
fn of_odd_size(census: &Census, documents: &HashMap<Digest, Document>) -> HashSet<Digest> {
    let nothing = Digest::of(b"");
    let empty = census.blobs.iter().filter(|(digest, size)| **size == 0 && **digest != nothing);
    let mut odd: HashSet<Digest> = empty.map(|(digest, _)| *digest).collect();
    for document in documents.values() {
        let DocumentContent::Image(blobs) = &document.content else { continue };
        for blob in blobs {
            if census.blobs.get(&blob.digest).is_some_and(|size| *size != blob.size) {
                odd.insert(blob.digest);
            }
        }
    }
    odd
}

fn report(
    store: &Store,
    census: &Census,
    verdicts: &[Verdict],
    faults: &BTreeMap<Digest, Fault>,
) -> VerifyReport {
    let mut problems: Vec<Problem> = Vec::new();
    // Content is every repository's: one problem with the images of all.
    let mut content: BTreeMap<Digest, (ProblemKind, String, BTreeSet<String>)> = BTreeMap::new();
    for (digest, fault) in faults {
        let (kind, message) = match fault {
            Fault::Unreadable(why) => (ProblemKind::Unreadable, why),
            Fault::Corrupt(why) | Fault::NotAManifest(why) => (ProblemKind::Corrupt, why),
            Fault::Missing => continue,
        };
        content.insert(*digest, (kind, message.clone(), BTreeSet::new()));
    }
    for verdict in verdicts {
        problems.extend(verdict.problems.iter().cloned());
        for (digest, images) in &verdict.content {
            let missing = || (ProblemKind::Missing, "the content is not there".into(), BTreeSet::new());
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
    problems.extend(foreign(census));
    problems.sort();
    let tags = |repository: &RepositoryCensus| repository.tags.len();
    VerifyReport {
        schema: VerifyReport::SCHEMA,
        deep: false,
        repositories: census.repositories.len(),
        tags: census.repositories.iter().map(tags).sum(),
        manifests: 0,
        blobs: census.blobs.len(),
        blob_bytes: census.blobs.values().sum(),
        problems,
        notes: notes(store, census, verdicts),
        broken: verdicts.iter().flat_map(Verdict::broken_tags).collect(),
        seconds: 0.0,
    }
}

/// What registries trip over.
fn foreign(census: &Census) -> impl Iterator<Item = Problem> {
    census.strays.iter().filter_map(|stray| {
        let message = match stray.kind {
            StrayKind::Harmless => return None,
            StrayKind::Tag => "registries list it as a tag, and it is none",
            StrayKind::Repository => {
                "no repository can have this name; a registry's garbage collection fails on it"
            }
            StrayKind::Data => {
                "content whose directory is no digest; a registry's garbage collection fails on it"
            }
            StrayKind::Irregular => "a symbolic link, pipe or device; nothing behind it counts",
            StrayKind::Root => {
                "no directory, though the tree should be in it; a symbolic link inside the store is not followed"
            }
            StrayKind::InTheWay => "a file or directory that stands where the other is needed",
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

fn notes(store: &Store, census: &Census, verdicts: &[Verdict]) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |kind, message: &str, paths: Vec<String>, bytes| {
        if !paths.is_empty() {
            notes.push(Note { kind, message: message.into(), paths, bytes });
        }
    };
    if census.repositories.is_empty() && census.blobs.is_empty() {
        note(NoteKind::NoTree, "there are no images in this directory", vec![String::new()], None);
    }
    let linked: HashSet<&Digest> =
        census.repositories.iter().flat_map(|one| one.revisions.keys().chain(one.layers.keys())).collect();
    let unreferenced = || census.blobs.iter().filter(|(digest, _)| !linked.contains(digest));
    let paths = unreferenced().map(|(digest, _)| store.blob_path(digest)).collect();
    let bytes = unreferenced().map(|(_, size)| size).sum();
    note(
        NoteKind::Unreferenced,
        "blobs that no repository links to: saver prune removes them",
        paths,
        Some(bytes),
    );
    let all = |pick: fn(&Verdict) -> &Vec<String>| verdicts.iter().flat_map(pick).cloned().collect();
    note(
        NoteKind::Unfinished,
        "tags that name nothing yet: an interrupted run left them, the next one completes them",
        all(|verdict| &verdict.unfinished),
        None,
    );
    note(
        NoteKind::Opaque,
        "manifests of a form that saver does not read: what they need was not checked",
        all(|verdict| &verdict.opaque),
        None,
    );
    let harmless = census.strays.iter().filter(|stray| stray.kind == StrayKind::Harmless);
    note(
        NoteKind::Foreign,
        "names that are not the tree's and that registries take no notice of",
        harmless.map(|stray| stray.path.clone()).collect(),
        None,
    );
    notes
}
