//! One image: brought in one call, and its digest asked for in another.

use super::{ImageSaver, NameRule, SaveImage, SaveOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference};
use crate::store::Store;
use crate::transfer::{ImageReport, Status};
use std::future::Future;
use std::path::Path;

impl ImageSaver {
    /// Saves one image, and answers its row.
    ///
    /// # Errors
    /// Why the image could not be had; `NotFound` when it is not there for the platforms asked for.
    pub async fn pull(&self, image: SaveImage) -> Result<ImageReport> {
        self.pull_until(image, std::future::pending()).await
    }

    /// As [`pull`](Self::pull), until `stop` is ready: then the image is given up, unless it is just being published.
    ///
    /// # Errors
    /// As `pull`; `Cancelled` when it was given up.
    pub async fn pull_until(&self, image: SaveImage, stop: impl Future<Output = ()>) -> Result<ImageReport> {
        let name = image.reference.to_string();
        let mut report = self.save_until(vec![image], stop).await?;
        match report.images.pop() {
            Some(ImageReport { error: Some(why), .. }) => {
                // What ended the run says more than that it has ended.
                let why = report.aborted.filter(|_| why.kind == ErrorKind::Cancelled).unwrap_or(why);
                Err(Error::from(&why))
            }
            Some(row) if matches!(row.status, Status::Saved | Status::Unchanged) => Ok(row),
            _ => Err(Error::new(ErrorKind::Unavailable, name, "it was not saved")),
        }
    }

    /// The digest that `image` has in the tree, an index's or a manifest's, where [`NameRule::find`] finds it; none when it is not there.
    /// Nothing is asked of its registry.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub fn digest(&self, image: &Reference) -> Result<Option<Digest>> {
        digest_in(&self.store, image, &self.options.names)
    }
}

fn digest_in(store: &Store, image: &Reference, names: &NameRule) -> Result<Option<Digest>> {
    let place = match names.find(store, image) {
        Ok(place) => place,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match (&image.digest, &place.tag) {
        (Some(digest), _) => Ok(Some(*digest)),
        (None, Some(tag)) => store.read_tag(&place.repository, tag),
        (None, None) => Ok(None),
    }
}

/// Saves the one image `name` and answers the digest that it has in the tree.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// let mut options = saver::SaveOptions::new("/var/lib/registry");
/// options.copy.platforms = "amd64".parse()?;
/// // options.observer is told of progress.
/// let digest = saver::pull_image("nginx:1.27", options).await?;
/// assert_eq!(saver::local_digest("nginx:1.27", "/var/lib/registry")?, Some(digest));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`ImageSaver::new`] and [`ImageSaver::pull`]; `InvalidInput` for what is no name.
pub async fn pull_image(name: &str, options: SaveOptions) -> Result<Digest> {
    let reference = Reference::parse(name)?;
    let row = ImageSaver::new(options)?.pull(SaveImage::from(reference)).await?;
    row.digest.ok_or_else(|| Error::new(ErrorKind::NotFound, name, "it was saved without a digest"))
}

/// The digest that the image `name` has in the tree in `dir`; none when it is not there. Nothing is asked of its registry. For a
/// tree whose names are not the default ones, use [`ImageSaver::digest`].
///
/// # Errors
/// `InvalidInput` for what is no name; `Storage` when the directory can't be opened or read.
pub fn local_digest(name: &str, dir: impl AsRef<Path>) -> Result<Option<Digest>> {
    let store = Store::open_read_only(dir.as_ref())?;
    digest_in(&store, &Reference::parse(name)?, &NameRule::default())
}
