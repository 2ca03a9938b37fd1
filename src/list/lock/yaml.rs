//! The lock files of other tools: Carvel's ImagesLock (`.imgpkg/images.yml`) and Images.lock of Helm charts.

use super::{LockFile, LockedImage, LockedManifest};
use crate::list::builder::ListBuilder;
use crate::oci::{Digest, Reference};
use crate::yaml::YamlNode;
use std::fmt::Write;
use std::sync::Arc;

/// The annotation with the name that an image had before it was pinned.
const NAME: &str = "kbld.carvel.dev/id";

/// Reads Carvel's ImagesLock: indexes or manifests by digest.
pub(in crate::list) fn read_carvel(builder: &mut ListBuilder, document: &YamlNode) {
    for item in images(builder, document) {
        let Some(image) = item.text_of("image") else {
            builder.problem(item.line, "the image has no name", None);
            continue;
        };
        let Ok(Reference { digest: Some(digest), .. }) = Reference::parse(image) else {
            builder.problem(item.line, format!("{image:?} is not pinned by digest"), None);
            continue;
        };
        let name = item.get("annotations").and_then(|notes| notes.text_of(NAME));
        let name = tagged(image, name, &digest).unwrap_or_else(|| image.to_owned());
        add(builder, item.line, &name, None, Vec::new());
    }
}

/// The name with the tag that `original` has, if it names the same repository.
fn tagged(image: &str, original: Option<&str>, digest: &Digest) -> Option<String> {
    let (image, original) = (Reference::parse(image).ok()?, Reference::parse(original?).ok()?);
    let is_same = image.registry == original.registry && image.repository == original.repository;
    let tag = original.tag.filter(|_| is_same)?;
    Some(Reference { tag: Some(tag), digest: Some(*digest), ..image }.to_string())
}

/// Reads Images.lock: manifests by platform.
pub(in crate::list) fn read_helm(builder: &mut ListBuilder, document: &YamlNode) {
    for item in images(builder, document) {
        let Some(image) = item.text_of("image") else {
            builder.problem(item.line, "the image has no name", None);
            continue;
        };
        let mut manifests = Vec::new();
        for one in item.get("digests").map(YamlNode::items).unwrap_or_default() {
            let digest = one.text_of("digest").and_then(|digest| digest.parse().ok());
            match (digest, one.text_of("arch")) {
                (Some(digest), Some(platform)) => {
                    let platform = Some(platform.to_owned());
                    manifests.push(LockedManifest { digest, bytes: None, platform });
                }
                _ => builder.problem(one.line, "the platform has no valid digest", None),
            }
        }
        if manifests.is_empty() {
            builder.problem(item.line, format!("{image:?} is not pinned by digest"), None);
            continue;
        }
        let platforms: Vec<&str> = manifests.iter().filter_map(|one| one.platform.as_deref()).collect();
        let platforms = platforms.join(",");
        add(builder, item.line, image, Some(&platforms), manifests);
    }
}

fn images<'a>(builder: &mut ListBuilder, document: &'a YamlNode) -> &'a [Arc<YamlNode>] {
    let images = document.get("images").map(YamlNode::items).unwrap_or_default();
    if images.is_empty() {
        builder.note(document.line, "the lock file names no images");
    }
    images
}

fn add(
    builder: &mut ListBuilder,
    line: u64,
    name: &str,
    platforms: Option<&str>,
    manifests: Vec<LockedManifest>,
) {
    builder.image(line, name, platforms, None);
    let Some(entry) = builder.last_mut().filter(|entry| entry.origin.line == line) else { return };
    entry.lock = Some(Arc::new(LockedImage {
        reference: entry.reference.clone(),
        platforms: platforms.map(str::to_owned),
        manifests,
        referrers: None,
        selected_by: String::new(),
    }));
}

pub(super) fn write_carvel(lock: &LockFile) -> String {
    let mut text = "---\napiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:".to_owned();
    if lock.images.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for image in &lock.images {
        // Writing to a string does not fail.
        let pinned = Reference { tag: None, ..image.reference.clone() };
        let _ = writeln!(text, "- image: {pinned}");
        if image.reference.tag.is_some() {
            let name = Reference { digest: None, ..image.reference.clone() };
            let _ = writeln!(text, "  annotations:\n    {NAME}: \"{name}\"");
        }
    }
    text
}

/// The chart is a placeholder: images of a list belong to none.
pub(super) fn write_helm(lock: &LockFile) -> String {
    let mut text = "apiVersion: v0\nkind: ImagesLock\nmetadata:\n  generatedBy: saver\n\
                    chart:\n  name: images\n  version: 0.0.0\nimages:"
        .to_owned();
    if lock.images.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for image in &lock.images {
        let name = image.reference.repository.as_str().rsplit('/').next().unwrap_or_default();
        let full = Reference {
            digest: image.reference.digest.filter(|_| image.reference.tag.is_none()),
            ..image.reference.clone()
        };
        let _ = writeln!(text, "  - name: {name}\n    image: \"{full}\"\n    chart: images\n    digests:");
        for manifest in &image.manifests {
            let platform = manifest.platform.as_deref().unwrap_or("unknown/unknown");
            let _ = writeln!(text, "      - digest: {}\n        arch: {platform}", manifest.digest);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{LockFormat, sample};
    use crate::list::{ImageList, parse};
    use crate::oci::{Digest, Reference};

    fn read(text: &str) -> ImageList {
        let list = parse("images.yml", text.as_bytes());
        assert!(list.problems.is_empty(), "{:?}\n{text}", list.problems);
        list
    }

    #[test]
    fn carvel_locks_are_read_as_they_were_written() {
        let lock = sample();
        let list = read(&lock.to_text(LockFormat::Carvel));
        let names: Vec<Reference> = list.entries.iter().map(|entry| entry.reference.clone()).collect();
        let expected: Vec<Reference> = lock.images.iter().map(|image| image.reference.clone()).collect();
        assert_eq!(names, expected);
        assert!(list.entries.iter().all(|entry| entry.lock.is_some() && entry.platforms.is_none()));
        // A bundle that was copied keeps the original name, which says nothing about the copy.
        let digest = Digest::of(b"x");
        let text = format!(
            "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n- image: index.docker.io/library/nginx@{digest}\n  annotations: {{kbld.carvel.dev/id: 'nginx:1.27'}}\n- image: reg.example/copy@{digest}\n  annotations: {{kbld.carvel.dev/id: nginx}}\n"
        );
        let names: Vec<String> =
            read(&text).entries.iter().map(|entry| entry.reference.to_string()).collect();
        assert_eq!(
            names,
            [format!("docker.io/library/nginx:1.27@{digest}"), format!("reg.example/copy@{digest}")]
        );
        let text = "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n- image: nginx:1\n";
        assert_eq!(parse("images.yml", text.as_bytes()).problems.len(), 1);
    }

    #[test]
    fn helm_locks_pin_platforms() {
        let lock = sample();
        let mut with_platforms = lock.clone();
        with_platforms.images.truncate(1);
        let list = read(&with_platforms.to_text(LockFormat::Helm));
        let entry = &list.entries[0];
        assert_eq!(entry.reference.to_string(), "quay.io/team/app:1.4");
        assert_eq!(
            entry.platforms.as_ref().map(ToString::to_string).as_deref(),
            Some("linux/amd64,windows(10.0.1)/amd64")
        );
        let digests = |manifests: &[super::LockedManifest]| {
            manifests.iter().map(|one| (one.platform.clone(), one.digest)).collect::<Vec<_>>()
        };
        assert_eq!(digests(&entry.lock.as_ref().unwrap().manifests), digests(&lock.images[0].manifests));
        let text = "apiVersion: v0\nkind: ImagesLock\nimages:\n- image: nginx:1\n  digests:\n  - {digest: x, arch: linux/amd64}\n";
        assert_eq!(parse("Images.lock.yaml", text.as_bytes()).problems.len(), 2);
    }
}
