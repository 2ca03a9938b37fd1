//! The OCI data model: names, digests, descriptors, manifests, platforms. Pure: no I/O, no async.

pub mod config;
pub mod descriptor;
pub mod digest;
pub mod json;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod reference;
pub mod referrer;
pub(crate) mod rfc3339;
mod selection;
pub mod sha256;
pub mod wildcard;

pub use config::ImageConfig;
pub use descriptor::Descriptor;
pub use digest::{Digest, Digester};
pub use manifest::{Index, Manifest, RawManifest};
pub use name::{Registry, Repository, Tag};
pub use platform::{Platform, PlatformSet};
pub use reference::Reference;

/// Implements `TryFrom` for text, so that functions can take `impl TryInto<Reference>`: a value or its text.
macro_rules! try_from_text {
    ($($name:ty),+) => {$(
        impl TryFrom<&str> for $name {
            type Error = crate::error::Error;

            fn try_from(text: &str) -> crate::error::Result<Self> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = crate::error::Error;

            fn try_from(text: String) -> crate::error::Result<Self> {
                text.parse()
            }
        }

        impl TryFrom<&String> for $name {
            type Error = crate::error::Error;

            fn try_from(text: &String) -> crate::error::Result<Self> {
                text.parse()
            }
        }
    )+};
}
pub(crate) use try_from_text;

try_from_text!(Reference, Registry, Repository, Tag, Digest, PlatformSet);

/// Implements `JsonSchema` as a string, with the feature `schema`.
macro_rules! json_string_schema {
    ($name:ident) => {
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    };
}
/// Implements serde's `Deserialize` and, with the feature `schema`, `JsonSchema` for types that are text in JSON.
macro_rules! text_in_json {
    ($($name:ident),+) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        json_string_schema!($name);
    )+};
}

text_in_json!(Reference, Registry, Repository, Tag);
json_string_schema!(Digest);
