//! Where an archive goes: a file, which is whole or not there, or a stream.

use super::deferred_observer::interrupted;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, OFlags};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// How many bytes are written at a time.
const PIECE: usize = 1 << 20;
/// How often a new file is tried for, where others come and go under its name.
const TRIES: u32 = 8;

/// Where an export goes.
pub enum ExportTo {
    /// A file, or a layout's directory.
    Path(PathBuf),
    /// A stream, such as stdout.
    Stream(Box<dyn Write + Send>),
}

/// Whether what `path` names is to be opened as it stands: what is open already (`/dev/stdout`, `/dev/fd/3`) and devices. A file beside it,
/// renamed when it is whole, would take the place of the name and reach nobody.
#[must_use]
pub fn is_written_straight(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// An archive's place, tried before there is anything to write.
pub(super) struct Output {
    name: String,
    to: Place,
}

enum Place {
    File {
        path: PathBuf,
        /// The name until it is whole; none after that, as somebody else may have a file there by then.
        temporary: Option<PathBuf>,
        file: File,
    },
    /// A stream, or a file that is none: a pipe, a terminal.
    Stream(Box<dyn Write + Send>),
}

impl Output {
    /// Makes sure that `to` can be written.
    ///
    /// # Errors
    /// `InvalidInput` when it is no place for an archive; `Storage` when the system refuses it.
    pub(super) fn prepare(to: ExportTo) -> Result<Self> {
        let path = match to {
            ExportTo::Stream(stream) => {
                return Ok(Self { name: "the stream".into(), to: Place::Stream(stream) });
            }
            ExportTo::Path(path) => path,
        };
        let name = path.display().to_string();
        let refuse = |why: String| Error::new(ErrorKind::InvalidInput, &name, why);
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                return Err(refuse("this is a directory, and an archive is a file".into()));
            }
            // Renaming onto a pipe or a device would put a file in its place.
            Ok(found) if !found.is_file() || is_written_straight(&path) => {
                let opened = open_straight(&path).map_err(|cause| match cause.raw_os_error() {
                    Some(libc::ENXIO) if found.file_type().is_fifo() => {
                        refuse("nobody reads from this pipe".into())
                            .with_hint("start its reader first, or write to stdout: --output -")
                    }
                    _ => unwritable(&name, cause),
                })?;
                return Ok(Self { name, to: Place::Stream(Box::new(opened)) });
            }
            _ => {}
        }
        let temporary = beside(&path, "saver-tmp").ok_or_else(|| refuse("this names no file".into()))?;
        let file = fresh(&temporary).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => {
                Error::new(ErrorKind::Storage, &name, "another export is writing it")
            }
            _ if cause.raw_os_error() == Some(libc::ELOOP) => {
                refuse(format!("a symbolic link is in the way of the temporary file {}", temporary.display()))
                    .with_hint("remove the link, or choose another directory")
            }
            _ => unwritable(&name, cause),
        })?;
        Ok(Self { name, to: Place::File { path, temporary: Some(temporary), file } })
    }

    /// What messages call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether somebody at the other end may keep a writer waiting.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.to, Place::Stream(_))
    }

    /// How many bytes there is room for, where that is known.
    pub(super) fn room(&self) -> Result<Option<u64>> {
        let Place::File { file, .. } = &self.to else { return Ok(None) };
        let found = rustix::fs::fstatvfs(file)
            .map_err(|cause| Error::storage(&self.name, "read the free space of", cause.into()))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    /// Lets `write` write. A file appears under its name when all of it is on stable storage; until `token` is cancelled.
    /// `advanced` is told how many bytes have gone out since it was last told. Answers how many were written.
    ///
    /// # Errors
    /// What `write` says; `Storage`; `Cancelled`.
    pub(super) fn write(
        mut self,
        token: &CancellationToken,
        advanced: &dyn Fn(u64),
        write: impl FnOnce(&mut BufWriter<Counted<'_>>) -> Result<()>,
    ) -> Result<u64> {
        let failed = |name: &str, cause| Error::storage(name, "write", cause);
        let out: &mut dyn Write = match &mut self.to {
            Place::File { file, .. } => file,
            Place::Stream(stream) => stream,
        };
        let mut out = BufWriter::with_capacity(PIECE, Counted { out, token, advanced, written: 0 });
        let done = write(&mut out).and_then(|()| out.flush().map_err(|cause| failed(&self.name, cause)));
        // What is left in the buffer is not written by its end.
        let (Counted { written, .. }, _) = out.into_parts();
        if token.is_cancelled() {
            return Err(interrupted());
        }
        done?;
        if let Place::File { path, temporary, file } = &mut self.to {
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
        if let Place::File { temporary: Some(temporary), .. } = &self.to {
            // What can't be removed the next export takes away.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A hidden name beside `path`; none when `path` names no file.
pub(super) fn beside(path: &Path, what: &str) -> Option<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name()?);
    hidden.push(format!(".{what}"));
    Some(path.with_file_name(hidden))
}

/// A new file at `path`, locked as long as it is open. What a killed process left there is removed; never is anything written that
/// somebody else put there, a link least of all.
fn fresh(path: &Path) -> io::Result<File> {
    for _ in 0..TRIES {
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                // Before it was locked, it may have been taken for something left behind.
                if names(path, &file)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => clear(path)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Removes the temporary file of a killed process at `path`. It is removed only while its lock is held and the name still stands for it, so
/// a file that another export has just created is never deleted. What can't be opened (a symbolic link) can't be locked, and stays.
fn clear(path: &Path) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let left = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(left) => left,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive)?;
    if names(path, &left)? { fs::remove_file(path) } else { Ok(()) }
}

/// Whether `path` names this file, and no other.
fn names(path: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn unwritable(name: &str, cause: io::Error) -> Error {
    let missing = cause.kind() == io::ErrorKind::NotFound;
    let error = Error::storage(name, "write there", cause);
    if missing { error.with_hint("make the directory first, or choose another") } else { error }
}

/// Opens a pipe, a device or what is open already for writing, without waiting for whoever reads from it; writing waits as ever, and goes
/// to the end of a file.
///
/// # Errors
/// What the system says; `ENXIO` where nobody reads from a pipe.
pub fn open_straight(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Counts what is written, and writes no more once the run is given up.
pub(super) struct Counted<'a> {
    out: &'a mut dyn Write,
    token: &'a CancellationToken,
    advanced: &'a dyn Fn(u64),
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.token.is_cancelled() {
            return Err(io::Error::other(interrupted()));
        }
        // No more than a piece, so that the answer to an interruption does not wait for much.
        let count = self.out.write(&bytes[..bytes.len().min(PIECE)])?;
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
        let output = Output::prepare(ExportTo::Path(path.to_owned()))?;
        output.write(token, &|_| (), |out| {
            out.write_all(content).map_err(|cause| Error::storage("x", "write", cause))
        })
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let token = CancellationToken::new();
        assert_eq!(write(&path, b"first", &token).unwrap(), 5);
        let temporary = beside(&path, "saver-tmp").unwrap();
        // What a killed export left behind is removed.
        fs::write(&temporary, b"left").unwrap();
        write(&path, b"second", &token).unwrap();
        // A planted link is neither written through nor removed by its name, which another export may own by then.
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
    fn two_exports_to_one_file_keep_each_other_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let first = Output::prepare(ExportTo::Path(path.clone())).unwrap();
        let second = Output::prepare(ExportTo::Path(path.clone())).err().unwrap();
        assert!(second.to_string().contains("another export"), "{second}");
        drop(first);
        Output::prepare(ExportTo::Path(path)).unwrap();
        assert_eq!(
            Output::prepare(ExportTo::Path(dir.path().into())).err().unwrap().kind(),
            ErrorKind::InvalidInput
        );
    }

    /// Of all that begin at one moment, beside what a killed one left, each that may write has the file that the name stands for.
    #[test]
    fn of_many_exports_at_once_each_has_its_own_file_or_none() {
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
                        let Ok(file) = fresh(&path) else { continue };
                        std::thread::yield_now();
                        had = (had.0 + 1, had.1 + u32::from(names(&path, &file).unwrap()));
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
        assert!(all >= 500 && all == own, "{own} of {all} had the file that they wrote");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let refused = Output::prepare(ExportTo::Path(path.clone())).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("nobody reads"), "{refused}");
        // More than a pipe holds: writing waits for the reader.
        let content = vec![7; 1 << 20];
        let flags = libc::O_NONBLOCK;
        let mut end = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let flags = rustix::fs::fcntl_getfl(&end).unwrap();
        let output = Output::prepare(ExportTo::Path(path)).unwrap();
        rustix::fs::fcntl_setfl(&end, flags - OFlags::NONBLOCK).unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut read = Vec::new();
            io::Read::read_to_end(&mut end, &mut read).unwrap();
            read
        });
        let write = |out: &mut BufWriter<Counted<'_>>| {
            out.write_all(&content).map_err(|cause| Error::storage("x", "write", cause))
        };
        output.write(&CancellationToken::new(), &|_| (), write).unwrap();
        assert_eq!(reader.join().unwrap(), content);
    }
}
