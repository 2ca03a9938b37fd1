//! The interface between the engine, which reads signatures, and a policy, which judges them.

use super::Referrer;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::referrer::{ListedReferrer, ReferrerTagKind, is_signature_type};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Reference};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Decides by their signatures which images are transferred.
pub trait SignaturePolicy: Debug + Send + Sync {
    /// Whether [`check`](Self::check) needs the signatures of images of this name.
    fn needs_signatures(&self, reference: &Reference) -> bool;

    /// Accepts `manifest` as the image `reference`, which is its name at the source. `signatures` are all layers of its
    /// signature manifests; they are not verified. Does no I/O.
    ///
    /// # Errors
    /// `Untrusted`, with the reasons; `Unsupported` for requirements that cannot be checked.
    fn check(
        &self,
        reference: &Reference,
        manifest: &SignedManifest,
        signatures: &[SignatureLayer],
    ) -> Result<()>;
}

/// The manifest or index that must be signed.
#[derive(Clone, Debug)]
pub struct SignedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, which some signatures are made of. They have the digest.
    pub bytes: Bytes,
}

/// A layer of a signature manifest.
#[derive(Clone, Debug)]
pub struct SignatureLayer {
    /// Its media type.
    pub media_type: String,
    /// The annotations of its descriptor: cosign keeps signatures and certificates there.
    pub annotations: BTreeMap<String, String>,
    /// Its content.
    pub bytes: Bytes,
}

/// The most signatures of one subject, and the most manifests that they are in.
const MAX_SIGNATURES: usize = 64;
/// The maximum size of a signature, in bytes: those with an in-toto statement are the largest.
pub(crate) const MAX_SIGNATURE_SIZE: u64 = 4 << 20;
/// The maximum size of all signatures of one subject, in bytes.
const MAX_TOTAL_SIZE: u64 = 16 << 20;

/// Collects the signatures of one subject, within bounds.
pub(crate) struct SignatureSet {
    subject: Digest,
    layers: Vec<SignatureLayer>,
    manifests: usize,
    size: u64,
}

impl SignatureSet {
    pub(crate) fn new(subject: Digest) -> Self {
        Self { subject, layers: Vec::new(), manifests: 0, size: 0 }
    }

    /// Those of `listed`, the referrers of the subject, that may be signatures as far as the list tells.
    ///
    /// # Errors
    /// `TooLarge` if there are too many.
    pub(crate) fn candidates(&mut self, listed: Vec<Referrer>) -> Result<Vec<Referrer>> {
        let may_be_signature = |referrer: &Referrer| match referrer {
            Referrer::Listed(entry) => entry.artifact_type.as_deref().is_none_or(is_signature_type),
            Referrer::Tagged(tag) => tag.kind == ReferrerTagKind::Signature,
        };
        let found: Vec<Referrer> = listed.into_iter().filter(may_be_signature).collect();
        self.manifests += found.len();
        if self.manifests > MAX_SIGNATURES { Err(self.too_large()) } else { Ok(found) }
    }

    /// The layers of `raw`, which `referrer` names; none if it is no signature, or one of another subject.
    ///
    /// # Errors
    /// `TooLarge` if there are too many, or they are too large; `Corrupt` if `raw` cannot be parsed.
    pub(crate) fn layers_of(&mut self, referrer: &Referrer, raw: &RawManifest) -> Result<Vec<Descriptor>> {
        let is_signature = match referrer {
            // Only its tag connects it with the subject; what it signs is in the payload.
            Referrer::Tagged(_) => true,
            Referrer::Listed(_) => ListedReferrer::read(&raw.bytes, raw.digest).is_some_and(|listed| {
                let artifact_type = listed.descriptor.artifact_type;
                listed.subject == Some(self.subject)
                    && artifact_type.as_deref().is_some_and(is_signature_type)
            }),
        };
        let layers = match raw.parse()? {
            Manifest::Image(image) if is_signature => image.layers,
            _ => Vec::new(),
        };
        self.size = layers.iter().fold(self.size, |size, layer| size.saturating_add(layer.size));
        let is_large =
            layers.iter().any(|layer| layer.size > MAX_SIGNATURE_SIZE) || self.size > MAX_TOTAL_SIZE;
        if is_large || self.layers.len() + layers.len() > MAX_SIGNATURES {
            return Err(self.too_large());
        }
        Ok(layers)
    }

    /// Adds a layer with its content, which has its digest.
    pub(crate) fn add(&mut self, layer: Descriptor, bytes: Bytes) {
        let Descriptor { media_type, annotations, .. } = layer;
        self.layers.push(SignatureLayer { media_type, annotations, bytes });
    }

    pub(crate) fn into_layers(self) -> Vec<SignatureLayer> {
        self.layers
    }

    fn too_large(&self) -> Error {
        let message = format!(
            "its signatures exceed {MAX_SIGNATURES}, {MAX_SIGNATURE_SIZE} bytes each or {MAX_TOTAL_SIZE} bytes together"
        );
        Error::new(ErrorKind::TooLarge, self.subject, message)
    }
}
