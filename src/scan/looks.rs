//! What looks like an image's name, and what cannot be one yet.

use crate::oci::Reference;

/// Marks of templates that were not filled in: Go, Jinja and Helm; shells and Kubernetes; CI systems.
const MARKS: &[&str] = &["{{", "}}", "${", "$(", "<%", "%>", "@@"];

/// Whether a text has parts that something else fills in.
pub(super) fn is_template(text: &str) -> bool {
    MARKS.iter().any(|mark| text.contains(mark)) || text.starts_with('$')
}

/// Whether a name says which image of its repository is meant.
pub(super) fn is_explicit(text: &str) -> bool {
    text.contains('@') || Reference::has_written_tag(text)
}

/// Whether a mapping's key says that an image's name stands under it.
pub(super) fn is_image_key(key: &str) -> bool {
    key == "image" || key.ends_with("Image") || key.ends_with("_image") || key.ends_with("-image")
}

/// The image that a value is, where nothing but its form says so: a path with a tag or a digest, and nothing
/// else around it but `--flag=` before it.
pub(super) fn image(text: &str) -> Option<&str> {
    let text = text.trim().trim_matches(['"', '\'']);
    let text = match text.rsplit_once('=') {
        Some((_, value)) => value.trim_matches(['"', '\'']),
        None => text,
    };
    let name = ["docker://", "oci://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let plausible = name.len() <= 512
        && name.contains(['/', '@'])
        && !name.starts_with(['/', '.'])
        && !name.contains("://")
        && is_explicit(name)
        && !name.contains(char::is_whitespace);
    (plausible && Reference::parse(name).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_other_words() {
        for (text, expected) in [
            ("quay.io/a/b:1", Some("quay.io/a/b:1")),
            ("--reloader=quay.io/a/b:1", Some("quay.io/a/b:1")),
            ("\"rook/ceph:v1.15.3\"", Some("rook/ceph:v1.15.3")),
            ("docker://quay.io/a/b:1", Some("quay.io/a/b:1")),
            (
                "nginx@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                Some("nginx@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"),
            ),
            ("nginx:1", None),
            ("quay.io/a/b", None),
            ("https://quay.io/a/b:1", None),
            ("/etc/app/config:ro", None),
            ("./a/b:1", None),
            ("10.0.0.1:8080", None),
            ("10.0.0.1:8080/metrics", None),
            ("system:serviceaccount:a/b c", None),
            ("quay.io/a/{{ .x }}:1", None),
            ("", None),
        ] {
            assert_eq!(image(text), expected, "{text}");
        }
    }

    #[test]
    fn templates_are_known_by_their_marks() {
        for (text, expected) in
            [("a/b:{{ .x }}", true), ("$REGISTRY/x", true), ("$(IMG)", true), ("a/b:1", false)]
        {
            assert_eq!(is_template(text), expected, "{text}");
        }
    }
}
