//! The documents of an OCI image layout (OCI image-layout.md): the marker, `index.json`, and where blobs stand.
//!
//! An entry of `index.json` is named by annotations. Tools differ in what they write there: `org.opencontainers.image.ref.name` is a
//! tag alone (skopeo, buildah, umoci) or a full name (podman, crane); containerd and Docker write the full name beside it
//! in `io.containerd.image.name`. What saver writes has the full name in both, so that many images in one layout can be told apart.

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::media_type;
use super::name::{Repository, Tag};
use super::reference::Reference;
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

/// The file that says that a directory is an image layout.
pub const MARKER: &str = "oci-layout";
/// The marker's content.
pub const MARKER_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The file that lists what is in a layout.
pub const INDEX: &str = "index.json";
/// The largest `index.json` that is read, in bytes.
pub const MAX_INDEX_SIZE: u64 = 16 << 20;
/// The most entries of an `index.json` that are read.
pub const MAX_ENTRIES: usize = 20_000;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where the content of `digest` stands.
#[must_use]
pub fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Makes sure that `content`, of the marker, is that of a layout that saver knows.
///
/// # Errors
/// `Corrupt` for no such document, `Unsupported` for another major version.
pub fn check_marker(content: &[u8]) -> Result<()> {
    let read: Value = serde_json::from_slice(content).map_err(|error| {
        Error::new(ErrorKind::Corrupt, MARKER, format!("it is not what marks an image layout: {error}"))
    })?;
    match read["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        version => {
            let why = format!("an image layout of version {version:?}; only version 1 is known");
            Err(Error::new(ErrorKind::Unsupported, MARKER, why))
        }
    }
}

/// An image that a layout or an archive offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What it is called there, as it is written; empty when it has no name.
    pub label: String,
    /// Its name, where the label is a full one.
    pub reference: Option<Reference>,
    /// Its tag, where the label is a tag alone.
    pub tag: Option<Tag>,
    /// Its manifest or index, or what is wrong with it.
    pub root: Result<Descriptor>,
}

impl Offer {
    /// The image `root` under the full name `label`, if it is one.
    #[must_use]
    pub fn full(label: &str, root: Result<Descriptor>) -> Self {
        Self { label: label.to_owned(), reference: Reference::parse(label).ok(), tag: None, root }
    }

    /// The image that an entry of `index.json` stands for.
    fn of_entry(number: usize, entry: &Value) -> Self {
        let root = <Descriptor as serde::Deserialize>::deserialize(entry).map_err(|error| {
            let why = format!("entry {} cannot be read: {error}", number + 1);
            Error::new(ErrorKind::Corrupt, INDEX, why)
        });
        if let Some(full) = annotation(entry, CONTAINERD_NAME).filter(|name| Reference::parse(name).is_ok()) {
            return Self::full(full, root);
        }
        let label = annotation(entry, REF_NAME).unwrap_or_default();
        if label.contains(['/', ':', '@']) {
            return Self::full(label, root);
        }
        Self { label: label.to_owned(), reference: None, tag: label.parse().ok(), root }
    }

    /// Whether this is what `repository:tag` is called here, from whatever registry.
    #[must_use]
    pub fn is(&self, repository: &Repository, tag: &Tag) -> bool {
        let named = |name: &Reference| name.repository == *repository && name.tag.as_ref() == Some(tag);
        self.label == format!("{repository}:{tag}") || self.reference.as_ref().is_some_and(named)
    }
}

/// An `index.json`. What saver does not know of it is kept.
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
    /// Reads the document.
    ///
    /// # Errors
    /// `Corrupt` for what is none.
    pub fn parse(content: &[u8]) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::Corrupt, INDEX, why);
        let mut document: Map<String, Value> = serde_json::from_slice(content)
            .map_err(|error| refuse(format!("it is not the index of an image layout: {error}")))?;
        match document.entry("manifests").or_insert(Value::Null) {
            Value::Array(entries) if entries.len() <= MAX_ENTRIES => Ok(Self { document }),
            Value::Array(_) => Err(refuse(format!("it has more than {MAX_ENTRIES} entries"))),
            // Go writes an empty list so.
            Value::Null => {
                document.insert("manifests".into(), Value::Array(Vec::new()));
                Ok(Self { document })
            }
            _ => Err(refuse("its manifests are not a list".into())),
        }
    }

    fn entries(&self) -> &[Value] {
        self.document.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The images that are listed, in order.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        self.entries().iter().enumerate().map(|(number, entry)| Offer::of_entry(number, entry)).collect()
    }

    /// Lists `root` as `name`, in place of what had the name; an entry of the same content without a name gets it. Answers whether that
    /// changed anything. New entries stand in the order of their names, so that the document does not tell in which order they came.
    pub fn set(&mut self, name: &str, root: &Descriptor) -> bool {
        let Some(Value::Array(entries)) = self.document.get_mut("manifests") else { return false };
        let digest = root.digest.to_string();
        let is_it = |entry: &Value| entry["digest"] == digest.as_str();
        let takes = |entry: &Value| match label(entry) {
            Some(label) => same_name(label, name),
            None => is_it(entry),
        };
        let Some(place) = entries.iter().position(takes) else {
            let after = |entry: &Value| label(entry).is_some_and(|label| label > name);
            let place = entries.iter().position(after).unwrap_or(entries.len());
            entries.insert(place, entry_of(name, root));
            return true;
        };
        let mut number = 0;
        let before = entries.len();
        entries.retain(|entry| {
            number += 1;
            number - 1 <= place || !label(entry).is_some_and(|label| same_name(label, name))
        });
        let new = if is_it(&entries[place]) { named(&entries[place], name) } else { entry_of(name, root) };
        let changed = entries[place] != new || entries.len() != before;
        entries[place] = new;
        changed
    }

    /// The digest that is listed as `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Digest> {
        let entry = self.entries().iter().find(|entry| label(entry).is_some_and(|l| same_name(l, name)))?;
        entry["digest"].as_str()?.parse().ok()
    }

    /// The document as it is written.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.document.clone()).to_string().into_bytes()
    }
}

fn annotation<'e>(entry: &'e Value, key: &str) -> Option<&'e str> {
    entry["annotations"][key].as_str().filter(|text| !text.is_empty())
}

/// What an entry is called.
fn label(entry: &Value) -> Option<&str> {
    annotation(entry, CONTAINERD_NAME).or_else(|| annotation(entry, REF_NAME))
}

/// Whether two names are one image's: `nginx:1` is `docker.io/library/nginx:1`, but a tag alone is no name.
fn same_name(label: &str, name: &str) -> bool {
    let full = |text: &str| text.contains(['/', ':']).then(|| Reference::parse(text).ok()).flatten();
    label == name || full(label).is_some_and(|label| Some(label) == full(name))
}

fn entry_of(name: &str, root: &Descriptor) -> Value {
    let entry = json!({ "mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size });
    named(&entry, name)
}

fn named(entry: &Value, name: &str) -> Value {
    let mut entry = entry.clone();
    if !entry["annotations"].is_object() {
        entry["annotations"] = json!({});
    }
    for key in [REF_NAME, CONTAINERD_NAME] {
        entry["annotations"][key] = name.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(content: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(content.as_bytes()), content.len() as u64)
    }

    fn labels(index: &LayoutIndex) -> Vec<String> {
        index.offers().into_iter().map(|offer| offer.label).collect()
    }

    #[test]
    fn names_are_found_where_tools_write_them() {
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
            let mut entry = entry_of("x", &root("x"));
            entry["annotations"] = annotations.clone();
            let text = json!({ "manifests": [entry] }).to_string();
            let offer = LayoutIndex::parse(text.as_bytes()).unwrap().offers().remove(0);
            assert_eq!(offer.reference.map(|name| name.to_string()).as_deref(), full, "{annotations}");
            assert_eq!(offer.tag.map(|tag| tag.to_string()).as_deref(), tag, "{annotations}");
        }
    }

    #[test]
    fn a_name_is_listed_once_and_the_rest_is_kept() {
        let text = json!({
            "schemaVersion": 2, "odd": {"kept": true},
            "manifests": [
                { "digest": "sha512:abc", "size": 1, "odd": 1 },
                entry_of("docker.io/library/b:1", &root("old")),
                { "digest": root("bare").digest.to_string(), "size": 4, "mediaType": "m" },
                entry_of("b:1", &root("older")),
            ]
        });
        let mut index = LayoutIndex::parse(text.to_string().as_bytes()).unwrap();
        assert!(index.set("docker.io/library/b:1", &root("new")));
        assert!(!index.set("docker.io/library/b:1", &root("new")));
        assert!(index.set("docker.io/library/bare:1", &root("bare")));
        assert!(index.set("docker.io/library/a:1", &root("new")));
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
    fn the_order_of_additions_leaves_no_trace() {
        let names = ["a.io/x:1", "b.io/x:1", "c.io/x:1"];
        let of = |order: [usize; 3]| {
            let mut index = LayoutIndex::default();
            for at in order {
                index.set(names[at], &root(names[at]));
            }
            assert_eq!(labels(&index), names);
            index.to_bytes()
        };
        assert_eq!(of([0, 1, 2]), of([2, 1, 0]));
        assert_eq!(of([0, 1, 2]), of([1, 2, 0]));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        for bad in ["", "[]", r#"{"manifests":{}}"#, r#"{"manifests":"x"}"#] {
            assert!(LayoutIndex::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(labels(&LayoutIndex::parse(br#"{"manifests":null}"#).unwrap()).is_empty());
        let bad = LayoutIndex::parse(br#"{"manifests":[{"digest":"sha256:../x","size":1}]}"#).unwrap();
        assert!(bad.offers()[0].root.is_err());
        assert!(check_marker(MARKER_CONTENT).is_ok());
        for bad in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
            assert!(check_marker(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
