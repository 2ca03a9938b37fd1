//! Two images, one name in the tree: found before any blob is fetched.

use crate::content::document;
use crate::content::retry::RetryPolicy;
use crate::content::{Place, Resolved, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::transfer::{Image, IndexMode};
use futures::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};

/// How many images are resolved at once; their registries bound themselves below that.
const ASKED_AT_ONCE: usize = 32;

/// Resolves the images that share a repository and tag, and refuses those of different content.
///
/// An image whose digest can't be learned fails on its own when its turn comes: it can't take the name then.
///
/// # Errors
/// `InvalidInput` naming both images.
pub(crate) async fn check<S: Source>(
    images: &mut [Image<S>],
    index: IndexMode,
    retry: &RetryPolicy,
) -> Result<()> {
    let shared = sharing(images);
    let numbers: HashSet<usize> = shared.iter().flatten().copied().collect();
    let asked = images.iter_mut().enumerate().filter(|(number, _)| numbers.contains(number));
    stream::iter(asked)
        .for_each_concurrent(ASKED_AT_ONCE, |(_, image)| async move {
            if image.reference.digest.is_none() && image.resolved.is_none() {
                image.resolved = Some(learn(image, retry).await);
            }
        })
        .await;
    shared.iter().try_for_each(|numbers| compare(images, numbers, index))
}

/// The images that would have the same place, by their numbers.
fn sharing<S>(images: &[Image<S>]) -> Vec<Vec<usize>> {
    let mut by_place: HashMap<&Place, Vec<usize>> = HashMap::new();
    for (number, image) in images.iter().enumerate().filter(|(_, image)| image.place.tag.is_some()) {
        by_place.entry(&image.place).or_default().push(number);
    }
    let mut shared: Vec<_> = by_place.into_values().filter(|numbers| numbers.len() > 1).collect();
    shared.sort();
    shared
}

fn compare<S>(images: &[Image<S>], numbers: &[usize], index: IndexMode) -> Result<()> {
    let known = numbers.iter().filter_map(|number| {
        let image = &images[*number];
        let resolved = image.resolved.as_ref().and_then(|resolved| resolved.as_ref().ok());
        Some((image, image.reference.digest.or(resolved.map(|resolved| resolved.digest))?))
    });
    let mut first: Option<(&Image<S>, Digest)> = None;
    for (image, digest) in known {
        let (other, differs) = *first.get_or_insert((image, digest));
        let (one, two, place) = (&other.reference, &image.reference, &image.place);
        if differs != digest {
            let message = format!("{one} ({differs}) and {two} ({digest}) would both be {place} in the tree");
            return Err(Error::new(ErrorKind::InvalidInput, place, message)
                .with_hint("take one of them out, or keep their domains apart with --names domain"));
        }
        if index != IndexMode::Keep && other.platforms != image.platforms {
            let message = format!(
                "{one} and {two} are to be rewritten for different platforms, and both would be {place} in the tree"
            );
            return Err(Error::new(ErrorKind::InvalidInput, place, message)
                .with_hint("give the platforms on one line, or use --index keep"));
        }
    }
    Ok(())
}

async fn learn<S: Source>(image: &Image<S>, retry: &RetryPolicy) -> Result<Resolved> {
    let Some(tag) = &image.reference.tag else {
        return Err(Error::new(ErrorKind::InvalidInput, &image.reference, "neither tag nor digest"));
    };
    document::retrying(retry, || image.source.resolve(&image.reference.repository, tag)).await
}
