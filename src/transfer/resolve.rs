//! From the name of an image to the digest that is transferred.

use super::pinned::drift;
use super::stats::ImageStats;
use super::{Engine, Image, Resolution};
use crate::content::{Resolved, Sink, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, RawManifest, Reference};

impl<K: Sink> Engine<K> {
    /// The digest to transfer, and its manifest if resolving it took fetching it.
    pub(super) async fn resolve<S: Source>(
        &self,
        image: &Image<S>,
        stats: &ImageStats,
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
                None => {
                    Err(Error::new(ErrorKind::InvalidInput, reference, "the name has neither tag nor digest"))
                }
            }
        };
        let Some(pinned) = reference.digest else {
            let resolved = self.attempt(stats, reference, ask).await?;
            return Ok((resolved.digest, resolved.manifest));
        };
        if let Some(tag) = &reference.tag {
            let asked = match &image.pinned {
                Some(_) => self.attempt(stats, reference, ask).await,
                None => ask().await,
            };
            let now = match asked {
                Ok(resolved) => Some(resolved.digest),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                // Without a lock file the tag is only asked for to report that it has moved.
                Err(error) if image.pinned.is_some() => return Err(error),
                Err(_) => Some(pinned),
            };
            if now != Some(pinned) && image.pinned.is_some() {
                return Err(drift(
                    reference,
                    format!("the tag {tag} differs from the lock file"),
                    pinned,
                    now,
                ));
            }
            match now {
                Some(now) if now != pinned => warnings.push(format!(
                    "the tag {tag} now names {now} at the registry; the pinned digest is used"
                )),
                None => warnings.push(format!(
                    "the tag {tag} no longer exists at the registry; the pinned digest is used"
                )),
                Some(_) => {}
            }
        }
        Ok((pinned, None))
    }

    /// The current target of the tag, if `error` says that a manifest is missing and the tag has moved since it was resolved:
    /// registries may delete a manifest as soon as no tag names it.
    pub(super) async fn moved<S: Source>(
        &self,
        image: &Image<S>,
        digest: Digest,
        error: &Error,
        stats: &ImageStats,
    ) -> Option<Resolved> {
        let Reference { repository, tag: Some(tag), digest: None, .. } = &image.reference else {
            return None;
        };
        if error.kind() != ErrorKind::NotFound || matches!(image.resolved, Some(Resolution::Known(_))) {
            return None;
        }
        let resolved = self.attempt(stats, &image.reference, || image.source.resolve(repository, tag)).await;
        resolved.ok().filter(|resolved| resolved.digest != digest)
    }
}
