//! A model of how registry 2.8 and distribution 3.x read a tree: which repositories and tags they list, which documents they can
//! unmarshal, and what garbage collection keeps, deletes or fails on. `verify.rs` checks it against the real registry.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V2,
    V3,
}

/// JSON with all keys in order, as a Go decoder sees them.
#[derive(Clone, Debug)]
enum Json {
    Null,
    Bool,
    Integer(i64),
    Number,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The Go types that distribution unmarshals into.
enum GoType {
    Text,
    Integer,
    Bytes,
    TextMap,
    List(&'static GoType),
    Struct(&'static [(&'static str, GoType)]),
}
use GoType::{Bytes, Integer, List, Struct, Text, TextMap};

const TEXTS: GoType = List(&Text);
const PLATFORM: GoType = Struct(&[
    ("architecture", Text),
    ("os", Text),
    ("os.version", Text),
    ("os.features", TEXTS),
    ("variant", Text),
    ("features", TEXTS),
]);
const DESCRIPTOR_V2: GoType = Struct(&[
    ("mediaType", Text),
    ("size", Integer),
    ("digest", Text),
    ("urls", TEXTS),
    ("annotations", TextMap),
    ("platform", PLATFORM),
]);
const DESCRIPTOR_V3: GoType = Struct(&[
    ("mediaType", Text),
    ("size", Integer),
    ("digest", Text),
    ("urls", TEXTS),
    ("annotations", TextMap),
    ("data", Bytes),
    ("platform", PLATFORM),
    ("artifactType", Text),
]);
const MANIFEST_V2: GoType = Struct(&[
    ("schemaVersion", Integer),
    ("mediaType", Text),
    ("config", DESCRIPTOR_V2),
    ("layers", List(&DESCRIPTOR_V2)),
    ("manifests", List(&DESCRIPTOR_V2)),
    ("annotations", TextMap),
]);
const MANIFEST_V3: GoType = Struct(&[
    ("schemaVersion", Integer),
    ("mediaType", Text),
    ("config", DESCRIPTOR_V3),
    ("layers", List(&DESCRIPTOR_V3)),
    ("manifests", List(&DESCRIPTOR_V3)),
    ("annotations", TextMap),
]);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JsonVisitor;
        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Bool)
            }
            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Integer(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(i64::try_from(number).map_or(Json::Number, Json::Integer))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
                Ok(Json::Number)
            }
            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Json::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Json::Object(entries))
            }
        }
        deserializer.deserialize_any(JsonVisitor)
    }
}

/// Whether Go matches the key to the field: case-insensitively, and with the two letters that Unicode folds to ASCII.
fn matches(key: &str, field: &str) -> bool {
    let fold = |text: &str| text.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase();
    fold(key) == fold(field)
}

impl Json {
    /// The value of a field: the last key that matches.
    fn field(&self, name: &str) -> Option<&Json> {
        let Json::Object(entries) = self else { return None };
        entries.iter().rfind(|(key, _)| matches(key, name)).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Json::Text(text)) => text,
            _ => "",
        }
    }

    fn list(&self, name: &str) -> &[Json] {
        match self.field(name) {
            Some(Json::List(items)) => items,
            _ => &[],
        }
    }

    /// Why Go cannot unmarshal it into `expected`.
    fn mismatch(&self, expected: &GoType, at: &str) -> Option<String> {
        match (self, expected) {
            (Json::Null, _) | (Json::Text(_), Text) | (Json::Integer(_), Integer) => None,
            (Json::Text(text), Bytes) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .err()
                    .map(|error| format!("{at}: {error}"))
            }
            (Json::List(items), List(of)) => items.iter().find_map(|item| item.mismatch(of, at)),
            (Json::Object(entries), TextMap) => {
                entries.iter().find_map(|(key, value)| value.mismatch(&Text, &format!("{at}.{key}")))
            }
            (Json::Object(entries), Struct(fields)) => entries.iter().find_map(|(key, value)| {
                let (_, of) = fields.iter().find(|(name, _)| matches(key, name))?;
                value.mismatch(of, &format!("{at}.{key}"))
            }),
            (other, _) => Some(format!("{at}: {other:?}")),
        }
    }
}

/// One repository as a registry reads it.
struct ModelRepository {
    name: String,
    path: PathBuf,
}

/// Which parts of a tree the registry sees.
pub(crate) struct RegistryModel {
    root: PathBuf,
    version: Version,
    marked: BTreeSet<String>,
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The hexadecimal digest in a link file; an error if there is anything else in it.
fn link(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_digest { Ok(hex.to_owned()) } else { Err(format!("{}: invalid link {text:?}", path.display())) }
}

impl RegistryModel {
    pub(crate) fn new(dir: &Path, version: Version) -> Self {
        Self { root: dir.join("docker/registry/v2"), version, marked: BTreeSet::new() }
    }

    fn data(&self, hex: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// The catalog: version 2 goes by `_layers`, version 3 by `_manifests`.
    fn catalog(&self) -> Result<Vec<ModelRepository>, String> {
        let marker = if self.version == Version::V2 { "_layers" } else { "_manifests" };
        let root = self.root.join("repositories");
        let mut found = Vec::new();
        let mut pending = vec![String::new()];
        while let Some(name) = pending.pop() {
            let path = root.join(&name);
            for entry in names(&path) {
                if entry == marker {
                    name.parse::<saver::oci::Repository>().map_err(|error| format!("{name}: {error}"))?;
                    found.push(ModelRepository { name: name.clone(), path: path.clone() });
                } else if !entry.starts_with('_') && path.join(&entry).is_dir() {
                    pending.push(if name.is_empty() { entry } else { format!("{name}/{entry}") });
                }
            }
        }
        Ok(found)
    }

    /// The tags that point to a digest, for garbage collection of untagged manifests.
    fn tagged(&self, repository: &ModelRepository) -> Result<BTreeSet<String>, String> {
        let tags = repository.path.join("_manifests/tags");
        if !tags.is_dir() {
            return Err(format!("{}: no tags directory", repository.name));
        }
        let mut digests = BTreeSet::new();
        for tag in names(&tags) {
            let current = tags.join(&tag).join("current/link");
            match fs::metadata(&current) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                _ => drop(digests.insert(link(&current)?)),
            }
        }
        Ok(digests)
    }

    /// Unmarshals a manifest.
    fn manifest(&self, hex: &str) -> Result<Json, String> {
        let bytes = fs::read(self.data(hex)).map_err(|error| format!("{hex}: {error}"))?;
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| format!("{hex}: {error}"))?;
        let expected = if self.version == Version::V2 { &MANIFEST_V2 } else { &MANIFEST_V3 };
        if let Some(mismatch) = json.mismatch(expected, hex) {
            return Err(mismatch);
        }
        match json.field("schemaVersion") {
            Some(Json::Integer(1 | 2)) => Ok(json),
            other => Err(format!("{hex}: schema version {other:?}")),
        }
    }

    /// Runs the mark phase of garbage collection.
    ///
    /// # Errors
    /// What makes garbage collection fail for the whole tree.
    pub(crate) fn collect_garbage(&mut self, delete_untagged: bool) -> Result<(), String> {
        for repository in self.catalog()? {
            if !repository.path.join("_layers").is_dir() {
                return Err(format!("{}: no _layers directory", repository.name));
            }
            let revisions = repository.path.join("_manifests/revisions/sha256");
            let mut tagged: Option<BTreeSet<String>> = None;
            for entry in names(&revisions) {
                let path = revisions.join(&entry).join("link");
                if !path.exists() {
                    continue;
                }
                let hex = link(&path)?;
                if !self.data(&hex).exists() {
                    continue;
                }
                if delete_untagged {
                    if tagged.is_none() {
                        tagged = Some(self.tagged(&repository)?);
                    }
                    if !tagged.as_ref().unwrap().contains(&hex) {
                        continue;
                    }
                }
                let manifest = self.manifest(&hex)?;
                self.marked.insert(hex);
                let config = manifest.field("config").into_iter();
                for reference in config.chain(manifest.list("layers")).chain(manifest.list("manifests")) {
                    self.marked.extend(reference.text("digest").strip_prefix("sha256:").map(str::to_owned));
                }
            }
        }
        let blobs = self.root.join("blobs/sha256");
        for shard in names(&blobs) {
            for hex in names(&blobs.join(&shard)) {
                if hex.len() != 64 && blobs.join(&shard).join(&hex).join("data").exists() {
                    return Err(format!("{shard}/{hex}: not a digest"));
                }
            }
        }
        Ok(())
    }

    /// Every listed tag that can't be pulled, and every part of one that garbage collection would delete.
    fn broken_tags(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for repository in self.catalog().unwrap_or_default() {
            let tags = repository.path.join("_manifests/tags");
            for tag in names(&tags) {
                let image = format!("{}:{tag}", repository.name);
                match link(&tags.join(&tag).join("current/link")) {
                    Ok(hex) => {
                        broken.extend(self.pull(&repository, &hex).map(|why| format!("{image}: {why}")))
                    }
                    Err(error) => broken.push(format!("{image}: {error}")),
                }
            }
        }
        broken
    }

    /// Why a pull of the manifest fails. The children of an index are optional.
    fn pull(&self, repository: &ModelRepository, hex: &str) -> Option<String> {
        let revision = |hex: &str| repository.path.join("_manifests/revisions/sha256").join(hex).join("link");
        if let Err(error) = link(&revision(hex)) {
            return Some(error);
        }
        let manifest = match self.manifest(hex) {
            Ok(manifest) => manifest,
            Err(error) => return Some(error),
        };
        for blob in manifest.field("config").into_iter().chain(manifest.list("layers")) {
            let is_foreign = blob.text("mediaType").contains("foreign")
                || blob.text("mediaType").contains("nondistributable");
            let digest = blob.text("digest").strip_prefix("sha256:").unwrap_or_default();
            if is_foreign || digest.is_empty() {
                continue;
            }
            if let Err(error) = link(&repository.path.join("_layers/sha256").join(digest).join("link")) {
                return Some(error);
            }
            if !self.data(digest).exists() {
                return Some(format!("{digest}: no content"));
            }
            if !self.marked.contains(digest) {
                return Some(format!("{digest}: deleted by garbage collection"));
            }
        }
        let children = manifest.list("manifests").iter();
        let stored = children.filter_map(|child| child.text("digest").strip_prefix("sha256:"));
        stored.filter(|child| revision(child).exists()).find_map(|child| self.pull(repository, child))
    }
}

/// What registries of either version find wrong with the tree in `dir`.
pub(crate) fn problems(dir: &Path) -> Vec<String> {
    let mut problems = BTreeMap::new();
    for version in [Version::V2, Version::V3] {
        for delete_untagged in [true, false] {
            let mut model = RegistryModel::new(dir, version);
            if let Err(error) = model.collect_garbage(delete_untagged) {
                let context = format!("{version:?}, delete untagged: {delete_untagged}");
                problems.insert(format!("garbage collection ({context}): {error}"), ());
            } else if !delete_untagged {
                problems
                    .extend(model.broken_tags().into_iter().map(|why| (format!("{version:?}: {why}"), ())));
            }
        }
    }
    problems.into_keys().collect()
}

/// Asserts that registries of both versions serve every tag in `dir` and that their garbage collection works.
#[track_caller]
pub(crate) fn assert_served(dir: &Path) {
    let problems = problems(dir);
    assert!(problems.is_empty(), "{}: {problems:#?}", dir.display());
}
