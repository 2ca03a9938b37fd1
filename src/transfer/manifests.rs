//! Shares manifest requests between the images of a run.

use crate::oci::{Digest, RawManifest};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::OnceCell;

/// A manifest that is known or being requested.
pub(crate) type Cell = Arc<OnceCell<Arc<RawManifest>>>;

/// The manifests that images share while they are transferred. An entry lives as long as a request for it is in flight or
/// somebody holds the manifest; after that the sink has it.
#[derive(Default)]
pub(crate) struct Manifests {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_digest: HashMap<Digest, Entry>,
    /// The number of live entries at the last cleanup.
    used: usize,
}

/// The number of entries at which cleanup starts.
const MANY: usize = 4096;

#[derive(Default)]
struct Entry {
    cell: Weak<OnceCell<Arc<RawManifest>>>,
    manifest: Weak<RawManifest>,
}

impl Manifests {
    /// The cell of `digest`.
    pub(crate) fn cell(&self, digest: Digest) -> Cell {
        let mut entries = self.entries.lock();
        // Amortised: the number of live entries may be large.
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
        let mut entries = self.entries.lock();
        entries.by_digest.entry(manifest.digest).or_default().manifest = Arc::downgrade(manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_shared_while_it_is_held() {
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
    fn unused_manifest_entries_are_removed() {
        let manifests = Manifests::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        let used: Vec<Cell> = (0..MANY + 10).map(|number| manifests.cell(digest(number))).collect();
        for number in 0..5 * MANY {
            manifests.cell(digest(used.len() + number));
        }
        assert!(manifests.entries.lock().by_digest.len() <= 3 * MANY);
        for (number, cell) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(cell, &manifests.cell(digest(number))), "{number}");
        }
    }
}
