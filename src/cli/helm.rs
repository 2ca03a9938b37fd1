//! `helm template`, run for a scan: no shell, a copy of the chart, nothing of the user's, and not for long.

use super::config::Environment;
use crate::scan::{Chart, Render};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one chart may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that it may print on stdout, and on stderr, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(10);

/// The program.
#[derive(Debug)]
pub(super) struct Helm {
    program: PathBuf,
    path: String,
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
        Some(Self { program, path: path.to_owned() })
    }

    /// Helm gets a home of its own: no plugin, repository or cluster of the user's takes part.
    fn command(&self, home: &Path, chart: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["template", "saver"]).arg(chart).arg("--include-crds");
        command.env_clear().env("PATH", &self.path).env("HOME", home).current_dir(home);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, home.join("helm"));
        }
        command.stdin(Stdio::null());
        command
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
        let child = command.spawn().map_err(|cause| format!("it can't be started: {cause}"))?;
        if waited(child, &[&out, &err])? {
            return text(&mut out).map_err(told);
        }
        let said = text(&mut err).map_err(told)?.replace(&*copy.to_string_lossy(), chart.name());
        let line = said.lines().find(|line| line.starts_with("Error")).or(said.lines().next());
        let line = line.unwrap_or("it says nothing").trim_start_matches("Error: ");
        Err(line.chars().take(300).collect())
    }
}

/// Waits for the end of the program; whether it succeeded.
fn waited(mut child: Child, printed: &[&File]) -> Result<bool, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) => {}
            Err(cause) => return Err(cause.to_string()),
        }
        let is_large = |file: &&File| file.metadata().is_ok_and(|file| file.len() > MAX_OUTPUT);
        let large = printed.iter().any(is_large);
        if large || start.elapsed() > PATIENCE {
            // It may be gone by now, which is as well.
            let _ = child.kill();
            let _ = child.wait();
            return Err(if large { "it prints too much".into() } else { "it takes too long".into() });
        }
        std::thread::sleep(PAUSE);
    }
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
