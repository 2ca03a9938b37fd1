//! Kustomizations: `images` replaces the names in all that `resources`, `components` and `bases` reach
//! (kubectl.docs.kubernetes.io, "images").

use super::heuristics;
use super::{Discovery, Doubt, DoubtReason};
use crate::list::{ListEntry, SourceLocation};
use crate::oci::Reference;
use crate::yaml::YamlNode;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Maximum number of kustomizations that reach one another.
const MAX_NESTING: usize = 20;
/// Maximum number of kustomizations and files that are visited for all roots.
const MAX_VISITS: usize = 20_000;

/// The names of kustomization files.
pub(super) fn is_kustomization(name: &str) -> bool {
    matches!(name, "kustomization.yaml" | "kustomization.yml" | "Kustomization")
}

/// A kustomization file.
pub(super) struct Kustomization {
    dir: PathBuf,
    resources: Vec<KustomizeResource>,
    images: Vec<ImageTransform>,
}

/// A file or directory that a kustomization reaches.
struct KustomizeResource {
    path: PathBuf,
    text: String,
    origin: SourceLocation,
}

/// Replaces the image `name`.
struct ImageTransform {
    name: String,
    new_name: Option<String>,
    new_tag: Option<String>,
    digest: Option<String>,
    origin: SourceLocation,
}

fn origin(node: &YamlNode) -> SourceLocation {
    SourceLocation { file: node.file.clone(), line: node.line, module: None }
}

impl Kustomization {
    /// Reads the document of the kustomization in `dir`.
    pub(super) fn read(dir: &Path, document: &YamlNode) -> Self {
        let items = |key: &str| document.get(key).map(YamlNode::items).unwrap_or_default();
        let reached = ["resources", "components", "bases"].iter().flat_map(|key| items(key));
        let resources = reached.filter_map(|item| {
            let text = item.text()?.to_owned();
            Some(KustomizeResource { path: normal(&dir.join(&text)), text, origin: origin(item) })
        });
        let images = items("images").iter().filter_map(|item| {
            let text = |key: &str| item.text_of(key).filter(|text| !text.is_empty()).map(str::to_owned);
            let (new_tag, digest) = (text("newTag"), text("digest"));
            Some(ImageTransform {
                name: text("name")?,
                new_name: text("newName"),
                new_tag,
                digest,
                origin: origin(item),
            })
        });
        Self { dir: normal(dir), resources: resources.collect(), images: images.collect() }
    }
}

impl ImageTransform {
    /// The replacement for an image name, if this transform is for it.
    fn apply(&self, text: &str) -> Option<Reference> {
        let name = text.split('@').next().unwrap_or(text);
        let tag = Reference::has_written_tag(name).then(|| name.rsplit_once(':')).flatten();
        let (base, tag) = tag.map_or((name, None), |(base, tag)| (base, Some(tag)));
        let full = |name: &str| Reference::parse(name).map(|name| (name.registry, name.repository)).ok();
        let is_same = base == self.name || full(base).is_some_and(|base| Some(base) == full(&self.name));
        let digest = text.split_once('@').map(|(_, digest)| digest);
        let tag = match (&self.new_tag, &self.digest) {
            (Some(tag), _) => Some(tag.as_str()),
            (None, Some(_)) => None,
            (None, None) => tag,
        };
        let digest = self.digest.as_deref().or(digest.filter(|_| self.new_tag.is_none()));
        let image = heuristics::joined(None, self.new_name.as_deref().unwrap_or(base), tag, digest);
        is_same.then(|| Reference::parse(&image).ok()).flatten()
    }
}

/// A path without `.` and `..`, as far as it goes.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            component => normal.push(component),
        }
    }
    normal
}

/// Applies kustomizations to what was found in the files that they reach. Files that none reaches keep their images, and so do
/// kustomizations that no other reaches: they are what people build.
pub(super) fn apply(found: &mut Discovery, root: &Path, kustomizations: &[Kustomization]) {
    if kustomizations.is_empty() {
        return;
    }
    let reached: BTreeSet<&Path> = kustomizations
        .iter()
        .flat_map(|one| one.resources.iter().map(|resource| resource.path.as_path()))
        .collect();
    let file = |origin: &SourceLocation| normal(Path::new(&*origin.file));
    let mut builds = Builds {
        by_dir: BTreeMap::new(),
        images: BTreeMap::new(),
        doubts: BTreeMap::new(),
        root: normal(root),
        visits: 0,
    };
    let is_reached = |origin: &SourceLocation| reached.contains(file(origin).as_path());
    let (inner, outer): (Vec<ListEntry>, Vec<ListEntry>) =
        std::mem::take(&mut found.images).into_iter().partition(|one| is_reached(&one.origin));
    found.images = outer;
    for entry in inner {
        builds.images.entry(file(&entry.origin)).or_default().push(entry);
    }
    let (inner, outer): (Vec<Doubt>, Vec<Doubt>) =
        std::mem::take(&mut found.doubts).into_iter().partition(|one| is_reached(&one.origin));
    found.doubts = outer;
    for doubt in inner {
        builds.doubts.entry(file(&doubt.origin)).or_default().push(doubt);
    }
    builds.by_dir = kustomizations.iter().map(|one| (one.dir.as_path(), one)).collect();
    for one in kustomizations.iter().filter(|one| !reached.contains(one.dir.as_path())) {
        let (images, doubts) = builds.build(one, found, 0);
        images.into_iter().for_each(|image| found.add(image));
        found.doubts.extend(doubts);
    }
}

struct Builds<'a> {
    by_dir: BTreeMap<&'a Path, &'a Kustomization>,
    images: BTreeMap<PathBuf, Vec<ListEntry>>,
    doubts: BTreeMap<PathBuf, Vec<Doubt>>,
    root: PathBuf,
    visits: usize,
}

impl Builds<'_> {
    fn build(
        &mut self,
        one: &Kustomization,
        found: &mut Discovery,
        depth: usize,
    ) -> (Vec<ListEntry>, Vec<Doubt>) {
        let mut images = Vec::new();
        let mut doubts = Vec::new();
        for KustomizeResource { path, text, origin } in &one.resources {
            self.visits += 1;
            if depth > MAX_NESTING || self.visits > MAX_VISITS {
                found.unread(&origin.file, origin.line, "the kustomizations are nested too deeply");
                break;
            }
            if let Some(base) = self.by_dir.get(path.as_path()).copied() {
                let (more, doubtful) = self.build(base, found, depth + 1);
                images.extend(more);
                doubts.extend(doubtful);
            } else if self.images.contains_key(path) || self.doubts.contains_key(path) {
                images.extend(self.images.get(path).into_iter().flatten().cloned());
                doubts.extend(self.doubts.get(path).into_iter().flatten().cloned());
            } else if !path.starts_with(&self.root) || path.symlink_metadata().is_err() {
                found.doubt(text, origin.clone(), DoubtReason::MissingResource);
            }
        }
        for transform in &one.images {
            for entry in &mut images {
                if let Some(reference) = transform.apply(&entry.reference.to_string()) {
                    entry.reference = reference;
                    entry.origin = transform.origin.clone();
                }
            }
            doubts.retain(|doubt: &Doubt| match transform.apply(&doubt.text) {
                Some(reference) => {
                    let origin = transform.origin.clone();
                    images.push(ListEntry::new(reference, origin));
                    false
                }
                None => true,
            });
        }
        (images, doubts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_replace_names_tags_and_digests() {
        const HEX: &str = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let transform = |name: &str, new_name: &str, tag: &str, digest: &str| {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let origin = SourceLocation { file: "k".into(), line: 1, module: None };
            ImageTransform {
                name: name.into(),
                new_name: text(new_name),
                new_tag: text(tag),
                digest: text(digest),
                origin,
            }
        };
        for (one, image, expected) in [
            (transform("controller", "a.io/c", "v1", ""), "controller:latest", Some("a.io/c:v1".to_owned())),
            (
                transform("controller", "a.io/c", "v1", ""),
                "docker.io/library/controller:latest",
                Some("a.io/c:v1".to_owned()),
            ),
            (transform("redis", "a.io/redis", "", ""), "redis:7.2", Some("a.io/redis:7.2".to_owned())),
            (transform("a.io/x", "", "2", ""), "a.io/x:1", Some("a.io/x:2".to_owned())),
            (transform("a.io/x", "", "", HEX), "a.io/x:1", Some(format!("a.io/x@{HEX}"))),
            (transform("a.io/x", "", "2", ""), &format!("a.io/x@{HEX}"), Some("a.io/x:2".to_owned())),
            (transform("a.io/x", "", "2", ""), "a.io/xy:1", None),
            (transform("IMAGE", "a.io/x", "2", ""), "IMAGE:latest", Some("a.io/x:2".to_owned())),
        ] {
            assert_eq!(one.apply(image).map(|image| image.to_string()), expected, "{image}");
        }
    }
}
