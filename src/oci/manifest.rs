//! Manifests and indexes: the raw bytes as served, and their parsed form.
//!
//! The digest is of the bytes, so the bytes are kept and never serialised again from the parsed form
//! (OCI image spec manifest.md, image-index.md; Docker "Image Manifest Version 2, Schema 2").

use super::descriptor::{Descriptor, DescriptorDocument, UnsupportedEntry};
use super::digest::Digest;
use super::json::{self, StringMap, or_default};
use super::media_type;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// The largest manifest or index that is accepted, in bytes: the limit of registries.
pub const MAX_MANIFEST_SIZE: u64 = 4 << 20;
/// The maximum number of levels of nested indexes.
pub const MAX_INDEX_DEPTH: usize = 4;

/// A manifest or index exactly as it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest of `bytes`: computed, never taken from a header.
    pub digest: Digest,
    /// The media type: from the document, else from the Content-Type header, else derived from the fields.
    pub media_type: String,
    /// The document.
    pub bytes: Bytes,
}

impl RawManifest {
    /// Hashes and checks a document; `content_type` is the header's value, if there was one.
    ///
    /// A document is accepted only if distribution 2.8 and 3.x can unmarshal it too: they answer 500 for one that they cannot,
    /// and their garbage collection then fails for the whole tree.
    ///
    /// # Errors
    /// `Unsupported` for schema 1, unknown media types and digest algorithms; `Corrupt` for what is not a valid manifest.
    pub fn new(bytes: Bytes, content_type: Option<&str>) -> Result<Self> {
        let digest = Digest::of(&bytes);
        let (media_type, _) = read(&bytes, digest, content_type)?;
        Ok(Self { digest, media_type, bytes })
    }

    /// As [`RawManifest::new`], for a document that was requested by digest. One that has that digest and is not valid is
    /// `Unsupported`: the bytes are right, so that another request would return the same.
    ///
    /// # Errors
    /// As [`RawManifest::new`].
    pub fn expecting(bytes: Bytes, content_type: Option<&str>, digest: Option<Digest>) -> Result<Self> {
        let found = Digest::of(&bytes);
        match read(&bytes, found, content_type) {
            Ok((media_type, _)) => Ok(Self { digest: found, media_type, bytes }),
            Err(error) if digest == Some(found) && error.kind() == ErrorKind::Corrupt => {
                Err(Error::new(ErrorKind::Unsupported, error.subject(), error.message()))
            }
            Err(error) => Err(error),
        }
    }

    /// The manifest of `digest`, and its parsed form; `None` if `bytes` have another digest, without parsing them.
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

    /// The parsed document.
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
    /// The manifest that this one refers to, such as the image that a signature signs.
    pub subject: Option<Descriptor>,
    /// The artifact type, where the manifest declares one.
    pub artifact_type: Option<String>,
}

impl ImageManifest {
    /// Whether this is a runnable image, which may name a platform, and not a Helm chart or another artifact.
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
    /// Entries whose digest is of an unsupported algorithm.
    pub unsupported: Vec<UnsupportedEntry>,
    /// The manifest that this one refers to.
    pub subject: Option<Box<Descriptor>>,
}

/// The entries of an index that were left out.
#[derive(Clone, Debug)]
pub struct OmittedEntries {
    /// The manifests.
    pub digests: Vec<Digest>,
    /// Their platforms for display, or their number if none is named.
    pub names: String,
}

/// The entries of `raw` that are not among `manifests`; `None` if it is no index or is complete.
#[must_use]
pub fn omitted(raw: &RawManifest, manifests: &[Arc<RawManifest>]) -> Option<OmittedEntries> {
    let Ok(Manifest::Index(index)) = raw.parse() else { return None };
    let present: HashSet<Digest> = manifests.iter().map(|raw| raw.digest).collect();
    let entries: Vec<&Descriptor> =
        index.manifests.iter().filter(|entry| !present.contains(&entry.digest)).collect();
    let count = entries.len() + index.unsupported.len();
    if count == 0 {
        return None;
    }
    let unsupported = index.unsupported.iter().filter_map(|entry| entry.platform.as_ref());
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref()).chain(unsupported);
    let known: BTreeSet<String> =
        platforms.filter(|platform| !platform.is_unknown()).map(ToString::to_string).collect();
    let names = if known.is_empty() {
        format!("{count} of its manifests")
    } else {
        known.into_iter().collect::<Vec<_>>().join(", ")
    };
    Some(OmittedEntries { digests: entries.iter().map(|entry| entry.digest).collect(), names })
}

/// The fields of manifests and indexes alike: which of them are present decides what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<DescriptorDocument>,
    layers: Option<Vec<DescriptorDocument>>,
    manifests: Option<Vec<DescriptorDocument>>,
    subject: Option<DescriptorDocument>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "or_default", rename = "annotations")]
    _annotations: StringMap,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn read(bytes: &[u8], digest: Digest, content_type: Option<&str>) -> Result<(String, Manifest)> {
    let refuse = |kind, message: String| Error::new(kind, format!("manifest {digest}"), message);
    let header = content_type.map(media_type::essence);
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(refuse(
            ErrorKind::Corrupt,
            format!("{} bytes; the most a manifest may have is {MAX_MANIFEST_SIZE}", bytes.len()),
        ));
    }
    let document: Document = json::from_slice(bytes).map_err(|error| {
        let served = header.as_deref().map(|header| format!(" (served as {header:?})")).unwrap_or_default();
        refuse(ErrorKind::Corrupt, format!("not a manifest{served}: {error}"))
    })?;
    let is_declared = document.media_type.is_some();
    let named = document.media_type.as_deref().or(header.as_deref()).unwrap_or_default();
    if media_type::is_schema1(named) || document.schema_version == Some(1) || document.fs_layers.is_some() {
        return Err(refuse(
            ErrorKind::Unsupported,
            "a Docker schema 1 manifest: an obsolete format whose content cannot be verified".into(),
        )
        .with_hint("push the image again with a current client, which creates schema 2 or OCI manifests"));
    }
    let supported = |entry: DescriptorDocument| {
        entry.supported().map_err(|entry| refuse(ErrorKind::Unsupported, entry.error))
    };
    let subject = document.subject.map(supported).transpose()?;
    let is_empty_index =
        media_type::is_index(named) && document.config.is_none() && document.layers.is_none();
    let manifests = document.manifests.or_else(|| is_empty_index.then(Vec::new));
    let (media_type, manifest) = match (manifests, document.config, document.layers) {
        // Clients disagree on what a document is that has the fields of both (CVE-2021-41190).
        (Some(_), _, Some(_)) | (Some(_), Some(_), _) => {
            return Err(refuse(ErrorKind::Corrupt, "both an index and an image manifest".into()));
        }
        (Some(entries), None, None) => {
            let media_type = settle(named, is_declared, media_type::is_index, media_type::OCI_INDEX)
                .ok_or_else(|| {
                    refuse(ErrorKind::Unsupported, format!("unsupported index media type {named:?}"))
                })?;
            let mut index =
                Index { manifests: Vec::new(), unsupported: Vec::new(), subject: subject.map(Box::new) };
            for entry in entries {
                match entry.supported() {
                    Ok(entry) => index.manifests.push(entry),
                    Err(entry) => index.unsupported.push(*entry),
                }
            }
            (media_type, Manifest::Index(index))
        }
        (None, Some(config), layers) => {
            let config = supported(config)?;
            let fallback = if config.media_type == media_type::DOCKER_CONFIG {
                media_type::DOCKER_MANIFEST
            } else {
                media_type::OCI_MANIFEST
            };
            let media_type =
                settle(named, is_declared, media_type::is_manifest, fallback).ok_or_else(|| {
                    refuse(ErrorKind::Unsupported, format!("unsupported manifest media type {named:?}"))
                })?;
            let layers = layers.unwrap_or_default().into_iter().map(supported).collect::<Result<_>>()?;
            let artifact_type = document.artifact_type;
            (media_type, Manifest::Image(Box::new(ImageManifest { config, layers, subject, artifact_type })))
        }
        (None, None, _) => {
            return Err(refuse(
                ErrorKind::Unsupported,
                format!("a document of media type {named:?} with neither config nor manifests"),
            ));
        }
    };
    match document.schema_version {
        Some(2) => Ok((media_type, manifest)),
        Some(version) => Err(refuse(
            ErrorKind::Corrupt,
            format!("schemaVersion is {version}: registries serve only version 2"),
        )),
        None => Err(refuse(
            ErrorKind::Corrupt,
            "schemaVersion is missing: registries cannot serve this document".into(),
        )),
    }
}

/// The media type to record: `named` if it fits the document's fields; the fallback if the document declares none and the
/// header was generic (some servers send application/json).
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
    fn manifest_with_another_digest_is_not_parsed() {
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
    fn media_type_comes_from_document_then_header_then_fields() {
        let docker = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            descriptor(media_type::DOCKER_CONFIG)
        );
        let oci =
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(media_type::OCI_CONFIG));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let named =
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::DOCKER_LIST);
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
    fn invalid_manifests_are_refused() {
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

    /// What distribution's types, and the case-insensitive keys of Go, make of a document.
    #[test]
    fn manifests_are_held_to_the_types_of_other_readers() {
        let config = descriptor(media_type::OCI_CONFIG);
        let layer = |more: &str| {
            let digest = Digest::of(b"");
            format!(r#"{{"mediaType":"m","digest":"{digest}","size":0{more}}}"#)
        };
        let image = |more: &str, layer: &str| {
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{more}}}"#)
        };
        let index = |more: &str, entry: &str| format!(r#"{{"schemaVersion":2,"manifests":[{entry}]{more}}}"#);
        for good in [
            image("", &layer("")),
            image(r#","annotations":null,"subject":null,"mediaType":null,"artifactType":null"#, &layer("")),
            image(
                r#","annotations":{"a":null}"#,
                &layer(r#","annotations":null,"urls":null,"platform":null"#),
            ),
            image("", &layer(r#","annotations":{"a":null},"data":"e30=","unknown":{"Layers":1}"#)),
            index(
                r#","config":null,"layers":null"#,
                &layer(r#","platform":{"os":null,"os.features":["win32k"]}"#),
            ),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":null}}"#, media_type::OCI_INDEX),
        ] {
            let read = raw(&good, None);
            assert!(read.is_ok(), "{good}: {read:?}");
        }
        for bad in [
            image("", &layer("")).replace(r#""schemaVersion":2,"#, ""),
            image("", &layer("")).replace(r#""schemaVersion":2"#, r#""schemaVersion":null"#),
            image("", &layer("")).replace(r#""schemaVersion":2"#, r#""schemaVersion":0"#),
            image("", &layer("")).replace(r#""schemaVersion":2"#, r#""schemaVersion":2.0"#),
            image("", &layer("")).replace(r#""schemaVersion":2"#, r#""schemaVersion":"2""#),
            image(r#","annotations":{"a":1}"#, &layer("")),
            image(r#","Layers":[]"#, &layer("")),
            image(r#","layer\u017f":[]"#, &layer("")),
            image(r#","Subject":null"#, &layer("")),
            image("", &layer(r#","annotations":{"a":1}"#)),
            image("", &layer(r#","data":"!!!""#)),
            image("", &layer(r#","Digest":"x""#)),
            image("", &layer(r#","\u017fize":1"#)),
            image("", &layer(r#","platform":{"os":"b","architecture":"a","variant":1}"#)),
            image("", &layer(r#","urls":"x""#)),
            image("", &layer("").replace(r#""size":0"#, r#""size":0.0"#)),
            index(r#","annotations":[]"#, &layer("")),
            index(r#","Manifests":[]"#, &layer("")),
            index("", &layer(r#","platform":{"os":"linux","features":"x"}"#)),
            index("", &layer(r#","platform":{"os":"linux","os.features":"x"}"#)),
            index("", &layer(r#","platform":{"Architecture":"arm64"}"#)),
            r#"{"schemaVersion":0,"manifests":[]}"#.to_owned(),
        ] {
            let error = raw(&bad, None).expect_err(&bad);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
            let digest = Digest::of(bad.as_bytes());
            let by_digest = RawManifest::expecting(bad.clone().into(), None, Some(digest)).unwrap_err();
            assert_eq!(by_digest.kind(), ErrorKind::Unsupported, "{bad}: another request would not help");
        }
    }

    #[test]
    fn sha512_digest_is_unsupported_and_spoils_no_index() {
        let digest = format!("sha512:{}", "ab".repeat(64));
        let entry =
            format!(r#"{{"digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}}"#);
        let config = descriptor(media_type::OCI_CONFIG);
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{entry}]}}"#);
        let error = raw(&image, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().starts_with("unsupported digest algorithm sha512"), "{error}");
        let index = raw(&format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#), None).unwrap();
        let Manifest::Index(index) = index.parse().unwrap() else { panic!("not an index") };
        assert_eq!((index.manifests.len(), index.unsupported.len()), (0, 1));
        for (wanted, expect) in [("amd64", false), ("s390x", true), ("all", true)] {
            let wanted: crate::oci::PlatformSet = wanted.parse().unwrap();
            assert_eq!(wanted.unsupported(&index).is_some(), expect, "{wanted}");
        }
        for bad in ["sha256:abc", "sha256:../../etc", "SHA512:ab", "sha512:../x", "sha512:", "x"] {
            let entry = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{bad}","size":1}}]}}"#);
            assert_eq!(raw(&entry, None).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn manifest_nesting_depth_is_bounded() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
        assert_eq!(raw(&deep, None).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
