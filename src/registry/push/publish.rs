//! Uploads manifests and tags: children first, the tag last.

use super::{Inner, Pusher};
use crate::content::{Publication, ReferrerList, Sink, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::manifest::omitted;
use crate::oci::referrer;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};
use crate::registry::endpoint::Request;
use crate::registry::manifest::content_digest;
use crate::registry::message::failure;
use crate::registry::referrers::KnownReferrers;
use futures::future::try_join_all;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// The statuses of an accepted manifest: 201 (distribution-spec "Pushing Manifests"), and 200 or 202 from registries that are
/// older than the specification.
const ACCEPTED: [StatusCode; 3] = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];

/// How often a manifest is sent again after the registry did not find a part of it, and the delay before that.
const PART_RETRIES: usize = 3;
const PART_RETRY_DELAY: Duration = Duration::from_millis(200);

/// How often a list of referrers is merged and sent again because another client has replaced it.
const LIST_RETRIES: usize = 8;

/// The header of the response to a manifest that a registry lists as a referrer (distribution-spec, "Pushing Manifests with
/// Subject").
const OCI_SUBJECT: &str = "oci-subject";

/// Uploads the manifests and tags of `image` to each of its places.
pub(super) async fn publish(pusher: &Pusher, image: &Publication) -> Result<()> {
    let Some((root, below)) = image.manifests.split_last() else { return Ok(()) };
    for place in &image.places {
        let upload = ManifestUpload { pusher, image, repository: &place.repository };
        // Images need only their blobs; indexes need their children, which come before them.
        let (indexes, images): (Vec<_>, Vec<_>) = below.iter().partition(|raw| is_index(raw));
        try_join_all(images.into_iter().map(|raw| upload.by_digest(raw))).await?;
        for raw in indexes {
            upload.by_digest(raw).await?;
        }
        for (tag, digest) in &image.referrers.tags {
            if let Some(raw) = below.iter().find(|raw| raw.digest == *digest) {
                upload.by_tag(raw, &tag.tag()).await?;
            }
        }
        for list in &image.referrers.lists {
            upload.list(list).await?;
        }
        match &place.tag {
            Some(tag) => upload.by_tag(root, tag).await?,
            None => upload.by_digest(root).await?,
        }
    }
    Ok(())
}

fn is_index(raw: &RawManifest) -> bool {
    matches!(raw.parse(), Ok(Manifest::Index(_)))
}

/// The upload of one image's manifests to one repository.
pub(super) struct ManifestUpload<'a> {
    pub(super) pusher: &'a Pusher,
    pub(super) image: &'a Publication,
    pub(super) repository: &'a Repository,
}

impl ManifestUpload<'_> {
    fn inner(&self) -> &Inner {
        &self.pusher.0
    }

    /// Serialises the uploads of one manifest: docker-registry writes links in place, so that a link is empty for a moment
    /// while another upload of the same manifest writes it, and an index that names it is refused.
    async fn lock(&self, raw: &RawManifest) -> OwnedMutexGuard<()> {
        let key = (self.repository.clone(), raw.digest);
        let lock = self.inner().known().upload_locks.entry(key).or_default().clone();
        lock.lock_owned().await
    }

    /// Uploads a manifest unless it exists.
    async fn by_digest(&self, raw: &RawManifest) -> Result<()> {
        let _lock = self.lock(raw).await;
        if self.inner().known().revisions.contains(&(self.repository.clone(), raw.digest)) {
            return Ok(());
        }
        self.put(raw, &Target::Digest(raw.digest)).await
    }

    /// Adds to the list of referrers of a manifest, where the registry does not keep it by itself: reads the index of the fallback
    /// tag, merges and uploads it, until it has all of them. Other clients may write it at the same time.
    async fn list(&self, list: &ReferrerList) -> Result<()> {
        let ReferrerList { subject, referrers } = list;
        let listed = |referrer: &Descriptor| (self.repository.clone(), referrer.digest);
        if referrers.iter().all(|referrer| self.inner().known().listed.contains(&listed(referrer))) {
            return Ok(());
        }
        let tag = Tag::referrers(subject);
        let name = self.inner().subject(self.repository, &tag);
        let key = (self.repository.clone(), *subject);
        let lock = self.inner().known().upload_locks.entry(key).or_default().clone();
        let _lock = lock.lock_owned().await;
        for _ in 0..LIST_RETRIES {
            let known = self.inner().endpoint.referrer_list(&name, self.repository, subject).await?;
            let index = match &known {
                // The registry has the API; it lists what it was sent.
                KnownReferrers::Api(_) => return Ok(()),
                known if known.contains(referrers) => return Ok(()),
                KnownReferrers::Fallback(index) => index.as_ref(),
            };
            let merged = referrer::merge(index, referrers)?;
            match self.put(&merged, &Target::Tag(tag.clone())).await {
                Err(error) if !matches!(error.http_status(), Some(409 | 412)) => return Err(error),
                _ => {}
            }
        }
        let message = "other clients keep replacing the list of referrers";
        Err(failure(ErrorKind::Unavailable, &name, message))
    }

    async fn by_tag(&self, raw: &RawManifest, tag: &Tag) -> Result<()> {
        let _lock = self.lock(raw).await;
        let Err(error) = self.put(raw, &Target::Tag(tag.clone())).await else {
            return Ok(());
        };
        if error.kind().is_retryable() {
            return Err(error);
        }
        // A tag that may not be moved is no error if it need not be.
        match self.pusher.tag(self.repository, tag).await {
            Ok(Some(now)) if now == raw.digest => Ok(()),
            Ok(Some(now)) if is_immutable_tag(&error) => Err(self.immutable_tag(tag, now, error)),
            _ => Err(error),
        }
    }

    fn immutable_tag(&self, tag: &Tag, now: Digest, error: Error) -> Error {
        error
            .context(format!("the registry refused to move the tag {tag}, which names {now}"))
            .with_kind(ErrorKind::Unsupported)
            .with_hint("push under another tag, or ask the registry's operator to make this tag mutable")
    }

    /// Uploads a manifest; repeatedly where the registry does not find what was just uploaded. docker-registry writes links in
    /// place, so that a link is empty for a moment while another client pushes the same content to the same repository.
    async fn put(&self, raw: &RawManifest, target: &Target) -> Result<()> {
        for _ in 0..PART_RETRIES {
            match self.put_once(raw, target).await {
                Err(error) if has_unknown_part(&error) && omitted(raw, &self.image.manifests).is_none() => {
                    tracing::debug!(%error, "sending the manifest again");
                    tokio::time::sleep(PART_RETRY_DELAY).await;
                }
                done => return done,
            }
        }
        self.put_once(raw, target).await
    }

    /// Uploads a manifest in one attempt.
    pub(super) async fn put_once(&self, raw: &RawManifest, target: &Target) -> Result<()> {
        let subject = self.inner().subject(self.repository, target);
        let media_type = HeaderValue::from_str(&raw.media_type).map_err(|_| {
            let message = format!("its media type {:?} is not allowed in a header", raw.media_type);
            failure(ErrorKind::Unsupported, &subject, message)
        })?;
        let path = format!("manifests/{target}");
        let request = Request::new(&subject, self.repository, Method::PUT, &path);
        let headers = vec![(CONTENT_TYPE, media_type)];
        let endpoint = &self.inner().endpoint;
        let answer = endpoint.send(Request { headers, body: Some(raw.bytes.clone()), ..request }).await?;
        let status = answer.response.status();
        if !ACCEPTED.contains(&status) {
            let error = endpoint.refusal(&subject, self.repository, answer.response).await;
            return Err(self.sparse(raw, error));
        }
        answer.permit.record_success();
        if let Some(digest) = content_digest(answer.response.headers()).filter(|digest| *digest != raw.digest)
        {
            let message =
                format!("the registry stored it as {digest}, not as {}: it changed the content", raw.digest);
            return Err(failure(ErrorKind::Corrupt, &subject, message));
        }
        let key = (self.repository.clone(), raw.digest);
        if answer.response.headers().contains_key(OCI_SUBJECT) {
            self.inner().known().listed.insert(key.clone());
        }
        self.inner().known().revisions.insert(key);
        Ok(())
    }

    /// Explains `error` where an index was refused that names more than is pushed.
    fn sparse(&self, raw: &RawManifest, error: Error) -> Error {
        // Registries refuse an incomplete index with 400, 404 or 422; 405, 409, 412 and 413 have other reasons.
        if !matches!(error.http_status(), Some(400 | 404 | 422)) {
            return error;
        }
        let Some(missing) = omitted(raw, &self.image.manifests) else { return error };
        let names = missing.names;
        let message = format!(
            "the registry accepts only complete indexes, and this one would be pushed without {names}"
        );
        let hint = "--index prune pushes an index of what is here (another digest), --index flatten one platform's image; or save the whole image first (--arch all) and push it whole";
        error.context(message).with_kind(ErrorKind::Unsupported).with_hint(hint)
    }
}

/// Whether the registry says that it misses a blob or manifest that the pushed manifest names.
fn has_unknown_part(error: &Error) -> bool {
    ["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"].iter().any(|code| error.has_code(code))
}

/// Whether a tag was refused because it may not be moved. The specification has no code for this: registries answer with
/// 405, 409 or 412, or with 400 and a code about tags (Amazon ECR: `TAG_INVALID`).
fn is_immutable_tag(error: &Error) -> bool {
    let codes = ["TAG_INVALID", "TAG_ALREADY_EXISTS", "TAG_IMMUTABLE", "IMMUTABLE_TAG"];
    matches!(error.http_status(), Some(405 | 409 | 412)) || codes.iter().any(|code| error.has_code(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Detail, Phase, RegistryError};

    #[test]
    fn immutable_tag_is_known_by_status_and_code_alone() {
        for (status, code, message, expected) in [
            (400, "BLOB_UNKNOWN", "blob sha256:409412405 is unknown", false),
            (400, "TAG_INVALID", "", true),
            (400, "MANIFEST_INVALID", "the image already exists and is immutable", false),
            (403, "DENIED", "quota exceeded for team/protected", false),
            (405, "", "", true),
            (409, "CONFLICT", "", true),
            (412, "PRECONDITION", "", true),
        ] {
            let errors = vec![RegistryError { code: code.to_owned(), message: message.to_owned() }];
            let url = "https://r.io/v2/team/protected/manifests/v1".to_owned();
            let (phase, status) = (Phase::Headers, Some(status));
            let detail = Detail::Http { url, phase, status, errors, web_page: false };
            let error = Error::from_detail(ErrorKind::Unsupported, "r.io/team/protected:v1", detail);
            assert_eq!(is_immutable_tag(&error), expected, "{error}");
        }
    }
}
