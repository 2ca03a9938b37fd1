//! saver's own YAML format: a sequence of sections, each with a registry, its credentials and its images. An item may
//! also be a bare name.

use super::ListCredential;
use super::builder::ListBuilder;
use super::plain::{Problem, RegistryScope};
use crate::oci::Registry;
use crate::yaml::YamlNode;
use std::sync::Arc;

const SECTION: &str = "a section is {registry, username, password, images: [...]}";
const SECTION_KEYS: &[&str] = &["registry", "username", "password", "images"];

/// Reads a sequence of sections and names, or `{images: [...]}`.
pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    let items = document.get("images").unwrap_or(document).items();
    for item in items {
        if builder.is_full() {
            return;
        }
        match item.text() {
            Some(name) => builder.image(item.line, name, None, None),
            None => read_section(builder, item),
        }
    }
}

fn read_section(builder: &mut ListBuilder, section: &YamlNode) {
    if !section.is_mapping() {
        return builder.problem(section.line, "the item is neither a section nor a name", Some(SECTION));
    }
    if let Some(key) = section.duplicate_key() {
        return builder.problem(key.line, format!("the key {:?} is written twice", key.text), None);
    }
    if let Some((key, _)) = section.pairs().iter().find(|(key, _)| !SECTION_KEYS.contains(&key.text.as_str()))
    {
        return builder.problem(key.line, format!("unknown key {:?}", key.text), Some(SECTION));
    }
    match scope(section) {
        Ok(scope) => read_images(builder, section, &scope),
        Err((message, hint)) => builder.problem(section.line, message, hint.as_deref()),
    }
}

fn scope(section: &YamlNode) -> Result<RegistryScope, Problem> {
    let Some(registry) = section.text_of("registry").map(str::trim).filter(|name| !name.is_empty()) else {
        return Err(("the section has no registry".into(), Some(SECTION.into())));
    };
    let registry: Registry = match registry.trim_end_matches('/').parse() {
        Ok(registry) => registry,
        Err(error) => {
            let hint = registry.contains('/').then(|| "write HOST or HOST:PORT without a path".into());
            return Err((error.to_string(), hint));
        }
    };
    let mut pair = [None, None];
    for (value, key) in pair.iter_mut().zip(["username", "password"]) {
        let Some(node) = section.get(key).filter(|node| !node.is_null()) else { continue };
        let Some(text) = node.text() else {
            return Err((format!("{key} is not a text"), Some(SECTION.into())));
        };
        *value = Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    let credential = credential(&registry, pair)?.map(Arc::new);
    Ok(RegistryScope { registry, credential })
}

/// The credentials of a list for a registry: both a user name and a password, or neither.
pub(super) fn credential(
    registry: &Registry,
    pair: [Option<String>; 2],
) -> Result<Option<ListCredential>, Problem> {
    match pair {
        [Some(username), Some(password)] => {
            Ok(Some(ListCredential { registry: registry.clone(), username, password }))
        }
        [None, None] => Ok(None),
        [Some(_), None] => Err((format!("{registry} has a username and no password"), None)),
        [None, Some(_)] => Err((format!("{registry} has a password and no username"), None)),
    }
}

fn read_images(builder: &mut ListBuilder, section: &YamlNode, scope: &RegistryScope) {
    let images = section.get("images").filter(|images| !images.is_null());
    if images.is_some_and(|images| images.is_mapping() || images.text().is_some()) {
        return builder.problem(section.line, "images is not a sequence", Some(SECTION));
    }
    let images = images.map(YamlNode::items).unwrap_or_default();
    if images.is_empty() {
        let line = section.get("registry").map_or(section.line, |registry| registry.line);
        builder.note(line, format!("{} lists no images", scope.registry));
    }
    for image in images {
        let Some(text) = image.text().filter(|text| !text.trim().is_empty()) else {
            builder.problem(image.line, "the item is empty or not a name", None);
            continue;
        };
        builder.image(image.line, text, None, Some(scope));
        let foreign = builder
            .last()
            .filter(|entry| entry.origin.line == image.line && entry.reference.registry != scope.registry);
        if let Some(reference) = foreign.map(|entry| entry.reference.clone()) {
            let message = format!("{reference} is not in {}: its credentials are not used", scope.registry);
            builder.note(image.line, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse as read;

    #[test]
    fn sample_is_read() {
        let parsed = read("l.yaml", include_str!("../../testdata/lists/imageListWithAuth.yaml").as_bytes());
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
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
                "7 localhost:5000/demo/app:1.0 admin",
                "8 localhost:5000/demo/tool:2.1 admin",
                "9 localhost:5000/helm-charts/mysql:8.8.19 admin",
                "14 registry.example.com/team/service:v2 robot$reader",
                "15 registry.example.com/team/worker@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae robot$reader",
                "20 docker.io/library/busybox:1.36 ",
            ]
        );
        assert_eq!(parsed.entries[3].credential.as_ref().unwrap().password, "with: colon and # hash");
        assert!(!format!("{parsed:?}").contains("sample-password"));
    }

    #[test]
    fn password_keeps_its_spelling() {
        for (written, expect) in
            [("007", "007"), ("1e3", "1e3"), ("true", "true"), ("\"a b\"", "a b"), ("0x1F", "0x1F")]
        {
            let text = format!("- registry: a.io\n  username: u\n  password: {written}\n  images: [b]\n");
            let parsed = read("l", text.as_bytes());
            assert_eq!(
                parsed.entries[0].credential.as_ref().unwrap().password,
                expect,
                "{:?}",
                parsed.problems
            );
        }
    }

    #[test]
    fn invalid_names_are_reported_with_their_lines() {
        let text = "- registry: a.io\n  images:\n  - Bad\n  - good\n  -\n  - x:{{ .Tag }}\n\
                    - registry: b.io/path\n  images: [x]\n\
                    - images: [x]\n\
                    - registry: c.io\n  username: u\n  images: [x]\n";
        let parsed = read("l", text.as_bytes());
        assert_eq!(parsed.entries.len(), 1);
        let text: Vec<String> = parsed.problems.iter().map(|problem| format!("{problem:#}")).collect();
        for (text, (line, reason)) in text.iter().zip([
            (3, "lower case"),
            (5, "empty"),
            (6, "template"),
            (7, "HOST:PORT"),
            (9, "no registry"),
            (10, "no password"),
        ]) {
            assert!(text.starts_with(&format!("l:{line}: ")) && text.contains(reason), "{text}");
        }
        assert_eq!(text.len(), 6, "{text:?}");
    }

    #[test]
    fn credentials_apply_to_their_registry_only() {
        let text = "- registry: a.io\n  username: u\n  password: hush\n  images: [b.io/x, y]\n";
        let parsed = read("l", text.as_bytes());
        assert!(parsed.entries[0].credential.is_none());
        assert!(parsed.entries[1].credential.is_some());
        assert!(parsed.notes[0].to_string().contains("credentials are not used"));
        assert!(!format!("{parsed:?}").contains("hush"));
    }

    #[test]
    fn invalid_documents_are_not_quoted() {
        let deep = format!("- registry: {}hush{}", "[".repeat(50), "]".repeat(50));
        let mut bomb = String::from("- &a0 [hush, hush]\n");
        for level in 1..30 {
            bomb.push_str(&format!("- &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1));
        }
        for text in [
            "registry: a.io\nimages: [hush]\n",
            "- [hush]\n",
            "- registry: a.io\n  passwort: hush\n",
            "- registry: a.io\n  password: [hush]\n",
            "- registry: a.io\n  registry: hush\n",
            "- registry: a.io\n  images: {a: hush}\n",
            "- registry: 'hush\n",
            &deep,
            &bomb,
        ] {
            let parsed = read("l.yaml", text.as_bytes());
            assert_eq!(parsed.problems.len(), 1, "{text}");
            let text = format!("{:#}", parsed.problems[0]);
            assert!(text.starts_with("l.yaml") && !text.contains("hush"), "{text}");
        }
        assert!(read("l.yaml", b"").problems.is_empty());
    }
}
