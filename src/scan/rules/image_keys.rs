//! Values of keys that announce images: whole names, lists of names, and names that are split into parts.

use super::{CONTAINERS, DocumentKind, Position, Rules, origin};
use crate::oci::Reference;
use crate::scan::DoubtReason;
use crate::scan::heuristics::{self, joined, whole_name};
use crate::yaml::{YamlNode, YamlValue};
use std::sync::Arc;

impl Rules<'_> {
    /// Names that are split into several settings, under keys that do not announce an image. True if `image` is one of them.
    pub(super) fn split_names(&mut self, node: &YamlNode) -> bool {
        for (key, child) in node.pairs() {
            let Some(tag) = heuristics::tag_key(&key.text).and_then(|key| node.text_of(&key)) else {
                continue;
            };
            let Some(name) = child.text().filter(|name| name.contains('/') && !heuristics::is_explicit(name))
            else {
                continue;
            };
            self.separate_parts(&joined(None, name, Some(tag), None), child);
        }
        let Some(repository) = node.get("repository") else { return false };
        let Some(name) = repository.text().filter(|name| !name.contains("://")) else { return false };
        if let (Some(image), Some(tag)) =
            (node.text_of("image"), node.text_of("version").or(node.text_of("tag")))
            && heuristics::has_registry(name)
            && !image.contains('/')
        {
            // Operators take {repository, image, version}.
            self.elsewhere(&joined(Some(name), image, Some(tag), None), repository);
            return true;
        }
        let (tag, digest) = (node.text_of("tag"), node.text_of("digest"));
        if tag.is_some() || digest.is_some() {
            self.separate_parts(&joined(node.text_of("registry"), name, tag, digest), repository);
        }
        false
    }

    pub(super) fn separate_parts(&mut self, image: &str, node: &YamlNode) {
        if !heuristics::is_template(image) && !image.contains("://") && Reference::parse(image).is_ok() {
            let reason = self.reason(DoubtReason::SeparateParts);
            self.found.doubt(image, origin(node), reason);
        }
    }

    /// A collection of names. False if it is to be read like any other value.
    pub(super) fn images(&mut self, node: &YamlNode) -> bool {
        let items: Vec<&Arc<YamlNode>> =
            node.items().iter().chain(node.pairs().iter().map(|(_, value)| value)).collect();
        let all_whole =
            !items.is_empty() && items.iter().all(|item| item.text().and_then(whole_name).is_some());
        let is_list = matches!(self.document, DocumentKind::Object | DocumentKind::Embedded)
            || all_whole && self.document == DocumentKind::Unknown;
        for item in items {
            let name = item.get("image").is_none().then(|| item.get("name")).flatten();
            match (item.text(), name.and_then(|name| Some((name, name.text()?)))) {
                (Some(text), _) if is_list => self.listed(text, item),
                // {name: NAME}, as the Edge Image Builder lists images.
                (None, Some((name, text))) if is_list && heuristics::image(text).is_some() => {
                    self.listed(text, name)
                }
                _ => self.node(item, Position { key: "images", is_item: true }),
            }
        }
        true
    }

    fn listed(&mut self, text: &str, node: &YamlNode) {
        if text.contains('*') || text.trim().is_empty() {
            return;
        }
        match whole_name(text) {
            Some(reference) => self.found.sure(reference, origin(node)),
            None if heuristics::is_template(text) => {
                self.found.doubt(text, origin(node), DoubtReason::UnrenderedTemplate);
            }
            None if heuristics::is_placeholder(text) => {
                self.found.doubt(text, origin(node), DoubtReason::Placeholder)
            }
            None => match Reference::parse(text) {
                Ok(_) if !heuristics::is_no_name(text) => {
                    self.found.doubt(text, origin(node), DoubtReason::NoTag)
                }
                Ok(_) => {}
                Err(error) => self.invalid(text, node, &error),
            },
        }
    }

    fn invalid(&mut self, text: &str, node: &YamlNode, error: &crate::error::Error) {
        let detail = Some(error.message().to_owned());
        self.found.doubt_with(text, origin(node), DoubtReason::InvalidName, detail);
    }

    /// The value of an image key. False if it is to be read like any other value.
    pub(super) fn image(&mut self, key: &str, node: &YamlNode, siblings: &YamlNode, within: &str) -> bool {
        match &node.value {
            YamlValue::Scalar(scalar) if scalar.text.contains('\n') => false,
            YamlValue::Scalar(_) => {
                if let Some(text) = node.text().map(str::trim).filter(|text| !text.is_empty()) {
                    self.name(key, text, node, siblings, within);
                }
                true
            }
            // An unquoted {{ template }} reads as a mapping with a mapping as its key.
            YamlValue::Mapping(pairs) if pairs.iter().any(|(key, _)| key.complex) => {
                let text = pairs.first().map(|(key, _)| key.text.as_str()).unwrap_or_default();
                self.found.doubt(text, origin(node), DoubtReason::UnrenderedTemplate);
                true
            }
            YamlValue::Mapping(_) if within == "volumes" && node.text_of("reference").is_some() => {
                let text = node.text_of("reference").unwrap_or_default();
                self.name(key, text, node, node, within);
                true
            }
            YamlValue::Mapping(_) => self.parts(node),
            YamlValue::Sequence(_) => false,
        }
    }

    /// A name under an image key. In a container it is an image; elsewhere it needs a tag or a digest to be one.
    fn name(&mut self, key: &str, text: &str, node: &YamlNode, siblings: &YamlNode, within: &str) {
        let is_container = key == "image" && (CONTAINERS.contains(&within) || within == "volumes");
        // A reference to a parameter of Tekton, whose value is read where it is set.
        if text.starts_with("$(params.") {
            return;
        }
        if heuristics::is_template(text) {
            let reason = self.reason(DoubtReason::UnrenderedTemplate);
            return self.found.doubt(text, origin(node), reason);
        }
        if is_container && text == "auto" {
            if !self.is_injected {
                self.found.doubt(text, origin(node), DoubtReason::Injected);
            }
            return;
        }
        if heuristics::is_no_name(text) {
            if is_container {
                self.found.doubt(text, origin(node), DoubtReason::InvalidName);
            }
            return;
        }
        if heuristics::is_placeholder(text) {
            return self.found.doubt(text, origin(node), DoubtReason::Placeholder);
        }
        let reference = match Reference::parse(text) {
            Ok(reference) => reference,
            Err(error) if is_container => return self.invalid(text, node, &error),
            Err(_) => return,
        };
        let is_values = matches!(self.document, DocumentKind::Values(_) | DocumentKind::Annotation);
        if is_container && !is_values {
            return self.found.sure(reference, origin(node));
        }
        if heuristics::is_explicit(text) {
            return self.elsewhere(text, node);
        }
        let tag_key = format!("{key}Tag");
        let near = |key: &str| {
            siblings.text_of(key).filter(|text| !text.is_empty() && !heuristics::is_template(text))
        };
        let tag = near(&tag_key).or(near("tag"));
        let digest = near("digest").or(near("sha")).filter(|digest| digest.starts_with("sha256:"));
        if tag.is_some() || digest.is_some() {
            let image = joined(near("registry"), text, tag, digest);
            return match self.document {
                DocumentKind::Object => self.elsewhere(&image, node),
                _ => self.separate_parts(&image, node),
            };
        }
        match near("version").filter(|_| self.document == DocumentKind::Object) {
            // k0s takes {image: NAME, version: TAG} in its images.
            Some(version) if heuristics::has_registry(text) && within == "images" => {
                self.elsewhere(&joined(None, text, Some(version), None), node);
            }
            Some(version) => {
                let image = joined(None, text, Some(version), None);
                self.found.doubt(&image, origin(node), DoubtReason::NoTag);
            }
            None if heuristics::is_other_image(text) => {}
            None => {
                let reason = self.reason(DoubtReason::NoTag);
                self.found.doubt(text, origin(node), reason);
            }
        }
    }

    /// A whole name under an image key that is not in a container.
    pub(super) fn elsewhere(&mut self, text: &str, node: &YamlNode) {
        let reference = match Reference::parse(heuristics::bare(text)) {
            Ok(reference) => reference,
            Err(error) => return self.invalid(text, node, &error),
        };
        match self.document {
            DocumentKind::Object | DocumentKind::Embedded => self.found.sure(reference, origin(node)),
            DocumentKind::Unknown if heuristics::has_registry(text) => {
                self.found.sure(reference, origin(node))
            }
            _ => {
                let reason = self.reason(DoubtReason::UnknownFormat);
                self.found.doubt(text, origin(node), reason);
            }
        }
    }

    /// `{registry, repository, tag, digest}` under an image key.
    fn parts(&mut self, node: &YamlNode) -> bool {
        let text = |key: &str| node.text_of(key).map(str::trim).filter(|text| !text.is_empty());
        let name = text("repository").map(|name| ("repository", name));
        let name = name.or_else(|| {
            ["name", "image"]
                .iter()
                .find_map(|key| Some((*key, text(key)?)))
                .filter(|_| text("tag").is_some())
        });
        let Some((key, name)) = name.filter(|(_, name)| !name.contains("://")) else { return false };
        let at = node.get(key).unwrap_or(node);
        let (tag, digest) = (text("tag"), text("digest").or(text("sha")));
        let image = joined(text("registry"), name, tag, digest);
        if heuristics::is_template(&image) {
            let reason = self.reason(DoubtReason::UnrenderedTemplate);
            self.found.doubt(&image, origin(at), reason);
        } else if tag.is_none() && digest.is_none() && !heuristics::is_explicit(name) {
            let reason = self.reason(DoubtReason::NoTag);
            self.found.doubt(&image, origin(at), reason);
        } else if self.document == DocumentKind::Object {
            self.elsewhere(&image, at);
        } else {
            self.separate_parts(&image, at);
        }
        true
    }
}
