//! Repair: rewrites links where possible and removes everything else that is damaged, so that the rest is intact.
//!
//! Links are rewritten if the content that they point to is valid. An image that is not complete loses its tag first, then the
//! links of its manifests from the index down, then links to invalid or missing blobs; invalid content goes last. Invalid content
//! and stray entries are not deleted but moved to `.saver/damaged/`, below their previous path. A complete tag is never
//! touched. A repair that is interrupted adds no damage, and the next one continues.

use super::VerifyOptions;
use super::analysis::{self, TreeInspection};
use super::report::VerifyReport;
use crate::error::Result;
use crate::oci::Digest;
use crate::oci::manifest::MAX_INDEX_DEPTH;
use crate::store::Store;
use crate::store::document::ContentFault;
use crate::store::inventory::{Inventory, LinkState, StrayKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The result of a repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Repair {
    /// The verification before the repair.
    pub before: VerifyReport,
    /// The actions taken, in order.
    pub taken: Vec<Taken>,
    /// The tags that were removed because they could not be pulled completely: `repository:tag`.
    pub lost: Vec<String>,
    /// The verification after the repair. It is clean unless a symbolic link takes the place of the whole tree, which is left alone.
    pub after: VerifyReport,
}

impl Repair {
    /// Whether the tree is intact now and no tag was removed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.after.is_clean() && self.lost.is_empty()
    }
}

/// One action of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Taken {
    /// A link or directory was created.
    Mended {
        /// Its path, relative to the directory of the tree.
        path: String,
    },
    /// A link or a tag was removed.
    Removed {
        /// Its path.
        path: String,
    },
    /// A file or directory was moved out of the tree.
    SetAside {
        /// Its path.
        path: String,
        /// Its new path.
        to: String,
    },
}

/// Repairs the tree, with exclusive access to it.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree; `Storage` if the tree can't be read or changed, or another process has it
/// locked; `Cancelled`, before anything is changed.
pub fn repair(store: &Store, options: &VerifyOptions) -> Result<Repair> {
    store.check_is_tree()?;
    let _lock = store.lock_exclusive("verify --repair", Duration::ZERO)?;
    let found = analysis::inspect(store, options)?;
    let before = found.report.clone();
    let mut work = RepairWork { store, taken: Vec::new(), faults: found.faults.clone() };
    if before.is_clean() {
        return Ok(Repair { after: before.clone(), before, taken: Vec::new(), lost: Vec::new() });
    }
    options.check_cancelled()?;
    work.repair_links(&found)?;
    store.sync()?;
    // The repaired links may have made images complete. Blobs need not be hashed again.
    let mut found = analysis::inspect_with_faults(store, &work.faults)?;
    let mut lost = Vec::new();
    // An index whose last manifest was removed is damaged in turn, and so is the index that names it.
    for _ in 0..=MAX_INDEX_DEPTH {
        let taken = work.taken.len();
        lost.append(&mut found.report.broken);
        work.remove_damaged(&found)?;
        work.faults.clear();
        found = analysis::inspect_with_faults(store, &work.faults)?;
        if found.report.is_clean() || work.taken.len() == taken {
            break;
        }
    }
    Ok(Repair { before, taken: work.taken, lost, after: found.report })
}

struct RepairWork<'a> {
    store: &'a Store,
    taken: Vec<Taken>,
    faults: BTreeMap<Digest, ContentFault>,
}

impl RepairWork<'_> {
    fn is_valid(&self, inventory: &Inventory, digest: &Digest) -> bool {
        inventory.blobs.contains_key(digest) && !self.faults.contains_key(digest)
    }

    fn record_repaired(&mut self, path: String) {
        self.taken.push(Taken::Mended { path });
    }

    fn record_removed(&mut self, path: String) {
        self.taken.push(Taken::Removed { path });
    }

    fn repair_links(&mut self, found: &TreeInspection) -> Result<()> {
        let store = self.store;
        let inventory = &found.inventory;
        for (repository, findings) in inventory.repositories.iter().zip(&found.repositories) {
            let name = &repository.name;
            let lacks_layers = !repository.has_layers;
            let lacks_tags = !repository.has_tags && !repository.revisions.is_empty();
            if lacks_layers || lacks_tags {
                store.create_directories(name)?;
            }
            if lacks_layers {
                self.record_repaired(store.layers_path(name));
            }
            if lacks_tags {
                self.record_repaired(store.tags_path(name));
            }
            let damaged = repository.layers.iter().filter(|(_, link)| matches!(link, LinkState::Damaged(_)));
            let mut layers: BTreeSet<Digest> =
                damaged.map(|(digest, _)| *digest).chain(findings.unlinked.iter().copied()).collect();
            layers.retain(|digest| self.is_valid(inventory, digest));
            for digest in &layers {
                store.link_layer(name, digest)?;
                self.record_repaired(store.layer_path(name, digest));
            }
            for (digest, link) in &repository.revisions {
                if matches!(link, LinkState::Damaged(_)) && self.is_valid(inventory, digest) {
                    store.link_revision(name, digest)?;
                    self.record_repaired(store.revision_path(name, digest));
                }
            }
        }
        Ok(())
    }

    fn remove_damaged(&mut self, found: &TreeInspection) -> Result<()> {
        self.remove_tags(found)?;
        self.store.sync()?;
        self.remove_links(found)?;
        self.store.sync()?;
        let inventory = &found.inventory;
        for digest in self.faults.clone().keys().filter(|digest| inventory.blobs.contains_key(digest)) {
            self.set_aside(self.store.blob_path(digest))?;
        }
        for stray in inventory
            .strays
            .iter()
            .filter(|stray| !matches!(stray.kind, StrayKind::Harmless | StrayKind::Tag | StrayKind::Root))
        {
            self.set_aside(stray.path.clone())?;
        }
        self.store.sync()
    }

    fn set_aside(&mut self, path: String) -> Result<()> {
        let to = self.store.set_aside(&path)?;
        self.taken.push(Taken::SetAside { path, to });
        Ok(())
    }

    /// Removes the tags that are not complete, and entries that only look like tags.
    fn remove_tags(&mut self, found: &TreeInspection) -> Result<()> {
        let store = self.store;
        for stray in found.inventory.strays.iter().filter(|stray| stray.kind == StrayKind::Tag) {
            self.set_aside(stray.path.clone())?;
        }
        for (repository, findings) in found.inventory.repositories.iter().zip(&found.repositories) {
            let name = &repository.name;
            for tag in &findings.unfinished {
                store.remove_tag(name, tag)?;
                self.record_removed(store.tag_directory_path(name, tag));
            }
            for tag in &findings.tags {
                store.remove_tag(name, tag)?;
                self.record_removed(store.tag_path(name, tag));
            }
            for (tag, links) in repository.tags.iter().filter(|(tag, _)| !findings.tags.contains(tag)) {
                let damaged = links.history.iter().filter(|(_, link)| matches!(link, LinkState::Damaged(_)));
                for (digest, _) in damaged {
                    store.remove_history(name, tag, digest)?;
                    self.record_removed(store.history_path(name, tag, digest));
                }
            }
        }
        Ok(())
    }

    /// Removes the links of manifests that are not complete, and the links to missing or invalid blobs.
    fn remove_links(&mut self, found: &TreeInspection) -> Result<()> {
        let store = self.store;
        for (repository, findings) in found.inventory.repositories.iter().zip(&found.repositories) {
            let name = &repository.name;
            for digest in &findings.revisions {
                store.remove_revision(name, digest)?;
                self.record_removed(store.revision_path(name, digest));
            }
            for (digest, link) in &repository.layers {
                if matches!(link, LinkState::Damaged(_)) || !self.is_valid(&found.inventory, digest) {
                    store.remove_layer(name, digest)?;
                    self.record_removed(store.layer_path(name, digest));
                }
            }
        }
        Ok(())
    }
}
