//! The file of `skopeo sync --src yaml` (skopeo-sync(1)): registries, their repositories, and the tags of each.

use super::builder::{ListBuilder, semver_option};
use super::is_registry_domain;
use super::plain::{Problem, RegistryScope};
use super::sections;
use crate::oci::Registry;
use crate::yaml::YamlNode;
use std::sync::Arc;

/// Whether a pair of a mapping is a registry with its repositories.
pub(super) fn is_section(registry: &str, section: &YamlNode) -> bool {
    let has_tags = section.get("images").is_some_and(|images| {
        let is_tags = |tags: &YamlNode| tags.is_null() || !tags.is_mapping() && tags.text().is_none();
        images.is_null() || images.is_mapping() && images.pairs().iter().all(|(_, tags)| is_tags(tags))
    });
    let has_patterns = ["images-by-tag-regex", "images-by-semver"]
        .iter()
        .any(|key| section.get(key).is_some_and(|value| value.is_mapping() || value.is_null()));
    is_registry_domain(registry) && (has_tags || has_patterns)
}

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    for (registry, section) in document.pairs() {
        let scope = match scope(&registry.text, section) {
            Ok(scope) => scope,
            Err((message, hint)) => {
                builder.problem(registry.line, message, hint.as_deref());
                continue;
            }
        };
        for (key, value) in section.pairs() {
            match key.text.as_str() {
                "images" => images(builder, value, &scope),
                "images-by-tag-regex" | "images-by-semver" => {
                    for (name, pattern) in value.pairs() {
                        let name = format!("{}/{}", scope.registry, name.text);
                        let text = pattern.text().unwrap_or_default();
                        // skopeo searches for its expressions, which are not anchored.
                        let option = match key.text.as_str() {
                            "images-by-semver" => semver_option(text),
                            _ => format!("tags=re:.*(?:{text}).*"),
                        };
                        if text.trim().is_empty() {
                            builder.problem(pattern.line, format!("the pattern for {name:?} is empty"), None);
                        } else {
                            builder.select(pattern.line, &name, &[option], None, Some(&scope));
                        }
                    }
                }
                "credentials" => {}
                "tls-verify" if value.text() == Some("false") => builder.note(
                    key.line,
                    format!("tls-verify in a list is ignored: use --insecure-tls {}", scope.registry),
                ),
                "tls-verify" => {}
                "cert-dir" => builder.note(key.line, "cert-dir in a list is ignored: use --cert-dir"),
                _ => builder.problem(key.line, format!("unknown key {:?} for skopeo sync", key.text), None),
            }
        }
    }
}

fn scope(name: &str, section: &YamlNode) -> Result<RegistryScope, Problem> {
    let registry: Registry = name.parse().map_err(|error: crate::error::Error| (error.to_string(), None))?;
    let credentials = section.get("credentials");
    let text = |key| credentials.and_then(|node| node.text_of(key)).filter(|text| !text.is_empty());
    let pair = ["username", "password"].map(|key| text(key).map(str::to_owned));
    let credential = sections::credential(&registry, pair)?.map(Arc::new);
    Ok(RegistryScope { registry, credential })
}

fn images(builder: &mut ListBuilder, repositories: &YamlNode, scope: &RegistryScope) {
    for (name, tags) in repositories.pairs() {
        if tags.items().is_empty() {
            let all = format!("{}/{}:*", scope.registry, name.text);
            builder.image(name.line, &all, None, Some(scope));
        }
        for tag in tags.items() {
            let Some(text) = tag.text().filter(|text| !text.trim().is_empty()) else {
                builder.problem(tag.line, "the tag is empty", None);
                continue;
            };
            let separator = if text.starts_with("sha256:") { '@' } else { ':' };
            // With the registry written out, no part of the repository is taken for one.
            let image = format!("{}/{}{separator}{text}", scope.registry, name.text);
            builder.image(tag.line, &image, None, Some(scope));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn sample_is_read() {
        let parsed = parse("sync.yaml", include_bytes!("../../testdata/lists/skopeo-sync.yaml"));
        let seen: Vec<String> = parsed
            .entries
            .iter()
            .map(|e| {
                let user = e.credential.as_ref().map_or("", |c| c.username.as_str());
                format!("{} {} {user}", e.origin.line, e.reference)
            })
            .collect();
        assert_eq!(
            seen,
            [
                "5 registry.example.com/redis:1.0 reader",
                "6 registry.example.com/redis:2.10 reader",
                "7 registry.example.com/redis@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae reader",
                "13 quay.io/coreos/etcd:latest ",
            ]
        );
        let notes: Vec<String> = parsed.notes.iter().map(ToString::to_string).collect();
        assert!(notes.len() == 1 && notes[0].contains("--insecure-tls registry.example.com"), "{notes:?}");
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let selections: Vec<String> = parsed
            .selections
            .iter()
            .map(|one| format!("{} {} {}", one.origin.line, one.name(), one.selection))
            .collect();
        assert_eq!(
            selections,
            ["14 quay.io/coreos/flannel tags=all", r"16 quay.io/coreos/clair tags=re:.*(?:^v2\.[0-9]+$).*"]
        );
        assert!(!format!("{parsed:?}").contains("sample-password"));
    }
}
