//! One digest is one manifest request, however many images of the run share it.

use crate::oci::{Digest, RawManifest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OnceCell;

/// A manifest that is there or being fetched by whoever asked first.
pub(crate) type Cell = Arc<OnceCell<Arc<RawManifest>>>;

/// The manifests that images in hand share. An entry lives as long as somebody holds its cell; after
/// that the sink has the manifest.
#[derive(Default)]
pub(crate) struct Manifests {
    cells: Mutex<HashMap<Digest, Weak<OnceCell<Arc<RawManifest>>>>>,
}

impl Manifests {
    /// The cell of `digest`.
    pub(crate) fn cell(&self, digest: Digest) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(&digest).and_then(Weak::upgrade) {
            return cell;
        }
        if cells.len() >= 4096 {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let cell = Cell::default();
        cells.insert(digest, Arc::downgrade(&cell));
        cell
    }
}
