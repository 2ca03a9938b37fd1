//! Credential helpers: the `docker-credential-*` programs (docker-credential-helpers protocol).

use super::docker_config;
use crate::registry::Credential;
use serde::Deserialize;
use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

/// How long a helper may take. It may have to contact a key store over the network.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is kept of each of a helper's outputs, in bytes. The rest is read and dropped.
const MAX_OUTPUT: usize = 1 << 20;

/// The most that a message quotes of a helper's output, in characters.
const MAX_QUOTE: usize = 200;

/// Why a helper gave no credential.
#[derive(Debug)]
pub(super) enum HelperError {
    /// The program does not exist.
    NotInstalled,
    /// It failed, for this reason. Contains nothing secret.
    Failed(String),
}

impl From<io::Error> for HelperError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotInstalled,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Asks `program` for the credential of `server`. `path` overrides the PATH that programs are searched in.
///
/// A helper that does not answer within `timeout` is killed together with its process group, and so is one whose
/// answer is no longer wanted because the future was dropped.
pub(super) async fn get(
    program: &str,
    server: &str,
    path: Option<&OsStr>,
    timeout: Duration,
) -> Result<Credential, HelperError> {
    let output = tokio::time::timeout(timeout, run(program, server, path)).await;
    let seconds = timeout.as_secs();
    let output = output.map_err(|_| HelperError::Failed(format!("no answer within {seconds} s")))??;
    if !output.status.success() {
        // How helpers report that they have no entry for the server.
        if String::from_utf8_lossy(&output.stdout).contains("credentials not found") {
            return Ok(Credential::Anonymous);
        }
        return Err(HelperError::Failed(output.failure()));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| HelperError::Failed("its output is not the expected JSON".to_owned()))?;
    Ok(docker_config::login(&answer.username.unwrap_or_default(), &answer.secret.unwrap_or_default()))
}

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: Option<String>,
    secret: Option<String>,
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// Why the helper failed, in its own words where these cannot contain a secret.
    fn failure(&self) -> String {
        let status = self.status;
        let words = [&self.stderr, &self.stdout].into_iter().find_map(|output| sentences(output));
        match words {
            Some(words) => format!("{status}: {words}"),
            None => status.to_string(),
        }
    }
}

/// The text of `output` for a message. Lines that look like an answer are left out: they contain the secret.
fn sentences(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| is_message(line)).collect();
    let words: String = lines.join(" ").chars().filter(|c| !c.is_control()).take(MAX_QUOTE).collect();
    (!words.is_empty()).then_some(words)
}

/// Whether a line is a sentence rather than data. A single word may be a token.
fn is_message(line: &str) -> bool {
    line.contains(' ') && !line.contains(['{', '}', '"']) && !line.to_ascii_lowercase().contains("secret")
}

async fn run(program: &str, server: &str, path: Option<&OsStr>) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command.spawn()?;
    let mut group = ProcessGroup::of(&child);
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdout = Captured::new(pipe::Receiver::from_owned_fd(stdout.into_owned_fd()?)?);
    let mut stderr = Captured::new(pipe::Receiver::from_owned_fd(stderr.into_owned_fd()?)?);
    let send = async {
        if let Some(mut stdin) = stdin {
            // A helper may answer without reading its input.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        std::future::pending::<()>().await
    };
    let status = tokio::select! {
        status = child.wait() => status?,
        () = send => return Err(io::ErrorKind::BrokenPipe.into()),
        error = stdout.read_all() => return Err(error),
        error = stderr.read_all() => return Err(error),
    };
    group.release();
    // A child that the helper left in the background keeps the pipes open, so end of file is not waited for.
    stdout.read_rest()?;
    stderr.read_rest()?;
    Ok(Output { status, stdout: stdout.bytes, stderr: stderr.bytes })
}

/// One output of a helper, as far as it was read.
struct Captured {
    pipe: pipe::Receiver,
    bytes: Vec<u8>,
}

impl Captured {
    fn new(pipe: pipe::Receiver) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    /// Reads for as long as it is polled; ends with an error only.
    async fn read_all(&mut self) -> io::Error {
        let mut buffer = [0; 4096];
        loop {
            if let Err(error) = self.pipe.readable().await {
                return error;
            }
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => std::future::pending().await,
                Ok(count) => self.keep(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error,
            }
        }
    }

    /// Reads what the pipe still holds. Asks the system, because Tokio may not have seen yet that there is more.
    fn read_rest(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok(count) => self.keep(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The process group of a running helper. Dropping it kills the group, unless the helper has exited by itself.
struct ProcessGroup(Option<rustix::process::Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    /// The helper has exited: what it left in the background is meant to stay.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The helper itself is not reaped yet, so the id still names its group.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Secret;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn script(folder: &Path, text: &str) -> String {
        let path = folder.join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn fifo(folder: &Path) -> PathBuf {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = folder.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    async fn failure(script_text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        match get(&script(folder.path(), script_text), "r.io", None, TIMEOUT).await {
            Err(HelperError::Failed(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn failed_helper_is_quoted_without_its_answer() {
        for (text, quoted) in [
            ("echo 'the vault is sealed'; exit 1", "exit status: 1: the vault is sealed"),
            ("echo 'the vault is sealed' >&2; exit 3", "exit status: 3: the vault is sealed"),
            (r#"echo '{"Username":"ann","Secret":"hunter2"}'; exit 1"#, "exit status: 1"),
            (
                r#"echo '{"Username":"ann","Secret":"hunter2"}'; echo 'late failure' >&2; exit 1"#,
                "late failure",
            ),
            (r#"printf '{\n "Username": "ann",\n "Secret": "hunter2"\n}'; exit 1"#, "exit status: 1"),
            (r#"set -x; echo '{"Username":"ann","Secret":"hunter2"}'; exit 1"#, "exit 1"),
            ("echo hunter2; exit 1", "exit status: 1"),
            ("echo hunter2", "not the expected JSON"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let why = failure(text).await;
            assert!(why.contains(quoted) && !why.contains("hunter2"), "{text}: {why}");
        }
    }

    #[tokio::test]
    async fn long_output_is_read_to_its_end_and_quoted_in_part() {
        let why =
            failure("i=0; while [ $i -lt 20000 ]; do echo 'no key store'; i=$((i+1)); done >&2; exit 1")
                .await;
        assert!(why.contains("no key store") && why.len() < 300, "{why}");
    }

    #[tokio::test]
    async fn background_child_holding_the_output_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let text = format!(r#"(cat {}; true) & echo '{{"Username":"ann","Secret":"pw"}}'"#, fifo.display());
        let credential = get(&script(folder.path(), &text), "r.io", None, TIMEOUT).await.unwrap();
        let expected = Credential::Basic { username: "ann".into(), password: Secret::new("pw") };
        assert_eq!(credential, expected);
        // The background child was left alone: it opens the other end, and ends with it.
        std::fs::File::options().write(true).open(fifo).unwrap().write_all(b"end").unwrap();
    }

    #[tokio::test]
    async fn abandoned_helper_is_killed_with_its_process_group() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let text = format!("exec 3>{}\nsleep 600 &\necho started >&3\nwait", fifo.display());
        let program = script(folder.path(), &text);
        let started = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::open(fifo).unwrap();
            let mut start = [0; 8];
            file.read_exact(&mut start).unwrap();
            file
        });
        let mut file = tokio::select! {
            answer = get(&program, "r.io", None, TIMEOUT) => panic!("{answer:?}"),
            file = started => file.unwrap(),
        };
        // End of file comes when neither the helper nor its child holds the other end.
        let rest = tokio::task::spawn_blocking(move || file.read_to_end(&mut Vec::new())).await.unwrap();
        assert_eq!(rest.unwrap(), 0);
    }
}
