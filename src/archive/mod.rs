//! Images in tar files: the format of `docker save` (docker-archive) and an OCI image layout in a tar (oci-archive).
//!
//! Archives are read by position: `tar_index.rs` scans the headers once, and content is read from its offset in the
//! file. Nothing is unpacked, so a name in an archive is never used as a path. `tar_writer.rs` is the only place
//! that writes a tar; its output is deterministic, so exporting the same images twice produces the same bytes.

pub mod layer;
mod plan;
mod read_docker;
mod source;
mod tar_index;
mod tar_writer;
mod write_docker;
mod write_oci;

pub use plan::{ArchiveImage, ArchivePlan, OpenContent, OpenedContent};
pub use source::Archive;
pub use write_docker::plan as plan_docker;
pub use write_oci::plan as plan_oci;
