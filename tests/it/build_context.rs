//! Building a context's registry: what its manifests and charts name is saved into it.

use super::scan::context;
use super::support::peers::registry::Registry;
use super::support::peers::samples;
use super::support::program::{Home, Ran, run};
use super::support::samples::Samples;
use std::path::Path;

/// Everything in the sample context that is not in the sample registry, and its doubtful finds.
pub(crate) const IGNORED: &str =
    "quay.io/*\nbusybox\n$(IMAGE)\nBad:1\n*.Registry*\n*shop.image*\nregistry.example.com/charts/*\n";

fn build(home: &Home, more: &[&str], code: i32) -> Ran {
    home.write("ignore", IGNORED);
    let mut command = home.saver(["build-context", "context", "--arch", "amd64", "--ignore", "ignore"]);
    run(command.args(["--progress", "none", "--retries", "0"]).args(more)).expect(code)
}

fn tags(home: &Home, dir: &Path) -> Vec<String> {
    let ran = run(home.saver(["ls", "--json", "--dir"]).arg(dir)).expect(0);
    let listing: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut tags = Vec::new();
    for repository in listing["repositories"].as_array().unwrap() {
        for tag in repository["tags"].as_array().unwrap() {
            tags.push(format!(
                "{}:{}",
                repository["repository"].as_str().unwrap(),
                tag["tag"].as_str().unwrap()
            ));
        }
    }
    tags
}

const SAVED: &[&str] = &["demo/app:1.0", "demo/tool:2.1", "helm-charts/mysql:8.8.19", "library/hello:1.0"];

#[test]
fn images_of_a_context_are_saved_into_its_registry() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let path = context(&home, &registry.address);
    let ran = build(&home, &["--report", "report.json"], 0);
    let dir = path.join("registry");
    assert_eq!(tags(&home, &dir), SAVED, "{}", ran.stderr);
    run(home.saver(["verify", "--deep", "--dir"]).arg(&dir)).expect(0);
    assert!(ran.stderr.contains("broken.yaml:8: invalid YAML"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("quay.io/"), "{}", ran.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["images"].as_array().unwrap().len(), SAVED.len());
    // With -q only failures are printed, and a missing option is reported before anything else.
    let quiet = build(&home, &["-q"], 0);
    assert!(quiet.stderr.is_empty() && quiet.stdout.is_empty(), "{quiet:?}");
    let missing = run(&mut home.saver(["build-context", "context", "--ignore", "ignore"])).expect(2);
    assert!(missing.stderr.contains("--arch") && !missing.stderr.contains("warning:"), "{}", missing.stderr);
    // A second run has nothing to do: the files of the registry are not scanned.
    let again = build(&home, &[], 0);
    assert!(again.stdout.contains("unchanged"), "{}", again.stdout);
    // The list that scan prints names the same images.
    let list = run(&mut home.saver(["scan", "context", "--ignore", "ignore", "-q"])).expect(0).stdout;
    let images: Vec<String> = saver::list::parse("l", list.as_bytes())
        .entries
        .iter()
        .map(|entry| format!("{}:{}", entry.reference.repository, entry.reference.tag.as_ref().unwrap()))
        .collect();
    assert_eq!(images, SAVED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_save_apply() {
    let samples = Samples::serve().await;
    let home = Home::new();
    let path = context(&home, &samples.host());
    let ran = build(&home, &["--dry-run"], 0);
    assert!(ran.stdout.contains("demo/app:1.0") && !path.join("registry").exists(), "{}", ran.stdout);
    // Lists may stand beside the manifests, as older contexts have them.
    home.write(
        "context/imageListWithAuth.yaml",
        &format!("- registry: {}\n  images: [\"demo/app:1.1\"]\n", samples.host()),
    );
    build(&home, &["--registry-dir", "out/here", "--names", "mirror/{repository}"], 0);
    assert_eq!(tags(&home, &path.join("out/here"))[..2], ["mirror/demo/app:1.0", "mirror/demo/app:1.1"]);
    // An image that is not there: the others are saved, and the failed list has the reason.
    home.write("context/manifests/imageList", &format!("{}/demo/gone:1\n", samples.host()));
    let ran = build(&home, &["--failed-list", "failed"], 1);
    assert!(ran.stderr.contains("demo/gone:1"), "{}", ran.stderr);
    assert!(std::fs::read_to_string(home.path("failed")).unwrap().contains("demo/gone:1  # "));
    assert_eq!(
        tags(&home, &path.join("registry")).len(),
        SAVED.len(),
        "demo/app:1.1 in the place of demo/tool:2.1"
    );
}

#[test]
fn invalid_contexts_are_refused_before_fetching() {
    let home = Home::new();
    let path = context(&home, "localhost:1");
    home.write("context/manifests/imageList", "Bad\ngood:1\nworse:\n");
    let ran = build(&home, &[], 2);
    assert!(ran.stderr.contains("imageList:1: ") && ran.stderr.contains("imageList:3: "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("2 problems in the list of images; nothing was done")
            && !path.join("registry").exists()
    );
    home.write("context/manifests/imageList", "good:1\n");
    home.write("elsewhere/x", "");
    for (link, dir) in [("registry", "registry"), ("out", "out/below")] {
        std::os::unix::fs::symlink(home.path("elsewhere"), path.join(link)).unwrap();
        let ran = build(&home, &["--registry-dir", dir], 2);
        assert!(ran.stderr.contains("symbolic link") && ran.stderr.contains("absolute"), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read_dir(home.path("elsewhere")).unwrap().count(), 1);
    home.write("empty/x", "");
    let ran = run(&mut home.saver(["build-context", "empty", "--arch", "amd64"])).expect(2);
    assert!(ran.stderr.contains("no build context"), "{}", ran.stderr);
    let ran = run(&mut home.saver(["build-context", "nowhere", "--arch", "amd64"])).expect(2);
    assert!(ran.stderr.contains("nowhere: cannot be read: No such file"), "{}", ran.stderr);
    home.write("none/manifests/a.yaml", "a: 1\n");
    let ran = run(&mut home.saver(["build-context", "none", "--arch", "amd64"])).expect(0);
    assert!(ran.stderr.contains("no images"), "{}", ran.stderr);
}

#[test]
fn doubtful_finds_are_not_saved_and_fail_the_run() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let path = context(&home, &registry.address);
    home.write("context/manifests/doubtful.yaml", "apiVersion: v1\nkind: Pod\nimage: a.io/untagged\n");
    let ran = build(&home, &[], 1);
    let message = "doubtful.yaml:3: not saved: a.io/untagged (neither a tag nor a digest is written)";
    assert!(ran.stderr.contains(message) && ran.stderr.contains("imageListIgnore"), "{}", ran.stderr);
    assert_eq!(tags(&home, &path.join("registry")), SAVED, "{}", ran.stderr);
    home.write("context/manifests/imageListIgnore", "a.io/untagged\nregistry.k8s.io/pause\n*/ignored/*\n");
    build(&home, &[], 0);
}
