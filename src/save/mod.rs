//! Saving images from registries into a directory.
//!
//! Opens one session for each registry, determines the name of each image in the directory, and runs the engine.

mod charts;
mod collision;
mod lock;
mod names;
mod pull;
mod resolve;
mod selection;

pub use charts::{ChartToSave, resolve_charts};
#[cfg(feature = "archive")]
pub(crate) use collision::check as check_collisions;
pub use lock::{ResolvedImage, lock_file, pinned_content};
pub use names::NameRule;
pub use pull::{local_digest, pull_image};
pub use resolve::{ResolveOptions, resolve_images};
pub use selection::{ResolvedSelection, list_selections, resolve_selections};

use crate::content::Place;
use crate::error::{Error, Result};
use crate::list;
use crate::oci::{PlatformSet, Reference, Registry, Repository, try_from_text};
use crate::registry::{Access, Credential, CredentialSource, Secret, Sessions};
use crate::store::{Durability, Store};
use crate::transfer::{
    Engine, Image, Observer, PinnedContent, Plan, Report, Resolution, Silent, TransferOptions,
    transfer_setters,
};
use charts::SaveSource;
use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options for saving images.
///
/// Created by [`SaveOptions::new`] and changed through its methods or its fields.
#[derive(Clone)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The directory to save into, in the layout of a registry's storage. It is created if it does not exist.
    pub dir: PathBuf,
    /// Platforms, retries and limits.
    pub transfer: TransferOptions,
    /// The names of images in the directory; `None` for those that it was saved with, and the default in a new one.
    pub names: Option<NameRule>,
    /// Whether a tag may be replaced by an image from another registry or repository.
    pub replace: bool,
    /// When saved images are synced to disk.
    pub durability: Durability,
    /// Connections and credentials. Credentials of a [`SaveImage`] take precedence.
    pub access: Access,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run: images that are not complete fail as cancelled, and the report is returned.
    pub cancel: CancellationToken,
}

impl SaveOptions {
    transfer_setters!();

    /// Options for saving into `dir`: all platforms, no credentials, no progress events.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            transfer: TransferOptions::default(),
            names: None,
            replace: false,
            durability: Durability::default(),
            access: Access::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    /// Uses these names in the directory.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Uses these connections and credentials.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }
}

/// An image to save: its name, or text that is parsed as one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SaveImage {
    /// The image.
    pub reference: Reference,
    /// Platforms for this image, instead of those of the options.
    pub platforms: Option<PlatformSet>,
    /// A credential for this image, instead of those of the options.
    pub credential: Option<Credential>,
    /// What a lock file says of its content, if it must be that.
    pub pinned: Option<Arc<PinnedContent>>,
    /// The chart of a Helm repository that it is, if it is one.
    pub chart: Option<Box<ChartToSave>>,
}

impl SaveImage {
    /// The image `name`: a [`Reference`], or text that is parsed as one.
    ///
    /// # Errors
    /// `InvalidInput` for text that is not a name.
    pub fn new(name: impl TryInto<Reference, Error: Into<Error>>) -> Result<Self> {
        name.try_into().map(Self::from).map_err(Into::into)
    }

    /// Selects these platforms: a [`PlatformSet`], or text such as `"amd64,arm64"` or `"all"`.
    ///
    /// # Errors
    /// `InvalidInput` for text that names no platform.
    pub fn with_platforms(self, platforms: impl TryInto<PlatformSet, Error: Into<Error>>) -> Result<Self> {
        Ok(Self { platforms: Some(platforms.try_into().map_err(Into::into)?), ..self })
    }

    /// Requires the content that a lock file pins.
    #[must_use]
    pub fn with_pinned(self, pinned: PinnedContent) -> Self {
        Self { pinned: Some(Arc::new(pinned)), ..self }
    }

    /// Uses this credential.
    #[must_use]
    pub fn with_credential(self, credential: Credential) -> Self {
        Self { credential: Some(credential), ..self }
    }
}

impl From<Reference> for SaveImage {
    fn from(reference: Reference) -> Self {
        Self { reference, platforms: None, credential: None, pinned: None, chart: None }
    }
}

impl FromStr for SaveImage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Reference::parse(name).map(Self::from)
    }
}

try_from_text!(SaveImage);

impl From<list::ListEntry> for SaveImage {
    fn from(entry: list::ListEntry) -> Self {
        let credential = entry.credential.map(|credential| Credential::Basic {
            username: credential.username.clone(),
            password: Secret::new(&credential.password),
        });
        Self { credential, platforms: entry.platforms, ..Self::from(entry.reference) }
    }
}

/// Saves images from any number of registries into one directory.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::{ImageSaver, SaveOptions};
///
/// let options = SaveOptions::new("/var/lib/registry").with_platforms("amd64")?;
/// let report = ImageSaver::new(options)?.save(["nginx:1.27", "quay.io/cilium/cilium:v1.16.0"]).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ImageSaver {
    options: SaveOptions,
    names: NameRule,
    store: Store,
}

impl ImageSaver {
    /// Opens `options.dir`.
    ///
    /// # Errors
    /// `Storage` when the directory cannot be created or opened; `InvalidInput` when it was saved with another rule of names.
    pub fn new(options: SaveOptions) -> Result<Self> {
        let (store, names) =
            NameRule::open_store(&options.dir, options.names.as_ref(), options.durability, options.replace)?;
        Ok(Self { options, names, store })
    }

    /// The same saver with another cancellation token.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.options.cancel = cancel;
        self
    }

    /// The directory that images are saved into.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Saves `images`. A failed image is a row of the report; the others continue.
    ///
    /// Dropping the future is as safe as a crash: published images stay, and the next run resumes partial downloads.
    ///
    /// # Errors
    /// `InvalidInput` for names that cannot be parsed; `Storage` when the directory cannot be used. Different images that
    /// would get the same name in the directory fail in the report.
    pub async fn save<I>(&self, images: I) -> Result<Report>
    where
        I: IntoIterator,
        I::Item: TryInto<SaveImage, Error: Into<Error>>,
    {
        self.save_all(convert(images)?).await
    }

    async fn save_all(&self, images: Vec<SaveImage>) -> Result<Report> {
        // Shared with other savers; a prune or repair must wait.
        let _lock = self.store.lock_shared(std::time::Duration::ZERO)?;
        let engine = self.engine()?;
        let images = self.prepare(images)?;
        Ok(engine.run(images, &self.options.cancel).await)
    }

    /// What [`save`](Self::save) would do. Fetches manifests only and writes nothing.
    ///
    /// # Errors
    /// As `save`.
    pub async fn plan<I>(&self, images: I) -> Result<Plan>
    where
        I: IntoIterator,
        I::Item: TryInto<SaveImage, Error: Into<Error>>,
    {
        let engine = self.engine()?;
        let images = self.prepare(convert(images)?)?;
        Ok(engine.plan(images, &self.options.cancel).await)
    }

    fn engine(&self) -> Result<Arc<Engine<Store>>> {
        let store = Arc::new(self.store.clone());
        Engine::new(store, self.options.transfer.clone(), self.options.observer.clone()).map(Arc::new)
    }

    /// The name of an image in the directory. A chart that was not found has no tag, which a template may need.
    fn place(&self, image: &SaveImage) -> Result<Place> {
        match self.names.place(&image.reference) {
            Err(_) if image.chart.is_some() && image.reference.tag.is_none() => {
                Ok(Place { repository: image.reference.repository.clone(), tag: None })
            }
            place => place,
        }
    }

    /// Opens one session for each registry, and determines the name of each image in the directory.
    fn prepare(&self, images: Vec<SaveImage>) -> Result<Vec<Image<SaveSource>>> {
        let sessions = sessions(&images, &self.options.access, self.options.transfer.jobs);
        let mut registries: HashMap<Registry, Arc<SaveSource>> = HashMap::new();
        let mut prepared = Vec::with_capacity(images.len());
        for image in images {
            let place = self.place(&image)?;
            let chart = image.chart.as_ref().map(|chart| chart.source(&self.store, &place));
            let (source, resolved) = match chart {
                Some(Ok(chart)) => (Arc::new(SaveSource::Chart(Box::new(chart))), None),
                found => {
                    let session = sessions.with(&image.reference.registry)?;
                    let new = || Arc::new(SaveSource::Registry(session));
                    let source =
                        registries.entry(image.reference.registry.clone()).or_insert_with(new).clone();
                    (source, found.and_then(Result::err).map(|error| Resolution::Known(Err(error))))
                }
            };
            prepared.push(Image {
                source,
                place,
                alias: self.names.alias(&image.reference),
                origin: Some(image.reference.clone()),
                reference: image.reference,
                platforms: image.platforms,
                resolved,
                pinned: image.pinned,
                warnings: Vec::new(),
            });
        }
        yield_short_names(&mut prepared);
        collision::guard(&mut prepared, self.options.transfer.index, &self.options.transfer.retry);
        Ok(prepared)
    }
}

/// The sessions for `images`. Credentials of an image take precedence over those of `access`.
pub(crate) fn sessions(images: &[SaveImage], access: &Access, jobs: usize) -> Sessions {
    let credentials = Arc::new(ListCredentials {
        own: images.iter().filter_map(SaveImage::own_credential).collect(),
        others: access.credentials.clone(),
    });
    Sessions::new(Access { credentials, ..access.clone() }, jobs)
}

/// Converts each item: names become values, values stay.
pub(crate) fn convert<T, I>(items: I) -> Result<Vec<T>>
where
    I: IntoIterator,
    I::Item: TryInto<T, Error: Into<Error>>,
{
    items.into_iter().map(|item| item.try_into().map_err(Into::into)).collect()
}

/// Drops the short name of an official image (`nginx` for `library/nginx`) where another image has that name.
pub(crate) fn yield_short_names<S>(images: &mut [Image<S>]) {
    let places: HashSet<Place> = images.iter().map(|image| image.place.clone()).collect();
    for image in images {
        if let Some(alias) = image.alias.take_if(|alias| places.contains(alias)) {
            let place = &image.place;
            image
                .warnings
                .push(format!("{alias} is another image of the list: this one is available as {place} only"));
        }
    }
}

impl SaveImage {
    fn own_credential(&self) -> Option<((Registry, Repository), Credential)> {
        let credential = self.credential.clone()?;
        Some(((self.reference.registry.clone(), self.reference.repository.clone()), credential))
    }
}

/// Credentials of the images themselves, and where these have none, those of another source.
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

/// Saves `images` into `dir` for the platforms `arch` (`"amd64"`, `"amd64,arm64"`, `"all"`), without credentials.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// let report = saver::save_images(["nginx:1.27", "redis:7"], "/var/lib/registry", "amd64").await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`ImageSaver::new`] and [`ImageSaver::save`]; `InvalidInput` for an unknown platform.
pub async fn save_images<I>(images: I, dir: impl AsRef<Path>, arch: &str) -> Result<Report>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    let options = SaveOptions::new(dir.as_ref()).with_platforms(arch)?;
    ImageSaver::new(options)?.save(images).await
}
