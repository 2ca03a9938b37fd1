//! dregsy's configuration (github.com/xelalexv/dregsy): tasks with mappings of repositories and filters of tags.

use super::RepositoryPattern;
use super::builder::{ListBuilder, semver_option};
use super::plain::RegistryScope;
use super::sections;
use crate::oci::Registry;
use crate::yaml::YamlNode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::sync::Arc;

/// Whether a document is a dregsy configuration.
pub(super) fn is_dregsy(document: &YamlNode) -> bool {
    let tasks = document.get("tasks").map(YamlNode::items).unwrap_or_default();
    let is_task = |task: &Arc<YamlNode>| {
        task.get("source").is_some_and(|source| source.get("registry").is_some())
            && task.get("mappings").is_some()
    };
    !tasks.is_empty() && tasks.iter().all(is_task)
}

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    builder.note(document.line, "targets are ignored: --names decides where images go");
    for task in document.get("tasks").map(YamlNode::items).unwrap_or_default() {
        let source = task.get("source");
        let name = source.and_then(|source| source.text_of("registry")).unwrap_or_default();
        // Another name of Docker Hub, which dregsy's manual recommends.
        let name = if name == "registry.hub.docker.com" { "docker.io" } else { name };
        let registry: Registry = match name.parse() {
            Ok(registry) => registry,
            Err(error) => {
                builder.problem(task.line, error.to_string(), None);
                continue;
            }
        };
        let login = source.and_then(|source| source.text_of("auth")).and_then(login);
        let pair = login.map_or([None, None], |login| [Some(login.username), Some(login.password)]);
        let credential = sections::credential(&registry, pair).unwrap_or_default().map(Arc::new);
        let scope = RegistryScope { registry, credential };
        for mapping in task.get("mappings").map(YamlNode::items).unwrap_or_default() {
            read_mapping(builder, mapping, &scope);
        }
    }
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

/// The user and password in a base64-encoded JSON object.
fn login(text: &str) -> Option<Login> {
    serde_json::from_slice(&STANDARD.decode(text.trim()).ok()?).ok()
}

fn read_mapping(builder: &mut ListBuilder, mapping: &YamlNode, scope: &RegistryScope) {
    let line = mapping.line;
    let Some(from) = mapping.text_of("from").map(str::trim).filter(|from| !from.is_empty()) else {
        return builder.problem(line, "the mapping has no from", None);
    };
    let platform = mapping.text_of("platform");
    let (path, pattern) = match from.strip_prefix("regex:").map(str::trim) {
        Some(regex) => match RepositoryPattern::regex(&[regex], &[]) {
            Ok(pattern) => ("**", Some(pattern)),
            Err(why) => return builder.problem(line, format!("invalid {from:?}: {why}"), None),
        },
        None => (from, None),
    };
    let name = format!("{}/{path}", scope.registry);
    let tags: Vec<&str> = mapping
        .get("tags")
        .map(YamlNode::items)
        .unwrap_or_default()
        .iter()
        .filter_map(|tag| tag.text())
        .collect();
    // Tags must match all of the filters that start with keep:.
    let keep: Vec<String> =
        tags.iter().filter_map(|tag| tag.strip_prefix("keep:")).map(regex_option).collect();
    let filters: Vec<&str> = tags.into_iter().filter(|tag| !tag.starts_with("keep:")).collect();
    let filters = if filters.is_empty() { vec!["regex:.*"] } else { filters };
    for filter in filters {
        let option = if let Some(range) = filter.strip_prefix("semver:") {
            semver_option(range)
        } else if let Some(regex) = filter.strip_prefix("regex:") {
            regex_option(regex)
        } else if pattern.is_none() && keep.is_empty() {
            builder.image(line, &format!("{name}:{filter}"), platform, Some(scope));
            continue;
        } else {
            format!("tags={filter}")
        };
        let options: Vec<String> = std::iter::once(option).chain(keep.iter().cloned()).collect();
        let before = builder.list.selections.len();
        builder.select(line, &name, &options, platform, Some(scope));
        builder.match_repositories(before, pattern.as_ref());
    }
}

/// A regular expression, which `!` inverts.
fn regex_option(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('!') {
        Some(inverted) => format!("except=re:{inverted}"),
        None => format!("tags=re:{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn sample_is_read() {
        let parsed = parse("dregsy.yaml", include_bytes!("../../testdata/lists/dregsy.yaml"));
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let images: Vec<String> = parsed.entries.iter().map(|entry| entry.reference.to_string()).collect();
        assert_eq!(images, ["registry.example.com/test/image:0.1.0", "docker.io/library/busybox:1.29.4"]);
        assert_eq!(parsed.entries[0].credential.as_ref().unwrap().username, "alex");
        let selections: Vec<String> =
            parsed.selections.iter().map(|one| format!("{} {}", one.name(), one.selection)).collect();
        assert_eq!(
            selections,
            [
                "registry.example.com/test/another-image tags=re:.*",
                "registry.example.com/(myproject/.*) tags=re:.* except=re:.*-rc.*",
                "docker.io/library/busybox tags=semver:>=1.31.0,<1.31.9",
                r"docker.io/library/busybox tags=re:1\.26\.[0-9]-(glibc|musl)",
                "docker.io/library/busybox tags=all except=re:.*-test",
            ]
        );
        assert!(!format!("{parsed:?}").contains("sample-password"));
    }
}
