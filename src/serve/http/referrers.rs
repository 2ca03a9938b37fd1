//! The referrers of a manifest (OCI distribution-spec, "Listing Referrers").
//!
//! The tree keeps no list of them: every manifest of the repository is looked at. A repository with more
//! manifests than that is worth answers 404, which tells clients to read the fallback tag
//! `sha256-<hex>` instead ("Referrers Tag Schema").

use super::error::Refusal;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Repository, media_type};
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most manifests looked at.
const MAX_REVISIONS: usize = 10_000;

/// What is read of a manifest or index that may be a referrer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    media_type: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// The `artifactType` that a query asks for.
pub(super) fn artifact_type(query: Option<&str>) -> Option<String> {
    url::form_urlencoded::parse(query?.as_bytes())
        .find(|(key, value)| key == "artifactType" && !value.is_empty())
        .map(|(_, value)| value.into_owned())
}

/// The index of the manifests of `repository` whose subject is `subject`. A subject or repository that is
/// not there has none: "the registry MUST NOT return a 404".
pub(super) fn index(
    store: &Store,
    repository: &Repository,
    subject: &Digest,
    filter: Option<&str>,
) -> Result<Vec<u8>, Refusal> {
    let mut revisions = store.revisions(repository).map_err(|error| Refusal::of_store(&error))?;
    if revisions.len() > MAX_REVISIONS {
        return Err(Refusal::no_such_endpoint());
    }
    revisions.sort_unstable();
    let hex = subject.hex();
    let manifests = revisions
        .iter()
        .filter_map(|revision| {
            let bytes = store.read_content(revision, MAX_MANIFEST_SIZE).ok()??;
            referrer(revision, &bytes, subject, &hex)
        })
        .filter(|found| filter.is_none() || found.artifact_type.as_deref() == filter)
        .collect();
    let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    let bytes = serde_json::to_vec(&index).unwrap_or_default();
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(Refusal::no_such_endpoint());
    }
    Ok(bytes)
}

/// The descriptor of the manifest `revision` if it refers to `subject`, whose hex digits are `hex`.
fn referrer(revision: &Digest, bytes: &[u8], subject: &Digest, hex: &str) -> Option<Descriptor> {
    // Most manifests do not name the subject at all: those are not parsed.
    if !std::str::from_utf8(bytes).ok()?.contains(hex) {
        return None;
    }
    let found: Candidate = serde_json::from_slice(bytes).ok()?;
    if found.subject?.digest != *subject || Digest::of(bytes) != *revision {
        return None;
    }
    let of_config = found.config.map(|config| config.media_type);
    let default_type = if of_config.is_some() { media_type::OCI_MANIFEST } else { media_type::OCI_INDEX };
    let media_type = found.media_type.unwrap_or_else(|| default_type.to_owned());
    let mut descriptor = Descriptor::new(media_type, *revision, bytes.len() as u64);
    // "If the artifactType is empty or missing in the image manifest, the value of artifactType
    // MUST be set to the config descriptor mediaType value"; of an index it is left out.
    descriptor.artifact_type =
        found.artifact_type.filter(|kind| !kind.is_empty()).or(of_config).filter(|kind| !kind.is_empty());
    descriptor.annotations = found.annotations.unwrap_or_default();
    Some(descriptor)
}
