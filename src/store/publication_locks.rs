//! Locks of what several images or processes may change at the same time: lists of referrers, which are merged with what is there, and
//! tags, which must not be taken from an image of another registry. A publication holds them until its tags are written.

use super::sink::PeerWait;
use super::{Store, path, storage};
use crate::content::Publication;
use crate::driver::Partial;
use crate::error::Result;
use crate::oci::referrer::{ReferrerTag, ReferrerTagKind};
use std::collections::BTreeSet;

/// The locks of one publication.
pub(super) struct PublicationLocks {
    store: Store,
    files: Vec<(String, Box<dyn Partial>)>,
}

impl Drop for PublicationLocks {
    fn drop(&mut self) {
        for (path, file) in self.files.drain(..) {
            // Removed while it is locked, so that nobody else has locked the file that goes. One that stays is harmless.
            let _ = self.store.inner.driver.remove(&path);
            drop(file);
        }
    }
}

impl Store {
    /// Locks the lists of referrers and the tags that `image` changes. Waits while another image or process changes one of them.
    ///
    /// # Errors
    /// `Storage` if a lock can't be opened, or its holder makes no progress; the error names it.
    pub(super) async fn lock_publication(&self, image: &Publication) -> Result<PublicationLocks> {
        let owned = image.clone();
        // In order, so that two images never wait for each other.
        let paths = self.lookup(move |store| store.lock_paths(&owned)).await?;
        let mut locks = PublicationLocks { store: self.clone(), files: Vec::new() };
        for path in paths {
            let mut wait = PeerWait::new("is publishing the same tag");
            let file = loop {
                let opened = path.clone();
                let open = move |store: &Self| {
                    let driver = &*store.inner.driver;
                    driver.partial(&opened, 0).map_err(|error| storage(driver, &opened, "lock", error))
                };
                match self.blocking(open).await? {
                    Some(file) => break file,
                    None => self.wait_for_peer(&mut wait, &path).await?,
                }
            };
            locks.files.push((path, file));
        }
        Ok(locks)
    }

    fn lock_paths(&self, image: &Publication) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        // A lock that a killed process has left is taken to remove it.
        let mut add = |path: String, is_changed: bool| -> Result<()> {
            if is_changed || self.kind(&path)?.is_some() {
                paths.insert(path);
            }
            Ok(())
        };
        for place in &image.places {
            for list in &image.referrers.lists {
                let is_listed = self.lists(&place.repository, &list.subject, &list.referrers)?;
                add(path::list_lock(&list.subject), !is_listed)?;
            }
            let named = place.tag.as_ref().and_then(ReferrerTag::parse);
            if let Some(ReferrerTag { subject, kind: ReferrerTagKind::Fallback }) = named {
                add(path::list_lock(&subject), true)?;
            }
            // Without an origin, or with leave to replace any tag, the last image has the tag.
            if let (Some(tag), Some(root), Some(_), false) =
                (&place.tag, image.root(), &image.origin, self.inner.replace)
            {
                let is_current = self.read_tag(&place.repository, tag)? == Some(root);
                add(path::tag_lock(&place.repository, tag), !is_current)?;
            }
        }
        Ok(paths)
    }
}
