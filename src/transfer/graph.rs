//! Walks an image's manifests, selects by platform and collects the blobs.

use super::blob::SMALL;
use super::node::{Gathered, ImageContent, ManifestNode, NodeKind};
use super::oci_media_types;
use super::options::{IndexMode, MediaTypes, MissingPlatform};
use super::platforms::Platforms;
use super::stats::ImageStats;
use super::{Engine, Image, PinnedContent};
use crate::content::{Place, Sink, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::{ImageManifest, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Index, Manifest, Platform, PlatformSet, RawManifest, Reference};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The maximum number of manifests of one image.
const MAX_MANIFESTS: usize = 2000;
/// The maximum size of one image's manifests together, in bytes: all are held in memory until it is published.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;
/// The maximum size of configurations that are kept in memory from an image's planning to its writing, in bytes.
const MAX_KEPT_CONFIGS: u64 = 8 << 20;

/// A manifest that was read from the sink or the source.
pub(super) struct FetchedManifest {
    pub(super) raw: Arc<RawManifest>,
    /// Its parsed form, if verifying it took parsing it.
    says: Option<Manifest>,
}

/// The walk over one image's manifests, from the root down.
pub(crate) struct ImageWalk<'a, S, K: Sink> {
    pub(super) engine: &'a Engine<K>,
    pub(super) source: &'a S,
    pub(super) reference: &'a Reference,
    /// Where the image goes in the sink.
    pub(super) home: &'a Place,
    pub(super) pinned: Option<&'a PinnedContent>,
    /// Manifests that the sink already has, byte for byte.
    present: Mutex<HashSet<Digest>>,
    /// For pruning: the manifests that the tag in the sink reaches now.
    held: OnceCell<HashSet<Digest>>,
    pub(super) platforms: Platforms<'a>,
    pub(super) stats: &'a ImageStats,
    /// The number of manifests read so far, and their bytes.
    manifests_read: Mutex<(usize, u64)>,
    /// Held for the whole walk: a manifest that several indexes of the image name is requested once.
    read: Mutex<HashMap<Digest, Arc<RawManifest>>>,
    /// Bytes of configurations kept in memory.
    kept: Mutex<u64>,
    warnings: Mutex<Vec<String>>,
}

impl<'a, S: Source, K: Sink> ImageWalk<'a, S, K> {
    /// A walk over the manifests of `image`.
    pub(crate) fn new(
        engine: &'a Engine<K>,
        image: &'a Image<S>,
        platforms: &'a PlatformSet,
        stats: &'a ImageStats,
    ) -> Self {
        let (source, reference, home) = (&*image.source, &image.reference, &image.place);
        Self {
            engine,
            source,
            reference,
            home,
            pinned: image.pinned.as_deref(),
            present: Mutex::default(),
            held: OnceCell::new(),
            platforms: Platforms::new(reference, platforms)
                .accepting_any_root(reference.digest.is_some() && !engine.options.filter_pinned_manifests),
            stats,
            manifests_read: Mutex::default(),
            read: Mutex::default(),
            kept: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    pub(super) fn warn(&self, message: String) {
        self.warnings.lock().push(message);
    }

    /// Reads the manifests from the root `digest` down and selects by platform. `known` is the root, if it was fetched already.
    ///
    /// If none of the requested platforms exists, and that is allowed, the content is empty.
    pub(crate) async fn content(&self, digest: Digest, known: Option<RawManifest>) -> Result<ImageContent> {
        let found = match known {
            Some(raw) => FetchedManifest { raw: Arc::new(raw), says: None },
            None => self.manifest(digest).await?,
        };
        let root = self.node(found, Vec::new(), 0).await?;
        let mut selected = Vec::new();
        let artifacts = root.as_ref().is_some_and(|root| root.platforms(&mut selected));
        if let Some(ManifestNode { kind: NodeKind::Index(index), .. }) = &root
            && self.engine.options.sparse
            && selected.is_empty()
            && !artifacts
            && let Some(error) = self.platforms.nothing_held(index)
        {
            return Err(error);
        }
        let is_image = matches!(&root, Some(ManifestNode { kind: NodeKind::Image { .. }, .. }));
        let missing = if is_image && self.platforms.accepts_any_root {
            Vec::new()
        } else {
            self.platforms.missing(&selected, artifacts)
        };
        if !missing.is_empty() && self.engine.options.missing_platform == MissingPlatform::Fail {
            return Err(self.platforms.not_found(missing));
        }
        let mut content = ImageContent { missing, ..ImageContent::default() };
        if let Some(root) = &root
            && self.engine.options.index == IndexMode::Keep
        {
            root.omitted(&mut content.omitted);
        }
        if let Some(root) = root.filter(|_| artifacts || !selected.is_empty() || content.missing.is_empty()) {
            let mut seen = Gathered::default();
            let source = root.raw.clone();
            self.shape(root)?.gather(&mut content, &mut seen, self.engine.options.foreign_layers);
            self.name_subjects(&mut content, source);
        }
        content.warnings = std::mem::take(&mut self.warnings.lock());
        if self.engine.options.media_types == MediaTypes::Oci {
            content.manifests = oci_media_types::rewrite(content.manifests)?;
        }
        if content.manifests.last().map(|root| root.digest) == content.subjects.first().copied() {
            content.source_root = None;
        }
        content.present = self.take_present();
        Ok(content)
    }

    /// The manifests that the sink was found to have since the last call.
    pub(super) fn take_present(&self) -> HashSet<Digest> {
        std::mem::take(&mut self.present.lock())
    }

    /// Records whose referrers belong to the image: the root at the source, and what was selected below it. A manifest that was
    /// rewritten is unknown there.
    fn name_subjects(&self, content: &mut ImageContent, source: Arc<RawManifest>) {
        let read = self.read.lock();
        let below = content.manifests.iter().rev().map(|raw| raw.digest);
        let below = below.filter(|digest| *digest != source.digest && read.contains_key(digest));
        content.subjects = std::iter::once(source.digest).chain(below).collect();
        content.source_root = Some(source);
    }

    /// Counts a manifest, so that a hostile index ends the walk before it fills the memory.
    fn count(&self, raw: &RawManifest) -> Result<()> {
        let mut manifests_read = self.manifests_read.lock();
        *manifests_read = (manifests_read.0 + 1, manifests_read.1 + raw.bytes.len() as u64);
        if manifests_read.0 <= MAX_MANIFESTS && manifests_read.1 <= MAX_MANIFEST_BYTES {
            return Ok(());
        }
        let many = format!(
            "the image has more than {MAX_MANIFESTS} manifests, or more than {MAX_MANIFEST_BYTES} bytes of them"
        );
        Err(Error::new(ErrorKind::Unsupported, self.reference, many))
    }

    /// The manifests present in the sink that the index names which the tag has there now.
    async fn tagged_entries(&self) -> Result<HashSet<Digest>> {
        let sink = &self.engine.sink;
        let mut entries = HashSet::new();
        let Place { repository, tag: Some(tag) } = self.home else { return Ok(entries) };
        let Some(root) = sink.tag(repository, tag).await? else { return Ok(entries) };
        let Some(bytes) = sink.content(&root, MAX_MANIFEST_SIZE).await? else { return Ok(entries) };
        if let Ok(Some((_, Manifest::Index(index)))) = RawManifest::verified(bytes, root) {
            for entry in index.manifests {
                if sink.is_revision(repository, &entry.digest).await? {
                    entries.insert(entry.digest);
                }
            }
        }
        Ok(entries)
    }

    /// Reads the manifest `digest` from the sink if it has it, else from the source; verified either way.
    pub(super) async fn manifest(&self, digest: Digest) -> Result<FetchedManifest> {
        let mut says = None;
        let fetch = async {
            let found = self.engine.sink.content(&digest, MAX_MANIFEST_SIZE).await?;
            if let Some(Ok(Some((raw, manifest)))) = found.map(|bytes| RawManifest::verified(bytes, digest)) {
                says = Some(manifest);
                self.present.lock().insert(digest);
                return Ok(raw);
            }
            let repository = &self.reference.repository;
            let fetched = self
                .engine
                .attempt(self.stats, &digest, || async move {
                    let raw = self.source.manifest(repository, &Target::Digest(digest)).await?;
                    if raw.digest == digest {
                        return Ok(raw);
                    }
                    self.source.report_corrupt(repository, &digest);
                    let wrong = format!("the source sent a manifest with digest {}", raw.digest);
                    Err(Error::new(ErrorKind::Corrupt, digest, wrong).on(Side::Source))
                })
                .await?;
            self.engine.count_read(self.stats, fetched.bytes.len());
            Ok(fetched)
        };
        let raw = self.engine.manifests.get(digest, fetch).await?;
        self.read.lock().insert(digest, raw.clone());
        Ok(FetchedManifest { raw, says })
    }

    /// Reads a manifest and what is selected below it; `None` for an image of a platform that was not requested.
    fn node(
        &self,
        found: FetchedManifest,
        entries: Vec<Descriptor>,
        depth: usize,
    ) -> BoxFuture<'_, Result<Option<ManifestNode>>> {
        async move {
            let FetchedManifest { raw, says } = found;
            self.count(&raw)?;
            if let Some(entry) = entries.iter().find(|entry| entry.size != raw.bytes.len() as u64) {
                let wrong =
                    format!("the index announces {} bytes, but it has {}", entry.size, raw.bytes.len());
                return Err(Error::new(ErrorKind::Corrupt, format!("manifest {}", raw.digest), wrong)
                    .on(Side::Source));
            }
            match says.map_or_else(|| raw.parse(), Ok)? {
                Manifest::Index(index) => {
                    let children = self.children(&index, depth).await?;
                    Ok(Some(ManifestNode { raw, kind: NodeKind::Index(index), children, entries }))
                }
                Manifest::Image(manifest) => self.image(raw, manifest, entries).await,
            }
        }
        .boxed()
    }

    async fn children(&self, index: &Index, depth: usize) -> Result<Vec<ManifestNode>> {
        if depth >= MAX_INDEX_DEPTH {
            let deep = format!("indexes are nested more than {MAX_INDEX_DEPTH} levels deep");
            return Err(Error::new(ErrorKind::Unsupported, self.reference, deep));
        }
        if index.manifests.len() > MAX_MANIFESTS {
            let many = format!("the index has more than {MAX_MANIFESTS} entries");
            return Err(Error::new(ErrorKind::Unsupported, self.reference, many));
        }
        let grouped = self.choose(index).await?;
        let nodes = grouped.into_iter().map(|entries| async move {
            let found = match self.manifest(entries[0].digest).await {
                Err(error) if self.engine.options.sparse && error.kind() == ErrorKind::NotFound => {
                    return Ok(None);
                }
                // Mirrors often lack attestations, and the image runs without them.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && entries.iter().all(Descriptor::is_attestation) =>
                {
                    self.warn(format!(
                        "attestation {} not found: Docker 29.1 and later cannot pull this image (--index prune removes it from the index)",
                        entries[0].digest.short()
                    ));
                    return Ok(None);
                }
                found => found?,
            };
            self.platforms.offer_all(&entries);
            self.node(found, entries, depth + 1).await.map(Some)
        });
        let held: Vec<Option<ManifestNode>> = try_join_all(nodes).await?.into_iter().flatten().collect();
        if self.engine.options.sparse && held.is_empty() {
            self.offer_held(index).await;
        }
        Ok(held.into_iter().flatten().collect())
    }

    /// Records the platforms of a sparse index that are present.
    async fn offer_held(&self, index: &Index) {
        for entry in &index.manifests {
            if self.manifest(entry.digest).await.is_ok() {
                self.platforms.offer_all(std::slice::from_ref(entry));
            }
        }
    }

    /// Selects entries of an index, and groups those that name the same manifest.
    async fn choose(&self, index: &Index) -> Result<Vec<Vec<Descriptor>>> {
        if !self.engine.options.sparse {
            self.platforms.offer_all(&index.manifests);
        }
        if let Some(entry) = self.platforms.wanted.unsupported(index) {
            let platform = entry.platform.as_ref().map(|platform| format!("manifest for {platform}: "));
            let message = format!("{}{}", platform.unwrap_or_default(), entry.error);
            return Err(Error::new(ErrorKind::Unsupported, self.reference, message).on(Side::Source));
        }
        let mut chosen = self.platforms.wanted.choose(&index.manifests);
        if self.engine.options.attestations {
            let images: HashSet<Digest> = chosen.iter().map(|entry| entry.digest).collect();
            let is_wanted = |entry: &&Descriptor| {
                let describes_one = || entry.attestation_of().is_some_and(|image| images.contains(&image));
                entry.is_attestation() && (*self.platforms.wanted == PlatformSet::All || describes_one())
            };
            chosen.extend(index.manifests.iter().filter(is_wanted));
        }
        if self.engine.options.index == IndexMode::Prune {
            // What an earlier run saved under this tag stays part of it.
            let held = self.held.get_or_try_init(|| self.tagged_entries()).await?;
            for entry in index.manifests.iter().filter(|entry| held.contains(&entry.digest)) {
                if !chosen.iter().any(|taken| std::ptr::eq(*taken, entry)) {
                    chosen.push(entry);
                }
            }
            let order =
                |entry: &&Descriptor| index.manifests.iter().position(|other| other.digest == entry.digest);
            chosen.sort_by_key(order);
        }
        // Platforms may share a manifest: it is read once and keeps all its entries.
        let mut grouped: Vec<Vec<Descriptor>> = Vec::new();
        let mut places = HashMap::new();
        for entry in chosen {
            let place = *places.entry(entry.digest).or_insert(grouped.len());
            if place == grouped.len() {
                grouped.push(Vec::new());
            }
            grouped[place].push(entry.clone());
        }
        Ok(grouped)
    }

    /// Reads an image or artifact manifest. If its index does not name its platform, its configuration may.
    async fn image(
        &self,
        raw: Arc<RawManifest>,
        manifest: Box<ImageManifest>,
        mut entries: Vec<Descriptor>,
    ) -> Result<Option<ManifestNode>> {
        let known = |entry: &Descriptor| {
            entry.platform.clone().filter(|platform| !platform.is_unknown() && !entry.is_attestation())
        };
        let unsaid = |entry: &Descriptor| known(entry).is_none() && !entry.is_attestation();
        let mut platforms: Vec<Platform> = entries.iter().filter_map(known).collect();
        let mut config = None;
        if manifest.is_image() && (entries.is_empty() || entries.iter().any(unsaid)) {
            let bytes = self.config(&manifest.config).await?;
            let own = ImageConfig::platform_of(&bytes)?;
            if let Some(own) = &own {
                self.platforms.offer(own);
            }
            // What names no platform is not filtered by platform: signatures, models, images built without a base.
            if own.as_ref().is_none_or(|own| self.platforms.wanted.accepts(own))
                || (entries.is_empty() && self.platforms.accepts_any_root)
            {
                platforms.extend(own);
                config = self.worth_keeping(&bytes).then_some((manifest.config.digest, bytes));
            } else {
                entries.retain(|entry| !unsaid(entry));
                if entries.is_empty() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(ManifestNode {
            raw,
            kind: NodeKind::Image { manifest, platforms, config },
            children: Vec::new(),
            entries,
        }))
    }

    /// Whether a configuration stays in memory until it is written. Large ones are downloaded to a file anyway, and thousands
    /// of them must not fill the memory.
    fn worth_keeping(&self, config: &Bytes) -> bool {
        let length = config.len() as u64;
        let mut kept = self.kept.lock();
        let keep = length <= SMALL && *kept + length <= MAX_KEPT_CONFIGS;
        *kept += if keep { length } else { 0 };
        keep
    }

    /// Reads an image's configuration from the sink if it has it, else from the source; verified.
    async fn config(&self, config: &Descriptor) -> Result<Arc<Bytes>> {
        if config.size > MAX_CONFIG_SIZE {
            let large = format!(
                "the configuration has {} bytes, more than the limit of {MAX_CONFIG_SIZE}",
                config.size
            );
            return Err(Error::new(ErrorKind::Unsupported, config.digest, large));
        }
        let read = async {
            let found = self.engine.sink.content(&config.digest, MAX_CONFIG_SIZE).await?;
            match found.filter(|bytes| Digest::of(bytes) == config.digest) {
                Some(bytes) => Ok(bytes),
                None => self.engine.small_blob(self.source, self.reference, config, self.stats).await,
            }
        };
        self.engine.configs.get(config.digest, read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Place;
    use crate::content::memory::Memory;
    use crate::transfer::{Image, Silent, TransferOptions};
    use tokio_util::sync::CancellationToken;

    fn index(below: &[RawManifest]) -> RawManifest {
        let entries: Vec<String> = below
            .iter()
            .map(|raw| format!(r#"{{"digest":"{}","size":{}}}"#, raw.digest, raw.bytes.len()))
            .collect();
        let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        RawManifest::new(json.into(), None).unwrap()
    }

    #[tokio::test]
    async fn hostile_index_is_refused_before_it_fills_memory() {
        let empty = Digest::of(b"");
        let artifact = |number: usize| {
            let json = format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{empty}","size":0}},"layers":[],"annotations":{{"n":"{number}"}}}}"#
            );
            RawManifest::new(json.into(), None).unwrap()
        };
        let (source, sink) = (Memory::new(), Memory::new());
        let repository: crate::oci::Repository = "a/b".parse().unwrap();
        let mut halves = Vec::new();
        for half in [0, MAX_MANIFESTS] {
            let below: Vec<RawManifest> = (half..half + MAX_MANIFESTS / 2 + 1).map(artifact).collect();
            below.iter().for_each(|raw| source.insert_manifest(&repository, None, raw));
            halves.push(index(&below));
        }
        halves.iter().for_each(|raw| source.insert_manifest(&repository, None, raw));
        let tag: crate::oci::Tag = "v1".parse().unwrap();
        source.insert_manifest(&repository, Some(&tag), &index(&halves));
        let engine =
            Engine::new(Arc::new(sink.clone()), TransferOptions::default(), Arc::new(Silent)).unwrap();
        let image = Image {
            source: Arc::new(source),
            reference: Reference::parse("r.io/a/b:v1").unwrap(),
            platforms: None,
            place: Place { repository, tag: Some(tag) },
            alias: None,
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        };
        let report = Arc::new(engine).run(vec![image], &CancellationToken::new()).await;
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{}", error.message);
        assert!(error.message.contains("manifests, or"), "{}", error.message);
        assert!(sink.contents().tags.is_empty());
    }

    #[test]
    fn large_or_many_configs_are_not_kept_in_memory() {
        let engine =
            Engine::new(Arc::new(Memory::new()), TransferOptions::default(), Arc::new(Silent)).unwrap();
        let image = Image {
            source: Arc::new(Memory::new()),
            reference: Reference::parse("r.io/a:v1").unwrap(),
            platforms: None,
            place: Place { repository: "a".parse().unwrap(), tag: None },
            alias: None,
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        };
        let stats = ImageStats::new(Arc::new(crate::transfer::scheduler::Lane::new(1)));
        let walk = ImageWalk::new(&engine, &image, &PlatformSet::All, &stats);
        assert!(!walk.worth_keeping(&Bytes::from(vec![0; SMALL as usize + 1])));
        let small = Bytes::from(vec![0; SMALL as usize]);
        let kept = (0..MAX_MANIFESTS).filter(|_| walk.worth_keeping(&small)).count() as u64;
        assert_eq!(kept * SMALL, MAX_KEPT_CONFIGS);
    }

    #[tokio::test]
    async fn sparse_index_is_transferred_as_far_as_present() {
        let repository: crate::oci::Repository = "a".parse().unwrap();
        let tag: crate::oci::Tag = "v1".parse().unwrap();
        let image = |number: usize| {
            let empty = Digest::of(b"");
            let json = format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{empty}","size":0}},"layers":[],"annotations":{{"n":"{number}"}}}}"#
            );
            RawManifest::new(json.into(), None).unwrap()
        };
        let all = [image(0), image(1)];
        for (held, sparse, expect) in
            [(1, true, None), (0, true, Some(ErrorKind::NotFound)), (1, false, Some(ErrorKind::NotFound))]
        {
            let (source, sink) = (Memory::new(), Memory::new());
            all.iter().take(held).for_each(|raw| source.insert_manifest(&repository, None, raw));
            source.insert_manifest(&repository, Some(&tag), &index(&all));
            source.insert_blob(&repository, Bytes::new());
            let options = TransferOptions { sparse, ..TransferOptions::default() };
            let engine = Engine::new(Arc::new(sink.clone()), options, Arc::new(Silent)).unwrap();
            let image = Image {
                source: Arc::new(source),
                reference: Reference::parse("r.io/a:v1").unwrap(),
                platforms: None,
                place: Place { repository: repository.clone(), tag: Some(tag.clone()) },
                alias: None,
                resolved: None,
                pinned: None,
                origin: None,
                warnings: Vec::new(),
            };
            let report = Arc::new(engine).run(vec![image], &CancellationToken::new()).await;
            let error = report.images[0].error.as_ref().map(|error| error.kind);
            assert_eq!(error, expect, "{held} held, sparse: {sparse}");
            assert_eq!(sink.contents().tags.len(), usize::from(expect.is_none()));
        }
    }
}
