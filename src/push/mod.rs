//! Pushing: from a tree, or from another registry, into a registry.

mod destination;
mod tree;

pub use destination::Destination;

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::list;
use crate::oci::{PlatformSet, Reference};
use crate::registry::{Access, Pusher, Sessions};
use crate::save::{NameRule, until};
use crate::store::Store;
use crate::transfer::{Engine, Image, Observer, Plan, Report, Silent, TransferOptions, Verb};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tree::Tree;

/// Options of a push.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// The directory that images were saved to.
    pub dir: PathBuf,
    /// Where they go.
    pub destination: Destination,
    /// What images are called in the tree: the rule that they were saved with.
    pub names: NameRule,
    /// Platforms, index mode, retries, limits. The default takes each image as far as the tree has it.
    pub copy: TransferOptions,
    /// How the registry is reached, and as whom.
    pub access: Access,
    /// Who is told of progress.
    pub observer: Arc<dyn Observer>,
}

impl PushOptions {
    /// The default options for pushing what is in `dir`: all platforms that are there, anonymous, silent.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, destination: Destination) -> Self {
        Self {
            dir: dir.into(),
            destination,
            names: NameRule::default(),
            copy: TransferOptions { sparse: true, attestations: true, ..TransferOptions::default() },
            access: Access::default(),
            observer: Arc::new(Silent),
        }
    }
}

/// An image to push.
#[derive(Clone, Debug)]
pub struct PushImage {
    /// Its name, as it was saved or as it is in the tree.
    pub reference: Reference,
    /// Its own choice of platforms, if it has one.
    pub platforms: Option<PlatformSet>,
}

impl From<Reference> for PushImage {
    fn from(reference: Reference) -> Self {
        Self { reference, platforms: None }
    }
}

impl From<list::ListEntry> for PushImage {
    fn from(entry: list::ListEntry) -> Self {
        Self { reference: entry.reference, platforms: entry.platforms }
    }
}

/// Pushes images from one tree into one registry. Several can push from one tree at once, and others save into it meanwhile.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::push::{ImagePusher, PushOptions};
///
/// let options = PushOptions::new("/var/lib/registry", "registry.lan:5000/mirror".parse()?);
/// // Everything that has a tag.
/// let report = ImagePusher::new(options)?.push(Vec::new()).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
pub struct ImagePusher {
    options: PushOptions,
    store: Store,
}

impl ImagePusher {
    /// A pusher of what is in `options.dir`.
    ///
    /// # Errors
    /// `Storage` when the directory can't be opened.
    pub fn new(options: PushOptions) -> Result<Self> {
        let store = Store::open_read_only(&options.dir)?;
        Ok(Self { options, store })
    }

    /// Pushes `images`, or everything that has a tag when there are none. A failed image is a row in the report; the others go on.
    ///
    /// # Errors
    /// `InvalidInput` for settings or names that can't be used; `Storage` when the tree can't be read.
    pub async fn push(&self, images: Vec<PushImage>) -> Result<Report> {
        self.push_until(images, std::future::pending()).await
    }

    /// As [`push`](Self::push), until `stop` is ready: then images that are not complete are given up, and the report tells which.
    ///
    /// # Errors
    /// As `push`.
    pub async fn push_until(&self, images: Vec<PushImage>, stop: impl Future<Output = ()>) -> Result<Report> {
        let token = CancellationToken::new();
        let work = async { Ok(self.engine()?.run(self.prepare(images)?, &token).await) };
        until(work, stop, &token).await
    }

    /// What [`push`](Self::push) would do; asks the registry what it has, and sends nothing.
    ///
    /// # Errors
    /// As `push`.
    pub async fn plan_until(&self, images: Vec<PushImage>, stop: impl Future<Output = ()>) -> Result<Plan> {
        let token = CancellationToken::new();
        let work = async { Ok(self.engine()?.plan(self.prepare(images)?, &token).await) };
        until(work, stop, &token).await
    }

    fn engine(&self) -> Result<Arc<Engine<Pusher>>> {
        let sessions = Sessions::new(self.options.access.clone(), self.options.copy.jobs);
        let pusher = Arc::new(sessions.pusher(&self.options.destination.registry)?);
        Engine::new(pusher, self.options.copy.clone(), self.options.observer.clone())
            .map(|engine| Arc::new(engine.doing(Verb::Push)))
    }

    /// Finds each image in the tree and gives it its place in the registry.
    fn prepare(&self, images: Vec<PushImage>) -> Result<Vec<Image<Tree>>> {
        let destination = &self.options.destination;
        let source = Arc::new(Tree::new(self.store.clone(), destination.prefix.clone()));
        let prepare = |at: &Place, platforms| {
            let repository = destination.repository(&at.repository)?;
            Ok(Image {
                source: source.clone(),
                reference: Reference {
                    registry: destination.registry.clone(),
                    repository: repository.clone(),
                    tag: at.tag.clone(),
                    digest: None,
                },
                platforms,
                place: Place { repository, tag: at.tag.clone() },
                alias: None,
                resolved: None,
                warnings: Vec::new(),
            })
        };
        if images.is_empty() {
            let everything = self.everything()?;
            if everything.is_empty() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "the directory",
                    "it holds no image: nothing to push",
                )
                .with_hint("saver ls --dir DIR shows what a directory holds"));
            }
            return everything.iter().map(|place| prepare(place, None)).collect();
        }
        let mut prepared = Vec::with_capacity(images.len());
        for PushImage { reference, platforms } in images {
            let (place, missing) = match self.options.names.find(&self.store, &reference) {
                Ok(place) => (place, None),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    (self.options.names.place(&reference)?, Some(Err(error)))
                }
                Err(error) => return Err(error),
            };
            let mut image = prepare(&place, platforms)?;
            (image.reference.digest, image.resolved) = (reference.digest, missing);
            prepared.push(image);
        }
        Ok(prepared)
    }

    /// Every tag of the tree.
    fn everything(&self) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for repository in self.store.repositories()? {
            for tag in self.store.tags(&repository)? {
                places.push(Place { repository: repository.clone(), tag: Some(tag) });
            }
        }
        Ok(places)
    }
}
