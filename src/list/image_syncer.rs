//! image-syncer's images file (source: destination), and the structured output of `kubeadm config images list`.

use super::yaml::Into;
use crate::yaml::Node;

/// Whether a pair is an image and where it goes.
pub(super) fn is_pair(source: &str, target: &Node) -> bool {
    source.contains('/') && !target.is_mapping()
}

/// image-syncer's own grammar of a source: `name`, `name:tag,tag`, `name:/regex/`, `name@digest`.
pub(super) fn read(into: &mut Into, document: &Node) {
    into.note(document.line, "where images go is not taken from a list: --names decides");
    for (source, _) in document.pairs() {
        let text = source.text.trim();
        if text.contains('@') {
            into.image(source.line, text, None, None);
            continue;
        }
        let start = text.find('/').unwrap_or(0);
        let Some(colon) = text[start..].find(':').map(|at| start + at) else {
            let told = format!("all tags of {text:?} are asked for, and only named ones can be saved");
            into.problem(
                source.line,
                told,
                Some("write the tags that are meant, name:tag,tag (saver tags REPOSITORY prints them)"),
            );
            continue;
        };
        let (name, tags) = (&text[..colon], &text[colon + 1..]);
        if tags.starts_with('/') {
            let told = format!("the tags of {name:?} are given as a pattern, not one by one");
            into.problem(
                source.line,
                told,
                Some("write the tags that are meant, name:tag,tag (saver tags REPOSITORY prints them)"),
            );
            continue;
        }
        for tag in tags.split(',') {
            into.image(source.line, &format!("{name}:{}", tag.trim()), None, None);
        }
    }
}

/// `{"kind": "Images", "images": [...]}`
pub(super) fn kubeadm(into: &mut Into, document: &Node) {
    let images = document.get("images").map(Node::items).unwrap_or_default();
    if images.is_empty() {
        into.problem(document.line, "there are no images in it", None);
    }
    for image in images {
        into.image(image.line, image.text().unwrap_or_default(), None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn reads_the_samples() {
        let expected = [
            "quay.io/coreos/kube-rbac-proxy:v1.0",
            "quay.io/coreos/kube-rbac-proxy:v2.0",
            "registry.example.com:5000/a/b:1",
            "quay.io/x/y@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        ];
        for (name, text) in [
            ("images.yaml", include_bytes!("../../testdata/lists/image-syncer.yaml").as_slice()),
            ("images.json", include_bytes!("../../testdata/lists/image-syncer.json")),
        ] {
            let parsed = parse(name, text);
            let seen: Vec<String> = parsed.entries.iter().map(|e| e.reference.to_string()).collect();
            assert_eq!(seen, expected, "{name}");
            let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[0].contains("all tags of") && told[1].contains("a pattern"), "{told:?}");
        }
    }

    #[test]
    fn reads_what_kubeadm_prints() {
        for name in ["kubeadm.json", "kubeadm.yaml"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
            let parsed = parse(name, &std::fs::read(path).unwrap());
            assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
            assert_eq!(parsed.entries.len(), 3);
            assert!(parsed.entries[2].origin.line > parsed.entries[0].origin.line);
        }
        // Its warnings, when both streams went into one file.
        let text = b"I1122 01:11:10.123456   42 version.go:256] remote version is much newer: v1.35.0\nregistry.k8s.io/pause:3.10\n";
        let parsed = parse("images.txt", text);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        assert_eq!((parsed.entries.len(), parsed.notes.len()), (1, 1));
    }
}
