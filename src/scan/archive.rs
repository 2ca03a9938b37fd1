//! Packed charts, read into memory within bounds.

use super::MAX_FILE_BYTES;
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

/// The most that one chart may hold, with its subcharts, and that it may be rendered to, in bytes.
pub(crate) const MAX_CHART_BYTES: usize = 64 << 20;
/// The most files that one chart may hold.
pub(super) const MAX_CHART_FILES: usize = 20_000;

/// Files by their path, with `/` between the names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A path below a chart: plain names only, nothing that leads out.
pub(super) fn relative(path: &Path) -> Option<String> {
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

/// The regular files of a .tgz; links, devices and paths that lead out are left out.
pub(super) fn unpack(packed: &[u8]) -> Result<Files, String> {
    let limit = MAX_CHART_BYTES as u64 + 1;
    let unpacked = MultiGzDecoder::new(packed).take(limit);
    let mut archive = tar::Archive::new(unpacked);
    let mut files = Files::new();
    let mut bytes = 0;
    let broken = |cause: std::io::Error| format!("the archive can't be read: {cause}");
    for (number, entry) in archive.entries().map_err(broken)?.enumerate() {
        let entry = entry.map_err(broken)?;
        if number >= MAX_CHART_FILES {
            return Err(format!("the archive holds more than {MAX_CHART_FILES} files"));
        }
        let path = entry.path().ok().and_then(|path| relative(&path));
        let Some(path) = path.filter(|_| entry.header().entry_type().is_file()) else { continue };
        let mut content = Vec::new();
        entry.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content).map_err(broken)?;
        bytes += content.len();
        if content.len() > MAX_FILE_BYTES || bytes > MAX_CHART_BYTES {
            return Err("the archive unfolds to more than is read".to_owned());
        }
        files.insert(path, content);
    }
    Ok(files)
}
