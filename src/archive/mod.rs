//! Images in tar files: `docker save`'s form (docker-archive) and an OCI image layout (oci-archive).
//!
//! Reading is by position: `index.rs` goes over the headers once, and what an image needs is read from where it stands. Nothing is
//! unpacked, so no name in an archive is ever a path. Writing is a stream: `stream.rs` is the only place that writes a tar, and
//! the same images give the same bytes whenever and wherever they are written.

mod docker;
mod images;
mod index;
pub mod layer;
mod source;
mod stream;
mod write_docker;
mod write_oci;

pub use images::{ArchiveImage, Content, Opened, Prepared};
pub use source::Archive;
pub use write_docker::prepare as prepare_docker;
pub use write_oci::prepare as prepare_oci;
