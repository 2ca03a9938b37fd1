//! Transfers images, many at a time, each from its name to its tag.

use super::event::Event;
use super::graph::ImageWalk;
use super::node::ImageContent;
use super::referrers::ReferrerSearch;
use super::report::{ImageReport, Report, Status};
use super::scheduler::{self, ImageSlot};
use super::stats::{ImageStats, sum};
use super::stop::Stop;
use super::{Engine, Image, elapsed_seconds};
use crate::content::{ImageOrigin, Place, Publication, Sink, Source};
use crate::error::{Error, ErrorReport, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference, Repository, Tag};
use bytes::Bytes;
use futures::FutureExt;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// How often an image is resolved again because its tag moves while it is read.
const MAX_MOVES: usize = 3;

/// What an image needs, compared with the sink.
pub(super) struct PreparedImage {
    pub(super) root: Digest,
    pub(super) source_digest: Digest,
    /// The digest that the tag has in the sink now, if that is another one.
    replaced: Option<Digest>,
    pub(super) content: ImageContent,
    pub(super) places: Vec<Place>,
    /// Blobs that the sink lacks, each with the repository that needs it.
    lacking: Vec<(Repository, Descriptor)>,
    /// The bytes of these that no other image of the run was the first to need.
    pub(super) fetch_bytes: u64,
    /// The number of such blobs.
    pub(super) fetch_blobs: u64,
    pub(super) reuse_bytes: u64,
    /// The blobs that these bytes are, and their sizes.
    reused: Vec<(Digest, u64)>,
    pub(super) unchanged: bool,
}

/// The result of planning an image.
pub(super) enum Preparation {
    Ready(Box<PreparedImage>),
    /// The image is skipped, for this reason.
    Skip(Error),
}

/// The result of an image that did not fail.
enum Outcome {
    Done(Box<PreparedImage>, Status),
    Skipped(Error),
}

impl<K: Sink> Engine<K> {
    /// Transfers `images`, many at a time. A failed image is an entry of the report; the others continue. `cancel` ends the run
    /// early: complete images stay, and the next run resumes partial blobs.
    pub async fn run<S: Source>(
        self: &Arc<Self>,
        images: Vec<Image<S>>,
        cancel: &CancellationToken,
    ) -> Report {
        let started = Instant::now();
        self.observer.event(&Event::RunStarted { images: images.len() });
        let stop = Arc::new(Stop::new(cancel, self.options.fail_fast));
        let (engine, shared) = (self.clone(), stop.clone());
        let work = move |image, slot| {
            let (engine, stop) = (engine.clone(), shared.clone());
            async move { engine.copy(image, &stop, slot).await }
        };
        let done = scheduler::each(self.jobs(), images, work).await;
        let (images, reused): (Vec<ImageReport>, Vec<_>) = done.into_iter().unzip();
        // What several images share counts once.
        let reused: HashMap<Digest, u64> = reused.into_iter().flatten().collect();
        // A cancellation that came too late to stop any image is not reported.
        let is_whole = images.iter().all(|image| image.status != Status::Failed);
        let aborted = stop.cause(cancel).filter(|_| !is_whole);
        Report {
            schema: Report::SCHEMA,
            bytes_fetched: sum(images.iter().map(|image| image.bytes_fetched)),
            bytes_reused: sum(reused.into_values()),
            images,
            seconds: elapsed_seconds(started),
            aborted: aborted.map(|error| ErrorReport::from(&error)),
        }
    }

    /// Transfers one image. Returns its row, and the blobs that it reused with their sizes.
    async fn copy<S: Source>(
        &self,
        image: Image<S>,
        stop: &Stop,
        slot: ImageSlot,
    ) -> (ImageReport, Vec<(Digest, u64)>) {
        let started = Instant::now();
        let stats = ImageStats::new(slot.lane);
        let mut warnings = image.warnings.clone();
        let work = async {
            let work = self.copy_one(&image, &stats, &mut warnings, stop, slot.in_hand);
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(result) => result,
                Err(_) => Err(Error::internal(&image.reference)),
            }
        };
        let mut result = work.await;
        let reused = match &mut result {
            Ok(Outcome::Done(prepared, _)) => std::mem::take(&mut prepared.reused),
            Ok(Outcome::Skipped(_)) => Vec::new(),
            Err(error) => {
                stop.record_failure(&image.reference, error);
                Vec::new()
            }
        };
        let row = row(image, result, &stats, warnings, elapsed_seconds(started));
        for message in &row.warnings {
            self.observer.event(&Event::Warning { reference: Some(&row.reference), message });
        }
        self.observer.event(&Event::ImageFinished { image: &row });
        (row, reused)
    }

    /// Everything before publication can be cancelled at any point; publication into a tree is always completed.
    async fn copy_one<S: Source>(
        &self,
        image: &Image<S>,
        stats: &ImageStats,
        warnings: &mut Vec<String>,
        stop: &Stop,
        in_hand: OwnedSemaphorePermit,
    ) -> Result<Outcome> {
        let fetch = async {
            let preparation = self.prepare(image, stats, warnings).await?;
            if let Preparation::Ready(prepared) = &preparation {
                if !prepared.unchanged {
                    self.sink.preflight(&self.publication(image, prepared)).await?;
                }
                self.fetch_all(image, prepared, stats).await?;
            }
            Ok::<_, Error>(preparation)
        };
        let prepared = tokio::select! {
            biased;
            () = stop.token.cancelled() => return Err(stop.cancelled(&image.reference)),
            fetched = fetch => match fetched? {
                Preparation::Ready(prepared) => prepared,
                Preparation::Skip(why) => return Ok(Outcome::Skipped(why)),
            },
        };
        drop(in_hand);
        let publication = self.publication(image, &prepared);
        if prepared.unchanged {
            self.sink.record_origin(&publication).await?;
            return Ok(Outcome::Done(prepared, Status::Unchanged));
        }
        let published = self.attempt(stats, &image.reference, || self.sink.publish(publication.clone()));
        if K::SHARES_BLOBS_ACROSS_REPOSITORIES {
            published.await?;
        } else {
            // A registry may respond slowly, or need retries; what it has so far is consistent at any point.
            tokio::select! {
                biased;
                () = stop.token.cancelled() => return Err(stop.cancelled(&image.reference)),
                done = published => done?,
            }
        }
        Ok(Outcome::Done(prepared, self.verb.done()))
    }

    /// What to publish for an image.
    pub(super) fn publication<S>(&self, image: &Image<S>, prepared: &PreparedImage) -> Publication {
        let origin = image.origin.as_ref().map(|reference| ImageOrigin {
            reference: reference.clone(),
            digest: prepared.source_digest,
            platforms: names(&prepared.content),
            index: self.options.index.as_str(),
        });
        Publication {
            places: prepared.places.clone(),
            manifests: prepared.content.manifests.clone(),
            blobs: prepared.content.blobs.iter().map(|blob| blob.digest).collect(),
            referrers: prepared.content.referrers.clone(),
            origin,
        }
    }

    /// Resolves an image, selects its content and compares it with the sink.
    pub(super) async fn prepare<S: Source>(
        &self,
        image: &Image<S>,
        stats: &ImageStats,
        warnings: &mut Vec<String>,
    ) -> Result<Preparation> {
        let (mut source_digest, known) = self.resolve(image, stats, warnings).await?;
        let platforms = image.platforms.as_ref().unwrap_or(&self.options.platforms);
        let mut walk = ImageWalk::new(self, image, platforms, stats);
        // Requested together with the manifests, so that it takes no more time than they do.
        let first = async { Ok(self.first_referrers(image, source_digest, stats).await) };
        let found = futures::future::try_join(walk.content(source_digest, known), first).await;
        let (mut found, first) = match found {
            Ok((content, first)) => (Ok(content), first),
            Err(error) => (Err(error), None),
        };
        for _ in 0..MAX_MOVES {
            let Err(error) = &found else { break };
            let Some(moved) = self.moved(image, source_digest, error, stats).await else { break };
            source_digest = moved.digest;
            walk = ImageWalk::new(self, image, platforms, stats);
            found = walk.content(source_digest, moved.manifest).await;
        }
        let mut content = found?;
        if let Some(pinned) = &image.pinned {
            pinned.check(&image.reference, &content)?;
        }
        if !content.missing.is_empty() {
            let missing = walk.platforms.not_found(content.missing.clone());
            if content.manifests.is_empty() {
                return Ok(Preparation::Skip(missing));
            }
            warnings.push(missing.message().to_owned());
        }
        let signatures = walk.check_signatures(source_digest, &content, first.as_ref()).await?;
        content.configs.extend(signatures);
        let root = content.manifests.last().map_or(source_digest, |manifest| manifest.digest);
        let places = self.places(image, root, stats, warnings).await?;
        let referrers = ReferrerSearch::new(&walk, &content, root).find(first).await?;
        content.attach(referrers, walk.take_present());
        self.compare(&image.reference, root, source_digest, content, places, stats)
            .await
            .map(|prepared| Preparation::Ready(Box::new(prepared)))
    }

    /// Where the image goes: its place, and its short name unless that is another image's.
    async fn places<S>(
        &self,
        image: &Image<S>,
        root: Digest,
        stats: &ImageStats,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Place>> {
        let mut places = vec![image.place.clone()];
        let Some(alias) = &image.alias else { return Ok(places) };
        let free = match (&alias.tag, &image.place.tag) {
            (Some(short), Some(own)) => match self.tag(&alias.repository, short, stats).await? {
                None => true,
                Some(now) if now == root => true,
                Some(now) => self.sink.tag_has_named(&image.place.repository, own, &now).await?,
            },
            _ => true,
        };
        if free {
            places.push(alias.clone());
        } else {
            warnings.push(format!(
                "{alias} is another image in the directory and was not changed; this one is only {}",
                image.place
            ));
        }
        Ok(places)
    }

    /// The digest that the tag has in the sink.
    pub(super) async fn tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        stats: &ImageStats,
    ) -> Result<Option<Digest>> {
        self.attempt(stats, repository, || self.sink.tag(repository, tag)).await
    }

    async fn compare(
        &self,
        reference: &Reference,
        root: Digest,
        source_digest: Digest,
        content: ImageContent,
        places: Vec<Place>,
        stats: &ImageStats,
    ) -> Result<PreparedImage> {
        let (mut lacking, mut reused) = (Vec::new(), Vec::new());
        let (mut fetch_bytes, mut fetch_blobs) = (0, 0);
        for home in homes::<K>(&places) {
            for (blob, is_present) in
                content.blobs.iter().zip(self.which_are_present(home, &content, stats).await?)
            {
                if is_present {
                    reused.push((blob.digest, blob.size));
                    continue;
                }
                lacking.push((home.clone(), blob.clone()));
                if self.flight.claim(blob.digest) {
                    fetch_bytes = sum([fetch_bytes, blob.size]);
                    fetch_blobs += 1;
                } else {
                    reused.push((blob.digest, blob.size));
                }
            }
        }
        let reuse_bytes = sum(reused.iter().map(|(_, size)| *size));
        let mut tags = Vec::with_capacity(places.len());
        for place in &places {
            tags.push(match &place.tag {
                Some(tag) => self.tag(&place.repository, tag, stats).await?,
                None => None,
            });
        }
        let tagged = places.iter().zip(&tags).all(|(place, now)| place.tag.is_none() || *now == Some(root));
        let unchanged = lacking.is_empty()
            && tagged
            && self.is_published(&content, &places, stats).await?
            && self.are_referrers_listed(&content.referrers, &places, stats).await?;
        let omitted: Vec<String> = content.omitted.iter().cloned().collect();
        self.observer.event(&Event::ImagePlanned { reference, fetch_bytes, reuse_bytes, omitted: &omitted });
        let replaced = tags.first().copied().flatten().filter(|now| *now != root);
        Ok(PreparedImage {
            root,
            source_digest,
            replaced,
            content,
            places,
            lacking,
            fetch_bytes,
            fetch_blobs,
            reuse_bytes,
            reused,
            unchanged,
        })
    }

    /// Whether `home` has each of the content's blobs, in their order.
    async fn which_are_present(
        &self,
        home: &Repository,
        content: &ImageContent,
        stats: &ImageStats,
    ) -> Result<Vec<bool>> {
        // A registry accepts a manifest only if it has all its blobs, so they need not be requested one by one.
        if !K::SHARES_BLOBS_ACROSS_REPOSITORIES && self.are_revisions(home, content, stats).await? {
            self.sink.assume_present(home, &content.blobs);
            return Ok(vec![true; content.blobs.len()]);
        }
        let asked = content.blobs.iter().map(|blob| async move {
            self.attempt(stats, &blob.digest, || self.sink.has_blob(home, blob)).await
        });
        futures::future::try_join_all(asked).await
    }

    /// Whether `home` has every manifest.
    async fn are_revisions(
        &self,
        home: &Repository,
        content: &ImageContent,
        stats: &ImageStats,
    ) -> Result<bool> {
        let asked = content.manifests.iter().map(|manifest| async move {
            let digest = &manifest.digest;
            self.attempt(stats, digest, || self.sink.is_revision(home, digest)).await
        });
        Ok(futures::future::try_join_all(asked).await?.into_iter().all(|is_present| is_present))
    }

    /// Whether all revisions and links exist and all manifests have the right bytes.
    async fn is_published(
        &self,
        content: &ImageContent,
        places: &[Place],
        stats: &ImageStats,
    ) -> Result<bool> {
        let read_back = |manifest: &&Arc<RawManifest>| {
            K::SHARES_BLOBS_ACROSS_REPOSITORIES && !content.present.contains(&manifest.digest)
        };
        for manifest in content.manifests.iter().filter(read_back) {
            let found = self.sink.content(&manifest.digest, manifest.bytes.len() as u64).await?;
            if found.as_ref() != Some(&manifest.bytes) {
                return Ok(false);
            }
        }
        for Place { repository, .. } in places {
            if !self.are_revisions(repository, content, stats).await? {
                return Ok(false);
            }
            for blob in content.blobs.iter().filter(|_| K::SHARES_BLOBS_ACROSS_REPOSITORIES) {
                if !self.sink.is_linked(repository, &blob.digest).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Downloads every blob that the sink lacks, largest first; semaphores bound how many at a time.
    async fn fetch_all<S: Source>(
        &self,
        image: &Image<S>,
        prepared: &PreparedImage,
        stats: &ImageStats,
    ) -> Result<()> {
        let configs = prepared.content.configs.iter();
        let ready: HashMap<Digest, Bytes> =
            configs.map(|(digest, bytes)| (*digest, Bytes::clone(bytes))).collect();
        let mut lacking: Vec<&(Repository, Descriptor)> = prepared.lacking.iter().collect();
        lacking.sort_by_key(|(_, blob)| Reverse(blob.size));
        let blobs = lacking.into_iter().map(|(home, blob)| {
            let ready = ready.get(&blob.digest).cloned();
            self.bring(&*image.source, &image.reference, home, blob, ready, stats)
        });
        futures::future::try_join_all(blobs).await.map(drop)
    }
}

/// The repositories that each need their own copy of a blob: only the first where the sink shares blobs.
fn homes<K: Sink>(places: &[Place]) -> Vec<&Repository> {
    let mut homes: Vec<&Repository> = Vec::new();
    for place in places {
        if homes.is_empty() || (!K::SHARES_BLOBS_ACROSS_REPOSITORIES && !homes.contains(&&place.repository)) {
            homes.push(&place.repository);
        }
    }
    homes
}

pub(super) fn names(content: &ImageContent) -> Vec<String> {
    content.platforms.iter().map(ToString::to_string).collect()
}

fn row<S>(
    image: Image<S>,
    result: Result<Outcome>,
    stats: &ImageStats,
    warnings: Vec<String>,
    seconds: f64,
) -> ImageReport {
    let mut row = ImageReport {
        reference: image.reference,
        status: Status::Failed,
        repository: image.place.repository,
        tag: image.place.tag,
        digest: None,
        source_digest: None,
        replaced: None,
        platforms: Vec::new(),
        manifests: Vec::new(),
        omitted: Vec::new(),
        referrers: Vec::new(),
        bytes_fetched: stats.bytes_fetched(),
        corrupt_chunks: stats.corrupt_chunks(),
        bytes_reused: 0,
        attempts: stats.attempts(),
        seconds,
        error: None,
        warnings: warnings.into_iter().chain(stats.warnings()).collect(),
    };
    match result {
        Ok(Outcome::Done(prepared, status)) => {
            row.status = status;
            row.digest = Some(prepared.root);
            row.source_digest = (prepared.source_digest != prepared.root).then_some(prepared.source_digest);
            row.replaced = prepared.replaced;
            row.platforms = names(&prepared.content);
            row.manifests = prepared.content.images.clone();
            row.omitted = prepared.content.omitted.iter().cloned().collect();
            row.warnings.extend(prepared.content.warnings.iter().cloned());
            row.referrers = prepared.content.referrer_rows.clone();
            row.bytes_reused = prepared.reuse_bytes;
        }
        Ok(Outcome::Skipped(why)) => {
            (row.status, row.error) = (Status::Skipped, Some(ErrorReport::from(&why)))
        }
        Err(error) => row.error = Some(ErrorReport::from(&error)),
    }
    row
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_that_overflow_saturate() {
        assert_eq!(super::sum([3, 4]), 7);
        assert_eq!(super::sum([u64::MAX, 1, u64::MAX]), u64::MAX);
    }
}
