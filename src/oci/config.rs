//! Image configurations (OCI image spec, config.md; Docker's schema 2 configurations are of the same form).

use super::digest::Digest;
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The largest image configuration that is read into memory, in bytes. Real ones have a few KiB.
pub const MAX_CONFIG_SIZE: u64 = 8 << 20;

/// What an image's configuration says that saver has a use for. Absent and null fields are empty ones, as other readers take them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// When the image was made, as written (RFC 3339).
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How it is run.
    #[serde(deserialize_with = "or_default")]
    pub config: Execution,
    /// Its layers, uncompressed.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How each layer came about, base first; steps without a layer among them.
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<History>,
}

/// How an image is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "PascalCase")]
pub struct Execution {
    /// `user`, `uid`, `user:group`, `uid:gid`, or nothing for root.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value` pairs.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's beginning.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command's arguments, or all of it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `port/protocol` of what it listens on.
    #[serde(deserialize_with = "keys", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Free key-value pairs.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

/// An image's layers, uncompressed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// The digests of the layers' tar files, base first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as written (RFC 3339).
    pub created: Option<String>,
    /// By what command.
    #[serde(deserialize_with = "or_default")]
    pub created_by: String,
    /// Whether it made no layer.
    #[serde(deserialize_with = "or_default")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `Corrupt` when `bytes` are not such a document.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = format!("not an image configuration: {error}");
            Error::new(ErrorKind::Corrupt, Digest::of(bytes), message)
        })
    }

    /// The commands that made `layers` layers, base first; empty where the history does not fit their number.
    #[must_use]
    pub fn made_by(&self, layers: usize) -> Vec<&str> {
        let steps = self.history.iter().filter(|step| !step.empty_layer);
        let commands: Vec<&str> = steps.map(|step| step.created_by.as_str()).collect();
        if commands.len() == layers { commands } else { Vec::new() }
    }
}

/// A field that may be null.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
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
    fn what_is_absent_or_null_is_empty() {
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
    fn history_is_told_of_layers_where_it_fits_them() {
        let text = r#"{"architecture":"arm","os":"linux","variant":"v7","config":{"User":"1000:1","ExposedPorts":{"80/tcp":{}},"Cmd":["a"]},
            "history":[{"created_by":"ADD rootfs"},{"created_by":"ENV A=b","empty_layer":true},{"created_by":"RUN x"}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
        assert_eq!((config.config.user.as_str(), config.config.exposed_ports.len()), ("1000:1", 1));
        assert_eq!(config.made_by(2), ["ADD rootfs", "RUN x"]);
        assert!(config.made_by(3).is_empty());
    }
}
