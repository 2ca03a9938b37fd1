//! Pushing saved images to a registry.

mod destination;
mod prefixed_store;

pub use destination::Destination;

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::list;
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Digest, PlatformSet, Reference, Repository, try_from_text};
use crate::registry::{Access, Pusher, Sessions};
use crate::save::{NameRule, convert};
use crate::store::Store;
use crate::store::document::ManifestContent;
use crate::transfer::{
    Engine, Image, Observer, Plan, ReferrerKinds, Report, Resolution, Silent, TransferOptions, Verb,
    transfer_setters,
};
use prefixed_store::PrefixedStore;
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options for pushing images.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// The directory that images were saved into.
    pub dir: PathBuf,
    /// The registry to push to.
    pub destination: Destination,
    /// The names of images in the directory; `None` for the rule that they were saved with.
    pub names: Option<NameRule>,
    /// Platforms, index mode, retries and limits. By default each image is pushed with the platforms that were saved.
    pub transfer: TransferOptions,
    /// Connections and credentials.
    pub access: Access,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run: images that are not complete fail as cancelled, and the report is returned.
    pub cancel: CancellationToken,
}

impl PushOptions {
    transfer_setters!();

    /// Options for pushing from `dir`: all saved platforms, no credentials, no progress events.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, destination: Destination) -> Self {
        Self {
            dir: dir.into(),
            destination,
            names: None,
            transfer: TransferOptions { sparse: true, ..TransferOptions::default() },
            access: Access::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    /// Finds images by these names in the directory.
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

/// An image to push: its name, or text that is parsed as one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PushImage {
    /// The name that it was saved by, or its name in the directory.
    pub reference: Reference,
    /// Platforms for this image, instead of those of the options.
    pub platforms: Option<PlatformSet>,
}

impl PushImage {
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
}

impl From<Reference> for PushImage {
    fn from(reference: Reference) -> Self {
        Self { reference, platforms: None }
    }
}

impl FromStr for PushImage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Reference::parse(name).map(Self::from)
    }
}

try_from_text!(PushImage);

impl From<list::ListEntry> for PushImage {
    fn from(entry: list::ListEntry) -> Self {
        Self { reference: entry.reference, platforms: entry.platforms }
    }
}

/// Pushes images from one directory to one registry.
///
/// Several can push from the same directory at the same time, also while others save into it.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::push::{ImagePusher, PushOptions};
///
/// let options = PushOptions::new("/var/lib/registry", "registry.lan:5000/mirror".parse()?);
/// let report = ImagePusher::new(options)?.push_all().await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
pub struct ImagePusher {
    options: PushOptions,
    store: Store,
}

impl ImagePusher {
    /// Opens `options.dir`.
    ///
    /// # Errors
    /// `Storage` when the directory cannot be opened.
    pub fn new(options: PushOptions) -> Result<Self> {
        let store = Store::open_read_only(&options.dir)?;
        Ok(Self { options, store })
    }

    /// Pushes `images`. A failed image is a row of the report; the others continue.
    ///
    /// # Errors
    /// `InvalidInput` for options or names that cannot be used; `Storage` when the directory cannot be read.
    pub async fn push<I>(&self, images: I) -> Result<Report>
    where
        I: IntoIterator,
        I::Item: TryInto<PushImage, Error: Into<Error>>,
    {
        let images = self.prepare(convert(images)?)?;
        Ok(self.engine()?.run(images, &self.options.cancel).await)
    }

    /// Pushes every tag of the directory.
    ///
    /// # Errors
    /// As [`push`](Self::push); `NotFound` when the directory has no tags.
    pub async fn push_all(&self) -> Result<Report> {
        let images = self.prepare_all()?;
        Ok(self.engine()?.run(images, &self.options.cancel).await)
    }

    /// What [`push`](Self::push) would do. Asks the registry what it has and uploads nothing.
    ///
    /// # Errors
    /// As `push`.
    pub async fn plan<I>(&self, images: I) -> Result<Plan>
    where
        I: IntoIterator,
        I::Item: TryInto<PushImage, Error: Into<Error>>,
    {
        let images = self.prepare(convert(images)?)?;
        Ok(self.engine()?.plan(images, &self.options.cancel).await)
    }

    /// What [`push_all`](Self::push_all) would do.
    ///
    /// # Errors
    /// As `push_all`.
    pub async fn plan_all(&self) -> Result<Plan> {
        let images = self.prepare_all()?;
        Ok(self.engine()?.plan(images, &self.options.cancel).await)
    }

    fn engine(&self) -> Result<Arc<Engine<Pusher>>> {
        let sessions = Sessions::new(self.options.access.clone(), self.options.transfer.jobs);
        let pusher = Arc::new(sessions.pusher(&self.options.destination.registry)?);
        Engine::new(pusher, self.options.transfer.clone(), self.options.observer.clone())
            .map(|engine| Arc::new(engine.doing(Verb::Push)))
    }

    /// Every tag of the directory.
    fn prepare_all(&self) -> Result<Vec<Image<PrefixedStore>>> {
        let tree = self.tree();
        let everything = self.everything()?;
        if everything.is_empty() {
            let why = "contains no image to push";
            return Err(Error::new(ErrorKind::NotFound, self.options.dir.display(), why)
                .with_hint("list the content of a directory with: saver ls --dir DIR"));
        }
        everything.iter().map(|place| self.image(&tree, place, None)).collect()
    }

    /// Finds each image in the directory and determines its name in the registry.
    fn prepare(&self, images: Vec<PushImage>) -> Result<Vec<Image<PrefixedStore>>> {
        let tree = self.tree();
        let mut prepared = Vec::with_capacity(images.len());
        let names = NameRule::of(&self.store, self.options.names.as_ref())?;
        for PushImage { reference, platforms } in images {
            let (place, missing) = match names.find(&self.store, &reference) {
                Ok(place) => (place, None),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    (names.place(&reference)?, Some(Resolution::Known(Err(error))))
                }
                Err(error) => return Err(error),
            };
            let mut image = self.image(&tree, &place, platforms)?;
            image.reference.digest = reference.digest;
            image.resolved = missing;
            prepared.push(image);
        }
        Ok(prepared)
    }

    fn tree(&self) -> Arc<PrefixedStore> {
        Arc::new(PrefixedStore::new(self.store.clone(), self.options.destination.prefix.clone()))
    }

    /// The image at `place` of the directory, with its name in the registry.
    fn image(
        &self,
        tree: &Arc<PrefixedStore>,
        place: &Place,
        platforms: Option<PlatformSet>,
    ) -> Result<Image<PrefixedStore>> {
        let destination = &self.options.destination;
        let repository = destination.repository(&place.repository)?;
        Ok(Image {
            source: Arc::clone(tree),
            reference: Reference {
                registry: destination.registry.clone(),
                repository: repository.clone(),
                tag: place.tag.clone(),
                digest: None,
            },
            platforms,
            place: Place { repository, tag: place.tag.clone() },
            alias: None,
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        })
    }

    fn everything(&self) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for repository in self.store.repositories()? {
            let tags = self.store.tags(&repository)?;
            let named = tags.iter().map(|tag| self.store.read_tag(&repository, tag));
            let named: HashSet<Option<Digest>> = named.collect::<Result<_>>()?;
            for tag in tags {
                let goes_along = match ReferrerTag::parse(&tag) {
                    Some(ReferrerTag { subject, .. }) => self.has_image(&repository, &subject, &named)?,
                    None => false,
                };
                if !goes_along {
                    places.push(Place { repository: repository.clone(), tag: Some(tag) });
                }
            }
        }
        Ok(places)
    }

    /// Whether the referrers of `subject` are pushed with an image, or not at all. The index that an image was taken from when it was
    /// pruned or flattened has no tag: its referrers are pushed by themselves.
    fn has_image(
        &self,
        repository: &Repository,
        subject: &Digest,
        named: &HashSet<Option<Digest>>,
    ) -> Result<bool> {
        if !self.store.has_revision(repository, subject)? {
            return Ok(false);
        }
        if named.contains(&Some(*subject)) || self.options.transfer.referrers.kinds == ReferrerKinds::None {
            return Ok(true);
        }
        Ok(!matches!(self.store.stored_manifest(subject)?.content, ManifestContent::Index(_)))
    }
}
