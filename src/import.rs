//! Importing: from image layouts and archives into a tree.
//!
//! Finds out what is there, gives every image its name in the tree, and hands all of it to the engine: what is imported is
//! verified, shared and published as what is saved.

use crate::archive::Archive;
use crate::archive::layer::{Compression, inflated};
use crate::content::Resolved;
use crate::content::Source;
use crate::content::retry::RetryPolicy;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::layout::Layout;
use crate::oci::layout::Offer;
use crate::oci::{Descriptor, Reference, Tag};
use crate::save::{NameRule, check_collisions, yield_short_names};
use crate::store::{Durability, Store, StoreOptions};
use crate::transfer::{Engine, Image, Observer, Report, Silent, TransferOptions, Verb};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a stream is called in messages.
const STREAM: &str = "stdin";
/// How many names are told of an archive that holds many.
const TOLD: usize = 20;

/// Options of an import.
#[derive(Clone)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The directory that a registry mounts; made if it is missing.
    pub dir: PathBuf,
    /// Platforms and limits. What an index lists and the source does not hold is passed over.
    pub copy: TransferOptions,
    /// What images are called in the tree.
    pub names: NameRule,
    /// What the images are called, whatever they were called before.
    pub rename: Option<NewName>,
    /// What an imported image has survived.
    pub durability: Durability,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl ImportOptions {
    /// The default options for importing into `dir`: all platforms, all names as they are, silent.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            copy: TransferOptions { sparse: true, retry: RetryPolicy::local(), ..TransferOptions::default() },
            names: NameRule::default(),
            rename: None,
            durability: Durability::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    /// Uses these names in the directory.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names, ..self }
    }

    /// Sends progress events to `observer`.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// Ends the run when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// A name for what has another or none. Without a tag of its own it leaves images theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewName {
    reference: Reference,
    has_tag: bool,
}

impl FromStr for NewName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let reference = Reference::parse(text)?;
        if reference.digest.is_some() {
            let why = "a digest is no name: what is imported has its own";
            return Err(Error::new(ErrorKind::InvalidInput, text, why));
        }
        Ok(Self { reference, has_tag: Reference::has_written_tag(text) })
    }
}

impl NewName {
    fn of(&self, offer: &Offer) -> Reference {
        let mut name = self.reference.clone();
        if !self.has_tag {
            let own = offer.reference.as_ref().and_then(|name| name.tag.clone());
            name.tag = own.or_else(|| offer.tag.clone()).or_else(|| Some(Tag::latest()));
        }
        name
    }
}

/// Where images are imported from.
pub enum ImportFrom {
    /// A layout's directory, or an archive: docker-archive or oci-archive, compressed with gzip or zstd or not.
    Path(PathBuf),
    /// An archive that comes as a stream.
    Stream(Box<dyn Read + Send>),
}

/// Imports every image of `from`. A failed image is a row of the report; the others continue.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::import::{ImportFrom, ImportOptions, import};
///
/// let options = ImportOptions::new("/var/lib/registry");
/// let report = import(ImportFrom::Path("nginx.tar".into()), options).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` when `from` is not a readable archive or layout, contains no images, or contains different images that
/// would get the same name in the directory; `Storage` when the directory cannot be used.
pub async fn import(from: ImportFrom, options: ImportOptions) -> Result<Report> {
    let token = &options.cancel;
    let name = match &from {
        ImportFrom::Path(path) => path.display().to_string(),
        ImportFrom::Stream(_) => STREAM.to_owned(),
    };
    let called = name.clone();
    // Before the tree is made: what is not there leaves none behind.
    let opened = blocking(&name, token, move || open(from, &called).map_err(unusable)).await?;
    let store = Store::open(&options.dir, StoreOptions { durability: options.durability })?;
    // Others may save at the same time; nobody may take anything away.
    let _lock = store.lock_shared(false)?;
    let (dir, called) = (options.dir.clone(), name.clone());
    match blocking(&name, token, move || opened.end(&called, &dir).map_err(unusable)).await? {
        End::Layout(layout) => {
            let offers = layout.offers().map_err(unusable)?;
            copy(layout, (&name, &offers), &store, &options, token).await
        }
        End::Archive(archive) => {
            let offers = archive.offers().to_vec();
            copy(archive, (&name, &offers), &store, &options, token).await
        }
    }
}

/// Runs what reads an archive on a thread of its own, and waits for no more of it than is wanted.
async fn blocking<T: Send + 'static>(
    name: &str,
    token: &CancellationToken,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => done.map_err(|_| Error::internal(name))?,
        () = token.cancelled() => Err(Error::new(ErrorKind::Cancelled, "", "the run was interrupted")),
    }
}

/// What was opened to import from.
enum Opened {
    Layout(Layout),
    /// An archive that is read by position as it stands.
    Archive(Archive),
    /// A stream, or what is compressed.
    Packed(Box<dyn Read + Send>),
}

enum End {
    Layout(Layout),
    Archive(Archive),
}

/// Opens what there is to import.
fn open(from: ImportFrom, name: &str) -> Result<Opened> {
    let path = match from {
        ImportFrom::Path(path) => path,
        ImportFrom::Stream(stream) => return Ok(Opened::Packed(stream)),
    };
    let file = File::open(&path).map_err(|cause| unreadable(name, &cause))?;
    let kind = file.metadata().map_err(|cause| unreadable(name, &cause))?;
    if kind.is_dir() {
        return Layout::open(&path).map(Opened::Layout);
    }
    let mut head = [0; 4];
    if kind.is_file() {
        // Shorter than that it is no archive, which is found out later.
        let _ = file.read_exact_at(&mut head, 0);
    }
    match kind.is_file() && Compression::of(&head) == Compression::None {
        true => Archive::open(file, name).map(Opened::Archive),
        false => Ok(Opened::Packed(Box::new(file))),
    }
}

impl Opened {
    /// What images are read from. What cannot be read by position is spooled to a file without a name in `dir` first.
    fn end(self, name: &str, dir: &Path) -> Result<End> {
        let file = match self {
            Self::Layout(layout) => return Ok(End::Layout(layout)),
            Self::Archive(archive) => return Ok(End::Archive(archive)),
            Self::Packed(stream) => spool(name, stream, dir)?,
        };
        Archive::open(file, name).map(End::Archive)
    }
}

/// What is damaged as a whole is as wrong a thing to name as what is no archive at all: whoever named it is told so alike.
fn unusable(error: Error) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let told = Error::new(ErrorKind::InvalidInput, error.subject(), error.message()).on(Side::Source);
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

fn unreadable(name: &str, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ErrorKind::InvalidInput,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, name, format!("cannot open it: {cause}")).on(Side::Source)
}

/// Writes `stream`, inflated, to a file that no name leads to: it is gone when the process is.
fn spool(name: &str, stream: impl Read + Send, dir: &Path) -> Result<File> {
    let mut file =
        nameless(dir).map_err(|cause| Error::storage(dir.display(), "make a temporary file in", cause))?;
    let corrupt = |cause: io::Error| {
        Error::new(ErrorKind::Corrupt, name, format!("it cannot be read to its end: {cause}"))
            .on(Side::Source)
    };
    let (mut reader, _) = inflated(stream).map_err(corrupt)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(file),
            Ok(count) => file
                .write_all(&piece[..count])
                .map_err(|cause| Error::storage(dir.display(), "write a temporary file in", cause))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(corrupt(error)),
        }
    }
}

fn nameless(dir: &Path) -> io::Result<File> {
    let mode = Mode::from_raw_mode(0o600);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => return Ok(fd.into()),
        // Some file systems have no such files.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let path = dir.join(format!(".saver-import-{:016x}", fastrand::u64(..)));
    let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
    std::fs::remove_file(&path)?;
    Ok(fd.into())
}

async fn copy<S: Source>(
    source: S,
    (name, offers): (&str, &[Offer]),
    store: &Store,
    options: &ImportOptions,
    token: &CancellationToken,
) -> Result<Report> {
    let source = Arc::new(source);
    let mut images = Vec::with_capacity(offers.len());
    for (offer, reference) in offers.iter().zip(names(name, offers, options.rename.as_ref())?) {
        let resolved =
            root_of(offer, &reference).map(|root| Resolved { digest: root.digest, manifest: None });
        images.push(Image {
            source: source.clone(),
            place: options.names.place(&reference)?,
            alias: options.names.alias(&reference),
            reference,
            platforms: None,
            resolved: Some(resolved),
            warnings: Vec::new(),
        });
    }
    yield_short_names(&mut images);
    check_collisions(&mut images, options.copy.index, &options.copy.retry).await?;
    let engine = Engine::new(Arc::new(store.clone()), options.copy.clone(), options.observer.clone())?;
    Ok(Arc::new(engine.doing(Verb::Import)).run(images, token).await)
}

/// What is offered as `reference`, whose digest must be its own.
fn root_of(offer: &Offer, reference: &Reference) -> Result<Descriptor> {
    let root = offer.root.clone()?;
    match &reference.digest {
        Some(named) if *named != root.digest => {
            let why = format!("its name says {named}, and what is there is {}", root.digest);
            Err(Error::new(ErrorKind::Corrupt, reference, why).on(Side::Source))
        }
        _ => Ok(root),
    }
}

/// What each image is to be called.
fn names(name: &str, offers: &[Offer], rename: Option<&NewName>) -> Result<Vec<Reference>> {
    if offers.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, name, "there are no images in it"));
    }
    let Some(rename) = rename else {
        let own = |offer: &Offer| {
            offer.reference.clone().ok_or_else(|| {
                let why = "it has images without a full name";
                Error::new(ErrorKind::InvalidInput, name, format!("{why}; there is in it: {}", told(offers)))
                    .with_hint("give a name with --as: --as team/app keeps the tags, --as team/app:1.0 is for one image")
            })
        };
        return offers.iter().map(own).collect();
    };
    if rename.has_tag && offers.len() > 1 {
        let why = format!("it names one image, and there are {} in it: {}", offers.len(), told(offers));
        return Err(Error::new(ErrorKind::InvalidInput, format!("--as {}", rename.reference), why)
            .with_hint("leave the tag out: each image then keeps its own"));
    }
    Ok(offers.iter().map(|offer| rename.of(offer)).collect())
}

fn told(offers: &[Offer]) -> String {
    let label = |offer: &Offer| {
        let digest = offer.root.as_ref().map(|root| root.digest.short()).unwrap_or_else(|_| "damaged".into());
        match offer.label.as_str() {
            "" => format!("an image without a name ({digest})"),
            label => format!("{label} ({digest})"),
        }
    };
    let mut told: Vec<String> = offers.iter().take(TOLD).map(label).collect();
    if offers.len() > TOLD {
        told.push(format!("and {} more", offers.len() - TOLD));
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn offer(label: &str) -> Offer {
        let root = Ok(Descriptor::new("", Digest::of(label.as_bytes()), 1));
        match label.contains('/') {
            true => Offer::full(label, root),
            false => Offer { label: label.into(), reference: None, tag: label.parse().ok(), root },
        }
    }

    fn named(labels: &[&str], rename: Option<&str>) -> Result<Vec<String>> {
        let offers: Vec<Offer> = labels.iter().map(|label| offer(label)).collect();
        let rename = rename.map(|name| name.parse().unwrap());
        Ok(names("x.tar", &offers, rename.as_ref())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn images_have_their_names_or_get_one() {
        assert_eq!(named(&["q.io/a:1", "q.io/b:2"], None).unwrap(), ["q.io/a:1", "q.io/b:2"]);
        assert_eq!(
            named(&["q.io/a:1", "v2", ""], Some("x.io/n")).unwrap(),
            ["x.io/n:1", "x.io/n:v2", "x.io/n:latest"]
        );
        assert_eq!(named(&["v2"], Some("x.io:5000/n:9")).unwrap(), ["x.io:5000/n:9"]);
        for (labels, rename, word) in [
            (&["q.io/a:1", "v2"][..], None, "v2 ("),
            (&[""], None, "without a name"),
            (&["q.io/a:1", "v2"], Some("x.io/n:1"), "2 in it"),
            (&[], None, "no images"),
        ] {
            let error = named(labels, rename).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!("a@sha256:00".parse::<NewName>().is_err());
    }

    #[test]
    fn a_digest_in_a_name_is_the_image_s_own() {
        let root = Descriptor::new("", Digest::of(b"x"), 1);
        for (digest, honest) in [(Digest::of(b"x"), true), (Digest::of(b"y"), false)] {
            for name in ["q.io/a", "q.io/a:1"] {
                let label = format!("{name}@{digest}");
                let offer = Offer::full(&label, Ok(root.clone()));
                let found = root_of(&offer, offer.reference.as_ref().unwrap());
                assert_eq!(found.is_ok(), honest, "{label}");
                if let Err(error) = found {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(error.to_string().contains(&label), "{error}");
                }
            }
        }
    }
}
