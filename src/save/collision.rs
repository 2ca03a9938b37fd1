//! Images that would have the same name in the tree.

use crate::content::document;
use crate::content::retry::RetryPolicy;
use crate::content::{Place, Resolved, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, PlatformSet, Reference};
use crate::transfer::{Image, IndexMode, Resolution};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::HashMap;
use std::sync::Arc;

/// Starts images that share a repository and tag only once all of their digests are known, and fails them if these differ.
///
/// Other images do not wait, so that a registry that does not respond delays only what might collide with its images. An image
/// whose digest cannot be resolved fails on its own and takes no name.
pub(crate) fn guard<S: Source>(images: &mut [Image<S>], index: IndexMode, retry: &RetryPolicy) {
    for numbers in sharing(images) {
        let members = numbers.iter().map(|number| Member::of(&images[*number])).collect();
        let outcome = settle(members, index, retry.clone()).map(Arc::new).boxed().shared();
        for (at, number) in numbers.into_iter().enumerate() {
            let own = outcome.clone().map(move |outcome| match &*outcome {
                Ok(resolved) => resolved[at].clone(),
                Err(collision) => Err(collision.clone()),
            });
            images[number].resolved = Some(Resolution::Pending(own.boxed().shared()));
        }
    }
}

/// Refuses images of different content that share a repository and tag. Their digests must be known.
///
/// # Errors
/// `InvalidInput` naming both images.
#[cfg(feature = "archive")]
pub(crate) fn check<S: Source>(images: &[Image<S>], index: IndexMode) -> Result<()> {
    for numbers in sharing(images) {
        let mut known: Option<(Member<S>, Digest)> = None;
        for member in numbers.into_iter().map(|number| Member::of(&images[number])) {
            let resolved = match &member.resolved {
                Some(Resolution::Known(Ok(resolved))) => Some(resolved.digest),
                _ => None,
            };
            let Some(digest) = member.reference.digest.or(resolved) else { continue };
            match &known {
                Some((other, theirs)) => compare((other, *theirs), (&member, digest), index)?,
                None => known = Some((member, digest)),
            }
        }
    }
    Ok(())
}

/// The images with the same place, by their indices.
fn sharing<S>(images: &[Image<S>]) -> Vec<Vec<usize>> {
    let mut by_place: HashMap<&Place, Vec<usize>> = HashMap::new();
    for (number, image) in images.iter().enumerate().filter(|(_, image)| image.place.tag.is_some()) {
        by_place.entry(&image.place).or_default().push(number);
    }
    let mut shared: Vec<_> = by_place.into_values().filter(|numbers| numbers.len() > 1).collect();
    shared.sort();
    shared
}

/// One of several images with the same place.
struct Member<S> {
    source: Arc<S>,
    reference: Reference,
    platforms: Option<PlatformSet>,
    place: Place,
    resolved: Option<Resolution>,
}

impl<S: Source> Member<S> {
    fn of(image: &Image<S>) -> Self {
        Self {
            source: image.source.clone(),
            reference: image.reference.clone(),
            platforms: image.platforms.clone(),
            place: image.place.clone(),
            resolved: image.resolved.clone(),
        }
    }

    /// What its tag names; `None` for an image that is pinned by digest.
    async fn resolve(&self, retry: &RetryPolicy) -> Result<Option<Resolved>> {
        match (&self.resolved, &self.reference.tag) {
            (Some(Resolution::Known(resolved)), _) => resolved.clone().map(Some),
            (Some(Resolution::Pending(resolved)), _) => resolved.clone().await,
            (None, _) if self.reference.digest.is_some() => Ok(None),
            (None, None) => Err(Error::new(
                ErrorKind::InvalidInput,
                &self.reference,
                "the name has neither tag nor digest",
            )),
            (None, Some(tag)) => {
                let resolve = || self.source.resolve(&self.reference.repository, tag);
                document::retrying(retry, resolve).await.map(Some)
            }
        }
    }
}

/// Resolves all `members`, or ends with the first two that differ.
async fn settle<S: Source>(
    members: Vec<Member<S>>,
    index: IndexMode,
    retry: RetryPolicy,
) -> Result<Vec<Result<Option<Resolved>>>> {
    let (members, retry) = (&members, &retry);
    let resolving =
        members.iter().enumerate().map(|(at, member)| async move { (at, member.resolve(retry).await) });
    let mut resolving: FuturesUnordered<_> = resolving.collect();
    let mut resolved: Vec<Result<Option<Resolved>>> = vec![Ok(None); members.len()];
    let mut first: Option<(&Member<S>, Digest)> = None;
    while let Some((at, result)) = resolving.next().await {
        let member = &members[at];
        let digest = member.reference.digest.or_else(|| Some(result.as_ref().ok()?.as_ref()?.digest));
        resolved[at] = result;
        let Some(digest) = digest else { continue };
        compare(*first.get_or_insert((member, digest)), (member, digest), index)?;
    }
    Ok(resolved)
}

fn compare<S>(
    (one, first): (&Member<S>, Digest),
    (two, second): (&Member<S>, Digest),
    index: IndexMode,
) -> Result<()> {
    let place = &one.place;
    if first != second {
        let message = format!(
            "{} ({first}) and {} ({second}) would both be {place} in the directory",
            one.reference, two.reference
        );
        return Err(Error::new(ErrorKind::InvalidInput, place, message)
            .with_hint("remove one of them, or keep their domains apart with --names domain"));
    }
    if index != IndexMode::Keep && one.platforms != two.platforms {
        let message = format!(
            "{} and {} would both be {place} in the directory, with indexes rewritten for different platforms",
            one.reference, two.reference
        );
        return Err(Error::new(ErrorKind::InvalidInput, place, message)
            .with_hint("give the platforms on one line, or use --index keep"));
    }
    Ok(())
}
