//! Docker's `config.json` and containers' `auth.json`: which registry is shown what.
//!
//! Both are one format (`docker login`, podman's containers-auth.json(5)); the second also knows keys
//! with a path, which are good for the repositories under it.

use crate::oci::name::DOCKER_HUB;
use crate::oci::{Registry, Repository};
use crate::registry::{Credential, Secret};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The address under which Docker Hub's credentials have always been kept.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The user name that marks a password as an identity token.
const TOKEN_USER: &str = "<token>";

/// Files are written with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a credential file says.
#[derive(Clone, Debug, Default)]
pub struct DockerConfig {
    /// By registry, or registry and path.
    auths: BTreeMap<String, Credential>,
    /// The helper for registries that have none of their own.
    store: Option<String>,
    /// Helpers by registry.
    helpers: BTreeMap<String, String>,
}

/// Where a registry's credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the file.
    Here(Credential),
    /// With `docker-credential-NAME`.
    Helper {
        /// The helper's name, without `docker-credential-`.
        name: String,
        /// What it is to be asked for.
        server: String,
        /// Whether the file names it for this very registry, rather than for all.
        own: bool,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl DockerConfig {
    /// Reads a file's content.
    ///
    /// # Errors
    /// What is wrong with it, in words that repeat nothing secret.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde_json's own messages may quote values; line and column say enough.
        let file: File = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "not the JSON that docker login writes (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let mut auths = BTreeMap::new();
        for (key, entry) in file.auths {
            let credential = entry.unwrap_or_default().credential();
            let credential = credential.map_err(|why| format!("the entry of {key:?} {why}"))?;
            if credential != Credential::Anonymous {
                auths.insert(normal_key(&key), credential);
            }
        }
        let mut helpers = BTreeMap::new();
        for (key, name) in file.cred_helpers {
            check_helper(&name)?;
            if !name.is_empty() {
                helpers.insert(normal_key(&key), name);
            }
        }
        let store = file.creds_store.filter(|name| !name.is_empty());
        store.as_deref().map_or(Ok(()), check_helper)?;
        Ok(Self { auths, store, helpers })
    }

    /// Where the credential for `repository` of `registry` may be: the places to look at, in order.
    ///
    /// A helper named for the registry comes first and alone, as with Docker; then an entry for the longest
    /// part of the name; then the helper for everything, which comes before a plain entry, as with Docker.
    #[must_use]
    pub fn find(&self, registry: &Registry, repository: &Repository) -> Vec<Found> {
        let helper = |name: &String, own| Found::Helper { name: name.clone(), server: server(registry), own };
        if let Some(name) = self.helpers.get(registry.as_str()) {
            return vec![helper(name, true)];
        }
        let full = format!("{registry}/{repository}");
        let mut prefix = full.as_str();
        let mut scoped = None;
        while let Some(slash) = prefix.rfind('/') {
            scoped = scoped.or_else(|| self.auths.get(prefix));
            prefix = &prefix[..slash];
        }
        let plain = self.auths.get(registry.as_str()).cloned().map(Found::Here);
        let store = self.store.as_ref().map(|name| helper(name, false));
        [scoped.cloned().map(Found::Here), store, plain].into_iter().flatten().collect()
    }
}

impl Entry {
    fn credential(self) -> Result<Credential, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Credential::IdentityToken(Secret::new(self.identitytoken)));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Credential::RegistryToken(Secret::new(self.registrytoken)));
        }
        if self.auth.is_empty() {
            return Ok(user(&self.username, &self.password));
        }
        let wrong = "has an auth that is not the base64 form of user:password";
        let bytes = BASE64.decode(self.auth.trim()).map_err(|_| wrong)?;
        let text = String::from_utf8(bytes).map_err(|_| wrong)?;
        let (username, password) = text.split_once(':').ok_or(wrong)?;
        // Old versions of Docker filled up with zero bytes.
        Ok(user(username, password.trim_end_matches('\0')))
    }
}

/// The credential that a user name and password are.
pub(super) fn user(username: &str, password: &str) -> Credential {
    match username {
        "" => Credential::Anonymous,
        TOKEN_USER => Credential::IdentityToken(Secret::new(password)),
        _ => Credential::Basic { username: username.to_owned(), password: Secret::new(password) },
    }
}

/// A key as it is looked up: host, or host and path, without scheme and without Docker's `/v1/`.
fn normal_key(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let host = match host.to_ascii_lowercase() {
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => DOCKER_HUB.to_owned(),
        host => host,
    };
    let path = path.trim_matches('/');
    // An address with a scheme is Docker's; only bare keys have repositories in them.
    if bare.is_some() || matches!(path, "" | "v1" | "v2") { host } else { format!("{host}/{path}") }
}

/// What a helper knows `registry` as.
fn server(registry: &Registry) -> String {
    if registry.is_docker_hub() { DOCKER_HUB_KEY.to_owned() } else { registry.to_string() }
}

/// A helper's name becomes part of a program's: it must not lead anywhere else.
fn check_helper(name: &str) -> Result<(), String> {
    let good = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if good { Ok(()) } else { Err(format!("{name:?} is no name of a credential helper")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Found {
        Found::Here(Credential::Basic { username: username.into(), password: Secret::new(password) })
    }

    fn find(json: &str, registry: &str, repository: &str) -> Vec<Found> {
        let config = DockerConfig::parse(json.as_bytes()).unwrap();
        config.find(&registry.parse().unwrap(), &repository.parse().unwrap())
    }

    #[test]
    fn entries_of_every_form_are_read() {
        for (entry, expect) in [
            (r#"{"auth":"YW5uOnB3"}"#, Some(basic("ann", "pw"))),
            (r#"{"auth":"YW5uOnA6dw=="}"#, Some(basic("ann", "p:w"))),
            (r#"{"auth":"YW5uOnA6dw"}"#, Some(basic("ann", "p:w"))),
            (r#"{"auth":"YW5uOnB3AAA="}"#, Some(basic("ann", "pw"))),
            (r#"{"username":"ann","password":"pw"}"#, Some(basic("ann", "pw"))),
            (
                r#"{"auth":"YW5uOg==","identitytoken":"t"}"#,
                Some(Found::Here(Credential::IdentityToken(Secret::new("t")))),
            ),
            (r#"{"auth":"PHRva2VuPjp0"}"#, Some(Found::Here(Credential::IdentityToken(Secret::new("t"))))),
            (r#"{"registrytoken":"t"}"#, Some(Found::Here(Credential::RegistryToken(Secret::new("t"))))),
            ("{}", None),
            ("null", None),
        ] {
            let json = format!(r#"{{"auths":{{"r.io":{entry}}}}}"#);
            assert_eq!(find(&json, "r.io", "a").first(), expect.as_ref(), "{entry}");
        }
    }

    #[test]
    fn keys_of_every_form_are_found() {
        for (key, registry, repository, found) in [
            ("r.io", "r.io", "a", true),
            ("https://r.io", "r.io", "a", true),
            ("https://r.io/v1/", "r.io", "a", true),
            ("http://r.io:5000/v2/", "r.io:5000", "a", true),
            ("R.io", "r.io", "a", true),
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("index.docker.io", "docker.io", "library/a", true),
            ("docker.io", "docker.io", "library/a", true),
            ("r.io/team", "r.io", "team/app", true),
            ("r.io/team/app", "r.io", "team/app", true),
            ("r.io/team", "r.io", "teams/app", false),
            ("r.io/team/app", "r.io", "team", false),
            ("r.io:5000", "r.io", "a", false),
            ("other.io", "r.io", "a", false),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"YW5uOnB3"}}}}}}"#);
            assert_eq!(!find(&json, registry, repository).is_empty(), found, "{key} {registry}/{repository}");
        }
    }

    #[test]
    fn the_longest_key_wins_and_helpers_have_their_rank() {
        let json = r#"{
            "auths": {"r.io": {"auth":"YTph"}, "r.io/x": {"auth":"Yjpi"}, "r.io/x/y": {"auth":"Yzpj"}, "h.io": {"auth":"YTph"}},
            "credsStore": "desktop", "credHelpers": {"h.io": "ecr-login", "https://index.docker.io/v1/": "pass"}
        }"#;
        let store =
            |server: &str| Found::Helper { name: "desktop".into(), server: server.into(), own: false };
        assert_eq!(find(json, "r.io", "x/y/z"), [basic("c", "c"), store("r.io"), basic("a", "a")]);
        assert_eq!(find(json, "r.io", "x/z")[0], basic("b", "b"));
        assert_eq!(find(json, "r.io", "q"), [store("r.io"), basic("a", "a")]);
        let own = Found::Helper { name: "ecr-login".into(), server: "h.io".into(), own: true };
        assert_eq!(find(json, "h.io", "q"), [own]);
        let hub = Found::Helper { name: "pass".into(), server: DOCKER_HUB_KEY.into(), own: true };
        assert_eq!(find(json, "docker.io", "library/q"), [hub]);
    }

    #[test]
    fn what_can_t_be_read_is_said_without_secrets() {
        for json in [
            "",
            r#"{"auths":{"r.io":{"auth":"hunter2!"}}}"#,
            r#"{"auths":{"r.io":{"auth":"aHVudGVyMg=="}}}"#,
            r#"{"auths":{"r.io":{"auth":"hunter2"#,
            r#"{"auths":{"r.io":"hunter2"}}"#,
            r#"{"credsStore":"../hunter2/x"}"#,
            r#"{"credHelpers":{"r.io":"a b"}}"#,
        ] {
            let error = DockerConfig::parse(json.as_bytes()).unwrap_err();
            assert!(!error.contains("hunter2") || error.contains("helper"), "{json}: {error}");
        }
        let config = DockerConfig::parse(br#"{"auths":{"r.io":{"auth":"YW5uOmh1bnRlcjI="}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(
            key in r"(https?://|)[a-zA-Z0-9./:\[\]-]{0,20}",
            auth in r"[A-Za-z0-9+/=]{0,12}",
            rest in r"\PC{0,20}",
        ) {
            let json = serde_json::json!({"auths": {&key: {"auth": auth, "username": rest}}, "credHelpers": {&key: rest}});
            if let Ok(config) = DockerConfig::parse(json.to_string().as_bytes()) {
                let _ = config.find(&"r.io".parse().unwrap(), &"a/b".parse().unwrap());
            }
            let _ = DockerConfig::parse(rest.as_bytes());
        }
    }
}
