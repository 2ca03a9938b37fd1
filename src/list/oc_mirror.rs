//! oc-mirror's ImageSetConfiguration: additional images without those that are blocked, and charts of repositories and OCI registries.

use super::builder::ListBuilder;
use crate::oci::Reference;
use crate::yaml::YamlNode;
use regex_lite::Regex;

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    let Some(mirror) = document.get("mirror") else {
        return builder.problem(document.line, "the configuration has no mirror", None);
    };
    let list = |key: &str| mirror.get(key).map(YamlNode::items).unwrap_or_default();
    let name = |item: &YamlNode| item.text().or_else(|| item.text_of("name")).map(str::to_owned);
    let blocked: Vec<BlockedImage> =
        list("blockedImages").iter().filter_map(|item| BlockedImage::read(&name(item)?)).collect();
    for item in list("additionalImages") {
        let Some(name) = name(item) else {
            builder.problem(item.line, "the image has no name", None);
            continue;
        };
        match Reference::parse(&name) {
            Ok(reference) if blocked.iter().any(|one| one.matches(&reference, &name)) => {
                builder.note(item.line, format!("{name} is blocked"));
            }
            _ => builder.image(item.line, &name, None, None),
        }
    }
    for key in ["platform", "operators"] {
        if let Some(section) = mirror.get(key).filter(|section| !section.is_null()) {
            let message = format!("{key} is not read: its images are those of a catalog or release");
            builder.note(section.line, message);
        }
    }
    if let Some(helm) = mirror.get("helm") {
        charts(builder, helm);
    }
}

/// Charts in OCI registries are artifacts like others. Those of files are reported.
fn charts(builder: &mut ListBuilder, helm: &YamlNode) {
    let list =
        |node: &YamlNode, key: &str| node.get(key).map(|node| node.items().to_vec()).unwrap_or_default();
    for repository in list(helm, "repositories") {
        let url = repository.text_of("url").unwrap_or_default().trim_end_matches('/');
        for chart in list(&repository, "charts") {
            let name = chart.text_of("name").unwrap_or_default();
            match (url.strip_prefix("oci://"), chart.text_of("version")) {
                (Some(place), Some(version)) => {
                    // A tag cannot contain the + of a version; Helm replaces it by _.
                    let image = format!("{place}/{name}:{}", version.replace('+', "_"));
                    builder.image(chart.line, &image, None, None);
                }
                (Some(place), None) => {
                    let newest = ["tags=semver:*".to_owned(), "newest=1".to_owned()];
                    builder.select(chart.line, &format!("{place}/{name}"), &newest, None, None);
                }
                (None, version) => builder.chart(chart.line, url, name, version.unwrap_or("*")),
            }
        }
    }
    for chart in list(helm, "local") {
        let path = chart.text_of("path").unwrap_or_default();
        builder.note(chart.line, format!("the chart {path:?} is a file: saver import {path} saves it"));
    }
}

/// An image that is not mirrored: a repository, an image, or a pattern.
struct BlockedImage {
    reference: Option<Reference>,
    /// Whether the name has a tag or digest.
    is_exact: bool,
    pattern: Option<Regex>,
}

impl BlockedImage {
    fn read(name: &str) -> Option<Self> {
        let reference = Reference::parse(name).ok();
        let is_exact = Reference::has_written_tag(name) || name.contains('@');
        let pattern = if reference.is_none() { Regex::new(name).ok() } else { None };
        (reference.is_some() || pattern.is_some()).then_some(Self { reference, is_exact, pattern })
    }

    fn matches(&self, reference: &Reference, name: &str) -> bool {
        match &self.reference {
            Some(blocked) if self.is_exact => blocked == reference,
            Some(blocked) => {
                blocked.registry == reference.registry && blocked.repository == reference.repository
            }
            None => self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn sample_is_read() {
        let parsed = parse("isc.yaml", include_bytes!("../../testdata/lists/oc-mirror.yaml"));
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let images: Vec<String> = parsed.entries.iter().map(|entry| entry.reference.to_string()).collect();
        assert_eq!(
            images,
            ["registry.redhat.io/ubi9/ubi:latest", "registry.example.com/charts/podinfo:5.0.0_b1"]
        );
        let selections: Vec<String> =
            parsed.selections.iter().map(|one| format!("{} {}", one.name(), one.selection)).collect();
        assert_eq!(selections, ["registry.example.com/charts/newest tags=semver:* newest=1"]);
        let charts: Vec<String> =
            parsed.charts.iter().map(|one| format!("{} {}", one.origin.line, one.chart)).collect();
        assert_eq!(charts, ["22 https://example.github.io/podinfo/podinfo version=5.0.0"]);
        let notes: Vec<String> = parsed.notes.iter().map(ToString::to_string).collect();
        for (line, words) in
            [(10, "alpine:3 is blocked"), (11, "is blocked"), (5, "platform is not read"), (24, "is a file")]
        {
            assert!(
                notes
                    .iter()
                    .any(|note| note.starts_with(&format!("isc.yaml:{line}: ")) && note.contains(words)),
                "{line} {words}: {notes:?}"
            );
        }
    }
}
