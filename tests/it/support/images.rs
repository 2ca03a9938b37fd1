//! Small images made in memory, and the loop that gives them to a sink.

use bytes::Bytes;
use saver::content::{
    BlobWriter, ImageOrigin, Ingest, Place, Publication, PublishedReferrers, ReferrerList, Sink,
};
use saver::oci::referrer::{ListedReferrer, ReferrerTag, ReferrerTagKind};
use saver::oci::{Descriptor, Digest, RawManifest, Reference};
use saver::{Error, Result};
use std::sync::Arc;

/// An image with all its content.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) manifests: Vec<Arc<RawManifest>>,
    pub(crate) places: Vec<Place>,
    pub(crate) referrers: PublishedReferrers,
}

fn describe(kind: &str, content: &[u8]) -> String {
    let (digest, size) = (Digest::of(content), content.len());
    format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
}

fn manifest(json: String) -> Arc<RawManifest> {
    Arc::new(RawManifest::new(json.into(), None).unwrap())
}

/// `length` bytes that depend on `seed` alone.
pub(crate) fn noise(seed: &str, length: usize) -> Bytes {
    let mut content = Vec::with_capacity(length + 32);
    let mut block = Digest::of(seed.as_bytes());
    while content.len() < length {
        content.extend_from_slice(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    content.truncate(length);
    content.into()
}

/// Where an image goes: `name:tag`, or `name` alone for one without a tag.
pub(crate) fn place(text: &str) -> Place {
    let (repository, tag) = match text.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag.parse().unwrap())),
        None => (text, None),
    };
    Place { repository: repository.parse().unwrap(), tag }
}

impl Image {
    /// One manifest over `layers`, its configuration made from `name`.
    pub(crate) fn single(name: &str, layers: &[Bytes], places: &[&str]) -> Self {
        let config = Bytes::from(format!(r#"{{"architecture":"amd64","os":"linux","name":"{name}"}}"#));
        let described: Vec<String> = layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect();
        let manifest = manifest(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            describe("config.v1+json", &config),
            described.join(","),
        ));
        let mut blobs: Vec<Bytes> = Vec::new();
        for blob in std::iter::once(&config).chain(layers) {
            if !blobs.contains(blob) {
                blobs.push(blob.clone());
            }
        }
        let places = places.iter().map(|text| place(text)).collect();
        Self { blobs, manifests: vec![manifest], places, referrers: PublishedReferrers::default() }
    }

    /// The image with a referrer that names it, and one that only a tag of cosign connects with it.
    pub(crate) fn signed(mut self, name: &str) -> Self {
        let root = self.manifests.last().unwrap().clone();
        let subject = root.descriptor();
        let content = |kind: &str| Bytes::from(format!("{kind} of {name}"));
        let document = |kind: &str, more: &str| {
            manifest(format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]{more}}}"#,
                describe("empty", b"{}"),
                describe("layer.v1.tar", &content(kind)),
            ))
        };
        let subject = format!(r#","subject":{{"digest":"{}","size":{}}}"#, subject.digest, subject.size);
        let (sbom, signature) = (document("SBOM", &subject), document("signature", ""));
        let listed = ListedReferrer::read(&sbom.bytes, sbom.digest).unwrap();
        self.referrers.lists.push(ReferrerList { subject: root.digest, referrers: vec![listed.descriptor] });
        let tag = ReferrerTag { subject: root.digest, kind: ReferrerTagKind::Signature };
        self.referrers.tags.push((tag, signature.digest));
        self.manifests.splice(0..0, [sbom, signature]);
        for blob in [Bytes::from_static(b"{}"), content("SBOM"), content("signature")] {
            if !self.blobs.contains(&blob) {
                self.blobs.push(blob);
            }
        }
        self
    }

    /// An index over `children`.
    pub(crate) fn index(children: &[Image], places: &[&str]) -> Self {
        let described: Vec<String> = children
            .iter()
            .map(|child| describe("manifest.v1+json", &child.manifests.last().unwrap().bytes))
            .collect();
        let index = manifest(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
            described.join(",")
        ));
        let mut image = Self {
            blobs: vec![],
            manifests: vec![],
            places: places.iter().map(|text| place(text)).collect(),
            referrers: PublishedReferrers::default(),
        };
        for child in children {
            for blob in &child.blobs {
                if !image.blobs.contains(blob) {
                    image.blobs.push(blob.clone());
                }
            }
            image.manifests.extend(child.manifests.iter().cloned());
        }
        image.manifests.push(index);
        image
    }

    pub(crate) fn root(&self) -> Digest {
        self.manifests.last().unwrap().digest
    }

    /// Where it is said to come from.
    pub(crate) fn origin(&self) -> ImageOrigin {
        let place = &self.places[0];
        let reference = format!("source.example/{place}@{}", self.root());
        ImageOrigin {
            reference: Reference::parse(&reference).unwrap(),
            digest: self.root(),
            platforms: vec!["linux/amd64".to_owned()],
            index: "keep",
        }
    }

    pub(crate) fn publication(&self) -> Publication {
        Publication {
            places: self.places.clone(),
            manifests: self.manifests.clone(),
            blobs: self.blobs.iter().map(|blob| Digest::of(blob)).collect(),
            origin: Some(self.origin()),
            referrers: self.referrers.clone(),
        }
    }
}

/// Signed images: two places of one, of which the second lists the same referrers; and an index.
pub(crate) fn signed_assortment() -> Vec<Image> {
    let layer = noise("layer", 900);
    let single = |place: &str| Image::single("tool", std::slice::from_ref(&layer), &[place]).signed("tool");
    let child = Image::single("app", std::slice::from_ref(&layer), &[]);
    vec![
        single("tool:1.0"),
        single("tool:v2"),
        Image::index(&[child], &["app:1.0", "other/app:1.0"]).signed("app"),
    ]
}

/// Images that share blobs; an index of two children; one of two places; two that follow each other under one tag.
pub(crate) fn assortment() -> Vec<Image> {
    let base = noise("base", 3000);
    let own = |name: &str| noise(name, 1000);
    let amd64 = Image::single("app amd64", &[base.clone(), own("amd64")], &[]);
    let arm64 = Image::single("app arm64", &[base.clone(), own("arm64")], &[]);
    vec![
        Image::index(&[amd64, arm64], &["library/app:1.0", "app:1.0"]),
        Image::single("tool", &[base.clone(), own("tool")], &["tool:latest"]),
        Image::single("pinned", &[base, Bytes::new()], &["deep/er/pinned"]),
    ]
}

fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(content), content.len() as u64)
}

/// Gives `content` to the sink unless it is there, going on where an earlier run stopped; answers how many bytes were written.
pub(crate) async fn put(sink: &impl Sink, content: &[u8]) -> Result<u64> {
    let (descriptor, home) = (descriptor(content), "app".parse()?);
    loop {
        let writer = match sink.ingest(&home, &descriptor).await? {
            Ingest::Present => return Ok(0),
            Ingest::Write(writer) => writer,
            Ingest::Upload(_) => panic!("this sink takes uploads"),
        };
        let from = writer.received() as usize;
        let mut back = vec![0; from];
        if writer.read_at(0, &mut back)? != from || back != content[..from] {
            writer.discard()?;
            continue;
        }
        for start in (from..content.len()).step_by(700) {
            let end = content.len().min(start + 700);
            writer.write_at(start as u64, &content[start..end])?;
        }
        writer.commit(&descriptor.digest)?;
        return Ok((content.len() - from) as u64);
    }
}

/// Gives all of `image` to the sink and publishes it.
pub(crate) async fn deliver(sink: &impl Sink, image: &Image) -> Result<u64> {
    let mut written = 0;
    for blob in &image.blobs {
        written += put(sink, blob).await?;
    }
    sink.publish(image.publication()).await?;
    Ok(written)
}

/// Delivers all images at the same time; which were published, and the bytes written.
pub(crate) async fn deliver_all(sink: &impl Sink, images: &[Image]) -> (Vec<Result<u64, Error>>, u64) {
    let outcomes = futures::future::join_all(images.iter().map(|image| deliver(sink, image))).await;
    let written = outcomes.iter().flatten().sum();
    (outcomes, written)
}
