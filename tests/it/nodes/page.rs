//! The page for people, served and as a file, in headless Chromium.

use super::upstreams::tree;
use crate::support::handmade::Tree;
use crate::support::peers::succeed;
use crate::support::program::{Home, run};
use crate::support::serving::Serving;
use serde_json::{Value, json};
use std::path::Path;

/// The document of a page after its scripts have run.
fn dom(home: &Home, url: &str) -> String {
    let profile = format!("--user-data-dir={}", home.path("profile").display());
    let options =
        ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"];
    succeed("chromium", options.iter().copied().chain([profile.as_str(), url]))
}

/// What the page shows of `fact`.
fn fact(dom: &str, name: &str) -> String {
    let end = dom.find(&format!("</b><span class=\"soft\">{name}</span>"));
    let end = end.unwrap_or_else(|| panic!("no {name} in {dom}"));
    dom[..end].rsplit_once("<b>").unwrap().1.to_owned()
}

fn report(home: &Home, dir: &Path, more: &[&str]) -> String {
    let file = home.path("page.html");
    let mut command = home.saver(["report", "--html"]);
    run(command.arg(dir).arg("--output").arg(&file).args(more)).expect(0);
    format!("file://{}", file.display())
}

#[test]
fn browser_gets_the_page_and_clients_their_answer() {
    let serving = Serving::start(tree("domain").path());
    let page = serving.get_with("/", &[("Accept", "text/html,*/*;q=0.8")]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for accept in [&[][..], &[("Accept", "*/*")], &[("Accept", "application/json")]] {
        let reply = serving.get_with("/", accept);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        assert_eq!(reply.body, b"", "{accept:?}");
    }
    let base = serving.get_with("/v2/", &[("Accept", "text/html")]);
    assert_eq!((base.status, base.body.as_slice()), (200, &b"{}"[..]));
}

#[test]
fn data_of_the_page_comes_in_bounded_parts() {
    let dir = tree("domain");
    let serving = Serving::start(dir.path());
    let all = serving.get("/_saver/images").json();
    let all: Vec<Value> = all["images"].as_array().unwrap().clone();
    let mut parts = Vec::new();
    let mut path = "/_saver/images?n=3".to_owned();
    loop {
        let part = serving.get(&path).json();
        let images = part["images"].as_array().unwrap();
        assert!(images.len() <= 3);
        parts.extend(images.iter().cloned());
        let Some(next) = part["next"].as_str() else { break };
        path = format!("/_saver/images?n=3&last={next}");
    }
    assert_eq!(parts, all);
    let app = all.iter().find(|image| image["repository"] == "quay.example/demo/app").unwrap();
    let sum: u64 = app["blobs"].as_array().unwrap().iter().map(|blob| blob[1].as_u64().unwrap()).sum();
    assert_eq!(app["bytes"], sum);
    for bad in ["n=0", "n=x", "n=-1"] {
        assert_eq!(serving.get(&format!("/_saver/images?{bad}")).status, 400, "{bad}");
    }
}

#[test]
fn page_ls_and_diff_count_the_same_images() {
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let sbom = tree.artifact("team/app", "application/spdx+json", &image);
    let fallback = tree.index("team/app", &[sbom]);
    let hex = image.digest.to_string().replace(':', "-");
    tree.tag("team/app", &hex, &fallback.digest);
    let untagged = tree.image("team/app", "linux/amd64", &[b"saved by digest"]);
    let alone = tree.image("team/only", "linux/amd64", &[b"alone"]);
    let expected = [
        "team/app:1".to_owned(),
        format!("team/app@{}", untagged.digest),
        format!("team/only@{}", alone.digest),
    ];
    let serving = Serving::start(tree.dir());
    let mut listed = Vec::new();
    let mut path = "/_saver/images?n=1".to_owned();
    loop {
        let part = serving.get(&path).json();
        listed.extend(part["images"].as_array().unwrap().iter().map(|image| match image["tag"].as_str() {
            Some(tag) => format!("{}:{tag}", image["repository"].as_str().unwrap()),
            None => {
                format!("{}@{}", image["repository"].as_str().unwrap(), image["digest"].as_str().unwrap())
            }
        }));
        let Some(next) = part["next"].as_str() else { break };
        path = format!("/_saver/images?n=1&last={next}");
    }
    assert_eq!(listed, expected);
    let store = saver::store::Store::open_read_only(tree.dir()).unwrap();
    let totals = saver::ls::list(&store, &saver::ls::ListOptions::default()).unwrap().totals;
    assert_eq!((totals.tags, totals.untagged), (1, 2));
    let set = saver::diff::ImageSet::Directory(store);
    assert_eq!(saver::diff::diff(&set, &set).unwrap().a.images, expected.len());
}

#[test]
fn chromium_shows_what_is_served() {
    let home = Home::new();
    let dir = tree("domain");
    let serving = Serving::start(dir.path());
    let dom = dom(&home, &format!("http://{}/", serving.address));
    assert!(dom.contains("data-ready=\"true\""), "{dom}");
    let store = saver::store::Store::open_read_only(dir.path()).unwrap();
    let totals = saver::ls::list(&store, &saver::ls::ListOptions::default()).unwrap().totals;
    assert_eq!(fact(&dom, "images"), (totals.tags + totals.untagged).to_string());
    assert!(dom.contains(">quay.example/demo/app:1.0</span>"), "{dom}");
}

#[test]
fn chromium_shows_ten_thousand_tags_in_few_rows() {
    let home = Home::new();
    let tree = Tree::in_memory();
    for number in 0..20 {
        let name = format!("team/app-{number}");
        let image = tree.image(&name, "linux/amd64", &[b"a base layer", name.as_bytes()]);
        for version in 0..500 {
            tree.tag(&name, &format!("v{version}"), &image.digest);
        }
    }
    let serving = Serving::start(tree.dir());
    for url in [format!("http://{}/", serving.address), report(&home, tree.dir(), &[])] {
        let dom = dom(&home, &url);
        assert!(dom.contains("data-ready=\"true\""), "{url}");
        assert_eq!((fact(&dom, "images").as_str(), fact(&dom, "repositories").as_str()), ("10,000", "20"));
        let rows = dom.matches("class=\"row\"").count();
        assert!((5..100).contains(&rows), "{rows} rows");
    }
}

/// The texts of a report come from registries.
#[test]
fn file_shows_the_last_run_and_runs_no_text() {
    let home = Home::new();
    let dir = tree("strip");
    let hostile =
        "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">";
    let image = |reference: &str, status: &str, error: Value| {
        json!({
            "reference": reference, "status": status, "repository": "demo/app", "tag": "1.0", "digest": null,
            "platforms": [], "bytes_fetched": 5, "bytes_reused": 0, "attempts": 1, "seconds": 0.1, "error": error,
        })
    };
    let failed = json!({"kind": "not-found", "message": format!("{hostile} \u{202e}reversed")});
    let text = json!({
        "schema": 1, "bytes_fetched": 2_500_000, "bytes_reused": 0, "seconds": 1.0,
        "images": [image("quay.io/a:1", "saved", Value::Null), image("quay.io/b:1", "failed", failed)],
    });
    let run_report = home.write("report.json", &text.to_string());
    let url = report(&home, dir.path(), &["--report", run_report.to_str().unwrap()]);
    let dom = dom(&home, &url);
    assert!(dom.contains("data-ready=\"true\""), "{dom}");
    assert!(!dom.contains("<title>owned") && !dom.contains("<img"), "{dom}");
    assert!(dom.contains("&lt;/script&gt;&lt;script&gt;"), "{dom}");
    assert!(dom.contains("\\u{202e}reversed"), "characters that reorder text are shown by their numbers");
    assert_eq!((fact(&dom, "failed").as_str(), fact(&dom, "downloaded").as_str()), ("1", "2.50 MB"));
    assert!(dom.contains("quay.io/a:1"), "{dom}");
}

#[test]
fn wrong_command_lines_name_what_is_wrong() {
    let home = Home::new();
    let dir = tree("strip");
    let dir = dir.path().to_str().unwrap();
    let text = home.write("report.json", "{}");
    for (more, words) in [
        (&[dir][..], "--output"),
        (&["-o", "x"], "--dir"),
        (&[dir, "-o", "x", "--report", text.to_str().unwrap()], "not a report"),
        (&[dir, "-o", "x", "--report", "none.json"], "none.json"),
    ] {
        let ran = run(home.saver(["report", "--html"]).args(more)).expect(2);
        assert!(ran.stderr.contains(words), "{more:?}: {}", ran.stderr);
    }
}
