//! Reads the signatures of an image for the policy, before anything of it is downloaded.
//!
//! What is signed is the digest that the image is read by: the tag is resolved once. An image whose own manifest is not signed is
//! accepted if each of its selected manifests is: some tools sign the images of an index, and not the index.

use super::Engine;
use super::graph::ImageWalk;
use super::node::ImageContent;
use super::referrers::FirstList;
use crate::content::{
    MAX_SIGNATURE_SIZE, Referrer, SignatureLayer, SignaturePolicy, SignatureSet, SignedManifest, Sink, Source,
};
use crate::error::{ErrorKind, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};
use bytes::Bytes;
use std::sync::Arc;

/// A signature of at most this size is kept in memory until it is written, in bytes.
const MAX_KEPT: u64 = 16 << 10;

/// The digest of a signature that was read, and its content.
type ReadSignature = (Digest, Arc<Bytes>);

impl<K: Sink> Engine<K> {
    /// Whether the policy needs the signatures of images of this name.
    pub(super) fn needs_signatures(&self, reference: &Reference) -> bool {
        self.options.policy.as_ref().is_some_and(|policy| policy.needs_signatures(reference))
    }
}

impl<S: Source, K: Sink> ImageWalk<'_, S, K> {
    /// Accepts the image, which was read as `root` and consists of `content`, if there is no policy or the policy does. `first` is
    /// the list of the root's referrers, if it was requested already. Returns the signatures that were read, which need not be
    /// downloaded again.
    ///
    /// # Errors
    /// `Untrusted`; or why signatures cannot be read.
    pub(super) async fn check_signatures(
        &self,
        root: Digest,
        content: &ImageContent,
        first: Option<&FirstList>,
    ) -> Result<Vec<ReadSignature>> {
        let mut read = Vec::new();
        let Some(policy) = self.engine.options.policy.as_deref() else { return Ok(read) };
        let listed = match first {
            Some((subject, listed)) if *subject == root => Some(listed.clone()?),
            _ => None,
        };
        let Err(error) = self.check_subject(policy, root, listed, &mut read).await else { return Ok(read) };
        let parts: Vec<Digest> =
            content.subjects.iter().copied().filter(|subject| *subject != root).collect();
        if error.kind() != ErrorKind::Untrusted
            || !policy.needs_signatures(self.reference)
            || parts.is_empty()
        {
            return Err(error);
        }
        for part in parts {
            match self.check_subject(policy, part, None, &mut read).await {
                Ok(()) => {}
                Err(other) if other.kind() == ErrorKind::Untrusted => return Err(error.with_cause(other)),
                Err(other) => return Err(other),
            }
        }
        Ok(read)
    }

    async fn check_subject(
        &self,
        policy: &dyn SignaturePolicy,
        subject: Digest,
        listed: Option<Vec<Referrer>>,
        read: &mut Vec<ReadSignature>,
    ) -> Result<()> {
        let bytes = self.manifest(subject).await?.raw.bytes.clone();
        let manifest = SignedManifest { digest: subject, bytes };
        let signatures = if policy.needs_signatures(self.reference) {
            self.signatures(subject, listed, read)
                .await
                .map_err(|error| error.context("cannot read its signatures"))?
        } else {
            Vec::new()
        };
        policy.check(self.reference, &manifest, &signatures)
    }

    /// The layers of the signature manifests of `subject`.
    async fn signatures(
        &self,
        subject: Digest,
        listed: Option<Vec<Referrer>>,
        read: &mut Vec<ReadSignature>,
    ) -> Result<Vec<SignatureLayer>> {
        let listed = match listed {
            Some(listed) => listed,
            None => {
                let repository = &self.reference.repository;
                self.engine.list_referrers(self.source, repository, subject, self.stats).await?
            }
        };
        let mut signatures = SignatureSet::new(subject);
        for candidate in signatures.candidates(listed)? {
            let Some(raw) = self.signature_manifest(&candidate).await? else { continue };
            for layer in signatures.layers_of(&candidate, &raw)? {
                let bytes = self.signature(&layer).await?;
                if layer.size <= MAX_KEPT {
                    read.push((layer.digest, Arc::new(bytes.clone())));
                }
                signatures.add(layer, bytes);
            }
        }
        Ok(signatures.into_layers())
    }

    /// The manifest of a referrer; `None` if it was removed meanwhile.
    async fn signature_manifest(&self, referrer: &Referrer) -> Result<Option<Arc<RawManifest>>> {
        match referrer {
            Referrer::Listed(entry) => match self.manifest(entry.digest).await {
                Ok(found) => Ok(Some(found.raw)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
            Referrer::Tagged(tag) => self.tagged_referrer(tag).await,
        }
    }

    async fn signature(&self, layer: &Descriptor) -> Result<Bytes> {
        let found = self.engine.sink.content(&layer.digest, MAX_SIGNATURE_SIZE).await?;
        match found.filter(|bytes| Digest::of(bytes) == layer.digest) {
            Some(bytes) => Ok(bytes),
            None => self.engine.small_blob(self.source, self.reference, layer, self.stats).await,
        }
    }
}
