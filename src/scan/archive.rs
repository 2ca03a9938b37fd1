//! Packed charts, unpacked into memory within bounds.

use super::MAX_FILE_BYTES;
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};
use std::sync::Arc;

/// Maximum size of a chart with its subcharts, and of what it renders to, in bytes.
pub(crate) const MAX_CHART_BYTES: usize = 64 << 20;
/// Maximum number of files in a chart.
pub(super) const MAX_CHART_FILES: usize = 20_000;

/// The files of a chart by their relative paths, with `/` between the names.
pub(super) type ChartFiles = BTreeMap<String, Arc<[u8]>>;

/// A relative path of plain names; none if it leads out of its directory.
pub(super) fn relative_path(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// The regular files of a .tgz archive. Links, devices and paths that lead out of it are skipped.
pub(super) fn unpack(packed: &[u8]) -> Result<ChartFiles, String> {
    let limit = MAX_CHART_BYTES as u64 + 1;
    let unpacked = MultiGzDecoder::new(packed).take(limit);
    let mut archive = tar::Archive::new(unpacked);
    let mut files = ChartFiles::new();
    let mut bytes = 0;
    let invalid = |cause: std::io::Error| format!("cannot read the archive: {cause}");
    for (number, entry) in archive.entries().map_err(invalid)?.enumerate() {
        let entry = entry.map_err(invalid)?;
        if number >= MAX_CHART_FILES {
            return Err(format!("the archive has more than {MAX_CHART_FILES} files"));
        }
        let path = entry.path().ok().and_then(|path| relative_path(&path));
        let Some(path) = path.filter(|_| entry.header().entry_type().is_file()) else { continue };
        let mut content = Vec::new();
        entry.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content).map_err(invalid)?;
        bytes += content.len();
        if content.len() > MAX_FILE_BYTES || bytes > MAX_CHART_BYTES {
            return Err("the archive is too large when unpacked".to_owned());
        }
        files.insert(path, content.into());
    }
    Ok(files)
}
