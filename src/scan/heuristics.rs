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

/// Why a name of two settings is doubtful.
pub(super) const OF_TWO: &str = "a repository and a tag that may belong together";

/// The key of the tag for the repository under `key`, where names are written as two settings.
pub(super) fn tag_key(key: &str) -> Option<String> {
    const PAIRS: &[(&str, &str)] = &[
        ("imageRepository", "imageTag"),
        ("ImageRepository", "ImageTag"),
        ("image_repository", "image_tag"),
        ("imageRepo", "imageTag"),
        ("ImageRepo", "ImageTag"),
        ("imageName", "imageTag"),
        ("ImageName", "ImageTag"),
        ("image_name", "image_tag"),
    ];
    PAIRS.iter().find_map(|(name, tag)| key.strip_suffix(name).map(|head| format!("{head}{tag}")))
}

/// The name that a repository and a tag make, where they look like parts of one.
pub(super) fn of_two(repository: &str, tag: Option<&str>) -> Option<String> {
    let plausible = repository.contains('/') && !repository.contains("://") && !is_explicit(repository);
    let image = format!("{repository}:{}", tag.filter(|_| plausible)?);
    (!is_template(&image) && Reference::parse(&image).is_ok()).then_some(image)
}

/// Whether a repository's name begins with a registry's.
pub(super) fn has_domain(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

/// Whether a name is that of a picture or a disk, which stand under such keys too.
pub(super) fn is_other_image(text: &str) -> bool {
    let endings =
        [".png", ".svg", ".jpg", ".jpeg", ".gif", ".ico", ".webp", ".img", ".iso", ".qcow2", ".raw"];
    endings.iter().any(|ending| text.ends_with(ending))
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
    fn names_of_two_settings_are_put_together() {
        for (key, name, tag, expected) in [
            ("imageRepository", "a.io/b", Some("1"), Some("a.io/b:1")),
            ("sidecarImageName", "a/b", Some("1"), Some("a/b:1")),
            ("imageRepository", "registry.k8s.io", Some("1"), None),
            ("imageName", "a/b:2", Some("1"), None),
            ("imageRepo", "https://a.io/b", Some("1"), None),
            ("imageRepo", "a/{{ b }}", Some("1"), None),
            ("image_name", "a/b", None, None),
        ] {
            assert!(tag_key(key).is_some_and(|key| key.ends_with("mageTag") || key.ends_with("image_tag")));
            assert_eq!(of_two(name, tag).as_deref(), expected, "{name}");
        }
        assert_eq!(tag_key("sidecarImageName").as_deref(), Some("sidecarImageTag"));
        assert!(tag_key("repository").is_none());
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
