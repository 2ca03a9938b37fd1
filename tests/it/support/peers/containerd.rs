//! containerd with its own state in a temporary directory, and its client `ctr`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::scratch::Scratch;

use super::{Daemon, succeed};

/// A containerd of the test's own, ended when dropped. It needs to run as root.
pub(crate) struct Containerd {
    socket: String,
    _daemon: Daemon,
    _state: Scratch,
}

impl Containerd {
    /// Starts containerd without its CRI service, which would want a network of its own.
    pub(crate) fn start() -> Self {
        Self::configured(
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n",
            "",
        )
    }

    /// Starts containerd with its CRI service, which reads the configuration of registries from `hosts`. It complains that it has
    /// no network, and serves images all the same.
    pub(crate) fn with_cri(hosts: &Path) -> Self {
        let hosts = hosts.to_str().expect("a path in UTF-8");
        let cri = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n  disable_tcp_service = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{hosts}\"\n"
        );
        Self::configured("disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n", &cri)
    }

    fn configured(head: &str, tail: &str) -> Self {
        let state = Scratch::new();
        let dir = state.path().to_str().expect("a path in UTF-8");
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n{head}\
             [grpc]\n  address = \"{dir}/grpc.sock\"\n[ttrpc]\n  address = \"{dir}/ttrpc.sock\"\n{tail}"
        );
        let file = state.path().join("config.toml");
        std::fs::write(&file, config).expect("a configuration");
        let socket = format!("{dir}/grpc.sock");
        let (daemon, ()) = Daemon::start(Command::new("containerd").arg("--config").arg(&file), |line| {
            line.contains("successfully booted").then_some(())
        });
        Self { socket, _daemon: daemon, _state: state }
    }

    /// The socket of its API, and of its CRI service.
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(&self.socket)
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
