//! Writes an OCI image layout into a tar file: the oci-archive that podman, skopeo, buildah and containerd read.

use super::plan::{ArchiveImage, ArchivePlan, MemberSource, OpenContent, PlannedMember, open};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{INDEX, LayoutIndex, MARKER, MARKER_CONTENT, blob};
use crate::oci::{Digest, Digester};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

/// Reads and verifies everything that `images` consist of. An image with missing or damaged content is left out,
/// and its outcome says why.
#[must_use]
pub fn plan(images: &[ArchiveImage], content: &OpenContent<'_>) -> ArchivePlan {
    let digests: BTreeSet<Digest> = images.iter().flat_map(|image| &image.content.blobs).copied().collect();
    let digests: Vec<Digest> = digests.into_iter().collect();
    let sizes: BTreeMap<Digest, Result<u64>> =
        digests.into_par_iter().map(|digest| (digest, verified_size(&digest, content))).collect();
    let mut index = LayoutIndex::default();
    // By digest, so that the order does not depend on the order of the images.
    let mut members = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(images.len());
    for image in images {
        let outcome = add(image, &sizes, &mut index, &mut members);
        outcomes.push(outcome);
    }
    let mut all =
        vec![PlannedMember::memory(MARKER, MARKER_CONTENT), PlannedMember::memory(INDEX, index.to_bytes())];
    all.extend(members.into_values());
    ArchivePlan { outcomes, members: all }
}

/// Adds `image` to the index and its content to `members`, or nothing at all.
fn add(
    image: &ArchiveImage,
    sizes: &BTreeMap<Digest, Result<u64>>,
    index: &mut LayoutIndex,
    members: &mut BTreeMap<Digest, PlannedMember>,
) -> Result<()> {
    let mut own = Vec::with_capacity(image.content.blobs.len());
    for digest in &image.content.blobs {
        let size = sizes.get(digest).cloned().unwrap_or(Ok(0));
        let size = size.map_err(|error| image.with_context(&error, format!("blob {digest}")))?;
        let source = MemberSource::Blob(*digest);
        own.push((*digest, PlannedMember { path: blob(digest), source, size }));
    }
    // The engine has verified the manifests. They are written from memory: an index that was rewritten is in no store.
    for manifest in &image.content.manifests {
        own.push((manifest.digest, PlannedMember::memory(blob(&manifest.digest), manifest.bytes.clone())));
    }
    if let Some(root) = image.content.manifests.last() {
        index.set(&image.name, &root.descriptor())?;
        for referrer in image.content.referrers.lists.iter().flat_map(|list| &list.referrers) {
            index.add_referrer(referrer);
        }
        for (tag, digest) in &image.content.referrers.tags {
            if let Some(raw) = image.content.manifests.iter().find(|raw| raw.digest == *digest) {
                index.set(&image.name.sibling(&tag.tag()), &raw.descriptor())?;
            }
        }
    }
    members.extend(own);
    Ok(())
}

/// Reads the blob `digest` to its end and verifies it; returns its length.
fn verified_size(digest: &Digest, content: &OpenContent<'_>) -> Result<u64> {
    let (mut reader, _) = open(content, digest)?;
    let corrupt = |message: String| Error::new(ErrorKind::Corrupt, digest, message).on(Side::Source);
    let mut digester = Digester::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => digester.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(corrupt(format!("cannot read the blob: {error}"))),
        }
    }
    let length = digester.length();
    let actual = digester.finish();
    if actual == *digest {
        Ok(length)
    } else {
        Err(corrupt(format!("the directory is damaged: the blob's bytes hash to {actual}")))
    }
}
