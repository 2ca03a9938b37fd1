//! A driver whose power can be cut: what no barrier has covered is forgotten, in any part and any order.
//!
//! Each unsynced change is kept or lost by itself: a piece of data written, a new name, each half of a rename (the old
//! name may come back; the new one may be missing). That is worse than any file system with a journal does.

use saver::driver::{DirectoryEntry, Driver, EntryKind, FreeSpace, Partial};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

type Node = usize;

/// A disk that can lose power.
#[derive(Clone, Default)]
pub(crate) struct PowerLoss(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    nodes: Vec<Data>,
    names: BTreeMap<String, Node>,
    durable_names: BTreeMap<String, Node>,
    /// Changes of names since the last barrier.
    changes: Vec<Change>,
    held: BTreeSet<String>,
}

#[derive(Clone, Default)]
struct Data {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Data written since the last barrier.
    writes: Vec<(usize, Vec<u8>)>,
}

enum Change {
    Set(String, Node),
    Clear(String, Node),
    /// A renamed directory: all of its files move, or none does.
    MoveDirectory {
        from: String,
        to: String,
        files: Vec<(String, Node)>,
    },
}

impl Disk {
    fn write(&mut self, node: Node, offset: usize, bytes: &[u8]) {
        let data = &mut self.nodes[node];
        put(&mut data.now, offset, bytes);
        data.writes.push((offset, bytes.to_vec()));
    }

    fn set(&mut self, path: &str, node: Node) {
        self.names.insert(path.to_owned(), node);
        self.changes.push(Change::Set(path.to_owned(), node));
    }

    fn clear(&mut self, path: &str) {
        if let Some(node) = self.names.remove(path) {
            self.changes.push(Change::Clear(path.to_owned(), node));
        }
    }
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl PowerLoss {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// Every file as it is now.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk();
        disk.names.iter().map(|(path, node)| (path.clone(), disk.nodes[*node].now.clone())).collect()
    }

    /// The disk as it may be found after the power went: `keep` in ten unsynced changes survived.
    pub(crate) fn after_loss(&self, random: &mut fastrand::Rng, keep: u8) -> Self {
        let disk = self.disk();
        let mut kept = || random.u8(0..10) < keep;
        let mut nodes = disk.nodes.clone();
        for data in &mut nodes {
            let mut content = data.durable.clone();
            for (offset, bytes) in &data.writes {
                match (kept(), kept()) {
                    (true, _) => put(&mut content, *offset, bytes),
                    // The file grew, but what was to fill it did not come.
                    (false, true) => put(&mut content, *offset, &vec![0; bytes.len()]),
                    (false, false) => {}
                }
            }
            *data = Data { now: content.clone(), durable: content, writes: Vec::new() };
        }
        let mut names = disk.durable_names.clone();
        for (number, change) in disk.changes.iter().enumerate() {
            match change {
                Change::Set(path, node) if kept() => {
                    names.insert(path.clone(), *node);
                }
                Change::Clear(path, node) if kept() => {
                    // A rename's old name goes only if the new one came: no file system loses what it had synced.
                    let target = number.checked_sub(1).map(|before| &disk.changes[before]);
                    let moved = match target {
                        Some(Change::Set(to, moved)) if moved == node => names.get(to) == Some(node),
                        _ => true,
                    };
                    if moved && names.get(path) == Some(node) {
                        names.remove(path);
                    }
                }
                Change::MoveDirectory { from, to, files } if kept() => {
                    for (file, node) in files {
                        // A name that was lost stays lost; the rename moves only what is there.
                        if names.remove(&format!("{from}/{file}")) == Some(*node) {
                            names.insert(format!("{to}/{file}"), *node);
                        }
                    }
                }
                _ => {}
            }
        }
        let durable_names = names.clone();
        let fresh = Disk { nodes, names, durable_names, ..Disk::default() };
        Self(Arc::new(Mutex::new(fresh)))
    }
}

impl Driver for PowerLoss {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk();
        let content = disk.names.get(path).map(|node| disk.nodes[*node].now.clone());
        Ok(content.filter(|content| content.len() as u64 <= limit))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let disk = self.disk();
        Ok(disk.names.get(path).map(|node| disk.nodes[*node].now.len() as u64))
    }

    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        let Some(content) = self.read(path, u64::MAX)? else { return Ok(None) };
        let file = tempfile::tempfile()?;
        file.write_all_at(&content, 0)?;
        Ok(Some((file, content.len() as u64)))
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        let disk = self.disk();
        let mut entries = BTreeSet::new();
        for name in disk.names.keys() {
            let below = match path {
                "" => Some(name.as_str()),
                path => name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(rest) = below else {
                continue;
            };
            entries.insert(match rest.split_once('/') {
                Some((name, _)) => DirectoryEntry { name: name.to_owned(), kind: EntryKind::Directory },
                None => DirectoryEntry { name: rest.to_owned(), kind: EntryKind::File },
            });
        }
        Ok(entries.into_iter().collect())
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        let below = format!("{path}/");
        let disk = self.disk();
        let directory = disk.names.keys().any(|name| name.starts_with(&below));
        let file = disk.names.contains_key(path).then_some(EntryKind::File);
        Ok(file.or(directory.then_some(EntryKind::Directory)))
    }

    /// Directories are not kept track of: that one is missing after a loss makes no difference to files that are there.
    fn create_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        Ok(format!("{parent}/{:016x}", fastrand::u64(..)))
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.nodes.len();
        disk.nodes.push(Data::default());
        disk.set(path, node);
        disk.write(node, 0, content);
        Ok(())
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let node = *disk.names.get(staged).ok_or(io::ErrorKind::NotFound)?;
        disk.set(path, node);
        disk.clear(staged);
        Ok(())
    }

    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let below = format!("{path}/");
        if disk.names.keys().any(|name| name.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let inside = format!("{staged}/");
        let files: Vec<(String, Node)> = disk
            .names
            .iter()
            .filter_map(|(name, node)| Some((name.strip_prefix(&inside)?.to_owned(), *node)))
            .collect();
        if files.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for (file, node) in &files {
            disk.names.insert(format!("{path}/{file}"), *node);
            disk.names.remove(&format!("{staged}/{file}"));
        }
        disk.changes.push(Change::MoveDirectory { from: staged.to_owned(), to: path.to_owned(), files });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk().clear(path);
        Ok(())
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        if self.kind(path)? == Some(EntryKind::Directory) {
            return self.publish_dir(path, to);
        }
        self.publish(path, to)
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        let mut disk = self.disk();
        if !disk.held.insert(path.to_owned()) {
            return Ok(None);
        }
        // As on a file system: what also stands elsewhere, or is too long, is not written to.
        let named = disk.names.get(path).copied().filter(|node| {
            let names = disk.names.values().filter(|other| *other == node).count();
            names == 1 && disk.nodes[*node].now.len() as u64 <= size
        });
        let node = named.unwrap_or_else(|| {
            let node = disk.nodes.len();
            disk.nodes.push(Data::default());
            disk.clear(path);
            disk.set(path, node);
            node
        });
        let length = disk.nodes[node].now.len() as u64;
        drop(disk);
        Ok(Some(Box::new(Receiving { disk: self.clone(), path: path.to_owned(), node, length })))
    }

    fn barrier(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.durable_names = disk.names.clone();
        disk.changes.clear();
        for data in &mut disk.nodes {
            data.durable = data.now.clone();
            data.writes.clear();
        }
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

struct Receiving {
    disk: PowerLoss,
    path: String,
    node: Node,
    length: u64,
}

impl Partial for Receiving {
    fn length(&self) -> u64 {
        self.length
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.disk().write(self.node, offset as usize, bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk.disk();
        let rest = disk.nodes[self.node].now.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let data = &mut disk.nodes[self.node];
        data.now.truncate(length as usize);
        // What lies beyond may come back after a loss: the worse case.
        Ok(())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.disk.disk().held.remove(&self.path);
    }
}
