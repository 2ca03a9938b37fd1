//! The referrers of a manifest (OCI distribution-spec, "Listing Referrers").
//!
//! The tree has no list of referrers, so every manifest of the repository is read. For a repository with too many manifests the
//! response is 404, which makes clients read the tag `sha256-<hex>` instead ("Referrers Tag Schema").

use super::error::ApiError;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::ListedReferrer;
use crate::oci::{Descriptor, Digest, Repository, media_type};
use crate::store::Store;
use serde::Serialize;

/// The number of manifests that are read for one request.
const MAX_REVISIONS: usize = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrersIndex {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// The `artifactType` of a query.
pub(super) fn artifact_type(query: Option<&str>) -> Option<String> {
    url::form_urlencoded::parse(query?.as_bytes())
        .find(|(key, value)| key == "artifactType" && !value.is_empty())
        .map(|(_, value)| value.into_owned())
}

/// An index of the manifests of `repository` whose subject is `subject`. It is empty if the subject or the repository does not
/// exist: "the registry MUST NOT return a 404".
pub(super) fn index(
    store: &Store,
    repository: &Repository,
    subject: &Digest,
    filter: Option<&str>,
) -> Result<Vec<u8>, ApiError> {
    let mut revisions = store.revisions(repository).map_err(|error| ApiError::of_store(&error))?;
    if revisions.len() > MAX_REVISIONS {
        return Err(ApiError::no_such_endpoint());
    }
    revisions.sort_unstable();
    let hex = subject.hex();
    let manifests = revisions
        .iter()
        .filter_map(|revision| {
            let bytes = store.read_content(revision, MAX_MANIFEST_SIZE).ok()??;
            referrer(revision, &bytes, subject, &hex)
        })
        .filter(|referrer| filter.is_none() || referrer.artifact_type.as_deref() == filter)
        .collect();
    let index = ReferrersIndex { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    let bytes = serde_json::to_vec(&index).unwrap_or_default();
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(ApiError::no_such_endpoint());
    }
    Ok(bytes)
}

/// The descriptor of the manifest `revision` if it refers to `subject`, whose hex digits are `hex`.
fn referrer(revision: &Digest, bytes: &[u8], subject: &Digest, hex: &str) -> Option<Descriptor> {
    // Most manifests do not contain the digest, and need not be parsed.
    if !std::str::from_utf8(bytes).ok()?.contains(hex) {
        return None;
    }
    let listed = ListedReferrer::read(bytes, *revision)?;
    (listed.subject == Some(*subject) && Digest::of(bytes) == *revision).then_some(listed.descriptor)
}
