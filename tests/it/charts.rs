//! Charts of classic Helm repositories and of files.

use super::helm::{helmed, shop};
use super::support::charts::{ChartRepository, chart, hex, packed};
use super::support::fault::{Fault, FaultServer};
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::program::{Home, Ran, run};
use super::support::scratch::Scratch;
use super::support::serving::Serving;
use base64::Engine;
use saver::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE};
use saver::oci::{Manifest, RawManifest};
use saver::store::Store;
use std::fs;
use std::path::Path;

const PROVENANCE: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nname: shop\n";

/// Saves the charts and images of a list into `tree`.
fn save(home: &Home, lines: &str, options: &[&str], code: i32) -> Ran {
    home.write("list", lines);
    let mut command =
        home.saver(["save", "--list", "list", "--arch", "amd64", "--retries", "0", "--dir", "tree"]);
    run(command.args(options)).expect(code)
}

/// The tags of the tree, as `repository:tag`.
fn tags(dir: &Path) -> Vec<String> {
    let store = Store::open_read_only(dir).unwrap();
    let repositories = store.repositories().unwrap();
    let of = |repository| {
        let tags = store.tags(&repository).unwrap();
        tags.into_iter().map(move |tag| format!("{repository}:{tag}"))
    };
    repositories.into_iter().flat_map(of).collect()
}

/// The manifest of a tag.
fn manifest(dir: &Path, repository: &str, tag: &str) -> (ImageManifest, String) {
    let store = Store::open_read_only(dir).unwrap();
    let digest = store.read_tag(&repository.parse().unwrap(), &tag.parse().unwrap()).unwrap().unwrap();
    let content = store.read_content(&digest, MAX_MANIFEST_SIZE).unwrap().unwrap();
    let raw = RawManifest::new(content, None).unwrap();
    let Manifest::Image(image) = raw.parse().unwrap() else { panic!("an index") };
    let config = store.read_content(&image.config.digest, MAX_MANIFEST_SIZE).unwrap().unwrap();
    (*image, String::from_utf8(config.to_vec()).unwrap())
}

/// Pulls a chart with helm from whatever serves the tree; the archive and the provenance file.
fn pulled(home: &Home, chart: &str, version: &str, into: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    fs::create_dir(home.path(into)).unwrap();
    helmed(home, &["pull", chart, "--version", version, "--plain-http", "--prov", "-d", into]);
    let name = chart.rsplit('/').next().unwrap();
    let file = home.path(&format!("{into}/{name}-{version}.tgz"));
    (fs::read(&file).unwrap(), fs::read(format!("{}.prov", file.display())).ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chart_of_repository_is_what_helm_pushes_and_pulls() {
    let home = Home::new();
    shop(&home);
    helmed(&home, &["package", "shop", "-d", "packed"]);
    let file = "shop-1.2.3+build.5.tgz";
    let archive = fs::read(home.path("packed").join(file)).unwrap();
    let mut repository = ChartRepository::start().await;
    repository.serve(&format!("{file}.prov"), PROVENANCE);
    repository.serve(file, archive.clone());
    repository.list("shop", "1.2.3+build.5", file, &hex(&archive));
    repository.publish();
    let line = format!("{}/shop version=^1.2\n", repository.url());
    save(&home, &line, &[], 0);
    let dir = home.path("tree");
    assert_eq!(tags(&dir), ["v2/charts/shop:1.2.3_build.5"]);
    run(home.saver(["verify", "--deep", "--dir"]).arg(&dir)).expect(0);
    let listed = run(home.saver(["ls", "--dir"]).arg(&dir)).expect(0).stdout;
    assert!(listed.contains("helm chart"), "{listed}");
    let sources = run(home.saver(["ls", "--json", "--dir"]).arg(&dir)).expect(0).stdout;
    assert!(
        sources.contains(&format!("{}/v2/charts/shop:1.2.3_build.5", repository.server.registry())),
        "{sources}"
    );
    // What helm itself pushes has the same configuration and layer.
    let storage = Scratch::new();
    let pushed =
        Registry::start(storage.path(), &RegistryOptions { writable: true, ..RegistryOptions::default() });
    helmed(
        &home,
        &["push", &format!("packed/{file}"), &format!("oci://{}/charts", pushed.address), "--plain-http"],
    );
    let (theirs, their_config) = manifest(storage.path(), "charts/shop", "1.2.3_build.5");
    let (ours, config) = manifest(&dir, "v2/charts/shop", "1.2.3_build.5");
    assert_eq!(config, their_config);
    assert_eq!((&ours.config, &ours.layers[0]), (&theirs.config, &theirs.layers[0]));
    let (own, peer) = (Serving::start(&dir), Registry::serve(&dir));
    for (place, address) in [("ours", own.address.to_string()), ("theirs", peer.address.clone())] {
        let name = format!("oci://{address}/v2/charts/shop");
        let (content, provenance) = pulled(&home, &name, "1.2.3+build.5", place);
        assert!(content == archive, "{place}: another archive");
        assert_eq!(provenance.as_deref(), Some(PROVENANCE.as_bytes()), "{place}");
    }
    // The second run reads the index, and nothing else.
    let before = repository.server.seen().len();
    let again = save(&home, &line, &[], 0);
    assert!(again.stderr.contains("unchanged"), "{}", again.stderr);
    let seen: Vec<String> =
        repository.server.seen().split_off(before).into_iter().map(|one| one.path).collect();
    assert_eq!(seen, ["/v2/charts/index.yaml"]);
    // A chart of which content is missing is downloaded again.
    let blob = ours.layers[0].digest.to_string();
    let hex = blob.trim_start_matches("sha256:");
    fs::remove_file(dir.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))).unwrap();
    save(&home, &line, &[], 0);
    run(home.saver(["verify", "--deep", "--dir"]).arg(&dir)).expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charts_that_fail_do_not_stop_the_list() {
    let mut repository = ChartRepository::start().await;
    repository.add("good", "1.0.0");
    repository.list("digest", "1.0.0", "good-1.0.0.tgz", &"0".repeat(64));
    repository.list("hex", "1.0.0", "good-1.0.0.tgz", "12");
    repository.list("other", "1.0.0", "good-1.0.0.tgz", "");
    repository.list("gone", "1.0.0", "gone.tgz", "");
    repository.list("file", "1.0.0", "file:///etc/passwd", "");
    repository.list("user", "1.0.0", "https://u:S3CRET@example.com/x.tgz", "");
    repository.list("nowhere", "1.0.0", "http://[::1/x.tgz", "");
    repository.list("tag", &format!("1.0.0+{}", "b".repeat(130)), "good-1.0.0.tgz", "");
    repository.list("large", "1.0.0", "large.tgz", "");
    repository.list("page", "1.0.0", "page.tgz", "");
    repository.list("nochart", "1.0.0", "nochart.tgz", "");
    repository.list("text", "1.0.0", "text.tgz", "");
    repository.serve("large.tgz", vec![0; (32 << 20) + 1]);
    repository.server.on("GET", "/page.tgz").answer(Fault::web_page());
    repository.serve("nochart.tgz", packed(&[("x/values.yaml", b"a: 1")]));
    repository.serve("text.tgz", "no archive");
    repository.publish();
    repository.serve("bad/index.yaml", "entries: [");
    let (home, url) = (Home::new(), repository.url());
    let cases = [
        ("digest", "the chart is not the one in the index"),
        ("hex", "the index has an invalid digest of the chart"),
        ("other", "the archive contains the chart \"good\", version \"1.0.0\""),
        ("gone", "404"),
        ("file", "a redirect to the scheme \"file\""),
        ("user", "a redirect with a user in the URL"),
        ("nowhere", "the index has an invalid URL of the chart"),
        ("tag", "128"),
        ("large", "is larger than 32 MiB"),
        ("page", "web page"),
        ("nochart", "the archive has no Chart.yaml"),
        ("text", "cannot read the chart"),
        ("absent", "the repository has no chart absent"),
        ("bad/x", "invalid index"),
        ("none/x", "404"),
    ];
    let mut lines: String = cases.iter().map(|(name, _)| format!("{url}/{name} version=1\n")).collect();
    lines.push_str(&format!("{url}/good version=*\n{url}/good version=^2\n"));
    let ran = save(&home, &lines, &["--failed-list", "failed"], 1);
    assert_eq!(tags(&home.path("tree")), ["v2/charts/good:1.0.0"]);
    assert!(!ran.stderr.contains("S3CRET"), "{}", ran.stderr);
    let failed = fs::read_to_string(home.path("failed")).unwrap();
    for (name, reason) in cases {
        let start = format!("{url}/{name} version=1");
        let line = failed.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains(reason)), "{name}: {line:?}\n{failed}");
    }
    assert!(failed.contains("none of its 1 versions matches ^2; the newest is 1.0.0"), "{failed}");
    // The failed list names the charts, and is read again.
    fs::rename(home.path("failed"), home.path("again")).unwrap();
    let ran = run(&mut home.saver([
        "save",
        "--list",
        "again",
        "--arch",
        "amd64",
        "--retries",
        "0",
        "--dir",
        "tree",
    ]))
    .expect(1);
    assert!(ran.stderr.contains("absent"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_is_sent_to_its_host_only() {
    let mut repository = ChartRepository::start().await;
    let elsewhere = FaultServer::start().await;
    let archive = chart("far", "1.0.0");
    for path in ["/linked.tgz", "/redirected.tgz"] {
        elsewhere.on("GET", path).answer(Fault::Body(archive.clone()));
    }
    // Another host, as far as a client can tell.
    let other = format!("http://{}", elsewhere.localhost());
    repository.server.on("GET", "/moved.tgz").answer(Fault::Redirect(format!("{other}/redirected.tgz")));
    repository.add("near", "1.0.0");
    repository.list("far", "1.0.0", &format!("{other}/linked.tgz"), &hex(&archive));
    let moved = chart("moved", "1.0.0");
    elsewhere.on("GET", "/moved-chart.tgz").answer(Fault::Body(moved.clone()));
    repository.list("moved", "1.0.0", "gone-away.tgz", &hex(&moved));
    repository.server.on("GET", "/gone-away.tgz").answer(Fault::Redirect(format!("{other}/moved-chart.tgz")));
    repository.publish();
    repository.server.require_basic("reader", "S3CRET");
    let home = Home::new();
    let login = base64::engine::general_purpose::STANDARD.encode("reader:S3CRET");
    let auths = serde_json::json!({"auths": {repository.server.registry().as_str(): {"auth": login}}});
    home.write(".docker/config.json", &auths.to_string());
    let url = repository.url();
    save(&home, &format!("{url}/near version=1.0.0\n{url}/far version=1\n{url}/moved version=1\n"), &[], 0);
    assert_eq!(
        tags(&home.path("tree")),
        ["v2/charts/far:1.0.0", "v2/charts/moved:1.0.0", "v2/charts/near:1.0.0"]
    );
    let requests = elsewhere.seen();
    assert!(
        requests.len() >= 2 && requests.iter().all(|one| one.header("authorization").is_none()),
        "{requests:?}"
    );
    // Without the password, both say what to do.
    fs::remove_file(home.path(".docker/config.json")).unwrap();
    let ran = save(&home, &format!("{url}/near version=1.0.0\n"), &[], 1);
    assert!(ran.stderr.contains(&format!("docker login {}", repository.server.registry())), "{}", ran.stderr);
}

#[test]
fn plain_http_has_to_be_enabled() {
    let home = Home::new();
    let ran = save(&home, "http://charts.invalid/x version=1\n", &[], 1);
    assert!(ran.stderr.contains("add --plain-http charts.invalid"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_without_charts_refuse_them() {
    let home = Home::new();
    home.write("list", "https://charts.example.com/x version=^1\n");
    for (arguments, reason) in [
        (&["export", "--dir", "tree", "--list", "list", "--output", "x.tar"][..], "does not fetch charts"),
        (&["resolve", "--list", "list", "--arch", "all"], "a lock file cannot pin charts"),
        (
            &["save", "--list", "list", "--arch", "all", "--dir", "tree", "--lock", "l"],
            "a lock file cannot pin charts",
        ),
        (
            &["save", "--list", "list", "--arch", "all", "--dir", "tree", "--locked"],
            "no lock file pins https://charts",
        ),
        (&["save", "--arch", "all", "--dir", "tree", "https://charts.example.com/x"], "add version=VERSION"),
    ] {
        let ran = run(&mut home.saver(arguments)).expect(2);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn imported_chart_comes_back_with_helm() {
    let home = Home::new();
    shop(&home);
    helmed(&home, &["package", "shop", "-d", "."]);
    let file = "shop-1.2.3+build.5.tgz";
    home.write(&format!("{file}.prov"), PROVENANCE);
    run(&mut home.saver(["import", file, "--dir", "tree"])).expect(0);
    run(&mut home.saver(["import", file, "--dir", "tree", "--as", "registry.example.com/charts/shop"]))
        .expect(0);
    let dir = home.path("tree");
    assert_eq!(tags(&dir), ["charts/shop:1.2.3_build.5", "shop:1.2.3_build.5"]);
    run(home.saver(["verify", "--deep", "--dir"]).arg(&dir)).expect(0);
    let served = Serving::start(&dir);
    for (place, name) in [("one", "shop"), ("two", "charts/shop")] {
        let (content, provenance) =
            pulled(&home, &format!("oci://{}/{name}", served.address), "1.2.3+build.5", place);
        assert!(content == fs::read(home.path(file)).unwrap(), "{name}: another archive");
        assert_eq!(provenance.as_deref(), Some(PROVENANCE.as_bytes()), "{name}");
    }
    let ran = run(&mut home.saver(["import", "shop", "--dir", "tree"])).expect(2);
    assert!(ran.stderr.contains("helm package shop"), "{}", ran.stderr);
    // Another compressed archive is still one of images, or refused as none.
    fs::write(home.path("x.tgz"), packed(&[("x/values.yaml", b"a: 1")])).unwrap();
    let ran = run(&mut home.saver(["import", "x.tgz", "--dir", "tree"])).expect(2);
    assert!(!ran.stderr.contains("chart"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scan_fetches_charts() {
    let mut repository = ChartRepository::start().await;
    repository.add("app", "1.0.0");
    repository.publish();
    let home = Home::new();
    let url = format!("{}/app", repository.url());
    save(&home, &format!("{url} version=1.0.0\n"), &[], 0);
    let served = Serving::start(&home.path("tree"));
    let oci = format!("oci://{}/v2/charts/app", served.address);
    for (arguments, file) in [
        (vec![url.as_str()], format!("{}/v2/charts/app:1.0.0", repository.server.registry())),
        (vec![oci.as_str(), "--version", "^1"], format!("{}/v2/charts/app:1.0.0", served.address)),
        (vec![oci.as_str()], format!("{}/v2/charts/app:1.0.0", served.address)),
    ] {
        let ran = run(&mut home.saver(["scan", "--no-helm"].iter().chain(&arguments))).expect(0);
        let line = format!("quay.io/team/app:1  # {file}/templates/pod.yaml:4");
        assert!(ran.stdout.lines().any(|printed| printed == line), "{line}\n{}{}", ran.stdout, ran.stderr);
    }
    for (arguments, reason, code) in [
        (vec![url.as_str(), "--version", "^2"], "none of its 1 versions matches ^2", 1),
        (vec![oci.as_str(), "--version", "^2"], "none of the 1 tags matches ^2", 1),
        (vec![oci.as_str(), "--version", "newest"], "neither a version nor a range", 2),
        (vec![".", "--version", "1"], "only a chart of a repository or registry has versions", 2),
        (vec!["s3://x"], "s3:// is not supported", 2),
    ] {
        let ran = run(&mut home.saver(["scan"].iter().chain(&arguments))).expect(code);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
}
