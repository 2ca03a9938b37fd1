//! Manifests and indexes: the raw bytes as served, and what they point at.
//!
//! A digest is of bytes, so the bytes are kept and never written again from the parsed form
//! (OCI image spec manifest.md, image-index.md; Docker "Image Manifest Version 2, Schema 2").

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::media_type;
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// The largest manifest or index accepted, in bytes: what registries themselves accept.
pub const MAX_MANIFEST_SIZE: u64 = 4 << 20;

/// A manifest or index exactly as it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest of `bytes`: computed, never taken from a header.
    pub digest: Digest,
    /// The media type: from the document, else from the Content-Type header, else from its shape.
    pub media_type: String,
    /// The document.
    pub bytes: Bytes,
}

impl RawManifest {
    /// Hashes `bytes` and finds their media type; `content_type` is the header's value, if there was one.
    ///
    /// # Errors
    /// `Unsupported` for schema 1 and unknown types, `Corrupt` for what is not a manifest at all.
    pub fn new(bytes: Bytes, content_type: Option<&str>) -> Result<Self> {
        let digest = Digest::of(&bytes);
        let (media_type, _) = read(&bytes, digest, content_type)?;
        Ok(Self { digest, media_type, bytes })
    }

    /// The manifest `digest` and what it points at, of content that is to have this digest; `None` for other content, which is
    /// not parsed.
    ///
    /// # Errors
    /// As [`RawManifest::new`].
    pub fn verified(bytes: Bytes, digest: Digest) -> Result<Option<(Self, Manifest)>> {
        if Digest::of(&bytes) != digest {
            return Ok(None);
        }
        let (media_type, manifest) = read(&bytes, digest, None)?;
        Ok(Some((Self { digest, media_type, bytes }, manifest)))
    }

    /// What the document points at.
    ///
    /// # Errors
    /// As [`RawManifest::new`].
    pub fn parse(&self) -> Result<Manifest> {
        Ok(read(&self.bytes, self.digest, Some(&self.media_type))?.1)
    }

    /// The descriptor of this document.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.bytes.len() as u64)
    }
}

/// A parsed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// An image or artifact manifest.
    Image(Box<ImageManifest>),
    /// An index or manifest list.
    Index(Index),
}

/// An image (or artifact) manifest: one configuration and its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to (a signature's image, say).
    pub subject: Option<Descriptor>,
    /// The type of artifact, where the manifest says so.
    pub artifact_type: Option<String>,
}

impl ImageManifest {
    /// Whether this is a runnable image, which has a platform; a Helm chart or other artifact has none.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.artifact_type.is_none() && media_type::is_image_config(&self.config.media_type)
    }

    /// The configuration and every layer, in that order.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An index or manifest list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The entries, in the document's order.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one refers to.
    pub subject: Option<Box<Descriptor>>,
}

/// What an index names beyond what comes with it.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// The manifests.
    pub digests: Vec<Digest>,
    /// Their platforms in words, or how many there are where none is told.
    pub names: String,
}

/// What `raw` names and is not among `manifests`; none when it is no index, or one of which all is there.
#[must_use]
pub fn lacking(raw: &RawManifest, manifests: &[Arc<RawManifest>]) -> Option<Lacking> {
    let Ok(Manifest::Index(index)) = raw.parse() else { return None };
    let there: HashSet<Digest> = manifests.iter().map(|raw| raw.digest).collect();
    let entries: Vec<&Descriptor> =
        index.manifests.iter().filter(|entry| !there.contains(&entry.digest)).collect();
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let known: BTreeSet<String> =
        platforms.filter(|platform| !platform.is_unknown()).map(ToString::to_string).collect();
    let names = match known.is_empty() {
        true => format!("{} of its manifests", entries.len()),
        false => known.into_iter().collect::<Vec<_>>().join(", "),
    };
    let digests: Vec<Digest> = entries.iter().map(|entry| entry.digest).collect();
    (!digests.is_empty()).then_some(Lacking { digests, names })
}

/// The platform that an image configuration names (OCI config.md: architecture, os, variant).
///
/// # Errors
/// `Corrupt` when `config` is not such a document.
pub fn config_platform(config: &[u8]) -> Result<Platform> {
    serde_json::from_slice(config).map_err(|error| {
        Error::new(ErrorKind::Corrupt, Digest::of(config), format!("not an image configuration: {error}"))
    })
}

/// All fields that any of the kinds has: the kind is decided from what is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn read(bytes: &[u8], digest: Digest, content_type: Option<&str>) -> Result<(String, Manifest)> {
    let refuse = |kind, message: String| Error::new(kind, format!("manifest {digest}"), message);
    let header = content_type.map(media_type::essence);
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(refuse(
            ErrorKind::Corrupt,
            format!("{} bytes is more than the {MAX_MANIFEST_SIZE} a manifest may have", bytes.len()),
        ));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| {
        let served = header.as_deref().map(|header| format!(" (served as {header:?})")).unwrap_or_default();
        refuse(ErrorKind::Corrupt, format!("not a manifest{served}: {error}"))
    })?;
    let declared = document.media_type.clone();
    let named = declared.as_deref().or(header.as_deref()).unwrap_or_default();
    if media_type::is_schema1(named) || document.schema_version == Some(1) || document.fs_layers.is_some() {
        return Err(refuse(
            ErrorKind::Unsupported,
            "a Docker schema 1 manifest: an obsolete format whose content cannot be verified".into(),
        )
        .with_hint("push the image again with a current client, which makes schema 2 or OCI"));
    }
    match (document.manifests, document.config, document.layers) {
        // A document that reads as both kinds would mean different things to different
        // readers (CVE-2021-41190): nobody honest makes one.
        (Some(_), _, Some(_)) | (Some(_), Some(_), _) => {
            Err(refuse(ErrorKind::Corrupt, "both an index and an image manifest".into()))
        }
        (Some(manifests), None, None) => {
            let media_type = settle(named, declared.is_some(), media_type::is_index, media_type::OCI_INDEX)
                .ok_or_else(|| {
                refuse(ErrorKind::Unsupported, format!("an index of media type {named:?}"))
            })?;
            Ok((media_type, Manifest::Index(Index { manifests, subject: document.subject.map(Box::new) })))
        }
        (None, Some(config), layers) => {
            let fallback = if config.media_type == media_type::DOCKER_CONFIG {
                media_type::DOCKER_MANIFEST
            } else {
                media_type::OCI_MANIFEST
            };
            let media_type = settle(named, declared.is_some(), media_type::is_manifest, fallback)
                .ok_or_else(|| {
                    refuse(ErrorKind::Unsupported, format!("a manifest of media type {named:?}"))
                })?;
            let layers = layers.unwrap_or_default();
            let image = ImageManifest {
                config,
                layers,
                subject: document.subject,
                artifact_type: document.artifact_type,
            };
            Ok((media_type, Manifest::Image(Box::new(image))))
        }
        (None, None, _) => Err(refuse(
            ErrorKind::Unsupported,
            format!("a document of media type {named:?} with neither config nor manifests"),
        )),
    }
}

/// The media type to keep: `named` when it fits the document's shape; the fallback when the
/// document declares none and the header was generic (some servers say application/json).
fn settle(named: &str, declared: bool, fits: fn(&str) -> bool, fallback: &str) -> Option<String> {
    if fits(named) {
        Some(named.to_owned())
    } else if !declared {
        Some(fallback.to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str, content_type: Option<&str>) -> Result<RawManifest> {
        RawManifest::new(Bytes::copy_from_slice(json.as_bytes()), content_type)
    }

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":2}}"#, Digest::of(b"{}"))
    }

    #[test]
    fn content_is_a_manifest_only_under_its_own_digest() {
        let json = r#"{"schemaVersion":2,"manifests":[]}"#;
        let right = raw(json, None).unwrap();
        let (found, manifest) = RawManifest::verified(json.into(), right.digest).unwrap().unwrap();
        assert_eq!((manifest, &found), (right.parse().unwrap(), &right));
        for other in [json, "not a manifest either"] {
            assert!(
                RawManifest::verified(other.into(), Digest::of(b"another")).unwrap().is_none(),
                "{other}"
            );
        }
        let error = RawManifest::verified("{".into(), Digest::of(b"{")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn media_type_comes_from_document_then_header_then_shape() {
        let docker = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            descriptor(media_type::DOCKER_CONFIG)
        );
        let oci =
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(media_type::OCI_CONFIG));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let named = format!(r#"{{"mediaType":"{}","manifests":[]}}"#, media_type::DOCKER_LIST);
        for (json, header, expect) in [
            (docker.as_str(), None, media_type::DOCKER_MANIFEST),
            (&docker, Some("application/json"), media_type::DOCKER_MANIFEST),
            (&oci, None, media_type::OCI_MANIFEST),
            (
                &oci,
                Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                media_type::DOCKER_MANIFEST,
            ),
            (index, None, media_type::OCI_INDEX),
            (index, Some(media_type::DOCKER_LIST), media_type::DOCKER_LIST),
            (&named, Some(media_type::OCI_INDEX), media_type::DOCKER_LIST),
        ] {
            let raw = raw(json, header).unwrap();
            assert_eq!(raw.media_type, expect, "{json}");
            assert_eq!(raw.digest, Digest::of(json.as_bytes()));
        }
    }

    #[test]
    fn refuses_what_is_not_a_manifest() {
        let both =
            format!(r#"{{"config":{},"layers":[],"manifests":[]}}"#, descriptor(media_type::OCI_CONFIG));
        let odd = r#"{"mediaType":"application/x-odd","manifests":[]}"#;
        for (json, kind) in [
            ("<html>login</html>", ErrorKind::Corrupt),
            ("[]", ErrorKind::Corrupt),
            ("{}", ErrorKind::Unsupported),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, ErrorKind::Unsupported),
            (both.as_str(), ErrorKind::Corrupt),
            (odd, ErrorKind::Unsupported),
            (r#"{"manifests":[],"manifests":[]}"#, ErrorKind::Corrupt),
        ] {
            assert_eq!(raw(json, None).unwrap_err().kind(), kind, "{json}");
        }
        assert_eq!(
            raw("{}", Some(media_type::DOCKER_SCHEMA1_SIGNED)).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
        assert_eq!(raw(&deep, None).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
