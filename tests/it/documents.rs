//! The documents are true: every command runs, the reference is the program's, links lead somewhere.

use super::support::charts::ChartRepository;
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::samples::Samples;
use crate::support::scratch::Scratch;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SAVER: &str = env!("CARGO_BIN_EXE_saver");
const REPORT: &str = include_str!("../../docs/reference/report.md");
const EXIT_CODES: &str = include_str!("../../docs/reference/exit-codes.md");

/// Commands that build the program or run the tests themselves.
const RUN_ELSEWHERE: &[&str] = &["scripts/test.sh", "scripts/check.sh", "cargo build --release --locked"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages: the documents at the top level and everything below `docs`.
fn pages() -> Vec<PathBuf> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    let below = walkdir::WalkDir::new(root().join("docs")).sort_by_file_name().into_iter();
    let below = below.map(|entry| entry.unwrap().into_path());
    let below = below.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    top.iter().map(|name| root().join(name)).chain(below).collect()
}

/// The lines of all `sh` blocks of a page, without comments.
fn commands(page: &Path) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in fs::read_to_string(page).unwrap().lines() {
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

/// A directory in which the commands of a page can run: a list, a build context, archives, a saved registry.
fn workplace(samples: &Samples) -> Scratch {
    let dir = Scratch::new();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("bin")).unwrap();
    std::os::unix::fs::symlink(SAVER, path("bin/saver")).unwrap();
    let list = fs::read_to_string(root().join("testdata/imageList")).unwrap();
    fs::write(path("imageList"), list.replace("localhost:5000", &samples.host())).unwrap();
    fs::create_dir_all(path("context/manifests")).unwrap();
    let pod = format!("spec:\n  containers:\n  - image: {}/demo/app:1.0\n", samples.host());
    fs::write(path("context/manifests/pod.yaml"), pod).unwrap();
    fs::write(path("password"), "secret\n").unwrap();
    fs::write(path("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let save = "saver -q --list imageList --dir registry --arch amd64 && saver -q --list imageList --dir registry --arch arm64 --missing-platform skip";
    let saved = shell(dir.path(), save).output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_every_page_runs() {
    let samples = Samples::serve().await;
    let mut charts = ChartRepository::start().await;
    let chart = charts.add("mysql", "8.0.1");
    charts.publish();
    let mut count = 0;
    for page in pages() {
        let commands = commands(&page);
        if commands.is_empty() {
            continue;
        }
        let dir = workplace(&samples);
        fs::write(dir.path().join("mysql-8.0.1.tgz"), &chart).unwrap();
        let writable = RegistryOptions { writable: true, ..RegistryOptions::default() };
        let target = Registry::start(&dir.path().join("pushed"), &writable);
        count += commands.len();
        for command in commands {
            if command.starts_with("saver serve") || command.starts_with("saver cri") {
                serves(dir.path(), &command);
                continue;
            }
            let command = command.replace("https://charts.example.com/stable", &charts.url());
            let command = command.replace("localhost:5000", &samples.host());
            let command = command.replace("registry.example:5000", &target.address);
            let command = command.replace("scripts/", &format!("{}/scripts/", root().display()));
            let output = shell(dir.path(), &command).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{}: {command}\n{stderr}", page.display());
        }
    }
    assert!(count > 40, "only {count} commands were found");
}

#[test]
fn relative_links_of_every_page_exist() {
    let mut missing = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !page.parent().unwrap().join(target).exists() {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "links to files that do not exist:\n{}", missing.join("\n"));
}

/// What `saver help` prints, at a width of 100 columns.
fn help(verb: Option<&str>) -> String {
    let mut command = Command::new(SAVER);
    let output = command.args(verb).arg("--help").env_clear().env("COLUMNS", "100").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The names below `Commands:` in the help.
fn verbs(help: &str) -> Vec<&str> {
    let commands = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help").collect()
}

#[test]
fn command_line_reference_is_the_help_of_the_program() {
    let main = help(None);
    let mut expected =
        String::from("# Command line\n\nGenerated from the program: this is what `--help` prints.\n");
    expected += &format!("\n## saver\n\n```text\n{main}\n```\n");
    for verb in verbs(&main) {
        expected += &format!("\n## saver {verb}\n\n```text\n{}\n```\n", help(Some(verb)));
    }
    let path = root().join("docs/reference/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, expected).unwrap();
        return;
    }
    let present = fs::read_to_string(path).unwrap_or_default();
    assert!(present == expected, "docs/reference/cli.md is out of date: run this test with UPDATE_DOCS=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_has_exactly_the_documented_fields() {
    let samples = Samples::serve().await;
    let dir = Scratch::new();
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
    let documented = |field: &str| {
        REPORT.contains(&format!("`{field}`"))
            || REPORT.contains(&format!("`images[].{field}`"))
            || REPORT.contains(&format!("`.{field}`"))
    };
    for (name, value) in report.as_object().unwrap() {
        assert!(documented(name) || name == "images" || name == "schema", "{name} is not documented");
        for image in value.as_array().into_iter().flatten() {
            for field in image.as_object().unwrap().keys() {
                assert!(documented(field), "images[].{field} is not documented");
            }
        }
    }
}

#[test]
fn exit_codes_and_kinds_are_all_documented() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/reference/schemas/report.json")).unwrap();
    let kinds = schema["$defs"]["ErrorKind"]["oneOf"].as_array().unwrap();
    assert!(kinds.len() > 10);
    for kind in kinds {
        let kind = kind["const"].as_str().unwrap();
        assert!(REPORT.contains(&format!("| `{kind}` |")), "{kind}");
    }
    for code in ["| 0 |", "| 1 |", "| 2 |", "| 3 |", "| 130 |"] {
        assert!(EXIT_CODES.contains(code), "{code}");
    }
}
