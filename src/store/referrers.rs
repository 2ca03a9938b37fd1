//! Lists of referrers: each is an index that the tag `sha256-<hex>` names, as registries without a referrers API are read
//! (distribution-spec, "Referrers Tag Schema").
//!
//! A list is merged with what is there, and several images and processes may add to one list at the same time. So a publication holds
//! a lock for each list that it changes, until its tags are written
//! ([`publication_locks`](super::publication_locks)).

use super::Store;
use crate::content::{Place, Publication, Referrer, ReferrerList};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{self, ReferrerTag, ReferrerTagKind};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};

impl Store {
    /// What refers to `subject`, according to its list and to the tags of cosign.
    pub(super) fn referrers_of(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let mut found = Vec::new();
        for entry in self.listed_referrers(repository, subject)? {
            if self.has_revision(repository, &entry.digest)? {
                found.push(Referrer::Listed(entry));
            }
        }
        for kind in ReferrerTagKind::COSIGN {
            let tag = ReferrerTag { subject: *subject, kind };
            if self.read_tag(repository, &tag.tag())?.is_some() {
                found.push(Referrer::Tagged(tag));
            }
        }
        Ok(found)
    }

    /// The entries of the list of `subject`.
    ///
    /// # Errors
    /// `Storage` if the tree can't be read.
    pub fn listed_referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>> {
        Ok(entries(self.referrer_index(repository, subject)?.as_ref()))
    }

    /// Whether the list of `subject` has all of `referrers`, and the repository too.
    pub(super) fn lists(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<bool> {
        if !referrer::has_all(&self.listed_referrers(repository, subject)?, referrers) {
            return Ok(false);
        }
        for referrer in referrers {
            if !self.has_revision(repository, &referrer.digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The list of `subject` with `referrers`, if it does not have all of them yet.
    pub(super) fn merged_list(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<Option<RawManifest>> {
        let index = self.referrer_index(repository, subject)?;
        if referrer::has_all(&entries(index.as_ref()), referrers) {
            return Ok(None);
        }
        referrer::merge(index.as_ref(), referrers).map(Some)
    }

    /// Refuses to replace a list of referrers by an image that was saved under its tag, and such an image by a list.
    pub(super) fn check_lists(&self, image: &Publication) -> Result<()> {
        for place in &image.places {
            let named = place.tag.as_ref().and_then(ReferrerTag::parse);
            if let Some(ReferrerTag { subject, kind: ReferrerTagKind::Fallback }) = named {
                let listed = self.listed_referrers(&place.repository, &subject)?;
                if !referrer::has_all(&entries(image.manifests.last().map(|root| &**root)), &listed) {
                    let why =
                        format!("the tag has the list of what refers to {subject}, and this image is not");
                    return Err(list_conflict(place, &why).with_hint("leave this image out"));
                }
            }
            for ReferrerList { subject, .. } in &image.referrers.lists {
                let tag = Tag::referrers(subject);
                if let Some(digest) = self.read_tag(&place.repository, &tag)?
                    && self.is_image(&digest, subject)?
                {
                    let why =
                        format!("what refers to it is listed under the tag {tag}, which names an image");
                    return Err(list_conflict(place, &why).with_hint(
                        "remove that image (saver rm), or leave out what refers to this one (--referrers none)",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether `digest`, under the tag of the list of `subject`, is an image instead.
    fn is_image(&self, digest: &Digest, subject: &Digest) -> Result<bool> {
        if digest == subject {
            return Ok(true);
        }
        let content = self.read_content(digest, MAX_MANIFEST_SIZE)?;
        let manifest = content.and_then(|bytes| RawManifest::verified(bytes, *digest).ok()?);
        Ok(matches!(manifest, Some((_, Manifest::Image(_)))))
    }

    /// The index that the tag of the list names; `None` if there is none, or it is damaged and has to be written again.
    fn referrer_index(&self, repository: &Repository, subject: &Digest) -> Result<Option<RawManifest>> {
        let tag = Tag::referrers(subject);
        let Some(digest) = self.read_tag(repository, &tag)? else { return Ok(None) };
        if digest == *subject {
            // Some tools tag images by their own digest.
            return Ok(None);
        }
        let Some(bytes) = self.read_content(&digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
        match RawManifest::verified(bytes, digest) {
            Ok(Some((raw, Manifest::Index(_)))) => Ok(Some(raw)),
            _ => Ok(None),
        }
    }
}

fn list_conflict(place: &Place, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, place, why)
}

/// The entries of a list; none if there is no list.
fn entries(list: Option<&RawManifest>) -> Vec<Descriptor> {
    match list.and_then(|list| list.parse().ok()) {
        Some(Manifest::Index(index)) => index.manifests,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{PublishedReferrers, Sink};
    use crate::driver::MemoryDriver;
    use crate::oci::media_type;
    use crate::store::StoreOptions;
    use std::sync::Arc;

    fn store() -> Store {
        Store::with_driver(Arc::new(MemoryDriver::new()), StoreOptions::default())
    }

    fn manifest(json: &str) -> Arc<RawManifest> {
        Arc::new(RawManifest::new(json.to_owned().into(), None).unwrap())
    }

    fn index(entries: &str) -> Arc<RawManifest> {
        let media_type = media_type::OCI_INDEX;
        manifest(&format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{entries}]}}"#))
    }

    fn image() -> Arc<RawManifest> {
        let (media_type, digest) = (media_type::OCI_MANIFEST, Digest::of(b"config"));
        let config = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":6}}"#, media_type::OCI_CONFIG);
        manifest(&format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[]}}"#
        ))
    }

    fn publication(tag: &str, manifests: Vec<Arc<RawManifest>>) -> Publication {
        let place = Place { repository: "app".parse().unwrap(), tag: Some(tag.parse().unwrap()) };
        Publication { places: vec![place], manifests, ..Publication::default() }
    }

    /// An image with a referrer.
    fn signed() -> (Publication, Descriptor) {
        let (root, signature) = (index(""), image());
        let entry = Descriptor::new(media_type::OCI_MANIFEST, signature.digest, signature.bytes.len() as u64);
        let list = ReferrerList { subject: root.digest, referrers: vec![entry.clone()] };
        let referrers = PublishedReferrers { lists: vec![list], ..PublishedReferrers::default() };
        (Publication { referrers, ..publication("1.0", vec![signature, root]) }, entry)
    }

    #[tokio::test]
    async fn list_and_image_of_one_tag_do_not_replace_each_other() {
        let (signed, entry) = signed();
        let subject = signed.root().unwrap();
        let tag = Tag::referrers(&subject);
        let entry = serde_json::to_string(&entry).unwrap();
        let more = format!(r#"{entry},{{"mediaType":"a/b","digest":"{}","size":1}}"#, Digest::of(b"more"));
        for (name, root, replaces_list, is_replaced) in [
            ("image", image(), false, false),
            ("list without the referrer", index(&more[entry.len() + 1..]), false, true),
            ("the same list", index(&entry), true, true),
            ("longer list", index(&more), true, true),
            ("image tagged by its own digest", index(""), false, false),
        ] {
            let named = publication(tag.as_str(), vec![root]);
            let refused = |outcome: Result<()>| outcome.err().map(|error| error.kind());
            let expect = |is_accepted: bool| (!is_accepted).then_some(ErrorKind::InvalidInput);
            let first = store();
            first.publish(signed.clone()).await.unwrap();
            assert_eq!(refused(first.publish(named.clone()).await), expect(replaces_list), "{name}");
            let second = store();
            second.publish(named).await.unwrap();
            assert_eq!(refused(second.publish(signed.clone()).await), expect(is_replaced), "{name}");
        }
    }

    #[tokio::test]
    async fn list_counts_only_with_the_referrers_themselves() {
        let (signed, entry) = signed();
        let store = store();
        store.publish(signed.clone()).await.unwrap();
        let (repository, subject) = (&signed.places[0].repository, signed.root().unwrap());
        let entries = std::slice::from_ref(&entry);
        assert!(store.lists_referrers(repository, &subject, entries).await.unwrap());
        store.remove_revision(repository, &entry.digest).unwrap();
        assert!(!store.lists_referrers(repository, &subject, entries).await.unwrap());
    }
}
