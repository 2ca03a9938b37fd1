//! docker compose files: the image of each service (compose-spec, "services").

use super::builder::ListBuilder;
use crate::yaml::YamlNode;
use std::collections::HashMap;

/// Maximum nesting depth of defaults within defaults.
const MAX_NESTING: usize = 8;
const TOP_LEVEL_KEYS: &[&str] =
    &["services", "version", "name", "networks", "volumes", "configs", "secrets", "include", "models"];
const SERVICE_KEYS: &[&str] = &["image", "build", "extends", "provider"];

/// Whether a document is a compose file. Values of a Helm chart may have `services:` too, but not only compose's keys.
pub(super) fn is_compose(document: &YamlNode) -> bool {
    let services = document.get("services").map(YamlNode::pairs).unwrap_or_default();
    let is_service = |service: &YamlNode| {
        let is_text = |key: &str| service.get(key).is_some_and(|value| key != "image" || !value.is_mapping());
        SERVICE_KEYS.iter().any(|key| is_text(key))
    };
    let top_level = |key: &str| TOP_LEVEL_KEYS.contains(&key) || key.starts_with("x-");
    document.pairs().iter().all(|(key, _)| top_level(&key.text))
        && services.iter().any(|(_, service)| is_service(service))
}

pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode, variables: &HashMap<String, String>) {
    let interpolate = |text: &str| interpolate(text, variables, 0);
    let services = document.get("services").map(YamlNode::pairs).unwrap_or_default();
    for (name, service) in services {
        let is_built = service.get("build").is_some();
        let Some(image) = service.get("image").filter(|image| !image.is_null()) else {
            if is_built {
                builder.note(name.line, format!("the service {:?} is built and names no image", name.text));
            } else {
                builder.note(name.line, format!("the service {:?} names no image", name.text));
            }
            continue;
        };
        let Some(text) = image.text() else {
            builder.problem(image.line, "the image is not a text", None);
            continue;
        };
        if is_built {
            builder
                .note(image.line, format!("the service {:?} is built: its image is not fetched", name.text));
            continue;
        }
        let platform = service.text_of("platform").map(interpolate).transpose();
        match interpolate(text).and_then(|image| Ok((image, platform?))) {
            Ok((name, platform)) => builder.image(image.line, &name, platform.as_deref(), None),
            Err(variable) => builder.problem(
                image.line,
                format!("the variable {variable:?} has no default"),
                Some("run docker compose config --images to print the names with all variables set"),
            ),
        }
    }
}

/// Replaces variables by their values or defaults (compose-spec, "Interpolation"). On failure returns the first variable
/// without a value. Lists pass no variables, so that a list means the same in every environment.
pub(super) fn interpolate(
    text: &str,
    variables: &HashMap<String, String>,
    depth: usize,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing_brace(after).ok_or_else(|| variable_name(after))?;
            out.push_str(&value_of(&after[..end], variables, depth)?);
            rest = &after[end + 1..];
        } else {
            let name = variable_name(rest);
            out.push_str(variables.get(&name).ok_or_else(|| name.clone())?);
            rest = &rest[name.len()..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn variable_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// The position of the brace that closes the one before `text`.
fn closing_brace(text: &str) -> Option<usize> {
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

/// The value of `NAME`, or the default in `NAME:-default` or `NAME-default`.
fn value_of(inner: &str, variables: &HashMap<String, String>, depth: usize) -> Result<String, String> {
    let name = variable_name(inner);
    if let Some(value) = variables.get(&name).filter(|value| !value.is_empty()) {
        return Ok(value.clone());
    }
    let after = &inner[name.len()..];
    let default = after.strip_prefix(":-").or_else(|| after.strip_prefix('-'));
    match default {
        Some(default) if depth < MAX_NESTING => interpolate(default, variables, depth + 1),
        _ => Err(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn variables_are_replaced_by_values_or_defaults() {
        let variables = HashMap::from([("SET".to_owned(), "3".to_owned())]);
        for (text, expected) in [
            ("nginx:1", Ok("nginx:1")),
            ("nginx:$SET", Ok("nginx:3")),
            ("nginx:${SET:-1}-x", Ok("nginx:3-x")),
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
            assert_eq!(
                interpolate(text, &variables, 0),
                expected.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
        assert!(interpolate(&format!("{}{}", "${A:-".repeat(100), "}".repeat(100)), &variables, 0).is_err());
    }

    #[test]
    fn sample_is_read() {
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
        let text: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 1);
        assert!(text[0].starts_with("docker-compose.yml:20: the variable \"VERSION\""), "{text:?}");
    }
}
