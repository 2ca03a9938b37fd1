//! Applies the index mode to the selected part of an image.

use super::graph::ImageWalk;
use super::node::{ManifestNode, NodeKind};
use super::options::IndexMode;
use super::platforms::one_of_several;
use crate::content::{Sink, Source};
use crate::error::Result;
use crate::oci::Platform;
use std::collections::HashSet;

impl<S: Source, K: Sink> ImageWalk<'_, S, K> {
    /// Applies the index mode.
    pub(super) fn shape(&self, root: ManifestNode) -> Result<ManifestNode> {
        match self.engine.options.index {
            IndexMode::Keep => Ok(root),
            IndexMode::Prune => root.prune(),
            IndexMode::Flatten => self.flatten(root),
        }
    }

    fn flatten(&self, root: ManifestNode) -> Result<ManifestNode> {
        if !matches!(root.kind, NodeKind::Index(_)) {
            return Ok(root);
        }
        let mut leaves = Vec::new();
        root.into_leaves(&mut leaves);
        leaves.retain(|leaf| !leaf.is_attestation());
        // Before duplicates go: an index may list one manifest for two platforms.
        let mut selected = Vec::new();
        leaves.iter().for_each(|leaf| {
            leaf.platforms(&mut selected);
        });
        let mut once = HashSet::new();
        leaves.retain(|leaf| once.insert(leaf.raw.digest));
        if leaves.is_empty() {
            return Err(self.platforms.not_found(self.platforms.named()));
        }
        if leaves.len() == 1 {
            return Ok(leaves.remove(0));
        }
        let kinds: HashSet<Platform> =
            selected.iter().map(|platform| platform.normal().without_os_version()).collect();
        // Several manifests for one platform: other compressions, or versions of Windows.
        let platforms: Vec<Platform> = leaves.iter().filter_map(ManifestNode::platform).collect();
        if kinds.len() != 1 || platforms.len() != leaves.len() {
            return Err(self.platforms.several(leaves.len(), &selected));
        }
        let first = self.platforms.wanted.runnable(&platforms).unwrap_or_default();
        let taken = leaves.swap_remove(first);
        self.warn(one_of_several(&platforms, first, taken.raw.digest));
        Ok(taken)
    }
}
