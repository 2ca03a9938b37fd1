//! Reads files of a directory that may be hostile.

use super::{Discovery, MAX_FILE_BYTES};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Hidden files and directories that name images.
const READ_HIDDEN: &[&str] =
    &[".imgpkg", ".github", ".gitlab", ".gitlab-ci.yml", ".gitlab-ci.yaml", ".circleci"];
/// Why something was not read.
pub(crate) const NOT_REGULAR: &str = "not a regular file: it was not read";

/// Whether a file is hidden and not one of those that name images.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") && !READ_HIDDEN.iter().any(|read| name == *read)
}

/// The content of a regular file. Links are not followed, and opening a pipe does not block.
pub(super) fn read(found: &mut Discovery, place: &Arc<str>, path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let open = || -> std::io::Result<(File, bool)> {
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let regular = file.metadata()?.is_file();
        Ok((file, regular))
    };
    let (file, regular) = match open() {
        Ok(opened) => opened,
        Err(cause) => {
            found.unread(place, 0, format!("cannot read the file: {cause}"));
            return None;
        }
    };
    if !regular {
        found.unread(place, 0, NOT_REGULAR);
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
            found.unread(place, 0, format!("cannot read the file: {cause}"));
            None
        }
    }
}
