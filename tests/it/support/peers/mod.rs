//! Real programs that saver is tested against. `scripts/peers.sh` installs them; a test fails, and
//! says so, where one is missing.

pub(crate) mod containerd;
pub(crate) mod registry;
pub(crate) mod tls;
pub(crate) mod token;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The sample images, a registry directory: the same bytes wherever the tests run.
pub(crate) fn samples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/registry")
}

/// The real helm, where `scripts/peers.sh` puts it.
pub(crate) fn helm() -> PathBuf {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/peers/helm");
    assert!(file.is_file(), "{} is missing; scripts/peers.sh installs it", file.display());
    file
}

/// What a finished program said.
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Said {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} can't be run ({error}); scripts/peers.sh installs it"));
    Said {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that must succeed; its standard output.
pub(crate) fn succeed<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let said = run(program, arguments);
    assert!(said.status.success(), "{program} ended with {}:\n{}{}", said.status, said.stdout, said.stderr);
    said.stdout
}

/// A server process of a test's own, ended when dropped.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts a program that logs to standard error, and waits for a line that `ready` finds
    /// something in.
    pub(crate) fn start<T: Send + 'static>(
        command: &mut Command,
        ready: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap_or_else(
                |error| panic!("{name} can't be run ({error}); scripts/peers.sh installs it"),
            );
        let stderr = child.stderr.take().expect("piped above");
        let daemon = Self { child };
        let (found, wait) = mpsc::channel();
        // Reads to the end, so that the program never waits for somebody to read its log.
        std::thread::spawn(move || {
            let mut log = String::new();
            let mut pending = Some(found);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let Some(channel) = &pending else { continue };
                log.push_str(&line);
                log.push('\n');
                if let Some(value) = ready(&line) {
                    let _ = channel.send(Ok(value));
                    pending = None;
                }
            }
            if let Some(channel) = pending {
                let _ = channel.send(Err(log));
            }
        });
        match wait.recv_timeout(Duration::from_secs(60)) {
            Ok(Ok(value)) => (daemon, value),
            Ok(Err(log)) => panic!("{name} ended before it was ready:\n{log}"),
            Err(_) => panic!("{name} was not ready within a minute"),
        }
    }

    /// The process, for tests that look at it or stop it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
