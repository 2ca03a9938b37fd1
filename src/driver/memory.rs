//! A store in memory, for tests and for trying things out.

use super::{Driver, Entry, EntryKind, FreeSpace, Partial};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Content = Arc<Mutex<Vec<u8>>>;

/// Files in memory; whatever ends the process ends them.
#[derive(Clone, Default)]
pub struct MemoryDriver {
    tree: Arc<Mutex<Tree>>,
}

#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Content>,
    directories: BTreeSet<String>,
    /// Partial files that a writer has open.
    held: BTreeSet<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).map(|content| lock(content).clone())
    }

    fn make_directories(&mut self, path: &str) -> io::Result<()> {
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..].find('/').map_or(path.len(), |next| end + 1 + next);
            if self.files.contains_key(&path[..end]) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.directories.insert(path[..end].to_owned());
        }
        Ok(())
    }
}

impl MemoryDriver {
    /// Nothing yet. Clones share their files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every file with its content.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        lock(&self.tree).files.iter().map(|(path, content)| (path.clone(), lock(content).clone())).collect()
    }
}

impl Driver for MemoryDriver {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.tree).file(path).filter(|content| content.len() as u64 <= limit))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(lock(&self.tree).files.get(path).map(|content| lock(content).len() as u64))
    }

    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        let Some(content) = lock(&self.tree).file(path) else { return Ok(None) };
        let file = File::from(rustix::fs::memfd_create("blob", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all_at(&content, 0)?;
        Ok(Some((file, content.len() as u64)))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let tree = lock(&self.tree);
        let within = |name: &String| {
            let rest = name.strip_prefix(path)?.strip_prefix('/')?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        let directories = tree.directories.iter().filter_map(within);
        let directories = directories.map(|name| Entry { name, kind: EntryKind::Directory });
        let files = tree.files.keys().filter_map(within).map(|name| Entry { name, kind: EntryKind::File });
        Ok(directories.chain(files).collect())
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        let tree = lock(&self.tree);
        let file = tree.files.contains_key(path).then_some(EntryKind::File);
        Ok(file.or_else(|| tree.directories.contains(path).then_some(EntryKind::Directory)))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        lock(&self.tree).make_directories(path)
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        let area = format!("{parent}/{:016x}", fastrand::u64(..));
        self.create_dir(&area)?;
        Ok(area)
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        if tree.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.files.insert(path.to_owned(), Arc::new(Mutex::new(content.to_vec())));
        Ok(())
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        let content = tree.files.get(staged).cloned().ok_or(io::ErrorKind::NotFound)?;
        if tree.directories.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        tree.make_directories(super::parent(path))?;
        tree.files.remove(staged);
        tree.files.insert(path.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        let below = format!("{path}/");
        if tree.files.keys().chain(&tree.directories).any(|name| name.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        tree.files.remove(path);
        tree.directories.remove(path);
        Ok(())
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        tree.make_directories(super::parent(to))?;
        let moved = |name: &String| {
            let rest = name.strip_prefix(path)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (name.clone(), format!("{to}{rest}")))
        };
        let files: Vec<_> = tree.files.keys().filter_map(moved).collect();
        let directories: Vec<_> = tree.directories.iter().filter_map(moved).collect();
        if files.is_empty() && directories.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for (from, to) in directories {
            tree.directories.remove(&from);
            tree.directories.insert(to);
        }
        for (from, to) in files {
            if let Some(content) = tree.files.remove(&from) {
                tree.files.insert(to, content);
            }
        }
        Ok(())
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        let mut tree = lock(&self.tree);
        if !tree.held.insert(path.to_owned()) {
            return Ok(None);
        }
        tree.make_directories(super::parent(path))?;
        let content = tree.files.entry(path.to_owned()).or_default();
        if lock(content).len() as u64 > size {
            *content = Content::default();
        }
        let content = content.clone();
        let length = lock(&content).len() as u64;
        Ok(Some(Box::new(MemoryPartial { driver: self.clone(), path: path.to_owned(), content, length })))
    }

    fn barrier(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock_file(&self, _path: &str) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn free_space(&self) -> io::Result<FreeSpace> {
        Ok(FreeSpace { bytes: u64::MAX, total: u64::MAX, inodes: None })
    }

    fn location(&self, path: &str) -> String {
        path.to_owned()
    }
}

struct MemoryPartial {
    driver: MemoryDriver,
    path: String,
    content: Content,
    length: u64,
}

impl Partial for MemoryPartial {
    fn length(&self) -> u64 {
        self.length
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = lock(&self.content);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.content);
        let start = usize::try_from(offset).map_err(io::Error::other)?.min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        lock(&self.content).truncate(length);
        Ok(())
    }
}

impl Drop for MemoryPartial {
    fn drop(&mut self) {
        lock(&self.driver.tree).held.remove(&self.path);
    }
}
