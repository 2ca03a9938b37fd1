//! Files that a command writes for others to read: whole, or not at all.

use crate::error::{Error, ErrorKind, Result};
use crate::export::{is_written_in_place, open_in_place};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file to be written at the end of a run and tried at its start, so that a long run does not
/// end in a report that can't be kept.
#[derive(Debug)]
pub(crate) struct Outfile {
    path: PathBuf,
    /// The new content's place until it is whole; none for what is not a file, such as a pipe.
    temporary: Option<(PathBuf, File)>,
}

impl Outfile {
    /// Makes sure that `path`, named by `flag`, can be written.
    ///
    /// # Errors
    /// `InvalidInput` when it is no place for a file, `Storage` when the system refuses it.
    pub(crate) fn prepare(flag: &str, path: &Path) -> Result<Self> {
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
            Ok(_) if is_written_in_place(path) => {
                return Ok(Self { path: path.to_owned(), temporary: None });
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| refuse("this names no file".into()))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        // Never through a link that somebody put there, as anybody can in /tmp: the name can be guessed.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|cause| {
            let missing = cause.kind() == io::ErrorKind::NotFound;
            let error = Error::storage(format!("{flag} {}", path.display()), "write there", cause);
            if missing { error.with_hint("make the directory first, or choose another") } else { error }
        })?;
        Ok(Self { path: path.to_owned(), temporary: Some((temporary, file)) })
    }

    /// Writes `content`, all of it before any of it is seen.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn finish(mut self, content: &[u8]) -> Result<()> {
        let failed = |cause| Error::storage(self.path.display(), "write", cause);
        match &mut self.temporary {
            // A pipe that nobody reads is an error: it would be waited for without end.
            None => open_in_place(&self.path).and_then(|mut to| to.write_all(content)).map_err(failed),
            Some((temporary, file)) => {
                let written = file.write_all(content).and_then(|()| file.sync_all());
                written.and_then(|()| fs::rename(temporary, &self.path)).map_err(failed)
            }
        }
    }
}

/// The files that a run writes its word to.
#[derive(Debug, Default)]
pub(crate) struct Files {
    report: Option<Outfile>,
    failed_list: Option<Outfile>,
}

impl Files {
    /// Makes sure that all of them can be written, and are not one; nor the run's own `output`, where `-` is stdout.
    ///
    /// # Errors
    /// As [`Outfile::prepare`].
    pub(crate) fn prepare(
        output: Option<&Path>,
        report: Option<&Path>,
        failed_list: Option<&Path>,
    ) -> Result<Self> {
        let named = [("--output", output), ("--report", report), ("--failed-list", failed_list)];
        let named: Vec<(&str, &Path)> =
            named.into_iter().filter_map(|(flag, path)| Some((flag, path?))).collect();
        for (at, (flag, path)) in named.iter().enumerate() {
            let own = Identity::of(path);
            let other = named.iter().take(at).find(|(_, other)| own.is_some() && Identity::of(other) == own);
            if let Some((other, _)) = other {
                let subject = format!("{other} and {flag} {}", path.display());
                return Err(Error::new(ErrorKind::InvalidInput, subject, "these are one file")
                    .with_hint("give each a file of its own"));
            }
        }
        let prepared = |flag, path: Option<&Path>| path.map(|path| Outfile::prepare(flag, path)).transpose();
        Ok(Self {
            report: prepared("--report", report)?,
            failed_list: prepared("--failed-list", failed_list)?,
        })
    }

    /// Writes the report, as JSON, and the failed list.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn write(self, report: &impl serde::Serialize, failed_list: Option<&str>) -> Result<()> {
        if let Some(file) = self.report {
            let mut json = serde_json::to_vec_pretty(report).map_err(|cause| {
                Error::new(ErrorKind::Storage, "--report", format!("cannot be written: {cause}"))
            })?;
            json.push(b'\n');
            file.finish(&json)?;
        }
        match (self.failed_list, failed_list) {
            (Some(file), Some(list)) => file.finish(list.as_bytes()),
            _ => Ok(()),
        }
    }
}

/// What tells whether two paths name one file.
#[derive(PartialEq, Eq)]
enum Identity {
    /// What is there: device and inode.
    There(u64, u64),
    /// A file to be made: its directory, and its name.
    New(PathBuf, OsString),
}

impl Identity {
    /// None for a device, such as a terminal or `/dev/null`: several may write there.
    fn of(path: &Path) -> Option<Self> {
        let path = if path.as_os_str() == "-" { Path::new("/dev/stdout") } else { path };
        if let Ok(found) = fs::metadata(path) {
            let kind = found.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            return (!device).then(|| Self::There(found.dev(), found.ino()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        Some(Self::New(parent, path.file_name()?.to_owned()))
    }
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
    fn no_two_of_a_run_s_files_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("there"), "").unwrap();
        std::os::unix::fs::symlink(at("there"), at("link")).unwrap();
        fs::create_dir(at("sub")).unwrap();
        for (output, report, list, fine) in [
            ("a", "b", "c", true),
            ("a", "a", "c", false),
            ("a", "b", "b", false),
            ("a", "b", "sub/../a", false),
            ("a", "sub/a", "c", true),
            ("there", "link", "c", false),
            ("/dev/null", "/dev/null", "/dev/null", true),
        ] {
            let [output, report, list] = [output, report, list].map(at);
            let found = Files::prepare(Some(&output), Some(&report), Some(&list));
            assert_eq!(found.is_ok(), fine, "{output:?} {report:?} {list:?}");
            if let Err(error) = found {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains("one file"), "{error}");
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left of what was tried");
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
        // What is open already keeps what it has.
        let mut kept = tempfile::tempfile().unwrap();
        kept.write_all(b"table ").unwrap();
        let open = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
        Outfile::prepare("--report", Path::new(&open)).unwrap().finish(b"new").unwrap();
        let mut content = [0; 20];
        let length = std::os::unix::fs::FileExt::read_at(&kept, &mut content, 0).unwrap();
        assert_eq!(&content[..length], b"table new");
        Outfile::prepare("--report", Path::new("/dev/null")).unwrap().finish(b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
