//! The socket's file: made for its owner alone, taken over from a server that is gone, removed at the end.

use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as Dialled;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// How often, and how far apart, a lock on the socket's directory is asked for.
const TURN_TRIES: u32 = 100;
const TURN_PAUSE: Duration = Duration::from_millis(10);

/// A socket that is listened on.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Which file it is: another server may have put its own there.
    file: (u64, u64),
}

/// The path in `unix:///run/saver.sock`, as `--listen` takes it, or in a plain path.
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
        Some(_) => return Err(refuse("only unix sockets are listened on: they have an owner")),
        None => address.strip_prefix("unix:").unwrap_or(address),
    };
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(refuse("the socket's path must be absolute"));
    }
    Ok(path.into())
}

/// Waits until no other server is at it in this directory, for a moment: somebody else may have it locked for reasons of their own.
fn turn(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    for _ in 0..TURN_TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(file),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(TURN_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

impl Socket {
    /// Makes the socket, mode 0600, in place of one that nobody listens on. Must be called on a runtime, before it has other work: the
    /// process's file mode mask is changed for a moment.
    ///
    /// # Errors
    /// `Unavailable` when a server answers there; `Storage` when the directory is missing or not writable, or when something that is no
    /// socket has the name.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let storage = |doing: &str, error| Error::storage(path.display(), doing, error);
        let parent = path.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            let error = Error::new(
                ErrorKind::Storage,
                path.display(),
                format!("there is no directory {}", parent.display()),
            );
            return Err(error.with_hint("make it first, or choose another path with --listen"));
        }
        // Of two that start at once and find a dead one's socket, the second must not take away the first's.
        let _turn = turn(parent);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.file_type().is_socket() => match Dialled::connect(path) {
                Ok(_) => {
                    let error =
                        Error::new(ErrorKind::Unavailable, path.display(), "a server listens on this socket");
                    return Err(error.with_hint("stop that one, or choose another path with --listen"));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(|error| storage("replace the old socket", error))?;
                }
                Err(error) => return Err(storage("ask who listens there", error)),
            },
            Ok(_) => {
                let error = Error::new(
                    ErrorKind::Storage,
                    path.display(),
                    "something stands there that is no socket",
                );
                return Err(error.with_hint("choose another path with --listen"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(storage("look at", error)),
        }
        // From its first moment on nobody else may connect.
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound.map_err(|error| storage("listen on the socket", error))?;
        let metadata = path.symlink_metadata().map_err(|error| storage("look at", error))?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let own = self.path.symlink_metadata();
        if own.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file) {
            // A socket that stays is replaced by the next server.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn addresses() {
        for good in ["unix:///run/saver.sock", "/run/saver.sock", "unix:/run/saver.sock"] {
            assert_eq!(path(good).unwrap(), Path::new("/run/saver.sock"), "{good}");
        }
        for bad in ["tcp://127.0.0.1:1", "unix://run/saver.sock", "saver.sock", "", "unix:///run/"] {
            assert_eq!(path(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_owner_s_and_replaces_a_dead_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let error = Socket::bind(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, "mine").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(Socket::bind(&path).err().unwrap().message().contains("no socket"));
        let error = Socket::bind(&dir.path().join("none/s")).err().unwrap();
        assert!(error.message().contains("there is no directory"), "{error}");
    }
}
