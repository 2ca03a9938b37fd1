//! The YAML grammar: sections of one registry each, with its credentials and its images.

use super::plain::{self, Home};
use super::{ListCredential, MAX_PROBLEMS, Origin, Parsed};
use crate::oci::Registry;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::sync::Arc;

const SHAPE: &str = "a YAML list is a sequence of {registry, username, password, images: [...]}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    registry: Option<Spanned<String>>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    images: Option<Vec<Spanned<Option<String>>>>,
}

/// Reads all sections. A document that is not YAML of this shape is one problem; wrong names are one each.
pub(super) fn parse(file: &Arc<str>, text: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let at = |line: u64| Origin { file: file.clone(), line, module: None };
    let sections: Option<Vec<Spanned<Section>>> = match serde_saphyr::from_slice_with_options(text, limits())
    {
        Ok(sections) => sections,
        Err(error) => {
            let line = error.location().map_or(0, |location| location.line());
            parsed.problem(at(line), one_line(&error.without_snippet().to_string()), Some(SHAPE));
            return parsed;
        }
    };
    for section in sections.into_iter().flatten() {
        let line = section.referenced.line();
        match home(&section.value) {
            Ok(home) => images(&mut parsed, section.value, &home, &at),
            Err((message, hint)) => parsed.problem(at(line), message, hint.as_deref()),
        }
        if parsed.problems.len() >= MAX_PROBLEMS {
            parsed.problem(at(line), "too many lines are wrong: the rest was not read", None);
            break;
        }
    }
    parsed
}

/// Far above what a list needs and far below what hurts. Lists have no use for anchors and merge keys
/// beyond a shared password.
fn limits() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_depth: 8,
        max_aliases: 1000,
        max_anchors: 1000,
        max_documents: 1,
        max_nodes: 2_000_000,
        max_events: 4_000_000,
    };
    serde_saphyr::options! {
        budget: budget,
        // Snippets quote the document, and the document holds passwords.
        with_snippet: false,
    }
}

fn home(section: &Section) -> Result<Home, (String, Option<String>)> {
    let Some(registry) =
        section.registry.as_ref().map(|name| name.value.trim()).filter(|name| !name.is_empty())
    else {
        return Err(("the section names no registry".into(), Some(SHAPE.into())));
    };
    let registry: Registry = match registry.trim_end_matches('/').parse() {
        Ok(registry) => registry,
        Err(error) => {
            let hint =
                registry.contains('/').then(|| "write HOST or HOST:PORT, nothing before or after".into());
            return Err((error.to_string(), hint));
        }
    };
    let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let credential = credential(&registry, (text(&section.username), text(&section.password)))?.map(Arc::new);
    Ok(Home { registry, credential })
}

/// The credentials that a list carries for a registry: both parts, or neither.
pub(super) fn credential(
    registry: &Registry,
    pair: (Option<String>, Option<String>),
) -> Result<Option<ListCredential>, (String, Option<String>)> {
    match pair {
        (Some(username), Some(password)) => {
            Ok(Some(ListCredential { registry: registry.clone(), username, password }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err((format!("{registry} has a username and no password"), None)),
        (None, Some(_)) => Err((format!("{registry} has a password and no username"), None)),
    }
}

fn images(parsed: &mut Parsed, section: Section, home: &Home, at: &impl Fn(u64) -> Origin) {
    let line = section.registry.as_ref().map_or(0, |registry| registry.referenced.line());
    let images = section.images.unwrap_or_default();
    if images.is_empty() {
        parsed.note(at(line), format!("{} lists no images", home.registry));
    }
    for image in images {
        let origin = at(image.referenced.line());
        let Some(text) = image.value.filter(|text| !text.trim().is_empty()) else {
            parsed.problem(origin, "the item is empty", None);
            continue;
        };
        if parsed.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let before = parsed.entries.len();
        plain::line(parsed, &text, origin, Some(home));
        let foreign = parsed.entries.get(before).filter(|entry| entry.reference.registry != home.registry);
        if let Some(entry) = foreign.cloned() {
            let said =
                format!("{} is not in {}: its credentials are not used", entry.reference, home.registry);
            parsed.note(entry.origin, said);
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::parse as read;

    #[test]
    fn reads_the_sample() {
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
    fn keeps_a_password_as_it_is_written() {
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
    fn reports_every_wrong_name_at_its_line() {
        let text = "- registry: a.io\n  images:\n  - Bad\n  - good\n  -\n  - x:{{ .Tag }}\n\
                    - registry: b.io/path\n  images: [x]\n\
                    - images: [x]\n\
                    - registry: c.io\n  username: u\n  images: [x]\n";
        let parsed = read("l", text.as_bytes());
        assert_eq!(parsed.entries.len(), 1);
        let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        for (told, (line, reason)) in told.iter().zip([
            (3, "lower case"),
            (5, "empty"),
            (6, "template"),
            (7, "HOST:PORT"),
            (9, "no registry"),
            (10, "no password"),
        ]) {
            assert!(told.starts_with(&format!("l:{line}: ")) && told.contains(reason), "{told}");
        }
        assert_eq!(told.len(), 6, "{told:?}");
    }

    #[test]
    fn credentials_stay_with_their_registry() {
        let text = "- registry: a.io\n  username: u\n  password: hush\n  images: [b.io/x, y]\n";
        let parsed = read("l", text.as_bytes());
        assert!(parsed.entries[0].credential.is_none());
        assert!(parsed.entries[1].credential.is_some());
        assert!(parsed.notes[0].to_string().contains("credentials are not used"));
        assert!(!format!("{parsed:?}").contains("hush"));
    }

    #[test]
    fn refuses_other_documents_without_quoting_them() {
        let deep = format!("- registry: {}hush{}", "[".repeat(50), "]".repeat(50));
        let mut bomb = String::from("- &a0 [hush, hush]\n");
        for level in 1..30 {
            bomb.push_str(&format!("- &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1));
        }
        for text in [
            "registry: a.io\nimages: [hush]\n",
            "- hush\n",
            "- registry: a.io\n  passwort: hush\n",
            "- registry: a.io\n  password: [hush]\n",
            "- registry: a.io\n  registry: hush\n",
            "- registry: a.io\n  images: {a: hush}\n",
            "- registry: 'hush\n",
            "- registry: a.io\n---\n- registry: hush\n",
            &deep,
            &bomb,
        ] {
            let parsed = read("l.yaml", text.as_bytes());
            assert_eq!(parsed.problems.len(), 1, "{text}");
            let told = parsed.problems[0].to_string();
            assert!(told.starts_with("l.yaml") && !told.contains("hush"), "{told}");
        }
        assert!(read("l.yaml", b"").problems.is_empty());
    }
}
