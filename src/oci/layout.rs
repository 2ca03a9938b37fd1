//! The documents of an OCI image layout (OCI image-layout.md): the marker, `index.json`, and the paths of blobs.
//!
//! Annotations name the entries of `index.json`, and tools disagree on their content:
//! `org.opencontainers.image.ref.name` is a tag (skopeo, buildah, umoci, oras, regctl) or a full name (podman,
//! crane); containerd and Docker also write the full name to `io.containerd.image.name`. saver writes the full name
//! to both, so that one layout can hold many images, or on request the tag to the first and the full name to the
//! second.

use super::descriptor::{Descriptor, DescriptorDocument};
use super::digest::Digest;
use super::json::{self, StringMap};
use super::media_type;
use super::name::{Repository, Tag};
use super::reference::Reference;
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The file that marks a directory as an image layout.
pub const MARKER: &str = "oci-layout";
/// The content of the marker.
pub const MARKER_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The file that lists the images of a layout.
pub const INDEX: &str = "index.json";
/// The maximum size of an `index.json` that is read, in bytes.
pub const MAX_INDEX_SIZE: u64 = 16 << 20;
/// The most entries of `index.json` that are accepted.
pub const MAX_ENTRIES: usize = 20_000;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The path of the blob `digest`.
#[must_use]
pub fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Checks the content of the marker.
///
/// # Errors
/// `Corrupt` if it is not a marker, `Unsupported` for another major version.
pub fn check_marker(content: &[u8]) -> Result<()> {
    let read: Value = serde_json::from_slice(content).map_err(|error| {
        Error::new(ErrorKind::Corrupt, MARKER, format!("cannot parse the image layout's marker: {error}"))
    })?;
    match read["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        version => {
            let version = version.unwrap_or("unknown");
            let message = format!("unsupported image layout version {version} (supported: 1.x)");
            Err(Error::new(ErrorKind::Unsupported, MARKER, message))
        }
    }
}

/// An image listed by a layout or an archive.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// The name as written; empty if it has none.
    pub label: String,
    /// The parsed name, if the label is a full one.
    pub reference: Option<Reference>,
    /// The tag, if the label is only a tag.
    pub tag: Option<Tag>,
    /// The manifest or index, or why the entry is unusable.
    pub root: Result<Descriptor>,
}

impl ListedImage {
    /// The image `root` with the name `label`.
    #[must_use]
    pub fn full(label: &str, root: Result<Descriptor>) -> Self {
        Self { label: label.to_owned(), reference: Reference::parse(label).ok(), tag: None, root }
    }

    /// The image that the `number`th entry of `index.json` describes.
    fn of_entry(number: usize, entry: &Value) -> Self {
        let invalid = |kind, error: &dyn std::fmt::Display| {
            Error::new(kind, INDEX, format!("cannot parse entry {}: {error}", number + 1))
        };
        let root = match json::from_value::<DescriptorDocument>(entry) {
            Ok(entry) => entry.supported().map_err(|entry| invalid(ErrorKind::Unsupported, &entry.error)),
            Err(error) => Err(invalid(ErrorKind::Corrupt, &error)),
        };
        if let Some(full) = annotation(entry, CONTAINERD_NAME).filter(|name| Reference::parse(name).is_ok()) {
            return Self::full(full, root);
        }
        let label = annotation(entry, REF_NAME).unwrap_or_default();
        if label.contains(['/', ':', '@']) {
            return Self::full(label, root);
        }
        Self { label: label.to_owned(), reference: None, tag: label.parse().ok(), root }
    }

    /// Whether `repository:tag` names this image, in whatever registry.
    #[must_use]
    pub fn is(&self, repository: &Repository, tag: &Tag) -> bool {
        let named = |name: &Reference| name.repository == *repository && name.tag.as_ref() == Some(tag);
        self.label == format!("{repository}:{tag}") || self.reference.as_ref().is_some_and(named)
    }
}

/// What the `org.opencontainers.image.ref.name` of an entry contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefNameStyle {
    /// The full name, so that a layout can hold images of many repositories: for podman, skopeo and umoci.
    #[default]
    Full,
    /// Only the tag, as oras, regctl and `skopeo copy oci:DIR:TAG` look it up. No two images may share one.
    Tag,
}

/// The names of an entry in `index.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// The full name, `io.containerd.image.name`.
    pub full: String,
    /// `org.opencontainers.image.ref.name`.
    pub ref_name: String,
}

impl EntryName {
    /// The names of `reference`, without its digest if it has a tag.
    #[must_use]
    pub fn new(reference: &Reference, style: RefNameStyle) -> Self {
        let Reference { registry, repository, tag, digest } = reference;
        let full = match (tag, digest) {
            (Some(tag), _) => format!("{registry}/{repository}:{tag}"),
            (None, Some(digest)) => format!("{registry}/{repository}@{digest}"),
            (None, None) => format!("{registry}/{repository}"),
        };
        match (style, tag) {
            (RefNameStyle::Tag, Some(tag)) => Self { full, ref_name: tag.to_string() },
            _ => Self::from(full),
        }
    }
}

impl EntryName {
    /// The name of another tag of the same repository.
    #[must_use]
    pub fn sibling(&self, tag: &Tag) -> Self {
        let start = self.full.rfind('/').map_or(0, |slash| slash + 1);
        let end = self.full[start..].find([':', '@']).map_or(self.full.len(), |end| start + end);
        let full = format!("{}:{tag}", &self.full[..end]);
        if self.ref_name == self.full { Self::from(full) } else { Self { full, ref_name: tag.to_string() } }
    }
}

impl From<String> for EntryName {
    fn from(full: String) -> Self {
        Self { ref_name: full.clone(), full }
    }
}

/// The fields of an `index.json` as other readers unmarshal them; the entries are checked one by one.
#[derive(Deserialize)]
struct IndexDocument {
    #[serde(rename = "schemaVersion")]
    _schema_version: Option<i64>,
    #[serde(rename = "mediaType")]
    _media_type: Option<String>,
    #[serde(rename = "artifactType")]
    _artifact_type: Option<String>,
    #[serde(rename = "manifests")]
    _manifests: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::or_default", rename = "annotations")]
    _annotations: StringMap,
}

/// The `index.json` of a layout. Fields and entries that saver does not know are preserved.
#[derive(Clone, Debug)]
pub struct LayoutIndex {
    document: Map<String, Value>,
}

impl Default for LayoutIndex {
    fn default() -> Self {
        let mut document = Map::new();
        document.insert("schemaVersion".into(), 2.into());
        document.insert("mediaType".into(), media_type::OCI_INDEX.into());
        document.insert("manifests".into(), Value::Array(Vec::new()));
        Self { document }
    }
}

impl LayoutIndex {
    /// Parses the document.
    ///
    /// # Errors
    /// `Corrupt` if it is not an index.
    pub fn parse(content: &[u8]) -> Result<Self> {
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, INDEX, message);
        let invalid = |error: serde_json::Error| corrupt(format!("cannot parse the index: {error}"));
        json::from_slice::<IndexDocument>(content).map_err(invalid)?;
        let mut document: Map<String, Value> = serde_json::from_slice(content).map_err(invalid)?;
        match document.entry("manifests").or_insert(Value::Null) {
            Value::Array(entries) if entries.len() <= MAX_ENTRIES => Ok(Self { document }),
            Value::Array(_) => Err(corrupt(format!("more than {MAX_ENTRIES} entries"))),
            // Go writes an empty list as null.
            Value::Null => {
                document.insert("manifests".into(), Value::Array(Vec::new()));
                Ok(Self { document })
            }
            _ => Err(corrupt("\"manifests\" is not a list".into())),
        }
    }

    fn entries(&self) -> &[Value] {
        self.document.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The listed images, in the document's order.
    #[must_use]
    pub fn images(&self) -> Vec<ListedImage> {
        let numbered = self.entries().iter().enumerate();
        numbered.map(|(number, entry)| ListedImage::of_entry(number, entry)).collect()
    }

    /// Lists `root` as `name` and replaces the entry that had the name; an entry of the same content without a name
    /// gets it. Returns whether that changed anything. New entries are sorted by name, so that the document does
    /// not depend on the order of additions.
    ///
    /// # Errors
    /// `InvalidInput` if the entry of another image has the same `org.opencontainers.image.ref.name`.
    pub fn set(&mut self, name: &EntryName, root: &Descriptor) -> Result<bool> {
        let Some(Value::Array(entries)) = self.document.get_mut("manifests") else { return Ok(false) };
        let full = name.full.as_str();
        if name.ref_name != name.full
            && let Some(other) = entries.iter().find(|entry| {
                annotation(entry, REF_NAME) == Some(name.ref_name.as_str())
                    && !label(entry).is_some_and(|label| same_name(label, full))
            })
        {
            let other = label(other).unwrap_or_default();
            let message = format!("another image in {INDEX} ({other}) is named {:?} already", name.ref_name);
            return Err(Error::new(ErrorKind::InvalidInput, full, message)
                .with_hint("write full names (--ref-name full), or export to another directory"));
        }
        let has_digest = |entry: &Value| entry["digest"] == root.digest.to_string().as_str();
        let matches = |entry: &Value| match label(entry) {
            Some(label) => same_name(label, full),
            None => has_digest(entry),
        };
        let Some(position) = entries.iter().position(matches) else {
            let is_after = |entry: &Value| label(entry).is_some_and(|label| label > full);
            let unnamed = entries.iter().rev().take_while(|entry| label(entry).is_none()).count();
            let position = entries.iter().position(is_after).unwrap_or(entries.len() - unnamed);
            entries.insert(position, new_entry(name, root));
            return Ok(true);
        };
        let count = entries.len();
        let mut number = 0;
        entries.retain(|entry| {
            number += 1;
            number - 1 <= position || !label(entry).is_some_and(|label| same_name(label, full))
        });
        let old = &entries[position];
        let new = if has_digest(old) { with_name(old, name) } else { new_entry(name, root) };
        let changed = *old != new || entries.len() != count;
        entries[position] = new;
        Ok(changed)
    }

    /// Lists `referrer` without a name, unless it is listed already. Returns whether that changed anything. Such entries come last,
    /// sorted by digest.
    pub fn add_referrer(&mut self, referrer: &Descriptor) -> bool {
        let Some(Value::Array(entries)) = self.document.get_mut("manifests") else { return false };
        let digest = referrer.digest.to_string();
        if entries.iter().any(|entry| entry["digest"] == digest.as_str()) {
            return false;
        }
        // Without annotations, which could name another image.
        let plain = Descriptor { annotations: BTreeMap::new(), ..referrer.clone() };
        let is_after = |entry: &Value| {
            label(entry).is_none() && entry["digest"].as_str().is_some_and(|other| other > digest.as_str())
        };
        let position = entries.iter().position(is_after).unwrap_or(entries.len());
        entries.insert(position, json!(plain));
        true
    }

    /// The digest of the image `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Digest> {
        let has_name = |entry: &&Value| label(entry).is_some_and(|label| same_name(label, name));
        self.entries().iter().find(has_name)?["digest"].as_str()?.parse().ok()
    }

    /// The serialized document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.document.clone()).to_string().into_bytes()
    }
}

fn annotation<'e>(entry: &'e Value, key: &str) -> Option<&'e str> {
    entry["annotations"][key].as_str().filter(|text| !text.is_empty())
}

/// The name of an entry.
fn label(entry: &Value) -> Option<&str> {
    annotation(entry, CONTAINERD_NAME).or_else(|| annotation(entry, REF_NAME))
}

/// Whether two names denote the same image: `nginx:1` is `docker.io/library/nginx:1`, but a tag alone is not a name.
fn same_name(label: &str, name: &str) -> bool {
    let full = |text: &str| text.contains(['/', ':']).then(|| Reference::parse(text).ok()).flatten();
    label == name || full(label).is_some_and(|label| Some(label) == full(name))
}

fn new_entry(name: &EntryName, root: &Descriptor) -> Value {
    let entry = json!({ "mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size });
    with_name(&entry, name)
}

fn with_name(entry: &Value, name: &EntryName) -> Value {
    let mut entry = entry.clone();
    if !entry["annotations"].is_object() {
        entry["annotations"] = json!({});
    }
    entry["annotations"][REF_NAME] = name.ref_name.as_str().into();
    entry["annotations"][CONTAINERD_NAME] = name.full.as_str().into();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(full: &str) -> EntryName {
        EntryName::from(full.to_owned())
    }

    fn root(content: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(content.as_bytes()), content.len() as u64)
    }

    fn labels(index: &LayoutIndex) -> Vec<String> {
        index.images().into_iter().map(|image| image.label).collect()
    }

    #[test]
    fn referrers_follow_names_in_any_order_of_addition() {
        let build = |order: &[&str]| {
            let mut index = LayoutIndex::default();
            for content in order {
                let mut entry = root(content);
                entry.annotations.insert(REF_NAME.into(), "evil".into());
                let named = content.starts_with("image").then(|| name(&format!("r.io/{content}:1")));
                match named {
                    Some(named) => assert!(index.set(&named, &root(content)).unwrap()),
                    None => assert!(index.add_referrer(&entry)),
                }
            }
            assert!(!index.add_referrer(&root("sbom")));
            index
        };
        let one = build(&["image-a", "sbom", "signature", "image-b"]);
        assert_eq!(labels(&one), ["r.io/image-a:1", "r.io/image-b:1", "", ""]);
        assert_eq!(build(&["signature", "image-b", "sbom", "image-a"]).to_bytes(), one.to_bytes());
    }

    #[test]
    fn sibling_has_another_tag_of_the_repository() {
        let tag: Tag = "sha256-x.sig".parse().unwrap();
        for (full, ref_name, expect) in [
            ("r.io:5000/a/b:v1", None, ("r.io:5000/a/b:sha256-x.sig", "r.io:5000/a/b:sha256-x.sig")),
            ("r.io/b@sha256:00", None, ("r.io/b:sha256-x.sig", "r.io/b:sha256-x.sig")),
            ("r.io/b:v1", Some("v1"), ("r.io/b:sha256-x.sig", "sha256-x.sig")),
        ] {
            let name = EntryName { full: full.into(), ref_name: ref_name.unwrap_or(full).into() };
            let sibling = name.sibling(&tag);
            assert_eq!((&*sibling.full, &*sibling.ref_name), expect, "{full}");
        }
    }

    #[test]
    fn image_name_is_read_from_either_annotation() {
        for (annotations, full, tag) in [
            (json!({}), None, None),
            (json!({ REF_NAME: "1.27" }), None, Some("1.27")),
            (json!({ REF_NAME: "latest" }), None, Some("latest")),
            (json!({ REF_NAME: "quay.io/a/b:v1" }), Some("quay.io/a/b:v1"), None),
            (json!({ REF_NAME: "nginx:1" }), Some("docker.io/library/nginx:1"), None),
            (
                json!({ REF_NAME: "1", CONTAINERD_NAME: "docker.io/library/nginx:1" }),
                Some("docker.io/library/nginx:1"),
                None,
            ),
            (json!({ REF_NAME: "v1", CONTAINERD_NAME: "!" }), None, Some("v1")),
            (json!({ REF_NAME: "../../etc" }), None, None),
        ] {
            let mut entry = new_entry(&name("x"), &root("x"));
            entry["annotations"] = annotations.clone();
            let text = json!({ "manifests": [entry] }).to_string();
            let image = LayoutIndex::parse(text.as_bytes()).unwrap().images().remove(0);
            assert_eq!(image.reference.map(|name| name.to_string()).as_deref(), full, "{annotations}");
            assert_eq!(image.tag.map(|tag| tag.to_string()).as_deref(), tag, "{annotations}");
        }
    }

    #[test]
    fn name_is_listed_once_and_other_entries_are_kept() {
        let text = json!({
            "schemaVersion": 2, "odd": {"kept": true},
            "manifests": [
                { "digest": "sha512:abc", "size": 1, "odd": 1 },
                new_entry(&name("docker.io/library/b:1"), &root("old")),
                { "digest": root("bare").digest.to_string(), "size": 4, "mediaType": "m" },
                new_entry(&name("b:1"), &root("older")),
            ]
        });
        let mut index = LayoutIndex::parse(text.to_string().as_bytes()).unwrap();
        for (label, content, changes) in [
            ("docker.io/library/b:1", "new", true),
            ("docker.io/library/b:1", "new", false),
            ("docker.io/library/bare:1", "bare", true),
            ("docker.io/library/a:1", "new", true),
        ] {
            assert_eq!(index.set(&name(label), &root(content)).unwrap(), changes, "{label}");
        }
        assert_eq!(index.find("b:1"), Some(root("new").digest));
        let written: Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        assert_eq!(written["odd"]["kept"], true);
        let entries = written["manifests"].as_array().unwrap();
        assert_eq!(entries[0]["odd"], 1);
        let names: Vec<_> = entries.iter().map(label).collect();
        let expect = ["docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/bare:1"];
        assert_eq!(names, [&[None][..], &expect.map(Some)].concat());
        assert_eq!(entries[3]["mediaType"], "m");
    }

    #[test]
    fn index_does_not_depend_on_order_of_additions() {
        let names = ["a.io/x:1", "b.io/x:1", "c.io/x:1"];
        let of = |order: [usize; 3]| {
            let mut index = LayoutIndex::default();
            for at in order {
                index.set(&name(names[at]), &root(names[at])).unwrap();
            }
            assert_eq!(labels(&index), names);
            index.to_bytes()
        };
        assert_eq!(of([0, 1, 2]), of([2, 1, 0]));
        assert_eq!(of([0, 1, 2]), of([1, 2, 0]));
    }

    #[test]
    fn tag_as_ref_name_must_be_unique() {
        let reference = |text: &str| Reference::parse(text).unwrap();
        let tagged = |text: &str| EntryName::new(&reference(text), RefNameStyle::Tag);
        let mut index = LayoutIndex::default();
        assert!(index.set(&tagged("q.io/a:1"), &root("a")).unwrap());
        assert!(index.set(&tagged("q.io/b:2"), &root("b")).unwrap());
        assert!(!index.set(&tagged("q.io/a:1"), &root("a")).unwrap());
        let refused = index.set(&tagged("q.io/c:1"), &root("c")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("q.io/a:1"), "{refused}");
        assert!(index.set(&EntryName::new(&reference("q.io/c:1"), RefNameStyle::Full), &root("c")).unwrap());
        let names = index.entries().iter().map(|entry| annotation(entry, REF_NAME).unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["1", "2", "q.io/c:1"]);
        assert_eq!(labels(&index), ["q.io/a:1", "q.io/b:2", "q.io/c:1"]);
    }

    #[test]
    fn document_that_is_no_layout_is_refused() {
        for bad in [
            "",
            "[]",
            r#"{"manifests":{}}"#,
            r#"{"manifests":"x"}"#,
            r#"{"Manifests":[]}"#,
            r#"{"annotations":{"a":1}}"#,
        ] {
            assert!(LayoutIndex::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(labels(&LayoutIndex::parse(br#"{"manifests":null}"#).unwrap()).is_empty());
        for (entry, kind) in [
            (r#"{"digest":"sha256:../x","size":1}"#, ErrorKind::Corrupt),
            (r#"{"Digest":"sha256:ab","size":1}"#, ErrorKind::Corrupt),
            (r#"{"digest":"sha512:ab","size":1}"#, ErrorKind::Unsupported),
        ] {
            let index = LayoutIndex::parse(format!(r#"{{"manifests":[{entry}]}}"#).as_bytes()).unwrap();
            assert_eq!(index.images()[0].root.as_ref().unwrap_err().kind(), kind, "{entry}");
        }
        assert!(check_marker(MARKER_CONTENT).is_ok());
        for bad in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
            assert!(check_marker(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
