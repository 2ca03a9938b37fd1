//! The rules that decide which values of a tree are images. Every format that is YAML or can be read as a tree uses them.

mod image_keys;

use super::heuristics::{self, joined, whole_name};
use super::text_rules;
use super::{Discovery, DoubtReason};
use crate::list::SourceLocation;
use crate::oci::Reference;
use crate::yaml::{self, LineMap, Scalar, YamlNode, YamlValue};
use std::sync::Arc;

/// How deep documents within texts are read.
const MAX_EMBEDDED: usize = 3;
/// Maximum size of a text that is read as a document, in bytes.
const MAX_EMBEDDED_BYTES: usize = 4 << 20;
const CONTAINERS: &[&str] = &["containers", "initContainers", "ephemeralContainers"];

/// The kind of document that a value is in, which decides how much an image key is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DocumentKind {
    /// A Kubernetes object, or the configuration of a tool that names images as objects do.
    Object,
    /// A document within a text of a Kubernetes object.
    Embedded,
    CustomResourceDefinition,
    /// An annotation, or a document in one.
    Annotation,
    /// The values of a chart: all finds are doubtful for this reason.
    Values(DoubtReason),
    Unknown,
}

/// Finds the images of documents.
pub(super) fn scan(found: &mut Discovery, documents: &[Arc<YamlNode>]) {
    let mut rules = Rules { found, document: DocumentKind::Unknown, embedded: 0, is_injected: false };
    documents.iter().for_each(|document| rules.document(document));
}

/// Finds what may be images in the values of a chart; `reason` says why they are doubtful.
pub(super) fn scan_values(found: &mut Discovery, values: &YamlNode, reason: DoubtReason) {
    let document = DocumentKind::Values(reason);
    Rules { found, document, embedded: 0, is_injected: false }.node(values, Position::default());
}

/// Where in a document a value is.
#[derive(Clone, Copy, Default)]
struct Position<'a> {
    /// The key of the value; for an item, the key of its sequence.
    key: &'a str,
    /// Whether it is an item of a sequence.
    is_item: bool,
}

struct Rules<'a> {
    found: &'a mut Discovery,
    document: DocumentKind,
    /// How many texts surround the document.
    embedded: usize,
    /// Whether the surrounding pod template is completed by Istio, which replaces the image `auto`.
    is_injected: bool,
}

fn origin(node: &YamlNode) -> SourceLocation {
    SourceLocation { file: node.file.clone(), line: node.line, module: None }
}

impl Rules<'_> {
    fn document(&mut self, document: &YamlNode) {
        let kind = document.text_of("kind").unwrap_or_default();
        let version = document.text_of("apiVersion").unwrap_or_default();
        let outer = self.document;
        self.document = match (outer, kind) {
            (DocumentKind::Annotation | DocumentKind::Values(_), _) => outer,
            (_, "CustomResourceDefinition") => DocumentKind::CustomResourceDefinition,
            (_, "ZarfPackageConfig") => DocumentKind::Object,
            _ if !kind.is_empty() && !version.is_empty() => DocumentKind::Object,
            _ if document.get("embeddedArtifactRegistry").is_some() => DocumentKind::Object,
            _ => outer,
        };
        if kind == "OCIRepository" {
            self.oci_repository(document);
        }
        let is_list = |name: &Arc<YamlNode>| name.text().and_then(whole_name).is_some();
        // Ports and the like have the form of a name too.
        let has_path = |name: &Arc<YamlNode>| name.text().is_some_and(|text| text.contains('/'));
        let is_evident =
            document.items().iter().any(has_path) || document.file.to_ascii_lowercase().contains("image");
        let is_bare_list = is_evident && document.items().iter().all(is_list);
        if !is_bare_list || document.items().is_empty() || !self.images(document) {
            self.node(document, Position::default());
        }
        self.document = outer;
    }

    /// What flux fetches from a registry (fluxcd.io, "OCI Repositories").
    fn oci_repository(&mut self, document: &YamlNode) {
        let Some(spec) = document.get("spec") else { return };
        let Some(url) = spec.get("url") else { return };
        let of = |key| spec.get("ref").and_then(|reference| reference.text_of(key));
        if let Some(name) = url.text().and_then(|url| url.strip_prefix("oci://"))
            && (of("tag").is_some() || of("digest").is_some())
        {
            let artifact = joined(None, name, of("tag"), of("digest"));
            self.found.doubt(&artifact, origin(url), DoubtReason::Artifact);
        }
    }

    fn node(&mut self, node: &YamlNode, at: Position<'_>) {
        match &node.value {
            YamlValue::Mapping(pairs) => {
                let within = if at.is_item { at.key } else { "" };
                let outer = self.is_injected;
                self.is_injected |= is_injected(node);
                let named = self.name_and_value(node);
                let is_split = self.split_names(node);
                for (key, child) in pairs {
                    if is_split && key.text == "image"
                        || key.complex
                        || self.is_skipped(&key.text, node)
                        || named == Some(key.text.as_str())
                    {
                        continue;
                    }
                    self.pair(&key.text, child, node, within);
                }
                self.is_injected = outer;
            }
            YamlValue::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    let before = index.checked_sub(1).and_then(|index| items[index].text());
                    if !self.argument(item, before, at) {
                        self.node(item, Position { is_item: true, ..at });
                    }
                }
            }
            YamlValue::Scalar(scalar) => self.value(node, scalar, at),
        }
    }

    /// Parts of an object that repeat others: its status, and records of earlier states.
    fn is_skipped(&self, key: &str, siblings: &YamlNode) -> bool {
        let is_status =
            key == "status" && (siblings.get("spec").is_some() || siblings.get("metadata").is_some());
        is_status
            || matches!(key, "kubectl.kubernetes.io/last-applied-configuration" | "managedFields")
            || key == "description" && self.document != DocumentKind::Unknown
    }

    fn pair(&mut self, key: &str, child: &YamlNode, siblings: &YamlNode, within: &str) {
        let outer = self.document;
        if key == "annotations" && outer == DocumentKind::Object {
            // Templates of pods have annotations that are read; those with examples and records hold documents.
            self.document = DocumentKind::Annotation;
        }
        let is_names =
            heuristics::is_images_key(key) || heuristics::is_image_key(key) && !child.items().is_empty();
        let done = is_names && self.images(child)
            || heuristics::is_image_key(key) && self.image(key, child, siblings, within);
        if !done {
            self.node(child, Position { key, is_item: false });
        }
        self.document = outer;
    }

    /// A variable or parameter: `{name: X, value: V}` or `{name: X, default: V}`. Returns the key that was read.
    fn name_and_value(&mut self, node: &YamlNode) -> Option<&'static str> {
        let name = node.text_of("name")?;
        let (key, value) = ["value", "default"].iter().find_map(|key| Some((*key, node.get(key)?)))?;
        let text = value.text()?;
        if let YamlValue::Scalar(scalar) = &value.value
            && scalar.text.contains('\n')
            && heuristics::names_an_image(name)
        {
            self.embedded_text(value, scalar, name);
            return Some(key);
        }
        if self.named(name, text, value, DoubtReason::EnvironmentVariable) { Some(key) } else { None }
    }

    /// A text under a name that may announce an image. False if the text is to be read like any other value.
    fn named(&mut self, name: &str, text: &str, node: &YamlNode, reason: DoubtReason) -> bool {
        if text.contains('\n') {
            return false;
        }
        let is_trusted = matches!(self.document, DocumentKind::Object | DocumentKind::Embedded);
        let announces = heuristics::names_an_image(name);
        let related =
            name.starts_with("RELATED_IMAGE_") && text.contains('/') && !heuristics::is_template(text);
        if announces && heuristics::is_template(text) {
            // A reference to another variable, whose value is read there.
            if !text.starts_with("$(") {
                self.found.doubt(text, origin(node), DoubtReason::UnrenderedTemplate);
            }
            return true;
        }
        let reference = whole_name(text).or_else(|| Reference::parse(text).ok().filter(|_| related));
        if let Some(reference) = reference.filter(|_| announces && is_trusted) {
            self.found.sure(reference, origin(node));
            return true;
        }
        let Some(image) = heuristics::image(text) else {
            let is_untagged =
                announces && is_trusted && heuristics::has_registry(text) && Reference::parse(text).is_ok();
            if is_untagged {
                self.found.doubt(text, origin(node), DoubtReason::NoTag);
            }
            return is_untagged;
        };
        // With a registry, a path and a tag, the value of a variable or flag of a workload is something to pull.
        match whole_name(image)
            .filter(|_| self.document == DocumentKind::Object && heuristics::has_registry(image))
        {
            Some(reference) => self.found.sure(reference, origin(node)),
            None => {
                let reason = self.reason(reason);
                self.found.doubt(image, origin(node), reason);
            }
        }
        true
    }

    /// The reason for a find in this document: that of the document, if it has one of its own.
    fn reason(&self, reason: DoubtReason) -> DoubtReason {
        match self.document {
            DocumentKind::CustomResourceDefinition => DoubtReason::CustomResourceDefinition,
            DocumentKind::Annotation => DoubtReason::Annotation,
            DocumentKind::Values(reason) => reason,
            _ => reason,
        }
    }

    /// An argument of a command, which may be a flag with a value or the value of the flag `before` it.
    fn argument(&mut self, item: &YamlNode, before: Option<&str>, at: Position<'_>) -> bool {
        if !matches!(at.key, "args" | "command" | "literals" | "extraArgs" | "additionalArgs") {
            return false;
        }
        let Some(text) = item.text().filter(|text| !text.trim().contains(char::is_whitespace)) else {
            return false;
        };
        match (text.split_once('='), before) {
            (Some((flag, value)), _) => {
                self.named(flag, value.trim_matches(['"', '\'']), item, DoubtReason::Argument)
            }
            (None, Some(flag)) if flag.starts_with('-') && !flag.contains('=') => {
                self.named(flag, text, item, DoubtReason::Argument)
            }
            _ => self.named("", text, item, DoubtReason::Argument),
        }
    }

    /// A value under a key that does not announce an image.
    fn value(&mut self, node: &YamlNode, scalar: &Scalar, at: Position<'_>) {
        let text = scalar.text.trim();
        let is_document = scalar.text.contains('\n') || text.starts_with(['{', '[']);
        if is_document {
            if self.embedded < MAX_EMBEDDED && scalar.text.len() <= MAX_EMBEDDED_BYTES {
                self.embedded_text(node, scalar, at.key);
            }
        } else if let Some((name, value)) = text.split_once('=').filter(|_| at.is_item) {
            self.named(name, value, node, DoubtReason::OtherValue);
        } else if heuristics::names_an_image(at.key)
            && self.named(at.key, text, node, DoubtReason::OtherValue)
        {
        } else if let Some(image) = heuristics::image(text) {
            let reason = self.reason(DoubtReason::OtherValue);
            self.found.doubt(image, origin(node), reason);
        }
    }

    /// A text that may be a document, as ConfigMaps hold them.
    fn embedded_text(&mut self, node: &YamlNode, scalar: &Scalar, key: &str) {
        let lines = scalar.content_line.map_or(LineMap::Fixed(node.line), |line| LineMap::Offset(line - 1));
        let parsed = yaml::parse_at(&node.file, &scalar.text, lines);
        let is_document = parsed.documents.iter().any(|node| !matches!(node.value, YamlValue::Scalar(_)));
        let outer = self.document;
        if self.document == DocumentKind::Object {
            self.document = DocumentKind::Embedded;
        }
        self.embedded += 1;
        if parsed.error.is_none() && is_document {
            parsed.documents.iter().for_each(|document| self.document(document));
        } else {
            for (line, text) in (1..).zip(scalar.text.lines()) {
                let at = SourceLocation { file: node.file.clone(), line: lines.line(line), module: None };
                self.embedded_line(text, at, key);
            }
        }
        self.embedded -= 1;
        self.document = outer;
    }

    /// A line of a text that is not a document: `KEY=NAME`, `image: NAME`, or words.
    fn embedded_line(&mut self, line: &str, at: SourceLocation, key: &str) {
        let trimmed = line.trim();
        let pair = trimmed.split_once('=').filter(|(name, _)| !name.contains(char::is_whitespace));
        let named =
            pair.filter(|(name, _)| heuristics::names_an_image(name) || heuristics::names_an_image(key));
        let value = named.map(|(_, value)| value).or_else(|| text_rules::value_of_image_key(line));
        let is_trusted = self.document == DocumentKind::Embedded && !trimmed.starts_with('#');
        match value.and_then(whole_name).filter(|_| is_trusted) {
            Some(reference) => self.found.sure(reference, at),
            None => text_rules::scan_words(self.found, line, &at),
        }
    }
}

/// Whether Istio completes the pod of this template (istio.io, "Gateway injection").
fn is_injected(node: &YamlNode) -> bool {
    let Some(metadata) = node.get("metadata") else { return false };
    let is_mark = |key: &str, value: &YamlNode| {
        key.starts_with("inject.istio.io/")
            || key == "sidecar.istio.io/inject" && value.text() == Some("true")
    };
    ["annotations", "labels"]
        .iter()
        .filter_map(|key| metadata.get(key))
        .any(|marks| marks.pairs().iter().any(|(key, value)| is_mark(&key.text, value)))
}

#[cfg(test)]
mod tests {
    use super::super::{TextFormat, text};
    use super::*;

    fn scanned(yaml: &str) -> Discovery {
        let mut found = Discovery::default();
        text(&mut found, "f", TextFormat::Yaml, yaml.as_bytes());
        found
    }

    fn sure(found: &Discovery) -> Vec<String> {
        found.images.iter().map(|entry| format!("{} {}", entry.origin.line, entry.reference)).collect()
    }

    #[test]
    fn containers_of_all_workload_kinds_are_sure() {
        let pod = "{initContainers: [{image: a.io/i:1}], containers: [{image: a.io/c}], ephemeralContainers: [{image: a.io/e@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}], volumes: [{name: x}, {image: {reference: a.io/v:1}}]}";
        for (kind, around) in [
            ("v1, kind: Pod", "spec: POD"),
            ("v1, kind: PodTemplate", "template: {spec: POD}"),
            ("v1, kind: ReplicationController", "spec: {template: {spec: POD}}"),
            ("apps/v1, kind: Deployment", "spec: {template: {spec: POD}}"),
            ("batch/v1, kind: CronJob", "spec: {jobTemplate: {spec: {template: {spec: POD}}}}"),
            ("v1, kind: List", "items: [{apiVersion: v1, kind: Pod, spec: POD}]"),
            ("apps/v1, kind: DeploymentList", "items: [{spec: {template: {spec: POD}}}]"),
            ("example.com/v1, kind: Thing", "spec: {podTemplate: {spec: POD}}"),
        ] {
            let yaml = format!("{{apiVersion: {kind}, {}}}\n", around.replace("POD", pod));
            let found = scanned(&yaml);
            assert!(found.doubts.is_empty() && found.notes.is_empty(), "{kind}: {found:?}");
            assert_eq!(found.images.len(), 4, "{kind}");
        }
    }

    #[test]
    fn values_are_sure_or_doubtful_with_a_reason() {
        use DoubtReason as Doubt;
        const HEX: &str = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let head = "apiVersion: example.com/v1\nkind: Thing\n";
        for (yaml, sure, reason) in [
            ("image: a.io/b:1\n", true, None),
            ("image: a/b:1\n", false, Some(Doubt::UnknownFormat)),
            ("K\nimage: a.io/b:1\n", true, None),
            ("K\nimage: a.io/b\n", false, Some(Doubt::NoTag)),
            ("K\nimage: HEX\n", false, None),
            ("K\nimage: ghcr.io/a/*:1\n", false, None),
            ("K\nimage: your-registry/b:1\n", false, Some(Doubt::Placeholder)),
            ("K\nimage: a.io/b\ntag: 1.10\n", true, None),
            ("K\nfooImage: a.io/b\nfooImageTag: 2\n", true, None),
            ("K\nbaseImage: a.io/b\nversion: v2\n", false, Some(Doubt::NoTag)),
            ("K\nimages: {x: {image: a.io/b, version: v2}}\n", true, None),
            ("K\nsteps: [{image: $(params.x)}]\n", false, None),
            ("K\ndriver: {repository: a.io/b, image: c, version: v2}\n", true, None),
            ("K\nimage: {repository: a.io/b, tag: 1}\n", true, None),
            ("K\nimage: {registry: a.io, repository: b, digest: HEX}\n", true, None),
            ("image: {repository: a.io/b, tag: 1}\n", false, Some(Doubt::SeparateParts)),
            ("K\nimage: {name: b, pullPolicy: Always}\n", false, None),
            ("K\nimage: {{ .Values.image }}\n", false, Some(Doubt::UnrenderedTemplate)),
            ("K\nimage: \"a.io/b:{{ .x }}\"\n", false, Some(Doubt::UnrenderedTemplate)),
            ("K\nimage: https://a.io/logo.png\n", false, None),
            ("K\nimage: logo.png\n", false, None),
            ("K\nimageRepository: a.io/b\nimageTag: 1\n", false, Some(Doubt::SeparateParts)),
            ("K\ndb: {registry: a.io, repository: b, tag: 1}\n", false, Some(Doubt::SeparateParts)),
            ("K\nchart: {repository: https://a.io/charts, tag: 1}\n", false, None),
            ("K\nenv: [{name: RELATED_IMAGE_X, value: a.io/b}]\n", true, None),
            ("K\nenv: [{name: HELPER_IMAGE, value: \"busybox:1\"}]\n", true, None),
            ("K\nenv: [{name: HELPER_IMAGE, value: a.io/b}]\n", false, Some(Doubt::NoTag)),
            ("K\nenv: [{name: HELPER_IMAGE, value: \"$(OTHER)\"}]\n", false, None),
            ("K\nenv: [{name: IMAGE_REGISTRY, value: \"localhost:5000\"}]\n", false, None),
            ("K\nenv: [{name: X, value: a.io/b:1}]\n", true, None),
            ("K\nenv: [{name: X, value: a/b:1}]\n", false, Some(Doubt::EnvironmentVariable)),
            ("K\nenv: [{name: X, value: \"redis:6379\"}]\n", false, None),
            ("env: [{name: RELATED_IMAGE_X, value: a.io/b:1}]\n", false, Some(Doubt::EnvironmentVariable)),
            ("K\nenv: [{name: KAFKA_IMAGES, value: \"3.8=a.io/b:1\\n\"}]\n", true, None),
            ("K\nparams: [{name: gitImage, default: \"a.io/b:1\"}]\n", true, None),
            ("K\nargs: [--helper-image=busybox:1]\n", true, None),
            ("K\nargs: [--image, \"busybox:1\"]\n", true, None),
            ("K\nargs: [--x=a.io/b:1]\n", true, None),
            ("K\nargs: [--x=a/b:1]\n", false, Some(Doubt::Argument)),
            ("K\nsetting: a.io/b:1\n", false, Some(Doubt::OtherValue)),
            ("K\nimages: [\"busybox:1\"]\n", true, None),
            ("K\nimages: [busybox]\n", false, Some(Doubt::NoTag)),
            ("K\nadditionalImages: {x: \"busybox:1\"}\n", true, None),
            ("[\"busybox:1\", \"a.io/b:1\"]\n", true, None),
            ("[\"busybox:1\", other]\n", false, None),
            ("[\"localhost:8080\", \"db:5432\"]\n", false, None),
            ("K\nimage: \"\"\n", false, None),
            ("K\nimage: ~\n", false, None),
            ("K\ndata: {x: \"{\\\"image\\\": \\\"a.io/b:1\\\"}\"}\n", true, None),
            ("K\ndata:\n  x: |\n    {{ if .x }}\n    image: a.io/b:1\n", true, None),
            ("K\ndata:\n  run.sh: |\n    #!/bin/sh\n    run a.io/b:1\n", false, Some(Doubt::FreeText)),
            (
                "K\nmetadata: {annotations: {alm-examples: \"[{\\\"image\\\": \\\"a.io/b:1\\\"}]\"}}\n",
                false,
                Some(Doubt::Annotation),
            ),
            ("K\nspec: {}\nstatus: {image: a.io/b:1}\n", false, None),
            (
                "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nspec: {url: \"oci://a.io/b\", ref: {tag: 1}}\n",
                false,
                Some(Doubt::Artifact),
            ),
            (
                "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nx: {image: a.io/b:1}\n",
                false,
                Some(Doubt::CustomResourceDefinition),
            ),
        ] {
            let found = scanned(&yaml.replace("K\n", head).replace("HEX", HEX));
            assert_eq!(!found.images.is_empty(), sure, "{yaml}: {found:?}");
            let reasons: Vec<DoubtReason> = found.doubts.iter().map(|doubt| doubt.reason).collect();
            assert_eq!(reasons, Vec::from_iter(reason), "{yaml}: {found:?}");
        }
    }

    #[test]
    fn istio_image_auto_is_no_image() {
        for (metadata, doubts) in [("labels: {sidecar.istio.io/inject: \"true\"}", 0), ("labels: {}", 1)] {
            let yaml = format!(
                "apiVersion: apps/v1\nkind: Deployment\nspec: {{template: {{metadata: {{{metadata}}}, spec: {{containers: [{{image: auto}}]}}}}}}\n"
            );
            let found = scanned(&yaml);
            assert_eq!((found.images.len(), found.doubts.len()), (0, doubts), "{metadata}");
        }
    }

    /// A linear search per key would take minutes.
    #[test]
    fn large_mappings_are_scanned_in_linear_time() {
        let keys =
            |end: &str| (0..50_000).map(move |number| format!("k{number}{end}: a/b\n")).collect::<String>();
        let found = scanned(&format!("{}{}", keys("Image"), keys("imageRepository")));
        assert_eq!(found.doubts.len(), 50_000);
    }

    #[test]
    fn embedded_texts_keep_the_lines_of_the_file() {
        let yaml = "kind: ConfigMap\napiVersion: v1\ndata:\n  a: |\n    x: 1\n    containers:\n    - image: a.io/one:1\n    inner: |\n      # c\n      containers:\n      - image: a.io/two:1\n  b: \"containers:\\n- image: a.io/three:1\\n\"\n  c: |\n\n    #!/bin/sh\n    run a.io/four:1\n";
        let found = scanned(yaml);
        assert_eq!(sure(&found), ["7 a.io/one:1", "11 a.io/two:1", "12 a.io/three:1"]);
        let doubt = &found.doubts[0];
        assert_eq!((doubt.origin.line, doubt.text.as_str()), (16, "a.io/four:1"));
    }
}
