//! Opens the source of an import: a layout, a packed chart, or an archive that may have to be decompressed first.

use super::ImportFrom;
use crate::archive::Archive;
use crate::archive::layer::{Compression, decompressed, unsupported_compression};
use crate::chart::{ChartPackage, MAX_PACKAGE_BYTES, MAX_PROVENANCE_BYTES};
use crate::content::memory::Memory;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::layout::Layout;
use crate::oci::layout::ListedImage;
use crate::oci::{Reference, Tag};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How many bytes are copied at once.
const CHUNK: usize = 256 << 10;
/// The file that every chart's directory has.
const CHART_METADATA: &str = "Chart.yaml";
/// How many bytes identify a compression format.
const MAGIC: usize = 10;

/// An opened source.
pub(super) enum ImportInput {
    Layout(Layout),
    /// An uncompressed archive in a regular file.
    Archive(Archive),
    /// A packed chart.
    Chart(Box<ChartPackage>),
    /// A stream, or a compressed archive, which cannot be read by position.
    Stream(Box<dyn Read + Send>),
}

/// What images are imported from.
pub(super) enum ImportSource {
    /// A layout, and the images that it lists.
    Layout(Layout, Vec<ListedImage>),
    Archive(Archive),
    /// A packed chart, and its name.
    Chart(Memory, Vec<ListedImage>),
}

impl ImportInput {
    /// Opens `from`, which messages call `name`.
    pub(super) fn open(from: ImportFrom, name: &str) -> Result<Self> {
        let path = match from {
            ImportFrom::Path(path) => path,
            ImportFrom::Stream(stream) => return Ok(Self::Stream(stream)),
        };
        let file = File::open(&path).map_err(|cause| open_error(name, &cause))?;
        let metadata = file.metadata().map_err(|cause| open_error(name, &cause))?;
        if metadata.is_dir() && path.join(CHART_METADATA).is_file() {
            let error = Error::new(ErrorKind::InvalidInput, name, "this is the directory of a chart");
            return Err(error.with_hint(format!("package it first: helm package {name}")).on(Side::Source));
        }
        if metadata.is_dir() {
            return Layout::open(&path).map(Self::Layout);
        }
        if metadata.is_file() {
            let mut head = [0; MAGIC];
            // Fails for a shorter file, which is then refused as not being a tar.
            let _ = file.read_exact_at(&mut head, 0);
            refuse_compression(name, &head)?;
            if Compression::detect(&head) == Compression::None {
                return Archive::open(file, name).map(Self::Archive);
            }
            if let Some(chart) = packed_chart(name, &path, &file)? {
                return Ok(Self::Chart(Box::new(chart)));
            }
        }
        Ok(Self::Stream(Box::new(file)))
    }

    /// The source of images. A stream is written to an unnamed file in `dir` first.
    pub(super) fn into_source(self, name: &str, dir: &Path) -> Result<ImportSource> {
        match self {
            Self::Layout(layout) => {
                let images = layout.images()?;
                Ok(ImportSource::Layout(layout, images))
            }
            Self::Archive(archive) => Ok(ImportSource::Archive(archive)),
            Self::Chart(chart) => chart_source(&chart),
            Self::Stream(stream) => Archive::open(spool(name, stream, dir)?, name).map(ImportSource::Archive),
        }
    }
}

/// Reads a packed chart and its provenance file; none if the file is another compressed archive.
fn packed_chart(name: &str, path: &Path, file: &File) -> Result<Option<ChartPackage>> {
    let read = |file: &File, max: usize| -> Result<Option<Bytes>> {
        let mut content = Vec::new();
        let read =
            file.take(max as u64 + 1).read_to_end(&mut content).map_err(|cause| open_error(name, &cause))?;
        Ok((read <= max).then(|| Bytes::from(content)))
    };
    let Some(archive) = read(file, MAX_PACKAGE_BYTES)?.filter(|archive| ChartPackage::is_chart(archive))
    else {
        return file
            .try_clone()
            .and_then(|mut file| file.rewind())
            .map(|()| None)
            .map_err(|cause| open_error(name, &cause));
    };
    let mut provenance = path.as_os_str().to_owned();
    provenance.push(".prov");
    let provenance = match File::open(&provenance) {
        Ok(file) => read(&file, MAX_PROVENANCE_BYTES)?,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        Err(cause) => return Err(open_error(&format!("{name}.prov"), &cause)),
    };
    ChartPackage::read(name, archive).map(|chart| Some(chart.with_provenance(provenance)))
}

/// The artifact of a chart under the name of a local image: a packed chart does not say which registry it belongs to.
fn chart_source(chart: &ChartPackage) -> Result<ImportSource> {
    let label = format!("localhost/{}:{}", chart.name(), chart.version().replace('+', "_"));
    let reference = Reference::parse(&label)?;
    let artifact = chart.artifact()?;
    let source = artifact.to_source(&reference.repository, &reference.tag.unwrap_or_else(Tag::latest));
    Ok(ImportSource::Chart(source, vec![ListedImage::full(&label, Ok(artifact.root()))]))
}

fn open_error(name: &str, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ErrorKind::InvalidInput,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, name, format!("cannot open it: {cause}")).on(Side::Source)
}

/// Refuses an archive that starts with `head` if saver cannot decompress it.
fn refuse_compression(name: &str, head: &[u8]) -> Result<()> {
    let Some((format, command)) = unsupported_compression(head) else { return Ok(()) };
    let message = format!("{format} archives are not supported");
    let hint = format!("decompress it first: {command} FILE | saver import - --dir DIR");
    Err(Error::new(ErrorKind::InvalidInput, name, message).on(Side::Source).with_hint(hint))
}

/// Writes `stream`, decompressed, to an unnamed file, which disappears with the process.
fn spool(name: &str, mut stream: impl Read + Send, dir: &Path) -> Result<File> {
    let read_error = |cause: io::Error| {
        Error::new(ErrorKind::Corrupt, name, format!("cannot read the archive: {cause}")).on(Side::Source)
    };
    let mut head = Vec::with_capacity(MAGIC);
    stream.by_ref().take(MAGIC as u64).read_to_end(&mut head).map_err(read_error)?;
    refuse_compression(name, &head)?;
    let (mut reader, _) = decompressed(Cursor::new(head).chain(stream)).map_err(read_error)?;
    let mut file = unnamed_file(dir)
        .map_err(|cause| Error::storage(dir.display(), "create a temporary file in", cause))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(file),
            Ok(count) => file
                .write_all(&chunk[..count])
                .map_err(|cause| Error::storage(dir.display(), "write a temporary file in", cause))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
}

/// Creates a file in `dir` that has no name.
fn unnamed_file(dir: &Path) -> io::Result<File> {
    let mode = Mode::from_raw_mode(0o600);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => return Ok(fd.into()),
        // Not every file system supports O_TMPFILE.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let path = dir.join(format!(".saver-import-{:016x}", fastrand::u64(..)));
    let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
    std::fs::remove_file(&path)?;
    Ok(fd.into())
}
