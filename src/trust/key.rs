//! Public keys.

use super::Verdict;
use sigstore_verify::crypto::{KeyAlgorithm, SigningScheme, verify_signature};
use sigstore_verify::types::{DerPublicKey, SignatureBytes};

/// A public key: ECDSA on P-256 or P-384, Ed25519, or RSA with 2048 to 8192 bits.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    pub(super) der: DerPublicKey,
    /// The schemes that tools sign with. cosign has used SHA-256 with every kind of key.
    schemes: &'static [SigningScheme],
}

impl PublicKey {
    /// Parses a PEM block `PUBLIC KEY`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_pem(pem: &[u8]) -> Verdict<Self> {
        let text = std::str::from_utf8(pem).map_err(|_| "is not PEM".to_owned())?;
        let der = DerPublicKey::from_pem(text).map_err(|error| error.to_string())?;
        Self::from_der(der)
    }

    /// # Errors
    /// As `from_pem`.
    pub(super) fn from_der(der: DerPublicKey) -> Verdict<Self> {
        let schemes: &[SigningScheme] =
            match KeyAlgorithm::from_spki(&der).map_err(|error| error.to_string())? {
                KeyAlgorithm::EcdsaP256 => &[SigningScheme::EcdsaP256Sha256],
                KeyAlgorithm::EcdsaP384 => &[SigningScheme::EcdsaP384Sha384, SigningScheme::EcdsaP384Sha256],
                KeyAlgorithm::Ed25519 => &[SigningScheme::Ed25519],
                KeyAlgorithm::Rsa => &[SigningScheme::RsaPkcs1Sha256],
                other => return Err(format!("keys of type {other:?} are not supported")),
            };
        Ok(Self { der, schemes })
    }

    /// Verifies a signature of `message`.
    ///
    /// # Errors
    /// That it was not made with this key.
    pub(super) fn verify(&self, message: &[u8], signature: &SignatureBytes) -> Verdict {
        let is_valid =
            |scheme: &SigningScheme| verify_signature(&self.der, message, signature, *scheme).is_ok();
        if self.schemes.iter().any(is_valid) {
            Ok(())
        } else {
            Err("it was not made with this key".to_owned())
        }
    }
}
