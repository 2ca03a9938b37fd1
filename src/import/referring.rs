//! A source with the referrers that its entries amount to. Layouts and archives have no lists of referrers: their `index.json` has
//! entries without a name, whose manifests name the subject, and entries with the tags of cosign.

use crate::content::{BlobStream, Referrer, Resolved, Source, Target};
use crate::error::Result;
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use std::collections::HashMap;

/// The referrers among the entries of a source.
#[derive(Debug, Default)]
pub(super) struct ListedReferrers {
    /// By subject.
    pub(super) by_subject: HashMap<Digest, Vec<Descriptor>>,
    /// What tags of cosign name.
    pub(super) by_tag: HashMap<ReferrerTag, Digest>,
}

/// A source with referrers.
pub(super) struct ReferringSource<S> {
    source: S,
    referrers: ListedReferrers,
}

impl<S> ReferringSource<S> {
    pub(super) fn new(source: S, referrers: ListedReferrers) -> Self {
        Self { source, referrers }
    }

    /// The digest that a tag of cosign names.
    fn tagged(&self, tag: &Tag) -> Option<Digest> {
        self.referrers.by_tag.get(&ReferrerTag::parse(tag)?).copied()
    }
}

impl<S: Source> Source for ReferringSource<S> {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        match self.tagged(tag) {
            Some(digest) => Ok(Resolved { digest, manifest: None }),
            None => self.source.resolve(repository, tag).await,
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let tagged = match target {
            Target::Tag(tag) => self.tagged(tag).map(Target::Digest),
            Target::Digest(_) => None,
        };
        self.source.manifest(repository, tagged.as_ref().unwrap_or(target)).await
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        self.source.blob(repository, descriptor, from, to).await
    }

    async fn referrers(&self, _: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let listed = self.referrers.by_subject.get(subject).into_iter().flatten();
        let tagged = self.referrers.by_tag.keys().filter(|tag| tag.subject == *subject);
        Ok(listed.cloned().map(Referrer::Listed).chain(tagged.copied().map(Referrer::Tagged)).collect())
    }
}
