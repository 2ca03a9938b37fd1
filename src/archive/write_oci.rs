//! An image layout in a tar file: what podman, skopeo, buildah and containerd read as oci-archive.

use super::images::{ArchiveImage, Content, Member, Prepared, open};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{INDEX, LayoutIndex, MARKER, MARKER_CONTENT, blob};
use crate::oci::{Digest, Digester};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// Reads and verifies all that `images` need. An image that is not whole is left out, and its outcome says why.
#[must_use]
pub fn prepare(images: &[ArchiveImage], content: &Content<'_>) -> Prepared {
    let digests = |image: &ArchiveImage| {
        let manifests = image.content.manifests.iter().map(|manifest| manifest.digest);
        manifests.chain(image.content.blobs.iter().copied()).collect::<Vec<_>>()
    };
    let all: BTreeSet<Digest> = images.iter().flat_map(digests).collect();
    let all: Vec<Digest> = all.into_iter().collect();
    let sizes: BTreeMap<Digest, Result<u64>> =
        all.into_par_iter().map(|digest| (digest, verified(&digest, content))).collect();
    let mut index = LayoutIndex::default();
    let (mut members, mut outcomes) = (BTreeMap::new(), Vec::with_capacity(images.len()));
    for image in images {
        let mut own = Vec::new();
        let read = digests(image).into_iter().try_for_each(|digest| {
            let size = sizes.get(&digest).cloned().unwrap_or(Ok(0));
            own.push((digest, size.map_err(|error| image.refuse(error.kind(), error.to_string()))?));
            Ok(())
        });
        if read.is_ok() {
            members.extend(own);
            if let Some(root) = image.content.manifests.last() {
                index.set(&image.label(), &root.descriptor());
            }
        }
        outcomes.push(read);
    }
    let member =
        |(digest, size)| Member { path: blob(&digest), source: digest, inflate: false, size, digest };
    Prepared {
        outcomes,
        documents: vec![(MARKER.into(), MARKER_CONTENT.to_vec()), (INDEX.into(), index.to_bytes())],
        members: members.into_iter().map(member).collect(),
    }
}

/// Reads the content of `digest` to its end; its length.
fn verified(digest: &Digest, content: &Content<'_>) -> Result<u64> {
    let (mut file, _) = open(content, digest)?;
    let wrong = |kind, why: String| Error::new(kind, digest, why).on(Side::Source);
    let (mut digester, mut piece) = (Digester::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => digester.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(wrong(ErrorKind::Corrupt, format!("it cannot be read: {error}"))),
        }
    }
    let length = digester.length();
    match digester.finish() {
        found if found == *digest => Ok(length),
        found => Err(wrong(ErrorKind::Corrupt, format!("the tree is damaged: its bytes hash to {found}"))),
    }
}
