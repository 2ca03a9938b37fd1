//! Content digests (OCI image spec, descriptor.md, "Digests").

use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// A sha256 digest: 32 bytes, written `sha256:<64 lower-case hex digits>`.
///
/// Registries store content under sha256 only; other algorithms are `Unsupported`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest whose raw bytes are `bytes`.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first 12 hex digits, for display.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Parses 64 lower-case hex digits.
    ///
    /// # Errors
    /// `InvalidInput` for any other length or character.
    pub fn from_hex(hex: &str) -> Result<Self> {
        let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, format!("digest {hex:?}"), why);
        if hex.len() != 64 {
            return Err(refuse("a sha256 digest has 64 hex digits"));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => {
                    return Err(refuse("a digest consists of the lower-case hex digits 0-9 and a-f"));
                }
            }
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex),
            Some((algorithm, encoded)) if is_well_formed(algorithm, encoded) => {
                Err(Error::new(ErrorKind::Unsupported, "", unsupported(algorithm, encoded)))
            }
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("digest {text:?}"),
                "a digest is written sha256:<64 hex digits>",
            )),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The reason comes first: what quotes this may cut it short.
fn unsupported(algorithm: &str, encoded: &str) -> String {
    let start: String = encoded.chars().take(12).collect();
    format!("unsupported digest algorithm {algorithm} (only sha256 is supported): {algorithm}:{start}…")
}

/// Whether these are an algorithm and an encoded digest by the grammar of descriptor.md.
fn is_well_formed(algorithm: &str, encoded: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte);
    algorithm.len() <= 32
        && algorithm.split(['+', '.', '_', '-']).all(is_part)
        && !encoded.is_empty()
        && encoded.bytes().all(is_encoded)
}

/// The digest of a descriptor, of whatever algorithm.
#[derive(Clone, Debug)]
pub(super) enum AnyDigest {
    Sha256(Digest),
    /// Well-formed, of another algorithm: the message that says so.
    Unsupported(String),
}

impl<'de> Deserialize<'de> for AnyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        match text.parse::<Digest>() {
            Ok(digest) => Ok(Self::Sha256(digest)),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Ok(Self::Unsupported(error.message().into()))
            }
            Err(error) => Err(serde::de::Error::custom(error)),
        }
    }
}

/// An incremental hash that also counts the bytes.
#[derive(Clone, Default)]
pub struct Digester {
    hash: Sha256,
    length: u64,
}

impl Digester {
    /// A digester of no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The number of bytes hashed so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all bytes hashed.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_digests_are_refused() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let good: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(good, Digest::of(b""));
        assert_eq!(good.to_string(), format!("sha256:{hex}"));
        assert_eq!(good.short(), "e3b0c44298fc");
        let upper = hex.to_uppercase();
        for bad in [
            hex,
            "",
            "sha256:",
            "sha256:abc",
            "sha512:abc",
            &format!("sha256:{upper}"),
            &format!("sha256:{hex}0"),
            "sha256:../../etc",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn digester_counts_and_hashes() {
        let mut digester = Digester::new();
        digester.update(b"a");
        digester.update(b"bc");
        assert_eq!(digester.length(), 3);
        assert_eq!(digester.finish(), Digest::of(b"abc"));
    }
}
