//! Lists of referrers: each is an index that the tag `sha256-<hex>` names, as registries without a referrers API are read
//! (distribution-spec, "Referrers Tag Schema").
//!
//! A list is merged with what is there, and several images and processes may add to one list at the same time. So a publication holds
//! a lock for each list that it changes, until its tags are written.

use super::{Store, path, storage};
use crate::content::{Publication, Referrer};
use crate::driver::Partial;
use crate::error::Result;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{self, ReferrerTag, ReferrerTagKind};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag};
use std::collections::BTreeSet;
use std::time::Duration;

/// The pause between two attempts to lock a list.
const POLL: Duration = Duration::from_millis(20);

/// The locks of lists of referrers.
pub(super) struct ListLocks {
    store: Store,
    files: Vec<(String, Box<dyn Partial>)>,
}

impl Drop for ListLocks {
    fn drop(&mut self) {
        for (path, file) in self.files.drain(..) {
            // Removed while it is locked, so that nobody else has locked the file that goes. One that stays is harmless.
            let _ = self.store.inner.driver.remove(&path);
            drop(file);
        }
    }
}

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

    /// Whether the list of `subject` has all of `referrers`.
    pub(super) fn lists(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<bool> {
        Ok(referrer::has_all(&self.listed_referrers(repository, subject)?, referrers))
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

    /// The index that the tag of the list names; `None` if there is none, or it is damaged and has to be written again.
    fn referrer_index(&self, repository: &Repository, subject: &Digest) -> Result<Option<RawManifest>> {
        let tag = Tag::referrers(subject);
        let Some(digest) = self.read_tag(repository, &tag)? else { return Ok(None) };
        let Some(bytes) = self.read_content(&digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
        match RawManifest::verified(bytes, digest) {
            Ok(Some((raw, Manifest::Index(_)))) => Ok(Some(raw)),
            _ => Ok(None),
        }
    }

    /// Locks the lists that `image` changes. Waits while another image or process changes one of them.
    pub(super) async fn lock_lists(&self, image: &Publication) -> Result<ListLocks> {
        let mut subjects = BTreeSet::new();
        for place in &image.places {
            for list in &image.referrers.lists {
                let (repository, list) = (place.repository.clone(), list.clone());
                let subject = list.subject;
                // A lock that a killed process has left is taken to remove it.
                let is_needed = move |store: &Self| {
                    let is_listed = store.lists(&repository, &subject, &list.referrers)?;
                    Ok(!is_listed || store.kind(&path::list_lock(&subject))?.is_some())
                };
                if self.lookup(is_needed).await? {
                    subjects.insert(subject);
                }
            }
        }
        let mut locks = ListLocks { store: self.clone(), files: Vec::new() };
        // In order, so that two images never wait for each other.
        for subject in subjects {
            let path = path::list_lock(&subject);
            let file = loop {
                let opened = path.clone();
                let open = move |store: &Self| {
                    let driver = &*store.inner.driver;
                    driver.partial(&opened, 0).map_err(|error| storage(driver, &opened, "lock", error))
                };
                match self.blocking(open).await? {
                    Some(file) => break file,
                    None => tokio::time::sleep(POLL).await,
                }
            };
            locks.files.push((path, file));
        }
        Ok(locks)
    }
}

/// The entries of a list; none if there is no list.
fn entries(list: Option<&RawManifest>) -> Vec<Descriptor> {
    match list.and_then(|list| list.parse().ok()) {
        Some(Manifest::Index(index)) => index.manifests,
        _ => Vec::new(),
    }
}
