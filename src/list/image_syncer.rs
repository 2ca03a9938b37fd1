//! image-syncer's images file: a mapping of sources to destinations.

use super::builder::ListBuilder;
use super::is_registry_domain;
use crate::yaml::YamlNode;

/// Whether a pair of a mapping is an image with its destinations.
pub(super) fn is_pair(source: &str, destination: &YamlNode) -> bool {
    let (first, _) = source.split_once('/').unwrap_or_default();
    let is_name = is_registry_domain(first) || source.contains(':') && !source.contains("://");
    source.contains('/') && is_name && !destination.is_mapping() && !source.contains(char::is_whitespace)
}

/// The grammar of a source is `name`, `name:tag,tag`, `name:/regex/` or `name@digest`.
pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    builder.note(document.line, "destinations are ignored: --names decides where images go");
    for (source, _) in document.pairs() {
        let text = source.text.trim();
        if text.contains('@') {
            builder.image(source.line, text, None, None);
            continue;
        }
        let start = text.find('/').unwrap_or(0);
        let Some(colon) = text[start..].find(':').map(|at| start + at) else {
            builder.image(source.line, &format!("{text}:*"), None, None);
            continue;
        };
        let (name, tags) = (&text[..colon], &text[colon + 1..]);
        if tags.starts_with('/') {
            // The expressions are not anchored.
            let searched = format!("tags=re:.*(?:{}).*", tags.trim_matches('/'));
            builder.select(source.line, name, &[searched], None, None);
            continue;
        }
        for tag in tags.split(',') {
            builder.image(source.line, &format!("{name}:{}", tag.trim()), None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn samples_are_read() {
        const SELECTIONS: [&str; 2] =
            ["quay.io/coreos/etcd tags=all", "quay.io/coreos/clair tags=re:.*(?:^v2.*$).*"];
        let expected = [
            "quay.io/coreos/kube-rbac-proxy:v1.0",
            "quay.io/coreos/kube-rbac-proxy:v2.0",
            "registry.example.com:5000/a/b:1",
            "quay.io/x/y@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        ];
        for (name, text) in [
            ("images.yaml", include_bytes!("../../testdata/lists/image-syncer.yaml").as_slice()),
            ("images.json", include_bytes!("../../testdata/lists/image-syncer.json")),
        ] {
            let parsed = parse(name, text);
            let seen: Vec<String> = parsed.entries.iter().map(|e| e.reference.to_string()).collect();
            assert_eq!(seen, expected, "{name}");
            let text: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            assert!(text.is_empty(), "{text:?}");
            let selections = parsed.selections.iter().map(|one| format!("{} {}", one.name(), one.selection));
            assert_eq!(selections.collect::<Vec<_>>(), SELECTIONS, "{name}");
        }
    }
}
