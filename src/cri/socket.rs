//! The Unix socket: accessible to its owner only, replaced if it is stale, removed at the end.

use crate::error::{Error, ErrorKind, Result};
use crate::serve::accept::Accept;
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// The number of attempts to lock the socket's directory, and the pause between them.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(10);

/// A Unix socket with a listener.
pub(super) struct ListenSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The device and inode of the socket file. Another server may have replaced the file.
    file: (u64, u64),
}

/// The path of an address: `unix:///run/saver.sock`, or a plain path.
///
/// # Errors
/// `InvalidInput` for another kind of address, and for a path that is not absolute.
pub fn path(address: &str) -> Result<PathBuf> {
    let refuse = |why: &str| {
        Error::new(ErrorKind::InvalidInput, format!("--listen {address}"), why)
            .with_hint("write unix:///run/saver.sock")
    };
    let path = match address.split_once("://") {
        Some(("unix", path)) => path,
        Some(_) => return Err(refuse("only Unix sockets are supported, because they have an owner")),
        None => address.strip_prefix("unix:").unwrap_or(address),
    };
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(refuse("the path of the socket must be absolute"));
    }
    Ok(path.into())
}

/// Locks the directory while a socket in it is replaced. Gives up after a second, since others may hold the lock for reasons of
/// their own.
fn lock_directory(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(file),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY_DELAY),
            Err(_) => return None,
        }
    }
    None
}

impl Accept for ListenSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl ListenSocket {
    /// Creates the socket with mode 0600 and replaces a stale one. Must be called on a runtime, before it has other work: the
    /// process's umask is changed for a moment.
    ///
    /// # Errors
    /// `Unavailable` when another server listens on the socket; `InvalidInput` when the directory is missing; `Storage` when it is
    /// not writable, or when another kind of file has this path.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let storage = |doing: &str, error| Error::storage(path.display(), doing, error);
        let parent = path.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            let error = Error::new(
                ErrorKind::InvalidInput,
                path.display(),
                format!("the directory {} does not exist", parent.display()),
            );
            return Err(error.with_hint("create it, or choose another path with --listen"));
        }
        // If two servers start at once and find a stale socket, the second must not remove the first one's.
        let _lock = lock_directory(parent);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.file_type().is_socket() => match StdUnixStream::connect(path) {
                Ok(_) => {
                    let error = Error::new(
                        ErrorKind::Unavailable,
                        path.display(),
                        "another server is listening on this socket",
                    );
                    return Err(error.with_hint("stop that server, or choose another path with --listen"));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(|error| storage("remove the stale socket", error))?;
                }
                Err(error) => return Err(storage("connect to the existing socket", error)),
            },
            Ok(_) => {
                let error =
                    Error::new(ErrorKind::Storage, path.display(), "the path exists and is not a socket");
                return Err(error.with_hint("choose another path with --listen"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(storage("read the metadata of", error)),
        }
        // With a mode set after bind(2), others could connect in between.
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound.map_err(|error| storage("listen on the socket", error))?;
        let metadata = path.symlink_metadata().map_err(|error| storage("read the metadata of", error))?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ListenSocket {
    fn drop(&mut self) {
        let own = self.path.symlink_metadata();
        if own.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file) {
            // The next server replaces a socket that could not be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn path_of_address() {
        for good in ["unix:///run/saver.sock", "/run/saver.sock", "unix:/run/saver.sock"] {
            assert_eq!(path(good).unwrap(), Path::new("/run/saver.sock"), "{good}");
        }
        for bad in ["tcp://127.0.0.1:1", "unix://run/saver.sock", "saver.sock", "", "unix:///run/"] {
            assert_eq!(path(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[tokio::test]
    async fn bind_replaces_only_a_stale_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = ListenSocket::bind(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let error = ListenSocket::bind(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = ListenSocket::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, "mine").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(ListenSocket::bind(&path).err().unwrap().message().contains("not a socket"));
        let error = ListenSocket::bind(&dir.path().join("none/s")).err().unwrap();
        assert!(error.message().contains("does not exist"), "{error}");
    }
}
