//! The structured output of `kubeadm config images list -o json` (or `yaml`).

use super::builder::ListBuilder;
use crate::yaml::YamlNode;

/// Reads `{"kind": "Images", "images": [...]}`.
pub(super) fn read(builder: &mut ListBuilder, document: &YamlNode) {
    let images = document.get("images").map(YamlNode::items).unwrap_or_default();
    if images.is_empty() {
        builder.problem(document.line, "the list has no images", None);
    }
    for image in images {
        builder.image(image.line, image.text().unwrap_or_default(), None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn output_and_log_lines_are_read() {
        for name in ["kubeadm.json", "kubeadm.yaml"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
            let parsed = parse(name, &std::fs::read(path).unwrap());
            assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
            assert_eq!(parsed.entries.len(), 3);
            assert!(parsed.entries[2].origin.line > parsed.entries[0].origin.line);
        }
        // Warnings end up in the list when both output streams went into one file.
        let text = b"I1122 01:11:10.123456   42 version.go:256] remote version is much newer: v1.35.0\nregistry.k8s.io/pause:3.10\n";
        let parsed = parse("images.txt", text);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        assert_eq!((parsed.entries.len(), parsed.notes.len()), (1, 1));
    }
}
