//! Files that a command writes for others to read: whole, or not at all.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file to be written at the end of a run and tried at its start, so that a long run does not
/// end in a report that can't be kept.
#[derive(Debug)]
pub(super) struct Outfile {
    path: PathBuf,
    /// The new content's place until it is whole; none for what is not a file, such as a pipe.
    temporary: Option<(PathBuf, File)>,
}

impl Outfile {
    /// Makes sure that `path`, named by `flag`, can be written.
    ///
    /// # Errors
    /// `InvalidInput` when it can't be.
    pub(super) fn prepare(flag: &str, path: &Path) -> Result<Self> {
        let refuse =
            |why: String| Error::new(ErrorKind::InvalidInput, format!("{flag} {}", path.display()), why);
        if path.as_os_str() == "-" {
            return Err(refuse("this names no file".into())
                .with_hint("name a file; --progress json prints what happens to stdout"));
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(refuse("this is a directory".into())),
            // Renaming onto a pipe or a terminal would put a file in its place.
            Ok(found) if !found.is_file() => return Ok(Self { path: path.to_owned(), temporary: None }),
            // Nor onto /dev/stdout, which is a link to a file where output goes to one.
            Ok(_) if path.starts_with("/dev") || path.starts_with("/proc") => {
                return Ok(Self { path: path.to_owned(), temporary: None });
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| refuse("this names no file".into()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        // Never through a link that somebody put there, as anybody can in /tmp: the name can be guessed.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|cause| refuse(format!("cannot write there: {cause}")))?;
        Ok(Self { path: path.to_owned(), temporary: Some((temporary, file)) })
    }

    /// Writes `content`, all of it before any of it is seen.
    ///
    /// # Errors
    /// `Storage`.
    pub(super) fn finish(mut self, content: &[u8]) -> Result<()> {
        let failed = |cause| Error::storage(self.path.display(), "write", cause);
        match &mut self.temporary {
            None => write_through(&self.path, content).map_err(failed),
            Some((temporary, file)) => {
                let written = file.write_all(content).and_then(|()| file.sync_all());
                written.and_then(|()| fs::rename(temporary, &self.path)).map_err(failed)
            }
        }
    }
}

/// Writes to what is not a file. A pipe that nobody reads is an error: it would be waited for without end.
fn write_through(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut pipe = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty())?;
    pipe.write_all(content)
}

impl Drop for Outfile {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.temporary {
            // After a rename it is gone already.
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let unread = Outfile::prepare("--report", &path).unwrap();
        assert_eq!(unread.finish(b"x").unwrap_err().kind(), ErrorKind::Storage);
        let content = vec![b'x'; 1 << 20];
        let from = path.clone();
        // Opened for both, so that opening waits for nobody.
        let mut reader = OpenOptions::new().read(true).write(true).open(&from).unwrap();
        let read = std::thread::spawn(move || {
            let mut all = vec![0; 1 << 20];
            io::Read::read_exact(&mut reader, &mut all).unwrap();
            all
        });
        Outfile::prepare("--report", &path).unwrap().finish(&content).unwrap();
        assert_eq!(read.join().unwrap(), content);
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let planted = dir.path().join(format!(".report.json.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, planted).unwrap();
        Outfile::prepare("--report", &dir.path().join("report.json")).unwrap().finish(b"new").unwrap();
        assert_eq!(fs::read(victim).unwrap(), b"precious");
    }

    #[test]
    fn is_whole_or_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        fs::write(&path, "old").unwrap();
        drop(Outfile::prepare("--report", &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        Outfile::prepare("--report", &path).unwrap().finish(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for bad in [dir.path().to_owned(), dir.path().join("no/such"), dir.path().join("..")] {
            let error = Outfile::prepare("--report", &bad).unwrap_err();
            assert!(error.to_string().starts_with("--report "), "{error}");
        }
        Outfile::prepare("--report", Path::new("/dev/null")).unwrap().finish(b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
