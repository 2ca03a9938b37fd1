//! Files that a command writes for others to read: complete, or not at all.

use super::wording::Wording;
use super::{metrics, output, summary};
use crate::cli::args::output::ReportArgs;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{is_written_in_place, open_in_place};
use crate::transfer::{Plan, Report};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file that is written at the end of a run and tried at its start, so that a long run does not end in a report that cannot be
/// written.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    /// The new content until it is complete; none for what is not a regular file, such as a pipe.
    temporary: Option<TemporaryFile>,
}

impl OutputFile {
    /// Checks that `path`, given by `option`, can be written.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot name a file, `Storage` when the system refuses it.
    pub(crate) fn prepare(option: &str, path: &Path) -> Result<Self> {
        let refuse =
            |why: &str| Error::new(ErrorKind::InvalidInput, format!("{option} {}", path.display()), why);
        if path.as_os_str() == "-" {
            let hint = "name a file; --progress json prints events to stdout";
            return Err(refuse("stdout is not supported").with_hint(hint));
        }
        let is_written_directly = match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(refuse("this is a directory")),
            // Renaming onto a pipe or a terminal, or onto /dev/stdout, which is a link, would replace it.
            Ok(found) => !found.is_file() || is_written_in_place(path),
            Err(_) => false,
        };
        if is_written_directly {
            return Ok(Self { path: path.to_owned(), temporary: None });
        }
        let name = path.file_name().ok_or_else(|| refuse("this does not name a file"))?;
        let temporary = TemporaryFile::beside(path, name).map_err(|cause| {
            let is_missing = cause.kind() == io::ErrorKind::NotFound;
            let error = Error::storage(format!("{option} {}", path.display()), "create the file", cause);
            if is_missing {
                error.with_hint("create its directory first, or choose another one")
            } else {
                error
            }
        })?;
        Ok(Self { path: path.to_owned(), temporary: Some(temporary) })
    }

    /// Writes `content`, which becomes visible as a whole.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn finish(mut self, content: &[u8]) -> Result<()> {
        let failed = |cause| Error::storage(self.path.display(), "write", cause);
        match &mut self.temporary {
            // A pipe without a reader is an error: waiting for one could take forever.
            None => open_in_place(&self.path).and_then(|mut file| file.write_all(content)).map_err(failed),
            Some(temporary) => {
                let written = temporary.file.write_all(content).and_then(|()| temporary.file.sync_all());
                written.and_then(|()| fs::rename(&temporary.path, &self.path)).map_err(failed)
            }
        }
    }
}

/// A temporary file that its process holds locked. One that is not locked is a leftover of a process that was killed.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
    file: File,
}

impl TemporaryFile {
    /// How often a new file may be taken for a leftover by another process before it is locked.
    const MAX_ATTEMPTS: usize = 10;

    /// Creates a temporary file in the directory of `path`, and removes leftovers of the same name.
    fn beside(path: &Path, name: &OsStr) -> io::Result<Self> {
        remove_leftovers(path, name);
        for _ in 0..Self::MAX_ATTEMPTS {
            let mut hidden = temporary_prefix(name);
            hidden.push(format!("{:016x}.tmp", fastrand::u64(..)));
            let path = path.with_file_name(hidden);
            // Never through a link that somebody else has put there.
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            // A file system without locks has no leftovers removed either.
            let _ = file.try_lock();
            if is_same_file(&path, &file) {
                return Ok(Self { path, file });
            }
        }
        Err(io::Error::other("the temporary file is removed again and again"))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // After a rename it does not exist any more.
        let _ = fs::remove_file(&self.path);
    }
}

fn temporary_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Removes the temporary files that killed processes left for `path`. What cannot be removed stays.
fn remove_leftovers(path: &Path, name: &OsStr) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(parent.unwrap_or(Path::new("."))) else { return };
    let prefix = temporary_prefix(name);
    for entry in entries.flatten() {
        let found = entry.file_name();
        let rest = found.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let random = rest.and_then(|rest| rest.strip_suffix(b".tmp"));
        if !random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        let path = entry.path();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(&path) else { continue };
        // Only what is locked here is removed: whatever else now has the name belongs to another process.
        if file.try_lock().is_ok() && is_same_file(&path, &file) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether `path` still names the open file.
fn is_same_file(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => named.dev() == open.dev() && named.ino() == open.ino(),
        _ => false,
    }
}

/// The files that a run writes its results to.
#[derive(Debug, Default)]
pub(crate) struct OutputFiles {
    report: Option<OutputFile>,
    failed_list: Option<OutputFile>,
    metrics: Option<OutputFile>,
    summary: Option<AppendedFile>,
}

/// The result of a run or of a dry run.
#[derive(Clone, Copy)]
pub(crate) enum RunResult<'a> {
    Report(&'a Report),
    Plan(&'a Plan),
}

impl OutputFiles {
    /// Checks that all of them can be written, and that neither is the same as another or as `own`, an option of the
    /// run and its file, where `-` is stdout.
    ///
    /// # Errors
    /// As [`OutputFile::prepare`].
    pub(crate) fn prepare(
        own: Option<(&'static str, &Path)>,
        args: &ReportArgs,
        failed_list: Option<&Path>,
    ) -> Result<Self> {
        let report = args.report.as_deref();
        let metrics = args.metrics_file.as_deref();
        let summary = args.summary.as_deref();
        let named = [
            ("--report", report),
            ("--metrics-file", metrics),
            ("--summary", summary),
            ("--failed-list", failed_list),
        ];
        let named = named.into_iter().filter_map(|(flag, path)| Some((flag, path?)));
        let named: Vec<(&str, &Path)> = own.into_iter().chain(named).collect();
        for (at, (flag, path)) in named.iter().enumerate() {
            let own = Identity::of(path);
            let other = named.iter().take(at).find(|(_, other)| own.is_some() && Identity::of(other) == own);
            if let Some((other, _)) = other {
                let subject = format!("{other} and {flag} {}", path.display());
                return Err(Error::new(ErrorKind::InvalidInput, subject, "these are the same file")
                    .with_hint("name two different files"));
            }
        }
        let prepared =
            |flag, path: Option<&Path>| path.map(|path| OutputFile::prepare(flag, path)).transpose();
        Ok(Self {
            report: prepared("--report", report)?,
            failed_list: prepared("--failed-list", failed_list)?,
            metrics: prepared("--metrics-file", metrics)?,
            summary: summary.map(AppendedFile::open).transpose()?,
        })
    }

    /// Writes all of them. A dry run has no metrics and no summary.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn write(
        self,
        result: RunResult<'_>,
        wording: Wording,
        failed_list: Option<&str>,
    ) -> Result<()> {
        if let Some(file) = self.report {
            file.finish(&match result {
                RunResult::Report(report) => output::json(report),
                RunResult::Plan(plan) => output::json(plan),
            })?;
        }
        if let RunResult::Report(report) = result {
            if let Some(file) = self.metrics {
                file.finish(metrics::of_report(report, wording, SystemTime::now()).as_bytes())?;
            }
            if let Some(file) = self.summary {
                file.append(&summary::of_report(report, wording))?;
            }
        }
        match (self.failed_list, failed_list) {
            (Some(file), Some(list)) => file.finish(list.as_bytes()),
            _ => Ok(()),
        }
    }
}

/// A file that others write to as well, one after the other.
#[derive(Debug)]
struct AppendedFile {
    path: PathBuf,
    file: File,
}

impl AppendedFile {
    fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let file = opened.map_err(|cause| {
            Error::storage(format!("--summary {}", path.display()), "open the file", cause)
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends in one write.
    fn append(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|cause| Error::storage(self.path.display(), "write", cause))
    }
}

/// The identity of the file that a path names.
#[derive(PartialEq, Eq)]
enum Identity {
    /// An existing file: device and inode.
    Existing(u64, u64),
    /// A new file: its directory and its name.
    New(PathBuf, OsString),
}

impl Identity {
    /// None for a device, such as a terminal or `/dev/null`, which several may write to.
    fn of(path: &Path) -> Option<Self> {
        let path = if path.as_os_str() == "-" { Path::new("/dev/stdout") } else { path };
        if let Ok(found) = fs::metadata(path) {
            let kind = found.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            return (!device).then(|| Self::Existing(found.dev(), found.ino()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        Some(Self::New(parent, path.file_name()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::output::ProgressMode;

    #[test]
    fn pipe_without_reader_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let unread = OutputFile::prepare("--report", &path).unwrap();
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
        OutputFile::prepare("--report", &path).unwrap().finish(&content).unwrap();
        assert_eq!(read.join().unwrap(), content);
    }

    #[test]
    fn leftovers_are_removed_unless_locked_or_linked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let path = at("report.json");
        fs::write(at("victim"), "precious").unwrap();
        let linked = at(".report.json.00112233445566aa.tmp");
        std::os::unix::fs::symlink(at("victim"), &linked).unwrap();
        let leftover = at(".report.json.0123456789abcdef.tmp");
        let other = at(".report.json.mine.tmp");
        fs::write(&leftover, "half").unwrap();
        fs::write(&other, "mine").unwrap();
        let running = OutputFile::prepare("--report", &path).unwrap();
        assert!(!leftover.exists() && other.exists() && linked.is_symlink());
        let second = OutputFile::prepare("--report", &path).unwrap();
        running.finish(b"first").unwrap();
        second.finish(b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn files_of_a_run_must_differ() {
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
            let args = ReportArgs {
                report: Some(report.clone()),
                metrics_file: None,
                summary: None,
                progress: ProgressMode::None,
            };
            let found = OutputFiles::prepare(Some(("--output", &output)), &args, Some(&list));
            assert_eq!(found.is_ok(), fine, "{output:?} {report:?} {list:?}");
            if let Err(error) = found {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains("same file"), "{error}");
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "temporary files are removed");
    }

    #[test]
    fn file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        fs::write(&path, "old").unwrap();
        drop(OutputFile::prepare("--report", &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        OutputFile::prepare("--report", &path).unwrap().finish(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for bad in [dir.path().to_owned(), dir.path().join("no/such"), dir.path().join("..")] {
            let error = OutputFile::prepare("--report", &bad).unwrap_err();
            assert!(error.to_string().starts_with("--report "), "{error}");
        }
        // What is open already keeps what it has.
        let mut kept = tempfile::tempfile().unwrap();
        kept.write_all(b"table ").unwrap();
        let open = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
        OutputFile::prepare("--report", Path::new(&open)).unwrap().finish(b"new").unwrap();
        let mut content = [0; 20];
        let length = std::os::unix::fs::FileExt::read_at(&kept, &mut content, 0).unwrap();
        assert_eq!(&content[..length], b"table new");
        OutputFile::prepare("--report", Path::new("/dev/null")).unwrap().finish(b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
