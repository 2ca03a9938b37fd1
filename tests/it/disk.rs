//! What the store says and keeps when the disk refuses: full, read-only, no permission, a file in the way, a failed sync.

use super::support::images::{Image, assortment, deliver, deliver_all, noise};
use super::support::mount::{apart, mount_small, remount, unshare};
use super::support::tree;
use crate::support::scratch::Scratch;
use saver::content::memory::Memory;
use saver::content::{BlobWriter, Ingest, Sink};
use saver::driver::{DirectoryEntry, Driver, EntryKind, FreeSpace, MemoryDriver, Partial};
use saver::oci::{Descriptor, Digest};
use saver::store::{Store, StoreOptions};
use saver::{Error, ErrorKind};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn first_error(outcomes: Vec<saver::Result<u64>>) -> Error {
    outcomes.into_iter().find_map(Result::err).expect("an error")
}

#[test]
fn modes_follow_the_umask_and_internal_files_are_private() {
    for umask in [0o022, 0o002, 0o077] {
        check_modes(umask);
    }
}

fn check_modes(umask: u32) {
    apart(move || {
        unshare(libc::CLONE_FS).unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let outer = Scratch::new();
        let dir = outer.path().join("dir");
        run(async {
            for outcome in deliver_all(&open(&dir), &assortment()).await.0 {
                outcome.unwrap();
            }
        });
        for entry in walkdir::WalkDir::new(&dir).into_iter().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            let is_internal = entry.path() == dir.join(".saver");
            let created = if is_internal {
                0o700
            } else if entry.file_type().is_dir() {
                0o777
            } else {
                0o666
            };
            let expect = created & !umask;
            assert_eq!(mode, expect, "{} has {mode:o}", entry.path().display());
        }
    });
}

#[test]
fn full_disk_at_any_write_is_reported_and_recoverable() {
    let dir = Scratch::new();
    apart(move || {
        let dir = dir.path();
        if !mount_small(dir, "size=16k") {
            return;
        }
        let images = assortment();
        let expect = run(async {
            let memory = Memory::new();
            deliver_all(&memory, &images).await;
            memory.contents()
        });
        // Every run gets a page or so further: the disk fills up at any of the writes.
        for (refused, pages) in (4..200).enumerate() {
            remount(dir, &format!("size={}k", pages * 4));
            let (outcomes, _) = run(async { deliver_all(&open(dir), &images).await });
            let (contents, problems) = tree::read(&tree::files(dir));
            assert!(problems.is_empty(), "{pages} pages: {problems:#?}");
            if outcomes.iter().all(Result::is_ok) {
                assert_eq!(contents, expect);
                assert!(refused > 5, "only {refused} runs were refused");
                return;
            }
            let error = first_error(outcomes);
            assert_eq!(error.kind(), ErrorKind::Storage);
            assert!(error.message().contains("No space left on device"), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("free some space")), "{error}");
        }
        panic!("never complete");
    });
}

#[test]
fn blob_larger_than_the_disk_fails_at_its_first_write() {
    let dir = Scratch::new();
    apart(move || {
        if !mount_small(dir.path(), "size=4m") {
            return;
        }
        let store = open(dir.path());
        let free = store.free_space().unwrap().unwrap();
        assert!(free.bytes <= 4 << 20 && free.bytes > 3 << 20, "{free:?}");
        let home = "large".parse().unwrap();
        let blob = |size| Descriptor::new("application/octet-stream", Digest::of(b"large"), size);
        let Ingest::Write(writer) = run(store.ingest(&home, &blob(8 << 20))).unwrap() else {
            panic!("present")
        };
        let error = writer.write_at(0, b"first").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().is_some_and(|hint| hint.contains("free some space")), "{error}");
        writer.discard().unwrap();
        let Ingest::Write(writer) = run(store.ingest(&home, &blob(2 << 20))).unwrap() else {
            panic!("present")
        };
        writer.write_at(0, b"first").unwrap();
    });
}

#[test]
fn read_only_file_system_is_reported() {
    let dir = Scratch::new();
    apart(move || {
        if !mount_small(dir.path(), "size=4m") {
            return;
        }
        let images = assortment();
        run(async { deliver(&open(dir.path()), &images[0]).await.unwrap() });
        remount(dir.path(), "ro");
        let store = open(dir.path());
        let error = first_error(run(deliver_all(&store, &images[1..])).0);
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().is_some_and(|hint| hint.contains("read-write")), "{error}");
        // What is there is read all the same, and a run with nothing to do has nothing to complain of.
        run(async { deliver(&store, &images[0]).await.unwrap() });
        drop(store.lock_shared(std::time::Duration::ZERO).err());
    });
}

#[test]
fn missing_permission_is_reported() {
    let dir = Scratch::new();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    apart(move || {
        // SAFETY: changes whom the file system takes this thread for, and no memory. Without the right to, nothing changes.
        unsafe { libc::setfsuid(65534) };
        let missing = dir.path().join("new");
        let owner = std::fs::metadata(dir.path()).unwrap();
        if std::os::unix::fs::MetadataExt::uid(&owner) != 0 {
            println!("not tested: this takes a user of all rights");
            return;
        }
        let error = Store::open(&missing, StoreOptions::default()).err().unwrap();
        assert!(error.hint().is_some_and(|hint| hint.contains("write permission")), "{error}");
        let error = first_error(run(deliver_all(&open(dir.path()), &assortment())).0);
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().is_some_and(|hint| hint.contains("write permission")), "{error}");
        assert!(error.subject().contains(dir.path().to_str().unwrap()), "{error}");
    });
}

#[test]
fn file_in_place_of_a_directory_is_reported() {
    for way in ["docker", "docker/registry", "docker/registry/v2/repositories/tool", ".saver", ".saver/stage"]
    {
        let dir = Scratch::new();
        std::fs::create_dir_all(dir.path().join(way).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(way), "in the way").unwrap();
        let error = first_error(run(deliver_all(&open(dir.path()), &assortment())).0);
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().is_some_and(|hint| hint.contains("a file exists where")), "{way}: {error}");
        assert_eq!(std::fs::read(dir.path().join(way)).unwrap(), b"in the way");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path(), StoreOptions::default()).err().unwrap();
    assert!(error.hint().is_some_and(|hint| hint.contains("a file exists where")), "{error}");
}

/// A driver whose scripted operation fails.
struct Failing {
    inner: MemoryDriver,
    what: &'static str,
    code: i32,
    now: Arc<AtomicBool>,
}

impl Failing {
    fn check(&self, what: &str) -> io::Result<()> {
        if what == self.what && self.now.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.code));
        }
        Ok(())
    }
}

impl Driver for Failing {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.check("read")?;
        self.inner.read(path, limit)
    }
    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.inner.size(path)
    }
    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        self.inner.open(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list(path)
    }
    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        self.inner.kind(path)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.inner.set_aside(path, to)
    }
    fn stage_area(&self, parent: &str) -> io::Result<String> {
        self.inner.stage_area(parent)
    }
    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        self.check("stage")?;
        self.inner.stage(path, content)
    }
    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        self.check(if path.contains("/blobs/") { "publish content" } else { "publish link" })?;
        self.inner.publish(staged, path)
    }
    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        self.check("publish link")?;
        self.inner.publish_dir(staged, path)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        self.check("partial")?;
        self.inner.partial(path, size)
    }
    fn log(&self, path: &str) -> io::Result<Option<Box<dyn Partial>>> {
        self.check("log")?;
        self.inner.log(path)
    }
    fn barrier(&self) -> io::Result<()> {
        self.check("barrier")
    }
    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        self.inner.lock_file(path)
    }
    fn free_space(&self) -> io::Result<Option<FreeSpace>> {
        self.inner.free_space()
    }
    fn location(&self, path: &str) -> String {
        self.inner.location(path)
    }
}

fn failing(what: &'static str, code: i32) -> (Store, MemoryDriver, Arc<AtomicBool>) {
    let (inner, now) = (MemoryDriver::new(), Arc::new(AtomicBool::new(true)));
    let driver = Failing { inner: inner.clone(), what, code, now: now.clone() };
    (Store::with_driver(Arc::new(driver), StoreOptions::default()), inner, now)
}

#[test]
fn failure_of_any_operation_is_reported_and_recoverable() {
    let images = assortment();
    for what in ["read", "stage", "publish content", "publish link", "partial", "log"] {
        for (code, says) in [
            (libc::EIO, "Input/output error"),
            (libc::EMFILE, "Too many open files"),
            (libc::EDQUOT, "quota"),
        ] {
            let (store, disk, now) = failing(what, code);
            for outcome in run(deliver_all(&store, &images)).0 {
                let error = outcome.expect_err(what);
                assert_eq!(error.kind(), ErrorKind::Storage);
                assert!(error.message().contains(says), "{what}: {error}");
                assert_eq!(error.hint().is_some(), code != libc::EIO, "{error:?}");
            }
            assert!(tree::read(&disk.files()).1.is_empty());
            // The same store goes on when the trouble is over.
            now.store(false, Ordering::SeqCst);
            for outcome in run(deliver_all(&store, &images)).0 {
                outcome.unwrap();
            }
            drop(store);
            let left: Vec<_> = disk
                .files()
                .into_keys()
                .filter(|path| path.starts_with(".saver/") && !path.starts_with(".saver/sources/"))
                .collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        }
    }
}

#[test]
fn failed_sync_fails_all_later_publications() {
    let (store, disk, now) = failing("barrier", libc::EIO);
    let image = Image::single("x", &[noise("x", 10)], &["x:1"]);
    let error = run(deliver(&store, &image)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.message().contains("stable storage"), "{error}");
    now.store(false, Ordering::SeqCst);
    assert!(run(deliver(&store, &image)).is_err(), "what the kernel dropped nobody knows");
    drop(store);
    let tags = tree::read(&disk.files()).0.tags;
    assert!(tags.is_empty(), "{tags:?}");
    // A new run starts from what it can read.
    let store = Store::with_driver(Arc::new(disk), StoreOptions::default());
    run(deliver(&store, &image)).unwrap();
}
