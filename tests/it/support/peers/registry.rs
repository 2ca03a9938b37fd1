//! docker-registry, as a source and as a reader of what saver wrote.

use crate::support::scratch::Scratch;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tls::Tls;
use super::{Daemon, Said, run};

/// How a registry is to behave; the default is read-only, without TLS, open to all.
#[derive(Default)]
pub(crate) struct RegistryOptions {
    /// Takes pushes and deletions.
    pub(crate) writable: bool,
    /// Serves HTTPS only.
    pub(crate) tls: Option<Tls>,
    /// Asks for tokens of another server, as `TokenServer` gives them.
    pub(crate) token: Option<TokenAuth>,
    /// Asks for user and password; a file as `htpasswd -B` writes it.
    pub(crate) htpasswd: Option<PathBuf>,
}

/// Whose tokens a registry believes.
pub(crate) struct TokenAuth {
    pub(crate) realm: String,
    pub(crate) service: String,
    pub(crate) issuer: String,
    /// PEM file of the certificates that tokens are signed with.
    pub(crate) certificates: PathBuf,
}

/// A docker-registry on a free loopback port, ended when dropped.
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    /// The process.
    pub(crate) daemon: Daemon,
    _config: Scratch,
}

impl Registry {
    /// Serves a directory as it is, read-only.
    pub(crate) fn serve(root: &Path) -> Self {
        Self::start(root, &RegistryOptions::default())
    }

    /// Serves a directory.
    pub(crate) fn start(root: &Path, options: &RegistryOptions) -> Self {
        let config = Scratch::new();
        let file = config.path().join("config.yml");
        std::fs::write(&file, configuration(root, options)).expect("a configuration");
        let (daemon, address) =
            Daemon::start(Command::new("docker-registry").arg("serve").arg(&file), |line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(['"', ',']).next()?.to_owned())
            });
        Self { address, daemon, _config: config }
    }
}

/// Runs the registry's own garbage collection, which must succeed. What it printed.
pub(crate) fn garbage_collect(root: &Path, untagged: bool) -> String {
    let said = collect_garbage(root, untagged);
    assert!(said.status.success(), "garbage collection failed:\n{}{}", said.stdout, said.stderr);
    said.stdout
}

/// Runs the registry's own garbage collection over a directory that no registry serves; with
/// `untagged` as `--delete-untagged` (`-m`).
pub(crate) fn collect_garbage(root: &Path, untagged: bool) -> Said {
    let config = tempfile::NamedTempFile::new().expect("a temporary file");
    let options = RegistryOptions { writable: true, ..RegistryOptions::default() };
    std::fs::write(config.path(), configuration(root, &options)).expect("a configuration");
    let mut arguments = vec!["garbage-collect".as_ref()];
    if untagged {
        arguments.push("--delete-untagged".as_ref());
    }
    arguments.push(config.path().as_os_str());
    run("docker-registry", arguments)
}

/// The registry's configuration file; JSON strings are YAML strings.
fn configuration(root: &Path, options: &RegistryOptions) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: &Path| quoted(path.to_str().expect("a path in UTF-8"));
    let mut yaml = format!(
        "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: {}}}\n  \
         maintenance: {{readonly: {{enabled: {}}}}}\n",
        path(root),
        options.writable,
        !options.writable,
    );
    // Port 0: the system picks one, and the log says which.
    yaml.push_str("http:\n  addr: 127.0.0.1:0\n");
    if let Some(tls) = &options.tls {
        let _ = writeln!(yaml, "  tls: {{certificate: {}, key: {}}}", path(&tls.certificate), path(&tls.key));
    }
    if let Some(token) = &options.token {
        let _ = writeln!(
            yaml,
            "auth:\n  token: {{realm: {}, service: {}, issuer: {}, rootcertbundle: {}}}",
            quoted(&token.realm),
            quoted(&token.service),
            quoted(&token.issuer),
            path(&token.certificates),
        );
    }
    if let Some(file) = &options.htpasswd {
        let _ = writeln!(yaml, "auth:\n  htpasswd: {{realm: test, path: {}}}", path(file));
    }
    yaml
}
