//! Packed charts.

use super::artifact::ChartArtifact;
use super::metadata::ChartMetadata;
use crate::error::{Error, ErrorKind, Result, Side};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::path::{Component, Path};

/// Maximum size of a packed chart in bytes. Helm refuses charts that are larger than 100 MB when unpacked.
pub const MAX_PACKAGE_BYTES: usize = 32 << 20;
/// Maximum size of a chart when unpacked, in bytes.
const MAX_UNPACKED_BYTES: u64 = 128 << 20;
/// Maximum number of entries before `Chart.yaml`.
const MAX_ENTRIES: usize = 20_000;
/// Maximum size of `Chart.yaml` in bytes.
const MAX_METADATA_BYTES: u64 = 1 << 20;
/// How a signed message starts.
const SIGNED_MESSAGE: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";

/// A packed chart that was read: `NAME-VERSION.tgz`, and its provenance file if it has one.
#[derive(Clone, Debug)]
pub struct ChartPackage {
    archive: Bytes,
    provenance: Option<Bytes>,
    metadata: ChartMetadata,
    name: String,
    version: String,
}

impl ChartPackage {
    /// Reads the metadata of the chart in `archive`, which messages call `subject`. Nothing else is unpacked.
    ///
    /// # Errors
    /// `Corrupt` if it is no chart; `TooLarge` if it is larger than a chart may be.
    pub fn read(subject: &str, archive: Bytes) -> Result<Self> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, subject, why).on(Side::Source);
        let text = chart_yaml(&archive).map_err(|error| match error {
            Unreadable::TooLarge => {
                Error::new(ErrorKind::TooLarge, subject, "the chart is too large when unpacked")
                    .on(Side::Source)
            }
            Unreadable::Invalid(why) => corrupt(&format!("cannot read the chart: {why}")),
            Unreadable::NoMetadata => corrupt("the archive has no Chart.yaml in a top-level directory"),
        })?;
        let metadata =
            ChartMetadata::parse(&text).map_err(|why| corrupt(&format!("invalid Chart.yaml: {why}")))?;
        let (Some(name), Some(version)) = (metadata.name.clone(), metadata.version.clone()) else {
            return Err(corrupt("Chart.yaml has no name or no version"));
        };
        Ok(Self { archive, provenance: None, metadata, name, version })
    }

    /// Whether `archive` looks like a packed chart: its first file is in a directory, and is `Chart.yaml` or beside it.
    #[must_use]
    pub fn is_chart(archive: &[u8]) -> bool {
        chart_yaml(archive).is_ok()
    }

    /// Adds a provenance file. Content that is no signed message is left out.
    #[must_use]
    pub fn with_provenance(self, content: Option<Bytes>) -> Self {
        Self { provenance: content.filter(|content| content.starts_with(SIGNED_MESSAGE)), ..self }
    }

    /// The name in `Chart.yaml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version in `Chart.yaml`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The archive, as it was read.
    #[must_use]
    pub fn archive(&self) -> &Bytes {
        &self.archive
    }

    /// The artifact that `helm push` makes of it.
    ///
    /// # Errors
    /// `Corrupt` if its metadata makes no valid manifest.
    pub fn artifact(&self) -> Result<ChartArtifact> {
        ChartArtifact::new(&self.metadata, self.archive.clone(), self.provenance.clone())
    }
}

enum Unreadable {
    NoMetadata,
    TooLarge,
    Invalid(String),
}

/// The content of `NAME/Chart.yaml`, the first entry of archives that Helm writes.
fn chart_yaml(archive: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let invalid = |cause: std::io::Error| Unreadable::Invalid(cause.to_string());
    let mut unpacked = tar::Archive::new(MultiGzDecoder::new(archive).take(MAX_UNPACKED_BYTES));
    for (number, entry) in unpacked.entries().map_err(invalid)?.enumerate() {
        let entry = entry.map_err(invalid)?;
        if number >= MAX_ENTRIES {
            return Err(Unreadable::TooLarge);
        }
        if !entry.header().entry_type().is_file() || !entry.path().is_ok_and(|path| is_metadata(&path)) {
            continue;
        }
        if entry.size() > MAX_METADATA_BYTES {
            return Err(Unreadable::TooLarge);
        }
        let mut text = Vec::new();
        entry.take(MAX_METADATA_BYTES).read_to_end(&mut text).map_err(invalid)?;
        return Ok(text);
    }
    Err(Unreadable::NoMetadata)
}

/// Whether a path is `NAME/Chart.yaml`.
fn is_metadata(path: &Path) -> bool {
    let mut names = path.components().filter(|name| *name != Component::CurDir);
    let is_dir = matches!(names.next(), Some(Component::Normal(_)));
    is_dir && names.next() == Some(Component::Normal("Chart.yaml".as_ref())) && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    /// A .tgz of `files`.
    fn packed(files: &[(&str, &[u8])]) -> Bytes {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Set directly: the crate refuses paths such as `../x`.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap().into()
    }

    #[test]
    fn metadata_of_charts_is_read() {
        for files in [
            &[("a/Chart.yaml", &b"name: a\nversion: 1.0.0\n"[..])][..],
            &[("./a/values.yaml", b"x: 1"), ("./a/Chart.yaml", b"name: a\nversion: 1.0.0\n")],
            &[
                ("a/charts/b/Chart.yaml", b"name: b\nversion: 2"),
                ("a/Chart.yaml", b"name: a\nversion: 1.0.0\n"),
            ],
        ] {
            let package = ChartPackage::read("a.tgz", packed(files)).unwrap();
            assert_eq!((package.name(), package.version()), ("a", "1.0.0"));
        }
    }

    #[test]
    fn other_archives_are_refused() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; 1 << 20];
        let mut header = tar::Header::new_gnu();
        header.set_path("a/values.yaml").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        bomb.write_all(header.as_bytes()).unwrap();
        for _ in 0..=(MAX_UNPACKED_BYTES >> 20) {
            bomb.write_all(&zeros).unwrap();
        }
        let large = vec![b' '; MAX_METADATA_BYTES as usize + 1];
        for (name, archive, kind, reason) in [
            ("text", Bytes::from_static(b"hello"), ErrorKind::Corrupt, "cannot read"),
            ("empty", packed(&[]), ErrorKind::Corrupt, "no Chart.yaml"),
            ("top level", packed(&[("Chart.yaml", b"name: a")]), ErrorKind::Corrupt, "no Chart.yaml"),
            ("outside", packed(&[("../Chart.yaml", b"name: a")]), ErrorKind::Corrupt, "no Chart.yaml"),
            ("absolute", packed(&[("/a/Chart.yaml", b"name: a")]), ErrorKind::Corrupt, "no Chart.yaml"),
            ("no version", packed(&[("a/Chart.yaml", b"name: a\n")]), ErrorKind::Corrupt, "no version"),
            ("no YAML", packed(&[("a/Chart.yaml", b"a: [\n")]), ErrorKind::Corrupt, "invalid Chart.yaml"),
            ("large", packed(&[("a/Chart.yaml", &large)]), ErrorKind::TooLarge, "too large"),
            ("bomb", bomb.finish().unwrap().into(), ErrorKind::Corrupt, "cannot read"),
        ] {
            let error = ChartPackage::read("a.tgz", archive).unwrap_err();
            assert!(error.kind() == kind && error.to_string().contains(reason), "{name}: {error}");
        }
    }
}
