//! `bundle.json`: what a bundle brings and what it assumes to be present.
//!
//! It is canonical: its fields are in alphabetical order, its lists are sorted, and it has no white space, so that equal bundles have
//! equal documents (RFC 8785). docs/reference/bundle-format.md describes it.

use super::BundleVerifier;
use crate::content::Place;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::descriptor::MAX_SIZE;
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Digest, Reference, Repository, Tag};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The name of the document in the directory of a bundle.
pub(super) const FILE: &str = "bundle.json";
/// The name of the list of digests, in the form of `sha256sum`.
pub(super) const SUMS: &str = "SHA256SUMS";
/// The name of the signature of the document.
pub(super) const SIGNATURE: &str = "bundle.json.sig";
/// The longest signature, in bytes.
pub const MAX_SIGNATURE: u64 = 1 << 20;
/// The version of the format.
pub(super) const SCHEMA: u32 = 1;
/// The longest document that is read, in bytes: about two million blobs.
pub(super) const MAX_DOCUMENT: u64 = 256 << 20;
/// The most parts of a bundle.
pub(super) const MAX_PARTS: usize = 99_999;

/// The document that describes a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundleDocument {
    /// What the receiving directory is assumed to have.
    pub bases: Vec<BundleBase>,
    /// All content that the images need, sorted by digest, whether the bundle brings it or not.
    pub content: Vec<BundledContent>,
    /// The digest of this document without `id`, `tool` and the digests of the parts.
    pub id: Digest,
    /// The images, sorted by repository, tag and digest.
    pub images: Vec<BundledImage>,
    /// The rule by which the sending directory names images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// The files of the bundle, in order.
    pub parts: Vec<BundlePart>,
    /// The length of the ranges that blobs longer than this are cut into, in bytes.
    pub range_bytes: u64,
    /// The version of the format: 1.
    pub schema: u32,
    /// The program that made the bundle.
    pub tool: String,
}

/// Content that the receiving directory is assumed to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundleBase {
    /// Its identity: that of the bundle, or of the list of content.
    pub id: Digest,
    /// Where it is known from.
    pub kind: BaseKind,
}

/// Where a base is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BaseKind {
    /// An earlier bundle.
    Bundle,
    /// A directory that could be read.
    Directory,
    /// A list that `saver have` wrote.
    Have,
    /// A list of what an earlier bundle lacked.
    Missing,
}

/// A blob or manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundledContent {
    /// Its digest.
    pub digest: Digest,
    /// The numbers of the parts that bring it, from 1; none if it is assumed to be present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<u32>,
    /// Its length in bytes.
    pub size: u64,
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundledImage {
    /// The digest of its manifest or index.
    pub digest: Digest,
    /// Its manifests and those of its referrers, sorted. An index may name others, which are not transferred.
    pub manifests: Vec<Digest>,
    /// Its platforms.
    pub platforms: Vec<String>,
    /// Its signatures and other referrers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<BundledReferrer>,
    /// Its repository in the directory.
    pub repository: Repository,
    /// Where it was saved from, if that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<BundledSource>,
    /// Its tag; `None` for an image that was saved by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

/// A referrer of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundledReferrer {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The manifest that it refers to.
    pub subject: Digest,
    /// The tag that connects it with its subject, if it is one of cosign's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

/// Where an image was saved from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundledSource {
    /// The digest that it had there.
    pub digest: Digest,
    /// How its index was saved: `keep`, `prune` or `flatten`.
    pub index: String,
    /// The platforms that were saved.
    pub platforms: Vec<String>,
    /// Its name there.
    pub reference: Reference,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundlePart {
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Its name.
    pub file: String,
}

/// The name of the part with this number.
pub(super) fn part_file(number: usize) -> String {
    format!("part-{number:05}.tar")
}

/// A digest that is not known yet.
pub(super) const UNKNOWN: Digest = Digest::from_bytes([0; 32]);

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, FILE, why).on(Side::Source)
}

/// The error for a bundle without a signature where one is required.
pub(super) fn unsigned(name: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, name, format!("the bundle is not signed: it has no {SIGNATURE}"))
        .on(Side::Source)
        .with_hint("sign it with saver bundle --sign-with COMMAND")
}

/// All of a file that may have at most `limit` bytes.
fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let unreadable = |cause| super::unreadable(path, &cause);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(refuse(format!("it is longer than {limit} bytes")).with_subject(path.display()));
    }
    Ok(bytes)
}

impl BundledImage {
    /// Where it is published.
    pub(super) fn place(&self) -> Place {
        Place { repository: self.repository.clone(), tag: self.tag.clone() }
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => format!("{}@{}", self.repository, self.digest),
        }
    }
}

impl BundleDocument {
    /// The document as it is written.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialized.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::internal(FILE))
    }

    /// The ID that follows from the rest of the document.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub(super) fn computed_id(&self) -> Result<Digest> {
        let mut document = self.clone();
        document.id = UNKNOWN;
        document.tool.clear();
        for part in &mut document.parts {
            part.digest = UNKNOWN;
        }
        Ok(Digest::of(&document.to_bytes()?))
    }

    /// Parses and checks a document.
    ///
    /// # Errors
    /// `InvalidInput` if it is damaged or contradicts itself; `Unsupported` for another version of the format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let not_json = |error: serde_json::Error| refuse(format!("cannot be parsed: {error}"));
        let Version { schema } = serde_json::from_slice(bytes).map_err(not_json)?;
        if schema != SCHEMA {
            let why = format!("version {schema} of the format is not supported");
            return Err(
                Error::new(ErrorKind::Unsupported, FILE, why).with_hint("use a later version of saver")
            );
        }
        let document: Self = serde_json::from_slice(bytes).map_err(not_json)?;
        document.check()?;
        Ok(document)
    }

    /// Reads the document at `path`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); `Storage` if it can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_verified(path, None)
    }

    /// Reads the document at `path`, and verifies the signature beside it.
    ///
    /// # Errors
    /// As [`read`](Self::read); `InvalidInput` if it is not signed; what `verifier` returns.
    pub(super) fn read_verified(path: &Path, verifier: Option<&dyn BundleVerifier>) -> Result<Self> {
        let bytes = read_limited(path, MAX_DOCUMENT)?;
        if let Some(verifier) = verifier {
            let signature = path.with_file_name(SIGNATURE);
            if !signature.exists() {
                return Err(unsigned(path.display()));
            }
            verifier.verify(&bytes, &read_limited(&signature, MAX_SIGNATURE)?)?;
        }
        Self::parse(&bytes).map_err(|error| error.with_subject(path.display()))
    }

    /// Looks up content.
    pub(super) fn content(&self, digest: &Digest) -> Option<&BundledContent> {
        let at = self.content.binary_search_by(|content| content.digest.cmp(digest)).ok()?;
        Some(&self.content[at])
    }

    /// The size of all content that the parts bring.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.content.iter().filter(|content| !content.parts.is_empty()).map(|content| content.size).sum()
    }

    /// The content that part `number` brings.
    pub(super) fn content_of(&self, number: usize) -> impl Iterator<Item = &BundledContent> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.content.iter().filter(move |content| content.parts.contains(&number))
    }

    fn check(&self) -> Result<()> {
        if self.computed_id()? != self.id {
            return Err(refuse("it does not match its ID: it was damaged or changed"));
        }
        if self.parts.len() > MAX_PARTS {
            return Err(refuse(format!("it has more than {MAX_PARTS} parts")));
        }
        if !self.content.is_sorted_by(|one, other| one.digest < other.digest) {
            return Err(refuse("its content is not sorted"));
        }
        for (index, part) in self.parts.iter().enumerate() {
            if part.file != part_file(index + 1) {
                return Err(refuse(format!("part {} has the name {:?}", index + 1, part.file)));
            }
        }
        let is_part = |number: &u32| (1..=self.parts.len()).contains(&(*number as usize));
        for content in &self.content {
            let is_cut = content.parts.len() > 1;
            let is_valid = content.size <= MAX_SIZE
                && content.parts.iter().all(is_part)
                && (!is_cut || (self.range_bytes > 0 && content.size > self.range_bytes));
            if !is_valid {
                return Err(refuse(format!("the entry of {} is invalid", content.digest)));
            }
        }
        for image in &self.images {
            let missing = image.manifests.iter().find(|digest| self.content(digest).is_none());
            if let Some(digest) = missing {
                return Err(refuse(format!("{} needs {digest}, which is not listed", image.name())));
            }
            if !image.manifests.contains(&image.digest) {
                return Err(refuse(format!("{} lacks its own manifest", image.name())));
            }
            for referrer in &image.referrers {
                let parsed = referrer.tag.as_ref().map(ReferrerTag::parse);
                let is_valid =
                    parsed.is_none_or(|tag| tag.is_some_and(|tag| tag.subject == referrer.subject));
                if !is_valid || !image.manifests.contains(&referrer.digest) {
                    return Err(refuse(format!("a referrer of {} is invalid", image.name())));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bundle) fn sample() -> BundleDocument {
        let digest = Digest::of(b"manifest");
        let content = BundledContent { digest, parts: vec![1], size: 8 };
        let image = BundledImage {
            digest,
            manifests: vec![digest],
            platforms: vec!["linux/amd64".into()],
            referrers: Vec::new(),
            repository: "a/b".parse().unwrap(),
            source: None,
            tag: Some("1".parse().unwrap()),
        };
        let part = BundlePart { bytes: 2048, digest: Digest::of(b"part"), file: part_file(1) };
        with_id(BundleDocument {
            bases: vec![BundleBase { id: Digest::of(b"base"), kind: BaseKind::Have }],
            content: vec![content],
            id: UNKNOWN,
            images: vec![image],
            names: Some("strip".into()),
            parts: vec![part],
            range_bytes: 1024,
            schema: SCHEMA,
            tool: "saver 1".into(),
        })
    }

    fn with_id(mut document: BundleDocument) -> BundleDocument {
        document.id = document.computed_id().unwrap();
        document
    }

    #[test]
    fn document_is_canonical_and_read_as_written() {
        let document = sample();
        let bytes = document.to_bytes().unwrap();
        assert_eq!(BundleDocument::parse(&bytes).unwrap(), document);
        // Keys in order: serde_json's own map sorts them.
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), bytes);
        let mut hashed = document.clone();
        hashed.parts[0].digest = Digest::of(b"bytes");
        hashed.tool = "saver 2".into();
        assert_eq!(
            hashed.computed_id().unwrap(),
            document.id,
            "the ID is known before the parts are written"
        );
    }

    #[test]
    fn damaged_document_is_refused() {
        type Damage = fn(&mut BundleDocument);
        let damages: &[(&str, Damage)] = &[
            ("later version", |document| document.schema = 2),
            ("other name of a part", |document| document.parts[0].file = "../part".into()),
            ("unsorted", |document| document.content.push(document.content[0].clone())),
            ("unknown part", |document| document.content[0].parts = vec![2]),
            ("part zero", |document| document.content[0].parts = vec![0]),
            ("size", |document| document.content[0].size = u64::MAX),
            ("cut without need", |document| document.content[0].parts = vec![1, 1]),
            ("unlisted manifest", |document| document.images[0].manifests.push(Digest::of(b"x"))),
            ("own manifest", |document| document.images[0].manifests.clear()),
            ("referrer", |document| {
                let [digest, subject] = [b"x", b"y"].map(|text| Digest::of(text));
                document.images[0].referrers = vec![BundledReferrer { digest, subject, tag: None }];
            }),
            ("tag of a referrer", |document| {
                let digest = document.images[0].digest;
                let tag = Some("latest".parse().unwrap());
                document.images[0].referrers = vec![BundledReferrer { digest, subject: digest, tag }];
            }),
        ];
        for (what, damage) in damages {
            let mut document = sample();
            damage(&mut document);
            let bytes = with_id(document).to_bytes().unwrap();
            assert!(BundleDocument::parse(&bytes).is_err(), "{what}");
        }
        let bytes = sample().to_bytes().unwrap();
        for (from, to) in [("a/b", "a/c"), ("linux/amd64", "linux/arm64"), ("1024", "1025"), ("}", "")] {
            let text = String::from_utf8(bytes.clone()).unwrap().replace(from, to);
            assert!(BundleDocument::parse(text.as_bytes()).is_err(), "{from}");
        }
    }
}
