//! Publishes the images of a bundle, once everything that they need is present.

use super::document::{BundleDocument, BundledContent, BundledImage, BundledSource};
use crate::content::{ImageOrigin, Publication, PublishedReferrers, ReferrerList};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{ListedReferrer, ReferrerTag};
use crate::oci::{Descriptor, Digest, RawManifest};
use crate::store::Store;
use crate::store::document::{ContentFault, ManifestContent, StoredManifest, top_down};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The content that the images of a bundle need and the tree lacks, sorted.
///
/// What an image needs follows from its manifests, not only from the list in the document.
///
/// # Errors
/// `Storage` if the tree can't be read; `Corrupt` for an image that could not be served even then.
pub(super) fn missing(store: &Store, document: &BundleDocument) -> Result<Vec<BundledContent>> {
    let entry = |digest: Digest, size: u64| {
        let parts = document.content(&digest).map(|content| content.parts.clone()).unwrap_or_default();
        (digest, BundledContent { digest, parts, size })
    };
    let listed: Vec<(Digest, BundledContent)> = document
        .content
        .par_iter()
        .map(|content| {
            let is_present = store.blob_size(&content.digest)? == Some(content.size);
            Ok((!is_present).then(|| entry(content.digest, content.size)))
        })
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    let mut missing: BTreeMap<Digest, BundledContent> = listed.into_iter().collect();
    let of_images: Vec<Vec<(Digest, BundledContent)>> = document
        .images
        .par_iter()
        .map(|image| {
            let mut found = Vec::new();
            // Without its manifests it is not known what an image needs.
            if image.manifests.iter().any(|digest| missing.contains_key(digest)) {
                return Ok(found);
            }
            let manifests = StoredImage::read(store, image)?;
            for blob in manifests.blobs() {
                if store.blob_size(&blob.digest)? != Some(blob.size) {
                    found.push(entry(blob.digest, blob.size));
                }
            }
            Ok(found)
        })
        .collect::<Result<_>>()?;
    missing.extend(of_images.into_iter().flatten());
    Ok(missing.into_values().collect())
}

/// What to publish for an image.
///
/// # Errors
/// As [`missing`].
pub(super) fn publication(store: &Store, image: &BundledImage) -> Result<Publication> {
    let stored = StoredImage::read(store, image)?;
    let mut manifests = HashMap::new();
    for digest in &image.manifests {
        let bytes = store.read_content(digest, MAX_MANIFEST_SIZE)?.unwrap_or_default();
        match RawManifest::verified(bytes, *digest) {
            Ok(Some((raw, _))) => manifests.insert(*digest, Arc::new(raw)),
            Ok(None) => return Err(damaged(image, digest, "it does not match its digest")),
            Err(error) => return Err(damaged(image, digest, error.message())),
        };
    }
    let referrers = referrers(image, &manifests)?;
    let blobs: BTreeSet<Digest> = stored.blobs().map(|blob| blob.digest).collect();
    Ok(Publication {
        places: vec![image.place()],
        manifests: stored.order().iter().filter_map(|digest| manifests.get(digest).cloned()).collect(),
        blobs: blobs.into_iter().collect(),
        origin: image.source.as_ref().map(origin).transpose()?,
        referrers,
    })
}

fn damaged(image: &BundledImage, digest: &Digest, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, image.name(), format!("manifest {digest}: {why}"))
        .on(Side::Sink)
        .with_hint("run saver verify --repair to move damaged content away, and unbundle again")
}

fn origin(source: &BundledSource) -> Result<ImageOrigin> {
    let known = ["keep", "prune", "flatten"].into_iter().find(|index| *index == source.index);
    let index = known.ok_or_else(|| {
        let why = format!("the bundle has an unknown index mode {:?}", source.index);
        Error::new(ErrorKind::InvalidInput, &source.reference, why)
    })?;
    Ok(ImageOrigin {
        reference: source.reference.clone(),
        digest: source.digest,
        platforms: source.platforms.clone(),
        index,
    })
}

/// The referrers of an image. Each must refer to the subject that the document states.
fn referrers(
    image: &BundledImage,
    manifests: &HashMap<Digest, Arc<RawManifest>>,
) -> Result<PublishedReferrers> {
    let mut found = PublishedReferrers::default();
    let mut lists: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
    for referrer in &image.referrers {
        if let Some(tag) = referrer.tag.as_ref().and_then(ReferrerTag::parse) {
            found.tags.push((tag, referrer.digest));
            continue;
        }
        let listed = manifests.get(&referrer.digest);
        let listed = listed.and_then(|raw| ListedReferrer::read(&raw.bytes, raw.digest));
        match listed {
            Some(listed) if listed.subject == Some(referrer.subject) => {
                lists.entry(referrer.subject).or_default().push(listed.descriptor);
            }
            _ => return Err(damaged(image, &referrer.digest, "it does not refer to its subject")),
        }
    }
    let list = |(subject, referrers)| ReferrerList { subject, referrers };
    found.lists = lists.into_iter().map(list).collect();
    Ok(found)
}

/// The manifests of an image, as the tree has them.
struct StoredImage {
    root: Digest,
    digests: BTreeSet<Digest>,
    manifests: HashMap<Digest, StoredManifest>,
}

impl StoredImage {
    fn read(store: &Store, image: &BundledImage) -> Result<Self> {
        let mut manifests = HashMap::new();
        for digest in &image.manifests {
            let stored = store.stored_manifest(digest)?;
            match &stored.content {
                ManifestContent::Index(_) | ManifestContent::Image(_) => {}
                ManifestContent::Opaque(why) => return Err(damaged(image, digest, why)),
                ManifestContent::ContentFault(fault) => {
                    let why = match fault {
                        ContentFault::Missing => "it is missing",
                        ContentFault::Corrupt(why)
                        | ContentFault::NotAManifest(why)
                        | ContentFault::Unreadable(why) => why,
                    };
                    return Err(damaged(image, digest, why));
                }
            }
            manifests.insert(*digest, stored);
        }
        let found =
            Self { root: image.digest, digests: image.manifests.iter().copied().collect(), manifests };
        if let Some(ManifestContent::Index(entries)) =
            found.manifests.get(&image.digest).map(|root| &root.content)
            && !entries.is_empty()
            && !entries.iter().any(|entry| found.digests.contains(&entry.digest))
        {
            return Err(damaged(image, &image.digest, "the bundle has none of the manifests that it names"));
        }
        Ok(found)
    }

    /// The configurations and layers.
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let images =
            self.manifests.values().filter(|stored| matches!(stored.content, ManifestContent::Image(_)));
        images.flat_map(StoredManifest::references)
    }

    /// The manifests, children first, the root last.
    fn order(&self) -> Vec<Digest> {
        let mut order = top_down(&self.digests, &self.manifests);
        order.reverse();
        order.retain(|digest| *digest != self.root);
        order.push(self.root);
        order
    }
}
