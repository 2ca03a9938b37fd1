//! The form of containers-policy.json(5). As the containers tools do, it refuses unknown and repeated keys: a key that is ignored
//! would weaken the policy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

/// The document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    pub(super) default: RequirementList,
    /// By transport, then by scope.
    #[serde(default)]
    pub(super) transports: UniqueMap<UniqueMap<RequirementList>>,
}

/// Requirements, all of which must be satisfied.
#[derive(Debug)]
pub(super) struct RequirementList(pub(super) Vec<RequirementFile>);

impl<'de> Deserialize<'de> for RequirementList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::deserialize(deserializer)?;
        if list.is_empty() {
            return Err(D::Error::custom("a list of requirements must not be empty"));
        }
        Ok(Self(list))
    }
}

/// One requirement.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum RequirementFile {
    InsecureAcceptAnything {},
    Reject {},
    /// Signed with GPG.
    SignedBy(IgnoredAny),
    SignedBaseLayer(IgnoredAny),
    SigstoreSigned(Box<SigstoreSignedFile>),
}

/// `sigstoreSigned`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SigstoreSignedFile {
    #[serde(deserialize_with = "present")]
    pub(super) key_path: Option<PathBuf>,
    #[serde(deserialize_with = "present")]
    pub(super) key_paths: Option<Vec<PathBuf>>,
    #[serde(deserialize_with = "present")]
    pub(super) key_data: Option<Base64>,
    #[serde(deserialize_with = "present")]
    pub(super) key_datas: Option<Vec<Base64>>,
    #[serde(deserialize_with = "present")]
    pub(super) fulcio: Option<FulcioFile>,
    #[serde(deserialize_with = "present")]
    pub(super) pki: Option<PkiFile>,
    #[serde(deserialize_with = "present")]
    pub(super) rekor_public_key_path: Option<PathBuf>,
    #[serde(deserialize_with = "present")]
    pub(super) rekor_public_key_paths: Option<Vec<PathBuf>>,
    #[serde(deserialize_with = "present")]
    pub(super) rekor_public_key_data: Option<Base64>,
    #[serde(deserialize_with = "present")]
    pub(super) rekor_public_key_datas: Option<Vec<Base64>>,
    #[serde(deserialize_with = "present")]
    pub(super) signed_identity: Option<SignedIdentityFile>,
}

/// `fulcio`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FulcioFile {
    #[serde(deserialize_with = "present")]
    pub(super) ca_path: Option<PathBuf>,
    #[serde(deserialize_with = "present")]
    pub(super) ca_data: Option<Base64>,
    #[serde(rename = "oidcIssuer", deserialize_with = "present")]
    pub(super) oidc_issuer: Option<String>,
    #[serde(deserialize_with = "present")]
    pub(super) subject_email: Option<String>,
    /// Not in containers-policy.json: the identity of a workload, such as a CI job. Only with a trusted root.
    #[serde(rename = "subjectURI", deserialize_with = "present")]
    pub(super) subject_uri: Option<String>,
}

/// `pki`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PkiFile {
    #[serde(rename = "caRootsPath", deserialize_with = "present")]
    pub(super) roots_path: Option<PathBuf>,
    #[serde(rename = "caRootsData", deserialize_with = "present")]
    pub(super) roots_data: Option<Base64>,
    #[serde(rename = "caIntermediatesPath", deserialize_with = "present")]
    pub(super) intermediates_path: Option<PathBuf>,
    #[serde(rename = "caIntermediatesData", deserialize_with = "present")]
    pub(super) intermediates_data: Option<Base64>,
    #[serde(rename = "subjectEmail", deserialize_with = "present")]
    pub(super) email: Option<String>,
    #[serde(rename = "subjectHostname", deserialize_with = "present")]
    pub(super) hostname: Option<String>,
}

/// `signedIdentity`.
#[derive(Debug, Default, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum SignedIdentityFile {
    MatchExact {},
    #[default]
    MatchRepoDigestOrExact,
    MatchRepository {},
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

/// Bytes in base64.
#[derive(Debug)]
pub(super) struct Base64(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|error| D::Error::custom(format!("invalid base64: {error}")))
    }
}

/// The value of a key that must not be null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An object whose keys are not known in advance, and none repeated.
#[derive(Debug)]
pub(super) struct UniqueMap<T>(pub(super) BTreeMap<String, T>);

impl<T> Default for UniqueMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = BTreeMap<String, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(key) = entries.next_key::<String>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("duplicate key {key:?}")));
                    }
                    map.insert(key, entries.next_value()?);
                }
                Ok(map)
            }
        }

        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_policy_is_refused() {
        let signed = |fields: &str| format!(r#"{{"default":[{{"type":"sigstoreSigned",{fields}}}]}}"#);
        for (policy, reason) in [
            ("{".to_owned(), "EOF"),
            ("[]".to_owned(), "invalid length 0"),
            ("{}".to_owned(), "missing field `default`"),
            (r#"{"default":null}"#.to_owned(), "invalid type: null"),
            (r#"{"default":[]}"#.to_owned(), "must not be empty"),
            (r#"{"default":[{}]}"#.to_owned(), "missing field `type`"),
            (r#"{"default":[{"type":"accept"}]}"#.to_owned(), "unknown variant `accept`"),
            (r#"{"default":[{"type":"reject","why":1}]}"#.to_owned(), "unknown field `why`"),
            (r#"{"default":[{"type":"reject"}],"Transports":{}}"#.to_owned(), "unknown field `Transports`"),
            (r#"{"default":[{"type":"reject"}],"default":[{"type":"reject"}]}"#.to_owned(), "duplicate field"),
            (r#"{"default":[{"type":"reject","type":"reject"}]}"#.to_owned(), "duplicate field `type`"),
            (r#"{"default":[{"type":"reject"}],"transports":[]}"#.to_owned(), "expected an object"),
            (r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a":[]}}}"#.to_owned(), "must not be empty"),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":{},"docker":{}}}"#.to_owned(),
                "duplicate key \"docker\"",
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"a":[{"type":"reject"}]}}}"#
                    .to_owned(),
                "duplicate key \"a\"",
            ),
            (signed(r#""keyPath":1"#), "invalid type: integer"),
            (signed(r#""keyPath":null"#), "invalid type: null"),
            (signed(r#""keyPath":"a","keyPath":"b""#), "duplicate field `keyPath`"),
            (signed(r#""keyPaths":"a""#), "expected a sequence"),
            (signed(r#""keyData":"%""#), "invalid base64"),
            (signed(r#""keypath":"a""#), "unknown field `keypath`"),
            (signed(r#""keyPath":"a","signedIdentity":{"type":"exact"}"#), "unknown variant `exact`"),
            (signed(r#""keyPath":"a","signedIdentity":{"type":"matchExact","a":1}"#), "unknown field `a`"),
            (signed(r#""keyPath":"a","signedIdentity":{"type":"exactReference"}"#), "missing field `dockerReference`"),
            (signed(r#""fulcio":{"caPath":"a","issuer":"b"}"#), "unknown field `issuer`"),
            (signed(r#""pki":{"caPath":"a"}"#), "unknown field `caPath`"),
        ] {
            let error = serde_json::from_str::<PolicyFile>(&policy).expect_err(&policy).to_string();
            assert!(error.contains(reason), "{policy}: {error}");
        }
    }
}
