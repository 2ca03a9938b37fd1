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
    entries: Mutex<HashMap<Digest, Entry>>,
}

#[derive(Default)]
struct Entry {
    cell: Weak<OnceCell<Arc<RawManifest>>>,
    manifest: Weak<RawManifest>,
}

impl Manifests {
    /// The cell of `digest`.
    pub(crate) fn cell(&self, digest: Digest) -> Cell {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= 4096 {
            entries.retain(|_, entry| entry.cell.strong_count() + entry.manifest.strong_count() > 0);
        }
        let entry = entries.entry(digest).or_default();
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
        entries.entry(manifest.digest).or_default().manifest = Arc::downgrade(manifest);
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
}
