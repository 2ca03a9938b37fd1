//! Images in YAML documents: pod specs of any kind, custom resources, other keys and values.

use super::text_rules::{self, Mode};
use super::{Found, heuristics};
use crate::list::SourceLocation;
use crate::oci::Reference;
use crate::yaml::{self, Scalar, YamlNode, YamlValue};
use std::sync::Arc;

/// How deep texts within texts are read.
const MAX_EMBEDDED: usize = 3;
/// The largest text within a document that is read as a document, in bytes.
const MAX_EMBEDDED_BYTES: usize = 4 << 20;
/// A copy of an older form of the object it stands in.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Finds the images of all documents of a text.
pub(super) fn scan(found: &mut Found, file: &Arc<str>, text: &str, documents: &[Arc<YamlNode>]) {
    let lines: Vec<&str> = text.lines().collect();
    let mut walk = Walk {
        found,
        file: file.clone(),
        lines: &lines,
        map: Map::Own(0),
        embedded: 0,
        object: Object::None,
    };
    documents.iter().for_each(|document| walk.document(document));
}

/// How a line of the text that is walked is a line of the file.
#[derive(Clone, Copy)]
enum Map {
    /// So many lines further down.
    Own(u64),
    /// All on one line.
    Fixed(u64),
}

/// What document is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Object {
    Kubernetes,
    Definition,
    None,
}

/// Where in a document a node stands.
#[derive(Clone, Copy, Default)]
struct At<'a> {
    /// The key it stands under; for an item, the key of its sequence.
    key: &'a str,
    /// Whether it is an item of a sequence.
    item: bool,
    /// The key of the sequence whose item holds it.
    within: &'a str,
}

struct Walk<'a> {
    found: &'a mut Found,
    file: Arc<str>,
    lines: &'a [&'a str],
    map: Map,
    embedded: usize,
    object: Object,
}

impl Walk<'_> {
    fn origin(&self, line: u64) -> SourceLocation {
        let line = match self.map {
            Map::Own(offset) => line + offset,
            Map::Fixed(line) => line,
        };
        SourceLocation { file: self.file.clone(), line, module: None }
    }

    fn doubt(&mut self, text: &str, line: u64, why: impl Into<String>) {
        let origin = self.origin(line);
        self.found.doubt(text, origin, why);
    }

    fn document(&mut self, document: &YamlNode) {
        let kind = document.text_of("kind").unwrap_or_default();
        let version = document.text_of("apiVersion").unwrap_or_default();
        self.object = match kind {
            "CustomResourceDefinition" => Object::Definition,
            "" => Object::None,
            _ if version.is_empty() => Object::None,
            _ => Object::Kubernetes,
        };
        let kustomize = version.starts_with("kustomize.config.k8s.io/")
            || self.file.rsplit('/').next().is_some_and(|name| name.starts_with("kustomization.y"));
        if kustomize {
            self.kustomize(document);
        }
        if kind == "OCIRepository" {
            self.oci_repository(document);
        }
        self.node(document, At::default());
    }

    /// What flux fetches from a registry (fluxcd.io, "OCI Repositories").
    fn oci_repository(&mut self, document: &YamlNode) {
        let Some(spec) = document.get("spec") else { return };
        let name = spec.text_of("url").and_then(|url| url.strip_prefix("oci://"));
        let of = |key| spec.get("ref").and_then(|reference| reference.text_of(key));
        if let Some(name) = name
            && (of("tag").is_some() || of("digest").is_some())
        {
            let line = spec.get("url").map_or(spec.line, |url| url.line);
            self.doubt(
                &joined(None, name, of("tag"), of("digest")),
                line,
                "no image: flux fetches this artifact",
            );
        }
    }

    /// kustomize's `images`: what is put in the place of other names (kubectl.docs.kubernetes.io, "images").
    fn kustomize(&mut self, document: &YamlNode) {
        for item in document.get("images").map(YamlNode::items).unwrap_or_default() {
            let text = |key| item.text_of(key).filter(|text| !text.is_empty());
            let (Some(name), tag, digest) =
                (text("newName").or(text("name")), text("newTag"), text("digest"))
            else {
                continue;
            };
            if tag.is_some() || digest.is_some() {
                let image = joined(None, name, tag, digest);
                let other = text("name").unwrap_or(name);
                let why =
                    format!("kustomize puts this in the place of {other}; scan what kustomize build prints");
                self.doubt(&image, item.line, why);
            }
        }
    }

    fn node(&mut self, node: &YamlNode, at: At<'_>) {
        match &node.value {
            YamlValue::Mapping(pairs) => {
                let within = if at.item { at.key } else { "" };
                if self.related(node, within) {
                    return;
                }
                self.pairs(node);
                for (key, child) in pairs {
                    if key.text == LAST_APPLIED || key.complex {
                        continue;
                    }
                    if !heuristics::is_image_key(&key.text) || !self.image(&key.text, child, node, within) {
                        self.node(child, At { key: &key.text, item: false, within });
                    }
                }
            }
            YamlValue::Sequence(items) => {
                for item in items {
                    self.node(item, At { item: true, ..at });
                }
            }
            YamlValue::Scalar(scalar) => self.value(node, scalar, at),
        }
    }

    /// An operator's variable for an image that it runs: its name says so by convention (sdk.operatorframework.io,
    /// "Relatedimages"), and the value is a whole name.
    fn related(&mut self, node: &YamlNode, within: &str) -> bool {
        let named = node.text_of("name").is_some_and(|name| name.starts_with("RELATED_IMAGE_"));
        let sure = named && within == "env" && self.object == Object::Kubernetes && self.embedded == 0;
        let Some(value) = node.get("value").filter(|_| sure) else { return false };
        let text =
            value.text().filter(|text| heuristics::is_explicit(text) && !heuristics::is_template(text));
        let Some(reference) = text.and_then(|text| Reference::parse(text).ok()) else { return false };
        self.found.sure(reference, self.origin(value.line));
        true
    }

    /// Names that are written as several settings, under keys that do not tell whether they are images.
    fn pairs(&mut self, node: &YamlNode) {
        for (key, child) in node.pairs() {
            let tag = heuristics::tag_key(&key.text).and_then(|key| node.text_of(&key));
            if let Some(image) = child.text().and_then(|name| heuristics::of_two(name, tag)) {
                self.doubt(&image, child.line, heuristics::OF_TWO);
            }
        }
        let (tag, digest) = (node.text_of("tag"), node.text_of("digest"));
        let Some(name) = node.text_of("repository").filter(|name| !name.contains("://")) else { return };
        if tag.is_some() || digest.is_some() {
            let image = joined(node.text_of("registry"), name, tag, digest);
            if !heuristics::is_template(&image) && Reference::parse(&image).is_ok() {
                let line = node.get("repository").map_or(node.line, |name| name.line);
                self.doubt(&image, line, heuristics::OF_TWO);
            }
        }
    }

    /// Takes what stands under an image's key; false where it has to be looked into like anything else.
    fn image(&mut self, key: &str, node: &YamlNode, siblings: &YamlNode, within: &str) -> bool {
        let container = matches!(within, "containers" | "initContainers" | "ephemeralContainers");
        match &node.value {
            YamlValue::Scalar(scalar) if scalar.text.contains('\n') => false,
            YamlValue::Scalar(_) => {
                if let Some(text) = node.text().map(str::trim).filter(|text| !text.is_empty()) {
                    self.name(key, text, node.line, siblings, container && key == "image");
                }
                true
            }
            YamlValue::Mapping(pairs) if pairs.iter().any(|(key, _)| key.complex) => {
                let raw =
                    usize::try_from(node.line).ok().and_then(|line| self.lines.get(line.wrapping_sub(1)));
                let raw = raw.map(|line| line.trim()).unwrap_or_default().to_owned();
                let shown = raw.split_once(':').map_or(raw.as_str(), |(_, value)| value.trim());
                self.doubt(shown, node.line, "a template that was not filled in");
                true
            }
            YamlValue::Mapping(_) if within == "volumes" && node.text_of("reference").is_some() => {
                let text = node.text_of("reference").unwrap_or_default();
                self.name(key, text, node.line, node, true);
                true
            }
            YamlValue::Mapping(_) => self.parts(node),
            YamlValue::Sequence(_) => false,
        }
    }

    /// A name under an image's key. In a container it is one; elsewhere it has to say which image it means.
    fn name(&mut self, key: &str, text: &str, line: u64, siblings: &YamlNode, container: bool) {
        if heuristics::is_template(text) {
            return self.doubt(text, line, "a template that was not filled in");
        }
        let reference = match Reference::parse(text) {
            Ok(reference) => reference,
            Err(error) if container => return self.doubt(text, line, error.message()),
            Err(_) => return,
        };
        if container {
            return self.found.sure(reference, self.origin(line));
        }
        if heuristics::is_explicit(text) {
            return self.elsewhere(text, line);
        }
        let tag_key = format!("{key}Tag");
        let near = |key: &str| {
            siblings.text_of(key).filter(|text| !text.is_empty() && !heuristics::is_template(text))
        };
        let (tag, digest) = (near(&tag_key).or(near("tag")), near("digest").or(near("sha")));
        if tag.is_some() || digest.is_some_and(|digest| digest.starts_with("sha256:")) {
            return self.elsewhere(&joined(None, text, tag, digest), line);
        }
        match near("version").filter(|_| self.object == Object::Kubernetes) {
            Some(version) => {
                let image = joined(None, text, Some(version), None);
                self.doubt(&image, line, "no tag is written; the version beside it may be meant");
            }
            None if heuristics::is_other_image(text) => {}
            None => self.doubt(text, line, "neither a tag nor a digest is written"),
        }
    }

    /// A whole name that stands under an image's key, in no container.
    fn elsewhere(&mut self, text: &str, line: u64) {
        match Reference::parse(text) {
            Ok(_) if self.embedded > 0 => self.doubt(text, line, "it stands in a text within the document"),
            Ok(_) if self.object == Object::Definition => {
                self.doubt(text, line, "a default or an example in a CRD")
            }
            Ok(_) if self.object == Object::None => {
                self.doubt(text, line, "it stands in no Kubernetes object")
            }
            Ok(reference) => self.found.sure(reference, self.origin(line)),
            Err(error) => self.doubt(text, line, error.message()),
        }
    }

    /// `{registry, repository, tag, digest}`.
    fn parts(&mut self, node: &YamlNode) -> bool {
        let text = |key: &str| node.text_of(key).map(str::trim).filter(|text| !text.is_empty());
        let Some(name) = text("repository").or_else(|| text("name").filter(|_| text("tag").is_some())) else {
            return false;
        };
        let line = node.get("repository").or_else(|| node.get("name")).map_or(node.line, |node| node.line);
        let image = joined(text("registry"), name, text("tag"), text("digest"));
        if heuristics::is_template(&image) {
            self.doubt(&image, line, "a template that was not filled in");
        } else if text("tag").is_none() && text("digest").is_none() && !heuristics::is_explicit(name) {
            self.doubt(&image, line, "neither a tag nor a digest is written");
        } else {
            self.elsewhere(&image, line);
        }
        true
    }

    /// A value under any other key.
    fn value(&mut self, node: &YamlNode, scalar: &Scalar, at: At<'_>) {
        let text = scalar.text.trim();
        let document = scalar.text.contains('\n') || text.starts_with(['{', '[']);
        if document && at.key != "description" && self.embedded < MAX_EMBEDDED {
            return self.text_within(node.line, scalar);
        }
        if let Some(image) = heuristics::image(text) {
            let why = match (at.key, at.within) {
                ("value", "env") => "the value of an environment variable",
                ("args" | "command", _) if at.item => "an argument of a command",
                _ if self.object == Object::Definition => "a default or an example in a CRD",
                _ => "a value that looks like an image",
            };
            self.doubt(image, node.line, why);
        }
    }

    /// A text that may be a document of its own, as config maps hold them.
    fn text_within(&mut self, line: u64, scalar: &Scalar) {
        if scalar.text.len() > MAX_EMBEDDED_BYTES {
            return;
        }
        let map = match (self.map, scalar.content_line) {
            (Map::Own(offset), Some(content)) => Map::Own(offset + content - 1),
            _ => Map::Fixed(self.origin(line).line),
        };
        let read = yaml::parse(&"".into(), &scalar.text);
        let documents = read.documents.iter().any(|node| !matches!(node.value, YamlValue::Scalar(_)));
        if read.error.is_none() && documents {
            let lines: Vec<&str> = scalar.text.lines().collect();
            let (file, embedded) = (self.file.clone(), self.embedded + 1);
            let object = Object::None;
            let mut walk = Walk { found: self.found, file, lines: &lines, map, embedded, object };
            read.documents.iter().for_each(|document| walk.document(document));
        } else {
            let (first, mode) = match map {
                Map::Own(offset) => (offset + 1, Mode::Within),
                Map::Fixed(line) => (line, Mode::WithinLine),
            };
            text_rules::scan(self.found, &self.file, &scalar.text, first, mode);
        }
    }
}

/// A name of its parts. A tag is left out of a name that has one.
pub(super) fn joined(registry: Option<&str>, name: &str, tag: Option<&str>, digest: Option<&str>) -> String {
    let mut image = match registry.map(|registry| registry.trim_end_matches('/')) {
        Some(registry) if !registry.is_empty() => format!("{registry}/{name}"),
        _ => name.to_owned(),
    };
    if let Some(tag) = tag.filter(|_| !heuristics::is_explicit(name)) {
        // Some write the digest into the tag: "1.0@sha256:..." and "sha256:..." alone.
        image.push_str(if tag.starts_with("sha256:") { "@" } else { ":" });
        image.push_str(tag);
    }
    if let Some(digest) = digest.filter(|_| !image.contains('@')) {
        image.push_str(if digest.starts_with("sha256:") { "@" } else { "@sha256:" });
        image.push_str(digest);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, text};
    use super::*;

    fn found(yaml: &str) -> Found {
        let mut found = Found::default();
        text(&mut found, "f", Kind::Yaml, yaml.as_bytes());
        found
    }

    fn sure(found: &Found) -> Vec<String> {
        found.entries.iter().map(|entry| format!("{} {}", entry.origin.line, entry.reference)).collect()
    }

    fn doubts(found: &Found) -> Vec<String> {
        found
            .doubts
            .iter()
            .map(|doubt| format!("{} {}: {}", doubt.origin.line, doubt.text, doubt.why))
            .collect()
    }

    #[test]
    fn pod_specs_of_every_kind() {
        let pod = "{initContainers: [{image: a.io/i:1}], containers: [{image: a.io/c}], ephemeralContainers: [{image: a.io/e@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}], volumes: [{name: x}, {image: {reference: a.io/v:1}}]}";
        for (kind, around) in [
            ("v1, kind: Pod", "spec: POD"),
            ("v1, kind: PodTemplate", "template: {spec: POD}"),
            ("v1, kind: ReplicationController", "spec: {template: {spec: POD}}"),
            ("apps/v1, kind: Deployment", "spec: {template: {spec: POD}}"),
            ("apps/v1, kind: StatefulSet", "spec: {template: {spec: POD}}"),
            ("apps/v1, kind: DaemonSet", "spec: {template: {spec: POD}}"),
            ("apps/v1, kind: ReplicaSet", "spec: {template: {spec: POD}}"),
            ("batch/v1, kind: Job", "spec: {template: {spec: POD}}"),
            ("batch/v1, kind: CronJob", "spec: {jobTemplate: {spec: {template: {spec: POD}}}}"),
            ("v1, kind: List", "items: [{apiVersion: v1, kind: Pod, spec: POD}]"),
            ("apps/v1, kind: DeploymentList", "items: [{spec: {template: {spec: POD}}}]"),
            ("example.com/v1, kind: Thing", "spec: {podTemplate: {spec: POD}}"),
        ] {
            let yaml = format!("{{apiVersion: {kind}, {}}}\n", around.replace("POD", pod));
            let found = found(&yaml);
            assert!(found.doubts.is_empty() && found.notes.is_empty(), "{kind}: {found:?}");
            assert_eq!(found.entries.len(), 4, "{kind}");
        }
    }

    #[test]
    fn what_only_may_be_an_image_has_its_reason() {
        let head = "apiVersion: example.com/v1\nkind: Thing\n";
        for (yaml, sure_, why) in [
            ("image: a.io/b:1\n", false, "it stands in no Kubernetes object"),
            ("K\nimage: a.io/b:1\n", true, ""),
            ("K\nimage: a.io/b\n", false, "neither a tag nor a digest"),
            ("K\nimage: a.io/b\ntag: 1.10\n", true, ""),
            ("K\nfooImage: a.io/b\nfooImageTag: 2\n", true, ""),
            ("K\nbaseImage: a.io/b\nversion: v2\n", false, "the version beside it"),
            ("K\nimage: {repository: a.io/b, tag: 1}\n", true, ""),
            (
                "K\nimage: {registry: a.io, repository: b, digest: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}\n",
                true,
                "",
            ),
            ("K\nimage: {name: b, pullPolicy: Always}\n", false, ""),
            ("K\nimage: {{ .Values.image }}\n", false, "a template"),
            ("K\nimage: \"a.io/b:{{ .x }}\"\n", false, "a template"),
            ("K\nimage: https://a.io/logo.png\n", false, ""),
            ("K\nimage: logo.png\n", false, ""),
            ("K\nimageRepository: a.io/b\nimageTag: 1\n", false, "may belong together"),
            ("K\ndb: {registry: a.io, repository: b, tag: 1}\n", false, "may belong together"),
            ("K\nchart: {repository: https://a.io/charts, tag: 1}\n", false, ""),
            ("K\nenv: [{name: RELATED_IMAGE_X, value: a.io/b:1}]\n", true, ""),
            ("K\nenv: [{name: RELATED_IMAGE_X, value: a.io/b}]\n", false, ""),
            ("env: [{name: RELATED_IMAGE_X, value: a.io/b:1}]\n", false, "variable"),
            (
                "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nspec: {url: \"oci://a.io/b\", ref: {tag: 1}}\n",
                false,
                "flux fetches",
            ),
            ("K\nimage: \"\"\n", false, ""),
            ("K\nimage: ~\n", false, ""),
            ("K\nenv: [{name: X, value: a.io/b:1}]\n", false, "an environment variable"),
            ("K\nargs: [--x=a.io/b:1]\n", false, "an argument"),
            ("K\nsetting: a.io/b:1\n", false, "looks like an image"),
            ("K\ndata: {x: \"{\\\"image\\\": \\\"a.io/b:1\\\"}\"}\n", false, "in a text within"),
            ("K\ndata:\n  x: |\n    containers:\n    - image: a.io/b:1\n", true, ""),
            ("K\ndata:\n  x: |\n    {{ if .x }}\n    image: a.io/b:1\n", false, "in a text within"),
            (
                "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nx: {image: a.io/b:1}\n",
                false,
                "in a CRD",
            ),
            (
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nimages: [{name: x, newName: a.io/b, newTag: v1}]\n",
                false,
                "kustomize",
            ),
        ] {
            let found = found(&yaml.replace("K\n", head));
            assert_eq!(found.entries.len(), usize::from(sure_), "{yaml}: {found:?}");
            assert_eq!(found.doubts.is_empty(), why.is_empty(), "{yaml}: {found:?}");
            assert!(found.doubts.iter().all(|doubt| doubt.why.contains(why)), "{yaml}: {found:?}");
        }
    }

    /// Were each looked for among all, this would take minutes.
    #[test]
    fn a_hundred_thousand_settings_of_one_mapping_are_read() {
        let keys =
            |end: &str| (0..50_000).map(move |number| format!("k{number}{end}: a/b\n")).collect::<String>();
        let found = found(&format!("{}{}", keys("Image"), keys("imageRepository")));
        assert_eq!(found.doubts.len(), 50_000);
    }

    #[test]
    fn texts_within_texts_know_their_lines() {
        let yaml = "kind: ConfigMap\napiVersion: v1\ndata:\n  a: |\n    x: 1\n    containers:\n    - image: a.io/one:1\n    inner: |\n      # c\n      containers:\n      - image: a.io/two:1\n  b: \"containers:\\n- image: a.io/three:1\\n\"\n  c: |\n\n    #!/bin/sh\n    run a.io/four:1\n";
        let found = found(yaml);
        assert_eq!(sure(&found), ["7 a.io/one:1", "11 a.io/two:1", "12 a.io/three:1"]);
        assert_eq!(doubts(&found), ["16 a.io/four:1: a word that looks like an image"]);
    }

    #[test]
    fn parts_are_joined() {
        for (registry, name, tag, digest, expected) in [
            (None, "a", Some("1"), None, "a:1"),
            (Some("r.io/"), "a/b", Some("1"), Some("sha256:x"), "r.io/a/b:1@sha256:x"),
            (Some(""), "a:2", Some("1"), None, "a:2"),
            (None, "a", Some("sha256:x"), Some("sha256:y"), "a@sha256:x"),
            (None, "a", None, Some("x"), "a@sha256:x"),
        ] {
            assert_eq!(joined(registry, name, tag, digest), expected);
        }
    }
}
