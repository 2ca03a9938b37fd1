//! Opens files below a root directory and never outside it.
//!
//! The root itself may be reached through symbolic links; below it none is followed. Since Linux 5.6, `openat2(2)` does
//! this in one call. Older kernels and sandboxes that forbid it get one `openat(2)` per path component.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory below which relative paths are resolved.
pub(crate) struct ConfinedRoot {
    root: OwnedFd,
    /// Whether `openat2` is unavailable.
    by_component: AtomicBool,
}

impl ConfinedRoot {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, by_component: AtomicBool::new(false) }
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens `path`. `mode` applies if `flags` create a file.
    pub(crate) fn open(&self, path: &str, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !self.by_component.load(Ordering::Relaxed) {
            let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(mode) } else { Mode::empty() };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            // A concurrent rename makes the kernel unable to prove confinement: it returns EAGAIN, and a retry succeeds.
            for _ in 0..32 {
                match rustix::fs::openat2(&self.root, path, flags, mode, resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(Errno::NOSYS | Errno::PERM) => break,
                    answer => return answer,
                }
            }
        }
        let opened = self.walk(path, flags, mode)?;
        self.by_component.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    fn walk(&self, path: &str, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut components = path.split('/').peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(component) = components.next() {
            if matches!(component, "" | "." | "..") {
                return Err(Errno::XDEV);
            }
            let here = at.as_ref().unwrap_or(&self.root).as_fd();
            if components.peek().is_none() {
                return rustix::fs::openat(here, component, flags, Mode::from_raw_mode(mode));
            }
            let next = rustix::fs::openat(here, component, step, Mode::empty())?;
            at = Some(next);
        }
        Err(Errno::NOENT)
    }

    #[cfg(test)]
    pub(crate) fn force_by_component(&self) {
        self.by_component.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn symlinks_and_dot_components_are_rejected() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("root");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "in").unwrap();
        fs::create_dir(outer.path().join("secret")).unwrap();
        fs::write(outer.path().join("secret/file"), "out").unwrap();
        symlink("../secret", dir.join("away")).unwrap();
        symlink("a", dir.join("near")).unwrap();
        symlink("file", dir.join("a/b/leaf")).unwrap();
        for by_component in [false, true] {
            let confined = ConfinedRoot::new(fs::File::open(&dir).unwrap().into());
            if by_component {
                confined.force_by_component();
            }
            assert!(confined.open("a/b/file", OFlags::RDONLY, 0).is_ok());
            for bad in
                ["away/file", "near/b/file", "a/b/leaf", "../secret/file", "a/../../secret/file", "a/b/no"]
            {
                assert!(confined.open(bad, OFlags::RDONLY, 0).is_err(), "{bad}");
            }
            assert!(confined.open("away/new", OFlags::RDWR | OFlags::CREATE, 0o644).is_err());
            assert!(!outer.path().join("secret/new").exists());
        }
    }
}
