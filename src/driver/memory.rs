//! A driver in memory, for tests and experiments.

use super::{DirectoryEntry, Driver, EntryKind, FreeSpace, Partial};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

type FileContent = Arc<Mutex<Vec<u8>>>;

/// Files in memory, which are lost when the process ends.
#[derive(Clone, Default)]
pub struct MemoryDriver {
    tree: Arc<Mutex<MemoryTree>>,
}

#[derive(Default)]
struct MemoryTree {
    files: BTreeMap<String, FileContent>,
    directories: BTreeSet<String>,
    /// Partial files that are open for writing.
    locked: BTreeSet<String>,
    barriers: u64,
}

impl MemoryTree {
    fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).map(|content| content.lock().clone())
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

    /// Moves the entry at `path` and everything below it.
    fn move_all(&mut self, path: &str, to: &str) -> io::Result<()> {
        let renamed = |name: &String| {
            let rest = name.strip_prefix(path)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (name.clone(), format!("{to}{rest}")))
        };
        let files: Vec<_> = self.files.keys().filter_map(renamed).collect();
        let directories: Vec<_> = self.directories.iter().filter_map(renamed).collect();
        if files.is_empty() && directories.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.make_directories(super::parent(to))?;
        for (from, to) in directories {
            self.directories.remove(&from);
            self.directories.insert(to);
        }
        for (from, to) in files {
            if let Some(content) = self.files.remove(&from) {
                self.files.insert(to, content);
            }
        }
        Ok(())
    }
}

impl MemoryDriver {
    /// An empty medium. Clones share their files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of barriers so far.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.tree.lock().barriers
    }

    /// Every file with its content.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.tree.lock().files.iter().map(|(path, content)| (path.clone(), content.lock().clone())).collect()
    }
}

impl Driver for MemoryDriver {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.tree.lock().file(path).filter(|content| content.len() as u64 <= limit))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(self.tree.lock().files.get(path).map(|content| content.lock().len() as u64))
    }

    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        let Some(content) = self.tree.lock().file(path) else { return Ok(None) };
        let file = File::from(rustix::fs::memfd_create("blob", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all_at(&content, 0)?;
        Ok(Some((file, content.len() as u64)))
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        let tree = self.tree.lock();
        let within = |name: &String| {
            let rest = match path {
                "" => name,
                path => name.strip_prefix(path)?.strip_prefix('/')?,
            };
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        let directories = tree.directories.iter().filter_map(within);
        let directories = directories.map(|name| DirectoryEntry { name, kind: EntryKind::Directory });
        let files =
            tree.files.keys().filter_map(within).map(|name| DirectoryEntry { name, kind: EntryKind::File });
        Ok(directories.chain(files).collect())
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        let tree = self.tree.lock();
        let file = tree.files.contains_key(path).then_some(EntryKind::File);
        Ok(file.or_else(|| tree.directories.contains(path).then_some(EntryKind::Directory)))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.tree.lock().make_directories(path)
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        let area = format!("{parent}/{:016x}", fastrand::u64(..));
        self.create_dir(&area)?;
        Ok(area)
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut tree = self.tree.lock();
        if tree.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.make_directories(super::parent(path))?;
        tree.files.insert(path.to_owned(), Arc::new(Mutex::new(content.to_vec())));
        Ok(())
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let content = tree.files.get(staged).cloned().ok_or(io::ErrorKind::NotFound)?;
        if tree.directories.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        tree.make_directories(super::parent(path))?;
        tree.files.remove(staged);
        tree.files.insert(path.to_owned(), content);
        Ok(())
    }

    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let below = format!("{path}/");
        if tree.files.keys().chain(&tree.directories).any(|name| name.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if tree.files.contains_key(path) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        tree.move_all(staged, path)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let below = format!("{path}/");
        if tree.files.keys().chain(&tree.directories).any(|name| name.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        tree.files.remove(path);
        tree.directories.remove(path);
        Ok(())
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.tree.lock().move_all(path, to)
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        let mut tree = self.tree.lock();
        if !tree.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        tree.make_directories(super::parent(path))?;
        let content = tree.files.entry(path.to_owned()).or_default();
        if content.lock().len() as u64 > size {
            *content = FileContent::default();
        }
        let content = content.clone();
        let length = content.lock().len() as u64;
        Ok(Some(Box::new(MemoryPartial { driver: self.clone(), path: path.to_owned(), content, length })))
    }

    fn barrier(&self) -> io::Result<()> {
        self.tree.lock().barriers += 1;
        Ok(())
    }

    fn lock_file(&self, _path: &str) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn free_space(&self) -> io::Result<Option<FreeSpace>> {
        Ok(None)
    }

    fn location(&self, path: &str) -> String {
        path.to_owned()
    }
}

struct MemoryPartial {
    driver: MemoryDriver,
    path: String,
    content: FileContent,
    length: u64,
}

impl Partial for MemoryPartial {
    fn length(&self) -> u64 {
        self.length
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock();
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
        self.content.lock().truncate(length);
        Ok(())
    }
}

impl Drop for MemoryPartial {
    fn drop(&mut self) {
        self.driver.tree.lock().locked.remove(&self.path);
    }
}
