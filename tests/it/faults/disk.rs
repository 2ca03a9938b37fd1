//! A disk that refuses, as the whole program meets it: its words, its exit code, and what is there afterwards.

use super::*;
use crate::support::fault::Fault;
use crate::support::mount::{apart, mount_small, remount};
use crate::support::scratch::Scratch;
use crate::support::tree;
use saver::oci::Digest;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// A registry, a directory to save into and one for everything else.
struct Disk {
    runtime: Runtime,
    server: FaultServer,
    outer: Scratch,
    dir: PathBuf,
    names: Vec<String>,
}

/// How a run of the program ended, and what it said.
struct Ran {
    code: Option<i32>,
    err: String,
    report: serde_json::Value,
}

impl Disk {
    /// With images of these layers: `team/app0:v1` and so on.
    fn new(images: &[&[&[u8]]]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(FaultServer::start());
        let outer = Scratch::new();
        let names: Vec<String> = (0..images.len()).map(|number| format!("team/app{number}")).collect();
        for (name, layers) in names.iter().zip(images) {
            server.add_image(name, "v1", layers);
        }
        let list: String = names.iter().map(|name| format!("{}/{name}:v1\n", server.registry())).collect();
        std::fs::write(outer.path().join("images.list"), list).unwrap();
        let dir = outer.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        // For another user to run, and to write the report in.
        std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { runtime, server, outer, dir, names }
    }

    fn small() -> Self {
        Self::new(&[&[b"shared", b"one"], &[b"shared", b"two"], &[b"shared", b"three"]])
    }

    fn run(&self) -> Ran {
        self.run_as(Path::new(env!("CARGO_BIN_EXE_saver")), &self.dir, |_| {})
    }

    fn run_with(&self, change: impl FnOnce(&mut Command)) -> Ran {
        self.run_as(Path::new(env!("CARGO_BIN_EXE_saver")), &self.dir, change)
    }

    fn run_as(&self, program: &Path, dir: &Path, change: impl FnOnce(&mut Command)) -> Ran {
        let report = self.outer.path().join("report.json");
        let _ = std::fs::remove_file(&report);
        let mut command = Command::new(program);
        command.args(["--arch", "amd64", "--progress", "none", "--retries", "2"]);
        command.arg("--list").arg(self.outer.path().join("images.list")).arg("--report").arg(&report);
        command.arg("--dir").arg(dir).env_clear().env("HOME", "/nonexistent").current_dir("/");
        change(&mut command);
        let output = command.output().unwrap();
        let report = std::fs::read(&report).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let err = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code(), err, report: report.unwrap_or_default() }
    }

    /// Asserts that whatever is there is right, and that a tag implies its image.
    fn assert_true(&self) {
        let problems = tree::read(&tree::files(&self.dir)).1;
        assert!(problems.is_empty(), "{problems:#?}");
        assert_tree(&self.dir);
    }

    /// Nothing is in the way any more: the run completes, and one after it has nothing to do.
    fn completes(&self) {
        let ran = self.run();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        self.assert_true();
        for name in &self.names {
            assert!(is_tagged(&self.dir, name, "v1"), "{name}");
        }
        assert!(partial_files(&self.dir).is_empty());
    }
}

impl Ran {
    /// The run was ended by the disk: exit code 3 and one clear word of it, with advice.
    fn assert_stopped(&self, words: &str, hint: &str) {
        assert_eq!(self.code, Some(3), "{}", self.err);
        let count = self.err.lines().filter(|line| line.contains(words)).count();
        assert_eq!(count, 1, "not reported once:\n{}", self.err);
        let advised = self.err.lines().filter(|line| line.contains("hint: ") && line.contains(hint)).count();
        assert_eq!(advised, 1, "not advised once:\n{}", self.err);
    }
}

#[test]
fn full_disk_at_any_write_is_one_error_and_recoverable() {
    let disk = Disk::small();
    apart(move || {
        if !mount_small(&disk.dir, "size=16k") {
            return;
        }
        let mut refused = 0;
        // Every run gets a page further: the disk is full at any of the writes.
        for pages in 4.. {
            remount(&disk.dir, &format!("size={}k", pages * 4));
            let ran = disk.run();
            disk.assert_true();
            if ran.code == Some(0) {
                break;
            }
            ran.assert_stopped("No space left on device", "free some space and run the same command again");
            assert_eq!(ran.report["aborted"]["kind"], "storage", "{}", ran.report);
            let error = ran.err.lines().find(|line| line.contains("No space left on device")).unwrap();
            let names_image = disk.names.iter().any(|name| error.contains(&format!("/{name}:v1: ")));
            assert!(names_image && error.contains(disk.dir.to_str().unwrap()), "{error}");
            refused += 1;
        }
        assert!(refused > 5, "only {refused} runs were refused");
        disk.completes();
    });
}

#[test]
fn inode_exhaustion_is_named_and_recoverable() {
    let disk = Disk::small();
    apart(move || {
        if !mount_small(&disk.dir, "nr_inodes=8") {
            return;
        }
        let mut refused = 0;
        for inodes in (8..).step_by(5) {
            remount(&disk.dir, &format!("nr_inodes={inodes}"));
            let ran = disk.run();
            disk.assert_true();
            if ran.code == Some(0) {
                break;
            }
            ran.assert_stopped("the file system has no free inodes", "with more inodes");
            refused += 1;
        }
        assert!(refused > 5, "only {refused} runs were refused");
        disk.completes();
    });
}

#[test]
fn dry_run_counts_inodes() {
    let disk = Disk::small();
    apart(move || {
        if !mount_small(&disk.dir, "nr_inodes=20") {
            return;
        }
        let dry = || {
            disk.run_with(|command| {
                command.arg("--dry-run");
            })
        };
        let ran = dry();
        // A configuration that all share and four layers, each a file and a link with directories of their own.
        let message = "not enough inodes: at least 20 needed, 19 available";
        assert!(ran.code == Some(3) && ran.err.contains(message), "{:?} {}", ran.code, ran.err);
        remount(&disk.dir, "nr_inodes=1000");
        assert_eq!(dry().code, Some(0));
    });
}

#[test]
fn layer_that_does_not_fit_fails_only_its_image() {
    let large = noise("large", 2 << 20);
    let disk = Disk::new(&[&[&large], &[b"small"]]);
    apart(move || {
        if !mount_small(&disk.dir, "size=1m") {
            return;
        }
        let ran = disk.run();
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains("does not fit") && ran.err.contains("hint: free some space"), "{}", ran.err);
        assert!(ran.err.contains(&format!("capacity of the disk of {}", disk.dir.display())), "{}", ran.err);
        assert_eq!(ran.report["images"][0]["error"]["kind"], "too-large");
        assert!(is_tagged(&disk.dir, "team/app1", "v1"));
        disk.assert_true();
        remount(&disk.dir, "size=8m");
        disk.completes();
    });
}

/// What is left of the disk goes to others while a layer comes in.
#[test]
fn started_layer_keeps_its_reserved_space() {
    let large = noise("large", 1 << 20);
    let disk = Disk::new(&[&[&large]]);
    let layer = Digest::of(&large).to_string();
    disk.server.on("GET", &layer).times(1).answer(Fault::Stall(500_000));
    apart(move || {
        if !mount_small(&disk.dir, "size=4m") {
            return;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
        command.args(["--arch", "amd64", "--progress", "none", "--quiet"]).arg("--dir").arg(&disk.dir);
        command
            .arg(format!("{}/team/app0:v1", disk.server.registry()))
            .env_clear()
            .env("HOME", "/nonexistent");
        let mut child = command.spawn().unwrap();
        let came = || partial_files(&disk.dir).iter().any(|file| file.1 >= 500_000);
        disk.runtime.block_on(until("half of the layer", came));
        let filler = disk.dir.join("filler");
        let filled = std::fs::write(&filler, vec![0; 4 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        child.kill().unwrap();
        child.wait().unwrap();
        // Killed in mid-layer on a full disk. Now there is room for the links, and the layer goes on where it was.
        std::fs::File::options().write(true).open(&filler).unwrap().set_len(2 << 20).unwrap();
        std::fs::remove_file(&filler).unwrap();
        disk.completes();
        let asked = disk.server.seen().into_iter().rfind(|seen| seen.path.contains(&layer)).unwrap();
        assert_eq!(asked.header("range"), Some("bytes=500000-"));
    });
}

#[test]
fn file_size_limit_is_reported() {
    let large = noise("large", LARGE);
    let disk = Disk::new(&[&[&large], &[b"small"]]);
    let limited = |bytes: u64| {
        disk.run_with(|command| {
            let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
            let set = move || Ok(rustix::process::setrlimit(rustix::process::Resource::Fsize, limit)?);
            // SAFETY: one system call, and no memory is touched.
            unsafe { command.pre_exec(set) };
        })
    };
    limited(100_000).assert_stopped("File too large", "ulimit -f");
    disk.assert_true();
    for bytes in [300, 50] {
        // The report is too large by then too, and that is reported as well.
        let ran = limited(bytes);
        assert_eq!(ran.code, Some(3), "{}", ran.err);
        assert!(ran.err.contains("File too large") && ran.err.contains("ulimit -f"), "{}", ran.err);
        disk.assert_true();
    }
    disk.completes();
}

#[test]
fn open_files_limit_is_reported_with_a_hint() {
    let layers: Vec<Bytes> = (0..20).map(|number| noise(&format!("layer {number}"), LARGE)).collect();
    let layers: Vec<&[u8]> = layers.iter().map(|layer| &layer[..]).collect();
    let disk = Disk::new(&[&layers, &[b"small"]]);
    let mut refused = 0;
    for files in (14..).step_by(5) {
        let ran = disk.run_with(|command| {
            let limit = rustix::process::Rlimit { current: Some(files), maximum: Some(files) };
            let set = move || Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?);
            // SAFETY: one system call, and no memory is touched.
            unsafe { command.pre_exec(set) };
        });
        if disk.dir.join("docker").exists() {
            disk.assert_true();
        }
        if ran.code == Some(0) {
            break;
        }
        assert!(matches!(ran.code, Some(1 | 3)), "{files}: {:?} {}", ran.code, ran.err);
        assert!(ran.err.contains("open files"), "{files}: {}", ran.err);
        assert!(ran.err.contains("ulimit -n"), "{files}: {}", ran.err);
        refused += 1;
    }
    assert!(refused > 3, "only {refused} runs were refused");
    disk.completes();
}

#[test]
fn missing_permission_is_reported_with_the_path() {
    let disk = Disk::small();
    let program = disk.outer.path().join("saver");
    std::fs::copy(env!("CARGO_BIN_EXE_saver"), &program).unwrap();
    std::fs::set_permissions(&disk.dir, std::fs::Permissions::from_mode(0o555)).unwrap();
    let nobody = |dir: &Path| {
        disk.run_as(&program, dir, |command| {
            // The owner of all rights would not notice.
            if rustix::process::geteuid().is_root() {
                command.uid(65534).gid(65534);
            }
        })
    };
    let ran = nobody(&disk.dir);
    let is_root = rustix::process::geteuid().is_root();
    let hint = if is_root { "belongs to user root" } else { "with write permission" };
    ran.assert_stopped("Permission denied", hint);
    assert!(ran.err.contains(disk.dir.to_str().unwrap()), "{}", ran.err);
    let missing = disk.dir.join("deep/er");
    let ran = nobody(&missing);
    ran.assert_stopped("Permission denied", "with write permission");
    assert!(ran.err.contains(missing.to_str().unwrap()), "{}", ran.err);
    std::fs::set_permissions(&disk.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    disk.completes();
    // A tree whose parts another user made.
    let part = disk.dir.join("docker/registry/v2/repositories");
    std::fs::remove_dir_all(part.join("team/app0")).unwrap();
    let ran = nobody(&disk.dir);
    if rustix::process::geteuid().is_root() {
        ran.assert_stopped("Permission denied", "belongs to user root");
    }
    disk.completes();
}

#[test]
fn unreadable_tree_is_reported_by_verbs_that_only_read() {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: this takes a user of all rights");
        return;
    }
    let disk = Disk::small();
    disk.completes();
    let program = disk.outer.path().join("saver");
    std::fs::copy(env!("CARGO_BIN_EXE_saver"), &program).unwrap();
    let repositories = disk.dir.join("docker/registry/v2/repositories");
    std::fs::set_permissions(&repositories, std::fs::Permissions::from_mode(0o700)).unwrap();
    for verb in ["ls", "verify"] {
        let mut command = Command::new(&program);
        command.arg(verb).arg(&disk.dir).env_clear().env("HOME", "/nonexistent").current_dir("/");
        let output = command.uid(65534).gid(65534).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{verb}: {error}");
        assert!(
            error.contains(repositories.to_str().unwrap()) && error.contains("Permission denied"),
            "{error}"
        );
        assert!(error.contains("hint: run as a user who may read it"), "{verb}: {error}");
    }
}

#[test]
fn read_only_file_system_is_reported_with_the_path() {
    let disk = Disk::small();
    apart(move || {
        if !mount_small(&disk.dir, "size=4m") {
            return;
        }
        remount(&disk.dir, "ro");
        let ran = disk.run();
        ran.assert_stopped("Read-only file system", "read-write");
        assert!(ran.err.contains(disk.dir.to_str().unwrap()), "{}", ran.err);
        remount(&disk.dir, "rw");
        disk.completes();
    });
}

#[test]
fn file_in_place_of_a_directory_is_reported_with_its_path() {
    let ways = [
        "",
        "docker",
        "docker/registry/v2",
        "docker/registry/v2/blobs",
        "docker/registry/v2/repositories/team",
        "docker/registry/v2/repositories/team/app0/_manifests",
        ".saver",
        ".saver/partial",
    ];
    for way in ways {
        let disk = Disk::small();
        let file = disk.dir.join(way);
        std::fs::remove_dir(&disk.dir).unwrap();
        if !way.is_empty() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        }
        let file = if way.is_empty() { disk.dir.clone() } else { file };
        std::fs::write(&file, "in the way").unwrap();
        let ran = disk.run();
        ran.assert_stopped("cannot", "a file exists where a directory is needed");
        assert!(ran.err.contains(disk.dir.to_str().unwrap()), "{way}: {}", ran.err);
        assert_eq!(std::fs::read(&file).unwrap(), b"in the way", "{way}");
        std::fs::remove_file(&file).unwrap();
        disk.completes();
    }
}

#[test]
fn planted_symlinks_are_not_followed() {
    let ways = [
        "docker",
        "docker/registry/v2/blobs",
        "docker/registry/v2/blobs/sha256",
        "docker/registry/v2/repositories/team",
        "docker/registry/v2/repositories/team/app0/_manifests/tags",
        ".saver",
        ".saver/partial",
    ];
    for way in ways {
        let disk = Disk::small();
        let elsewhere = disk.outer.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let planted = disk.dir.join(way);
        std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
        symlink(&elsewhere, &planted).unwrap();
        let ran = disk.run();
        assert_eq!(ran.code, Some(3), "{way}: {}", ran.err);
        assert!(ran.err.contains("symbolic link"), "{way}: {}", ran.err);
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "{way} was followed");
        std::fs::remove_file(&planted).unwrap();
        disk.completes();
    }
}
