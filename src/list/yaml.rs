//! Structured lists: YAML and JSON documents, told apart by their content.

use super::builder::ListBuilder;
use super::{
    ImageList, compose, dregsy, hauler, image_syncer, kubeadm, lock, oc_mirror, regsync, sections, skopeo,
};
use crate::yaml::{self, YamlNode};
use std::collections::HashMap;
use std::sync::Arc;

const SUPPORTED: &str = "supported are a sequence of names or of {registry, username, password, images: [...]}, and the files of \
                         docker compose, skopeo sync, regsync, dregsy, oc-mirror, hauler, image-syncer, kubeadm config images list -o json, imgpkg and Helm (Images.lock)";

/// The formats of structured lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StructuredFormat {
    /// saver's own: a sequence of sections or names, or a mapping with nothing but `images:`.
    Sections,
    Compose,
    Hauler,
    Kubeadm,
    /// Carvel's ImagesLock.
    CarvelLock,
    /// Images.lock of Helm charts.
    HelmLock,
    OcMirror,
    Regsync,
    Dregsy,
    Skopeo,
    ImageSyncer,
    /// Kubernetes objects name images, but they are not a list.
    KubernetesObject,
}

/// The format of a document, decided by evidence that no other format has.
pub(super) fn detect(document: &YamlNode) -> Option<StructuredFormat> {
    let version = document.text_of("apiVersion").unwrap_or_default();
    let pairs = document.pairs();
    if !document.items().is_empty() || is_bare_images(document) {
        Some(StructuredFormat::Sections)
    } else if version.starts_with("content.hauler.cattle.io/") {
        Some(StructuredFormat::Hauler)
    } else if version.starts_with("output.kubeadm.k8s.io/") {
        Some(StructuredFormat::Kubeadm)
    } else if document.text_of("kind") == Some("ImagesLock") && version.starts_with("imgpkg.carvel.dev/") {
        Some(StructuredFormat::CarvelLock)
    } else if document.text_of("kind") == Some("ImagesLock") && version == "v0" {
        Some(StructuredFormat::HelmLock)
    } else if document.text_of("kind") == Some("ImageSetConfiguration")
        && version.starts_with("mirror.openshift.io/")
    {
        Some(StructuredFormat::OcMirror)
    } else if !version.is_empty() && document.get("kind").is_some() {
        Some(StructuredFormat::KubernetesObject)
    } else if regsync::is_regsync(document) {
        Some(StructuredFormat::Regsync)
    } else if dregsy::is_dregsy(document) {
        Some(StructuredFormat::Dregsy)
    } else if compose::is_compose(document) {
        Some(StructuredFormat::Compose)
    } else if !pairs.is_empty() && pairs.iter().all(|(key, section)| skopeo::is_section(&key.text, section)) {
        Some(StructuredFormat::Skopeo)
    } else if !pairs.is_empty() && pairs.iter().all(|(key, value)| image_syncer::is_pair(&key.text, value)) {
        Some(StructuredFormat::ImageSyncer)
    } else {
        None
    }
}

/// Whether a document is `{images: [NAME, ...]}` and nothing else.
fn is_bare_images(document: &YamlNode) -> bool {
    let [(key, images)] = document.pairs() else { return false };
    key.text == "images"
        && !images.items().is_empty()
        && images.items().iter().all(|item| item.text().is_some())
}

/// Reads a document that is a list by its own content; none if it is not. Bare names alone are no evidence.
#[cfg(feature = "scan")]
pub(super) fn parse_document(document: &YamlNode, variables: &HashMap<String, String>) -> Option<ImageList> {
    let format = detect(document)?;
    let is_section = |item: &Arc<YamlNode>| item.get("registry").is_some() && item.get("images").is_some();
    let is_list = match format {
        // A scan reads regsync's files itself: it finds images in their patterns.
        StructuredFormat::KubernetesObject | StructuredFormat::Regsync => false,
        StructuredFormat::Sections => document.items().iter().all(is_section) && !document.items().is_empty(),
        _ => true,
    };
    if !is_list {
        return None;
    }
    let mut builder = ListBuilder::new(document.file.clone());
    read_as(&mut builder, format, document, variables);
    Some(builder.list)
}

/// Reads a structured list of any format.
pub(super) fn parse(file: &Arc<str>, text: &[u8]) -> ImageList {
    let mut builder = ListBuilder::new(file.clone());
    let Ok(text) = std::str::from_utf8(text) else {
        builder.problem(0, "the list is not UTF-8 text", Some("save it as UTF-8"));
        return builder.list;
    };
    let parsed = yaml::parse(file, text);
    for document in parsed.documents.iter().filter(|document| !document.is_null()) {
        match detect(document) {
            Some(format) => read_as(&mut builder, format, document, &HashMap::new()),
            None => {
                builder.problem(document.line, "not an image list in a supported format", Some(SUPPORTED))
            }
        }
    }
    if let Some(error) = parsed.error {
        builder.problem(error.line, format!("invalid YAML: {}", error.message), Some(SUPPORTED));
    }
    builder.list
}

fn read_as(
    builder: &mut ListBuilder,
    format: StructuredFormat,
    document: &YamlNode,
    variables: &HashMap<String, String>,
) {
    match format {
        StructuredFormat::Sections => sections::read(builder, document),
        StructuredFormat::Compose => compose::read(builder, document, variables),
        StructuredFormat::Hauler => hauler::read(builder, document),
        StructuredFormat::Kubeadm => kubeadm::read(builder, document),
        StructuredFormat::CarvelLock => lock::read_carvel(builder, document),
        StructuredFormat::HelmLock => lock::read_helm(builder, document),
        StructuredFormat::OcMirror => oc_mirror::read(builder, document),
        StructuredFormat::Regsync => regsync::read(builder, document),
        StructuredFormat::Dregsy => dregsy::read(builder, document),
        StructuredFormat::Skopeo => skopeo::read(builder, document),
        StructuredFormat::ImageSyncer => image_syncer::read(builder, document),
        StructuredFormat::KubernetesObject => builder.problem(
            document.line,
            "this is a Kubernetes object, not an image list",
            Some("run saver scan FILE to list the images that it names"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse as read;

    #[test]
    fn formats_are_detected_by_content() {
        for (name, text, images, reason) in [
            (
                "a.json",
                r#"{"kind":"Images","apiVersion":"output.kubeadm.k8s.io/v1alpha3","images":["a.io/b:1"]}"#,
                1,
                "",
            ),
            ("-", "apiVersion: apps/v1\nkind: Deployment\n", 0, "a Kubernetes object"),
            ("a.yaml", "registry: a.io\nimages: [b]\n", 0, "not an image list"),
            ("a.yaml", "a.io:\n  username: u\n  password: hush\n", 0, "not an image list"),
            ("a.yaml", "services:\n  a:\n    image: x:1\n---\nfoo: 1\n", 1, "a.yaml:5"),
            ("a.yaml", "services:\n  a:\n    image: x:1\n---\nfoo: [\n", 1, "a.yaml:5"),
            ("a.yaml", "services:\n  a:\n    image: x:1\ncron: {image: y}\n", 0, "not an image list"),
            ("a.yaml", "download:\n  images: {policy: warn}\n", 0, "not an image list"),
            ("a.yaml", "foo: [\n", 0, "a.yaml:1"),
            ("a.yaml", "- nginx:1\n- redis\n", 2, ""),
            ("a.json", "[\"nginx:1.27\",\n \"Bad:1\"]\n", 1, "a.json:2: "),
            ("a.yaml", "images:\n- nginx:1\n", 1, ""),
            ("a.yaml", "- registry: a.io\n  images: [b]\n- nginx\n", 2, ""),
            ("-", "services:\n  a:\n    image: x:1\n", 1, ""),
            ("-", "quay.io:\n  images:\n    a/b: ['1']\n", 1, ""),
            ("-", "{\"a.io/b:1\": \"c.io/d\"}\n", 1, ""),
            ("-", "a.io/b:1: c.io/d:1\n", 1, ""),
        ] {
            let list = read(name, text.as_bytes());
            assert_eq!(list.entries.len(), images, "{text}: {:?}", list.problems);
            assert_eq!(list.problems.len(), usize::from(!reason.is_empty()), "{text}: {:?}", list.problems);
            assert!(
                list.problems.iter().all(|problem| problem.to_string().contains(reason)),
                "{:?}",
                list.problems
            );
            assert!(!format!("{list:?}").contains("hush"));
        }
    }

    #[test]
    fn number_of_problems_is_bounded() {
        let text = format!(
            "services:\n{}",
            (0..5000).map(|i| format!("  a{i}: {{image: B}}\n")).collect::<String>()
        );
        assert_eq!(read("a.yaml", text.as_bytes()).problems.len(), super::super::MAX_PROBLEMS + 1);
    }
}
