//! Taking out of a tree what is not true, so that what is left is.
//!
//! Links are mended where what they lead to is there and sound. Of an image that is not whole the tag goes first, then its
//! manifests' links, from the index down; then links to blobs that are damaged or gone; damaged content last. Damaged content and
//! strays are not thrown away but moved to `.saver/damaged/`, under the path that they had. A tag that is whole is never touched.
//! A run that is stopped at any point leaves a tree that is no less true than it was, and the next one goes on.

use super::analysis::{self, Findings};
use super::report::VerifyReport;
use super::{VerifyObserver, VerifyOptions};
use crate::error::Result;
use crate::oci::Digest;
use crate::store::Store;
use crate::store::document::Fault;
use crate::store::inventory::{Census, Link, StrayKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a repair found and did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Repair {
    /// What was wrong before.
    pub before: VerifyReport,
    /// What was done, in order.
    pub taken: Vec<Taken>,
    /// The tags that were removed since they could not be pulled in whole: `repository:tag`.
    pub lost: Vec<String>,
    /// What is wrong now: nothing, unless a symbolic link stands in the place of the whole tree, which is left alone.
    pub after: VerifyReport,
}

impl Repair {
    /// Whether the tree is true now and no tag was lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.after.is_clean() && self.lost.is_empty()
    }
}

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Taken {
    /// A link or directory was written.
    Mended {
        /// Its path, relative to the tree's directory.
        path: String,
    },
    /// A link, or a tag with its history, was removed.
    Removed {
        /// Its path.
        path: String,
    },
    /// Something was moved out of the tree.
    SetAside {
        /// Its path.
        path: String,
        /// Where it is now.
        to: String,
    },
}

/// Repairs the tree, with the lock that keeps savers out.
///
/// # Errors
/// `Storage` when the tree can't be read or changed, or another process is working on it.
pub fn repair(store: &Store, options: &VerifyOptions, observer: &dyn VerifyObserver) -> Result<Repair> {
    let _lock = store.lock_exclusive("verify --repair", false)?;
    let found = analysis::inspect(store, options, observer)?;
    let before = found.report.clone();
    let mut work = Work { store, taken: Vec::new(), faults: found.faults.clone() };
    if before.is_clean() {
        return Ok(Repair { after: before.clone(), before, taken: Vec::new(), lost: Vec::new() });
    }
    work.mend(&found)?;
    store.settle()?;
    // Mended links make whole what is not to be taken away; what was hashed need not be again.
    let found = analysis::inspect_knowing(store, &work.faults)?;
    let lost = found.report.broken.clone();
    work.take(&found)?;
    let after = analysis::inspect_knowing(store, &BTreeMap::new())?.report;
    Ok(Repair { before, taken: work.taken, lost, after })
}

struct Work<'a> {
    store: &'a Store,
    taken: Vec<Taken>,
    faults: BTreeMap<Digest, Fault>,
}

impl Work<'_> {
    fn is_sound(&self, census: &Census, digest: &Digest) -> bool {
        census.blobs.contains_key(digest) && !self.faults.contains_key(digest)
    }

    fn mended(&mut self, path: String) {
        self.taken.push(Taken::Mended { path });
    }

    fn removed(&mut self, path: String) {
        self.taken.push(Taken::Removed { path });
    }

    fn mend(&mut self, found: &Findings) -> Result<()> {
        let (store, census) = (self.store, &found.census);
        for (repository, verdict) in census.repositories.iter().zip(&found.verdicts) {
            let name = &repository.name;
            if !repository.has_layers {
                store.make_layers(name)?;
                self.mended(store.layers_path(name));
            }
            let damaged = repository.layers.iter().filter(|(_, link)| matches!(link, Link::Damaged(_)));
            let layers: BTreeSet<Digest> =
                damaged.map(|(digest, _)| *digest).chain(verdict.unlinked.iter().copied()).collect();
            for digest in layers.iter().filter(|digest| self.is_sound(census, digest)).collect::<Vec<_>>() {
                store.link_layer(name, digest)?;
                self.mended(store.layer_path(name, digest));
            }
            for (digest, link) in &repository.revisions {
                if matches!(link, Link::Damaged(_)) && self.is_sound(census, digest) {
                    store.link_revision(name, digest)?;
                    self.mended(store.revision_path(name, digest));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, found: &Findings) -> Result<()> {
        self.tags(found)?;
        self.store.settle()?;
        self.links(found)?;
        self.store.settle()?;
        let census = &found.census;
        for digest in self.faults.clone().keys().filter(|digest| census.blobs.contains_key(digest)) {
            self.set_aside(self.store.blob_path(digest))?;
        }
        for stray in census
            .strays
            .iter()
            .filter(|stray| !matches!(stray.kind, StrayKind::Harmless | StrayKind::Tag | StrayKind::Root))
        {
            self.set_aside(stray.path.clone())?;
        }
        self.store.settle()
    }

    fn set_aside(&mut self, path: String) -> Result<()> {
        let to = self.store.set_aside(&path)?;
        self.taken.push(Taken::SetAside { path, to });
        Ok(())
    }

    /// Takes away the tags that are not whole, and what only looks like one.
    fn tags(&mut self, found: &Findings) -> Result<()> {
        let store = self.store;
        for stray in found.census.strays.iter().filter(|stray| stray.kind == StrayKind::Tag) {
            self.set_aside(stray.path.clone())?;
        }
        for (repository, verdict) in found.census.repositories.iter().zip(&found.verdicts) {
            let name = &repository.name;
            for tag in &verdict.tags {
                store.remove_tag(name, tag)?;
                self.removed(store.tag_path(name, tag));
            }
            for (tag, held) in repository.tags.iter().filter(|(tag, _)| !verdict.tags.contains(tag)) {
                let damaged = held.history.iter().filter(|(_, link)| matches!(link, Link::Damaged(_)));
                for (digest, _) in damaged {
                    store.remove_history(name, tag, digest)?;
                    self.removed(store.history_path(name, tag, digest));
                }
            }
        }
        Ok(())
    }

    /// Takes away the links of manifests that are not whole, and those to blobs that are not there or not sound.
    fn links(&mut self, found: &Findings) -> Result<()> {
        let store = self.store;
        for (repository, verdict) in found.census.repositories.iter().zip(&found.verdicts) {
            let name = &repository.name;
            for digest in &verdict.revisions {
                store.remove_revision(name, digest)?;
                self.removed(store.revision_path(name, digest));
            }
            for (digest, link) in &repository.layers {
                if matches!(link, Link::Damaged(_)) || !self.is_sound(&found.census, digest) {
                    store.remove_layer(name, digest)?;
                    self.removed(store.layer_path(name, digest));
                }
            }
        }
        Ok(())
    }
}
