//! The command: output, exit codes and signals.

use super::super::support::peers::samples;
use super::super::support::serving::ask;
use crate::support::scratch::Scratch;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// A process that is killed on drop.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.arg("serve").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("SAVER_CONFIG").env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

#[test]
fn first_line_has_address_and_signal_stops() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let dir = samples();
        let child = command(&["--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]).spawn().unwrap();
        let mut started = Started(child);
        let mut stdout = BufReader::new(started.0.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").unwrap().trim();
        assert_eq!(ask(address, "GET", "/v2/", &[]).body, b"{}");
        rustix::process::kill_process(rustix::process::Pid::from_child(&started.0), signal).unwrap();
        let status = started.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}");
        let (mut rest, mut stderr) = (String::new(), String::new());
        stdout.read_to_string(&mut rest).unwrap();
        started.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((rest.as_str(), stderr.as_str()), ("", ""));
    }
}

#[test]
fn verbose_log_has_each_request() {
    let dir = samples();
    let arguments = ["-v", "--log-format", "json", "--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut started = Started(command(&arguments).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(started.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("listening on http://").unwrap().trim();
    let path = "/v2/library/hello/manifests/1.0";
    let length = ask(address, "GET", path, &[]).body.len();
    let pid = rustix::process::Pid::from_child(&started.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut log = String::new();
    started.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let fields: Vec<_> =
        lines.map(|line| line["fields"].clone()).filter(|line| line["path"].is_string()).collect();
    assert_eq!(fields.len(), 1, "{log}");
    assert!(fields[0]["path"] == path && fields[0]["ms"].is_u64(), "{log}");
    assert_eq!((&fields[0]["method"], &fields[0]["status"]), (&"GET".into(), &200.into()));
    assert_eq!(fields[0]["bytes"], length);
}

#[test]
fn unusable_arguments_are_reported() {
    let dir = samples();
    let dir = dir.to_str().unwrap();
    let empty = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, words) in [
        (vec!["--dir", "/nonexistent"], 2, "cannot open the directory"),
        (vec!["--dir", "/etc"], 2, "not a directory of images"),
        (vec!["--dir", empty.path().to_str().unwrap()], 2, "check that it is mounted"),
        (vec!["--dir", dir, "--listen", "0.0.0.0:0", "--htpasswd", "/nonexistent"], 2, "in plain text"),
        (vec!["--dir", dir, "--htpasswd", "/nonexistent"], 2, "cannot read the file"),
        (vec!["--dir", dir, "--htpasswd", "/etc/passwd"], 2, "htpasswd -nB"),
        (vec!["--dir", dir, "--access-log", "xml"], 2, "common"),
        (vec!["--dir", dir, "--listen", &taken], 3, "cannot listen"),
        (vec!["--dir", dir, "--listen", "somewhere"], 2, "--listen"),
        (vec!["--dir", dir, "--tls-cert", "x.pem"], 2, "each needs the other"),
        (vec!["--dir", dir, "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], 2, "cannot read"),
        (vec![], 2, "--dir"),
    ] {
        let output = command(&arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn access_log_goes_to_standard_output() {
    let dir = samples();
    for (format, expected) in [
        ("common", r#"] "GET /v2/library/hello/manifests/1.0 HTTP/1.1" 200 "#),
        (
            "json",
            r#""method":"GET","target":"/v2/library/hello/manifests/1.0","protocol":"HTTP/1.1","status":200"#,
        ),
    ] {
        let arguments =
            ["--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--access-log", format, "--metrics"];
        let mut started = Started(command(&arguments).spawn().unwrap());
        let mut stdout = BufReader::new(started.0.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").unwrap().trim().to_owned();
        assert_eq!(ask(&address, "GET", "/v2/library/hello/manifests/1.0", &[]).status, 200);
        assert_eq!(ask(&address, "GET", "/metrics", &[]).status, 200);
        let pid = rustix::process::Pid::from_child(&started.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut log = String::new();
        stdout.read_to_string(&mut log).unwrap();
        assert!(log.contains(expected), "{log}");
        assert_eq!((log.lines().count(), started.0.wait().unwrap().code()), (2, Some(0)), "{log}");
    }
}
