//! containerd with its own state in a temporary directory, and its client `ctr`.

use std::process::Command;

use tempfile::TempDir;

use super::{Daemon, succeed};

/// A containerd of the test's own, ended when dropped. It needs to run as root.
pub(crate) struct Containerd {
    socket: String,
    _daemon: Daemon,
    _state: TempDir,
}

impl Containerd {
    /// Starts containerd without its CRI service, which would want a network of its own.
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let dir = state.path().to_str().expect("a path in UTF-8");
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\n  address = \"{dir}/grpc.sock\"\n[ttrpc]\n  address = \"{dir}/ttrpc.sock\"\n"
        );
        let file = state.path().join("config.toml");
        std::fs::write(&file, config).expect("a configuration");
        let socket = format!("{dir}/grpc.sock");
        let (daemon, ()) = Daemon::start(Command::new("containerd").arg("--config").arg(&file), |line| {
            line.contains("successfully booted").then_some(())
        });
        Self { socket, _daemon: daemon, _state: state }
    }

    /// Pulls and unpacks an image over plain HTTP; the digest that containerd gives it.
    pub(crate) fn pull(&self, reference: &str, platform: &str) -> String {
        self.ctr(&[
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            "native",
            "--platform",
            platform,
            reference,
        ]);
        let listed = self.ctr(&["images", "ls", &format!("name=={reference}")]);
        let row = listed.lines().nth(1).expect("a row for the image");
        row.split_whitespace().nth(2).expect("a digest").to_owned()
    }

    /// Runs `ctr`, which must succeed; its standard output.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        succeed("ctr", ["--address", &self.socket].iter().chain(arguments))
    }
}
