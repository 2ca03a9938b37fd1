//! Saving: from registries into a tree.
//!
//! Groups the images by registry, opens one session per registry, decides each image's name in the
//! tree, and hands all of it to the engine.

pub mod blocking;
mod collision;
mod names;
mod pull;

pub(crate) use collision::check as check_collisions;
pub use names::NameRule;
pub use pull::{local_digest, pull_image};

use crate::content::Place;
use crate::error::{Error, Result};
use crate::list;
use crate::oci::{PlatformSet, Reference, Registry, Repository};
use crate::registry::{Access, Credential, CredentialSource, Secret, Session, Sessions};
use crate::store::{Durability, Store, StoreOptions};
use crate::transfer::{Engine, Image, Observer, Plan, Report, Silent, TransferOptions};
use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options of a save.
#[derive(Clone)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The directory that a registry mounts; made if it is missing.
    pub dir: PathBuf,
    /// Platforms, retries, limits.
    pub copy: TransferOptions,
    /// What images are called in the tree.
    pub names: NameRule,
    /// What a saved image has survived.
    pub durability: Durability,
    /// How registries are reached, and as whom where an image brings no credential of its own.
    pub access: Access,
    /// Who is told of progress.
    pub observer: Arc<dyn Observer>,
}

impl SaveOptions {
    /// The default options for saving into `dir`: all platforms, anonymous, silent.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            copy: TransferOptions::default(),
            names: NameRule::default(),
            durability: Durability::default(),
            access: Access::default(),
            observer: Arc::new(Silent),
        }
    }
}

/// An image to save.
#[derive(Clone, Debug)]
pub struct SaveImage {
    /// Its name.
    pub reference: Reference,
    /// Its own choice of platforms, if it has one.
    pub platforms: Option<PlatformSet>,
    /// Its own credential, if it has one.
    pub credential: Option<Credential>,
}

impl From<Reference> for SaveImage {
    fn from(reference: Reference) -> Self {
        Self { reference, platforms: None, credential: None }
    }
}

impl From<list::ListEntry> for SaveImage {
    fn from(entry: list::ListEntry) -> Self {
        let credential = entry.credential.map(|credential| Credential::Basic {
            username: credential.username.clone(),
            password: Secret::new(&credential.password),
        });
        Self { reference: entry.reference, platforms: entry.platforms, credential }
    }
}

/// Saves images from many registries into one tree.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::{ImageSaver, SaveOptions};
///
/// let mut options = SaveOptions::new("/var/lib/registry");
/// options.copy.platforms = "amd64".parse()?;
/// let images = ["nginx:1.27", "quay.io/cilium/cilium:v1.16.0"];
/// let images = images.iter().map(|name| Ok(saver::oci::Reference::parse(name)?.into()));
/// let report = ImageSaver::new(options)?.save(images.collect::<saver::Result<_>>()?).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
pub struct ImageSaver {
    options: SaveOptions,
    store: Store,
}

impl ImageSaver {
    /// A saver into `options.dir`.
    ///
    /// # Errors
    /// `Storage` when the directory can't be made or opened.
    pub fn new(options: SaveOptions) -> Result<Self> {
        let store_options = StoreOptions { durability: options.durability };
        let store = Store::open(&options.dir, store_options)?;
        Ok(Self { options, store })
    }

    /// The tree that images are saved into.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Saves `images`. A failed image is a row in the report; the others go on.
    ///
    /// Dropping the future ends the run as cleanly as a crash would: what is published stays, what is
    /// partial is gone on with by the next run.
    ///
    /// # Errors
    /// `InvalidInput` when the images can't all have their names in one tree, before anything is fetched;
    /// `Storage` when the tree can't be worked on.
    pub async fn save(&self, images: Vec<SaveImage>) -> Result<Report> {
        self.save_until(images, std::future::pending()).await
    }

    /// As [`save`](Self::save), until `stop` is ready: then images that are not complete are given up, and the report tells which.
    ///
    /// # Errors
    /// As `save`.
    pub async fn save_until(&self, images: Vec<SaveImage>, stop: impl Future<Output = ()>) -> Result<Report> {
        let token = CancellationToken::new();
        let work = async {
            // Others may save at the same time; nobody may take anything away.
            let _lock = self.store.lock_shared(false)?;
            let engine = self.engine()?;
            let images = self.prepare(images, &token).await?;
            Ok(engine.run(images, &token).await)
        };
        until(work, stop, &token).await
    }

    /// What [`save`](Self::save) would do; fetches manifests only and writes nothing.
    ///
    /// # Errors
    /// As `save`.
    pub async fn plan_until(&self, images: Vec<SaveImage>, stop: impl Future<Output = ()>) -> Result<Plan> {
        let token = CancellationToken::new();
        let work = async {
            let engine = self.engine()?;
            let images = self.prepare(images, &token).await?;
            Ok(engine.plan(images, &token).await)
        };
        until(work, stop, &token).await
    }

    fn engine(&self) -> Result<Arc<Engine<Store>>> {
        let store = Arc::new(self.store.clone());
        Engine::new(store, self.options.copy.clone(), self.options.observer.clone()).map(Arc::new)
    }

    /// Opens the sessions, one per registry, and gives each image its place.
    async fn prepare(
        &self,
        images: Vec<SaveImage>,
        token: &CancellationToken,
    ) -> Result<Vec<Image<Session>>> {
        let sessions = sessions(&images, &self.options.access, self.options.copy.jobs);
        let mut prepared = Vec::with_capacity(images.len());
        for image in images {
            prepared.push(Image {
                source: sessions.with(&image.reference.registry)?,
                place: self.options.names.place(&image.reference)?,
                alias: self.options.names.alias(&image.reference),
                reference: image.reference,
                platforms: image.platforms,
                resolved: None,
                warnings: Vec::new(),
            });
        }
        yield_short_names(&mut prepared);
        let retry = &self.options.copy.retry;
        tokio::select! {
            biased;
            // The engine then gives every image up, and says so in each one's row.
            () = token.cancelled() => {}
            checked = collision::check(&mut prepared, self.options.copy.index, retry) => checked?,
        }
        Ok(prepared)
    }
}

/// The sessions that `images` come through. Credentials that they bring themselves go before those of `access`.
pub(crate) fn sessions(images: &[SaveImage], access: &Access, jobs: usize) -> Sessions {
    let credentials = Arc::new(ListCredentials {
        own: images.iter().filter_map(SaveImage::own_credential).collect(),
        others: access.credentials.clone(),
    });
    Sessions::new(Access { credentials, ..access.clone() }, jobs)
}

/// Does `work` to its end, cancelling `token` when `stop` is ready.
pub(crate) async fn until<T>(
    work: impl Future<Output = Result<T>>,
    stop: impl Future<Output = ()>,
    token: &CancellationToken,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = stop => {
            token.cancel();
            work.await
        }
    }
}

/// An image that really has the short name of an official one keeps it.
pub(crate) fn yield_short_names<S>(images: &mut [Image<S>]) {
    let places: HashSet<Place> = images.iter().map(|image| image.place.clone()).collect();
    for image in images {
        if let Some(alias) = image.alias.take_if(|alias| places.contains(alias)) {
            let place = &image.place;
            image.warnings.push(format!("{alias} is another image of the list; this one is {place} only"));
        }
    }
}

impl SaveImage {
    fn own_credential(&self) -> Option<((Registry, Repository), Credential)> {
        let credential = self.credential.clone()?;
        Some(((self.reference.registry.clone(), self.reference.repository.clone()), credential))
    }
}

/// The credentials that a list brings, before those found elsewhere.
struct ListCredentials {
    own: HashMap<(Registry, Repository), Credential>,
    others: Arc<dyn CredentialSource>,
}

impl CredentialSource for ListCredentials {
    fn credential<'a>(
        &'a self,
        host: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Credential>> {
        match self.own.get(&(host.clone(), repository.clone())) {
            Some(credential) => Box::pin(std::future::ready(Ok(credential.clone()))),
            None => self.others.credential(host, repository),
        }
    }

    fn failure(&self, host: &Registry, repository: &Repository) -> Option<Error> {
        if self.own.contains_key(&(host.clone(), repository.clone())) {
            return None;
        }
        self.others.failure(host, repository)
    }

    fn origin(&self, host: &Registry, repository: &Repository) -> Option<String> {
        match self.own.get(&(host.clone(), repository.clone())) {
            Some(_) => Some("the image list or request".into()),
            None => self.others.origin(host, repository),
        }
    }
}

/// Saves `images`, named as on a command line, into `dir` for the platforms `arch` (such as `amd64`, a comma list, or `all`).
///
/// # Errors
/// `InvalidInput` for a bad name or platform, or two images that would have one name in the tree; `Storage` when `dir` can't be worked on.
pub async fn save_images<I>(images: I, dir: impl AsRef<Path>, arch: &str) -> Result<Report>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let mut options = SaveOptions::new(dir.as_ref());
    options.copy.platforms = arch.parse()?;
    let images: Result<Vec<SaveImage>> =
        images.into_iter().map(|name| Reference::parse(name.as_ref()).map(SaveImage::from)).collect();
    ImageSaver::new(options)?.save(images?).await
}
