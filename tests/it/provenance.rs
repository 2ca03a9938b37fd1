//! Where images come from: recorded with each tag, kept to by later runs, and the name that they are exported under.

use super::support::fleet::Fleet;
use super::support::handmade::Tree;
use super::support::peers::registry::Registry;
use super::support::program::{Home, Victim, run};
use super::support::samples::Samples;
use crate::support::scratch::Scratch;
use saver::store::Store;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Registries that have different images under one name.
struct Rivals {
    _trees: [Tree; 2],
    registries: [Registry; 2],
}

impl Rivals {
    fn serve() -> Self {
        let tree = |content: &[u8]| {
            let tree = Tree::new();
            let image = tree.image("team/app", "linux/amd64", &[content]);
            tree.tag("team/app", "1.0", &image.digest);
            tree
        };
        let trees = [tree(b"first"), tree(b"second")];
        let registries = [0, 1].map(|number: usize| Registry::serve(trees[number].dir()));
        Self { _trees: trees, registries }
    }

    fn image(&self, number: usize) -> String {
        format!("{}/team/app:1.0", self.registries[number].address)
    }
}

fn sources(dir: &Path) -> BTreeSet<(String, String)> {
    let records = Store::open_read_only(dir).unwrap().provenance().unwrap();
    let record = |record: &saver::store::provenance::SourceRecord| {
        let tag = record.tag.as_ref().map_or("-".to_owned(), ToString::to_string);
        (format!("{}:{tag}", record.repository), record.source.to_string())
    };
    records.records().map(record).collect()
}

#[test]
fn inspect_prints_the_original_name() {
    let rivals = Rivals::serve();
    let (home, dir) = (Home::new(), Scratch::new());
    let image = rivals.image(0);
    home.save(dir.path(), "amd64", std::slice::from_ref(&image), &[], 0);
    let inspect =
        |name: &str, code: i32| run(home.saver(["inspect", name, "--dir"]).arg(dir.path())).expect(code);
    assert!(inspect("team/app:1.0", 0).stdout.starts_with(&format!("Name        {image}\n")));
    let missing = inspect("team/app:9", 1).stderr;
    assert!(missing.starts_with("error: team/app:9: no such image in the directory\n"), "{missing}");
}

#[test]
fn image_of_another_registry_replaces_a_tag_only_on_request() {
    let rivals = Rivals::serve();
    let (home, dir) = (Home::new(), Scratch::new());
    let (one, two) = (rivals.image(0), rivals.image(1));
    home.save(dir.path(), "amd64", std::slice::from_ref(&one), &[], 0);
    let (ran, report) = home.save(dir.path(), "amd64", std::slice::from_ref(&two), &[], 1);
    assert!(
        ran.stderr.contains(&format!("team/app:1.0 in the directory comes from {one}")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--replace"), "{}", ran.stderr);
    let detail = &report["images"][0]["error"]["detail"];
    assert_eq!(
        (&detail["type"], &detail["recorded"]),
        (&"source-conflict".into(), &Value::from(one.clone()))
    );
    // A dry run says so too.
    let mut command = home.saving(dir.path(), "amd64", std::slice::from_ref(&two));
    assert!(run(command.arg("--dry-run")).expect(1).stderr.contains("comes from"));
    let (_, report) = home.save(dir.path(), "amd64", std::slice::from_ref(&two), &["--replace"], 0);
    assert!(report["images"][0]["replaced"].is_string(), "{report}");
    let recorded = sources(dir.path());
    assert!(recorded.contains(&("team/app:1.0".into(), two)), "{recorded:?}");
}

#[test]
fn rule_of_names_is_remembered() {
    let rivals = Rivals::serve();
    let (home, dir) = (Home::new(), Scratch::new());
    let one = rivals.image(0);
    home.save(dir.path(), "amd64", std::slice::from_ref(&one), &["--names", "domain"], 0);
    let (_, report) = home.save(dir.path(), "amd64", std::slice::from_ref(&one), &[], 0);
    assert_eq!(report["images"][0]["status"], "unchanged");
    let mut command = home.saving(dir.path(), "amd64", std::slice::from_ref(&one));
    let ran = run(command.args(["--names", "strip"])).expect(2);
    assert!(ran.stderr.contains("the directory was saved with --names domain"), "{}", ran.stderr);
    let digest = |more: &[&str]| run(home.saver(["digest", "--dir"]).arg(dir.path()).arg(&one).args(more));
    digest(&[]).expect(0);
    digest(&["--names", "strip"]).expect(2);
    // Without an image there is nothing that another rule would hide.
    run(home.saver(["rm", "--dir"]).arg(dir.path()).arg(&one)).expect(0);
    assert_eq!(sources(dir.path()).len(), 0);
    home.save(dir.path(), "amd64", std::slice::from_ref(&one), &["--names", "strip"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_uses_the_name_that_an_image_was_saved_from() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let one = format!("{}/demo/app:1.0", samples.host());
    home.save(dir.path(), "amd64", std::slice::from_ref(&one), &[], 0);
    for (number, name) in ["demo/app:1.0", &one].into_iter().enumerate() {
        let archive = home.path(&format!("{number}.tar"));
        let mut command = home.saver(["export", "--format", "docker-archive", "--output"]);
        run(command.arg(&archive).arg("--dir").arg(dir.path()).arg(name)).expect(0);
        let mut tar = std::process::Command::new("tar");
        let listed = run(tar.arg("-xOf").arg(&archive).arg("manifest.json")).expect(0);
        let manifest: Value = serde_json::from_str(&listed.stdout).unwrap();
        assert_eq!(manifest[0]["RepoTags"], serde_json::json!([one]));
    }
    // An image of another registry is not meant.
    let mut command = home.saver(["export", "--format", "docker-archive", "--output", "no.tar", "--dir"]);
    let ran = run(command.arg(dir.path()).arg("quay.io/demo/app:1.0")).expect(1);
    assert!(ran.stderr.contains(&format!("comes from {one}")), "{}", ran.stderr);
}

#[test]
fn import_records_the_names_of_an_archive() {
    let rivals = Rivals::serve();
    let (home, dir, other) = (Home::new(), Scratch::new(), Scratch::new());
    let one = rivals.image(0);
    home.save(dir.path(), "amd64", std::slice::from_ref(&one), &[], 0);
    let mut command = home.saver(["export", "--format", "oci-archive", "--output", "a.tar", "--dir"]);
    run(command.arg(dir.path()).arg("team/app:1.0")).expect(0);
    let import = |more: &[&str]| run(home.saver(["import", "a.tar", "--dir"]).arg(other.path()).args(more));
    import(&[]).expect(0);
    assert_eq!(sources(other.path()), [("team/app:1.0".to_owned(), one)].into());
    home.save(other.path(), "amd64", &[rivals.image(1)], &["--replace"], 0);
    assert!(import(&[]).expect(1).stderr.contains("comes from"));
    import(&["--replace"]).expect(0);
}

#[test]
fn savers_at_once_record_every_image() {
    let fleet = Fleet::make(8);
    let source = Registry::serve(fleet.tree.dir());
    let images = fleet.references(&source.address);
    let (home, dir) = (Home::new(), Scratch::new());
    let lists = [&images[..5], &images[3..], &images[..]];
    let savers: Vec<Victim> =
        lists.iter().map(|list| Victim::start(&mut home.saving(dir.path(), "amd64", list))).collect();
    for saver in savers {
        saver.finish().expect(0);
    }
    let recorded: BTreeSet<String> = sources(dir.path()).into_iter().map(|(_, source)| source).collect();
    assert_eq!(recorded, images.iter().cloned().collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_records_leave_the_names_of_the_tree() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let image = format!("{}/demo/app:1.0", samples.host());
    home.save(dir.path(), "amd64", std::slice::from_ref(&image), &[], 0);
    std::fs::write(dir.path().join(".saver/sources/0.jsonl"), b"\0\0\0{\"v\":1").unwrap();
    run(home.saver(["ls"]).arg(dir.path())).expect(0);
    run(home.saver(["digest", "demo/app:1.0", "--dir"]).arg(dir.path())).expect(0);
    // The next run records what it finds to be the same.
    let (_, report) = home.save(dir.path(), "amd64", std::slice::from_ref(&image), &[], 0);
    assert_eq!(report["images"][0]["status"], "unchanged");
    assert_eq!(sources(dir.path()), [("demo/app:1.0".to_owned(), image)].into());
}
