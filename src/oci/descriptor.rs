//! Content descriptors (OCI image spec, descriptor.md).

use super::digest::Digest;
use super::platform::Platform;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The largest size that a descriptor may announce, in bytes (16 TiB). No content is that large; without a bound a
/// hostile manifest could make sums of sizes wrap around.
pub const MAX_SIZE: u64 = 1 << 44;

/// What a manifest or index says of one piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type; empty where a careless writer left it out.
    #[serde(default)]
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes; at most [`MAX_SIZE`] where it was read from a document.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// For an index's entries: what the manifest runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where foreign content can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The type of the artifact that the content is a manifest of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but what is required.
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

    /// For an attestation manifest (buildkit's `vnd.docker.reference.type`): the digest of the image that it speaks of.
    #[must_use]
    pub fn attestation_of(&self) -> Option<Digest> {
        self.annotations.get("vnd.docker.reference.type").filter(|kind| *kind == "attestation-manifest")?;
        self.annotations.get("vnd.docker.reference.digest")?.parse().ok()
    }
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(from)?;
    if size <= MAX_SIZE {
        return Ok(size);
    }
    Err(serde::de::Error::custom(format_args!("a size of {size} bytes: no content has more than {MAX_SIZE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_size_is_refused() {
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
