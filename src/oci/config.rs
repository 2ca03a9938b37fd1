//! Image configurations (OCI image spec, config.md; Docker's schema 2 configurations are of the same form).

use super::digest::Digest;
use super::json::{self, StringList, or_default};
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The largest image configuration that is read into memory, in bytes. Real ones have a few KiB.
pub const MAX_CONFIG_SIZE: u64 = 8 << 20;

/// The fields of an image's configuration that saver uses. Null fields are absent, as other readers take them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "ConfigDocument")]
pub struct ImageConfig {
    /// When the image was created, as written (RFC 3339).
    pub created: Option<String>,
    /// Who created it.
    pub author: Option<String>,
    /// The platform that it runs on; [unknown](Platform::is_unknown) where the configuration names none.
    pub platform: Platform,
    /// How containers of it are run.
    pub config: Execution,
    /// Its layers, uncompressed.
    pub rootfs: RootFs,
    /// The build steps, base first, including those without a layer.
    pub history: Vec<History>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigDocument {
    created: Option<String>,
    author: Option<String>,
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(deserialize_with = "or_default", rename = "os.features")]
    _os_features: StringList,
    #[serde(deserialize_with = "or_default")]
    config: Execution,
    #[serde(deserialize_with = "or_default")]
    rootfs: RootFs,
    #[serde(deserialize_with = "or_default")]
    history: Vec<History>,
}

impl From<ConfigDocument> for ImageConfig {
    fn from(read: ConfigDocument) -> Self {
        let platform = Platform {
            os: read.os,
            architecture: read.architecture,
            variant: read.variant,
            os_version: read.os_version,
        };
        Self {
            created: read.created,
            author: read.author,
            platform,
            config: read.config,
            rootfs: read.rootfs,
            history: read.history,
        }
    }
}

/// How containers of an image are run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "PascalCase")]
pub struct Execution {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Environment variables, as `NAME=value`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The start of the command line.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The arguments of the entrypoint, or the whole command line.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The working directory.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The ports it listens on, as `port/protocol`.
    #[serde(deserialize_with = "keys", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Arbitrary metadata.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

/// The layers of an image, uncompressed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// The digests of the layers' tar files, base first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// The identity of each layer with all layers below it, base first (OCI image spec config.md, "Layer ChainID").
pub fn chain_ids<'a>(diff_ids: impl IntoIterator<Item = &'a Digest>) -> impl Iterator<Item = Digest> {
    diff_ids.into_iter().scan(None, |below, diff_id| {
        let chain_id = match below {
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            None => *diff_id,
        };
        *below = Some(chain_id);
        Some(chain_id)
    })
}

/// One build step.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// When it ran, as written (RFC 3339).
    pub created: Option<String>,
    /// The command.
    #[serde(deserialize_with = "or_default")]
    pub created_by: String,
    /// Whether it created no layer.
    #[serde(deserialize_with = "or_default")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `Corrupt` when `bytes` are not such a document.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        json::from_slice(bytes).map_err(|error| {
            let message = format!("not an image configuration: {error}");
            Error::new(ErrorKind::Corrupt, Digest::of(bytes), message)
        })
    }

    /// The platform that a configuration names, where it names one. A configuration that is no image's, as some artifacts
    /// have it under an image's media type, names none.
    ///
    /// # Errors
    /// `Corrupt` for a document that other readers would understand differently.
    pub fn platform_of(bytes: &[u8]) -> Result<Option<Platform>> {
        match Self::parse(bytes) {
            Ok(config) => Ok(Some(config.platform).filter(|platform| !platform.is_unknown())),
            Err(error)
                if bytes.trim_ascii_start().starts_with(b"{")
                    && serde_json::from_slice::<Self>(bytes).is_ok() =>
            {
                Err(error)
            }
            Err(_) => Ok(None),
        }
    }

    /// The commands that created `layers` layers, base first; empty if the history has another number of layers.
    #[must_use]
    pub fn made_by(&self, layers: usize) -> Vec<&str> {
        let steps = self.history.iter().filter(|step| !step.empty_layer);
        let commands: Vec<&str> = steps.map(|step| step.created_by.as_str()).collect();
        if commands.len() == layers { commands } else { Vec::new() }
    }
}

/// The keys of a map whose values mean nothing.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(from)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_id_covers_all_layers_below() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let both = Digest::of(format!("{a} {b}").as_bytes());
        let cases: [(&[Digest], &[Digest]); 3] = [(&[], &[]), (&[a], &[a]), (&[a, b], &[a, both])];
        for (diff_ids, expected) in cases {
            assert_eq!(chain_ids(diff_ids).collect::<Vec<_>>(), expected, "{diff_ids:?}");
        }
    }

    #[test]
    fn config_absent_and_null_fields_are_empty() {
        for text in [
            r#"{"architecture":"amd64","os":"linux"}"#,
            r#"{"architecture":"amd64","os":"linux","config":null,"rootfs":null,"history":null}"#,
            r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"ExposedPorts":null},"rootfs":{"type":"layers","diff_ids":null}}"#,
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(config.platform.to_string(), "linux/amd64");
            assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty(), "{text}");
        }
        for bad in ["", "[]", "7", r#"{"architecture":1}"#, r#"{"rootfs":{"diff_ids":["md5:1"]}}"#] {
            assert_eq!(ImageConfig::parse(bad.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn config_without_platform_names_none() {
        for (text, expect) in [
            (r#"{"architecture":"amd64","os":"linux"}"#, Some("linux/amd64")),
            (r#"{"architecture":"","os":""}"#, None),
            (r#"{"architecture":null,"os":null}"#, None),
            (r#"{"architecture":"unknown","os":"unknown"}"#, None),
            (r#"{"os":"linux"}"#, None),
            ("{}", None),
            ("", None),
            ("[]", None),
            (r#"{"architecture":["a model"]}"#, None),
        ] {
            let platform = ImageConfig::platform_of(text.as_bytes()).unwrap();
            assert_eq!(platform.map(|platform| platform.to_string()).as_deref(), expect, "{text}");
        }
        for folded in [r#"{"Architecture":"arm64","os":"linux"}"#, r#"{"config":{"user":"root","User":"1"}}"#]
        {
            assert!(ImageConfig::platform_of(folded.as_bytes()).is_err(), "{folded}");
        }
    }

    #[test]
    fn config_history_matches_layers_by_count() {
        let text = r#"{"architecture":"arm","os":"linux","variant":"v7","config":{"User":"1000:1","ExposedPorts":{"80/tcp":{}},"Cmd":["a"]},
            "history":[{"created_by":"ADD rootfs"},{"created_by":"ENV A=b","empty_layer":true},{"created_by":"RUN x"}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
        assert_eq!((config.config.user.as_str(), config.config.exposed_ports.len()), ("1000:1", 1));
        assert_eq!(config.made_by(2), ["ADD rootfs", "RUN x"]);
        assert!(config.made_by(3).is_empty());
    }
}
