//! docker compose's files: the image of each service (compose-spec, "services").

use super::yaml::Into;
use crate::yaml::Node;

/// How deep defaults may hold defaults.
const MAX_NESTING: usize = 8;

pub(super) fn read(into: &mut Into, document: &Node) {
    let services = document.get("services").map(Node::pairs).unwrap_or_default();
    for (name, service) in services {
        let Some(image) = service.get("image").filter(|image| !image.is_null()) else {
            if service.get("build").is_some() {
                into.note(name.line, format!("the service {:?} is built, and names no image", name.text));
            } else {
                into.note(name.line, format!("the service {:?} names no image", name.text));
            }
            continue;
        };
        let Some(text) = image.text() else {
            into.problem(image.line, "the image is not a name", None);
            continue;
        };
        match filled(text, 0) {
            Ok(_) if service.get("build").is_some() => {
                into.note(
                    image.line,
                    format!("the service {:?} is built: its image is not fetched", name.text),
                );
            }
            Ok(image_name) => {
                let platform = service.text_of("platform").map(|text| filled(text, 0));
                match platform.transpose() {
                    Ok(platform) => into.image(image.line, &image_name, platform.as_deref(), None),
                    Err(variable) => unset(into, image.line, &variable),
                }
            }
            Err(variable) => unset(into, image.line, &variable),
        }
    }
}

fn unset(into: &mut Into, line: u64, variable: &str) {
    let told = format!("the variable {variable:?} has no default here");
    into.problem(line, told, Some("docker compose config --images prints the names as a list, filled in"));
}

/// The text with the defaults of its variables; else the first variable that has none (compose-spec,
/// "Interpolation"). What the variables are set to is not looked at: a list means the same everywhere.
fn filled(text: &str, depth: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| variable_name(after))?;
            out.push_str(&default_of(&after[..end], depth)?);
            rest = &after[end + 1..];
        } else {
            return Err(variable_name(rest));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn variable_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// Where the brace that was opened before `text` is closed.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// The default in `NAME:-default` or `NAME-default`.
fn default_of(inner: &str, depth: usize) -> Result<String, String> {
    let name = variable_name(inner);
    let after = &inner[name.len()..];
    let default = after.strip_prefix(":-").or_else(|| after.strip_prefix('-'));
    match default {
        Some(default) if depth < MAX_NESTING => filled(default, depth + 1),
        _ => Err(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn defaults_are_filled_in() {
        for (text, expected) in [
            ("nginx:1", Ok("nginx:1")),
            ("nginx:${TAG:-1.27}", Ok("nginx:1.27")),
            ("${REPO-a.io/b}:${TAG:-${OTHER:-2}}", Ok("a.io/b:2")),
            ("a$$b", Ok("a$b")),
            ("nginx:$TAG", Err("TAG")),
            ("nginx:${TAG}", Err("TAG")),
            ("nginx:${TAG:?must be set}", Err("TAG")),
            ("nginx:${TAG:+x}", Err("TAG")),
            ("nginx:${TAG:-${OTHER}}", Err("OTHER")),
            ("nginx:${TAG:-1", Err("TAG")),
            ("$", Err("")),
        ] {
            assert_eq!(filled(text, 0), expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        assert!(
            filled(&"${A:-".repeat(100).chars().chain("}".repeat(100).chars()).collect::<String>(), 0)
                .is_err()
        );
    }

    #[test]
    fn reads_the_sample() {
        let parsed = parse("docker-compose.yml", include_bytes!("../../testdata/lists/docker-compose.yml"));
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
                "8 docker.io/library/nginx:1.27 None",
                "11 docker.io/library/postgres:16.4 None",
                "13 registry.example.com/team/worker:2.0 Some(\"linux/arm64\")",
                "2 registry.example.com/team/base:1.0 None",
            ]
        );
        assert_eq!(parsed.notes.len(), 1, "{:?}", parsed.notes);
        let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("docker-compose.yml:20: the variable \"VERSION\""), "{told:?}");
    }
}
