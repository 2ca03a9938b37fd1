//! Progress output of `saver export`: an image is reported as exported only once it is.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::export::{Bench, large};
use super::support::program::{Ran, Victim, run};

fn report(bench: &Bench) -> Value {
    serde_json::from_slice(&fs::read(bench.path("report.json")).unwrap()).unwrap()
}

/// Sends SIGINT, like Ctrl-C.
fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// Asserts that no stream and no report calls an image exported.
fn exported_nothing(bench: &Bench, ran: &Ran, kind: &str) {
    assert!(!ran.stderr.contains("exported") && ran.stdout.is_empty(), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("not finished: 1 image"), "{}", ran.stderr);
    let report = report(bench);
    assert_eq!(report["images"][0]["status"], "failed");
    assert_eq!(
        (&report["images"][0]["error"]["kind"], &report["aborted"]["kind"]),
        (&"cancelled".into(), &kind.into())
    );
}

/// An export to a stream whose reader stops after the first byte.
fn stalled(bench: &Bench, image: &str, more: &[&str]) -> Victim {
    let mut command = bench.home.saver(["export", "--format", "oci-archive", "-o", "-", image, "--report"]);
    command.arg(bench.path("report.json")).args(more);
    Victim::start(&mut command)
}

#[test]
fn interrupted_export_ends_though_its_reader_stalls() {
    let bench = Bench::new();
    let image = large(&bench, 12);
    let mut victim = stalled(&bench, &image, &["--dir", &bench.text("tree")]);
    victim.first_byte();
    interrupt(victim.id());
    let asked = Instant::now();
    let ran = victim.end_within(Duration::from_secs(5), asked).expect(130);
    assert!(
        ran.stderr.contains("stopping: what was written so far is not a valid archive"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("resume"), "{}", ran.stderr);
    let without_stdout = Ran { stdout: String::new(), ..ran };
    exported_nothing(&bench, &without_stdout, "cancelled");
}

#[test]
fn insufficient_disk_space_is_reported_before_writing() {
    let bench = Bench::new();
    let image = large(&bench, 3);
    // A limit on file sizes is reached in the middle of writing.
    let script = "ulimit -f 2048; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_saver"), "export", "--format", "oci-archive"]);
    command.args(["--dir", &bench.text("tree"), "-o", &bench.text("a.tar"), &image]);
    command.args(["--report", &bench.text("report.json")]);
    fs::write(bench.path("a.tar"), "as it was").unwrap();
    let ran = run(&mut command).expect(3);
    assert!(ran.stderr.contains("a.tar: cannot write"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no archive was written"), "{}", ran.stderr);
    exported_nothing(&bench, &ran, "storage");
    assert_eq!(fs::read_to_string(bench.path("a.tar")).unwrap(), "as it was");
    assert_eq!(bench.outputs(), ["a.tar", "report.json"]);
}

#[test]
fn archive_steps_are_reported_before_its_images() {
    let bench = Bench::new();
    let image = large(&bench, 3);
    let mut command =
        bench.home.saver(["export", "--format", "docker-archive", "--progress", "json", "--dir"]);
    let ran = run(command.arg(bench.path("tree")).arg("-o").arg(bench.path("a.tar")).arg(&image)).expect(0);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |name: &str, step: &str| {
        let is = |event: &&Value| event["event"] == name && (step.is_empty() || event["step"] == step);
        events.iter().position(|event| is(&event)).unwrap_or_else(|| panic!("no {name} {step}: {events:#?}"))
    };
    let order = [
        at("archive-started", "checking"),
        at("archive-finished", "checking"),
        at("archive-started", "writing"),
        at("archive-finished", "writing"),
        at("image-finished", ""),
        at("run-finished", ""),
    ];
    assert!(order.is_sorted(), "{order:?}");
    // The time for writing the archive counts for its images and for the run.
    let number = |event: usize, field: &str| events[event][field].as_f64().unwrap();
    let made = number(order[3], "elapsed") - number(order[0], "elapsed");
    for event in [order[4], order[5]] {
        assert!(number(event, "seconds") >= made - 0.002, "{made}: {:#}", events[event]);
    }
    let length = fs::metadata(bench.path("a.tar")).unwrap().len();
    let written =
        events.iter().filter(|event| event["event"] == "archive-advanced" && event["step"] == "writing");
    let written: u64 = written.map(|event| event["bytes"].as_u64().unwrap()).sum();
    assert_eq!((written, events[order[2]]["bytes"].as_u64()), (length, Some(length)));
    assert_eq!((&events[order[4]]["status"], &events[order[5]]["exported"]), (&"exported".into(), &1.into()));
}

#[test]
fn report_rows_have_requested_names() {
    let bench = Bench::new();
    for (format, to, from) in [
        ("oci-archive", "a.tar", "--from-registry"),
        ("oci-layout", "layout", "--from-registry"),
        ("oci-layout", "other", "--dir"),
        ("oci-archive", "b.tar", "--dir"),
    ] {
        let report_file = bench.text("report.json");
        let mut more = vec!["--report", &report_file, from];
        let tree = bench.text("tree");
        more.extend((from == "--dir").then_some(&*tree));
        run(&mut bench.command(&["demo/single:1.0"], format, to, &more)).expect(0);
        let report = report(&bench);
        let row = &report["images"][0];
        assert_eq!(row["reference"], bench.name("demo/single:1.0"));
        assert_eq!(
            (&row["repository"], &row["tag"]),
            (&"demo/single".into(), &"1.0".into()),
            "{format} {from}"
        );
        assert_eq!(row["status"], "exported");
    }
}

#[test]
fn open_file_is_written_in_place() {
    let bench = Bench::new();
    bench.export_one("whole.tar");
    let whole = fs::read(bench.path("whole.tar")).unwrap();
    for (place, redirection) in [("/dev/stdout", ">"), ("/dev/fd/3", "3>"), ("/proc/self/fd/4", "4>")] {
        let mut command = Command::new("bash");
        let script = format!("exec \"$@\" {redirection}\"$OUT\"");
        command.args([
            "-c",
            &script,
            "bash",
            env!("CARGO_BIN_EXE_saver"),
            "export",
            "--format",
            "oci-archive",
        ]);
        command.args(["--dir", &bench.text("tree"), "-o", place, &bench.name("demo/single:1.0")]);
        let ran = run(command.env("OUT", bench.path("out.tar"))).expect(0);
        assert!(fs::read(bench.path("out.tar")).unwrap() == whole, "{place}: {}", ran.stderr);
    }
    // A named pipe.
    let pipe = bench.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).spawn().unwrap();
    let mut tried = 0;
    while run(&mut bench.command(
        &["demo/single:1.0"],
        "oci-archive",
        "pipe",
        &["--dir", &bench.text("tree")],
    ))
    .code
        != Some(0)
    {
        tried += 1;
        assert!(tried < 20, "the reader never came");
    }
    assert!(reader.wait_with_output().unwrap().stdout == whole);
    assert!(!fs::metadata(&pipe).unwrap().is_file());
}
