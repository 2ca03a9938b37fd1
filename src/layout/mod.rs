//! An OCI image layout in a directory (OCI image-layout.md), as a source and as a sink.
//!
//! ```text
//! oci-layout                  says that this is a layout; saver locks it while it changes index.json
//! index.json                  the images by name: replaced whole, last of all
//! blobs/sha256/<hex>          content of every kind
//! .saver/partial/<hex>.<size> a blob that is being received; gone when a run has ended well
//! .saver/stage/<area>/<n>     small files before they take their final names; likewise
//! ```
//!
//! Other tools' layouts are added to: what saver does not know of `index.json` is kept. Nothing in a layout is believed: no
//! symbolic link in it is followed, sizes are bounded, and whoever reads content hashes it.

mod partial;
mod publish;
mod read;
mod sink;

pub use partial::Writer;

use crate::content::Place;
use crate::driver::{Driver, EntryKind, FsDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::layout::{MARKER, check_marker};
use partial::Claims;
use publish::Publisher;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// saver's own directory in a layout. Readers do not look there.
const OWN: &str = ".saver";
const PARTIAL: &str = ".saver/partial";
const STAGE: &str = ".saver/stage";
/// The longest marker that is read, in bytes.
const MAX_MARKER_SIZE: u64 = 64 << 10;

/// A layout in a directory. Clones share everything.
#[derive(Clone)]
pub struct Layout {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<dyn Driver>,
    /// What the images that come are to be called.
    names: HashMap<Place, String>,
    claims: Arc<Claims>,
    publisher: Publisher,
}

impl Layout {
    /// Opens the layout in `dir`, which must be there, for reading.
    ///
    /// # Errors
    /// `InvalidInput` when it is no layout, `Storage` when it can't be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let driver = FsDriver::open(dir)
            .map_err(|error| Error::storage(dir.display(), "open the directory", error))?;
        let layout = Self::with_driver(Arc::new(driver), HashMap::new());
        if layout.marker()? {
            return Ok(layout);
        }
        let why = format!("this directory is no OCI image layout: there is no {MARKER} in it");
        Err(Error::new(ErrorKind::InvalidInput, dir.display(), why))
    }

    /// Opens the layout in `dir` to be added to, or begins one there. Images are listed by what `names` calls
    /// their places, and by the place where it has no name. Nothing is changed before something is written.
    ///
    /// # Errors
    /// `InvalidInput` when `dir` holds something else, `Storage` when it can't be made or opened.
    pub fn create(dir: &Path, names: HashMap<Place, String>) -> Result<Self> {
        let driver = FsDriver::create(dir)
            .map_err(|error| Error::storage(dir.display(), "open or make the directory", error))?;
        let layout = Self::with_driver(Arc::new(driver), names);
        if layout.marker()? {
            return Ok(layout);
        }
        let entries = layout.inner.driver.list(".");
        let entries = entries.map_err(|error| storage(&*layout.inner.driver, "", "list", error))?;
        let other = entries.iter().find(|entry| entry.name != OWN && entry.name != MARKER);
        // Another process may have begun it just now, marker first.
        if let Some(other) = other
            && !layout.marker()?
        {
            let why =
                format!("it holds {:?} and is no OCI image layout: there is no {MARKER} in it", other.name);
            return Err(Error::new(ErrorKind::InvalidInput, dir.display(), why)
                .with_hint("name a directory that is empty, not there yet, or an image layout"));
        }
        Ok(layout)
    }

    fn with_driver(driver: Arc<dyn Driver>, names: HashMap<Place, String>) -> Self {
        let (claims, publisher) = (Arc::default(), Publisher::default());
        Self { inner: Arc::new(Inner { driver, names, claims, publisher }) }
    }

    /// Whether the directory is marked as a layout. A marker that is empty was being made when a run ended.
    fn marker(&self) -> Result<bool> {
        let driver = &*self.inner.driver;
        let kind = driver.kind(MARKER).map_err(|error| storage(driver, MARKER, "look at", error))?;
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

    /// Takes away what was only needed while the layout was written. What another process is using, or a later run
    /// can go on with, stays.
    pub fn tidy(&self) {
        let driver = &*self.inner.driver;
        let area = self.inner.publisher.area();
        for path in area.iter().map(String::as_str).chain([STAGE, PARTIAL, OWN]) {
            // A directory that holds something is not removed.
            let _ = driver.remove(path);
        }
    }
}

/// A driver's error at `path`, said to a person.
fn storage(driver: &dyn Driver, path: &str, doing: &str, cause: io::Error) -> Error {
    let code = cause.raw_os_error();
    let error = Error::storage(driver.location(path), doing, cause);
    match code {
        Some(libc::ELOOP) => {
            error.with_hint("a symbolic link stands inside the layout, where none is followed")
        }
        _ => error,
    }
}
