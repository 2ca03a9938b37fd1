//! Manifests in memory: a cluster that starts asks for the same few again and again.

use crate::oci::{Digest, RawManifest};
use hyper::header::HeaderValue;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A manifest with its headers, ready to be sent.
pub(super) struct ReadyManifest {
    pub(super) manifest: RawManifest,
    pub(super) content_type: HeaderValue,
    pub(super) digest: HeaderValue,
    pub(super) etag: HeaderValue,
}

/// Manifests by digest. A digest is of bytes, so an entry never becomes wrong; whether a repository has a
/// manifest is asked of the tree each time.
///
/// Two generations: what was not asked for while the young one filled up goes with the old one.
pub(super) struct ManifestCache {
    generations: Mutex<Generations>,
    /// The most bytes a generation may have.
    limit: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Arc<ReadyManifest>>,
    old: HashMap<Digest, Arc<ReadyManifest>>,
    young_bytes: usize,
}

impl ManifestCache {
    /// A cache that holds at most `bytes` of documents.
    pub(super) fn new(bytes: usize) -> Self {
        Self { generations: Mutex::default(), limit: bytes / 2 }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<ReadyManifest>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = generations.young.get(digest) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.remove(digest)?;
        generations.insert(Arc::clone(&found), self.limit);
        Some(found)
    }

    pub(super) fn insert(&self, ready: Arc<ReadyManifest>) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).insert(ready, self.limit);
    }
}

impl Generations {
    fn insert(&mut self, ready: Arc<ReadyManifest>, limit: usize) {
        // Headers, keys and the map's own need, roughly: many small documents are bounded too.
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
    fn what_is_asked_for_stays_and_the_rest_goes() {
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
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = ManifestCache::new(1_000);
        cache.insert(ready(1));
        assert!(cache.get(&Digest::of(&[1])).is_none());
    }
}
