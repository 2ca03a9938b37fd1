//! Runs `helm template` for a scan: on a copy of the chart, without a shell or the user's configuration, and within limits.

use crate::cli::config::Environment;
use crate::cli::interrupt::CleanupGuard;
use crate::error::Result as Outcome;
use crate::scan::{ChartRenderer, MAX_CHART_BYTES, RenderFailure, RenderInput};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum time for one chart.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum output on stdout, and on stderr, in bytes.
const MAX_OUTPUT: u64 = MAX_CHART_BYTES as u64;
/// Maximum memory for its data, in bytes. A hostile template could otherwise take all of it.
const MAX_MEMORY: u64 = 2 << 30;
/// How often its state is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The installed helm.
#[derive(Debug)]
pub(super) struct Helm {
    program: PathBuf,
    path: String,
    kube_version: Option<String>,
    api_versions: Vec<String>,
    running: RunningHelm,
}

/// The process that is running, if any.
type RunningHelm = Arc<Mutex<Option<HelmProcess>>>;

/// A process group and its temporary directory.
#[derive(Debug)]
struct HelmProcess {
    group: Pid,
    home: PathBuf,
}

impl Helm {
    /// The helm in `PATH`, if any, and the cluster to render for.
    pub(crate) fn find(
        environment: &Environment,
        kube_version: Option<String>,
        api_versions: &[String],
    ) -> Option<Self> {
        let path = environment.get("PATH")?;
        let is_program = |file: &PathBuf| {
            fs::metadata(file).is_ok_and(|kind| kind.is_file() && kind.permissions().mode() & 0o111 != 0)
        };
        let dirs = path.split(':').map(Path::new).filter(|dir| dir.is_absolute());
        let program = dirs.map(|dir| dir.join("helm")).find(is_program)?;
        let path = path.to_owned();
        let api_versions = api_versions.to_vec();
        Some(Self { program, path, kube_version, api_versions, running: RunningHelm::default() })
    }

    /// Until the guard is dropped, a signal that ends saver ends helm too: it has a process group of its own, which Ctrl-C does
    /// not reach.
    ///
    /// # Errors
    /// `Storage` if signals cannot be received.
    pub(super) fn guard(&self) -> Outcome<CleanupGuard> {
        let running = self.running.clone();
        CleanupGuard::listen(move || {
            // Held until the process exits, so that nothing new is started.
            let running = running.lock();
            if let Some(running) = &*running {
                end(running.group);
                // A failure cannot be reported any more.
                let _ = fs::remove_dir_all(&running.home);
            }
            std::mem::forget(running);
        })
    }

    /// Helm gets a home and a process group of its own, so that no plugin, repository or cluster of the user takes part and its
    /// children end with it.
    fn command(&self, home: &Path, chart: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["template", "saver"]).arg(chart).arg("--include-crds").process_group(0);
        command.env_clear().env("PATH", &self.path).env("HOME", home).current_dir(home);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, home.join("helm"));
        }
        command.env("HELM_NO_PLUGINS", "1").env("TMPDIR", home).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and returns whether it succeeded.
    fn run(&self, command: &mut Command, home: &Path, printed: &[&File]) -> Result<bool, RenderFailure> {
        let lock = || self.running.lock();
        let mut running = lock();
        let mut child = command.spawn().map_err(|cause| failure(format!("cannot start helm: {cause}")))?;
        let group = Pid::from_child(&child);
        *running = Some(HelmProcess { group, home: home.to_owned() });
        bound(group);
        drop(running);
        let exceeded = wait_within_limits(group, printed);
        // From here on the process ID may belong to another process, which must not get a signal.
        let mut running = lock();
        end(group);
        let status = child.wait().map_err(|cause| failure(cause.to_string()));
        *running = None;
        match exceeded {
            Some(why) => Err(RenderFailure { message: why.to_owned(), is_limit: true }),
            None => Ok(status?.success()),
        }
    }
}

impl ChartRenderer for Helm {
    fn render(&self, input: &RenderInput<'_>) -> Result<String, RenderFailure> {
        let io = |cause: std::io::Error| failure(cause.to_string());
        let home = tempfile::Builder::new().prefix("saver-helm-").tempdir().map_err(io)?;
        // A copy: helm follows the symbolic links of a chart's directory, and the copy has none.
        let copy = home.path().join("chart");
        for (path, content) in input.files() {
            let file = copy.join(path);
            fs::create_dir_all(file.parent().unwrap_or(&copy)).map_err(io)?;
            File::create_new(&file).and_then(|mut file| file.write_all(content)).map_err(io)?;
        }
        let mut out = tempfile::tempfile().map_err(io)?;
        let mut err = tempfile::tempfile().map_err(io)?;
        let mut command = self.command(home.path(), &copy);
        for (number, values) in input.values().enumerate() {
            let file = home.path().join(format!("values-{number}.yaml"));
            fs::write(&file, values).map_err(io)?;
            command.arg("--values").arg(file);
        }
        if let Some(version) = &self.kube_version {
            command.arg("--kube-version").arg(version);
        }
        for version in self.api_versions.iter().chain(input.api_versions) {
            command.arg("--api-versions").arg(version);
        }
        command.stdout(out.try_clone().map_err(io)?).stderr(err.try_clone().map_err(io)?);
        if self.run(&mut command, home.path(), &[&out, &err])? {
            return text(&mut out).map_err(io);
        }
        let output = text(&mut err).map_err(io)?.replace(&*copy.to_string_lossy(), input.name);
        let line = output.lines().find(|line| line.starts_with("Error")).or(output.lines().next());
        let line = line.unwrap_or("no message").trim_start_matches("Error: ");
        Err(failure(line.chars().take(300).collect()))
    }
}

fn failure(message: String) -> RenderFailure {
    RenderFailure { message, is_limit: false }
}

/// Waits until a process ends or exceeds a limit, and returns the limit.
fn wait_within_limits(program: Pid, printed: &[&File]) -> Option<&'static str> {
    let start = Instant::now();
    // The process is not reaped, so that no other process gets its ID.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while rustix::process::waitid(WaitId::Pid(program), look).is_ok_and(|ended| ended.is_none()) {
        let is_large = |file: &&File| file.metadata().is_ok_and(|file| file.len() > MAX_OUTPUT);
        if printed.iter().any(is_large) {
            return Some("the output is too large");
        }
        if start.elapsed() > TIMEOUT {
            return Some("it takes too long");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    None
}

/// Limits the memory of a process, where the system can.
fn bound(process: Pid) {
    #[cfg(target_os = "linux")]
    {
        let limit = Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
        let _ = rustix::process::prlimit(Some(process), Resource::Data, limit);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (process, MAX_MEMORY);
}

/// Kills a process group, which may have ended already.
fn end(group: Pid) {
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
