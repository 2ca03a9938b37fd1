//! Two images, one name in the tree: found before any blob is fetched.

use crate::content::retry::{Attempts, RetryPolicy};
use crate::content::{Place, Resolved, Source};
use crate::copy::{Image, IndexMode};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use std::collections::HashMap;

/// Resolves the images that share a repository and tag, and refuses those of different content. One whose digest can't be learned
/// can't be saved either, and so is in nobody's way: it fails by itself.
///
/// # Errors
/// `InvalidInput` naming both images.
pub(super) async fn check<S: Source>(
    images: &mut [Image<S>],
    index: IndexMode,
    retry: &RetryPolicy,
) -> Result<()> {
    let mut by_place: HashMap<Place, Vec<usize>> = HashMap::new();
    for (number, image) in images.iter().enumerate().filter(|(_, image)| image.place.tag.is_some()) {
        by_place.entry(image.place.clone()).or_default().push(number);
    }
    for (place, numbers) in by_place.into_iter().filter(|(_, numbers)| numbers.len() > 1) {
        let mut first: Option<(usize, Digest)> = None;
        for number in numbers {
            let Some(digest) = learn(&mut images[number], retry).await else { continue };
            let Some((other, same)) = first else {
                first = Some((number, digest));
                continue;
            };
            let (one, two) = (&images[other], &images[number]);
            if same != digest {
                let (one, two) = (&one.reference, &two.reference);
                let message =
                    format!("{one} ({same}) and {two} ({digest}) would both be {place} in the tree");
                return Err(Error::new(ErrorKind::InvalidInput, &place, message)
                    .with_hint("take one of them out, or keep their domains apart with --names domain"));
            }
            if index != IndexMode::Keep && one.platforms != two.platforms {
                let message = format!(
                    "{} and {} are to be rewritten for different platforms, and both would be {place} in the tree",
                    one.reference, two.reference
                );
                return Err(Error::new(ErrorKind::InvalidInput, &place, message)
                    .with_hint("give the platforms on one line, or use --index keep"));
            }
            tracing::debug!(%place, one = %one.reference, two = %two.reference, "two names for one image");
        }
    }
    Ok(())
}

/// The image's digest; none when it can't be learned, which the image then carries.
async fn learn<S: Source>(image: &mut Image<S>, retry: &RetryPolicy) -> Option<Digest> {
    if image.reference.digest.is_some() {
        return image.reference.digest;
    }
    let tag = image.reference.tag.as_ref()?;
    let mut attempts = Attempts::new(retry);
    let resolved: Result<Resolved> = loop {
        match image.source.resolve(&image.reference.repository, tag).await {
            Ok(resolved) => break Ok(resolved),
            Err(error) => match attempts.after(error) {
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(error) => break Err(error),
            },
        }
    };
    let digest = resolved.as_ref().ok().map(|resolved| resolved.digest);
    image.resolved = Some(resolved);
    digest
}
