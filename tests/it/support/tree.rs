//! Reads a tree file by file, with none of saver's own code for it, and says what is wrong.

use saver::content::memory::Contents;
use saver::oci::{Digest, Manifest, RawManifest, Repository, Tag};
use std::collections::BTreeMap;
use std::path::Path;

/// Every file below a directory, by relative path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Reads every file below `dir`.
pub(crate) fn files(dir: &Path) -> Files {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            (path, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// What the tree holds, and what is wrong with it: foreign and damaged files, links to nothing, tags without their closure.
pub(crate) fn read(files: &Files) -> (Contents, Vec<String>) {
    let (contents, mut problems) = read_sparse(files);
    for ((repository, tag), digest) in &contents.tags {
        closure(&contents, repository, digest, &format!("{repository}:{tag}"), &mut problems);
    }
    (contents, problems)
}

/// As [`read`], but tags may name indexes of which only a part is there.
pub(crate) fn read_sparse(files: &Files) -> (Contents, Vec<String>) {
    let mut contents = Contents::default();
    let mut problems = Vec::new();
    let mut links = Vec::new();
    for (path, bytes) in files {
        let Some(rest) = path.strip_prefix("docker/") else {
            if !path.starts_with(".saver/") {
                problems.push(format!("{path}: foreign"));
            }
            continue;
        };
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["registry", "v2", "blobs", "sha256", two, hex, "data"] if hex.starts_with(two) => {
                let digest = Digest::of(bytes);
                if digest.hex() != *hex {
                    problems.push(format!("{path}: its content is {digest}, {} bytes", bytes.len()));
                }
                contents.blobs.insert(digest, bytes.clone().into());
            }
            ["registry", "v2", "repositories", name @ .., "link"] => {
                let digest = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Digest>().ok());
                match digest {
                    Some(digest) => links.push((path, name.to_vec(), digest)),
                    None => problems.push(format!("{path}: damaged: {bytes:?}")),
                }
            }
            _ => problems.push(format!("{path}: foreign")),
        }
    }
    for ((repository, tag), path) in unfinished_tags(&links) {
        problems.push(format!("{path}: {repository}:{tag} has no current link"));
    }
    for (path, name, digest) in links {
        if !contents.blobs.contains_key(&digest) {
            problems.push(format!("{path}: dangling"));
        }
        let hex = digest.hex();
        let position = name.iter().position(|part| part.starts_with('_')).unwrap_or(name.len());
        let repository: Repository = name[..position].join("/").parse().unwrap();
        match &name[position..] {
            ["_layers", "sha256", named] if hex == *named => {
                contents.links.insert((repository, digest));
            }
            ["_manifests", "revisions", "sha256", named] if hex == *named => {
                contents.revisions.insert((repository, digest));
            }
            ["_manifests", "tags", tag, "index", "sha256", named] if hex == *named => {
                contents.history.insert((repository, tag.parse::<Tag>().unwrap(), digest));
            }
            ["_manifests", "tags", tag, "current"] => {
                contents.tags.insert((repository, tag.parse::<Tag>().unwrap()), digest);
            }
            _ => problems.push(format!("{path}: foreign")),
        }
    }
    (contents, problems)
}

/// The tags that have a history but no `current` link.
fn unfinished_tags<'a>(links: &[(&'a String, Vec<&'a str>, Digest)]) -> Vec<((String, &'a str), &'a String)> {
    let tag_of = |name: &[&'a str], part: &str| {
        let position = name.iter().position(|part| part.starts_with('_'))?;
        match &name[position..] {
            ["_manifests", "tags", tag, found, ..] if *found == part => {
                Some((name[..position].join("/"), *tag))
            }
            _ => None,
        }
    };
    let current: Vec<_> = links.iter().filter_map(|(_, name, _)| tag_of(name, "current")).collect();
    let history = links.iter().filter_map(|(path, name, _)| Some((tag_of(name, "index")?, *path)));
    history.filter(|(tag, _)| !current.contains(tag)).collect()
}

fn closure(
    contents: &Contents,
    repository: &Repository,
    digest: &Digest,
    subject: &str,
    problems: &mut Vec<String>,
) {
    if !contents.revisions.contains(&(repository.clone(), *digest)) {
        problems.push(format!("{subject}: no revision {digest}"));
    }
    let Some(bytes) = contents.blobs.get(digest) else {
        problems.push(format!("{subject}: no content {digest}"));
        return;
    };
    match RawManifest::new(bytes.clone(), None).unwrap().parse().unwrap() {
        Manifest::Index(index) => {
            for child in &index.manifests {
                closure(contents, repository, &child.digest, subject, problems);
            }
        }
        Manifest::Image(image) => {
            for blob in image.blobs() {
                if contents.blobs.get(&blob.digest).is_none_or(|content| content.len() as u64 != blob.size) {
                    problems.push(format!("{subject}: no blob {}", blob.digest));
                }
                if !contents.links.contains(&(repository.clone(), blob.digest)) {
                    problems.push(format!("{subject}: no link to {}", blob.digest));
                }
            }
        }
    }
}

/// Copies a directory and all below it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a readable directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
