//! An OCI image layout in a directory (OCI image-layout.md), as a [`Source`](crate::content::Source) and a
//! [`Sink`](crate::content::Sink).
//!
//! ```text
//! oci-layout                  marks the directory as a layout; locked while saver changes index.json
//! index.json                  the images by name; replaced atomically, after everything else
//! blobs/sha256/<hex>          content of every kind
//! .saver/partial/<hex>.<size> a blob being downloaded; removed at the end of a successful run
//! .saver/stage/<area>/<n>     small files before they are renamed into place; likewise
//! ```
//!
//! saver adds to the layouts of other tools and preserves what it does not know in `index.json`. A layout is not
//! trusted: symbolic links in it are not followed, sizes are bounded, and content is hashed by its reader.

mod partial;
mod publish;
mod read;
mod sink;

pub use partial::LayoutBlobWriter;

use crate::content::Place;
use crate::driver::{Driver, EntryKind, FsDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::layout::{EntryName, MARKER, check_marker};
use partial::LayoutClaims;
use publish::LayoutPublisher;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// saver's own directory in a layout, which readers ignore.
const OWN: &str = ".saver";
const PARTIAL: &str = ".saver/partial";
const STAGE: &str = ".saver/stage";
/// The largest marker that is read, in bytes.
const MAX_MARKER_SIZE: u64 = 64 << 10;

/// A layout in a directory. Clones share their state.
#[derive(Clone)]
pub struct Layout {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<dyn Driver>,
    /// The names of the images that will be written.
    names: HashMap<Place, EntryName>,
    claims: Arc<LayoutClaims>,
    publisher: LayoutPublisher,
}

impl Layout {
    /// Opens the existing layout in `dir` for reading.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a layout, `Storage` if it cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let driver = FsDriver::open(dir)
            .map_err(|error| Error::storage(dir.display(), "open the directory", error))?;
        let layout = Self::with_driver(Arc::new(driver), HashMap::new());
        if layout.has_marker()? {
            return Ok(layout);
        }
        let message = format!("the directory is not an OCI image layout: it has no {MARKER} file");
        Err(Error::new(ErrorKind::InvalidInput, dir.display(), message))
    }

    /// Opens the layout in `dir` for writing, or creates one. An image is listed under its entry in `names`, or
    /// under its place if it has none. The directory does not change before something is written.
    ///
    /// # Errors
    /// `InvalidInput` if `dir` contains something else, `Storage` if it cannot be created or opened.
    pub fn create(dir: &Path, names: HashMap<Place, EntryName>) -> Result<Self> {
        let driver = FsDriver::create(dir)
            .map_err(|error| Error::storage(dir.display(), "open or create the directory", error))?;
        let layout = Self::with_driver(Arc::new(driver), names);
        if layout.has_marker()? {
            return Ok(layout);
        }
        let entries = layout.inner.driver.list(".");
        let entries = entries.map_err(|error| storage(&*layout.inner.driver, "", "list", error))?;
        let other = entries.iter().find(|entry| entry.name != OWN && entry.name != MARKER);
        // Another process may have created the layout in the meantime; it writes the marker first.
        if let Some(other) = other
            && !layout.has_marker()?
        {
            let message = format!(
                "the directory contains {:?} and is not an OCI image layout (no {MARKER} file)",
                other.name
            );
            return Err(Error::new(ErrorKind::InvalidInput, dir.display(), message)
                .with_hint("choose an empty or new directory, or an image layout"));
        }
        Ok(layout)
    }

    fn with_driver(driver: Arc<dyn Driver>, names: HashMap<Place, EntryName>) -> Self {
        let claims = Arc::default();
        let publisher = LayoutPublisher::default();
        Self { inner: Arc::new(Inner { driver, names, claims, publisher }) }
    }

    /// Whether the directory is marked as a layout. An empty marker is left by a run that was killed while creating it.
    fn has_marker(&self) -> Result<bool> {
        let driver = &*self.inner.driver;
        let kind = driver.kind(MARKER).map_err(|error| storage(driver, MARKER, "inspect", error))?;
        if kind.is_none_or(|kind| kind != EntryKind::File) {
            return Ok(false);
        }
        let content = driver.read(MARKER, MAX_MARKER_SIZE);
        let content = content.map_err(|error| storage(driver, MARKER, "read", error))?.unwrap_or_default();
        if content.is_empty() {
            return Ok(false);
        }
        check_marker(&content)
            .map(|()| true)
            .map_err(|error| Error::new(error.kind(), driver.location(MARKER), error.message()))
    }

    /// Removes the directories that were only needed for writing, unless they contain files: those of another
    /// process, or partial blobs that the next run resumes.
    pub fn tidy(&self) {
        let driver = &*self.inner.driver;
        let area = self.inner.publisher.area();
        for path in area.iter().map(String::as_str).chain([STAGE, PARTIAL, OWN]) {
            // Fails if the directory is not empty.
            let _ = driver.remove(path);
        }
    }
}

/// The error of a driver operation on `path`.
fn storage(driver: &dyn Driver, path: &str, operation: &str, cause: io::Error) -> Error {
    let code = cause.raw_os_error();
    let error = Error::storage(driver.location(path), operation, cause);
    match code {
        Some(libc::ELOOP) => error.with_hint("symbolic links inside a layout are not followed"),
        _ => error,
    }
}
