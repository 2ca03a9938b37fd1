//! Whose name registries are asked in: credential files and the helper programs they name.

use crate::cli::config::Environment;
use crate::cli::docker_config::{self, DockerConfig, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Registry, Repository};
use crate::registry::{Credential, CredentialSource};
use futures::future::BoxFuture;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// How long a helper may take: it may have to ask a key store over the network.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// The most that is read of a helper's answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// What a helper's answers are kept under: its name and the server.
type HelperKey = (String, String);

/// The credentials that this user has.
pub struct Credentials {
    given: HashMap<Registry, Credential>,
    files: Vec<(PathBuf, DockerConfig)>,
    /// Where helpers are found.
    path: Option<String>,
    patience: Duration,
    /// Each helper is asked once per server; who asks meanwhile waits.
    answers: Mutex<HashMap<HelperKey, Arc<OnceCell<Result<Credential>>>>>,
}

impl Credentials {
    /// Reads the credential files: `authfile` and no other if it is given, else those that the environment
    /// names and the usual ones, as far as they are there.
    ///
    /// # Errors
    /// `InvalidInput` for a file that can't be understood, and for an `authfile` that can't be read.
    pub fn load(environment: &Environment, authfile: Option<&Path>) -> Result<Self> {
        let mut files = Vec::new();
        match authfile {
            Some(path) => files.push((path.to_owned(), read(path)?)),
            None => {
                for path in usual_files(environment) {
                    match read(&path) {
                        Ok(config) => files.push((path, config)),
                        Err(error) if !path.exists() => tracing::trace!(%error, "no credential file there"),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(Self {
            given: HashMap::new(),
            files,
            path: environment.get("PATH").map(str::to_owned),
            patience: HELPER_PATIENCE,
            answers: Mutex::default(),
        })
    }

    /// Uses `credential` for `registry`, whatever files say: from the command line or a list.
    pub fn give(&mut self, registry: Registry, credential: Credential) {
        self.given.insert(registry, credential);
    }

    async fn look_up(&self, registry: &Registry, repository: &Repository) -> Result<Credential> {
        if let Some(given) = self.given.get(registry) {
            return Ok(given.clone());
        }
        for (file, config) in &self.files {
            for found in config.find(registry, repository) {
                let credential = match found {
                    Found::Here(credential) => credential,
                    Found::Helper { name, server, own } => self.helped(file, &name, &server, own).await?,
                };
                if credential != Credential::Anonymous {
                    tracing::debug!(%registry, file = %file.display(), "found credentials");
                    return Ok(credential);
                }
            }
        }
        Ok(Credential::Anonymous)
    }

    /// What a helper answers; asked once.
    async fn helped(&self, file: &Path, name: &str, server: &str, own: bool) -> Result<Credential> {
        let key = (name.to_owned(), server.to_owned());
        let cell = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry(key).or_default())
        };
        cell.get_or_init(|| self.ask(file, name, server, own)).await.clone()
    }

    async fn ask(&self, file: &Path, name: &str, server: &str, own: bool) -> Result<Credential> {
        let program = format!("docker-credential-{name}");
        let refuse = |why: String| {
            Error::new(ErrorKind::Unauthorized, &program, format!("no credentials for {server}: {why}"))
                .with_hint(format!("{} names this helper: check it, or give --authfile", file.display()))
        };
        let outcome = tokio::time::timeout(self.patience, self.run(&program, server)).await;
        match outcome {
            Err(_) => Err(refuse(format!("it did not answer within {} s", self.patience.as_secs()))),
            // A configuration for all registries may have come from a machine where the helper was;
            // what is public can be had without.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound && !own => {
                tracing::warn!(helper = program, file = %file.display(), "the credential helper is not installed: going on without");
                Ok(Credential::Anonymous)
            }
            Ok(Err(error)) => Err(refuse(error.to_string())),
            Ok(Ok((true, answer))) => {
                helper_answer(&answer).ok_or_else(|| refuse("its answer is not JSON".into()))
            }
            Ok(Ok((false, answer))) => {
                let words = String::from_utf8_lossy(&answer);
                if words.contains("credentials not found") {
                    return Ok(Credential::Anonymous);
                }
                let words: String = words.trim().chars().filter(|c| !c.is_control()).take(200).collect();
                Err(refuse(words))
            }
        }
    }

    /// Runs a helper (docker-credential-helpers: `get`, the server on stdin, JSON on stdout).
    async fn run(&self, program: &str, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
        let mut command = Command::new(program);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.kill_on_drop(true);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that answers without listening is as good.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        Ok((child.wait().await?.success(), answer))
    }
}

impl CredentialSource for Credentials {
    fn credential<'a>(
        &'a self,
        host: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Credential>> {
        Box::pin(self.look_up(host, repository))
    }

    fn origin(&self, host: &Registry, repository: &Repository) -> Option<String> {
        if self.given.contains_key(host) {
            return Some("--username and --password-stdin".into());
        }
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let gave = |name: String, server: String| {
            let answer = answers.get(&(name, server)).and_then(|cell| cell.get());
            answer.is_some_and(|answer| answer.as_ref().is_ok_and(|known| *known != Credential::Anonymous))
        };
        for (file, config) in &self.files {
            for found in config.find(host, repository) {
                match found {
                    Found::Here(Credential::Anonymous) => {}
                    Found::Here(_) => return Some(file.display().to_string()),
                    Found::Helper { name, server, .. } => {
                        let program = format!("docker-credential-{name}");
                        if gave(name, server) {
                            return Some(program);
                        }
                    }
                }
            }
        }
        None
    }
}

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

fn helper_answer(bytes: &[u8]) -> Option<Credential> {
    let answer: HelperAnswer = serde_json::from_slice(bytes).ok()?;
    Some(docker_config::user(&answer.username, &answer.secret))
}

fn read(path: &Path) -> Result<DockerConfig> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, path.display(), why);
    let bytes =
        std::fs::read(path).map_err(|error| refuse(format!("cannot read the credentials: {error}")))?;
    DockerConfig::parse(&bytes).map_err(refuse)
}

/// Where credentials usually are, the most particular place first.
fn usual_files(environment: &Environment) -> Vec<PathBuf> {
    let variable = |name: &str| environment.get(name).map(PathBuf::from);
    let home = environment.home();
    let under_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let files = [
        variable("REGISTRY_AUTH_FILE"),
        variable("DOCKER_CONFIG").map(|folder| folder.join("config.json")),
        variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        variable("XDG_CONFIG_HOME").or_else(|| under_home(".config")).map(|f| f.join("containers/auth.json")),
        under_home(".docker/config.json"),
    ];
    let mut kept: Vec<PathBuf> = Vec::new();
    for file in files.into_iter().flatten() {
        if !kept.contains(&file) {
            kept.push(file);
        }
    }
    kept
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

    async fn ask(credentials: &Credentials, registry: &str) -> Result<Credential> {
        credentials.look_up(&registry.parse().unwrap(), &"a/b".parse().unwrap()).await
    }

    fn environment(folder: &Path, more: &[(&str, &str)]) -> Environment {
        let home = folder.join("home");
        let mut pairs = vec![("HOME", home.to_str().unwrap()), ("PATH", folder.to_str().unwrap())];
        pairs.extend_from_slice(more);
        Environment::of(&pairs)
    }

    #[tokio::test]
    async fn files_are_looked_at_from_the_most_particular_on() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let text = |path: &str| at(path).to_str().unwrap().to_owned();
        login(&at("home/.docker/config.json"), "r.io", "docker");
        login(&at("home/.config/containers/auth.json"), "r.io", "config");
        login(&at("run/containers/auth.json"), "r.io", "runtime");
        login(&at("moved/config.json"), "r.io", "moved");
        login(&at("auth.json"), "r.io", "named");
        login(&at("other.json"), "other.io", "flag");
        let (run, moved, named) = (text("run"), text("moved"), text("auth.json"));
        for (more, expect) in [
            (vec![], "config"),
            (vec![("XDG_RUNTIME_DIR", run.as_str())], "runtime"),
            (vec![("XDG_RUNTIME_DIR", &run), ("DOCKER_CONFIG", &moved)], "moved"),
            (vec![("DOCKER_CONFIG", &moved), ("REGISTRY_AUTH_FILE", &named)], "named"),
        ] {
            let credentials = Credentials::load(&environment(folder.path(), &more), None).unwrap();
            assert_eq!(ask(&credentials, "r.io").await.unwrap(), basic(expect, expect), "{more:?}");
        }
        let environment = environment(folder.path(), &[]);
        let only = Credentials::load(&environment, Some(&at("other.json"))).unwrap();
        assert_eq!(
            ask(&only, "r.io").await.unwrap(),
            Credential::Anonymous,
            "no other file than the one named"
        );
        let mut given = Credentials::load(&environment, None).unwrap();
        let from =
            |credentials: &Credentials| credentials.origin(&"r.io".parse().unwrap(), &"a/b".parse().unwrap());
        assert!(from(&given).unwrap().ends_with(".config/containers/auth.json"));
        assert_eq!(from(&only), None);
        given.give("r.io".parse().unwrap(), basic("me", "me"));
        assert_eq!(from(&given).as_deref(), Some("--username and --password-stdin"));
        assert_eq!(ask(&given, "r.io").await.unwrap(), basic("me", "me"));
    }

    #[tokio::test]
    async fn no_file_is_no_error_but_a_bad_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(folder.path(), &[]);
        let none = Credentials::load(&environment, None).unwrap();
        assert_eq!(ask(&none, "r.io").await.unwrap(), Credential::Anonymous);
        let missing = Credentials::load(&environment, Some(Path::new("/nowhere.json"))).err().unwrap();
        assert_eq!(missing.kind(), ErrorKind::InvalidInput);
        write(&folder.path().join("home/.docker/config.json"), "{");
        let bad = Credentials::load(&environment, None).err().unwrap();
        assert!(bad.to_string().contains("config.json"), "{bad}");
    }

    #[tokio::test]
    async fn a_helper_is_asked_once_with_docker_s_name_for_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = format!(
            "read server\necho \"$server\" >> {}\necho '{{\"Username\":\"ann\",\"Secret\":\"pw\"}}'",
            log.display()
        );
        helper(folder.path(), "ours", &script);
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"ours"}"#);
        let credentials = Credentials::load(&environment(folder.path(), &[]), None).unwrap();
        let both = futures::join!(ask(&credentials, "docker.io"), ask(&credentials, "docker.io"));
        assert_eq!(both.0.unwrap(), basic("ann", "pw"));
        assert_eq!(both.1.unwrap(), basic("ann", "pw"));
        ask(&credentials, "r.io:5000").await.unwrap();
        let asked = std::fs::read_to_string(log).unwrap();
        assert_eq!(asked.lines().collect::<Vec<_>>(), ["https://index.docker.io/v1/", "r.io:5000"]);
    }

    #[tokio::test]
    async fn a_helper_s_other_answers_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in [
            ("token", r#"echo '{"Username":"<token>","Secret":"t"}'"#),
            ("none", "echo 'credentials not found in native keychain'; exit 1"),
            ("broken", "echo 'the vault is sealed'; exit 1"),
            ("odd", "echo hunter2"),
        ] {
            helper(folder.path(), name, script);
        }
        write(
            &folder.path().join("home/.docker/config.json"),
            r#"{"credHelpers":{"token.io":"token","none.io":"none","broken.io":"broken","odd.io":"odd","gone.io":"gone"}}"#,
        );
        let credentials = Credentials::load(&environment(folder.path(), &[]), None).unwrap();
        let token = Credential::IdentityToken(Secret::new("t"));
        assert_eq!(ask(&credentials, "token.io").await.unwrap(), token);
        assert_eq!(ask(&credentials, "none.io").await.unwrap(), Credential::Anonymous);
        for (registry, words) in
            [("broken.io", "the vault is sealed"), ("odd.io", "JSON"), ("gone.io", "gone")]
        {
            let error = ask(&credentials, registry).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_installed_does_not_stop_what_is_public() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"gone"}"#);
        let credentials = Credentials::load(&environment(folder.path(), &[]), None).unwrap();
        assert_eq!(ask(&credentials, "r.io").await.unwrap(), Credential::Anonymous);
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        helper(folder.path(), "slow", "exec /bin/sleep 600");
        write(&folder.path().join("home/.docker/config.json"), r#"{"credsStore":"slow"}"#);
        let mut credentials = Credentials::load(&environment(folder.path(), &[]), None).unwrap();
        credentials.patience = Duration::from_millis(100);
        let error = ask(&credentials, "r.io").await.unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
    }
}
