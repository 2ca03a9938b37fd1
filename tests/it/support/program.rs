//! The real binary, run as people run it: with a home and an environment of its own.

use super::scratch::Scratch;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A home for the program, in which its configuration is written.
pub(crate) struct Home {
    dir: Scratch,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Asserts the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: Scratch::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, and the directories above it; its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `saver` with these arguments, not started yet.
    pub(crate) fn saver<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
        command.args(arguments).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).stdin(Stdio::null());
        // Referrers have tests of their own (`referrers`, `referrer_hops`); others count requests and tags.
        command.env("SAVER_REFERRERS", "none");
        command
    }

    /// The arguments of a run over `images` into `dir`.
    pub(crate) fn saving(&self, dir: &Path, arch: &str, images: &[String]) -> Command {
        let mut command = self.saver(["--progress", "none", "--arch", arch, "--dir"]);
        command.arg(dir).args(images);
        command
    }

    /// Saves `images` into `dir`, with more arguments; asserts the exit code.
    pub(crate) fn save(
        &self,
        dir: &Path,
        arch: &str,
        images: &[String],
        more: &[&str],
        expected: i32,
    ) -> (Ran, Value) {
        let report = self.path("report.json");
        let mut command = self.saving(dir, arch, images);
        let ran = run(command.args(more).arg("--report").arg(&report)).expect(expected);
        super::registry_model::assert_served(dir);
        let json = std::fs::read(&report).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        (ran, json)
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Waits for a process whose output is piped.
pub(crate) fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A process that is ended, not asked, when dropped.
pub(crate) struct Victim(Option<Child>);

impl Victim {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Whether it runs still.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits until it has written a byte to stdout, and reads no more than that.
    pub(crate) fn first_byte(&mut self) {
        let mut byte = [0];
        self.0.as_mut().unwrap().stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    }

    /// Waits for its own end, which must come within `limit` of `since` though nobody reads what it writes.
    pub(crate) fn end_within(mut self, limit: Duration, since: Instant) -> Ran {
        while self.is_running() {
            assert!(since.elapsed() < limit, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.finish()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits for its own end.
    pub(crate) fn finish(mut self) -> Ran {
        finish(self.0.take().unwrap())
    }

    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.end();
    }
}
