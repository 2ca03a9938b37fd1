//! regsync's configuration (regclient.org): images, repositories with patterns of tags, and registries.

use super::RepositoryPattern;
use super::builder::{ListBuilder, semver_option};
use super::plain::{Problem, RegistryScope};
use super::sections;
use crate::oci::{Reference, Registry};
use crate::yaml::YamlNode;
use std::sync::Arc;

/// Whether a document is a regsync configuration.
pub(super) fn is_regsync(document: &YamlNode) -> bool {
    let items = document.get("sync").map(YamlNode::items).unwrap_or_default();
    !items.is_empty() && items.iter().all(|item| item.get("source").is_some() && item.get("type").is_some())
}

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    builder.note(document.line, "targets are ignored: --names decides where images go");
    for item in document.get("sync").map(YamlNode::items).unwrap_or_default() {
        let source = item.text_of("source").unwrap_or_default();
        if source.contains("{{") || source.is_empty() {
            builder.problem(item.line, format!("{source:?} is an unrendered template or empty"), None);
            continue;
        }
        let kind = item.text_of("type").unwrap_or_default();
        let registry = match kind {
            "registry" => source.parse(),
            _ => Reference::parse(source).map(|reference| reference.registry),
        };
        let scope = match registry
            .map_err(|error| (error.to_string(), None))
            .and_then(|one| credentials(document, one))
        {
            Ok(scope) => scope,
            Err((message, hint)) => {
                builder.problem(item.line, message, hint.as_deref());
                continue;
            }
        };
        let platforms: Vec<&str> = match item.text_of("platform") {
            Some(platform) => vec![platform],
            None => texts(item.get("platforms")),
        };
        let platforms = Some(platforms.join(",")).filter(|platforms| !platforms.is_empty());
        let target = SyncItem { builder, item, scope: scope.as_ref(), platforms: platforms.as_deref() };
        match kind {
            "image" => target.builder.image(item.line, source, target.platforms, target.scope),
            "repository" => target.select(source, None),
            "registry" => target.registry(source),
            other => builder.problem(item.line, format!("unknown type {other:?} for regsync"), None),
        }
    }
}

/// The credentials that the configuration has for a registry.
fn credentials(document: &YamlNode, registry: Registry) -> Result<Option<RegistryScope>, Problem> {
    let own = document.get("creds").map(YamlNode::items).unwrap_or_default().iter().find(|one| {
        one.text_of("registry").and_then(|name| name.parse::<Registry>().ok()).as_ref() == Some(&registry)
    });
    let Some(own) = own else { return Ok(None) };
    let pair =
        ["user", "pass"].map(|key| own.text_of(key).filter(|text| !text.contains("{{")).map(str::to_owned));
    let credential = sections::credential(&registry, pair)?.map(Arc::new);
    Ok(Some(RegistryScope { registry, credential }))
}

fn texts(node: Option<&YamlNode>) -> Vec<&str> {
    node.map(YamlNode::items).unwrap_or_default().iter().filter_map(|item| item.text()).collect()
}

struct SyncItem<'a> {
    builder: &'a mut ListBuilder,
    item: &'a YamlNode,
    scope: Option<&'a RegistryScope>,
    platforms: Option<&'a str>,
}

impl SyncItem<'_> {
    /// Selects the tags that match one of the sets: in a version range, allowed, and not denied.
    fn select(self, name: &str, repositories: Option<&RepositoryPattern>) {
        let sets = self.item.get("tagSets").map(YamlNode::items).unwrap_or_default();
        let sets: Vec<&YamlNode> = sets.iter().map(|set| &**set).chain(self.item.get("tags")).collect();
        let options: Vec<Vec<String>> =
            if sets.is_empty() { vec![Vec::new()] } else { sets.into_iter().map(tag_options).collect() };
        for options in options {
            let before = self.builder.list.selections.len();
            self.builder.select(self.item.line, name, &options, self.platforms, self.scope);
            self.builder.match_repositories(before, repositories);
        }
    }

    fn registry(self, name: &str) {
        let repos = self.item.get("repos");
        let [allow, deny] = ["allow", "deny"].map(|key| texts(repos.and_then(|repos| repos.get(key))));
        match RepositoryPattern::regex(&allow, &deny) {
            Ok(pattern) => self.select(&format!("{name}/**"), Some(&pattern)),
            Err(why) => {
                self.builder.problem(self.item.line, format!("invalid repos of {name:?}: {why}"), None)
            }
        }
    }
}

fn tag_options(set: &YamlNode) -> Vec<String> {
    let [allow, deny, ranges] = ["allow", "deny", "semverRange"].map(|key| texts(set.get(key)));
    let mut options = Vec::new();
    if !ranges.is_empty() {
        options.push(semver_option(&ranges.join(" || ")));
    }
    if !allow.is_empty() {
        options.push(format!("tags=re:{}", allow.join("|")));
    }
    options.extend(deny.iter().map(|pattern| format!("except=re:{pattern}")));
    options
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn sample_is_read() {
        let parsed = parse("regsync.yml", include_bytes!("../../testdata/lists/regsync.yml"));
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let images: Vec<String> = parsed.entries.iter().map(|entry| entry.reference.to_string()).collect();
        assert_eq!(images, ["docker.io/library/busybox:1.37"]);
        let selections: Vec<String> = parsed
            .selections
            .iter()
            .map(|one| {
                let user = one.credential.as_ref().map_or("", |credential| credential.username.as_str());
                let platforms = one.platforms.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{} {} {user} {platforms}", one.name(), one.selection).trim_end().to_owned()
            })
            .collect();
        assert_eq!(
            selections,
            [
                r"docker.io/library/alpine tags=re:3|3\.\d+ except=re:3\.0  linux/amd64,linux/arm64"
                    .replace(r"\\", r"\"),
                "ghcr.io/team/app tags=semver:>=1.2.0,<2.0.0,||,>=4.0.0 tags=re:v.*".to_owned(),
                "ghcr.io/team/app tags=re:latest".to_owned(),
                "registry.example.com/(team/.*|charts/.*) tags=all reader".to_owned(),
            ]
        );
        let repository = |name: &str| name.parse().unwrap();
        let pattern = parsed.selections[3].repositories.as_ref().unwrap();
        assert!(pattern.matches(&repository("team/app")) && !pattern.matches(&repository("team/secret")));
        assert!(!format!("{parsed:?}").contains("sample-password"));
    }
}
