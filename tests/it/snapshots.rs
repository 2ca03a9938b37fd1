//! Everything that people read, as text that is reviewed: help, tables, plans and the commonest messages.
//!
//! A group of command lines makes one file in `snapshots/`. To accept a change: `INSTA_UPDATE=always cargo nextest run
//! snapshots`, then review the difference.

use super::support::fault::{Authority, Fault, FaultServer};
use super::support::handmade::{Tree, write};
use super::support::program::{Home, run};
use super::support::serving::Serving;
use saver::oci::Digest;
use std::fmt::Write;
use std::fs;

/// What varies from run to run, and what stands for it. Widths are kept, so that tables stay aligned.
const VARIABLE: &[(&str, &str)] = &[
    (r"(127\.0\.0\.1|localhost):\d{4,5}\b", "$1:55555"),
    (r"\b\d+\.\ds\b", "0.0s"),
    (r"\b\d+s\b left", "0s left"),
    (r"(?m)^(time +).*$", "${1}TIME"),
    (r"(?m)^(rate +).*$", "${1}RATE"),
    (
        r"(?m)^(images|saved|updated|unchanged|skipped|failed|not finished|fetched|downloaded|uploaded|copied|reused|time|rate|pushed|exported|imported) {2,}(\S.*)$",
        "$1  $2",
    ),
    (r"free space: .*", "free space: SIZE"),
    (r"in \d+s\b", "in 0.0s"),
    (r#""elapsed":[\d.]+"#, r#""elapsed":0"#),
    (r#""seconds":( ?)[\d.e-]+"#, r#""seconds":${1}0"#),
    (r"(lookup address information: ).*", "${1}REASON"),
    (r"saver 0\.\d+\.\d+\S*", "saver VERSION"),
];

/// Command lines of one group with all that they print.
struct Transcript {
    home: Home,
    text: String,
}

impl Transcript {
    fn new() -> Self {
        Self { home: Home::new(), text: String::new() }
    }

    /// Runs saver with these arguments, separated by blanks, and takes down what it prints.
    fn saver(&mut self, arguments: &str) {
        self.saver_with(&[], arguments);
    }

    fn saver_with(&mut self, variables: &[(&str, &str)], arguments: &str) {
        let ran = run(self.home.saver(arguments.split_whitespace()).envs(variables.iter().copied()));
        let set: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        write!(self.text, "$ {set}saver {arguments}\n{}", ran.stdout).unwrap();
        if !ran.stderr.is_empty() {
            write!(self.text, "--- stderr\n{}", ran.stderr).unwrap();
        }
        write!(self.text, "--- exit {}\n\n", ran.code.unwrap()).unwrap();
    }

    /// Compares with the snapshot `name`.
    fn check(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let home = self.home.path("").display().to_string();
        let text = self.text.replace(home.trim_end_matches('/'), "HOME");
        for (pattern, replacement) in VARIABLE {
            settings.add_filter(pattern, *replacement);
        }
        settings.bind(|| insta::assert_snapshot!(name, text));
    }
}

const VERBS: &[&str] = &[
    "save",
    "ls",
    "inspect",
    "tags",
    "digest",
    "verify",
    "prune",
    "rm",
    "push",
    "copy",
    "export",
    "import",
    "serve",
    "scan",
    "build-context",
    "cri",
    "completions",
    "man",
];

#[test]
fn help_of_every_verb() {
    for (flag, name) in [("--help", "help"), ("-h", "help_short")] {
        let mut transcript = Transcript::new();
        transcript.saver(flag);
        for verb in VERBS {
            transcript.saver(&format!("{verb} {flag}"));
        }
        transcript.check(name);
    }
}

#[test]
fn wrong_command_lines() {
    let mut transcript = Transcript::new();
    transcript.home.write("images.txt", "nginx\n");
    transcript.home.write("empty.list", "# no images\n");
    transcript.home.write("empty.pem", "no certificate\n");
    fs::create_dir(transcript.home.path("dir")).unwrap();
    for arguments in [
        "",
        "nginx:1",
        "--dir d nginx:1",
        "--dir d --arch amd65 nginx:1",
        "--dir d --arch amd64,all nginx:1",
        "--dir d --arch linux/amd64/v9/x nginx:1",
        "--dir d --arch all --jobs 0 nginx:1",
        "--dir d --arch all --retries many nginx:1",
        "--dir d --arch amd64,arm64 --index flatten nginx:1",
        "--dir d --arch all --index squash nginx:1",
        "--dir d --arch all --report - nginx:1",
        "--dir d --arch all --report dir nginx:1",
        "--dir d --arch all --report no/such nginx:1",
        "--dir d --arch all --report f --failed-list ./f nginx:1",
        "--dir d --arch all --names x nginx:1",
        "--dir d --arch all --mirror x nginx:1",
        "--dir d --arch all --mirror docker.io=ftp://x nginx:1",
        "--dir d --arch all --retries 0 --plain-http http://x 127.0.0.1:1/nginx:1",
        "--dir d --arch all --ca-file missing.pem nginx:1",
        "--dir d --arch all --ca-file empty.pem nginx:1",
        "--dir d --arch all --cert-dir missing nginx:1",
        "--dir d --arch all --authfile missing nginx:1",
        "--dir d --arch all --username u nginx:1",
        "--dir d --arch all --password-stdin nginx:1",
        "--dir d --arch all --username u --password-stdin nginx:1 quay.io/a/b",
        "--dir d --arch all --list - --password-stdin",
        "--dir d --arch all --list - --list -",
        "--dir d save --arch all nginx:1",
        "--dir d --arch all --failedlist f nginx:1",
        "--dir d --arch all --frobnicate nginx:1",
        "--dir d --arch amd64 arm64",
        "--dir d --arch all images.txt",
        "save --dir d --arch all images.txt",
        "nginx --dir d --arch all",
        "--dir d --arch all nginx:1 ls",
        "--dir d --arch all lss",
        "--dir s3://bucket/x --arch all nginx:1",
        "ls s3://bucket/x",
        "verify file:///data",
        "verify dir --dir dir",
        "export -o gs://a/b --format oci-layout --dir dir nginx:1",
        "save --dir d --arch all --timeout soon nginx:1",
        "lss",
        "list --dir d",
        "login quay.io",
        "pull nginx",
        "sync images.txt",
        "remove nginx",
        "du",
        "ls",
        "ls missing",
        "ls --dir missing",
        "ls --dir images.txt",
        "inspect",
        "inspect Nginx",
        "inspect nginx -o json",
        "inspect nginx --debug",
        "inspect nginx --creds u:p",
        "inspect nginx --tls-verify=false",
        "inspect nginx -j",
        "-f images.txt --dir d --arch all",
        "tags nginx:1",
        "digest",
        "verify",
        "verify --dir missing",
        "verify --dir dir --list images.txt",
        "verify --dir dir --repair --list images.txt",
        "prune --dir dir",
        "rm --dir dir",
        "rm --dir dir --force nginx:1",
        "push --dir dir",
        "push --dir dir nginx",
        "copy nginx",
        "copy nginx:1 registry.example",
        "export --dir dir nginx",
        "export --dir dir --format oci-archive nginx",
        "export --format oci-archive -o a.tar nginx",
        "export --dir dir --format zip -o a.zip nginx",
        "import",
        "import missing.tar --dir d",
        "import images.txt --dir d",
        "serve",
        "serve --dir dir --listen nowhere",
        "serve --dir dir --listen 127.0.0.1:99999",
        "serve dir --listen 70000",
        "serve --dir dir --tls-cert missing.pem",
        "cri",
        "cri --dir d --listen http://x",
        "scan missing",
        "build-context missing",
        "--list empty.list --dir d --arch all",
        "save --dir d --arch all Bad/x",
        "save --dir d --arch all Bad/x Bad/y",
        "rm --dir dir nginx",
        "push --dir dir r.io:5000/mirror demo/app:1",
        "prune --dir dir --list images.txt",
        "serve --dir dir --port 5000",
        "rewrite --dir dir images.txt",
        "rewrite --dir dir --to r.io",
        "mirror-config",
        "mirror-config http://h:1 --dir dir",
        "scan",
        "completions",
        "help nothing",
        "man nothing",
        "completions tcsh",
    ] {
        transcript.saver(arguments);
    }
    transcript.check("wrong_command_lines");
}

#[test]
fn settings() {
    let mut transcript = Transcript::new();
    for (name, text) in [
        ("key.yaml", "dir: d\nfailed_list: f\n"),
        ("value.yaml", "jobs: many\n"),
        ("sequence.yaml", "jobs: [1, 2]\n"),
        ("empty.yaml", "jobs:\n"),
        ("shape.yaml", "- jobs\n"),
        ("twice.yaml", "jobs: 1\njobs: 2\n"),
        ("reserved.yaml", "config: other.yaml\n"),
        ("bool.yaml", "dry-run: perhaps\n"),
    ] {
        transcript.home.write(name, text);
        transcript.saver(&format!("--config {name} ls"));
    }
    transcript.saver("--config missing.yaml ls");
    transcript.saver_with(&[("SAVER_JOBS", "0")], "ls");
    transcript.saver_with(&[("SAVER_DIRR", "x")], "ls");
    transcript.check("settings");
}

#[test]
fn lists() {
    let mut transcript = Transcript::new();
    for (name, text) in [
        (
            "bad.list",
            "nginx:1\nUpper/Case\na b\nnginx:\nnginx@sha256:12\nregistry:99999/x\nnginx platform=\nnginx platform=amd65\nnginx color=red\nhttps://quay.io/a/b\nquay.io/a/b:t@g\n",
        ),
        ("bad.yaml", "- registry: a.io\n  images: [Upper, ok]\n  nothing: here\n"),
        ("broken.yaml", "- registry: [\n"),
        ("other.json", "{\"auths\": {}}\n"),
        ("conflict.list", "127.0.0.1:1/x/nginx:1\nlocalhost:1/x/nginx:1\n"),
        ("twice.list", "127.0.0.1:1/a:1\n127.0.0.1:1/a:1\n"),
        ("none.list", "# nothing\n"),
    ] {
        transcript.home.write(name, text);
        transcript.saver(&format!("--list {name} --dir d --arch amd64 --retries 0 --progress none"));
    }
    transcript.saver("--list missing.list --dir d --arch amd64");
    transcript.check("lists");
}

/// An index of two platforms, an image of one, and a tag that moves.
fn tree() -> Tree {
    let tree = Tree::new();
    let amd64 = tree.image("team/app", "linux/amd64", &[b"shared", b"amd64"]);
    let arm64 = tree.image("team/app", "linux/arm64", &[b"shared", b"arm64"]);
    let index = tree.index("team/app", &[amd64.clone(), arm64]);
    tree.tag("team/app", "1.0", &index.digest);
    tree.tag("team/app", "amd64", &amd64.digest);
    let other = tree.image("team/tool", "linux/amd64", &[b"shared", b"tool"]);
    tree.tag("team/tool", "2", &other.digest);
    tree
}

#[test]
fn saving() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    let saving = "--dir d --arch amd64 --retries 0";
    transcript.saver(&format!("{saving} {host}/team/app:1.0 --dry-run"));
    transcript.saver(&format!("{saving} {host}/team/app:1.0 --dry-run --progress json -q"));
    transcript.saver(&format!("{saving} {host}/team/app:1.0"));
    transcript.saver(&format!("{saving} {host}/team/app:1.0"));
    transcript.saver(&format!("{saving} {host}/team/app:1.0 -q"));
    transcript.saver(&format!("{saving} {host}/team/app:1.0 --dry-run"));
    tree.tag("team/tool", "2", &tree.image("team/tool", "linux/amd64", &[b"shared", b"newer"]).digest);
    transcript.saver(&format!("{saving} {host}/team/tool:2 --color always"));
    tree.tag("team/tool", "2", &tree.image("team/tool", "linux/amd64", &[b"shared", b"newest"]).digest);
    transcript.saver(&format!("{saving} {host}/team/tool:2"));
    for image in ["team/app:9", "team/nothing:1", "other:1"] {
        transcript.saver(&format!("{saving} {host}/{image}"));
    }
    transcript.saver(&format!("--dir d --arch s390x --retries 0 {host}/team/app:1.0"));
    transcript
        .saver(&format!("--dir d --arch s390x --retries 0 {host}/team/app:1.0 --missing-platform skip"));
    transcript.saver(&format!(
        "--dir d --arch amd64,s390x --retries 0 {host}/team/app:1.0 --missing-platform skip"
    ));
    transcript.saver(&format!(
        "{saving} --progress none {host}/a:1 {host}/b:1 {host}/team/app:1.0 {host}/c:1 --failed-list f.list"
    ));
    transcript.saver(&format!("{saving} --progress none {host}/a:1 {host}/team/tool:2 --dry-run"));
    transcript.saver(&format!("{saving} --fail-fast --progress none {host}/a:1"));
    transcript.home.write("file", "");
    transcript.saver(&format!("--dir file --arch amd64 {host}/team/app:1.0"));
    transcript.saver(&format!("--dir file/d --arch amd64 {host}/team/app:1.0"));
    transcript.check("saving");
}

/// Each kind of failure that a registry or the network can cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures() {
    let mut transcript = Transcript::new();
    let saving = "--dir d --arch amd64 --retries 0 --progress none";
    transcript.saver(&format!("{saving} --plain-http 127.0.0.1:1 127.0.0.1:1/a:1"));
    transcript.saver(&format!("{saving} no-such-host.invalid/a:1"));
    let authority = Authority::new();
    let tls = FaultServer::start_tls(&authority, &["127.0.0.1"]).await;
    tls.add_image("a", "1", &[b"layer"]);
    transcript.saver(&format!("{saving} {}/a:1", tls.registry()));
    transcript.saver(&format!("{saving} --plain-http {host} {host}/a:1", host = tls.registry()));
    let (expired, pem) = FaultServer::start_self_signed(&["127.0.0.1"], 2001..2002).await;
    transcript.home.write("ca.pem", &pem);
    transcript.saver(&format!("{saving} --ca-file ca.pem {}/a:1", expired.registry()));
    let json = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    for (what, fault) in [
        ("manifest 401", Fault::status(401)),
        ("manifest 403", Fault::status(403)),
        ("manifest 403 with an error body", Fault::Status(403, json, denied.into())),
        ("manifest 404", Fault::status(404)),
        ("manifest 429", Fault::status(429)),
        ("manifest 500", Fault::status(500)),
        ("manifest is a web page", Fault::web_page()),
        ("manifest: connection closed", Fault::Close),
        ("manifest with a flipped byte", Fault::Flip(9)),
        ("manifest is {}", Fault::Body("{}".into())),
        ("blob 404", Fault::status(404)),
        ("blob 500", Fault::status(500)),
        ("blob with a flipped byte", Fault::Flip(3)),
        ("blob is cut", Fault::Cut(2)),
        ("blob redirected to ftp", Fault::Redirect("ftp://elsewhere/x".into())),
    ] {
        let server = FaultServer::start().await;
        let image = server.add_image("team/app", "1", &[b"layer of the image"]);
        if what.starts_with("blob") {
            server.on("GET", &format!("/blobs/{}", image.layers[0].digest)).answer(fault);
        } else {
            let method = if what.contains("byte") || what.contains("{}") { "GET" } else { "" };
            server.on(method, "/manifests/").answer(fault);
        }
        writeln!(transcript.text, "# {what}").unwrap();
        transcript.saver(&format!("{saving} {}/team/app:1", server.registry()));
        fs::remove_dir_all(transcript.home.path("d")).unwrap();
    }
    let basic = FaultServer::start().await;
    basic.add_image("team/app", "1", &[b"layer"]);
    basic.require_basic("robot", "secret");
    transcript.saver(&format!("{saving} {host}/team/app:1 {host}/team/web:1", host = basic.registry()));
    transcript.saver(&format!("inspect --retries 0 {}/team/app:1", basic.registry()));
    transcript.saver(&format!("tags --retries 0 {}/team/app", basic.registry()));
    // How much of the other blobs came before the failure is a matter of luck.
    let fetched = transcript
        .text
        .lines()
        .map(|line| if line.starts_with("downloaded ") { "downloaded  SIZE" } else { line });
    transcript.text = fetched.map(|line| format!("{line}\n")).collect();
    transcript.check("failures");
}

#[test]
fn reading_a_tree() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    let dir = transcript.home.path("tree");
    std::os::unix::fs::symlink(tree.dir(), &dir).unwrap();
    fs::create_dir(transcript.home.path("empty")).unwrap();
    for arguments in [
        "ls --dir empty",
        "ls --dir tree",
        "ls --dir tree team/tool",
        "ls --dir tree team/nothing",
        "ls tree",
        "ls tree team/tool",
        "ls --dir tree --json",
        "inspect --dir tree team/app:1.0",
        "inspect --dir tree team/app:1.0 --arch arm64",
        "inspect --dir tree team/app:1.0 --arch s390x",
        "inspect --dir tree team/app:9",
        "inspect --dir tree team/nothing",
        "inspect {host}/team/tool:2",
        "inspect {host}/team/tool:2 --raw --json",
        "tags --dir tree team/app",
        "tags --dir tree team/app --json",
        "tags {host}/team/app",
        "tags {host}/nothing",
        "digest --dir tree team/app:1.0",
        "digest --dir tree team/app:1.0 --arch arm64",
        "digest {host}/team/app:1.0 --json",
    ] {
        transcript.saver(&arguments.replace("{host}", &host));
    }
    transcript.check("reading_a_tree");
}

#[test]
fn verifying_and_repairing() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    let dir = transcript.home.path("tree");
    std::os::unix::fs::symlink(tree.dir(), &dir).unwrap();
    fs::create_dir(transcript.home.path("empty")).unwrap();
    transcript.saver("verify --dir empty");
    transcript.saver("verify tree");
    transcript.saver("verify --dir tree --deep -q");
    fs::remove_file(tree.data(&Digest::of(b"amd64"))).unwrap();
    write(&tree.data(&Digest::of(b"tool")), b"fool");
    fs::write(tree.layer_link("team/app", &Digest::of(b"shared")), "nothing").unwrap();
    transcript.saver("ls --dir tree");
    transcript.saver("verify --dir tree");
    transcript.saver("verify --dir tree --deep");
    transcript.saver("verify --dir tree --deep --repair");
    transcript.saver("verify --dir tree --deep --json");
    transcript.check("verifying_and_repairing");
}

#[test]
fn removing() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    let dir = transcript.home.path("tree");
    std::os::unix::fs::symlink(tree.dir(), &dir).unwrap();
    fs::create_dir(transcript.home.path("empty")).unwrap();
    transcript.home.write("keep.list", "team/app:1.0\nteam/gone:1\n");
    for arguments in [
        "rm --dir empty nginx:1",
        "rm --dir tree team/nothing:1",
        "rm --dir tree team/app:9",
        "rm --dir tree team/app:amd64 --dry-run",
        "rm --dir tree team/app:amd64",
        "prune --dir empty --keep keep.list",
        "prune --dir tree --keep missing.list",
        "prune --dir tree --keep keep.list --dry-run",
        "prune --dir tree --keep keep.list",
        "prune --dir tree --keep keep.list --json",
    ] {
        transcript.saver(arguments);
    }
    transcript.check("removing");
}

#[test]
fn pushing_and_copying() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    tree.tag("one/blob", "1", &tree.image("one/blob", "linux/amd64", &[]).digest);
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    std::os::unix::fs::symlink(tree.dir(), transcript.home.path("tree")).unwrap();
    for arguments in [
        "push --dir tree --retries 0 --progress none team/tool:2 127.0.0.1:1",
        "push --dir tree --retries 0 --progress none nothing:1 127.0.0.1:1",
        "push --dir tree --retries 0 --progress none team/tool:2 {host}/mirror --dry-run",
        "push --dir tree --retries 0 --progress none one/blob:1 {host}/mirror",
        "push --dir tree --retries 0 --progress none --arch s390x team/app:1.0 {host}",
        "push --dir tree --retries 0 team/tool:2 {host}",
        "copy --retries 0 {host}/team/tool:2 {host}/team/tool:3",
        "copy --retries 0 --progress none {host}/nothing:2 {host}/team/tool:3",
    ] {
        transcript.saver(&arguments.replace("{host}", &host));
    }
    transcript.check("pushing_and_copying");
}

#[test]
fn exporting_and_importing() {
    let (mut transcript, tree) = (Transcript::new(), tree());
    std::os::unix::fs::symlink(tree.dir(), transcript.home.path("tree")).unwrap();
    for arguments in [
        "export --dir tree --format oci-archive -o a.tar --arch amd64 team/app:1.0",
        "export --dir tree --format oci-archive -o all.tar --arch amd64",
        "export --dir tree --format docker-archive -o two.tar --arch all team/app:1.0",
        "export --dir tree --format oci-layout -o layout --arch amd64 team/tool:2",
        "export --dir tree --format oci-archive -o b.tar --arch amd64 nothing:1",
        "import a.tar --dir imported",
        "import a.tar --dir imported",
        "import layout --dir imported --as x/y",
        "import layout --dir imported --arch s390x --progress none",
        "import tree --dir imported",
    ] {
        transcript.saver(arguments);
    }
    transcript.check("exporting_and_importing");
}

#[test]
fn scanning() {
    let mut transcript = Transcript::new();
    transcript.home.write(
        "app/pod.yaml",
        "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - image: quay.io/team/app:1\n  - image: Upper/Case\n",
    );
    transcript.home.write("app/broken.yaml", "kind: [\n");
    transcript.home.write("context/manifests/imageList", "127.0.0.1:1/team/app:1\n");
    for arguments in [
        "scan app",
        "scan app --json",
        "scan app/pod.yaml --ignore missing",
        "build-context context --arch amd64 --retries 0 --progress none --plain-http 127.0.0.1:1",
        "build-context app --arch amd64 --retries 0 --progress none --dry-run",
    ] {
        transcript.saver(arguments);
    }
    transcript.check("scanning");
}
