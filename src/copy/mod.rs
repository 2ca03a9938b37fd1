//! The engine: moves images from a source to a sink.

pub mod event;
pub mod options;
pub mod report;

pub use event::{Event, Observer, Silent};
pub use options::{CopyOptions, IndexMode, MissingPlatform};
pub use report::{Failure, ImageReport, Report, Status};
