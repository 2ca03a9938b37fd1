//! Whether a directory may be worked in: asked by who will write later, so that it is known at the start.

use super::{Store, path, storage};
use crate::driver::EntryKind;
use crate::error::{Error, ErrorKind, Result};

impl Store {
    /// Sees to it that this is a tree, or nothing yet, and may be written to. Nothing is written.
    ///
    /// # Errors
    /// `InvalidInput` for a directory that has other things in it and no tree; `Storage` where nothing can be written.
    pub fn check_usable(&self) -> Result<()> {
        let driver = &*self.inner.driver;
        let (tree, own) = (path::top(path::REPOSITORIES), path::top(path::LOCK));
        let entries = self.list("")?;
        let is =
            |name: &str| entries.iter().any(|entry| entry.name == name && entry.kind == EntryKind::Directory);
        // A file system of its own begins with a directory for what is found.
        let other = entries.iter().find(|entry| !entry.name.starts_with('.') && entry.name != "lost+found");
        if let Some(other) = other.filter(|_| !is(tree) && !is(own)) {
            let why = format!("it is no tree of images: it has other things in it ({})", other.name);
            return Err(Error::new(ErrorKind::InvalidInput, driver.location(""), why)
                .with_hint("name a tree, an empty directory, or one that is to be made"));
        }
        for directory in path::trunk().chain([own]) {
            driver
                .check_writable(directory)
                .map_err(|error| storage(driver, directory, "write to", error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::store::Store;

    #[test]
    fn a_tree_or_nothing_is_usable_and_somebody_s_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let check = || Store::open(dir.path(), Default::default()).unwrap().check_usable();
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
}
