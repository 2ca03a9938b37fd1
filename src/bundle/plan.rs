//! Distributes the content of a bundle over its parts. Equal input gives the same plan.

use super::base::AssumedContent;
use super::document::{
    BaseKind, BundleBase, BundleDocument, BundlePart, BundledContent, MAX_PARTS, SCHEMA, UNKNOWN, part_file,
};
use super::member::range_path;
use super::select::{BundleImages, OmittedImage, RepositoryLinks, SelectedImages};
use super::tar_writer::{BLOCK, END, comment, member_length};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository};
use crate::save::NameRule;
use crate::store::{Store, path};
use std::collections::{BTreeMap, HashSet};

/// The smallest part, in bytes.
pub const MIN_PART_BYTES: u64 = 64 << 10;
/// Ranges are a multiple of this, the block size of most file systems.
const RANGE_UNIT: u64 = 4096;

/// A bundle that is to be written.
pub(super) struct BundlePlan {
    /// The document, without the digests of the parts.
    pub(super) document: BundleDocument,
    pub(super) parts: Vec<PlannedPart>,
    pub(super) omitted: Vec<OmittedImage>,
}

/// A part that is to be written.
pub(super) struct PlannedPart {
    pub(super) members: Vec<PlannedMember>,
    /// Its length, without the end of the tar file.
    length: u64,
}

/// A member of a part.
pub(super) enum PlannedMember {
    Blob { digest: Digest, size: u64 },
    Range { digest: Digest, start: u64, length: u64, total: u64 },
    Directory { path: String },
    Link { path: String, digest: Digest },
}

impl PlannedMember {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Blob { digest, .. } => path::data(digest),
            Self::Range { digest, start, total, .. } => range_path(digest, *start, *total),
            Self::Directory { path } | Self::Link { path, .. } => path.clone(),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Blob { size, .. } => *size,
            Self::Range { length, .. } => *length,
            Self::Directory { .. } => 0,
            Self::Link { .. } => crate::store::link::LENGTH,
        }
    }
}

impl PlannedPart {
    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.length + END
    }
}

/// Puts members into parts.
struct Packer {
    parts: Vec<PlannedPart>,
    /// The most bytes of a part, without the end of the tar file.
    capacity: u64,
    /// The length of what starts a part.
    start: u64,
}

impl Packer {
    /// Puts a member into the first part from number `first` on that has room; returns the number of the part.
    fn put(&mut self, member: PlannedMember, first: usize) -> Result<usize> {
        let length = member_length(&member.path(), member.size())?;
        let room = |part: &PlannedPart| part.length + length <= self.capacity;
        let found = self.parts.iter().skip(first).position(room).map(|at| at + first);
        let at = match found {
            Some(at) => at,
            None => self.begin()?,
        };
        let part = &mut self.parts[at];
        part.length += length;
        part.members.push(member);
        Ok(at)
    }

    fn begin(&mut self) -> Result<usize> {
        if self.parts.len() == MAX_PARTS {
            let why = format!("the bundle would have more than {MAX_PARTS} parts");
            return Err(Error::new(ErrorKind::InvalidInput, "", why).with_hint("use larger parts"));
        }
        self.parts.push(PlannedPart { members: Vec::new(), length: self.start });
        Ok(self.parts.len() - 1)
    }

    fn last(&self) -> usize {
        self.parts.len().saturating_sub(1)
    }
}

impl BundlePlan {
    /// Plans a bundle of the tree in `store`, whose parts are shorter than `part_bytes`.
    ///
    /// # Errors
    /// As [`SelectedImages::select`]; `InvalidInput` if the parts are too small.
    pub(super) fn make(
        store: &Store,
        names: &NameRule,
        images: &BundleImages,
        assumed: AssumedContent,
        part_bytes: u64,
    ) -> Result<Self> {
        let selected = SelectedImages::select(store, names, images)?;
        let mut bases = assumed.bases;
        let only: Option<HashSet<Digest>> = match images {
            BundleImages::Missing(missing) => {
                bases.push(BundleBase { id: missing.bundle, kind: BaseKind::Missing });
                bases.sort();
                Some(missing.content.iter().map(|blob| blob.digest).collect())
            }
            BundleImages::All | BundleImages::Named(_) => None,
        };
        let is_sent = |digest: &Digest| {
            !assumed.digests.contains(digest) && only.as_ref().is_none_or(|only| only.contains(digest))
        };
        let (mut packer, range_bytes) = packer(part_bytes)?;
        let mut content = Vec::with_capacity(selected.content.len());
        for (digest, size) in selected.content {
            let parts = if is_sent(&digest) {
                put_content(&mut packer, digest, size, range_bytes)?
            } else {
                Vec::new()
            };
            content.push(BundledContent { digest, parts, size });
        }
        put_links(&mut packer, &selected.links)?;
        put_tags(&mut packer, &selected.links)?;
        let part = |(index, part): (usize, &PlannedPart)| BundlePart {
            bytes: part.bytes(),
            digest: UNKNOWN,
            file: part_file(index + 1),
        };
        let mut document = BundleDocument {
            bases,
            content,
            id: UNKNOWN,
            images: selected.images,
            names: store.recorded_names()?,
            parts: packer.parts.iter().enumerate().map(part).collect(),
            range_bytes,
            schema: SCHEMA,
            tool: String::new(),
        };
        document.id = document.computed_id()?;
        document.tool = concat!("saver ", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Self { document, parts: packer.parts, omitted: selected.omitted })
    }

    /// The total length of the parts in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(PlannedPart::bytes).sum()
    }
}

fn packer(part_bytes: u64) -> Result<(Packer, u64)> {
    if part_bytes < MIN_PART_BYTES {
        let why = format!("a part of {part_bytes} bytes is too small: the least are {MIN_PART_BYTES}");
        return Err(Error::new(ErrorKind::InvalidInput, "", why));
    }
    // Shorter than the limit: FAT32 holds files of less than 4 GiB.
    let longest = (part_bytes - 1) / BLOCK * BLOCK;
    let start = comment(&UNKNOWN).len() as u64;
    let capacity = longest - END;
    let header = member_length(&range_path(&UNKNOWN, 0, crate::oci::descriptor::MAX_SIZE), 0)?;
    let range_bytes = (capacity - start - header) / RANGE_UNIT * RANGE_UNIT;
    Ok((Packer { parts: Vec::new(), capacity, start }, range_bytes))
}

/// Puts a blob into a part, or its ranges into several, in order. Returns the numbers of the parts.
fn put_content(packer: &mut Packer, digest: Digest, size: u64, range_bytes: u64) -> Result<Vec<u32>> {
    let number = |at: usize| u32::try_from(at + 1).map_err(|_| Error::internal(digest));
    if size <= range_bytes {
        let at = packer.put(PlannedMember::Blob { digest, size }, 0)?;
        return Ok(vec![number(at)?]);
    }
    let mut parts = Vec::new();
    let mut first = 0;
    let mut start = 0;
    while start < size {
        let length = range_bytes.min(size - start);
        let at = packer.put(PlannedMember::Range { digest, start, length, total: size }, first)?;
        parts.push(number(at)?);
        first = at + 1;
        start += length;
    }
    Ok(parts)
}

/// Adds the links of the repositories, after all content.
fn put_links(packer: &mut Packer, links: &BTreeMap<Repository, RepositoryLinks>) -> Result<()> {
    for (repository, links) in links {
        // A registry needs both directories, even if they are empty.
        for directory in [path::layers(repository), path::tags(repository)] {
            packer.put(PlannedMember::Directory { path: directory + "/" }, packer.last())?;
        }
        let layers = links.layers.iter().map(|digest| (path::layer_link(repository, digest), digest));
        let revisions =
            links.revisions.iter().map(|digest| (path::revision_link(repository, digest), digest));
        for (path, digest) in layers.chain(revisions) {
            packer.put(PlannedMember::Link { path, digest: *digest }, packer.last())?;
        }
    }
    Ok(())
}

/// Adds all tags to the last part: those of referrers first, since a tag that is visible has its signatures.
fn put_tags(packer: &mut Packer, links: &BTreeMap<Repository, RepositoryLinks>) -> Result<()> {
    let referrers =
        links.iter().flat_map(|(name, links)| links.referrer_tags.iter().map(move |tag| (name, tag)));
    let tags = links.iter().flat_map(|(name, links)| links.tags.iter().map(move |tag| (name, tag)));
    let mut members = Vec::new();
    let mut length = 0;
    for (repository, (tag, digest)) in referrers.chain(tags) {
        for path in [path::tag_index(repository, tag, digest), path::tag_current(repository, tag)] {
            let member = PlannedMember::Link { path, digest: *digest };
            length += member_length(&member.path(), member.size())?;
            members.push(member);
        }
    }
    if packer.start + length > packer.capacity {
        let needed = packer.start + length + END + BLOCK;
        let why = format!("the tags do not fit into one part: {needed} bytes are needed");
        return Err(Error::new(ErrorKind::InvalidInput, "", why).with_hint("use larger parts"));
    }
    if packer.parts.last().is_none_or(|part| part.length + length > packer.capacity) {
        packer.begin()?;
    }
    let last = packer.last();
    for member in members {
        packer.put(member, last)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(part_bytes: u64, sizes: &[u64]) -> (Vec<Vec<u32>>, Vec<u64>) {
        let (mut packer, range_bytes) = packer(part_bytes).unwrap();
        let put = |(index, size): (usize, &u64)| {
            put_content(&mut packer, Digest::of(&[index as u8]), *size, range_bytes).unwrap()
        };
        let placed = sizes.iter().enumerate().map(put).collect();
        (placed, packer.parts.iter().map(PlannedPart::bytes).collect())
    }

    #[test]
    fn parts_stay_below_their_limit() {
        let range = packer(MIN_PART_BYTES).unwrap().1;
        for (sizes, placed) in [
            (vec![10, 20], vec![vec![1], vec![1]]),
            // The small one fills what the first part has left.
            (vec![range - 8192, range - 4096, 2000], vec![vec![1], vec![2], vec![1]]),
            (vec![range], vec![vec![1]]),
            (vec![range + 1], vec![vec![1, 2]]),
            (vec![1000, 3 * range], vec![vec![1], vec![2, 3, 4]]),
            // Later ranges are in later parts.
            (vec![1000, 2 * range + 5], vec![vec![1], vec![2, 3, 4]]),
        ] {
            let (found, bytes) = lengths(MIN_PART_BYTES, &sizes);
            assert_eq!(found, placed, "{sizes:?}");
            assert!(bytes.iter().all(|bytes| *bytes < MIN_PART_BYTES && bytes % BLOCK == 0), "{bytes:?}");
        }
        let (_, bytes) = lengths(4 << 30, &[20 << 30]);
        assert_eq!(bytes.len(), 6);
        assert!(bytes.iter().all(|bytes| u32::try_from(*bytes).is_ok()), "FAT32 holds each");
    }

    #[test]
    fn part_that_is_too_small_is_refused() {
        assert!(packer(MIN_PART_BYTES - 1).is_err());
        let (mut packer, _) = packer(MIN_PART_BYTES).unwrap();
        let digest = Digest::of(b"x");
        let tags = (0..100).map(|number| (format!("t{number}").parse().unwrap(), digest)).collect();
        let links = RepositoryLinks { tags, ..RepositoryLinks::default() };
        let links = BTreeMap::from([("a".parse().unwrap(), links)]);
        assert_eq!(put_tags(&mut packer, &links).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
