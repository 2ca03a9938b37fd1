//! The model: names, digests, descriptors, manifests. Pure: no I/O, no async.

pub mod config;
pub mod descriptor;
pub mod digest;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod reference;
pub mod sha256;

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
try_from_text!(Reference, Registry, Repository, Tag, Digest, PlatformSet);
