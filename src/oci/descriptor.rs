//! Content descriptors (OCI image spec, descriptor.md).

use super::digest::{AnyDigest, Digest};
use super::json::{Base64, or_default};
use super::platform::Platform;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The largest size that a descriptor may announce, in bytes (16 TiB). Without a bound a hostile manifest could make
/// sums of sizes overflow.
pub const MAX_SIZE: u64 = 1 << 44;

/// A reference to one piece of content, as manifests and indexes carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type; empty where the document omits it.
    #[serde(default)]
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes; at most [`MAX_SIZE`] when read from a document.
    pub size: u64,
    /// For entries of an index: the platform that the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where else the content can be downloaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Arbitrary metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The artifact type of the manifest that the descriptor refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// A descriptor whose digest may be of an algorithm other than sha256.
///
/// It has every field that distribution and containerd unmarshal, so that a value that they cannot read is refused here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescriptorDocument {
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    digest: AnyDigest,
    #[serde(deserialize_with = "size")]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "string_map")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "or_default", rename = "data")]
    _data: Base64,
}

/// An entry of an index whose digest saver cannot verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedEntry {
    /// The platform that it is for.
    pub platform: Option<Platform>,
    /// Whether it is an attestation.
    pub is_attestation: bool,
    /// Why it cannot be read.
    pub error: String,
}

impl DescriptorDocument {
    /// The descriptor, or what is known of it when its digest is of another algorithm.
    pub(super) fn supported(self) -> Result<Descriptor, Box<UnsupportedEntry>> {
        let digest = match self.digest {
            AnyDigest::Sha256(digest) => digest,
            AnyDigest::Unsupported(error) => {
                let is_attestation = is_attestation(&self.annotations);
                return Err(Box::new(UnsupportedEntry { platform: self.platform, is_attestation, error }));
            }
        };
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size: self.size,
            platform: self.platform,
            urls: self.urls,
            annotations: self.annotations,
            artifact_type: self.artifact_type,
        })
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        DescriptorDocument::deserialize(from)?
            .supported()
            .map_err(|entry| serde::de::Error::custom(entry.error))
    }
}

const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

fn is_attestation(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
}

impl Descriptor {
    /// A descriptor with the required fields only.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }

    /// Whether this entry of an index is an attestation (BuildKit's `vnd.docker.reference.type`).
    #[must_use]
    pub fn is_attestation(&self) -> bool {
        is_attestation(&self.annotations)
    }

    /// For an attestation: the digest of the image manifest that it describes.
    #[must_use]
    pub fn attestation_of(&self) -> Option<Digest> {
        let digest = self.annotations.get(REFERENCE_DIGEST).filter(|_| self.is_attestation())?;
        digest.parse().ok()
    }
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(from)?;
    if size <= MAX_SIZE {
        return Ok(size);
    }
    Err(serde::de::Error::custom(format_args!(
        "a size of {size} bytes: the most that is accepted is {MAX_SIZE}"
    )))
}

fn string_map<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let map: Option<BTreeMap<String, Option<String>>> = Option::deserialize(from)?;
    let values = map.unwrap_or_default().into_iter();
    Ok(values.map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_size_above_the_limit_is_refused() {
        let read = |size: &str| {
            let json = format!(r#"{{"digest":"{}","size":{size}}}"#, Digest::of(b""));
            serde_json::from_str::<Descriptor>(&json).map(|read| read.size)
        };
        assert_eq!(read("0").unwrap(), 0);
        assert_eq!(read("17592186044416").unwrap(), MAX_SIZE);
        for bad in ["17592186044417", "18446744073709551615", "99999999999999999999", "-1", "1.5"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
