//! One digest is one manifest request, however many images of the run share it.

use crate::oci::{Digest, RawManifest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OnceCell;

/// A manifest that is there or being fetched by whoever asked first.
pub(crate) type Cell = Arc<OnceCell<Arc<RawManifest>>>;

/// The manifests that images in hand share. An entry lives as long as somebody fetches the manifest or, once it is
/// there, holds it; after that the sink has it.
#[derive(Default)]
pub(crate) struct Manifests {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_digest: HashMap<Digest, Entry>,
    /// How many were in use when those that are not were last cleared away.
    used: usize,
}

/// So many entries are kept at least before those that are not in use are cleared away.
const MANY: usize = 4096;

#[derive(Default)]
struct Entry {
    cell: Weak<OnceCell<Arc<RawManifest>>>,
    manifest: Weak<RawManifest>,
}

impl Manifests {
    /// The cell of `digest`.
    pub(crate) fn cell(&self, digest: Digest) -> Cell {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Not with every manifest, where so many are in use at once.
        if entries.by_digest.len() >= MANY.max(entries.used * 2) {
            entries
                .by_digest
                .retain(|_, entry| entry.cell.strong_count() + entry.manifest.strong_count() > 0);
            entries.used = entries.by_digest.len();
        }
        let entry = entries.by_digest.entry(digest).or_default();
        if let Some(cell) = entry.cell.upgrade() {
            return cell;
        }
        let known = entry.manifest.upgrade();
        let cell = Arc::new(known.map_or_else(OnceCell::new, |manifest| OnceCell::new_with(Some(manifest))));
        entry.cell = Arc::downgrade(&cell);
        cell
    }

    /// Remembers `manifest` for as long as somebody holds it.
    pub(crate) fn keep(&self, manifest: &Arc<RawManifest>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_digest.entry(manifest.digest).or_default().manifest = Arc::downgrade(manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_known_while_somebody_holds_it() {
        let manifests = Manifests::default();
        let json = r#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = Arc::new(RawManifest::new(json.into(), None).unwrap());
        let digest = manifest.digest;
        assert!(manifests.cell(digest).get().is_none());
        manifests.keep(&manifest);
        assert_eq!(manifests.cell(digest).get(), Some(&manifest));
        drop(manifest);
        assert!(manifests.cell(digest).get().is_none());
    }

    #[test]
    fn what_nobody_uses_does_not_pile_up() {
        let manifests = Manifests::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        let used: Vec<Cell> = (0..MANY + 10).map(|number| manifests.cell(digest(number))).collect();
        for number in 0..5 * MANY {
            manifests.cell(digest(used.len() + number));
        }
        assert!(manifests.entries.lock().unwrap().by_digest.len() <= 3 * MANY);
        for (number, cell) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(cell, &manifests.cell(digest(number))), "{number}");
        }
    }
}
