//! The file of `skopeo sync --src yaml` (skopeo-sync(1)): registries, their repositories, and the tags of each.

use super::plain::Home;
use super::sections;
use super::yaml::Into;
use crate::oci::Registry;
use crate::yaml::Node;
use std::sync::Arc;

const LISTING: &str = "saver tags REPOSITORY prints them: write those that are meant";

/// Whether a mapping's value is what stands under a registry.
pub(super) fn is_section(section: &Node) -> bool {
    ["images", "images-by-tag-regex", "images-by-semver"]
        .iter()
        .any(|key| section.get(key).is_some_and(|value| value.is_mapping() || value.is_null()))
}

pub(super) fn read(into: &mut Into, document: &Node) {
    for (registry, section) in document.pairs() {
        let home = match home(&registry.text, section) {
            Ok(home) => home,
            Err((message, hint)) => {
                into.problem(registry.line, message, hint.as_deref());
                continue;
            }
        };
        for (key, value) in section.pairs() {
            match key.text.as_str() {
                "images" => images(into, value, &home),
                "images-by-tag-regex" | "images-by-semver" => {
                    for (name, pattern) in value.pairs() {
                        let told =
                            format!("the tags of {:?} are given as a pattern, not one by one", name.text);
                        into.problem(pattern.line, told, Some(LISTING));
                    }
                }
                "credentials" => {}
                "tls-verify" if value.text() == Some("false") => into.note(
                    key.line,
                    format!("tls-verify is not taken from a list: use --insecure-tls {}", home.registry),
                ),
                "tls-verify" => {}
                "cert-dir" => into.note(key.line, "cert-dir is not taken from a list: use --cert-dir"),
                _ => into.problem(key.line, format!("skopeo sync knows no {:?}", key.text), None),
            }
        }
    }
}

fn home(name: &str, section: &Node) -> Result<Home, (String, Option<String>)> {
    let registry: Registry = name.parse().map_err(|error: crate::error::Error| (error.to_string(), None))?;
    let credentials = section.get("credentials");
    let text = |key| credentials.and_then(|node| node.text_of(key)).filter(|text| !text.is_empty());
    let pair = (text("username").map(str::to_owned), text("password").map(str::to_owned));
    let credential = sections::credential(&registry, pair)?.map(Arc::new);
    Ok(Home { registry, credential })
}

fn images(into: &mut Into, repositories: &Node, home: &Home) {
    for (name, tags) in repositories.pairs() {
        if tags.items().is_empty() {
            let told = format!("all tags of {:?} are asked for, and only named ones can be saved", name.text);
            into.problem(name.line, told, Some(LISTING));
        }
        for tag in tags.items() {
            let Some(text) = tag.text().filter(|text| !text.trim().is_empty()) else {
                into.problem(tag.line, "the tag is empty", None);
                continue;
            };
            let mark = if text.starts_with("sha256:") { '@' } else { ':' };
            // The registry is written out: what stands here is never a name's first part.
            into.image(tag.line, &format!("{}/{}{mark}{text}", home.registry, name.text), None, Some(home));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn reads_the_sample() {
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
        let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        for (told, start) in
            told.iter().zip(["sync.yaml:14: all tags of \"coreos/flannel\"", "sync.yaml:16: the tags of"])
        {
            assert!(told.starts_with(start) && told.contains("saver tags"), "{told}");
        }
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(!format!("{parsed:?}").contains("sample-password"));
    }
}
