//! hauler's manifests: documents of kind Images and Charts (docs.hauler.dev, "Content Types").

use super::builder::{ListBuilder, semver_option};
use super::is_registry_domain;
use crate::yaml::YamlNode;

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    let spec = document.get("spec");
    let list = |key: &str| spec.and_then(|spec| spec.get(key)).map(YamlNode::items).unwrap_or_default();
    match document.text_of("kind").unwrap_or_default() {
        "Images" => {
            let note = |key: &str| document.get("metadata")?.get("annotations")?.text_of(key);
            let registry = note("hauler.dev/registry").or_else(|| note("hauler.cattle.io/registry"));
            let platform = note("hauler.dev/platform").or_else(|| note("hauler.cattle.io/platform"));
            list("images").iter().for_each(|item| image(builder, item, registry, platform));
        }
        "Charts" => list("charts").iter().for_each(|item| chart(builder, item)),
        "Files" => builder.note(document.line, "files are not images and are skipped"),
        other => {
            let message = format!("unsupported hauler kind {other:?}");
            builder.problem(document.line, message, Some("supported are Images and Charts"));
        }
    }
}

fn image(builder: &mut ListBuilder, item: &YamlNode, registry: Option<&str>, platform: Option<&str>) {
    let Some(name) = item.text_of("name") else {
        return builder.problem(item.line, "the image has no name", None);
    };
    let line = item.get("name").map_or(item.line, |name| name.line);
    let platform = item.text_of("platform").or(platform);
    let (first, _) = name.split_once('/').unwrap_or_default();
    match registry.filter(|_| !is_registry_domain(first)) {
        Some(registry) => {
            builder.image(line, &format!("{}/{name}", registry.trim_end_matches('/')), platform, None);
        }
        None => builder.image(line, name, platform, None),
    }
}

fn chart(builder: &mut ListBuilder, item: &YamlNode) {
    let line = item.line;
    let Some(name) = item.text_of("name") else {
        return builder.problem(line, "the chart has no name", None);
    };
    let place = item.text_of("repoURL").unwrap_or(if name.starts_with("oci://") { name } else { "" });
    if place.starts_with("https://") || place.starts_with("http://") {
        // Without a version, hauler takes the newest.
        return builder.chart(line, place, name, item.text_of("version").unwrap_or("*"));
    }
    let Some(place) = place.strip_prefix("oci://") else {
        let message = format!("the chart {name:?} is neither in a repository nor in an OCI registry");
        let hint = "fetch it with helm pull; saver scan lists the images that it uses";
        return builder.problem(line, message, Some(hint));
    };
    let place = place.trim_end_matches('/');
    let full = if name.starts_with("oci://") { place.to_owned() } else { format!("{place}/{name}") };
    // As for Helm, a range or no version is the newest release that matches.
    let version = item.text_of("version").map(str::trim).filter(|version| !version.is_empty());
    let is_range = |version: &str| {
        version.contains(['^', '~', '<', '>', '=', '*', ' ', '|', ',']) || version.ends_with(".x")
    };
    let Some(version) = version.filter(|version| !is_range(version)) else {
        let range = semver_option(version.unwrap_or("*"));
        return builder.select(line, &full, &[range, "newest=1".to_owned()], None, None);
    };
    // A tag cannot contain the + of a version; Helm replaces it by _.
    builder.image(line, &format!("{full}:{}", version.replace('+', "_")), None, None);
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn sample_is_read() {
        let parsed = parse("hauler.yaml", include_bytes!("../../testdata/lists/hauler.yaml"));
        let seen: Vec<String> = parsed
            .entries
            .iter()
            .map(|e| {
                format!(
                    "{} {} {:?}",
                    e.origin.line,
                    e.reference,
                    e.platforms.as_ref().map(ToString::to_string)
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                "9 registry.example.com/library/busybox:1.36 Some(\"linux/amd64\")",
                "10 quay.io/team/app:1.0 Some(\"linux/arm64\")",
                "19 registry.example.com/charts/mysql:8.8.19_a None",
            ]
        );
        assert_eq!(parsed.notes.len(), 1);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let charts: Vec<String> =
            parsed.charts.iter().map(|one| format!("{} {}", one.origin, one.chart)).collect();
        assert_eq!(charts, ["hauler.yaml:22 https://releases.example.com/charts/rancher version=2.8.1"]);
    }
}
