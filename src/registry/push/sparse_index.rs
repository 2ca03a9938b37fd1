//! Finds out, before any blob is uploaded, whether the registry accepts an index that names manifests which are not pushed.

use super::publish::ManifestUpload;
use super::{Inner, Pusher};
use crate::content::{Place, Publication, Target};
use crate::error::Result;
use crate::oci::manifest::omitted;
use crate::oci::{Digest, RawManifest, Repository};
use std::sync::atomic::Ordering;

/// The codes with which registries refuse an index whose manifests they do not have.
const MISSING_PART: [&str; 3] = ["MANIFEST_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"];

/// Uploads the index of `image` by digest if it is sparse. A registry that requires complete indexes refuses it now, before any
/// of the image's blobs is sent; one that does not has the index a little earlier than the rest, without a tag.
///
/// # Errors
/// `Unsupported` if the registry refuses the index because manifests are missing. Other failures are left to the push.
pub(super) async fn check(pusher: &Pusher, image: &Publication) -> Result<()> {
    let Some((index, missing)) = sparse_index(image) else { return Ok(()) };
    for Place { repository, .. } in &image.places {
        if inner(pusher).accepts_sparse_indexes.load(Ordering::Relaxed) {
            return Ok(());
        }
        if has_all(pusher, repository, &missing).await {
            continue;
        }
        let upload = ManifestUpload { pusher, image, repository };
        match upload.put_once(index, &Target::Digest(index.digest)).await {
            Ok(()) => inner(pusher).accepts_sparse_indexes.store(true, Ordering::Relaxed),
            Err(error) if MISSING_PART.iter().any(|code| error.has_code(code)) => return Err(error),
            Err(error) => tracing::debug!(%error, "cannot tell whether the registry accepts sparse indexes"),
        }
    }
    Ok(())
}

/// The first index of `image` that names manifests which are not part of it, and these manifests.
fn sparse_index(image: &Publication) -> Option<(&RawManifest, Vec<Digest>)> {
    image.manifests.iter().find_map(|raw| Some((&**raw, omitted(raw, &image.manifests)?.digests)))
}

fn inner(pusher: &Pusher) -> &Inner {
    &pusher.0
}

/// Whether the registry has all of these manifests, from an earlier push of other platforms.
async fn has_all(pusher: &Pusher, repository: &Repository, digests: &[Digest]) -> bool {
    for digest in digests {
        let found = pusher.head(repository, &Target::Digest(*digest)).await;
        if !matches!(found, Ok(Some(_))) {
            return false;
        }
    }
    true
}
