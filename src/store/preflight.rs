//! Checks that a directory is a tree, or may become one, before a command works on it.

use super::{Store, path, storage};
use crate::driver::{EntryKind, parent};
use crate::error::{Error, ErrorKind, Result};

impl Store {
    /// Checks that the directory holds a tree, and not something else or nothing at all: an empty directory is most often a
    /// file system that is not mounted, or a mistyped name.
    ///
    /// # Errors
    /// `InvalidInput` if the directory is not a tree; `Storage` if it can't be read.
    pub fn check_is_tree(&self) -> Result<()> {
        let entries = self.list("")?;
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        if has(path::INTERNAL) || self.has_root()? {
            return Ok(());
        }
        if let Some(error) = self.wrong_level(has) {
            return Err(error);
        }
        let driver = &*self.inner.driver;
        let message = if entries.is_empty() {
            "not a directory of images: it is empty"
        } else {
            "not a directory of images: it has no docker/registry/v2"
        };
        Err(Error::new(ErrorKind::InvalidInput, driver.location(""), message).with_hint(
            "name the directory that images were saved to; if it is a mount point, check that it is mounted",
        ))
    }

    /// Whether `docker/registry/v2` exists. `docker` alone does not make a tree: `/etc` has one. If one of the three is a symbolic
    /// link or a file, it is a damaged tree, which is for `verify` to report.
    fn has_root(&self) -> Result<bool> {
        let mut directory = String::new();
        for name in path::REPOSITORIES.split('/').take(3) {
            let entries = self.list(&directory)?;
            match entries.iter().find(|entry| entry.name == name) {
                None => return Ok(false),
                Some(entry) if entry.kind != EntryKind::Directory => return Ok(true),
                Some(_) => {
                    directory =
                        if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
                }
            }
        }
        Ok(true)
    }

    /// Checks that the directory is a tree or empty, and writable. Nothing is written.
    ///
    /// # Errors
    /// `InvalidInput` for a directory with other content, `Storage` if it is not writable.
    pub fn check_usable(&self) -> Result<()> {
        let driver = &*self.inner.driver;
        let tree = path::top(path::REPOSITORIES);
        let entries = self.list("")?;
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        let is_directory =
            |name: &str| entries.iter().any(|entry| entry.name == name && entry.kind == EntryKind::Directory);
        if !is_directory(tree) && !is_directory(path::INTERNAL) {
            if let Some(error) = self.wrong_level(has) {
                return Err(error);
            }
            // A new file system has a lost+found directory.
            let other =
                entries.iter().find(|entry| !entry.name.starts_with('.') && entry.name != "lost+found");
            if let Some(other) = other {
                let message = format!("not a directory of images: it has other content ({})", other.name);
                return Err(Error::new(ErrorKind::InvalidInput, driver.location(""), message)
                    .with_hint("name a directory of images, an empty one, or one that does not exist yet"));
            }
        }
        for directory in path::trunk().chain([path::INTERNAL]) {
            driver
                .check_writable(directory)
                .map_err(|error| storage(driver, directory, "write to", error))?;
        }
        Ok(())
    }

    /// The error for a directory inside a tree, such as `docker/registry/v2` itself.
    fn wrong_level(&self, has: impl Fn(&str) -> bool) -> Option<Error> {
        let v2 = parent(path::REPOSITORIES);
        let name = |path: &'static str| path.rsplit('/').next().unwrap_or(path);
        // The directory below which a tree begins so many levels further up.
        let levels = if has(name(path::REPOSITORIES)) && has(name(path::BLOBS)) {
            3
        } else if self.inner.driver.kind("v2/repositories").ok()? == Some(EntryKind::Directory) {
            2
        } else if self.inner.driver.kind("registry/v2/repositories").ok()? == Some(EntryKind::Directory) {
            1
        } else {
            return None;
        };
        let suffix: Vec<&str> = v2.split('/').take(levels).collect();
        let here = self.inner.driver.location("");
        let here = here.trim_end_matches('/');
        let hint = match here.strip_suffix(&suffix.join("/")) {
            Some("") => format!("name the directory that contains {v2}: did you mean the current directory?"),
            Some("/") => "did you mean /?".to_owned(),
            Some(above) if above.ends_with('/') => format!("did you mean {}?", above.trim_end_matches('/')),
            _ => format!("name the directory that contains {v2}, {levels} levels up"),
        };
        let message = "this directory is inside a directory of images";
        Some(Error::new(ErrorKind::InvalidInput, here, message).with_hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::store::Store;

    fn open(dir: &std::path::Path) -> Store {
        Store::open_read_only(dir).unwrap()
    }

    #[test]
    fn directory_with_other_content_is_not_usable() {
        let dir = tempfile::tempdir().unwrap();
        let check = || open(dir.path()).check_usable();
        check().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        std::fs::write(dir.path().join(".hidden"), "").unwrap();
        check().unwrap();
        std::fs::write(dir.path().join("letter.txt"), "").unwrap();
        let error = check().unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains("letter.txt"), "{error}");
        std::fs::create_dir_all(dir.path().join("docker/registry/v2")).unwrap();
        check().unwrap();
    }

    #[test]
    fn directory_that_is_no_tree_is_rejected_with_a_hint() {
        let outer = tempfile::tempdir().unwrap();
        let tree = outer.path().join("tree");
        std::fs::create_dir_all(tree.join("docker/registry/v2/repositories")).unwrap();
        std::fs::create_dir_all(tree.join("docker/registry/v2/blobs")).unwrap();
        open(&tree).check_is_tree().unwrap();
        let started = outer.path().join("started");
        std::fs::create_dir_all(started.join(".saver")).unwrap();
        open(&started).check_is_tree().unwrap();
        let empty = outer.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let other = outer.path().join("other");
        std::fs::create_dir_all(other.join("docker/registry")).unwrap();
        let tree_path = tree.to_str().unwrap();
        for (dir, message, hint) in [
            (empty, "it is empty", "check that it is mounted"),
            (other, "no docker/registry/v2", "check that it is mounted"),
            (tree.join("docker/registry/v2"), "inside a directory of images", tree_path),
            (tree.join("docker/registry"), "inside a directory of images", tree_path),
            (tree.join("docker"), "inside a directory of images", tree_path),
        ] {
            let error = open(&dir).check_is_tree().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error:?} {:?}", error.hint());
            assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 4);
        }
        assert!(open(&tree.join("docker/registry/v2")).check_usable().is_err());
    }
}
