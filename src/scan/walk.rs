//! The files of a directory, in a fixed order and within bounds. Symbolic links are not followed.

use super::chart::{self, Chart, Render};
use super::{Found, Ignore, Kind, MAX_FILE_BYTES};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkdir::{DirEntry, WalkDir};

/// How deep directories are walked.
const MAX_DEPTH: usize = 40;
/// The most files and directories that are looked at.
const MAX_ENTRIES: usize = 500_000;
/// The parts of a build context that name images.
const CONTEXT: &[&str] = &["manifests", "charts"];
/// The lists that may stand beside them.
const CONTEXT_LISTS: &[&str] = &["imageList", "imageListWithAuth.yaml"];
/// Why something was not read.
pub const IRREGULAR: &str = "this is no regular file: it was not read";
/// What makes a directory a build context of its own accord.
const BUILD_FILE: &str = "Kubefile";

/// How to scan.
#[derive(Default)]
#[non_exhaustive]
pub struct ScanOptions<'a> {
    /// Images that are not wanted.
    pub ignore: Ignore,
    /// Directories to stay out of.
    pub skip: Vec<PathBuf>,
    /// What renders charts; without it their values and templates are read.
    pub render: Option<&'a dyn Render>,
}

/// Finds the images that a file or a directory names. A directory with a Kubefile in it is a build context.
///
/// # Errors
/// `InvalidInput` when there is no such file or directory. What can't be read below it is told in the result.
pub fn path(root: &Path, options: &ScanOptions<'_>) -> Result<Found> {
    let kind = std::fs::metadata(root).map_err(|cause| unreadable(root, &cause))?;
    let mut found = Found::default();
    if kind.is_dir() && root.join(BUILD_FILE).is_file() {
        found.note(
            &shown(root),
            0,
            "a build context: manifests and charts are scanned, as saver build-context does",
        );
        parts(&mut found, root, options);
    } else if kind.is_dir() {
        directory(&mut found, root, options);
    } else if kind.is_file() {
        file(&mut found, root, true, options);
        note_chart(&mut found, root);
    } else {
        return Err(Error::new(ErrorKind::InvalidInput, root.display(), "this is no file and no directory"));
    }
    found.leave_out(&options.ignore);
    Ok(found)
}

fn unreadable(root: &Path, cause: &std::io::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, root.display(), format!("cannot be read: {cause}"))
}

/// Finds the images of a build context: those that its manifests and charts name.
///
/// # Errors
/// `InvalidInput` when it is no build context. What can't be read below it is told in the result.
pub fn context(root: &Path, options: &ScanOptions<'_>) -> Result<Found> {
    std::fs::metadata(root).map_err(|cause| unreadable(root, &cause))?;
    if !CONTEXT.iter().any(|part| root.join(part).is_dir()) {
        let why = "this is no build context: there is neither a manifests nor a charts directory in it";
        return Err(Error::new(ErrorKind::InvalidInput, root.display(), why)
            .with_hint("name the directory that the Kubefile is in; saver scan looks for images anywhere"));
    }
    let mut found = Found::default();
    parts(&mut found, root, options);
    found.leave_out(&options.ignore);
    Ok(found)
}

fn parts(found: &mut Found, root: &Path, options: &ScanOptions<'_>) {
    for list in CONTEXT_LISTS.iter().map(|name| root.join(name)) {
        match std::fs::symlink_metadata(&list) {
            Ok(kind) if kind.is_file() => file(found, &list, false, options),
            Ok(_) => found.unread(&shown(&list), 0, IRREGULAR),
            Err(_) => {}
        }
    }
    for part in CONTEXT {
        let dir = root.join(part);
        match std::fs::symlink_metadata(&dir) {
            Ok(kind) if kind.is_dir() => directory(found, &dir, options),
            Ok(kind) if kind.is_symlink() => {
                found.unread(&shown(&dir), 0, "this is a symbolic link: it is not followed");
            }
            _ => {}
        }
    }
}

fn shown(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

pub(super) fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn directory(found: &mut Found, root: &Path, options: &ScanOptions<'_>) {
    let mut walk = WalkDir::new(root).max_depth(MAX_DEPTH).sort_by_file_name().into_iter();
    let mut number = 0;
    while let Some(entry) = walk.next() {
        number += 1;
        if number > MAX_ENTRIES {
            return found.unread(&shown(root), 0, format!("more than {MAX_ENTRIES} files are below it"));
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let place = error.path().map_or_else(|| shown(root), shown);
                let why = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                found.unread(&place, 0, format!("cannot be read: {why}"));
                continue;
            }
        };
        let path = entry.path();
        if entry.file_type().is_dir() {
            let tree = path.join("docker/registry/v2").is_dir();
            if entry.depth() > 0 && is_hidden(&entry) || tree || options.skip.iter().any(|skip| skip == path)
            {
                walk.skip_current_dir();
            } else if is_file(&path.join("Chart.yaml")) {
                let chart = Chart::from_dir(found, path);
                chart::scan(found, &chart, options.render);
                walk.skip_current_dir();
            } else if entry.depth() == MAX_DEPTH {
                found.unread(&shown(path), 0, "it is nested deeper than is read");
            }
        } else if entry.file_type().is_file() {
            file(found, path, false, options);
        } else if !is_wanted(path) {
            continue;
        } else if !entry.path_is_symlink() || kind_of(path) == Some(Kind::List) {
            found.unread(&shown(path), 0, IRREGULAR);
        } else {
            found.note(&shown(path), 0, "this is a symbolic link: it is not followed");
        }
    }
}

/// A chart's own file is read better with the chart around it.
fn note_chart(found: &mut Found, file: &Path) {
    let charts = file.ancestors().skip(1).take(MAX_DEPTH).filter(|dir| !dir.as_os_str().is_empty());
    if let Some(chart) = charts.into_iter().find(|dir| is_file(&dir.join("Chart.yaml"))) {
        let said = format!(
            "it is part of the chart in {}: scan that for what the chart makes of it",
            chart.display()
        );
        found.note(&shown(file), 0, said);
    }
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_file())
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_packed(path: &Path) -> bool {
    [".tgz", ".tar.gz"].iter().any(|ending| name_of(path).ends_with(ending))
}

fn is_wanted(path: &Path) -> bool {
    is_packed(path) || kind_of(path).is_some()
}

/// How a file is to be read, by its name; in `images/shim` any file is a list (sealos' cluster images).
fn kind_of(path: &Path) -> Option<Kind> {
    let shim = path.parent().is_some_and(|dir| dir.ends_with("images/shim"));
    if shim { Some(Kind::List) } else { Kind::of(name_of(path)) }
}

/// One file. One that was named is read whatever it is called.
fn file(found: &mut Found, path: &Path, named: bool, options: &ScanOptions<'_>) {
    let kind = kind_of(path).or(named.then_some(Kind::Template));
    let place = shown(path);
    if is_packed(path) {
        let Some(packed) = read(found, &place, path) else { return };
        match Chart::from_archive(found, &place, &packed) {
            Some(chart) => chart::scan(found, &chart, options.render),
            None if named => found.note(&place, 0, "there is no chart in it"),
            None => {}
        }
    } else if let Some(kind) = kind
        && let Some(content) = read(found, &place, path)
    {
        super::text(found, &place, kind, &content);
    }
}

/// A regular file's content. What stands there instead of one, a pipe or a link, is not opened for long.
pub(super) fn read(found: &mut Found, place: &Arc<str>, path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let open = || -> std::io::Result<(File, bool)> {
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let regular = file.metadata()?.is_file();
        Ok((file, regular))
    };
    let (file, regular) = match open() {
        Ok(opened) => opened,
        Err(cause) => {
            found.unread(place, 0, format!("cannot be read: {cause}"));
            return None;
        }
    };
    if !regular {
        found.unread(place, 0, IRREGULAR);
        return None;
    }
    let mut content = Vec::new();
    match file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content) {
        Ok(_) if content.len() > MAX_FILE_BYTES => {
            found.unread(place, 0, format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20));
            None
        }
        Ok(_) => Some(content),
        Err(cause) => {
            found.unread(place, 0, format!("cannot be read: {cause}"));
            None
        }
    }
}
