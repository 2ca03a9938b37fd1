//! The command itself: what it prints, and how it ends.

use super::super::support::peers::samples;
use super::super::support::serving::ask;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// The command, killed when dropped.
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
fn one_line_tells_the_address_and_a_signal_stops() {
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
fn the_log_tells_of_each_request_when_asked() {
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
fn what_cannot_be_is_told() {
    let dir = samples();
    let dir = dir.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, words) in [
        (vec!["--dir", "/nonexistent"], 3, "cannot open the directory"),
        (vec!["--dir", dir, "--listen", &taken], 3, "cannot listen"),
        (vec!["--dir", dir, "--listen", "somewhere"], 2, "--listen"),
        (vec!["--dir", dir, "--tls-cert", "x.pem"], 2, "together"),
        (vec!["--dir", dir, "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], 2, "cannot read"),
        (vec![], 2, "--dir"),
    ] {
        let output = command(&arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}
