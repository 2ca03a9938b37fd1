//! Classification of texts: which keys announce an image name, and which texts can be one.

use crate::list::is_registry_domain;
use crate::oci::Reference;

/// Marks of unrendered templates: Go and Jinja, shells and Kubernetes, ERB, autoconf.
const TEMPLATE_MARKS: &[&str] = &["{{", "}}", "${", "$(", "<%", "%>", "@@"];
/// Words that people are meant to replace.
const PLACEHOLDERS: &[&str] =
    &["placeholder", "changeme", "change-me", "replaceme", "replace-me", "replace_me", "your-"];
/// Endings of names that hold a part of an image name, or something else about an image.
const OTHER_ENDINGS: &[&str] = &[
    "policy",
    "secret",
    "secrets",
    "registry",
    "repository",
    "repo",
    "tag",
    "version",
    "prefix",
    "host",
    "digest",
];

/// Whether a text has parts that something else fills in.
pub(super) fn is_template(text: &str) -> bool {
    TEMPLATE_MARKS.iter().any(|mark| text.contains(mark)) || text.starts_with('$')
}

/// Whether a name has a tag or a digest.
pub(super) fn is_explicit(text: &str) -> bool {
    text.contains('@') || Reference::has_written_tag(text)
}

/// Whether a name is meant to be replaced.
pub(super) fn is_placeholder(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains(['<', '>']) || PLACEHOLDERS.iter().any(|word| lower.contains(word))
}

/// Whether a text is an image ID or a digest alone, which does not locate an image, or has wildcards.
pub(super) fn is_no_name(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    text.contains('*')
        || text.starts_with("sha256:")
        || hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether the value of this key is an image name.
pub(super) fn is_image_key(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    ["image", "imagename", "image_name", "image-name", "imageref", "image_ref"]
        .iter()
        .any(|ending| lower.ends_with(ending))
}

/// Whether the value of this key is a collection of image names.
pub(super) fn is_images_key(key: &str) -> bool {
    key.to_ascii_lowercase().ends_with("images")
}

/// Whether a variable, flag or parameter of this name holds an image name.
pub(super) fn names_an_image(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.contains("image") && !OTHER_ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

/// The key of the tag for the repository under `key`, where names are split into two settings.
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

/// Whether a name starts with a registry.
pub(super) fn has_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| is_registry_domain(first))
}

/// Whether a name is that of a picture or a disk image.
pub(super) fn is_other_image(text: &str) -> bool {
    let endings =
        [".png", ".svg", ".jpg", ".jpeg", ".gif", ".ico", ".webp", ".img", ".iso", ".qcow2", ".raw"];
    endings.iter().any(|ending| text.ends_with(ending))
}

/// A text without blanks and quotes around it and without a transport in front.
pub(super) fn bare(text: &str) -> &str {
    let text = text.trim().trim_matches(['"', '\'']);
    ["docker://", "oci://", "docker-image://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text)
}

/// The image name that a text is, judged by its form alone: a path with a tag or a digest.
pub(super) fn image(text: &str) -> Option<&str> {
    let name = bare(text);
    let plausible = name.len() <= 512
        && name.contains(['/', '@'])
        && !name.starts_with(['/', '.'])
        && !name.contains("://")
        && is_explicit(name)
        && !is_no_name(name)
        && !name.contains(char::is_whitespace);
    (plausible && Reference::parse(name).is_ok()).then_some(name)
}

/// A whole image name, also one of Docker Hub without a slash: the caller knows that an image name is expected.
pub(super) fn whole_name(text: &str) -> Option<Reference> {
    let name = bare(text);
    let plausible = is_explicit(name)
        && !name.contains("://")
        && !name.contains(char::is_whitespace)
        && !is_template(name)
        && !is_no_name(name)
        && !is_placeholder(name);
    Reference::parse(name).ok().filter(|_| plausible)
}

/// The image name that its parts make. A tag is not added to a name that has one.
pub(super) fn joined(registry: Option<&str>, name: &str, tag: Option<&str>, digest: Option<&str>) -> String {
    let mut image = match registry.map(|registry| registry.trim_end_matches('/')) {
        Some(registry) if !registry.is_empty() => format!("{registry}/{name}"),
        _ => name.to_owned(),
    };
    if let Some(tag) = tag.filter(|_| !is_explicit(name)) {
        // Some charts write the digest into the tag: "1.0@sha256:..." or "sha256:..." alone.
        image.push_str(if tag.starts_with("sha256:") { "@" } else { ":" });
        image.push_str(tag);
    }
    if let Some(digest) = digest.filter(|_| !image.contains('@')) {
        image.push_str(if digest.starts_with("sha256:") { "@" } else { "@sha256:" });
        image.push_str(digest);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn image_names_are_told_from_other_texts() {
        let pinned = format!("nginx@sha256:{HEX}");
        let id = format!("sha256:{HEX}");
        for (text, by_form, whole) in [
            ("quay.io/a/b:1", true, true),
            ("\"rook/ceph:v1.15.3\"", true, true),
            ("docker://quay.io/a/b:1", true, true),
            (&pinned, true, true),
            (&id, false, false),
            (HEX, false, false),
            ("nginx:1", false, true),
            ("quay.io/a/b", false, false),
            ("quay.io/a/*:1", false, false),
            ("your-registry/app:1", true, false),
            ("https://quay.io/a/b:1", false, false),
            ("/etc/app/config:ro", false, false),
            ("./a/b:1", false, false),
            ("10.0.0.1:8080/metrics", false, false),
            ("system:serviceaccount:a/b c", false, false),
            ("quay.io/a/{{ .x }}:1", false, false),
            ("", false, false),
        ] {
            assert_eq!(image(text).is_some(), by_form, "{text}");
            assert_eq!(whole_name(text).is_some(), whole, "{text}");
        }
    }

    #[test]
    fn keys_and_variables_announce_image_names() {
        for (key, is_key, is_variable) in [
            ("image", true, true),
            ("sidecarImage", true, true),
            ("RELATED_IMAGE_DB", false, true),
            ("HELPER_IMAGE", true, true),
            ("--engine-image", true, true),
            ("STRIMZI_KAFKA_IMAGES", false, true),
            ("imagePullPolicy", false, false),
            ("IMAGE_REGISTRY", false, false),
            ("imageTag", false, false),
            ("images", false, true),
            ("name", false, false),
        ] {
            assert_eq!((is_image_key(key), names_an_image(key)), (is_key, is_variable), "{key}");
        }
        assert_eq!(tag_key("sidecarImageName").as_deref(), Some("sidecarImageTag"));
        assert!(tag_key("repository").is_none());
    }

    #[test]
    fn parts_are_joined() {
        for (registry, name, tag, digest, expected) in [
            (None, "a", Some("1"), None, "a:1"),
            (Some("r.io/"), "a/b", Some("1"), Some("sha256:x"), "r.io/a/b:1@sha256:x"),
            (Some(""), "a:2", Some("1"), None, "a:2"),
            (None, "a", Some("sha256:x"), Some("sha256:y"), "a@sha256:x"),
            (None, "a", None, Some("x"), "a@sha256:x"),
        ] {
            assert_eq!(joined(registry, name, tag, digest), expected);
        }
    }

    #[test]
    fn templates_are_recognised_by_their_marks() {
        for (text, expected) in
            [("a/b:{{ .x }}", true), ("$REGISTRY/x", true), ("$(IMG)", true), ("a/b:1", false)]
        {
            assert_eq!(is_template(text), expected, "{text}");
        }
    }
}
