//! Saving one image, and looking up its digest.

use super::{ImageSaver, NameRule, SaveImage, SaveOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference};
use crate::store::Store;
use crate::transfer::{ImageReport, Status};
use std::path::Path;

impl ImageSaver {
    /// Saves one image and returns its row of the report.
    ///
    /// # Errors
    /// The reason why the image could not be saved: `NotFound` when it does not exist, `Cancelled` when the options'
    /// token was cancelled.
    pub async fn pull<T>(&self, image: T) -> Result<ImageReport>
    where
        T: TryInto<SaveImage, Error: Into<Error>>,
    {
        let image = image.try_into().map_err(Into::into)?;
        let name = image.reference.to_string();
        let mut report = self.save([image]).await?;
        match report.images.pop() {
            Some(ImageReport { error: Some(why), .. }) => {
                // The reason that ended the run is more specific than "cancelled".
                let why = report.aborted.filter(|_| why.kind == ErrorKind::Cancelled).unwrap_or(why);
                Err(Error::from(&why))
            }
            Some(row) if matches!(row.status, Status::Saved | Status::Unchanged) => Ok(row),
            _ => Err(Error::new(ErrorKind::Unavailable, name, "not saved")),
        }
    }

    /// The digest of `image`, an index's or a manifest's, in the directory; `None` when it was not saved. Does not
    /// contact the registry.
    ///
    /// # Errors
    /// `Storage` when the directory cannot be read.
    pub fn digest(&self, image: &Reference) -> Result<Option<Digest>> {
        digest_in(&self.store, image, &self.names)
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

/// Saves one image and returns its digest in the directory.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// let options = saver::SaveOptions::new("/var/lib/registry").with_platforms("amd64")?;
/// let digest = saver::pull_image("nginx:1.27", options).await?;
/// assert_eq!(saver::local_digest("nginx:1.27", "/var/lib/registry")?, Some(digest));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`ImageSaver::new`] and [`ImageSaver::pull`].
pub async fn pull_image<T>(image: T, options: SaveOptions) -> Result<Digest>
where
    T: TryInto<SaveImage, Error: Into<Error>>,
{
    let row = ImageSaver::new(options)?.pull(image).await?;
    row.digest.ok_or_else(|| Error::new(ErrorKind::NotFound, &row.reference, "saved without a digest"))
}

/// The digest of `image` in the directory `dir`; `None` when it was not saved. Does not contact the registry.
///
/// # Errors
/// `InvalidInput` for a name that cannot be parsed; `Storage` when the directory cannot be read.
pub fn local_digest<R>(image: R, dir: impl AsRef<Path>) -> Result<Option<Digest>>
where
    R: TryInto<Reference, Error: Into<Error>>,
{
    let image = image.try_into().map_err(Into::into)?;
    let store = Store::open_read_only(dir.as_ref())?;
    digest_in(&store, &image, &NameRule::of(&store, None)?)
}
