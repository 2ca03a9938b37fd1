//! Temporary directories of the tests. When one is removed, registries must be able to read every tree in it.

use super::registry_model;
use std::cell::Cell;
use std::path::Path;
use tempfile::TempDir;
use walkdir::WalkDir;

/// How deep below the directory a tree's `docker` may be.
const MAX_DEPTH: usize = 6;

/// A temporary directory, removed when dropped.
///
/// Before that, every tree of a registry in it is read by the [model](registry_model) of a registry's reader; what the model
/// finds fails the test, unless the test says that it [damages](Self::allow_damage) its trees.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    damaged: Cell<bool>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// In memory, where that is possible.
    pub(crate) fn in_memory() -> Self {
        Self::of(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn of(dir: TempDir) -> Self {
        Self { dir, damaged: Cell::new(false) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Trees in this directory are damaged on purpose; `how` says what is wrong with them.
    pub(crate) fn allow_damage(&self, how: &str) {
        assert!(!how.is_empty());
        self.damaged.set(true);
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.damaged.get() || std::thread::panicking() {
            return;
        }
        let entries = WalkDir::new(self.path()).max_depth(MAX_DEPTH).into_iter();
        // Trees hold no trees, and saver's own files are nobody else's.
        let outside = entries.filter_entry(|entry| {
            let is_in_tree = entry.path().parent().is_some_and(|dir| dir.ends_with("docker/registry"));
            !is_in_tree && entry.file_name() != ".saver"
        });
        for entry in outside.filter_map(Result::ok).filter(|entry| entry.path().ends_with("docker/registry"))
        {
            let dir = entry.path().ancestors().nth(2).unwrap();
            registry_model::assert_served(dir);
        }
    }
}
