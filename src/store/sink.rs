//! The store as a destination for images.

use super::claims::ClaimResult;
use super::lock::holders;
use super::partial::StoreWriter;
use super::publish::{Change, StagedImage, any_in_progress, publisher_lost};
use super::{Store, StoreInner, link, path, storage};
use crate::content::{Ingest, Publication, PublishedReferrers, ReferrerList, Room, Sink};
use crate::driver::Stamp;
use crate::driver::resumable::ResumableFile;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use bytes::Bytes;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// First and longest pause between two attempts to open a file that another process is writing.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// How long to wait for another process before logging it.
const LOG_AFTER: Duration = Duration::from_secs(1);

/// Below this number of free inodes, images are published one by one, so that some of them complete.
const SCARCE_INODES: u64 = 4096;

/// When a partial file was written last, and its size.
type PartialState = (Stamp, Option<u64>);

/// Waiting for another process that has locked a file.
pub(super) struct PeerWait {
    /// What the other process is doing.
    activity: &'static str,
    pause: Duration,
    since: Instant,
    /// When the file last changed, and its state then.
    progress: Instant,
    state: Option<PartialState>,
}

impl PeerWait {
    pub(super) fn new(activity: &'static str) -> Self {
        let now = Instant::now();
        Self { activity, pause: POLL.0, since: now, progress: now, state: None }
    }
}

impl Store {
    /// Opens a blob for writing, as [`Sink::ingest`] does. Returns `None` if the tree has it.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) async fn writer(&self, digest: &Digest, size: u64) -> Result<Option<StoreWriter>> {
        let digest = *digest;
        if self.lookup(move |store| Ok(store.blob_size(&digest)? == Some(size))).await? {
            return Ok(None);
        }
        let claim = loop {
            // Subscribe before asking, so that no change is missed in between.
            let mut changed = std::pin::pin!(self.inner.claims.changed.notified());
            changed.as_mut().enable();
            match self.inner.claims.claim(&digest, size) {
                ClaimResult::Granted(claim) => break claim,
                ClaimResult::Committed => return Ok(None),
                ClaimResult::Busy => changed.await,
            }
        };
        let mut wait = PeerWait::new("is downloading the same blob");
        loop {
            match self.blocking(move |store| store.open_partial(&digest, size)).await? {
                OpenedPartial::Present => return Ok(None),
                OpenedPartial::Open(file) => {
                    let guard = self.inner.commit.open_writer()?;
                    return Ok(Some(StoreWriter::new(self.inner.clone(), claim, file, guard, size)));
                }
                OpenedPartial::Busy => self.wait_for_peer(&mut wait, &path::partial(&digest, size)).await?,
            }
        }
    }

    /// Pauses until the file that another process is writing should be tried again.
    pub(super) async fn wait_for_peer(&self, wait: &mut PeerWait, partial: &str) -> Result<()> {
        let path = partial.to_owned();
        let state = self.lookup(move |store| store.partial_state(&path)).await?;
        if wait.state != Some(state) {
            wait.state = Some(state);
            wait.progress = Instant::now();
        }
        let stalled = wait.progress.elapsed();
        if stalled >= self.inner.peer_timeout {
            let message = format!(
                "{} {} and has made no progress for {} s",
                self.peer(partial).await?,
                wait.activity,
                stalled.as_secs()
            );
            let hint = "wait until that process has ended, or end it, and run the same command again";
            return Err(Error::new(ErrorKind::Storage, self.inner.driver.location(partial), message)
                .with_hint(hint)
                .on(Side::Sink));
        }
        if wait.since.elapsed() >= LOG_AFTER && !self.inner.logged_wait.swap(true, Ordering::Relaxed) {
            let peer = self.peer(partial).await?;
            let tree = self.inner.driver.location("");
            let file = self.inner.driver.location(partial);
            tracing::warn!("waiting for {peer}, which {} in {tree} ({file} is locked)", wait.activity);
        }
        tokio::time::sleep(wait.pause).await;
        wait.pause = (wait.pause * 2).min(POLL.1);
        Ok(())
    }

    /// When a partial file was written last, and its size.
    fn partial_state(&self, partial: &str) -> Result<PartialState> {
        let driver = &*self.inner.driver;
        let failed = |error| storage(driver, partial, "access", error);
        Ok((driver.stamp(partial).map_err(failed)?, driver.size(partial).map_err(failed)?))
    }

    /// The process that is writing a partial file, for a message.
    async fn peer(&self, partial: &str) -> Result<String> {
        let path = partial.to_owned();
        let find = move |store: &Self| {
            Ok(match store.inner.driver.open(&path) {
                Ok(Some((file, _))) => holders(&file),
                _ => "another process".to_owned(),
            })
        };
        self.lookup(find).await
    }

    /// Opens the partial file of a blob, or tells that it is not needed or not available.
    fn open_partial(&self, digest: &Digest, size: u64) -> Result<OpenedPartial> {
        let partial = path::partial(digest, size);
        let driver = &*self.inner.driver;
        // The previous claim of this process may have ended with its publication: then no file must be created.
        if self.blob_size(digest)? == Some(size) {
            return Ok(OpenedPartial::Present);
        }
        let opened = driver.partial(&partial, size);
        let file = opened.map_err(|error| storage(driver, &partial, "open the partial blob", error))?;
        // Checked while the file is locked: its previous holder may just have published it.
        if self.blob_size(digest)? == Some(size) {
            if file.is_some() {
                let removed = driver.remove(&partial);
                removed.map_err(|error| storage(driver, &partial, "remove the partial blob", error))?;
            }
            return Ok(OpenedPartial::Present);
        }
        Ok(file.map_or(OpenedPartial::Busy, |file| OpenedPartial::Open(ResumableFile::resume(file, size))))
    }

    /// Whether so few inodes are left that images should be published one by one.
    fn is_short_of_inodes(&self) -> Result<bool> {
        let free = self.free_space()?.and_then(|space| space.inodes);
        Ok(free.is_some_and(|inodes| inodes < SCARCE_INODES))
    }
}

/// The result of opening a partial file.
enum OpenedPartial {
    /// The blob is in the tree already.
    Present,
    /// Another process is writing it.
    Busy,
    Open(ResumableFile),
}

impl Sink for Store {
    type Writer = StoreWriter;
    type Upload = Infallible;
    const LISTS_REFERRERS: bool = true;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        let (repository, tag) = (repository.clone(), tag.clone());
        self.lookup(move |store| store.read_tag(&repository, &tag)).await
    }

    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        let (repository, tag, digest) = (repository.clone(), tag.clone(), *digest);
        self.lookup(move |store| store.has_named(&repository, &tag, &digest)).await
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let digest = *digest;
        self.lookup(move |store| store.read_content(&digest, limit)).await
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let digest = descriptor.digest;
        let size = descriptor.size;
        if self.inner.claims.committed(&digest) == Some(size) {
            return Ok(true);
        }
        self.lookup(move |store| Ok(store.blob_size(&digest)? == Some(size))).await
    }

    async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let (repository, digest) = (repository.clone(), *digest);
        self.lookup(move |store| store.has_layer(&repository, &digest)).await
    }

    async fn is_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let (repository, digest) = (repository.clone(), *digest);
        self.lookup(move |store| store.has_revision(&repository, &digest)).await
    }

    async fn lists_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<bool> {
        let (repository, subject, referrers) = (repository.clone(), *subject, referrers.to_vec());
        self.lookup(move |store| store.lists(&repository, &subject, &referrers)).await
    }

    async fn room(&self) -> Result<Option<Room>> {
        let space = self.lookup(|store| store.free_space()).await?;
        Ok(space.map(|space| Room {
            directory: self.inner.driver.location(""),
            free: space.bytes,
            total: space.total,
        }))
    }

    async fn ingest(
        &self,
        _: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<StoreWriter, Infallible>> {
        let writer = self.writer(&descriptor.digest, descriptor.size).await?;
        Ok(writer.map_or(Ingest::Present, Ingest::Write))
    }

    async fn preflight(&self, image: &Publication) -> Result<()> {
        let image = image.clone();
        self.lookup(move |store| store.check_origin(&image).and_then(|()| store.check_lists(&image))).await
    }

    async fn record_origin(&self, image: &Publication) -> Result<()> {
        let image = image.clone();
        let record = move |store: &Self| {
            if !store.needs_source_record(&image)? {
                return Ok(None);
            }
            let sources = store.source_lines(&image)?;
            queue(store, ImageSteps::default(), sources, Vec::new()).map(Some)
        };
        match self.lookup(record).await? {
            Some(outcome) => outcome.await.unwrap_or_else(|_| Err(publisher_lost())),
            None => Ok(()),
        }
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        let scarce = self.lookup(|store| store.is_short_of_inodes()).await?;
        let _turn = if scarce { Some(self.inner.one_by_one.lock().await) } else { None };
        let _locks = self.lock_publication(&image).await?;
        let outcome = self.blocking(move |store| stage_and_queue(store, image)).await?;
        outcome.await.unwrap_or_else(|_| Err(publisher_lost()))
    }
}

/// Stages everything of `image` that the tree lacks and queues it for publication.
fn stage_and_queue(store: &Store, image: Publication) -> Result<oneshot::Receiver<Result<()>>> {
    // Again, since another process may have published the tag in the meantime.
    store.check_origin(&image)?;
    store.check_lists(&image)?;
    let mut staging = Staging { inner: &store.inner, steps: ImageSteps::default() };
    if let Err(error) = stage_image(store, &mut staging, &image) {
        staging.undo();
        return Err(error);
    }
    let sources = store.source_lines(&image)?;
    queue(store, staging.steps, sources, image.blobs)
}

/// Queues an image for publication: its steps, the lines that record where it comes from, and the blobs that it needs.
fn queue(
    store: &Store,
    steps: ImageSteps,
    sources: String,
    blobs: Vec<Digest>,
) -> Result<oneshot::Receiver<Result<()>>> {
    let inner = &*store.inner;
    let ImageSteps { content, links, referrer_tags, tags, current_links } = steps;
    // The content step is needed, even if it is empty, while a blob is not published yet: the links rely on it.
    let waits_for_blobs = any_in_progress(&inner.claims, &blobs);
    let steps = [(content, waits_for_blobs), (links, false), (referrer_tags, false), (tags, false)];
    let steps = steps.into_iter().filter(|(step, is_needed)| *is_needed || !step.is_empty());
    let (done, outcome) = oneshot::channel();
    let staged = StagedImage {
        steps: steps.map(|(step, _)| step).collect(),
        tags: current_links,
        blobs,
        sources,
        done,
    };
    if let Err((error, staged)) = inner.commit.publish(staged) {
        for change in staged.steps.iter().flatten() {
            change.discard(&*inner.driver);
        }
        return Err(error);
    }
    Ok(outcome)
}

/// Stages everything of `image` that the tree lacks.
fn stage_image(store: &Store, staging: &mut Staging<'_>, image: &Publication) -> Result<()> {
    for manifest in &image.manifests {
        let length = manifest.bytes.len() as u64;
        if store.read_content(&manifest.digest, length)?.as_ref() != Some(&manifest.bytes) {
            let change = staging.file(path::data(&manifest.digest), &manifest.bytes)?;
            staging.steps.content.push(change);
        }
    }
    for place in &image.places {
        let repository = &place.repository;
        // A registry needs both directories, before there is any link: without `_layers`, registry 2.8 does not list the
        // repository and garbage collection deletes its content or fails. Without `tags`, garbage collection of untagged
        // manifests fails for the whole tree.
        for directory in [path::layers(repository), path::tags(repository)] {
            if store.kind(&directory)?.is_none() {
                staging.steps.content.push(Change::Directory { path: directory });
            }
        }
        for blob in &image.blobs {
            let change = staging.link(store, path::layer_link(repository, blob), blob)?;
            staging.steps.links.extend(change);
        }
        for manifest in &image.manifests {
            let digest = &manifest.digest;
            let change = staging.link(store, path::revision_link(repository, digest), digest)?;
            staging.steps.links.extend(change);
        }
        stage_referrers(store, staging, repository, &image.referrers)?;
    }
    // A tag that is visible has its signatures.
    staging.steps.referrer_tags = std::mem::take(&mut staging.steps.tags);
    for place in &image.places {
        if let (Some(tag), Some(root)) = (&place.tag, image.root()) {
            stage_tag(store, staging, &place.repository, tag, &root)?;
        }
    }
    Ok(())
}

/// Stages the lists of referrers that change, and the tags of referrers. The caller has locked the lists.
fn stage_referrers(
    store: &Store,
    staging: &mut Staging<'_>,
    repository: &Repository,
    referrers: &PublishedReferrers,
) -> Result<()> {
    for ReferrerList { subject, referrers } in &referrers.lists {
        let Some(index) = store.merged_list(repository, subject, referrers)? else { continue };
        if store.read_content(&index.digest, index.bytes.len() as u64)?.as_ref() != Some(&index.bytes) {
            let change = staging.file(path::data(&index.digest), &index.bytes)?;
            staging.steps.content.push(change);
        }
        let link = path::revision_link(repository, &index.digest);
        let change = staging.link(store, link, &index.digest)?;
        staging.steps.links.extend(change);
        stage_tag(store, staging, repository, &Tag::referrers(subject), &index.digest)?;
    }
    for (tag, digest) in &referrers.tags {
        stage_tag(store, staging, repository, &tag.tag(), digest)?;
    }
    Ok(())
}

/// Stages what `repository:tag` needs to point to `root`.
fn stage_tag(
    store: &Store,
    staging: &mut Staging<'_>,
    repository: &Repository,
    tag: &Tag,
    root: &Digest,
) -> Result<()> {
    let current = path::tag_current(repository, tag);
    let directory = path::tag(repository, tag);
    if store.kind(&directory)?.is_none() {
        let change = staging.new_tag(directory, root)?;
        staging.steps.tags.push(change);
        staging.steps.current_links.push(current);
        return Ok(());
    }
    let history = staging.link(store, path::tag_index(repository, tag, root), root)?;
    staging.steps.tags.extend(history);
    // If another image in progress changes the link, what it says now does not count.
    let is_changing = store.inner.commit.is_changing(&current);
    if is_changing || !store.links_to(&current, root)? {
        let change = staging.file(current.clone(), link::format(root).as_bytes())?;
        staging.steps.tags.push(change);
        staging.steps.current_links.push(current);
    }
    Ok(())
}

/// The changes that publish one image, step by step.
#[derive(Default)]
struct ImageSteps {
    content: Vec<Change>,
    links: Vec<Change>,
    /// The tags of referrers, which appear before those of the image.
    referrer_tags: Vec<Change>,
    tags: Vec<Change>,
    /// Paths of the `current` links among them.
    current_links: Vec<String>,
}

/// Stages the files of one image.
struct Staging<'a> {
    inner: &'a StoreInner,
    steps: ImageSteps,
}

impl Staging<'_> {
    fn file(&self, path: String, content: &[u8]) -> Result<Change> {
        let staged = self.inner.staged_path()?;
        let change = Change::File { staged: staged.clone(), path };
        self.write(&staged, content, change)
    }

    /// Stages a link, unless the tree has it.
    fn link(&self, store: &Store, path: String, digest: &Digest) -> Result<Option<Change>> {
        if store.links_to(&path, digest)? {
            return Ok(None);
        }
        self.file(path, link::format(digest).as_bytes()).map(Some)
    }

    /// Stages the directory of a tag that does not exist yet.
    fn new_tag(&self, path: String, root: &Digest) -> Result<Change> {
        let staged = self.inner.staged_path()?;
        let files = path::tag_files(root);
        let mut change = Change::Tag { staged: staged.clone(), path, files: files.clone() };
        for file in files {
            change = self.write(&format!("{staged}/{file}"), link::format(root).as_bytes(), change)?;
        }
        Ok(change)
    }

    /// Writes a staged file of `change`; removes what there is of the change if that fails.
    fn write(&self, staged: &str, content: &[u8], change: Change) -> Result<Change> {
        let driver = &*self.inner.driver;
        if let Err(error) = driver.stage(staged, content) {
            change.discard(driver);
            return Err(storage(driver, staged, "write", error));
        }
        Ok(change)
    }

    fn undo(self) {
        let ImageSteps { content, links, referrer_tags, tags, .. } = self.steps;
        for change in content.iter().chain(&links).chain(&referrer_tags).chain(&tags) {
            change.discard(&*self.inner.driver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::conformance;
    use crate::driver::{FsDriver, MemoryDriver};
    use crate::store::{Durability, StoreOptions};
    use std::sync::Arc;

    #[tokio::test]
    async fn store_in_a_directory_conforms() {
        let root = tempfile::tempdir().unwrap();
        let mut count = 0;
        let mut open = || {
            count += 1;
            root.path().join(count.to_string())
        };
        conformance::sink(|| Store::open(&open(), StoreOptions::default()).unwrap()).await;
        let options = StoreOptions { durability: Durability::None, ..StoreOptions::default() };
        conformance::sink(|| Store::open(&open(), options.clone()).unwrap()).await;
        conformance::sink(|| {
            let driver = FsDriver::create(&open()).unwrap().syncing_each_file();
            Store::with_driver(Arc::new(driver), StoreOptions::default())
        })
        .await;
    }

    #[tokio::test]
    async fn store_in_memory_conforms() {
        conformance::sink(|| Store::with_driver(Arc::new(MemoryDriver::new()), StoreOptions::default()))
            .await;
    }

    #[tokio::test]
    async fn wait_for_a_stalled_peer_is_bounded_and_names_it() {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { peer_timeout: Duration::ZERO, ..StoreOptions::default() };
        let store = Store::open(root.path(), options).unwrap();
        let other = Store::open(root.path(), StoreOptions::default()).unwrap();
        let repository: Repository = "any/where".parse().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"x"), 1);
        let Ingest::Write(_writer) = other.ingest(&repository, &blob).await.unwrap() else {
            panic!("present")
        };
        let error = store.ingest(&repository, &blob).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.message().contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(error.hint().is_some());
    }
}
