//! What the image service does, without the protocol.

use super::document::{self, Facts};
use super::fs_info::{self, Usage};
use super::image_index::Catalog;
use super::name;
use super::single_flight::Flights;
use super::snapshot::{By, Listed, Snapshot};
use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Platform, PlatformSet, RawManifest, Reference};
use crate::prune;
use crate::registry::Credential;
use crate::save::{ImageSaver, NameRule, SaveImage, SaveOptions};
use crate::store::Store;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedRwLockWriteGuard, RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many images are pulled at once; further ones wait.
const MAX_PULLS: usize = 16;
/// How long another process's lock on the tree is waited for, and how often it is tried; a removal waits as long for pulls of this one.
const LOCK_PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(100));
/// How long a count of the tree is good for when nothing was pulled or removed here, and how many times the time that it took at least:
/// kubelets ask every ten seconds, and a large tree is not to be counted all the time.
const COUNT_LIFE: Duration = Duration::from_secs(10);
const COUNT_SHARE: u32 = 20;
/// The longest that a count is good for.
const MAX_COUNT_LIFE: Duration = Duration::from_secs(300);

/// Who pulls what.
type PullKey = (Reference, Option<String>);

/// The images of one tree, and what may be done with them.
pub(super) struct Images {
    saver: Arc<ImageSaver>,
    catalog: Arc<Catalog>,
    reading: Arc<Mutex<()>>,
    dir: PathBuf,
    pulls: Arc<Flights<PullKey, Digest>>,
    slots: Arc<Semaphore>,
    /// Pulls read, removals write: the tree's own lock is each process's.
    removing: Arc<RwLock<()>>,
    counted: Mutex<Option<Count>>,
}

/// What the tree took when it was counted.
struct Count {
    /// How often something had been changed here.
    changes: u64,
    when: Instant,
    life: Duration,
    usage: Usage,
}

impl Images {
    pub(super) fn new(options: SaveOptions, platform: Platform) -> Result<Self> {
        let dir = options.dir.clone();
        let saver = ImageSaver::new(options)?;
        saver.store().check_usable()?;
        let catalog = Catalog::new(saver.store().clone(), platform);
        Ok(Self {
            saver: Arc::new(saver),
            catalog: Arc::new(catalog),
            reading: Arc::default(),
            dir,
            pulls: Arc::default(),
            slots: Arc::new(Semaphore::new(MAX_PULLS)),
            removing: Arc::default(),
            counted: Mutex::default(),
        })
    }

    /// The images that are there.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.reading(|catalog, asked| catalog.read(asked)).await
    }

    /// The images that are there, as far as `text` names one.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub(super) async fn snapshot_for(&self, text: String) -> Result<Arc<Snapshot>> {
        self.reading(move |catalog, asked| catalog.read_for(&text, asked)).await
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Catalog, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (catalog, asked) = (self.catalog.clone(), self.catalog.begun());
        // One reads, the others wait without a thread each.
        let turn = self.reading.clone().lock_owned().await;
        blocking(move || {
            let _turn = turn;
            read(&catalog, asked)
        })
        .await
    }

    /// Brings `text` into the tree, showing its registry `credential`, and answers its id. Who asks for the same meanwhile, with the same
    /// credential, shares the work; it ends when all who asked have given up.
    ///
    /// # Errors
    /// What saving the image says; `Unsupported` when it is nothing that runs.
    pub(super) async fn pull(&self, reference: Reference, credential: Option<Credential>) -> Result<Digest> {
        // A credential that differs may not read what this one may.
        let shown = credential.as_ref().map(fingerprint);
        let (saver, slots, removing) = (self.saver.clone(), self.slots.clone(), self.removing.clone());
        let catalog = self.catalog.clone();
        let image = SaveImage { reference: reference.clone(), platforms: None, credential };
        let work = |give_up: CancellationToken| async move {
            let given_up = || Error::new(ErrorKind::Cancelled, &image.reference, "the pull was given up");
            let name = image.reference.to_string();
            // The lock first: who waits for a removal keeps no slot from anybody.
            let turn = async { (removing.read_owned().await, slots.acquire_owned().await) };
            let _turn = tokio::select! {
                turn = turn => turn,
                () = give_up.cancelled() => return Err(given_up()),
            };
            let saver = saver.as_ref().clone().with_cancel(give_up.clone());
            let pull = || saver.pull(image.clone());
            let start = Instant::now();
            let row = loop {
                match pull().await {
                    // The lock is asked for before anything else: nothing was done yet.
                    Err(error) if is_locked(&error, start) && !give_up.is_cancelled() => {
                        tokio::time::sleep(LOCK_PATIENCE.1).await;
                    }
                    row => break row,
                }
            };
            catalog.changed();
            row?;
            let reference = image.reference;
            let id = blocking(move || catalog.id_of(&reference)).await?;
            id.ok_or_else(|| {
                let why = "it is saved, but is no image that runs on this platform";
                Error::new(ErrorKind::Unsupported, name, why)
            })
        };
        self.pulls.join((reference, shown), work).await
    }

    /// Takes an image out: by an id, or the beginning of one, with all its names; by a tag, that tag; by a digest, that and its tags. What
    /// nothing else references goes too. That there is no such image is no error.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name; `Unavailable` when pulls are under way and stay so; `Storage` when the tree can't be changed, or
    /// another process works on it.
    pub(super) async fn remove(&self, text: String) -> Result<()> {
        let alone = self.alone(&text, LOCK_PATIENCE.0).await?;
        let (catalog, store) = (self.catalog.clone(), self.saver.store().clone());
        // Once begun it goes to its end, whether the caller waits for that or not.
        blocking(move || {
            let _alone = alone;
            let start = Instant::now();
            loop {
                match remove(&catalog, &store, &text) {
                    Err(error) if is_locked(&error, start) => std::thread::sleep(LOCK_PATIENCE.1),
                    outcome => {
                        catalog.changed();
                        return outcome;
                    }
                }
            }
        })
        .await
    }

    /// Waits for a moment without pulls. New ones queue behind who waits here: that is not for as long as a pull may take.
    async fn alone(&self, text: &str, patience: Duration) -> Result<OwnedRwLockWriteGuard<()>> {
        tokio::time::timeout(patience, self.removing.clone().write_owned()).await.map_err(|_| {
            let why = "it cannot be removed now: pulls are under way";
            Error::new(ErrorKind::Unavailable, text, why).with_hint("try again when they are done")
        })
    }

    /// The manifest and the configuration of an image, as they are; none when they are there no longer.
    ///
    /// # Errors
    /// `Storage` when they can't be read.
    pub(super) async fn documents(&self, facts: Arc<Facts>) -> Result<Option<(RawManifest, Bytes)>> {
        let store = self.saver.store().clone();
        blocking(move || {
            let manifest = document::manifest(&store, &facts.manifest.digest)?.map(|(raw, _)| raw);
            Ok(manifest.zip(document::config(&store, &facts.config.digest)?))
        })
        .await
    }

    /// What the tree takes of its disk.
    ///
    /// # Errors
    /// `Storage` when something can't be looked at.
    pub(super) async fn usage(&self) -> Result<Usage> {
        // Who comes meanwhile waits for the count under way.
        let mut counted = self.counted.lock().await;
        let changes = self.catalog.changes();
        if let Some(count) = &*counted
            && count.changes == changes
            && count.when.elapsed() < count.life
        {
            return Ok(count.usage.clone());
        }
        let (dir, when) = (self.dir.clone(), Instant::now());
        let usage = blocking(move || fs_info::of(&dir)).await?;
        let life = (when.elapsed() * COUNT_SHARE).clamp(COUNT_LIFE, MAX_COUNT_LIFE);
        *counted = Some(Count { changes, when, life, usage: usage.clone() });
        Ok(usage)
    }

    /// Gives up what is under way and waits until it has ended.
    pub(super) async fn end(&self) {
        self.pulls.cancel_all();
        self.pulls.idle().await;
    }
}

fn remove(catalog: &Catalog, store: &Store, text: &str) -> Result<()> {
    let snapshot = catalog.read(catalog.begun())?;
    let Some(found) = snapshot.find(text)? else { return Ok(()) };
    let whole = |(repository, root): &(_, Digest)| {
        let repository: &crate::oci::Repository = repository;
        (Place { repository: repository.clone(), tag: None }, Some(*root))
    };
    let targets: Vec<(Place, Option<Digest>)> = match found.by {
        By::Id => found.image.roots.iter().map(whole).collect(),
        By::Digest(at) => at.iter().map(whole).collect(),
        By::Tag(tag, repositories) => repositories
            .into_iter()
            .map(|repository| (Place { repository, tag: Some(tag.clone()) }, None))
            .collect(),
    };
    prune::remove_at(store, &targets)?;
    Ok(())
}

/// The user of an image's processes: a number, or a name; neither when the configuration says nothing. The group is left out.
pub(super) fn user(image: &Listed) -> (Option<i64>, String) {
    let user = image.facts.user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(number) => (Some(number), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// Options with which pulls put images where [`name::full`] reads their names from.
pub(super) fn pulling(mut options: SaveOptions, platforms: PlatformSet) -> SaveOptions {
    options.names = NameRule::Domain;
    options.transfer.platforms = platforms;
    options
}

/// What tells credentials apart, and gives none away.
fn fingerprint(credential: &Credential) -> String {
    let text = match credential {
        Credential::Anonymous => String::new(),
        Credential::Basic { username, password } => format!("b\0{username}\0{}", password.reveal()),
        Credential::IdentityToken(token) => format!("i\0{}", token.reveal()),
        Credential::RegistryToken(token) => format!("r\0{}", token.reveal()),
    };
    Digest::of(text.as_bytes()).to_string()
}

/// Whether another process has the tree's lock, and has not had it for too long since `start`.
fn is_locked(error: &Error, start: Instant) -> bool {
    error.io_kind() == Some(io::ErrorKind::WouldBlock) && start.elapsed() < LOCK_PATIENCE.0
}

/// Runs what reads or writes many files on a thread of its own.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let task = tokio::task::spawn_blocking(work);
    async move { task.await.unwrap_or_else(|_| Err(Error::internal(""))) }
}

/// Reads a name that is to be pulled.
///
/// # Errors
/// `InvalidInput` for what is no name; an id is none.
pub(super) fn to_pull(text: &str) -> Result<Reference> {
    if name::whole_id(text).is_some() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            text,
            "an image's id says nothing of where it is: name it",
        ));
    }
    name::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_removal_waits_for_pulls_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let options = SaveOptions::new(dir.path());
        let images = Images::new(options, Platform::new("linux", "amd64")).unwrap();
        let pull = images.removing.clone().read_owned().await;
        let removal = images.alone("nginx:1", Duration::from_millis(20));
        let removal = tokio::time::timeout(Duration::from_secs(10), removal).await;
        assert_eq!(removal.expect("it waits for ever").unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(images.removing.try_read().is_ok(), "a new pull has to wait");
        drop(pull);
        images.remove("nginx:1".into()).await.unwrap();
    }
}
