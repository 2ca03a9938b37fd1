//! Credentials, certificates and proxies in the form that Docker and the containers tools (Podman, Skopeo) keep them.
//!
//! Nothing here reads the process environment or looks for a home directory by itself. The constructors named
//! `docker_default` take a function that looks up environment variables, and read the files that these lead to:
//!
//! ```no_run
//! # fn example() -> saver::Result<()> {
//! use saver::credentials;
//!
//! let mut options = saver::SaveOptions::new("/var/lib/registry");
//! // What `docker login` stored, certs.d directories, HTTPS_PROXY and NO_PROXY.
//! options.access = credentials::docker_access(|name| std::env::var_os(name))?;
//! # Ok(())
//! # }
//! ```

mod certificates;
#[doc(hidden)]
pub mod docker_config;
mod helper;
mod registry_settings;

pub use registry_settings::RegistrySettings;
#[cfg(feature = "cli")]
pub(crate) use registry_settings::contains;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Registry, Repository};
use crate::registry::{Access, Credential, CredentialSource};
use crate::single_flight::SingleFlight;
use docker_config::{CredentialLocation, DockerConfig};
use futures::future::BoxFuture;
use helper::HelperError;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Access to registries with the credentials, certificates and proxies that Docker and the containers tools would use.
///
/// `env` looks up environment variables; see [`Credentials::docker_default`] and [`RegistrySettings::docker_default`].
///
/// # Errors
/// `InvalidInput` for a file or variable that is present and cannot be used.
pub fn docker_access(env: impl Fn(&str) -> Option<OsString>) -> Result<Access> {
    let credentials = Arc::new(Credentials::docker_default(&env)?);
    let settings = Arc::new(RegistrySettings::docker_default(&env)?);
    Ok(Access { credentials, settings, ..Access::default() })
}

/// Credentials from files, from the helper programs that these name, and set by the program.
///
/// A credential that exists and cannot be read (a broken helper, a damaged entry) does not fail the lookup: a warning
/// is logged, the request is made without credentials, and if the registry rejects it, the error gives the reason.
///
/// ```no_run
/// # fn example() -> saver::Result<()> {
/// use saver::Credentials;
/// use saver::registry::{Credential, Secret};
///
/// let ci = Credential::Basic { username: "ci".into(), password: Secret::new("token") };
/// let credentials = Credentials::docker_default(|name| std::env::var_os(name))?
///     .with_credential("registry.example:5000".parse()?, ci);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Credentials {
    fixed: HashMap<Registry, Credential>,
    files: Vec<(PathBuf, DockerConfig)>,
    /// Overrides the PATH that helpers are searched in.
    helper_path: Option<OsString>,
    helper_timeout: Duration,
    /// Answers, or the reason for a missing one, by helper and server. Each helper is asked once for each server.
    helper_answers: SingleFlight<(String, String), Result<Credential>>,
    failures: Mutex<Failures>,
}

/// Credentials that exist and could not be read.
#[derive(Debug, Default)]
struct Failures {
    by_repository: HashMap<(Registry, Repository), Error>,
    /// The reasons that were logged. A store that serves all registries fails for each of them.
    logged: HashSet<String>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self::new()
    }
}

impl Credentials {
    /// No credentials.
    #[must_use]
    pub fn new() -> Self {
        Self {
            fixed: HashMap::new(),
            files: Vec::new(),
            helper_path: None,
            helper_timeout: helper::TIMEOUT,
            helper_answers: SingleFlight::remembering(),
            failures: Mutex::default(),
        }
    }

    /// The credentials that Docker and the containers tools would find.
    ///
    /// Reads, as far as they exist and in this order of precedence: `$REGISTRY_AUTH_FILE`,
    /// `$DOCKER_CONFIG/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`,
    /// `$XDG_CONFIG_HOME/containers/auth.json` (by default under `$HOME/.config`) and `$HOME/.docker/config.json`.
    /// Helpers are searched in `$PATH`. `env` looks up these variables: `|name| std::env::var_os(name)`.
    ///
    /// # Errors
    /// `InvalidInput` for a file that exists and cannot be read.
    pub fn docker_default(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let mut credentials = Self { helper_path: env("PATH"), ..Self::new() };
        for path in default_files(&env) {
            if let Some(config) = read_optional(&path)? {
                credentials.files.push((path, config));
            }
        }
        Ok(credentials)
    }

    /// The credentials of one file, in the format of Docker's `config.json` or the containers tools' `auth.json`.
    ///
    /// # Errors
    /// `InvalidInput` for a file that cannot be read.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let config = read(&path)?;
        Ok(Self { files: vec![(path, config)], ..Self::new() })
    }

    /// Uses `credential` for `registry`, whatever the files contain.
    #[must_use]
    pub fn with_credential(mut self, registry: Registry, credential: Credential) -> Self {
        self.fixed.insert(registry, credential);
        self
    }

    async fn look_up(&self, registry: &Registry, repository: &Repository) -> Credential {
        if let Some(credential) = self.fixed.get(registry) {
            return credential.clone();
        }
        for (file, config) in &self.files {
            for location in config.find(registry, repository) {
                let credential = match location {
                    CredentialLocation::File(credential) => Ok(credential),
                    CredentialLocation::Unreadable(why) => {
                        let error = Error::new(ErrorKind::Unauthorized, file.display(), why);
                        Err(error.with_hint(format!("log in again: docker login {registry}")))
                    }
                    CredentialLocation::Helper { name, server, own } => {
                        self.helper_credential(file, &name, &server, own).await
                    }
                };
                match credential {
                    Ok(Credential::Anonymous) => {}
                    Ok(credential) => {
                        tracing::debug!(%registry, file = %file.display(), "found credentials");
                        return credential;
                    }
                    Err(error) => self.record_failure(registry, repository, error),
                }
            }
        }
        Credential::Anonymous
    }

    /// The answer of a helper, which runs once for each server.
    async fn helper_credential(
        &self,
        file: &Path,
        name: &str,
        server: &str,
        own: bool,
    ) -> Result<Credential> {
        let answer = self.helper_answers.join((name.to_owned(), server.to_owned()));
        answer.run(self.run_helper(file, name, server, own)).await
    }

    async fn run_helper(&self, file: &Path, name: &str, server: &str, own: bool) -> Result<Credential> {
        let program = format!("docker-credential-{name}");
        let answer = helper::get(&program, server, self.helper_path.as_deref(), self.helper_timeout).await;
        let why = match answer {
            Ok(credential) => return Ok(credential),
            // The file may come from another machine, where the store exists. Nothing was stored with it here.
            Err(HelperError::NotInstalled) if !own => {
                tracing::warn!(
                    "{program}: not installed, although {} names it; continuing without its credentials",
                    file.display()
                );
                return Ok(Credential::Anonymous);
            }
            Err(HelperError::NotInstalled) => "the program is not installed".to_owned(),
            Err(HelperError::Failed(why)) => why,
        };
        let hint = format!("check this credential helper, which {} names, or use --authfile", file.display());
        Err(Error::new(ErrorKind::Unauthorized, program, why).with_hint(hint))
    }

    fn record_failure(&self, registry: &Registry, repository: &Repository, error: Error) {
        let mut failures = self.failures.lock();
        if failures.logged.insert(error.to_string()) {
            tracing::warn!("cannot read the credentials for {registry}: {error}; continuing without them");
        }
        failures.by_repository.insert((registry.clone(), repository.clone()), error);
    }

    /// Whether a helper has answered with a credential for the server.
    fn helper_has_answered(&self, name: String, server: String) -> bool {
        let answer = self.helper_answers.get(&(name, server));
        answer.is_some_and(|answer| answer.is_ok_and(|known| known != Credential::Anonymous))
    }
}

impl CredentialSource for Credentials {
    fn credential<'a>(
        &'a self,
        host: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Credential>> {
        Box::pin(async { Ok(self.look_up(host, repository).await) })
    }

    fn origin(&self, host: &Registry, repository: &Repository) -> Option<String> {
        if self.fixed.contains_key(host) {
            return Some("--username and --password-stdin".into());
        }
        for (file, config) in &self.files {
            for location in config.find(host, repository) {
                match location {
                    CredentialLocation::File(Credential::Anonymous) | CredentialLocation::Unreadable(_) => {}
                    CredentialLocation::File(_) => return Some(file.display().to_string()),
                    CredentialLocation::Helper { name, server, .. } => {
                        let program = format!("docker-credential-{name}");
                        if self.helper_has_answered(name, server) {
                            return Some(program);
                        }
                    }
                }
            }
        }
        None
    }

    fn failure(&self, host: &Registry, repository: &Repository) -> Option<Error> {
        let failures = self.failures.lock();
        failures.by_repository.get(&(host.clone(), repository.clone())).cloned()
    }
}

fn read(path: &Path) -> Result<DockerConfig> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    parse(path, &bytes)
}

/// `None` for a file that does not exist.
fn read_optional(path: &Path) -> Result<Option<DockerConfig>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, path.display(), format!("cannot read the credentials: {cause}"))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<DockerConfig> {
    DockerConfig::parse(bytes).map_err(|why| Error::new(ErrorKind::InvalidInput, path.display(), why))
}

/// The files in which credentials are stored, in order of precedence.
fn default_files(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |base: Option<PathBuf>, path: &str| base.map(|base| base.join(path));
    let files = [
        directory("REGISTRY_AUTH_FILE"),
        below(directory("DOCKER_CONFIG"), "config.json"),
        below(directory("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(config_home(&env), "containers/auth.json"),
        below(directory("HOME"), ".docker/config.json"),
    ];
    let mut distinct: Vec<PathBuf> = Vec::new();
    for file in files.into_iter().flatten() {
        if !distinct.contains(&file) {
            distinct.push(file);
        }
    }
    distinct
}

/// The user's configuration directory, as the XDG base directory specification has it.
fn config_home(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Secret;
    use std::os::unix::fs::PermissionsExt;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.into(), password: Secret::new(password) }
    }

    fn write(path: &Path, content: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A file whose only entry is a user for `host`, whose password is `ann`'s: the user's own name.
    fn login(path: &Path, host: &str, username: &str) {
        write(
            path,
            &format!(r#"{{"auths":{{"{host}":{{"username":"{username}","password":"{username}"}}}}}}"#),
        );
    }

    fn helper(folder: &Path, name: &str, script: &str) {
        let path = folder.join(format!("docker-credential-{name}"));
        write(&path, &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn ask(credentials: &Credentials, registry: &str) -> Credential {
        credentials.look_up(&registry.parse().unwrap(), &"a/b".parse().unwrap()).await
    }

    fn failure(credentials: &Credentials, registry: &str) -> Option<Error> {
        credentials.failure(&registry.parse().unwrap(), &"a/b".parse().unwrap())
    }

    /// The default credentials of a user with this home directory and environment.
    fn load(folder: &Path, variables: &[(&str, &str)]) -> Result<Credentials> {
        Credentials::docker_default(|name| match name {
            "HOME" => Some(folder.join("home").into()),
            "PATH" => Some(folder.into()),
            _ => variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into()),
        })
    }

    #[tokio::test]
    async fn default_files_have_their_precedence() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let text = |path: &str| at(path).to_str().unwrap().to_owned();
        login(&at("home/.docker/config.json"), "r.io", "docker");
        login(&at("home/.config/containers/auth.json"), "r.io", "config");
        login(&at("run/containers/auth.json"), "r.io", "runtime");
        login(&at("moved/config.json"), "r.io", "moved");
        login(&at("auth.json"), "r.io", "named");
        let run = text("run");
        let moved = text("moved");
        let named = text("auth.json");
        for (variables, expect) in [
            (vec![], "config"),
            (vec![("XDG_RUNTIME_DIR", run.as_str())], "runtime"),
            (vec![("XDG_RUNTIME_DIR", &run), ("DOCKER_CONFIG", &moved)], "moved"),
            (vec![("DOCKER_CONFIG", &moved), ("REGISTRY_AUTH_FILE", &named)], "named"),
        ] {
            let credentials = load(folder.path(), &variables).unwrap();
            assert_eq!(ask(&credentials, "r.io").await, basic(expect, expect), "{variables:?}");
        }
    }

    #[tokio::test]
    async fn origin_names_the_place_of_the_credential() {
        let folder = tempfile::tempdir().unwrap();
        login(&folder.path().join("home/.config/containers/auth.json"), "r.io", "ann");
        login(&folder.path().join("other.json"), "other.io", "flag");
        let origin =
            |credentials: &Credentials| credentials.origin(&"r.io".parse().unwrap(), &"a/b".parse().unwrap());
        let other = Credentials::from_file(folder.path().join("other.json")).unwrap();
        assert_eq!(ask(&other, "r.io").await, Credential::Anonymous);
        assert_eq!(origin(&other), None);
        let credentials = load(folder.path(), &[]).unwrap();
        assert!(origin(&credentials).unwrap().ends_with(".config/containers/auth.json"));
        let credentials = credentials.with_credential("r.io".parse().unwrap(), basic("me", "me"));
        assert_eq!(origin(&credentials).as_deref(), Some("--username and --password-stdin"));
        assert_eq!(ask(&credentials, "r.io").await, basic("me", "me"));
    }

    #[tokio::test]
    async fn default_file_may_be_missing_but_not_malformed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ask(&load(folder.path(), &[]).unwrap(), "r.io").await, Credential::Anonymous);
        let missing = Credentials::from_file("/nowhere.json").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::InvalidInput);
        write(&folder.path().join("home/.docker/config.json"), "{");
        let malformed = load(folder.path(), &[]).unwrap_err();
        assert!(malformed.to_string().contains("config.json"), "{malformed}");
    }

    #[tokio::test]
    async fn helper_runs_once_with_docker_s_server_name() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = format!(
            "read server\necho \"$server\" >> {}\necho '{{\"Username\":\"ann\",\"Secret\":\"pw\"}}'",
            log.display()
        );
        helper(folder.path(), "ours", &script);
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"ours"}"#);
        let credentials = load(folder.path(), &[]).unwrap();
        let both = futures::join!(ask(&credentials, "docker.io"), ask(&credentials, "docker.io"));
        assert_eq!(both, (basic("ann", "pw"), basic("ann", "pw")));
        ask(&credentials, "r.io:5000").await;
        let asked = std::fs::read_to_string(log).unwrap();
        assert_eq!(asked.lines().collect::<Vec<_>>(), ["https://index.docker.io/v1/", "r.io:5000"]);
    }

    #[tokio::test]
    async fn helper_failure_is_recorded_and_anonymous_is_used() {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in [
            ("token", r#"echo '{"Username":"<token>","Secret":"t"}'"#),
            ("none", "echo 'credentials not found in native keychain'; exit 1"),
            ("broken", "echo 'the vault is sealed' >&2; exit 1"),
            ("late", r#"echo '{"Username":"ann","Secret":"hunter2"}'; exit 1"#),
        ] {
            helper(folder.path(), name, script);
        }
        write(
            &folder.path().join("home/.docker/config.json"),
            r#"{"credHelpers":{"token.io":"token","none.io":"none","broken.io":"broken","late.io":"late",
                "gone.io":"gone"},"auths":{"entry.io":{"auth":"hunter2"}}}"#,
        );
        let credentials = load(folder.path(), &[]).unwrap();
        assert_eq!(ask(&credentials, "token.io").await, Credential::IdentityToken(Secret::new("t")));
        assert_eq!(ask(&credentials, "none.io").await, Credential::Anonymous);
        assert!(failure(&credentials, "none.io").is_none());
        for (registry, expected) in [
            ("broken.io", "docker-credential-broken: exit status: 1: the vault is sealed"),
            ("late.io", "docker-credential-late: exit status: 1"),
            ("gone.io", "docker-credential-gone: the program is not installed"),
            ("entry.io", "config.json: the entry for \"entry.io\" has an \"auth\""),
        ] {
            assert_eq!(ask(&credentials, registry).await, Credential::Anonymous);
            let error = failure(&credentials, registry).unwrap();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!format!("{error} {:?}", error.hint()).contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn plain_entry_is_used_where_the_store_fails() {
        let folder = tempfile::tempdir().unwrap();
        helper(folder.path(), "broken", "exit 1");
        let path = folder.path().join("home/.docker/config.json");
        write(&path, r#"{"credsStore":"broken","auths":{"r.io":{"auth":"YW5uOnB3"}}}"#);
        assert_eq!(ask(&load(folder.path(), &[]).unwrap(), "r.io").await, basic("ann", "pw"));
    }

    #[tokio::test]
    async fn store_not_installed_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"gone"}"#);
        let credentials = load(folder.path(), &[]).unwrap();
        assert_eq!(ask(&credentials, "r.io").await, Credential::Anonymous);
        assert!(failure(&credentials, "r.io").is_none());
    }

    #[tokio::test]
    async fn helper_that_hangs_times_out() {
        let folder = tempfile::tempdir().unwrap();
        helper(folder.path(), "slow", "exec /bin/sleep 600");
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"slow"}"#);
        let mut credentials = load(folder.path(), &[]).unwrap();
        credentials.helper_timeout = Duration::from_millis(100);
        assert_eq!(ask(&credentials, "r.io").await, Credential::Anonymous);
        let error = failure(&credentials, "r.io").unwrap();
        assert!(error.to_string().contains("no answer within"), "{error}");
    }
}
