//! Two images, one name in the tree: found before any blob is fetched.

use crate::content::retry::{Attempts, RetryPolicy};
use crate::content::{Place, Resolved, Source};
use crate::copy::Image;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use std::collections::HashMap;

/// Resolves the images that share a repository and tag, and refuses those of different content.
///
/// # Errors
/// `InvalidInput` naming both images. An image whose digest can't be learned fails the check too: it could be either.
pub(super) async fn check<S: Source>(images: &mut [Image<S>], retry: &RetryPolicy) -> Result<()> {
    let mut by_place: HashMap<Place, Vec<usize>> = HashMap::new();
    for (number, image) in images.iter().enumerate().filter(|(_, image)| image.place.tag.is_some()) {
        by_place.entry(image.place.clone()).or_default().push(number);
    }
    for (place, numbers) in by_place.into_iter().filter(|(_, numbers)| numbers.len() > 1) {
        let mut first: Option<(usize, Digest)> = None;
        for number in numbers {
            let digest = learn(&mut images[number], retry).await?;
            match first {
                None => first = Some((number, digest)),
                Some((other, same)) if same == digest => {
                    tracing::debug!(%place, other = %images[other].reference, "two names for one image");
                }
                Some((other, differs)) => {
                    let (one, two) = (&images[other].reference, &images[number].reference);
                    let message =
                        format!("{one} ({differs}) and {two} ({digest}) would both be {place} in the tree");
                    return Err(Error::new(ErrorKind::InvalidInput, &place, message)
                        .with_hint("take one of them out, or keep their domains apart with --names domain"));
                }
            }
        }
    }
    Ok(())
}

async fn learn<S: Source>(image: &mut Image<S>, retry: &RetryPolicy) -> Result<Digest> {
    if let Some(digest) = image.reference.digest {
        return Ok(digest);
    }
    let Some(tag) = &image.reference.tag else {
        return Err(Error::new(ErrorKind::InvalidInput, &image.reference, "neither tag nor digest"));
    };
    let mut attempts = Attempts::new(retry);
    let resolved: Resolved = loop {
        match image.source.resolve(&image.reference.repository, tag).await {
            Ok(resolved) => break resolved,
            Err(error) => tokio::time::sleep(attempts.after(error)?).await,
        }
    };
    let digest = resolved.digest;
    image.resolved = Some(resolved);
    Ok(digest)
}
