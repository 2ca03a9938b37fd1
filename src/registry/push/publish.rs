//! Manifests and tags: children first, the tag last.

use super::{Inner, Pusher};
use crate::content::{Publication, Sink, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::manifest::lacking;
use crate::oci::{Digest, Manifest, RawManifest, Repository, Tag};
use crate::registry::endpoint::Request;
use crate::registry::error::failure;
use crate::registry::manifest::content_digest;
use futures::future::try_join_all;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// What says that a manifest was taken: 201 (distribution-spec "Pushing Manifests"); registries that are older than the spec say 200 or
/// 202. Anything else was answered by something else than a registry, whatever it means by it.
const TAKEN: [StatusCode; 3] = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];

/// How often a manifest is put again that the registry says it lacks a part of, and how long is waited before.
const MISSED: usize = 3;
const MISSED_FOR: Duration = Duration::from_millis(200);

/// Puts `image` into each of its places.
pub(super) async fn publish(pusher: &Pusher, image: &Publication) -> Result<()> {
    let Some((root, below)) = image.manifests.split_last() else { return Ok(()) };
    for place in &image.places {
        let put = Put { pusher, image, repository: &place.repository };
        // Images need nothing but their blobs; indexes need what they name, in the order that they come in.
        let (indexes, images): (Vec<_>, Vec<_>) = below.iter().partition(|raw| is_index(raw));
        try_join_all(images.into_iter().map(|raw| put.by_digest(raw))).await?;
        for raw in indexes {
            put.by_digest(raw).await?;
        }
        match &place.tag {
            Some(tag) => put.by_tag(root, tag).await?,
            None => put.by_digest(root).await?,
        }
    }
    Ok(())
}

fn is_index(raw: &RawManifest) -> bool {
    matches!(raw.parse(), Ok(Manifest::Index(_)))
}

/// Why a manifest is not there now, and the status that refused it, where one did.
struct NotTaken {
    error: Error,
    status: Option<StatusCode>,
}

impl From<Error> for NotTaken {
    fn from(error: Error) -> Self {
        Self { error, status: None }
    }
}

/// Manifests of one image on their way to one repository.
struct Put<'a> {
    pusher: &'a Pusher,
    image: &'a Publication,
    repository: &'a Repository,
}

impl Put<'_> {
    fn inner(&self) -> &Inner {
        &self.pusher.0
    }

    /// The turn of who puts a manifest. Never is one put twice at once: a registry that writes its links in place (docker-registry) would
    /// have one of them empty for a moment, and refuse the index that names it.
    async fn turn(&self, raw: &RawManifest) -> OwnedMutexGuard<()> {
        let key = (self.repository.clone(), raw.digest);
        let turn = self.inner().known().turns.entry(key).or_default().clone();
        turn.lock_owned().await
    }

    /// Puts a manifest unless it is there.
    async fn by_digest(&self, raw: &RawManifest) -> Result<()> {
        let _turn = self.turn(raw).await;
        if self.inner().known().revisions.contains(&(self.repository.clone(), raw.digest)) {
            return Ok(());
        }
        self.put(raw, &Target::Digest(raw.digest)).await.map_err(|not_taken| not_taken.error)
    }

    async fn by_tag(&self, raw: &RawManifest, tag: &Tag) -> Result<()> {
        let _turn = self.turn(raw).await;
        let Err(NotTaken { error, status }) = self.put(raw, &Target::Tag(tag.clone())).await else {
            return Ok(());
        };
        if error.kind().is_retryable() {
            return Err(error);
        }
        // A tag that may not be moved, and need not be.
        match self.pusher.tag(self.repository, tag).await {
            Ok(Some(now)) if now == raw.digest => Ok(()),
            Ok(Some(now)) if is_about_tags(status, &error) => Err(self.fixed(tag, now, &error)),
            _ => Err(error),
        }
    }

    fn fixed(&self, tag: &Tag, now: Digest, error: &Error) -> Error {
        let message = format!(
            "the tag {tag} names {now} there, and the registry lets it not be moved: {}",
            error.message()
        );
        failure(ErrorKind::Unsupported, self.inner().subject(self.repository, tag), message)
            .with_hint("push it under another tag, or have the registry's operator make this one mutable")
    }

    /// Puts a manifest; more than once where the registry misses what it was just given. docker-registry writes its links in place, so
    /// one is empty for a moment whenever another pushes the same blob or manifest into the same repository.
    async fn put(&self, raw: &RawManifest, target: &Target) -> Result<(), NotTaken> {
        for _ in 0..MISSED {
            match self.put_once(raw, target).await {
                Err(NotTaken { error, .. })
                    if error.message().contains("BLOB_UNKNOWN")
                        && lacking(raw, &self.image.manifests).is_none() =>
                {
                    tracing::debug!(%error, "putting it once more");
                    tokio::time::sleep(MISSED_FOR).await;
                }
                done => return done,
            }
        }
        self.put_once(raw, target).await
    }

    async fn put_once(&self, raw: &RawManifest, target: &Target) -> Result<(), NotTaken> {
        let subject = self.inner().subject(self.repository, target);
        let media_type = HeaderValue::from_str(&raw.media_type).map_err(|_| {
            let message = format!("its media type {:?} can't be told to a registry", raw.media_type);
            failure(ErrorKind::Unsupported, &subject, message)
        })?;
        let path = format!("manifests/{target}");
        let request = Request::new(&subject, self.repository, Method::PUT, &path);
        let headers = vec![(CONTENT_TYPE, media_type)];
        let endpoint = &self.inner().endpoint;
        let answer = endpoint.send(Request { headers, body: Some(raw.bytes.clone()), ..request }).await?;
        let status = answer.response.status();
        if !TAKEN.contains(&status) {
            let error = endpoint.refusal(&subject, self.repository, answer.response).await;
            let error = self.sparse(raw, &error).unwrap_or(error);
            return Err(NotTaken { error, status: Some(status) });
        }
        answer.permit.succeeded();
        if let Some(digest) = content_digest(answer.response.headers()).filter(|digest| *digest != raw.digest)
        {
            let message =
                format!("the registry keeps it as {digest}, not as {}: it changed the bytes", raw.digest);
            return Err(failure(ErrorKind::Corrupt, &subject, message).into());
        }
        self.inner().known().revisions.insert((self.repository.clone(), raw.digest));
        Ok(())
    }

    /// What to say where an index was refused that names more than is pushed.
    fn sparse(&self, raw: &RawManifest, error: &Error) -> Option<Error> {
        if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) {
            return None;
        }
        let names = lacking(raw, &self.image.manifests)?.names;
        let message = format!(
            "the registry takes an index only whole, and this one would come without {names}: {}",
            error.message()
        );
        let hint = "--index prune pushes an index of what is here (another digest), --index flatten one platform's image; or send the rest with it (--arch all), which has to be saved before (attestations with --attestations)";
        Some(failure(ErrorKind::Unsupported, error.subject(), message).with_hint(hint))
    }
}

/// Whether a refusal is for the tag's sake: by its status, or in the words that registries have for it.
fn is_about_tags(status: Option<StatusCode>, error: &Error) -> bool {
    let statuses = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
    let words = error.message().to_ascii_lowercase();
    status.is_some_and(|status| statuses.contains(&status))
        || ["immutable", "already exist", "overwrit", "protected"].iter().any(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_reads_like_a_status_is_none() {
        for (status, message, expected) in [
            (400, "blob sha256:409412405 is unknown", false),
            (400, "status 400: the tag is immutable", true),
            (405, "not allowed", true),
            (409, "no", true),
            (412, "no", true),
        ] {
            let error = failure(ErrorKind::Unsupported, "r.io/a:1", message.to_owned());
            assert_eq!(is_about_tags(StatusCode::from_u16(status).ok(), &error), expected, "{message}");
        }
    }
}
