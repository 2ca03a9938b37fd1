//! A cache of manifests: the nodes of a cluster request the same few.

use crate::oci::{Digest, RawManifest};
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// A manifest with its response headers.
pub(super) struct ReadyManifest {
    pub(super) manifest: RawManifest,
    pub(super) content_type: HeaderValue,
    pub(super) digest: HeaderValue,
    pub(super) etag: HeaderValue,
}

/// Manifests by digest. Entries never become invalid, because the digest is that of the bytes. Whether a repository has the
/// manifest is looked up in the tree for each request.
///
/// Entries move to the young generation when they are used. When that is full, it replaces the old one, whose entries are dropped.
pub(super) struct ManifestCache {
    generations: Mutex<Generations>,
    /// The size limit of one generation, in bytes.
    limit: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Arc<ReadyManifest>>,
    old: HashMap<Digest, Arc<ReadyManifest>>,
    young_bytes: usize,
}

impl ManifestCache {
    /// A cache of at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self { generations: Mutex::default(), limit: bytes / 2 }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<ReadyManifest>> {
        let mut generations = self.generations.lock();
        if let Some(found) = generations.young.get(digest) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.remove(digest)?;
        generations.insert(Arc::clone(&found), self.limit);
        Some(found)
    }

    pub(super) fn insert(&self, ready: Arc<ReadyManifest>) {
        self.generations.lock().insert(ready, self.limit);
    }
}

impl Generations {
    fn insert(&mut self, ready: Arc<ReadyManifest>, limit: usize) {
        // 512 bytes for headers, key and map entry, so that many small manifests are bounded too.
        let bytes = ready.manifest.bytes.len() + 512;
        if bytes > limit {
            return;
        }
        if self.young_bytes + bytes > limit {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(ready.manifest.digest, ready).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(number: u8) -> Arc<ReadyManifest> {
        let manifest = RawManifest {
            digest: Digest::of(&[number]),
            media_type: String::new(),
            bytes: vec![number; 488].into(),
        };
        let none = HeaderValue::from_static("");
        Arc::new(ReadyManifest { manifest, content_type: none.clone(), digest: none.clone(), etag: none })
    }

    #[test]
    fn used_entries_stay() {
        let cache = ManifestCache::new(20_000);
        for number in 0..200 {
            cache.insert(ready(number));
            assert!(cache.get(&Digest::of(&[0])).is_some(), "{number}");
        }
        let held = (0..200).filter(|number| cache.get(&Digest::of(&[*number])).is_some()).count();
        assert!((10..=20).contains(&held), "{held}");
        assert!(cache.get(&Digest::of(&[199])).is_some() && cache.get(&Digest::of(&[100])).is_none());
    }

    #[test]
    fn oversized_manifest_is_not_cached() {
        let cache = ManifestCache::new(1_000);
        cache.insert(ready(1));
        assert!(cache.get(&Digest::of(&[1])).is_none());
    }
}
