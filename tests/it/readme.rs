//! The README is true: its commands run, its help is the program's, its exit codes and fields are all there are.

use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::samples::Samples;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../../README.md");
const SAVER: &str = env!("CARGO_BIN_EXE_saver");

/// Commands that the tests cannot run from within themselves: they are what runs the tests.
const RUN_ELSEWHERE: &[&str] = &["scripts/test.sh", "cargo build --release --locked"];

/// The lines of all `sh` blocks, comments cut off.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in README.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => commands.push(line.split(" #").next().unwrap().trim().to_owned()),
            _ => {}
        }
    }
    commands.retain(|command| !RUN_ELSEWHERE.contains(&command.as_str()));
    commands
}

fn shell(dir: &Path, command: &str) -> Command {
    let mut shell = Command::new("bash");
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    shell.args(["-euo", "pipefail", "-c", command]).current_dir(dir);
    shell.env_clear().env("PATH", path).env("HOME", dir).env("SAVER", SAVER);
    shell
}

/// Runs a command that serves until it is ended.
fn serves(dir: &Path, command: &str) {
    let own = format!("unix://{}/", dir.display());
    let command = command.replace("127.0.0.1:5000", "127.0.0.1:0").replace("unix:///run/", &own);
    let command = format!("exec {command}");
    let mut child = shell(dir, &command).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let listens = ["listening on http://127.0.0.1:", &format!("listening on {own}")];
    assert!(listens.iter().any(|start| line.starts_with(start)), "{command}: {line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_runs() {
    let samples = Samples::serve().await;
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(SAVER, dir.path().join("bin/saver")).unwrap();
    let list = std::fs::read_to_string(root.join("testdata/imageList")).unwrap();
    std::fs::write(dir.path().join("imageList"), list.replace("localhost:5000", &samples.host())).unwrap();
    std::fs::create_dir_all(dir.path().join("context/manifests")).unwrap();
    let pod = format!("spec:\n  containers:\n  - image: {}/demo/app:1.0\n", samples.host());
    std::fs::write(dir.path().join("context/manifests/pod.yaml"), pod).unwrap();
    std::fs::write(dir.path().join("password"), "secret\n").unwrap();
    let pushed = dir.path().join("pushed");
    let takes = Registry::start(&pushed, &RegistryOptions { writable: true, ..RegistryOptions::default() });
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands {
        if command.starts_with("saver serve") || command.starts_with("saver cri") {
            serves(dir.path(), &command);
            continue;
        }
        let command = command.replace("localhost:5000", &samples.host());
        let command = command.replace("registry.example:5000", &takes.address);
        let command = command.replace("scripts/", &format!("{}/scripts/", root.display()));
        let output = shell(dir.path(), &command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command}\n{said}");
    }
}

#[test]
fn the_help_is_the_program_s() {
    let output = Command::new(SAVER).arg("--help").env("COLUMNS", "100").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let between = README.split_once("<!-- help -->\n").unwrap().1.split_once("<!-- /help -->").unwrap().0;
    let shown = format!(
        "```text\n{}\n```\n",
        help.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    );
    if std::env::var_os("UPDATE_README").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        std::fs::write(
            path,
            README.replacen(&format!("<!-- help -->\n{between}"), &format!("<!-- help -->\n{shown}"), 1),
        )
        .unwrap();
    } else {
        assert_eq!(between, shown, "run this test with UPDATE_README=1 to bring the README up to date");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_has_the_fields_that_are_told_and_no_other() {
    let samples = Samples::serve().await;
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let images = ["demo/app:1.0", "demo/app:gone"].map(|name| format!("{}/{name}", samples.host()));
    let status = Command::new(SAVER)
        .args([
            "--dir",
            dir.path().join("tree").to_str().unwrap(),
            "--arch",
            "amd64",
            "--index",
            "prune",
            "--report",
        ])
        .arg(&report)
        .args(&images)
        .env("HOME", dir.path())
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    let table = README.split_once("## The report").unwrap().1.split_once("## The library").unwrap().0;
    let told = |field: &str| {
        table.contains(&format!("`{field}`"))
            || table.contains(&format!("`images[].{field}`"))
            || table.contains(&format!("`.{field}`"))
    };
    for (name, value) in report.as_object().unwrap() {
        assert!(told(name) || name == "images" || name == "schema", "{name} is not in the README");
        for image in value.as_array().into_iter().flatten() {
            for field in image.as_object().unwrap().keys() {
                assert!(told(field), "images[].{field} is not in the README");
            }
        }
    }
}

#[test]
fn exit_codes_and_kinds_are_all_told() {
    for kind in [
        "invalid-input",
        "not-found",
        "unauthorized",
        "rate-limited",
        "unavailable",
        "corrupt",
        "too-large",
        "unsupported",
        "storage",
        "cancelled",
    ] {
        assert!(README.contains(&format!("`{kind}`")), "{kind}");
    }
    for code in ["| 0 |", "| 1 |", "| 2 |", "| 3 |", "| 130 |"] {
        assert!(README.contains(code), "{code}");
    }
}
