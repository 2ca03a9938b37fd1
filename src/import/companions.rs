//! Entries of a layout that have no name and refer to another entry: attestations as `docker save --platform`
//! writes them, and the referrers (signatures, SBOMs) that `oras cp -r` copies along with an image.

use crate::content::{Source, Target};
use crate::oci::layout::ListedImage;
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Descriptor, Digest, Manifest, Repository};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The most manifests of an image that are searched for a subject.
const MAX_MANIFESTS: usize = 2000;

/// An entry without a name that refers to other entries.
#[derive(Debug)]
pub(super) struct Companion {
    pub(super) root: Descriptor,
    /// The entry that it refers to, or a part of one.
    pub(super) subject: Digest,
    /// Whether it is a build attestation rather than an OCI referrer.
    pub(super) is_attestation: bool,
    /// Positions of the images that it refers to, among the named ones.
    pub(super) subjects: BTreeSet<usize>,
}

/// An entry that may be a companion.
struct Candidate {
    listed: ListedImage,
    root: Descriptor,
    subject: Digest,
    is_attestation: bool,
}

/// Separates the companions from the images. An entry whose subject is not in the source counts as an image.
pub(super) async fn split<S: Source>(
    source: &S,
    listed: Vec<ListedImage>,
) -> (Vec<ListedImage>, Vec<Companion>) {
    // The usual case, in which no manifest has to be read.
    if listed.iter().all(|image| !image.label.is_empty()) {
        return (listed, Vec::new());
    }
    let mut images = Vec::new();
    let mut candidates = Vec::new();
    for listed in listed {
        match candidate(source, listed).await {
            Ok(candidate) => candidates.push(candidate),
            Err(image) => images.push(image),
        }
    }
    let mut subjects: HashMap<Digest, BTreeSet<usize>> = HashMap::new();
    for (position, image) in images.iter().enumerate() {
        for digest in reachable(source, image).await {
            subjects.entry(digest).or_default().insert(position);
        }
    }
    let mut companions = Vec::new();
    // A companion may refer to another one, such as the signature of an SBOM.
    loop {
        let count = candidates.len();
        let mut remaining = Vec::new();
        for candidate in candidates {
            let Some(found) = subjects.get(&candidate.subject).cloned() else {
                remaining.push(candidate);
                continue;
            };
            subjects.entry(candidate.root.digest).or_default().extend(&found);
            let Candidate { root, subject, is_attestation, .. } = candidate;
            companions.push(Companion { root, subject, is_attestation, subjects: found });
        }
        candidates = remaining;
        if candidates.len() == count {
            break;
        }
    }
    images.extend(candidates.into_iter().map(|candidate| candidate.listed));
    (images, companions)
}

/// Separates the entries that cosign's tags name from the images whose signatures they are. An entry whose subject is not in the
/// source counts as an image.
pub(super) async fn take_tagged<S: Source>(
    source: &S,
    images: Vec<ListedImage>,
) -> (Vec<ListedImage>, HashMap<ReferrerTag, Digest>) {
    let tag = |image: &ListedImage| {
        let tag = image.reference.as_ref().and_then(|name| name.tag.as_ref()).or(image.tag.as_ref());
        let tag = ReferrerTag::parse(tag?)?;
        Some((tag, image.root.as_ref().ok()?.digest))
    };
    let mut tagged = HashMap::new();
    if images.iter().all(|image| tag(image).is_none()) {
        return (images, tagged);
    }
    let mut subjects = HashSet::new();
    for image in &images {
        subjects.extend(reachable(source, image).await);
    }
    let mut others = Vec::new();
    for image in images {
        match tag(&image).filter(|(tag, _)| subjects.contains(&tag.subject)) {
            // Repositories may have different signatures of one image.
            Some((tag, digest)) if tagged.get(&tag).is_none_or(|known| *known == digest) => {
                tagged.insert(tag, digest);
            }
            _ => others.push(image),
        }
    }
    (others, tagged)
}

/// The entry as a candidate, or unchanged if it has a name or refers to nothing.
async fn candidate<S: Source>(source: &S, listed: ListedImage) -> Result<Candidate, ListedImage> {
    let root = match &listed.root {
        Ok(root) if listed.label.is_empty() => root.clone(),
        _ => return Err(listed),
    };
    if let Some(subject) = root.attestation_of() {
        return Ok(Candidate { listed, root, subject, is_attestation: true });
    }
    let subject = match manifest(source, &root.digest).await {
        Some(Manifest::Image(image)) => image.subject.map(|subject| subject.digest),
        Some(Manifest::Index(index)) => index.subject.map(|subject| subject.digest),
        None => None,
    };
    match subject {
        Some(subject) => Ok(Candidate { listed, root, subject, is_attestation: false }),
        None => Err(listed),
    }
}

/// The digests of an image's manifests: its root, and what its indexes list.
async fn reachable<S: Source>(source: &S, image: &ListedImage) -> HashSet<Digest> {
    let mut reachable = HashSet::new();
    let mut pending: Vec<Digest> = image.root.iter().map(|root| root.digest).collect();
    while let Some(digest) = pending.pop() {
        if reachable.len() >= MAX_MANIFESTS || !reachable.insert(digest) {
            continue;
        }
        if let Some(Manifest::Index(index)) = manifest(source, &digest).await {
            pending.extend(index.manifests.iter().map(|entry| entry.digest));
        }
    }
    reachable
}

/// The manifest `digest`; `None` if it cannot be read, which the engine reports if the manifest is needed.
async fn manifest<S: Source>(source: &S, digest: &Digest) -> Option<Manifest> {
    // Layouts and archives have no repositories.
    let repository: Repository = "any".parse().ok()?;
    source.manifest(&repository, &Target::Digest(*digest)).await.ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::Memory;
    use crate::oci::{RawManifest, media_type};

    fn image(number: usize, subject: Option<&RawManifest>) -> RawManifest {
        let empty = Digest::of(b"");
        let subject = subject.map(|subject| {
            format!(r#","subject":{{"digest":"{}","size":{}}}"#, subject.digest, subject.bytes.len())
        });
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{empty}","size":0}},"layers":[],"annotations":{{"n":"{number}"}}{}}}"#,
            subject.unwrap_or_default()
        );
        RawManifest::new(json.into(), None).unwrap()
    }

    fn index(children: &[&RawManifest]) -> RawManifest {
        let entries: Vec<String> = children
            .iter()
            .map(|raw| format!(r#"{{"digest":"{}","size":{}}}"#, raw.digest, raw.bytes.len()))
            .collect();
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            media_type::OCI_INDEX,
            entries.join(",")
        );
        RawManifest::new(json.into(), None).unwrap()
    }

    fn listed(label: &str, raw: &RawManifest) -> ListedImage {
        ListedImage::full(label, Ok(raw.descriptor()))
    }

    fn attestation(raw: &RawManifest, subject: &RawManifest) -> ListedImage {
        let mut root = raw.descriptor();
        root.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        root.annotations.insert("vnd.docker.reference.digest".into(), subject.digest.to_string());
        ListedImage::full("", Ok(root))
    }

    #[tokio::test]
    async fn unnamed_entries_are_companions_of_their_subjects() {
        let app = image(0, None);
        let child = image(1, None);
        let multi = index(&[&child]);
        let proof = image(2, None);
        let sbom = image(3, Some(&child));
        let signature = image(4, Some(&sbom));
        let stray = image(5, Some(&image(6, None)));
        let plain = image(7, None);
        let source = Memory::new();
        let repository: Repository = "any".parse().unwrap();
        for raw in [&app, &child, &multi, &proof, &sbom, &signature, &stray, &plain] {
            source.insert_manifest(&repository, None, raw);
        }
        let entries = vec![
            // Listed before what it refers to, so that one pass is not enough.
            listed("", &signature),
            listed("q.io/app:1", &app),
            attestation(&proof, &app),
            listed("q.io/multi:1", &multi),
            listed("", &sbom),
            listed("", &stray),
            listed("", &plain),
            listed("q.io/signed:1", &sbom),
        ];
        let (images, companions) = split(&source, entries).await;
        let digests: Vec<Digest> = images.iter().map(|image| image.root.as_ref().unwrap().digest).collect();
        assert_eq!(digests, [app.digest, multi.digest, plain.digest, sbom.digest, stray.digest]);
        let mut found: Vec<(Digest, bool, Vec<usize>)> = companions
            .into_iter()
            .map(|one| (one.root.digest, one.is_attestation, one.subjects.into_iter().collect()))
            .collect();
        found.sort();
        let mut expected = vec![
            (proof.digest, true, vec![0]),
            (sbom.digest, false, vec![1]),
            (signature.digest, false, vec![3]),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }
}
