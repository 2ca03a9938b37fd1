//! Lock files of what was resolved or saved.

use crate::list::{ListEntry, LockFile, LockOptions, LockedImage, LockedManifest, LockedReferrer};
use crate::oci::{Digest, Reference};
use crate::transfer::{
    ImagePlan, ImageReport, ManifestReport, PinnedContent, ReferrerReport, TransferOptions,
};

/// What an image consists of.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedImage<'a> {
    /// Its digest at the registry; `None` if it failed or was skipped.
    digest: Option<Digest>,
    manifests: &'a [ManifestReport],
    referrers: &'a [ReferrerReport],
}

impl<'a> From<&'a ImagePlan> for ResolvedImage<'a> {
    fn from(row: &'a ImagePlan) -> Self {
        let digest = row.source_digest.or(row.digest);
        Self { digest, manifests: &row.manifests, referrers: &row.referrers }
    }
}

impl<'a> From<&'a ImageReport> for ResolvedImage<'a> {
    fn from(row: &'a ImageReport) -> Self {
        let digest = row.source_digest.or(row.digest);
        Self { digest, manifests: &row.manifests, referrers: &row.referrers }
    }
}

/// The lock file of `entries`, each of which was resolved to an image. Those that were skipped are left out.
pub fn lock_file<'a>(
    options: &TransferOptions,
    entries: &[ListEntry],
    images: impl Iterator<Item = ResolvedImage<'a>>,
) -> LockFile {
    let locked = entries.iter().zip(images).filter_map(|(entry, image)| {
        let platforms = entry.platforms.as_ref().unwrap_or(&options.platforms);
        let manifests = image.manifests.iter().map(|row| LockedManifest {
            digest: row.digest,
            bytes: Some(row.bytes),
            platform: row.platform.clone(),
        });
        let referrers = image.referrers.iter().filter(|row| row.error.is_none());
        let mut referrers: Vec<LockedReferrer> = referrers
            .filter_map(|row| {
                let artifact_type = row.artifact_type.clone();
                Some(LockedReferrer { digest: row.digest?, subject: row.subject, artifact_type })
            })
            .collect();
        // Registries list them in any order.
        referrers.sort_by_key(|referrer| (referrer.subject, referrer.digest));
        Some(LockedImage {
            reference: Reference { digest: Some(image.digest?), ..entry.reference.clone() },
            platforms: Some(platforms.to_string()),
            manifests: manifests.collect(),
            referrers: Some(referrers),
            selected_by: selected_by(entry),
        })
    });
    let lock_options = LockOptions {
        index: options.index.as_str().to_owned(),
        attestations: options.attestations,
        foreign_layers: options.foreign_layers,
    };
    LockFile::new(lock_options, locked.collect())
}

/// The list that names an image, and the rule that selected its tag.
fn selected_by(entry: &ListEntry) -> String {
    match (&entry.lock, &entry.rule) {
        (Some(lock), _) if !lock.selected_by.is_empty() => lock.selected_by.clone(),
        (_, Some(rule)) => format!("{} {rule}", entry.origin),
        _ => entry.origin.to_string(),
    }
}

/// The content that an image of a lock file must have.
#[must_use]
pub fn pinned_content(image: &LockedImage) -> PinnedContent {
    PinnedContent {
        manifests: image.manifests.iter().map(|one| (one.platform.clone(), one.digest)).collect(),
        referrers: image.referrers.as_ref().map(|all| all.iter().map(|one| one.digest).collect()),
    }
}
