//! Small file systems of a test's own.

use std::io;
use std::path::Path;
use std::process::Command;

/// Runs `act` in a thread of its own: what that changes for itself (mask, user, mounts) is nobody else's, and processes that it
/// starts share it.
pub(crate) fn apart<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Stops sharing `what` (`CLONE_...`) with other threads.
pub(crate) fn unshare(what: i32) -> io::Result<()> {
    // SAFETY: changes what this thread shares with others, and no memory.
    if unsafe { libc::unshare(what) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts a file system in memory on `dir`, with these options (`size=16k`); only this thread sees it, and it goes with the thread.
/// A test that can't have it fails; whoever has to do without says so with `SAVER_TEST_NO_MOUNT`, and gets false.
#[must_use]
pub(crate) fn mount_small(dir: &Path, options: &str) -> bool {
    if std::env::var_os("SAVER_TEST_NO_MOUNT").is_some() {
        println!("not tested: SAVER_TEST_NO_MOUNT is set");
        return false;
    }
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).status().is_ok_and(|status| status.success())
    };
    let path = dir.to_str().unwrap();
    let mounted = unshare(libc::CLONE_NEWNS).is_ok()
        && mount(&["--make-rprivate", "/"])
        && mount(&["-t", "tmpfs", "-o", options, "tmpfs", path]);
    assert!(
        mounted,
        "this test mounts a small file system and may not: run the tests as root or below `unshare --user --map-root-user --mount`, \
         or leave such tests out with SAVER_TEST_NO_MOUNT=1"
    );
    true
}

/// Changes a mounted file system's options.
pub(crate) fn remount(dir: &Path, options: &str) {
    let options = format!("remount,{options}");
    let status = Command::new("mount").args(["-o", &options]).arg(dir).status().unwrap();
    assert!(status.success());
}
