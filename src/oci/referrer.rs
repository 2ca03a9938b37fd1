//! Referrers: signatures, attestations, SBOMs and other manifests that refer to an image.
//!
//! A registry lists them through its referrers API. Where it has none, the tag `sha256-<hex>` names an index of them
//! (distribution-spec, "Referrers Tag Schema"). cosign also writes tags of its own, whose manifests name no subject.

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::manifest::{MAX_MANIFEST_SIZE, RawManifest};
use super::media_type;
use super::name::Tag;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// The most referrers of one manifest that are accepted.
pub const MAX_REFERRERS: usize = 2000;

/// What the tag of a referrer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferrerTagKind {
    /// `sha256-<hex>`: an index of referrers.
    Fallback,
    /// `sha256-<hex>.sig`: signatures by cosign.
    Signature,
    /// `sha256-<hex>.att`: attestations by cosign.
    Attestation,
    /// `sha256-<hex>.sbom`: an SBOM by cosign.
    Sbom,
}

impl ReferrerTagKind {
    /// The kinds that cosign writes.
    pub const COSIGN: [Self; 3] = [Self::Signature, Self::Attestation, Self::Sbom];

    /// What follows the digest in the tag.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Fallback => "",
            Self::Signature => ".sig",
            Self::Attestation => ".att",
            Self::Sbom => ".sbom",
        }
    }

    /// The artifact type that cosign gives the same content where it uses the referrers API.
    #[must_use]
    pub fn artifact_type(self) -> Option<&'static str> {
        match self {
            Self::Fallback => None,
            Self::Signature => Some("application/vnd.dev.cosign.artifact.sig.v1+json"),
            Self::Attestation => Some("application/vnd.dev.cosign.artifact.att.v1+json"),
            Self::Sbom => Some("application/vnd.dev.cosign.artifact.sbom.v1+json"),
        }
    }
}

/// A tag that names referrers of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReferrerTag {
    /// The manifest that they refer to.
    pub subject: Digest,
    /// What the tag names.
    pub kind: ReferrerTagKind,
}

impl ReferrerTag {
    /// What `tag` refers to, if it is the tag of a referrer.
    #[must_use]
    pub fn parse(tag: &Tag) -> Option<Self> {
        let subject = tag.referrers_subject()?;
        let kinds = [ReferrerTagKind::Fallback].into_iter().chain(ReferrerTagKind::COSIGN);
        kinds.map(|kind| Self { subject, kind }).find(|referrer| referrer.tag() == *tag)
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag::of_referrers(&self.subject, self.kind.suffix())
    }
}

/// Whether an artifact type is one of signatures: cosign's, sigstore's bundles, Notary's.
#[must_use]
pub fn is_signature_type(artifact_type: &str) -> bool {
    artifact_type.starts_with("application/vnd.dev.cosign.artifact.sig.")
        || artifact_type.starts_with("application/vnd.dev.sigstore.bundle")
        || artifact_type.starts_with("application/vnd.cncf.notary.signature")
}

/// The fields of a manifest or index that may be a referrer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerManifest {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<ConfigDescriptor>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDescriptor {
    #[serde(default)]
    media_type: String,
}

/// A manifest as a list of referrers describes it (distribution-spec, "Listing Referrers"), and its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedReferrer {
    /// The manifest that it refers to; `None` for one that refers to nothing.
    pub subject: Option<Digest>,
    /// Its entry in the list.
    pub descriptor: Descriptor,
}

impl ListedReferrer {
    /// Reads the manifest `bytes` of `digest`, which is not verified; `None` if it is not a manifest.
    #[must_use]
    pub fn read(bytes: &[u8], digest: Digest) -> Option<Self> {
        let manifest: ReferrerManifest = serde_json::from_slice(bytes).ok()?;
        let of_config = manifest.config.map(|config| config.media_type);
        let default_type = if of_config.is_some() { media_type::OCI_MANIFEST } else { media_type::OCI_INDEX };
        let media_type = manifest.media_type.unwrap_or_else(|| default_type.to_owned());
        let mut descriptor = Descriptor::new(media_type, digest, bytes.len() as u64);
        // "If the artifactType is empty or missing in the image manifest, the value of artifactType
        // MUST be set to the config descriptor mediaType value"; of an index it is left out.
        descriptor.artifact_type = manifest
            .artifact_type
            .filter(|kind| !kind.is_empty())
            .or(of_config)
            .filter(|kind| !kind.is_empty());
        descriptor.annotations = manifest.annotations.unwrap_or_default();
        Some(Self { subject: manifest.subject.map(|subject| subject.digest), descriptor })
    }
}

/// Whether a list of referrers has all of `referrers`.
#[must_use]
pub fn has_all(listed: &[Descriptor], referrers: &[Descriptor]) -> bool {
    let listed: HashSet<Digest> = listed.iter().map(|entry| entry.digest).collect();
    referrers.iter().all(|referrer| listed.contains(&referrer.digest))
}

/// The length of `referrer` as an entry of a list, in bytes.
#[must_use]
pub(crate) fn entry_length(referrer: &Descriptor) -> u64 {
    // With the comma after it.
    json!(referrer).to_string().len() as u64 + 1
}

/// The entries of `index`, which a fallback tag names, and `referrers`: sorted by digest, so that equal sets give equal bytes.
/// Entries that are there already are kept as they are, fields that saver does not know included.
///
/// # Errors
/// `Corrupt` if `index` is not an index, `TooLarge` if the result is larger than a manifest may be.
pub fn merge(index: Option<&RawManifest>, referrers: &[Descriptor]) -> Result<RawManifest> {
    let refuse = |kind, message: &str| Error::new(kind, "the list of referrers", message);
    let mut entries: BTreeMap<String, Value> = BTreeMap::new();
    if let Some(index) = index {
        let document: Value = serde_json::from_slice(&index.bytes)
            .map_err(|error| refuse(ErrorKind::Corrupt, &format!("cannot be parsed: {error}")))?;
        let Some(listed) = document["manifests"].as_array() else {
            return Err(refuse(ErrorKind::Corrupt, "is not an index"));
        };
        for entry in listed {
            if let Some(digest) = entry["digest"].as_str() {
                entries.insert(digest.to_owned(), entry.clone());
            }
        }
    }
    for referrer in referrers {
        entries.entry(referrer.digest.to_string()).or_insert_with(|| json!(referrer));
    }
    let entries: Vec<Value> = entries.into_values().collect();
    let document = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let bytes = Bytes::from(document.to_string());
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        let message = format!("would have {} bytes, more than an index may have", bytes.len());
        return Err(refuse(ErrorKind::TooLarge, &message));
    }
    RawManifest::new(bytes, Some(media_type::OCI_INDEX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referrer_tags_are_recognized() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for (tag, kind) in [
            (format!("sha256-{hex}"), Some(ReferrerTagKind::Fallback)),
            (format!("sha256-{hex}.sig"), Some(ReferrerTagKind::Signature)),
            (format!("sha256-{hex}.att"), Some(ReferrerTagKind::Attestation)),
            (format!("sha256-{hex}.sbom"), Some(ReferrerTagKind::Sbom)),
            (format!("sha256-{hex}.other"), None),
            (format!("sha256-{hex}0"), None),
            (format!("sha256-{}", &hex[..63]), None),
            (format!("sha256-{}", hex.to_uppercase()), None),
            (format!("sha512-{hex}"), None),
            ("v1".into(), None),
        ] {
            let parsed: Tag = tag.parse().unwrap();
            let found = ReferrerTag::parse(&parsed);
            assert_eq!(found.map(|found| found.kind), kind, "{tag}");
            if let Some(found) = found {
                assert_eq!((found.subject, found.tag()), (digest, parsed), "{tag}");
            }
        }
    }

    #[test]
    fn merged_lists_of_equal_sets_have_equal_bytes() {
        let entry = |content: &str| {
            let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(content.as_bytes()), 7);
            entry.artifact_type = Some(format!("application/{content}"));
            entry.annotations.insert("b".into(), "1".into());
            entry
        };
        let (a, b, c) = (entry("a"), entry("b"), entry("c"));
        let all = merge(None, &[a.clone(), b.clone(), c.clone()]).unwrap();
        let ab = merge(None, &[b.clone(), a.clone(), a.clone()]).unwrap();
        assert_eq!(merge(Some(&ab), &[c.clone(), a.clone()]).unwrap().bytes, all.bytes);
        let cb = merge(None, &[c, b]).unwrap();
        assert_eq!(merge(Some(&cb), &[a]).unwrap().bytes, all.bytes);
        assert_eq!(merge(Some(&all), &[]).unwrap().bytes, all.bytes);
    }

    #[test]
    fn merging_keeps_unknown_fields_of_entries() {
        let known = Digest::of(b"known");
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"m","digest":"{known}","size":1,"data":"eA=="}}]}}"#,
            media_type::OCI_INDEX
        );
        let index = RawManifest::new(json.into(), None).unwrap();
        let merged = merge(Some(&index), &[Descriptor::new("other", known, 1)]).unwrap();
        let text = std::str::from_utf8(&merged.bytes).unwrap();
        assert!(text.contains(r#""data":"eA==""#) && !text.contains("other"), "{text}");
    }

    #[test]
    fn artifact_type_comes_from_manifest_then_config() {
        let subject = format!(r#""subject":{{"digest":"{}","size":1}}"#, Digest::of(b"s"));
        for (json, expect) in [
            (format!(r#"{{"artifactType":"a","config":{{"mediaType":"c"}},{subject}}}"#), Some("a")),
            (format!(r#"{{"artifactType":"","config":{{"mediaType":"c"}},{subject}}}"#), Some("c")),
            (format!(r#"{{"config":{{"mediaType":"c"}},{subject}}}"#), Some("c")),
            (format!(r#"{{"manifests":[],{subject}}}"#), None),
        ] {
            let digest = Digest::of(json.as_bytes());
            let read = ListedReferrer::read(json.as_bytes(), digest).unwrap();
            assert_eq!(read.subject, Some(Digest::of(b"s")), "{json}");
            assert_eq!(read.descriptor.artifact_type.as_deref(), expect, "{json}");
        }
        assert_eq!(ListedReferrer::read(b"text", Digest::of(b"text")), None);
    }
}
