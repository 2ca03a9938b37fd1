//! The output of an archive: a file, which is complete or absent, or a stream.

use super::deferred_observer::interrupted;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, OFlags};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// How many bytes are written at once.
const CHUNK: usize = 1 << 20;
/// How often creating the temporary file is attempted while other exports create and remove it.
const ATTEMPTS: u32 = 8;

/// The destination of an export.
pub enum ExportTo {
    /// A file, or the directory of a layout.
    Path(PathBuf),
    /// A stream, such as stdout.
    Stream(Box<dyn Write + Send>),
}

/// Whether `path` is written in place: devices, and files that are already open (`/dev/stdout`, `/dev/fd/3`).
/// Renaming a temporary file over such a path would replace it.
#[must_use]
pub fn is_written_in_place(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// The output of an archive, opened before there is anything to write.
pub(super) struct Output {
    name: String,
    kind: OutputKind,
}

enum OutputKind {
    File {
        path: PathBuf,
        /// The file's name until it is complete; `None` after that, because another export may use the name by then.
        temporary: Option<PathBuf>,
        file: File,
    },
    /// A stream: a pipe, a terminal or a device.
    Stream(Box<dyn Write + Send>),
}

impl Output {
    /// Opens `to` for writing.
    ///
    /// # Errors
    /// `InvalidInput` if an archive cannot be written there; `Storage` if the operating system refuses it.
    pub(super) fn open(to: ExportTo) -> Result<Self> {
        let path = match to {
            ExportTo::Stream(stream) => {
                return Ok(Self { name: "the stream".into(), kind: OutputKind::Stream(stream) });
            }
            ExportTo::Path(path) => path,
        };
        let name = path.display().to_string();
        let refuse = |why: String| Error::new(ErrorKind::InvalidInput, &name, why);
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                return Err(refuse("cannot write the archive: it is a directory".into()));
            }
            // Renaming a file over a pipe or a device would replace it.
            Ok(found) if !found.is_file() || is_written_in_place(&path) => {
                let opened = open_in_place(&path).map_err(|cause| match cause.raw_os_error() {
                    Some(libc::ENXIO) if found.file_type().is_fifo() => {
                        refuse("no process has this pipe open for reading".into())
                            .with_hint("start the reader first, or write to stdout: --output -")
                    }
                    _ => open_error(&name, cause),
                })?;
                return Ok(Self { name, kind: OutputKind::Stream(Box::new(opened)) });
            }
            _ => {}
        }
        let temporary = hidden_sibling(&path, "saver-tmp").ok_or_else(|| refuse("not a file name".into()))?;
        let file = create_temporary(&temporary).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => {
                Error::new(ErrorKind::Storage, &name, "another export is writing this file")
            }
            _ if cause.raw_os_error() == Some(libc::ELOOP) => {
                refuse(format!("the temporary file {} is a symbolic link", temporary.display()))
                    .with_hint("remove the link, or choose another directory")
            }
            _ => open_error(&name, cause),
        })?;
        Ok(Self { name, kind: OutputKind::File { path, temporary: Some(temporary), file } })
    }

    /// The output's name in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether writing may block on a reader at the other end.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.kind, OutputKind::Stream(_))
    }

    /// The free space in bytes, if known.
    pub(super) fn free_space(&self) -> Result<Option<u64>> {
        let OutputKind::File { file, .. } = &self.kind else { return Ok(None) };
        let space = rustix::fs::fstatvfs(file)
            .map_err(|cause| Error::storage(&self.name, "read the free space of", cause.into()))?;
        // Some network and FUSE file systems report no blocks at all.
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        Ok((space.f_blocks > 0).then_some(free))
    }

    /// Calls `write` to produce the archive. A file is renamed to its final name once it is synced to disk.
    /// `advanced` receives the number of bytes written since its last call. Returns the length of the archive.
    ///
    /// # Errors
    /// Errors of `write`; `Storage`; `Cancelled` once `token` is cancelled.
    pub(super) fn write(
        mut self,
        token: &CancellationToken,
        advanced: &dyn Fn(u64),
        write: impl FnOnce(&mut BufWriter<CountingWriter<'_>>) -> Result<()>,
    ) -> Result<u64> {
        let failed = |name: &str, cause| Error::storage(name, "write", cause);
        let out: &mut dyn Write = match &mut self.kind {
            OutputKind::File { file, .. } => file,
            OutputKind::Stream(stream) => stream,
        };
        let mut out = BufWriter::with_capacity(CHUNK, CountingWriter { out, token, advanced, written: 0 });
        let done = write(&mut out).and_then(|()| out.flush().map_err(|cause| failed(&self.name, cause)));
        // Taken apart, so that dropping the buffer does not write the rest.
        let (CountingWriter { written, .. }, _) = out.into_parts();
        if token.is_cancelled() {
            return Err(interrupted());
        }
        done?;
        if let OutputKind::File { path, temporary, file } = &mut self.kind {
            let failed = |cause| failed(&self.name, cause);
            file.sync_all().map_err(failed)?;
            if let Some(from) = &*temporary {
                fs::rename(from, &*path).map_err(failed)?;
            }
            *temporary = None;
            sync_directory(path).map_err(failed)?;
        }
        Ok(written)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let OutputKind::File { temporary: Some(temporary), .. } = &self.kind {
            // If this fails, the next export removes it.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A hidden file name in the directory of `path`; `None` if `path` has no file name.
pub(super) fn hidden_sibling(path: &Path, extension: &str) -> Option<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name()?);
    hidden.push(format!(".{extension}"));
    Some(path.with_file_name(hidden))
}

/// Creates a file at `path`, locked while it is open. The leftover of a killed process is removed first. A file or
/// symbolic link that someone else put there is never written to.
fn create_temporary(path: &Path) -> io::Result<File> {
    for _ in 0..ATTEMPTS {
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                // Until it was locked, another export may have removed it as a leftover.
                if refers_to(path, &file)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_leftover(path)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Removes the temporary file of a killed process at `path`, only while holding its lock and while the name still
/// refers to it: a file that another export has just created is never deleted. A symbolic link cannot be opened and
/// therefore is not removed.
fn remove_leftover(path: &Path) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let leftover = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(leftover) => leftover,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    rustix::fs::flock(&leftover, FlockOperation::NonBlockingLockExclusive)?;
    if refers_to(path, &leftover)? { fs::remove_file(path) } else { Ok(()) }
}

/// Whether `path` refers to `file`.
fn refers_to(path: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_error(name: &str, cause: io::Error) -> Error {
    let missing = cause.kind() == io::ErrorKind::NotFound;
    let error = Error::storage(name, "create the file", cause);
    if missing { error.with_hint("create the directory first, or choose another") } else { error }
}

/// Opens a pipe, a device or an already open file for appending. Opening does not wait for a reader; writing does.
///
/// # Errors
/// Errors of `open(2)`; `ENXIO` for a pipe without a reader.
pub fn open_in_place(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Counts the bytes written, and fails once the run is cancelled.
pub(super) struct CountingWriter<'a> {
    out: &'a mut dyn Write,
    token: &'a CancellationToken,
    advanced: &'a dyn Fn(u64),
    written: u64,
}

impl Write for CountingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.token.is_cancelled() {
            return Err(io::Error::other(interrupted()));
        }
        // A chunk at most, so that cancellation takes effect soon.
        let count = self.out.write(&bytes[..bytes.len().min(CHUNK)])?;
        self.written += count as u64;
        (self.advanced)(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &[u8], token: &CancellationToken) -> Result<u64> {
        let output = Output::open(ExportTo::Path(path.to_owned()))?;
        output.write(token, &|_| (), |out| {
            out.write_all(content).map_err(|cause| Error::storage("x", "write", cause))
        })
    }

    #[test]
    fn output_file_is_complete_or_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let token = CancellationToken::new();
        assert_eq!(write(&path, b"first", &token).unwrap(), 5);
        let temporary = hidden_sibling(&path, "saver-tmp").unwrap();
        // The leftover of a killed export is removed.
        fs::write(&temporary, b"left").unwrap();
        write(&path, b"second", &token).unwrap();
        // A planted symbolic link is neither written through nor removed.
        fs::write(dir.path().join("victim"), b"precious").unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), &temporary).unwrap();
        let refused = write(&path, b"no", &token).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        assert_eq!(fs::read(dir.path().join("victim")).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"second");
        fs::remove_file(&temporary).unwrap();
        write(&path, b"third", &token).unwrap();
        token.cancel();
        assert_eq!(write(&path, b"fourth", &token).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn concurrent_export_to_same_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let first = Output::open(ExportTo::Path(path.clone())).unwrap();
        let second = Output::open(ExportTo::Path(path.clone())).err().unwrap();
        assert!(second.to_string().contains("another export"), "{second}");
        drop(first);
        Output::open(ExportTo::Path(path)).unwrap();
        assert_eq!(
            Output::open(ExportTo::Path(dir.path().into())).err().unwrap().kind(),
            ErrorKind::InvalidInput
        );
    }

    /// Each of several concurrent exports either gets the file that the name refers to, or none.
    #[test]
    fn concurrent_exports_never_share_a_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let together = std::sync::Barrier::new(4);
        let (mut all, mut own) = (0, 0);
        std::thread::scope(|scope| {
            let tries = [(); 4].map(|()| {
                scope.spawn(|| {
                    let mut had = (0, 0);
                    for _ in 0..500 {
                        if together.wait().is_leader() {
                            let _ = fs::write(&path, b"left");
                        }
                        together.wait();
                        let Ok(file) = create_temporary(&path) else { continue };
                        std::thread::yield_now();
                        had = (had.0 + 1, had.1 + u32::from(refers_to(&path, &file).unwrap()));
                        let _ = fs::remove_file(&path);
                    }
                    had
                })
            });
            for one in tries {
                let had = one.join().unwrap();
                (all, own) = (all + had.0, own + had.1);
            }
        });
        assert!(all >= 500 && all == own, "{own} of {all} wrote to the file that the name refers to");
    }

    #[test]
    fn pipe_without_reader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let refused = Output::open(ExportTo::Path(path.clone())).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("open for reading"), "{refused}");
        // More than a pipe holds: writing waits for the reader.
        let content = vec![7; 1 << 20];
        let flags = libc::O_NONBLOCK;
        let mut end = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let flags = rustix::fs::fcntl_getfl(&end).unwrap();
        let output = Output::open(ExportTo::Path(path)).unwrap();
        rustix::fs::fcntl_setfl(&end, flags - OFlags::NONBLOCK).unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut read = Vec::new();
            io::Read::read_to_end(&mut end, &mut read).unwrap();
            read
        });
        let write = |out: &mut BufWriter<CountingWriter<'_>>| {
            out.write_all(&content).map_err(|cause| Error::storage("x", "write", cause))
        };
        output.write(&CancellationToken::new(), &|_| (), write).unwrap();
        assert_eq!(reader.join().unwrap(), content);
    }
}
