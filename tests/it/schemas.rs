//! Everything that saver writes as JSON matches the published JSON Schemas in docs/reference/schemas.

use super::support::handmade::Tree;
use super::support::program::Home;
use super::support::samples::Samples;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn schema_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/reference/schemas/{name}.json"))
}

/// Also rejects fields that the schema does not list, although the published schema allows later versions to add some.
fn without_unknown_fields(schema: &mut Value) {
    if let Value::Object(object) = schema {
        let combined =
            ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|keyword| object.contains_key(*keyword));
        if object.contains_key("properties") && !combined && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".into(), json!(false));
        }
        // What several of these form together is checked by the schema that combines them.
        let parts =
            object.iter_mut().filter(|(keyword, _)| !matches!(keyword.as_str(), "allOf" | "anyOf" | "oneOf"));
        for (_, part) in parts {
            without_unknown_fields(part);
        }
    } else if let Value::Array(parts) = schema {
        parts.iter_mut().for_each(without_unknown_fields);
    }
}

/// Asserts that `text` is JSON that matches the schema `name`.
fn assert_valid(name: &str, text: &str) {
    let instance: Value = serde_json::from_str(text).unwrap();
    let file = std::fs::read(schema_file(name)).unwrap();
    let mut schema: Value = serde_json::from_slice(&file).unwrap();
    without_unknown_fields(&mut schema);
    let url = format!("file:///{name}.json");
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource(&url, schema).unwrap();
    let compiled = compiler.compile(&url, &mut schemas).unwrap();
    if let Err(error) = schemas.validate(&instance, compiled) {
        panic!("does not match {name}.json:\n{text}\n{error:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_and_events_match_their_schemas() {
    let samples = Samples::serve().await;
    let home = Home::new();
    let image = |name: &str| format!("{}/{name}", samples.host());
    let images = [image("demo/app:1.0"), image("demo/single:1.0"), image("demo/app:gone")];
    let report = home.path("report.json");
    let run = |arch: &str, dry_run: bool| {
        let mut command = home.saver(["--progress", "json", "--arch", arch, "--dir", "tree", "--report"]);
        command.arg(&report).args(&images);
        if dry_run {
            command.arg("--dry-run");
        }
        let output = command.output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(lines.lines().count() > 2, "{lines}{}", String::from_utf8_lossy(&output.stderr));
        lines.lines().for_each(|line| assert_valid("event", line));
        std::fs::read_to_string(&report).unwrap()
    };
    assert_valid("dry-run", &run("amd64", true));
    for arch in ["amd64", "amd64", "s390x"] {
        let text = run(arch, false);
        assert_valid("report", &text);
        let read: saver::Report = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolved_lists_match_their_schemas() {
    let samples = Samples::serve().await;
    let home = Home::new();
    let image = format!("{}/demo/app:1.0", samples.host());
    let output = home.saver(["resolve", "--json", "--arch", "amd64", &image]).output().unwrap();
    assert_valid("lock", &String::from_utf8(output.stdout).unwrap());
    let rule = format!("{}/demo/app:* newest=1", samples.host());
    let output = home.saver(["select", "--json", &rule]).output().unwrap();
    assert_valid("select", &String::from_utf8(output.stdout).unwrap());
}

#[test]
fn output_of_local_commands_matches_the_schemas() {
    let home = Home::new();
    let tree = Tree::new();
    let index = tree.image("team/app", "linux/amd64", &[b"one"]);
    tree.tag("team/app", "1", &index.digest);
    tree.tag("team/app", "2", &index.digest);
    let dir = tree.dir().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = home.saver(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_valid("ls", &run(&["ls", "--dir", dir, "--json"]));
    assert_valid("inspect", &run(&["inspect", "--dir", dir, "--json", "team/app:1"]));
    assert_valid("tags", &run(&["tags", "--dir", dir, "--json", "team/app"]));
    assert_valid("digest", &run(&["digest", "--dir", dir, "--json", "team/app:1"]));
    assert_valid("verify", &run(&["verify", "--dir", dir, "--json"]));
    assert_valid("prune", &run(&["gc", "--dir", dir, "--json"]));
    assert_valid("diff", &run(&["diff", "--json", dir, dir]));
    assert_valid("bundle-report", &run(&["bundle", "--dir", dir, "-o", "gap", "--json"]));
    assert_valid("bundle", &std::fs::read_to_string(home.path("gap/bundle.json")).unwrap());
    assert_valid("bundle-verify", &run(&["bundle-verify", "gap", "--json"]));
    assert_valid("unbundle", &run(&["unbundle", "gap", "--dir", "far", "--json"]));
    run(&["bundle", "--dir", dir, "--since", "gap", "-o", "nothing"]);
    let unbundle = ["unbundle", "nothing", "--dir", "empty", "--json", "--missing", "missing.json"];
    let output = home.saver(unbundle).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_valid("unbundle", &String::from_utf8(output.stdout).unwrap());
    assert_valid("missing", &std::fs::read_to_string(home.path("missing.json")).unwrap());
    let list = home.write("images", "quay.io/team/app:1\n");
    let listed = ["verify", "--dir", dir, "--json", "--arch", "amd64", "--list", list.to_str().unwrap()];
    assert_valid("verify", &run(&listed));
    assert_valid("prune", &run(&["rm", "--dir", dir, "--json", "team/app:2"]));
    std::fs::write(tree.dir().join("docker/registry/v2/repositories/team/app/_layers/stray"), "x").unwrap();
    assert_valid("repair", &run(&["verify", "--dir", dir, "--repair", "--json"]));
    let chart =
        home.write("pod.yaml", "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: nginx:1\n");
    assert_valid("scan", &run(&["scan", "--json", chart.to_str().unwrap()]));
}

/// Generates the files with `UPDATE_DOCS=1`.
#[cfg(feature = "schema")]
#[test]
fn schema_files_are_up_to_date() {
    for (name, schema) in saver::cli::schemas::all() {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        let path = schema_file(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            continue;
        }
        let present = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(present == text, "{} is out of date: run this test with UPDATE_DOCS=1", path.display());
    }
}
