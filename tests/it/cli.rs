//! The real binary, as people and scripts call it.

use crate::support::scratch::Scratch;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const EVENTS: &str = include_str!("../../docs/reference/report.md");

/// A directory of its own and a clean environment.
struct Place {
    dir: Scratch,
}

impl Place {
    fn new() -> Self {
        Self { dir: Scratch::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `saver`, with no environment but a home of its own.
    fn saver(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.saver(args).output().unwrap())
    }
}

/// What a process said and how it ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Whether stdout has a line of these words, however far apart.
    fn has_row(&self, words: &str) -> bool {
        self.out.lines().any(|line| line.split_whitespace().eq(words.split(' ')))
    }

    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sample registry, served by the binary itself; its HOST:PORT.
fn sample_registry(place: &Place) -> (Ended, String) {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/registry");
    let args = ["serve", "--dir", samples.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut child = place.saver(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().trim_end_matches('/').to_owned();
    (Ended(child), address)
}

/// The flags that the documentation promises.
const FLAGS: &[&str] = &[
    "list",
    "lock",
    "locked",
    "match",
    "dir",
    "arch",
    "os",
    "jobs",
    "dry-run",
    "report",
    "failed-list",
    "fail-fast",
    "progress",
    "quiet",
    "verbose",
    "log-format",
    "username",
    "password-stdin",
    "authfile",
    "plain-http",
    "insecure-tls",
    "ca-file",
    "cert-dir",
    "mirror",
    "names",
    "replace",
    "index",
    "missing-platform",
    "retries",
    "timeout",
    "max-images",
    "referrers",
    "referrer-type",
    "missing-referrers",
    "policy",
    "trusted-root",
    "unnamed-signatures",
    "connect-timeout",
    "idle-timeout",
    "limit-rate",
    "config",
    "no-attestations",
    "foreign-layers",
    "metrics-file",
    "summary",
    "durability",
    "color",
    "help",
    "version",
];

/// The long flags that a help text describes.
fn described(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flags = lines.filter_map(|line| line.split("--").nth(1));
    flags.map(|rest| rest.split([' ', ',', '<', '.']).next().unwrap().to_owned()).collect()
}

#[test]
fn help_tells_every_flag_and_nothing_else() {
    let place = Place::new();
    let promised: BTreeSet<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    for args in [&["--help"][..], &["save", "--help"]] {
        let help = place.run(args).expect(0).out;
        let mut expect = promised.clone();
        if args.len() == 2 {
            expect.remove("version");
        }
        assert_eq!(described(&help), expect, "{args:?}");
        for part in [
            "Images:",
            "Platforms:",
            "Directory:",
            "Registries:",
            "Transfer:",
            "Output:",
            "Global options:",
            "Examples:",
            "Exit codes:",
        ] {
            assert!(help.contains(&format!("\n{part}")), "{args:?} lacks {part}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 120), "a line is too long");
    }
    let short = place.run(&["-h"]).expect(0).out;
    assert!(short.contains("--failed-list <FILE>") && !short.contains("Examples:"));
    let version = place.run(&["--version"]).expect(0).out;
    assert_eq!(version, format!("saver {}\n", env!("CARGO_PKG_VERSION")));
    // Help helps even where the configuration is broken.
    let listing = place.run(&["help", "ls"]).expect(0).out;
    assert!(listing.contains("saver ls [OPTIONS]"), "{listing}");
    place.run(&["help"]).expect(0);
    place.write("bad.yaml", "jobs: many\n");
    place.run(&["--config", "bad.yaml", "--help"]).expect(0);
}

#[test]
fn completions_and_the_manual_are_made() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).expect(0).out;
        assert!(script.contains("failed-list"), "{shell}");
    }
    let page = place.run(&["man"]).expect(0).out;
    assert!(
        page.contains(".TH saver 1")
            && page.contains("failed\\-list")
            && page.contains(".SH \"EXAMPLES AND EXIT CODES\"\n.nf\n"),
        "{page}"
    );
    let page = place.run(&["man", "verify"]).expect(0).out;
    assert!(page.contains(concat!("\"saver ", env!("CARGO_PKG_VERSION"), "\"")), "{page}");
    assert!(page.contains(".TH saver-verify 1") && page.contains("\\-\\-deep"), "{page}");
    place.run(&["man", "nothing"]).expect(2);
    place.run(&["completions", "tcsh"]).expect(2);
}

#[test]
fn a_command_line_that_is_wrong_ends_with_2() {
    let place = Place::new();
    place.write("l.list", "nginx\n");
    for (args, message) in [
        (&[][..], "no images to save"),
        (&["nginx:1"], "missing required option '--dir'"),
        (&["--dir", "d", "nginx:1"], "missing required option '--arch'"),
        (&["--dir", "d", "--arch", "amd65", "nginx:1"], "unknown architecture \"amd65\""),
        (&["--dir", "d", "--arch", "amd64,all", "nginx:1"], "'all' cannot be combined"),
        (&["--dir", "d", "--arch", "all", "--jobs", "0", "nginx:1"], "a number from 1 to 256"),
        (&["--dir", "d", "--arch", "all", "--jobs", "x", "nginx:1"], "a number from 1 to 256"),
        (
            &["--dir", "d", "--arch", "amd64,arm64", "--index", "flatten", "nginx:1"],
            "--index flatten: only one platform",
        ),
        (&["--dir", "d", "lss"], "did you mean saver ls?"),
        (&["--dir", "d", "--arch", "all", "--report", "-", "nginx:1"], "stdout is not supported"),
        (&["ls"], "hint: add --dir DIR"),
        (&["--dir", "d", "--arch", "all", "--failedlist", "x", "nginx:1"], "did you mean '--failed-list'?"),
        (&["--dir", "d", "--arch", "all", "--names", "x", "nginx:1"], "name rule"),
        (&["--dir", "d", "--arch", "all", "--mirror", "x", "nginx:1"], "HOST=URL[,URL]"),
        (&["--dir", "d", "--arch", "all", "--username", "u", "nginx:1"], "each needs the other"),
        (
            &["--dir", "d", "--arch", "all", "--report", "f", "--failed-list", "./f", "nginx:1"],
            "the same file",
        ),
        (&["--dir", "d", "--arch", "all", "--list", "-", "--password-stdin"], "both read stdin"),
        (&["--dir", "d", "--arch", "all", "--list", "-", "--list", "-"], "only once"),
        (&["--dir", "d", "save", "--arch", "all", "nginx:1"], "must follow the command 'save'"),
        (
            &["--dir", "d", "--arch", "all", "--username", "u", "--password-stdin", "nginx:1", "quay.io/a/b"],
            "2 registries: docker.io, quay.io",
        ),
    ] {
        let ran = place.run(args).expect(2);
        assert!(ran.err.contains(message), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty() && !place.path("d").exists(), "{args:?}");
    }
}

/// Whatever it is that can't be written, and whichever command was to write it.
#[test]
fn path_that_cannot_be_written_is_refused_before_requests() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    // A name that would be asked for, and is not: nobody listens there.
    let image = "127.0.0.1:1/a:1";
    for (args, code, message) in [
        (
            &["--dir", "d", "--arch", "all", "--report", "no/report", image][..],
            2,
            "--report no/report: cannot",
        ),
        (
            &["--dir", "d", "--arch", "all", "--failed-list", "no/list", image],
            2,
            "--failed-list no/list: cannot",
        ),
        (&["--dir", "file/d", "--arch", "all", image], 3, "file/d: cannot"),
        (
            &["export", "--from-registry", "--format", "oci-archive", "-o", "no/a.tar", image],
            2,
            "no/a.tar: cannot",
        ),
        (
            &["export", "--from-registry", "--format", "oci-layout", "-o", "file/l", image],
            3,
            "file/l: cannot",
        ),
        (&["copy", "--report", "no/report", image, "127.0.0.1:1/b"], 2, "--report no/report: cannot"),
    ] {
        let ran = place.run(args).expect(code);
        assert!(ran.err.contains(message) && ran.err.contains("hint: "), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("refused"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn every_bad_line_of_every_list_is_told_before_anything_is_fetched() {
    let place = Place::new();
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists/bad.list");
    place.write("l.yaml", "- registry: a.io\n  images: [Upper, \"x\\e[31m:1\"]\n");
    let ran = place.run(&[
        "--list",
        bad.to_str().unwrap(),
        "--list",
        "l.yaml",
        "--list",
        "missing.list",
        "--dir",
        "d",
        "--arch",
        "amd64",
        "Also/Bad",
    ]);
    let ran = ran.expect(2);
    for line in 2..=30 {
        assert!(ran.err.contains(&format!("bad.list:{line}: ")), "line {line}:\n{}", ran.err);
    }
    for message in [
        "l.yaml:2: \"Upper\"",
        "missing.list: cannot read",
        "image 1: \"Also/Bad\"",
        "33 problems in the list of images; nothing was done",
    ] {
        assert!(ran.err.contains(message), "{message}:\n{}", ran.err);
    }
    assert!(!ran.err.contains('\u{1b}'));
    assert!(!place.path("d").exists());
}

#[test]
fn saves_what_it_can_and_says_what_it_could_not() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let list = format!(
        "{host}/demo/app:1.0 platform=arm64\n{host}/nope:1 platform=all\n{host}/demo/app:1.0 platform=linux/arm64/v8\n"
    );
    place.write("l.list", &list);
    let args = [
        "--list",
        "l.list",
        "--dir",
        "d",
        "--arch",
        "amd64",
        "--report",
        "r.json",
        "--failed-list",
        "f.list",
    ];
    let ran = place.run(&args).expect(1);
    for row in ["images 2", "saved 1", "unchanged 0", "failed 1"] {
        assert!(ran.has_row(row), "{}", ran.out);
    }
    assert!(ran.err.contains(&format!("note: l.list:3: {host}/demo/app:1.0 is already listed at l.list:1")));
    assert!(
        ran.err.contains(&format!("failed: {host}/nope:1: ")) && ran.err.contains("  hint: "),
        "{}",
        ran.err
    );
    assert!(ran.err.contains(&format!("saved     {host}/demo/app:1.0 ")), "{}", ran.err);

    let report: serde_json::Value = serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    let rows = report["images"].as_array().unwrap();
    assert_eq!((rows[0]["status"].as_str(), rows[1]["status"].as_str()), (Some("saved"), Some("failed")));
    assert_eq!(rows[0]["platforms"], serde_json::json!(["linux/arm64/v8"]));
    assert_eq!(rows[1]["error"]["kind"], "not-found");

    let failed = fs::read_to_string(place.path("f.list")).unwrap();
    assert!(failed.starts_with(&format!("{host}/nope:1 platform=all  # ")), "{failed}");
    let again = place.run(&["--list", "f.list", "--dir", "d", "--arch", "amd64", "-q"]).expect(1);
    assert!(again.out.is_empty());
    assert!(again.err.starts_with(&format!("failed: {host}/nope:1: ")), "{}", again.err);

    let quiet =
        place.run(&["--dir", "d", "--arch", "arm64", "-q", &format!("{host}/demo/app:1.0")]).expect(0);
    assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{}{}", quiet.out, quiet.err);
    let none = place.run(&[
        "--dir",
        "d",
        "--arch",
        "arm64",
        "--failed-list",
        "f.list",
        &format!("{host}/demo/app:1.0"),
    ]);
    assert!(none.expect(0).has_row("unchanged 1"));
    // Where every line says its platforms, --arch is not needed.
    let own = place.run(&["--dir", "d", "--list", "l.list", "--list", "f.list"]).expect(1);
    assert!(own.has_row("unchanged 1"), "{}", own.out);
    // A list of no failures is a list too.
    place.run(&["--dir", "d", "--arch", "arm64", "--list", "f.list"]).expect(0);
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let image = format!("{host}/demo/app:1.0");
    let ran = place
        .run(&["--dir", "new/tree", "--arch", "amd64", "--dry-run", "--report", "p.json", &image])
        .expect(0);
    assert!(
        ran.out.contains(&image) && ran.out.contains("download") && ran.out.contains("free space: "),
        "{}",
        ran.out
    );
    assert!(!place.path("new").exists());
    let plan: serde_json::Value = serde_json::from_slice(&fs::read(place.path("p.json")).unwrap()).unwrap();
    assert_eq!(plan["images"][0]["status"], "would-save");
    assert!(plan["fetch_bytes"].as_u64().unwrap() > 0);
    place.run(&["--dir", "new/tree", "--arch", "amd64", "--dry-run", &format!("{host}/nope:1")]).expect(1);
}

#[test]
fn json_progress_is_all_that_stdout_has() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let mut args = vec!["save", "--dir", "d", "--arch", "amd64", "--progress", "json"];
    let image = format!("{host}/demo/app:1.0");
    args.push(&image);
    let ran = place.run(&args).expect(0);
    let events: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "run-started");
    assert_eq!(events.last().unwrap()["event"], "run-finished");
    assert_eq!(events.last().unwrap()["saved"], 1);
    for event in &events {
        let name = event["event"].as_str().unwrap();
        assert!(EVENTS.contains(&format!("| `{name}` |")), "{name} is not documented");
        let row = EVENTS.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        for field in event.as_object().unwrap().keys() {
            let is_documented =
                row.contains(&format!("`{field}`")) || ["event", "elapsed"].contains(&field.as_str());
            assert!(is_documented || name == "image-finished", "{name}: {field} is not documented");
        }
    }
    assert_eq!(of("image-finished")[0]["reference"], image.as_str());
    let sum = |name, key: &str| of(name).iter().map(|event| event[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("blob-advanced", "bytes"), sum("blob-started", "size"));
    assert!(ran.err.is_empty(), "{}", ran.err);

    args.push("--dry-run");
    let ran = place.run(&args).expect(0);
    let last: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["event"].as_str(), last["images"][0]["status"].as_str()),
        (Some("run-planned"), Some("unchanged"))
    );
    assert!(ran.out.contains("\"event\":\"image-finished\""), "{}", ran.out);
}

#[test]
fn a_reader_that_goes_away_does_not_fail_the_run() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let image = format!("{host}/demo/app:1.0");
    let args = ["--dir", "d", "--arch", "amd64", "--progress", "json", &image];
    let mut child = place.saver(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_printed_is_told_once_and_is_no_success() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let image = format!("{host}/demo/app:1.0");
    place.write("pod.yaml", "spec: {containers: [{image: a.io/b:1}]}\n");
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/registry");
    for args in [
        &["--help"][..],
        &["man"],
        &["completions", "bash"],
        &["ls", "--dir", tree],
        &[&image, "--dir", "d", "--arch", "amd64", "--progress", "none"],
        &[&image, "--dir", "d", "--arch", "amd64", "--progress", "json"],
        &[&image, "--dir", "d", "--arch", "amd64", "--dry-run"],
        &["scan", "pod.yaml"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = Ran::of(place.saver(args).stdout(full).output().unwrap()).expect(3);
        assert_eq!(ran.err.matches("error: stdout: cannot write").count(), 1, "{args:?}: {}", ran.err);
    }
}

#[test]
fn architectures_may_be_given_one_by_one() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let image = format!("{host}/demo/app:1.0");
    let row = |args: &[&str]| {
        let ran = place.run(&[&[image.as_str(), "--dir", "d", "--dry-run"], args].concat()).expect(0);
        ran.out.lines().find(|line| line.contains("demo/app:1.0")).unwrap().to_owned()
    };
    let both = row(&["--arch", "amd64,arm64"]);
    assert!(both.contains("amd64,arm64"), "{both}");
    assert_eq!(row(&["--arch", "amd64", "--platform", "linux/arm64"]), both);
    let wrong = [&image, "--dir", "d", "--dry-run", "--arch", "all", "--arch", "amd64"];
    assert!(place.run(&wrong).expect(2).err.contains("'all' cannot be combined"));
}

#[test]
fn a_list_may_come_through_stdin() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let args = ["--list", "-", "--dir", "d", "--arch", "amd64"];
    let mut child = place
        .saver(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!("- registry: {host}\n  images:\n  - demo/app:1.0\n  - library/hello:1.0\n");
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(0);
    assert!(ran.has_row("saved 2"), "{}", ran.out);
}

#[test]
fn flags_beat_the_environment_and_that_the_file() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    let image = format!("{host}/demo/app:1.0");
    fs::create_dir_all(place.path(".config/saver")).unwrap();
    place.write(".config/saver/config.yaml", "dir: from-file\narch: [amd64]\nprogress: none\n");
    // The user's own file is found; the tree it names is made.
    place.run(&[&image]).expect(0);
    assert!(place.path("from-file/docker").exists());
    let ran = place.saver(&["save", &image]).env("SAVER_DIR", "from-environment").output().unwrap();
    Ran::of(ran).expect(0);
    assert!(place.path("from-environment/docker").exists());
    let ran = place.saver(&["--dir", "from-flag", &image]).env("SAVER_DIR", "not-this").output().unwrap();
    Ran::of(ran).expect(0);
    assert!(place.path("from-flag/docker").exists() && !place.path("not-this").exists());
    // Another command's flags are set the same way, also where they are needed.
    let listed = place.run(&["ls"]).expect(0);
    assert!(listed.out.contains("demo/app"), "{}", listed.out);

    place.write("c.yaml", "dir: d\narch: all\n\nfailed_list: f\n");
    let ran = place.run(&["--config", "c.yaml", &image]).expect(2);
    assert!(ran.err.contains("c.yaml:4: failed_list: unknown option"), "{}", ran.err);
    assert!(ran.err.contains("did you mean failed-list?"));
    let ran = place.saver(&["ls"]).env("SAVER_DIRR", "x").output().unwrap();
    assert!(
        Ran::of(ran).expect(0).err.contains("SAVER_DIRR is not a setting of saver; did you mean SAVER_DIR?")
    );
    let ran = place.saver(&[&image]).env("SAVER_JOBS", "many").output().unwrap();
    assert!(Ran::of(ran).expect(2).err.contains("SAVER_JOBS: invalid value 'many'"));
}

#[test]
fn a_tree_that_cannot_be_written_ends_with_3() {
    let place = Place::new();
    let (_registry, host) = sample_registry(&place);
    place.write("file", "");
    let ran =
        place.run(&["--dir", "file/tree", "--arch", "amd64", &format!("{host}/demo/app:1.0")]).expect(3);
    assert!(ran.err.contains("file/tree: cannot ") && ran.err.contains("hint: "), "{}", ran.err);
}

/// A registry that accepts connections; `answer` says what becomes of each.
fn odd_registry(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

#[test]
fn interrupting_stops_the_run_with_130() {
    let (sender, asked) = std::sync::mpsc::channel();
    // Connections are kept open and never answered.
    let held = std::sync::Mutex::new(Vec::new());
    let host = odd_registry(move |stream| {
        held.lock().unwrap().push(stream);
        let _ = sender.send(());
    });
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::HUP]
    {
        let place = Place::new();
        let image = format!("{host}/a/b:1");
        let args = ["--dir", "d", "--arch", "amd64", "--failed-list", "f.list", &image];
        let child = place.saver(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        asked.recv().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ran = Ran::of(child.wait_with_output().unwrap()).expect(130);
        assert!(ran.err.contains("stopping: complete content is kept"), "{}", ran.err);
        assert!(ran.err.contains("not finished: 1 image; run the same command again"), "{}", ran.err);
        assert!(ran.has_row("not finished 1") && ran.has_row("failed 0"), "{}", ran.out);
        assert!(!ran.err.contains("failed"), "{}", ran.err);
        let failed = fs::read_to_string(place.path("f.list")).unwrap();
        assert!(failed.starts_with(&image), "{failed}");
    }
}

#[test]
fn nothing_that_a_registry_says_reaches_the_terminal_raw() {
    let host = odd_registry(|mut stream| {
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap_or(0);
        let body = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\\u001b]0;owned\\u0007 \\u202egpj\"}]}";
        // Without a digest in the answer to HEAD the manifest is asked for, and that is refused with words.
        let answer = if request[..length].starts_with(b"HEAD") {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n".to_owned()
        } else {
            let length = body.len();
            format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let place = Place::new();
    let image = format!("{host}/a/b:1");
    for extra in [&["-vv"][..], &["--log-format", "json", "-vv"], &["--color", "never"]] {
        let mut args = vec!["--dir", "d", "--arch", "amd64", "--retries", "0", &image];
        args.extend(extra);
        let ran = place.run(&args).expect(1);
        let all = format!("{}{}", ran.out, ran.err);
        assert!(all.contains("owned"), "the registry's words are printed: {all}");
        for line in ran.err.lines().filter(|line| line.starts_with('{')) {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(!all.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{all:?}");
    }
}

#[test]
fn credentials_come_from_stdin_files_and_lists_and_are_never_printed() {
    let (sender, shown) = std::sync::mpsc::channel();
    let host = odd_registry(move |mut stream| {
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
        let authorization = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        let status = match authorization {
            Some(value) => {
                let _ = sender.send(value.to_owned());
                "404 Not Found\r\n"
            }
            None => "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n",
        };
        let answer = format!("HTTP/1.1 {status}Content-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    // base64 of robot:hunter2, in lower case as the request was read.
    const EXPECT: &str = "basic cm9ib3q6ahvudgvymg==";
    let place = Place::new();
    let image = format!("{host}/a/b:1");
    place.write(
        "auth.yaml",
        &format!("- {{registry: \"{host}\", username: robot, password: hunter2, images: [\"a/b:1\"]}}\n"),
    );
    fs::create_dir(place.path(".docker")).unwrap();
    let file = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"cm9ib3Q6aHVudGVyMg==\"}}}}}}");
    place.write("auth.json", &file);
    let base = ["--dir", "d", "--arch", "amd64", "-vv"];
    for (args, stdin) in [
        (&["--username", "robot", "--password-stdin", &image][..], "hunter2\n"),
        (&["--authfile", "auth.json", &image], ""),
        (&["--list", "auth.yaml"], ""),
        (&[&image], ""),
    ] {
        if args.len() == 1 {
            fs::rename(place.path("auth.json"), place.path(".docker/config.json")).unwrap();
        }
        let mut command = place.saver(&base);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let ran = Ran::of(child.wait_with_output().unwrap()).expect(1);
        assert_eq!(shown.recv().unwrap(), EXPECT, "{args:?}");
        for secret in ["hunter2", "cm9ib3Q6"] {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{args:?}: {}", ran.err);
        }
    }
}
