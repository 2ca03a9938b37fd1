//! The operations of the image service, independent of the protocol.

use super::fs_info::{self, FsUsage};
use super::image_index::ImageIndex;
use super::manifest_summary::{self, ImageSummary};
use super::name;
use super::pulls::Pulls;
use super::snapshot::{ImageEntry, ImageSnapshot};
use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Platform, PlatformSet, RawManifest, Reference, Repository};
use crate::prune;
use crate::registry::Credential;
use crate::save::{ImageSaver, NameRule, SaveImage, SaveOptions};
use crate::store::Store;
use crate::transfer::{ReferrerKinds, Status};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedRwLockWriteGuard, RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many images are pulled at once; further pulls wait.
const MAX_PULLS: usize = 16;
/// How long to wait for a lock that another process holds on the tree, or, before a removal, for this service's own pulls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to take the lock.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Retries of a connection that is refused. The caller sees no reason for the delay meanwhile, and the kubelet retries pulls itself.
const MAX_REFUSED_RETRIES: u32 = 1;
/// The shortest and longest time that a disk usage count is reused. Kubelets ask every ten seconds.
const USAGE_LIFETIME: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// A count is reused for this many times as long as it took, so that counting a large tree takes at most 5 % of the time.
const USAGE_LIFETIME_FACTOR: u32 = 20;

/// The images of one tree.
pub(super) struct ImageManager {
    saver: Arc<ImageSaver>,
    index: Arc<ImageIndex>,
    /// Held during a scan, so that callers that wait for one do not take a thread each.
    scanning: Arc<Mutex<()>>,
    dir: PathBuf,
    pulls: Pulls,
    pull_slots: Arc<Semaphore>,
    /// Pulls take it shared, removals exclusively: the lock on the tree only excludes other processes.
    changing: Arc<RwLock<()>>,
    usage: Mutex<Option<CountedUsage>>,
}

/// The last disk usage count.
struct CountedUsage {
    /// The number of changes that this service had made before it.
    changes: u64,
    started: Instant,
    lifetime: Duration,
    usage: FsUsage,
}

impl ImageManager {
    pub(super) fn new(options: SaveOptions, platform: Platform) -> Result<Self> {
        let dir = options.dir.clone();
        let saver = ImageSaver::new(options)?;
        saver.store().check_usable()?;
        let index = ImageIndex::new(saver.store().clone(), platform);
        Ok(Self {
            saver: Arc::new(saver),
            index: Arc::new(index),
            scanning: Arc::default(),
            dir,
            pulls: Pulls::default(),
            pull_slots: Arc::new(Semaphore::new(MAX_PULLS)),
            changing: Arc::default(),
            usage: Mutex::default(),
        })
    }

    /// All images of the tree.
    ///
    /// # Errors
    /// `Storage` when the tree cannot be read.
    pub(super) async fn list(&self) -> Result<Arc<ImageSnapshot>> {
        self.with_index(ImageIndex::snapshot).await
    }

    /// The image that `text`, an id or a name, stands for.
    ///
    /// # Errors
    /// `InvalidInput` when it is neither; `Storage` when the tree cannot be read.
    pub(super) async fn find(&self, text: String) -> Result<Option<ImageEntry>> {
        self.with_index(move |index, asked| index.lookup(&text, asked)).await
    }

    async fn with_index<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ImageIndex, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let index = self.index.clone();
        let asked = index.scans_started();
        let guard = self.scanning.clone().lock_owned().await;
        run_blocking(move || {
            let _guard = guard;
            read(&index, asked)
        })
        .await
    }

    /// Pulls an image and returns its id. Concurrent pulls of the same image with the same credential are one; it is cancelled
    /// once every caller has gone.
    ///
    /// # Errors
    /// As for saving the image; `Unsupported` when nothing in it is for the platform, and then nothing stays in the tree.
    pub(super) async fn pull(
        self: &Arc<Self>,
        reference: Reference,
        credential: Option<Credential>,
    ) -> Result<Digest> {
        // Another credential may not be allowed to read the image.
        let key = (reference.clone(), credential.as_ref().map(fingerprint));
        let image = SaveImage { credential, ..SaveImage::from(reference) };
        let pull = |token| {
            let (manager, image) = (self.clone(), image.clone());
            async move { manager.pull_image(image, token).await }
        };
        self.pulls.join(key, pull).await
    }

    async fn pull_image(&self, image: SaveImage, token: CancellationToken) -> Result<Digest> {
        let reference = image.reference.clone();
        // The lock first: a pull that waits for a removal must not hold a slot.
        let turn = async {
            let lock = self.changing.clone().read_owned().await;
            let slot = self.pull_slots.acquire().await;
            (lock, slot)
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = token.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, &reference, "the pull was cancelled"));
            }
        };
        let started = Instant::now();
        let saver = self.saver.as_ref().clone().with_cancel(token.clone());
        let row = loop {
            match saver.pull(image.clone()).await {
                // The lock is taken before anything else, so nothing was done yet.
                Err(error) if is_locked(&error, started) && !token.is_cancelled() => {
                    tokio::time::sleep(LOCK_RETRY_DELAY).await;
                }
                row => break row,
            }
        };
        self.index.record_change();
        let row = row?;
        let index = self.index.clone();
        let pulled = reference.clone();
        if let Some(id) = run_blocking(move || index.id_of(&pulled)).await? {
            return Ok(id);
        }
        drop(turn);
        if row.status == Status::Saved {
            self.discard(&reference).await;
        }
        let why = "nothing in it is an image or artifact for this node's platform";
        Err(Error::new(ErrorKind::Unsupported, reference, why))
    }

    /// Removes what a pull has saved and nobody could use or remove by name.
    async fn discard(&self, reference: &Reference) {
        let discarded = async {
            let place = NameRule::Domain.place(reference)?;
            let lock = self.lock_exclusive(&reference.to_string(), LOCK_TIMEOUT).await?;
            let store = self.saver.store().clone();
            let digest = reference.digest;
            run_blocking(move || {
                let _lock = lock;
                prune::remove_at(&store, &[(place, digest)])
            })
            .await
        };
        if let Err(error) = discarded.await {
            tracing::warn!(%error, image = %reference, "could not remove what the pull has saved");
        }
        self.index.record_change();
    }

    /// Removes an image with all of its tags and digests, whichever of its names `text` is, as containerd does, and everything
    /// that nothing else references. It is not an error if there is no such image.
    ///
    /// # Errors
    /// `InvalidInput` for text that is no name or id, and for an image that is only a part of another one's index; `Unavailable`
    /// when pulls do not end in time; `Storage` when the tree cannot be changed, or another process holds its lock.
    pub(super) async fn remove(&self, text: String) -> Result<()> {
        let lock = self.lock_exclusive(&text, LOCK_TIMEOUT).await?;
        let index = self.index.clone();
        let store = self.saver.store().clone();
        // Once started, the removal is completed even if the caller goes away.
        run_blocking(move || {
            let _lock = lock;
            let started = Instant::now();
            loop {
                match remove(&index, &store, &text) {
                    Err(error) if is_locked(&error, started) => std::thread::sleep(LOCK_RETRY_DELAY),
                    result => {
                        index.record_change();
                        return result;
                    }
                }
            }
        })
        .await
    }

    /// Waits until no pull is running. New pulls queue behind this, so the wait is shorter than a pull may take.
    async fn lock_exclusive(&self, subject: &str, timeout: Duration) -> Result<OwnedRwLockWriteGuard<()>> {
        tokio::time::timeout(timeout, self.changing.clone().write_owned()).await.map_err(|_| {
            let why = "cannot remove the image while other images are being pulled";
            Error::new(ErrorKind::Unavailable, subject, why).with_hint("try again when the pulls are done")
        })
    }

    /// The image's manifest and configuration; `None` if it was removed meanwhile.
    ///
    /// # Errors
    /// `Storage` when they cannot be read.
    pub(super) async fn documents(&self, image: Arc<ImageSummary>) -> Result<Option<(RawManifest, Bytes)>> {
        let store = self.saver.store().clone();
        run_blocking(move || {
            let manifest = manifest_summary::read_manifest(&store, &image.manifest.digest)?;
            let config = manifest_summary::read_config(&store, &image.config.digest)?;
            Ok(manifest.map(|(raw, _)| raw).zip(config))
        })
        .await
    }

    /// The disk usage of the tree.
    ///
    /// # Errors
    /// `Storage` when part of it cannot be read.
    pub(super) async fn usage(&self) -> Result<FsUsage> {
        // Callers that come meanwhile wait for the count under way.
        let mut counted = self.usage.lock().await;
        let changes = self.index.changes();
        if let Some(count) = &*counted
            && count.changes == changes
            && count.started.elapsed() < count.lifetime
        {
            return Ok(count.usage.clone());
        }
        let dir = self.dir.clone();
        let started = Instant::now();
        let usage = run_blocking(move || fs_info::usage(&dir)).await?;
        let lifetime = (started.elapsed() * USAGE_LIFETIME_FACTOR).clamp(USAGE_LIFETIME.0, USAGE_LIFETIME.1);
        *counted = Some(CountedUsage { changes, started, lifetime, usage: usage.clone() });
        Ok(usage)
    }

    /// Cancels all pulls and waits until they have ended.
    pub(super) async fn shut_down(&self) {
        self.pulls.shut_down().await;
    }
}

fn remove(index: &ImageIndex, store: &Store, text: &str) -> Result<()> {
    let snapshot = index.snapshot(index.scans_started())?;
    let Some(found) = snapshot.find(text)? else { return Ok(()) };
    let image = found.image;
    let tag = |(repository, tag): &(Repository, _)| {
        (Place { repository: repository.clone(), tag: Some(Clone::clone(tag)) }, None)
    };
    let root = |(repository, digest): &(Repository, Digest)| {
        (Place { repository: repository.clone(), tag: None }, Some(*digest))
    };
    let targets: Vec<(Place, Option<Digest>)> =
        image.tags.iter().map(tag).chain(image.roots.iter().map(root)).collect();
    if targets.is_empty() {
        let why = "it is part of an index that contains other platforms, and cannot be removed alone";
        return Err(Error::new(ErrorKind::InvalidInput, text, why).with_hint("remove the whole image"));
    }
    prune::remove_at(store, &targets)?;
    Ok(())
}

/// The user id or, where it is not a number, the user name that an image's processes run as; neither if it names no user.
pub(super) fn user(image: &ImageSummary) -> (Option<i64>, String) {
    let user = image.user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(id) => (Some(id), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// Completes options so that pulls store images under the names that [`name::full`] reads.
pub(super) fn pull_options(mut options: SaveOptions, platforms: PlatformSet) -> SaveOptions {
    options.names = Some(NameRule::Domain);
    options.transfer.platforms = platforms;
    options.transfer.filter_pinned_manifests = false;
    // A runtime verifies no signatures here, and asks for an image when it needs it at once.
    options.transfer.referrers.kinds = ReferrerKinds::None;
    let retry = &mut options.transfer.retry;
    retry.refused_retries = retry.refused_retries.min(MAX_REFUSED_RETRIES);
    options
}

/// Identifies a credential without revealing it.
fn fingerprint(credential: &Credential) -> String {
    let text = match credential {
        Credential::Anonymous => String::new(),
        Credential::Basic { username, password } => format!("b\0{username}\0{}", password.reveal()),
        Credential::IdentityToken(token) => format!("i\0{}", token.reveal()),
        Credential::RegistryToken(token) => format!("r\0{}", token.reveal()),
    };
    Digest::of(text.as_bytes()).to_string()
}

/// Whether another process holds the tree's lock, and waiting for it since `started` has not timed out.
fn is_locked(error: &Error, started: Instant) -> bool {
    error.io_kind() == Some(io::ErrorKind::WouldBlock) && started.elapsed() < LOCK_TIMEOUT
}

fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let task = tokio::task::spawn_blocking(work);
    async move { task.await.unwrap_or_else(|_| Err(Error::internal(""))) }
}

/// Parses the name of an image to pull.
///
/// # Errors
/// `InvalidInput` for text that is no name, and for an id.
pub(super) fn parse_pull_name(text: &str) -> Result<Reference> {
    if name::whole_id(text).is_some() {
        let why = "cannot pull by image id: it does not say which registry has the image";
        return Err(
            Error::new(ErrorKind::InvalidInput, text, why).with_hint("use a name with a tag or digest")
        );
    }
    name::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn removal_times_out_while_pull_runs() {
        let dir = tempfile::tempdir().unwrap();
        let options = SaveOptions::new(dir.path());
        let images = ImageManager::new(options, Platform::new("linux", "amd64")).unwrap();
        let pull = images.changing.clone().read_owned().await;
        let error = images.lock_exclusive("nginx:1", Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(images.changing.try_read().is_ok(), "a new pull has to wait");
        drop(pull);
        images.remove("nginx:1".into()).await.unwrap();
    }
}
