//! What pipelines read: metrics, the job summary, workflow commands; and the recipes in examples/ci, which are run as they are.

use super::support::program::{Home, run};
use super::support::samples::Samples;
use crate::support::scratch::Scratch;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SAVER: &str = env!("CARGO_BIN_EXE_saver");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_summary_and_annotations_tell_the_result() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let at = |name: &str| home.path(name);
    let image = |name: &str| format!("{}/demo/{name}", samples.host());
    fs::write(at("summary.md"), "an earlier step\n").unwrap();
    let mut command = home.saver(["save", "--arch", "amd64", "--log-format", "github", "--dir"]);
    command.arg(dir.path()).args([image("app:1.0"), image("app:gone")]);
    command.arg("--summary").arg(at("summary.md")).arg("--metrics-file").arg(at("saver.prom"));
    let ran = run(&mut command).expect(1);
    let summary = fs::read_to_string(at("summary.md")).unwrap();
    assert!(summary.starts_with("an earlier step\n### saver save\n\n1 image saved, 1 failed, "), "{summary}");
    assert!(summary.contains("| Failed | Reason |") && summary.contains("| Saved | Digest |"), "{summary}");
    let metrics = fs::read_to_string(at("saver.prom")).unwrap();
    for line in [
        "saver_images{verb=\"save\",result=\"saved\"} 1\n",
        "saver_images{verb=\"save\",result=\"failed\"} 1\n",
        "saver_success{verb=\"save\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let annotation = format!("::error title=saver::{}: ", image("app:gone"));
    let annotations: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("::error ")).collect();
    assert!(matches!(annotations[..], [one] if one.starts_with(&annotation)), "{}", ran.stderr);
    assert!(!ran.stderr.contains("failed: "), "{}", ran.stderr);
    // An error that ends the command, and its hint, is one annotation.
    let ran = run(&mut home.saver(["save", "--log-format", "github", "a.example/b:1"])).expect(2);
    let line = ran.stderr.trim_end();
    assert!(line.starts_with("::error title=saver::") && line.lines().count() == 1, "{line}");
}

/// A place where the recipes find saver on PATH and a list, `images.txt`, of images that exist or one that does not.
struct Workplace {
    dir: Scratch,
}

impl Workplace {
    fn new(samples: &Samples, images: &[&str]) -> Self {
        let dir = Scratch::new();
        fs::create_dir(dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(SAVER, dir.path().join("bin/saver")).unwrap();
        let list: String = images.iter().map(|image| format!("{}/demo/{image}\n", samples.host())).collect();
        fs::write(dir.path().join("images.txt"), list).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn shell(&self, script: &str, environment: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-eo", "pipefail", "-c", script]).current_dir(self.path());
        shell.env_clear().env("PATH", path).env("HOME", self.path()).envs(environment.iter().copied());
        shell.output().unwrap()
    }
}

fn recipe(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci").join(name)).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn github_action_saves_and_annotates() {
    let samples = Samples::serve().await;
    let action = yaml(&recipe("github/action.yml"));
    let steps = action["runs"]["steps"].as_array().unwrap();
    let script = |id: &str| {
        let step = steps.iter().find(|step| step["id"] == id).unwrap();
        step["run"].as_str().unwrap().to_owned()
    };
    // Inputs reach a script only through its environment: whoever writes a workflow cannot inject commands by them.
    assert!(!script("save").contains("${{") && !script("install").contains("${{"));
    for (images, code) in [(&["app:1.0"][..], 0), (&["app:1.0", "app:gone"], 1)] {
        let place = Workplace::new(&samples, images);
        let at = |name: &str| place.path().join(name).display().to_string();
        let (temp, summary, outputs) = (at(""), at("summary.md"), at("outputs"));
        let environment = [
            ("LIST", "images.txt"),
            ("DIR", "registry"),
            ("ARCH", "amd64"),
            ("ARGS", "--retries 1"),
            ("RUNNER_TEMP", temp.trim_end_matches('/')),
            ("GITHUB_STEP_SUMMARY", &summary),
            ("GITHUB_OUTPUT", &outputs),
            ("GITHUB_PATH", &outputs),
        ];
        assert!(place.shell(&script("install"), &environment).status.success(), "a saver on PATH is used");
        let output = place.shell(&script("save"), &environment);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.contains("::error title=saver::"), code == 1, "{stderr}");
        assert!(fs::read_to_string(&summary).unwrap().starts_with("### saver save\n"));
        let report = fs::read_to_string(&outputs).unwrap();
        let report = report.trim().strip_prefix("report=").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(report).unwrap()).unwrap()["schema"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gitlab_and_jenkins_recipes_save() {
    let samples = Samples::serve().await;
    let job = yaml(&recipe("gitlab-ci.yml"))["save-images"].clone();
    let gitlab: Vec<&str> =
        job["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(job["allow_failure"]["exit_codes"], serde_json::json!([1]));
    let jenkinsfile = recipe("Jenkinsfile");
    let jenkins = jenkinsfile.split("'''").nth(1).unwrap();
    for (name, script) in [("GitLab", gitlab.join("\n")), ("Jenkins", jenkins.to_owned())] {
        for (images, code) in [(&["app:1.0"][..], 0), (&["app:1.0", "app:gone"], 1)] {
            let place = Workplace::new(&samples, images);
            let environment = [("SAVER_ARCH", "amd64"), ("REGISTRY_DIR", "registry")];
            let output = place.shell(&script, &environment);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
            assert!(
                place.path().join("registry/docker/registry/v2/repositories/demo/app").is_dir(),
                "{name}"
            );
            for file in ["report.json", "failed.txt"] {
                assert!(place.path().join(file).is_file(), "{name}: {file}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_service_saves() {
    let samples = Samples::serve().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(root.join("examples/systemd/saver.service")).unwrap();
    let unit = unit.replace("\\\n", " ");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    for (images, code) in [(&["app:1.0"][..], 0), (&["app:1.0", "app:gone"], 1)] {
        let place = Workplace::new(&samples, images);
        let here = place.path().display().to_string();
        let command = command
            .replace("/usr/bin/saver", "saver")
            .replace("/etc/saver", &here)
            .replace("/var/lib/registry", "registry")
            .replace("/var/log/saver", &here);
        let output = place.shell(&command, &[("SAVER_ARCH", "amd64")]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        for file in ["report.json", "failed.txt", "saver.prom"] {
            assert!(place.path().join(file).is_file(), "{file}");
        }
    }
}
