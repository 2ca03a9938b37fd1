//! One image from its name to its tag, and many of them side by side.

use super::event::Event;
use super::graph::Walk;
use super::node::Content;
use super::report::{ImageReport, Report, Status};
use super::scheduler::{self, Turn};
use super::stats::Tally;
use super::{Engine, Image, Resolution, lap};
use crate::content::{Place, Publication, Resolved, Sink, Source};
use crate::error::ErrorReport;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference, Repository, Tag};
use bytes::Bytes;
use futures::FutureExt;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// How often an image is resolved again because its tag moves while it is read.
const MAX_MOVES: usize = 3;

/// What an image needs and how it stands in the sink.
pub(super) struct Prepared {
    pub(super) root: Digest,
    source_digest: Digest,
    /// What the tag names in the sink now, where that is another digest.
    replaced: Option<Digest>,
    pub(super) content: Content,
    pub(super) places: Vec<Place>,
    /// Blobs that the sink lacks, each with the repository that it is wanted for.
    lacking: Vec<(Repository, Descriptor)>,
    /// Of these, the bytes that no other image of the run has claimed.
    pub(super) fetch_bytes: u64,
    /// How many blobs these are.
    pub(super) fetch_blobs: u64,
    pub(super) reuse_bytes: u64,
    pub(super) unchanged: bool,
}

/// What planning an image comes to.
pub(super) enum Preparation {
    Ready(Box<Prepared>),
    /// It is left out, and why.
    Skip(Error),
}

/// What became of an image that did not fail.
enum Outcome {
    Done(Box<Prepared>, Status),
    Skipped(Error),
}

impl<K: Sink> Engine<K> {
    /// Copies `images`, many at once. A failed image is a row in the report; the rest go on. `cancel` ends the run early and cleanly:
    /// what is complete stays, what is partial is gone on with by the next run.
    pub async fn run<S: Source>(
        self: &Arc<Self>,
        images: Vec<Image<S>>,
        cancel: &CancellationToken,
    ) -> Report {
        let started = Instant::now();
        self.observer.event(&Event::RunStarted { images: images.len() });
        let stop = Arc::new(Stop::new(cancel, self.options.fail_fast));
        let (engine, shared) = (self.clone(), stop.clone());
        let work = move |image, turn| {
            let (engine, stop) = (engine.clone(), shared.clone());
            async move { engine.copy(image, &stop, turn).await }
        };
        let images = scheduler::each(self.jobs(), images, work).await;
        // What came too late to keep any image from its end has ended nothing.
        let is_whole = images.iter().all(|image| image.status != Status::Failed);
        let aborted = stop.cause(cancel).filter(|_| !is_whole);
        Report {
            schema: Report::SCHEMA,
            bytes_fetched: sum(images.iter().map(|image| image.bytes_fetched)),
            bytes_reused: sum(images.iter().map(|image| image.bytes_reused)),
            images,
            seconds: lap(started),
            aborted: aborted.map(|error| ErrorReport::from(&error)),
        }
    }

    async fn copy<S: Source>(&self, image: Image<S>, stop: &Stop, turn: Turn) -> ImageReport {
        let started = Instant::now();
        let tally = Tally::new(turn.lane);
        let mut warnings = image.warnings.clone();
        let work = async {
            let work = self.copy_one(&image, &tally, &mut warnings, stop, turn.in_hand);
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(result) => result,
                Err(_) => Err(Error::internal(&image.reference)),
            }
        };
        let result = work.await;
        if let Err(error) = &result {
            stop.heed(&image.reference, error);
        }
        let row = row(image, result, &tally, warnings, lap(started));
        for message in &row.warnings {
            self.observer.event(&Event::Warning { reference: Some(&row.reference), message });
        }
        self.observer.event(&Event::ImageFinished { image: &row });
        row
    }

    /// Everything up to the tag can be given up at any moment; publishing into a tree is seen to its end.
    async fn copy_one<S: Source>(
        &self,
        image: &Image<S>,
        tally: &Tally,
        warnings: &mut Vec<String>,
        stop: &Stop,
        in_hand: OwnedSemaphorePermit,
    ) -> Result<Outcome> {
        let fetch = async {
            let preparation = self.prepare(image, tally, warnings).await?;
            if let Preparation::Ready(prepared) = &preparation {
                if !prepared.unchanged {
                    self.sink.preflight(&publication(prepared)).await?;
                }
                self.fetch_all(image, prepared, tally).await?;
            }
            Ok::<_, Error>(preparation)
        };
        let prepared = tokio::select! {
            biased;
            () = stop.token.cancelled() => return Err(stop.given_up(&image.reference)),
            fetched = fetch => match fetched? {
                Preparation::Ready(prepared) => prepared,
                Preparation::Skip(why) => return Ok(Outcome::Skipped(why)),
            },
        };
        drop(in_hand);
        if prepared.unchanged {
            return Ok(Outcome::Done(prepared, Status::Unchanged));
        }
        let publication = publication(&prepared);
        let publish = || self.sink.publish(publication.clone());
        let published = self.attempt(tally, &image.reference, publish);
        if K::SHARES_BLOBS_ACROSS_REPOSITORIES {
            published.await?;
        } else {
            // A registry may be slow, or asked again for long: and what it has of the image is whole at any moment.
            tokio::select! {
                biased;
                () = stop.token.cancelled() => return Err(stop.given_up(&image.reference)),
                done = published => done?,
            }
        }
        Ok(Outcome::Done(prepared, self.verb.done()))
    }

    /// Resolves and plans an image and compares it with the sink.
    pub(super) async fn prepare<S: Source>(
        &self,
        image: &Image<S>,
        tally: &Tally,
        warnings: &mut Vec<String>,
    ) -> Result<Preparation> {
        let (mut source_digest, known) = self.resolve(image, tally, warnings).await?;
        let platforms = image.platforms.as_ref().unwrap_or(&self.options.platforms);
        let mut walk = Walk::new(self, image, platforms, tally);
        let mut found = walk.content(source_digest, known).await;
        for _ in 0..MAX_MOVES {
            let Err(error) = &found else { break };
            let Some(moved) = self.moved(image, source_digest, error, tally).await else { break };
            source_digest = moved.digest;
            walk = Walk::new(self, image, platforms, tally);
            found = walk.content(source_digest, moved.manifest).await;
        }
        let content = found?;
        if !content.missing.is_empty() {
            let missing = walk.platforms.lacks(content.missing.clone());
            if content.manifests.is_empty() {
                return Ok(Preparation::Skip(missing));
            }
            warnings.push(missing.message().to_owned());
        }
        let root = content.manifests.last().map_or(source_digest, |manifest| manifest.digest);
        let places = self.places(image, root, tally, warnings).await?;
        self.compare(&image.reference, root, source_digest, content, places, tally)
            .await
            .map(|prepared| Preparation::Ready(Box::new(prepared)))
    }

    /// The digest to copy, and its manifest if finding that took fetching it.
    async fn resolve<S: Source>(
        &self,
        image: &Image<S>,
        tally: &Tally,
        warnings: &mut Vec<String>,
    ) -> Result<(Digest, Option<RawManifest>)> {
        let reference = &image.reference;
        let resolved = match &image.resolved {
            Some(Resolution::Known(resolved)) => Some(resolved.clone()?),
            Some(Resolution::Pending(resolved)) => resolved.clone().await?,
            None => None,
        };
        if let Some(resolved) = resolved {
            return Ok((resolved.digest, resolved.manifest));
        }
        let ask = || async {
            match &reference.tag {
                Some(tag) => image.source.resolve(&reference.repository, tag).await,
                None => Err(Error::new(ErrorKind::InvalidInput, reference, "neither tag nor digest")),
            }
        };
        let Some(pinned) = reference.digest else {
            let resolved = self.attempt(tally, reference, ask).await?;
            return Ok((resolved.digest, resolved.manifest));
        };
        // A pinned tag is only looked at to tell that it has moved: no failure of that matters.
        if let Some(tag) = &reference.tag {
            match ask().await {
                Ok(now) if now.digest != pinned => {
                    warnings.push(format!(
                        "the tag {tag} names {} at the registry now; saved as pinned",
                        now.digest
                    ));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    warnings.push(format!("the tag {tag} is gone at the registry; saved as pinned"));
                }
                _ => {}
            }
        }
        Ok((pinned, None))
    }

    /// What the tag names now, if `error` says that a manifest of `digest` is gone and the tag has moved since it was resolved:
    /// registries may delete what a tag no longer names at once.
    async fn moved<S: Source>(
        &self,
        image: &Image<S>,
        digest: Digest,
        error: &Error,
        tally: &Tally,
    ) -> Option<Resolved> {
        let Reference { repository, tag: Some(tag), digest: None, .. } = &image.reference else {
            return None;
        };
        if error.kind() != ErrorKind::NotFound || matches!(image.resolved, Some(Resolution::Known(_))) {
            return None;
        }
        let resolved = self.attempt(tally, &image.reference, || image.source.resolve(repository, tag)).await;
        resolved.ok().filter(|resolved| resolved.digest != digest)
    }

    /// Where the image goes: its own place, and its short name unless that is somebody else's.
    async fn places<S>(
        &self,
        image: &Image<S>,
        root: Digest,
        tally: &Tally,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Place>> {
        let mut places = vec![image.place.clone()];
        let Some(alias) = &image.alias else { return Ok(places) };
        let free = match (&alias.tag, &image.place.tag) {
            (Some(short), Some(own)) => match self.tag(&alias.repository, short, tally).await? {
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
                "{alias} is another image in the tree and stays so; this one is {} only",
                image.place
            ));
        }
        Ok(places)
    }

    /// What the tag names in the sink now.
    async fn tag(&self, repository: &Repository, tag: &Tag, tally: &Tally) -> Result<Option<Digest>> {
        self.attempt(tally, repository, || self.sink.tag(repository, tag)).await
    }

    async fn compare(
        &self,
        reference: &Reference,
        root: Digest,
        source_digest: Digest,
        content: Content,
        places: Vec<Place>,
        tally: &Tally,
    ) -> Result<Prepared> {
        let (mut lacking, mut fetch_bytes, mut fetch_blobs, mut reuse_bytes) = (Vec::new(), 0, 0, 0);
        for home in homes::<K>(&places) {
            for (blob, there) in content.blobs.iter().zip(self.which_are_there(home, &content, tally).await?)
            {
                if there {
                    reuse_bytes = sum([reuse_bytes, blob.size]);
                    continue;
                }
                lacking.push((home.clone(), blob.clone()));
                if self.flight.claim(blob.digest) {
                    fetch_bytes = sum([fetch_bytes, blob.size]);
                    fetch_blobs += 1;
                } else {
                    reuse_bytes = sum([reuse_bytes, blob.size]);
                }
            }
        }
        let mut tags = Vec::with_capacity(places.len());
        for place in &places {
            tags.push(match &place.tag {
                Some(tag) => self.tag(&place.repository, tag, tally).await?,
                None => None,
            });
        }
        let tagged = places.iter().zip(&tags).all(|(place, now)| place.tag.is_none() || *now == Some(root));
        let unchanged = lacking.is_empty() && tagged && self.is_published(&content, &places, tally).await?;
        self.observer.event(&Event::ImagePlanned { reference, fetch_bytes, reuse_bytes });
        let replaced = tags.first().copied().flatten().filter(|now| *now != root);
        Ok(Prepared {
            root,
            source_digest,
            replaced,
            content,
            places,
            lacking,
            fetch_bytes,
            fetch_blobs,
            reuse_bytes,
            unchanged,
        })
    }

    /// Which of the content's blobs `home` has, in their order.
    async fn which_are_there(
        &self,
        home: &Repository,
        content: &Content,
        tally: &Tally,
    ) -> Result<Vec<bool>> {
        // A registry takes no manifest whose blobs it has not: they need not be asked for one by one.
        if !K::SHARES_BLOBS_ACROSS_REPOSITORIES && self.are_revisions(home, content, tally).await? {
            self.sink.presume(home, &content.blobs);
            return Ok(vec![true; content.blobs.len()]);
        }
        let asked = content.blobs.iter().map(|blob| async move {
            self.attempt(tally, &blob.digest, || self.sink.has_blob(home, blob)).await
        });
        futures::future::try_join_all(asked).await
    }

    /// Whether `home` has every one of the manifests.
    async fn are_revisions(&self, home: &Repository, content: &Content, tally: &Tally) -> Result<bool> {
        let asked = content.manifests.iter().map(|manifest| async move {
            let digest = &manifest.digest;
            self.attempt(tally, digest, || self.sink.is_revision(home, digest)).await
        });
        Ok(futures::future::try_join_all(asked).await?.into_iter().all(|there| there))
    }

    /// Whether every revision and link is there already, and every manifest is what its digest says.
    async fn is_published(&self, content: &Content, places: &[Place], tally: &Tally) -> Result<bool> {
        let read_back = |manifest: &&Arc<RawManifest>| {
            K::SHARES_BLOBS_ACROSS_REPOSITORIES && !content.there.contains(&manifest.digest)
        };
        for manifest in content.manifests.iter().filter(read_back) {
            let found = self.sink.content(&manifest.digest, manifest.bytes.len() as u64).await?;
            if found.as_ref() != Some(&manifest.bytes) {
                return Ok(false);
            }
        }
        for Place { repository, .. } in places {
            if !self.are_revisions(repository, content, tally).await? {
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

    /// Brings every blob that the sink lacks, all at once, largest first; the slots bound how many move.
    async fn fetch_all<S: Source>(&self, image: &Image<S>, prepared: &Prepared, tally: &Tally) -> Result<()> {
        let ready: HashMap<Digest, Bytes> = prepared.content.configs.iter().cloned().collect();
        let mut lacking: Vec<&(Repository, Descriptor)> = prepared.lacking.iter().collect();
        lacking.sort_by_key(|(_, blob)| Reverse(blob.size));
        let blobs = lacking.into_iter().map(|(home, blob)| {
            let ready = ready.get(&blob.digest).cloned();
            self.bring(&*image.source, &image.reference, home, blob, ready, tally)
        });
        futures::future::try_join_all(blobs).await.map(drop)
    }
}

/// What is published of an image.
fn publication(prepared: &Prepared) -> Publication {
    Publication {
        places: prepared.places.clone(),
        manifests: prepared.content.manifests.clone(),
        blobs: prepared.content.blobs.iter().map(|blob| blob.digest).collect(),
    }
}

/// The repositories that must have the blobs each for itself: where content is shared, the first will do.
fn homes<K: Sink>(places: &[Place]) -> Vec<&Repository> {
    let mut homes: Vec<&Repository> = Vec::new();
    for place in places {
        if homes.is_empty() || (!K::SHARES_BLOBS_ACROSS_REPOSITORIES && !homes.contains(&&place.repository)) {
            homes.push(&place.repository);
        }
    }
    homes
}

/// Sizes are what manifests claim: their sum may be more than a number holds.
pub(super) fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

/// Ends a run early.
struct Stop {
    token: CancellationToken,
    fail_fast: bool,
    /// What ended it.
    cause: Mutex<Option<Error>>,
}

impl Stop {
    fn new(cancel: &CancellationToken, fail_fast: bool) -> Self {
        Self { token: cancel.child_token(), fail_fast, cause: Mutex::default() }
    }

    /// Ends the run if `error`, which was `reference`'s, ends more than its own image.
    fn heed(&self, reference: &Reference, error: &Error) {
        let cause = match error.kind() {
            // No other image can get past the sink's failure.
            ErrorKind::Storage => error.clone(),
            ErrorKind::Cancelled => return,
            _ if self.fail_fast => {
                error.clone().with_subject(reference).context("stopped at the first failure")
            }
            _ => return,
        };
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        self.token.cancel();
    }

    /// Why the run ended before its images did.
    fn cause(&self, cancel: &CancellationToken) -> Option<Error> {
        let own = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.or_else(|| {
            cancel.is_cancelled().then(|| Error::new(ErrorKind::Cancelled, "", "the run was interrupted"))
        })
    }

    fn given_up(&self, reference: &Reference) -> Error {
        Error::new(ErrorKind::Cancelled, reference, "the run ended before this image was saved")
    }
}

pub(super) fn names(content: &Content) -> Vec<String> {
    content.platforms.iter().map(ToString::to_string).collect()
}

fn row<S>(
    image: Image<S>,
    result: Result<Outcome>,
    tally: &Tally,
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
        omitted: Vec::new(),
        bytes_fetched: tally.bytes_fetched(),
        bytes_reused: 0,
        attempts: tally.attempts(),
        seconds,
        error: None,
        warnings: warnings.into_iter().chain(tally.warnings()).collect(),
    };
    match result {
        Ok(Outcome::Done(prepared, status)) => {
            row.status = status;
            row.digest = Some(prepared.root);
            row.source_digest = (prepared.source_digest != prepared.root).then_some(prepared.source_digest);
            row.replaced = prepared.replaced;
            row.platforms = names(&prepared.content);
            row.omitted = prepared.content.omitted.iter().cloned().collect();
            row.warnings.extend(prepared.content.warnings.iter().cloned());
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
    fn sizes_that_add_up_to_more_than_a_number_holds_do_no_harm() {
        assert_eq!(super::sum([3, 4]), 7);
        assert_eq!(super::sum([u64::MAX, 1, u64::MAX]), u64::MAX);
    }
}
