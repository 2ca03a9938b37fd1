//! How images that failed are reported: on stderr, in the table, in the report and in the failed list.

use super::support::handmade::Tree;
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::program::{Home, Ran, finish, run};
use super::support::serving::Serving;
use crate::support::scratch::Scratch;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

/// A tree with one image, `there:1`.
fn one_image() -> Tree {
    let tree = Tree::new();
    let image = tree.image("there", "linux/amd64", &[b"a layer"]);
    tree.tag("there", "1", &image.digest);
    tree
}

fn has_row(ran: &Ran, words: &str) -> bool {
    ran.stdout.lines().any(|line| line.split_whitespace().eq(words.split(' ')))
}

/// A registry that accepts connections and answers nothing; a word for each connection.
fn silent_registry() -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (sender, asked) = channel();
    let held = Mutex::new(Vec::new());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            held.lock().unwrap().push(stream);
            let _ = sender.send(());
        }
    });
    (host, asked)
}

/// Runs, and asks the run to stop once it has asked for something.
fn interrupted(home: &Home, arguments: &[&str], asked: &Receiver<()>) -> Ran {
    let mut command = home.saver(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    asked.recv().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    finish(child).expect(130)
}

#[test]
fn failures_with_one_cause_have_one_reason_and_hint() {
    let (home, tree) = (Home::new(), one_image());
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    let list: String = (0..50).map(|number| format!("{host}/team/svc-{number}:1\n")).collect();
    home.write("l.list", &list);
    for more in [&[][..], &["--dry-run"]] {
        let arguments = ["--list", "l.list", "--dir", "d", "--arch", "amd64", "--progress", "none"];
        let ran = run(home.saver(arguments).args(more)).expect(1);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), 52, "{more:?}: {}", ran.stderr);
        let reason = "failed: 50 images: the repository does not exist";
        assert!(lines[0].starts_with(&format!("{reason}: http://{host} returned 404 ")), "{}", ran.stderr);
        for (number, line) in lines.iter().skip(1).take(50).enumerate() {
            assert_eq!(*line, format!("  {host}/team/svc-{number}:1"), "{more:?}");
        }
        assert!(lines[51].starts_with("  hint: "), "{}", ran.stderr);
    }
}

#[test]
fn clients_of_sparse_indexes_are_named_before_bytes_move() {
    let (home, tree) = (Home::new(), Tree::new());
    let images =
        ["amd64", "arm64"].map(|arch| tree.image("app", &format!("linux/{arch}"), &[arch.as_bytes()]));
    tree.tag("app", "1", &tree.index("app", &images).digest);
    let server = Serving::start(tree.dir());
    let image = format!("{}/app:1", server.address);
    let save = |progress: &str| {
        run(&mut home.saver(["--dir", "d", "--arch", "amd64", "--progress", progress, &image])).expect(0)
    };
    let ran = save("plain");
    let (note, done) = (ran.stderr.find("need --index prune"), ran.stderr.find("[1/1] saved"));
    assert!(note.is_some() && note < done, "{}", ran.stderr);
    assert!(!ran.stdout.contains("--index prune"), "told once: {}", ran.stdout);
    let ran = save("none");
    assert!(ran.stdout.contains("need --index prune"), "{}", ran.stdout);
    let root = Scratch::new();
    let registry =
        Registry::start(root.path(), &RegistryOptions { writable: true, ..RegistryOptions::default() });
    let push = ["push", "--dir", "d", "--index", "keep", "--progress", "plain", &registry.address];
    let ran = run(&mut home.saver(push)).expect(1);
    let (note, done) = (ran.stderr.find("need --index prune"), ran.stderr.find("[1/1] failed"));
    assert!(note.is_some() && note < done, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("MANIFEST_BLOB_UNKNOWN").count(), 1, "{}", ran.stderr);
    assert!(!save("plain").stderr.contains("--index prune"), "nothing is to move any more");
    fs::remove_dir_all(home.path("d")).unwrap();
    let events = save("json").stdout;
    let planned: Value = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["event"] == "image-planned")
        .unwrap();
    assert_eq!(planned["omitted"], serde_json::json!(["linux/arm64"]));
}

#[test]
fn dry_run_writes_the_same_failed_list() {
    let (home, tree) = (Home::new(), one_image());
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    home.write("l.list", &format!("{host}/there:1\n{host}/nope:1 platform=arm64\n{host}/there:2\n"));
    let lists = ["planned.list", "real.list"].map(|name| {
        let more: &[&str] = if name == "planned.list" { &["--dry-run"] } else { &[] };
        let arguments = ["--list", "l.list", "--dir", "d", "--arch", "amd64", "--failed-list", name];
        run(home.saver(arguments).args(more)).expect(1);
        fs::read_to_string(home.path(name)).unwrap()
    });
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0].lines().count(), 2, "{}", lists[0]);
    assert!(lists[0].starts_with(&format!("{host}/nope:1 platform=linux/arm64  # ")), "{}", lists[0]);
    let fine = ["--dir", "d", "--arch", "amd64", "--dry-run", "--failed-list", "none.list"];
    run(home.saver(fine).arg(format!("{host}/there:1"))).expect(0);
    assert_eq!(fs::read_to_string(home.path("none.list")).unwrap(), "# no image failed\n");
    // What is not there can't be pushed either.
    let push = ["push", "--dir", "d", "--dry-run", "--failed-list", "push.list", "nope:1", &host];
    run(&mut home.saver(push)).expect(1);
    let push = fs::read_to_string(home.path("push.list")).unwrap();
    assert!(push.starts_with("docker.io/library/nope:1  # "), "{push}");
}

#[test]
fn unfinished_images_are_counted_apart_from_failures() {
    let home = Home::new();
    let (host, asked) = silent_registry();
    let image = format!("{host}/a/b:1");
    let arguments = ["--dir", "d", "--arch", "amd64", "--report", "r.json", &image];
    let ran = interrupted(&home, &arguments, &asked);
    assert!(has_row(&ran, "failed 0") && has_row(&ran, "not finished 1"), "{}", ran.stdout);
    let report: Value = serde_json::from_slice(&fs::read(home.path("r.json")).unwrap()).unwrap();
    let row = &report["images"][0];
    assert_eq!((&row["status"], &row["error"]["kind"]), (&"failed".into(), &"cancelled".into()));

    let ran = interrupted(&home, &[&arguments[..], &["--progress", "json"]].concat(), &asked);
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["failed"], &last["not_finished"]), (&1.into(), &1.into()), "{last}");

    let ran = interrupted(&home, &[&arguments[..], &["--dry-run"]].concat(), &asked);
    assert!(!ran.stderr.contains("failed"), "{}", ran.stderr);
    assert!(ran.stderr.contains("not finished: 1 image"), "{}", ran.stderr);
    assert!(has_row(&ran, &format!("{image} unknown 0 B 0 B")), "{}", ran.stdout);
}

#[test]
fn empty_list_is_an_error_unless_no_image_failed() {
    let (home, tree) = (Home::new(), one_image());
    let server = Serving::start(tree.dir());
    let host = server.address.to_string();
    home.write("none.list", "# no image failed\n\n");
    home.write("some.list", &format!("{host}/there:1\n"));
    let message = |name: &str| format!("warning: {name}: the list names no images\n");
    let saving = ["--dir", "d", "--arch", "amd64", "--list"];
    home.write("comment.list", "# nothing yet\n");
    for (list, name) in [("comment.list", "comment.list"), ("-", "stdin")] {
        let ran = run(home.saver(saving).arg(list)).expect(2);
        assert!(
            ran.stderr.starts_with(&format!("error: {name}: the list names no images\n")),
            "{}",
            ran.stderr
        );
        assert!(!home.path("d").exists(), "{name}");
    }
    let ran = run(home.saver(saving).arg("none.list")).expect(0);
    assert_eq!(ran.stderr, message("none.list"));
    let ran = run(home.saver(saving).args(["comment.list", "--list", "some.list"])).expect(0);
    assert!(ran.stderr.starts_with(&message("comment.list")), "{}", ran.stderr);
    fs::remove_dir_all(home.path("d")).unwrap();
    let ran = run(home.saver(saving).args(["none.list", "--list", "some.list"])).expect(0);
    assert!(ran.stderr.starts_with(&message("none.list")) && has_row(&ran, "saved 1"), "{}", ran.stderr);
    let ran = run(home.saver(saving).args(["some.list"])).expect(0);
    assert!(!ran.stderr.contains("names no images"), "{}", ran.stderr);
    let ran = run(home.saver(saving).args(["none.list", "-q"])).expect(0);
    assert_eq!(ran.stderr, "");
}

#[test]
fn empty_list_pushes_nothing() {
    let (home, tree) = (Home::new(), one_image());
    home.write("none.list", "# no image failed\n");
    let dir = tree.dir().to_str().unwrap();
    // Nobody listens there: to push anything would fail.
    let push = ["push", "--dir", dir, "--retries", "0", "--report", "r.json", "--failed-list", "f.list"];
    for (more, code) in
        [(&["--list", "none.list"][..], 0), (&["--list", "none.list", "--dry-run"], 0), (&[], 1)]
    {
        for name in ["r.json", "f.list"] {
            let _ = fs::remove_file(home.path(name));
        }
        let ran = run(home.saver(push).args(more).arg("127.0.0.1:1")).expect(code);
        assert_eq!(ran.stderr.contains("none.list: the list names no images"), code == 0, "{}", ran.stderr);
        let report: Value = serde_json::from_slice(&fs::read(home.path("r.json")).unwrap()).unwrap();
        assert_eq!(report["images"].as_array().unwrap().len(), usize::try_from(code).unwrap(), "{more:?}");
        let failed = fs::read_to_string(home.path("f.list")).unwrap();
        assert_eq!(failed == "# no image failed\n", code == 0, "{failed}");
    }
}
