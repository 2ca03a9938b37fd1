//! `helm template`, run for a scan: no shell, a copy of the chart, nothing of the user's, and not for long.

use crate::cli::config::Environment;
use crate::cli::interrupt::Guard;
use crate::error::Result as Outcome;
use crate::scan::{Chart, MAX_CHART_BYTES, Render};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one chart may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that it may print on stdout, and on stderr, in bytes: as much as is read of it.
const MAX_OUTPUT: u64 = MAX_CHART_BYTES as u64;
/// The most memory that it may have for its data, in bytes. A template that repeats a text a few thousand million times
/// takes all there is otherwise.
const MAX_MEMORY: u64 = 2 << 30;
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(10);

/// The program.
#[derive(Debug)]
pub(super) struct Helm {
    program: PathBuf,
    path: String,
    under_way: UnderWay,
}

/// The run that is under way, if one is.
type UnderWay = Arc<Mutex<Option<Running>>>;

/// A process with its children, and the directory that was made for it.
#[derive(Debug)]
struct Running {
    group: Pid,
    home: PathBuf,
}

impl Helm {
    /// The helm in `PATH`, if there is one.
    pub(super) fn find(environment: &Environment) -> Option<Self> {
        let path = environment.get("PATH")?;
        let is_program = |file: &PathBuf| {
            fs::metadata(file).is_ok_and(|kind| kind.is_file() && kind.permissions().mode() & 0o111 != 0)
        };
        let dirs = path.split(':').map(Path::new).filter(|dir| dir.is_absolute());
        let program = dirs.map(|dir| dir.join("helm")).find(is_program)?;
        Some(Self { program, path: path.to_owned(), under_way: UnderWay::default() })
    }

    /// Until the guard is dropped, a signal that ends saver ends helm too, which a terminal's Ctrl-C does not reach.
    ///
    /// # Errors
    /// `Storage` when the system refuses to tell of signals.
    pub(super) fn guard(&self) -> Outcome<Guard> {
        let under_way = self.under_way.clone();
        Guard::listen(move || {
            // Held to the end of the process: nothing new is started any more.
            let running = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(running) = &*running {
                end(running.group);
                // What can't be taken away stays; there is nobody to tell.
                let _ = fs::remove_dir_all(&running.home);
            }
            std::mem::forget(running);
        })
    }

    /// Helm gets a home and a process group of its own: no plugin, repository or cluster of the user's takes part, and
    /// what it starts ends with it.
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

    /// Runs it to its end; whether it succeeded.
    fn run(&self, command: &mut Command, home: &Path, printed: &[&File]) -> Result<bool, String> {
        let under_way = || self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = under_way();
        let mut child = command.spawn().map_err(|cause| format!("it can't be started: {cause}"))?;
        let group = Pid::from_child(&child);
        *running = Some(Running { group, home: home.to_owned() });
        bound(group);
        drop(running);
        let failure = watched(group, printed);
        // Its number may be another's from here on, which no signal must end.
        let mut running = under_way();
        end(group);
        let status = child.wait().map_err(|cause| cause.to_string());
        *running = None;
        failure.map_or(Ok(status?.success()), |why| Err(why.to_owned()))
    }
}

impl Render for Helm {
    fn render(&self, chart: &Chart) -> Result<String, String> {
        let told = |cause: std::io::Error| cause.to_string();
        let home = tempfile::Builder::new().prefix("saver-helm-").tempdir().map_err(told)?;
        // A copy: helm follows the symbolic links of a chart's directory, and this has none.
        let copy = home.path().join("chart");
        for (path, content) in chart.files() {
            let file = copy.join(path);
            fs::create_dir_all(file.parent().unwrap_or(&copy)).map_err(told)?;
            File::create_new(&file).and_then(|mut file| file.write_all(content)).map_err(told)?;
        }
        let (mut out, mut err) = (tempfile::tempfile().map_err(told)?, tempfile::tempfile().map_err(told)?);
        let mut command = self.command(home.path(), &copy);
        command.stdout(out.try_clone().map_err(told)?).stderr(err.try_clone().map_err(told)?);
        if self.run(&mut command, home.path(), &[&out, &err])? {
            return text(&mut out).map_err(told);
        }
        let said = text(&mut err).map_err(told)?.replace(&*copy.to_string_lossy(), chart.name());
        let line = said.lines().find(|line| line.starts_with("Error")).or(said.lines().next());
        let line = line.unwrap_or("it says nothing").trim_start_matches("Error: ");
        Err(line.chars().take(300).collect())
    }
}

/// Waits for the end of a program; why it is not to go on, where that comes first.
fn watched(program: Pid, printed: &[&File]) -> Option<&'static str> {
    let start = Instant::now();
    // Looked at only: as long as the process is not waited for, nobody else gets its number.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while rustix::process::waitid(WaitId::Pid(program), look).is_ok_and(|ended| ended.is_none()) {
        let is_large = |file: &&File| file.metadata().is_ok_and(|file| file.len() > MAX_OUTPUT);
        if printed.iter().any(is_large) {
            return Some("it prints too much");
        }
        if start.elapsed() > PATIENCE {
            return Some("it takes too long");
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// Bounds a process's memory. Where the system can't, nothing is.
fn bound(process: Pid) {
    #[cfg(target_os = "linux")]
    {
        let limit = Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
        let _ = rustix::process::prlimit(Some(process), Resource::Data, limit);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (process, MAX_MEMORY);
}

/// Ends a process and all that it started. They may be gone by now, which is as well.
fn end(group: Pid) {
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
