//! Docker's `config.json` and the containers tools' `auth.json`.
//!
//! Both have one format (`docker login`, containers-auth.json(5)). In the second, keys may have a path and then
//! apply to the repositories below it.

use crate::oci::name::DOCKER_HUB;
use crate::oci::{Registry, Repository};
use crate::registry::{Credential, Secret};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The key that Docker uses for the credentials of Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The user name that marks a password as an identity token.
const TOKEN_USER: &str = "<token>";

/// Tools write the value with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The content of a credential file.
#[derive(Clone, Debug, Default)]
pub struct DockerConfig {
    /// By registry, or registry and path. An entry that cannot be read is an error for its registry only.
    auths: BTreeMap<String, Result<Credential, String>>,
    /// The helper for registries that have none of their own.
    store: Option<String>,
    /// Helpers by registry. An empty name means that this file holds the credential.
    helpers: BTreeMap<String, String>,
}

/// Where the credential of a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialLocation {
    /// In the file.
    File(Credential),
    /// In the file, in an entry that cannot be read for this reason.
    Unreadable(String),
    /// In the store that `docker-credential-NAME` reads.
    Helper {
        /// The helper's name, without `docker-credential-`.
        name: String,
        /// The server name to ask it for.
        server: String,
        /// Whether the file names the helper for this registry, rather than for all.
        own: bool,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    auths: Option<BTreeMap<String, serde_json::Value>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Parses a file's content. `null` counts as absent everywhere.
    ///
    /// # Errors
    /// Why the whole file cannot be read; contains nothing secret.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde_json's own messages may quote values; line and column say enough.
        let file: Option<File> = serde_json::from_slice(bytes).map_err(|error| {
            format!("not a Docker configuration in JSON (line {}, column {})", error.line(), error.column())
        })?;
        let Some(file) = file else { return Ok(Self::default()) };
        let mut auths = BTreeMap::new();
        for (key, entry) in file.auths.unwrap_or_default() {
            let credential = read_entry(entry).map_err(|why| format!("the entry for {key:?} {why}"));
            if credential != Ok(Credential::Anonymous) {
                auths.insert(normal_key(&key), credential);
            }
        }
        let helpers = file.cred_helpers.unwrap_or_default().into_iter();
        let helpers = helpers.filter_map(|(key, name)| Some((normal_key(&key), name?)));
        let store = file.creds_store.filter(|name| !name.is_empty());
        Ok(Self { auths, store, helpers: helpers.collect() })
    }

    /// Where the credential for `repository` of `registry` may be, in the order to look.
    ///
    /// As with Docker, a helper named for the registry is the only place, and the helper for all registries takes
    /// precedence over an entry for the registry. An entry for a part of the repository's path precedes both.
    #[must_use]
    pub fn find(&self, registry: &Registry, repository: &Repository) -> Vec<CredentialLocation> {
        let entry = |key: &str| match self.auths.get(key)? {
            Ok(credential) => Some(CredentialLocation::File(credential.clone())),
            Err(why) => Some(CredentialLocation::Unreadable(why.clone())),
        };
        let own_helper = self.helpers.get(registry.as_str());
        if let Some(name) = own_helper.filter(|name| !name.is_empty()) {
            return vec![helper(name, registry, true)];
        }
        let full = format!("{registry}/{repository}");
        let mut prefix = full.as_str();
        let mut scoped = None;
        while let Some(slash) = prefix.rfind('/') {
            scoped = scoped.or_else(|| entry(prefix));
            prefix = &prefix[..slash];
        }
        let store = self.store.as_ref().filter(|_| own_helper.is_none());
        let store = store.map(|name| helper(name, registry, false));
        [scoped, store, entry(registry.as_str())].into_iter().flatten().collect()
    }
}

/// The helper `name`, unless that is not the name of a program: it must not lead to another directory.
fn helper(name: &str, registry: &Registry, own: bool) -> CredentialLocation {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_name {
        CredentialLocation::Helper { name: name.to_owned(), server: server(registry), own }
    } else {
        CredentialLocation::Unreadable(format!("{name:?} is not a valid name of a credential helper"))
    }
}

fn read_entry(entry: serde_json::Value) -> Result<Credential, &'static str> {
    let entry: Option<Entry> =
        serde_json::from_value(entry).map_err(|_| "does not have the form that docker login writes")?;
    entry.unwrap_or_default().credential()
}

impl Entry {
    fn credential(self) -> Result<Credential, &'static str> {
        let given = |field: Option<String>| field.filter(|text| !text.is_empty());
        if let Some(token) = given(self.identitytoken) {
            return Ok(Credential::IdentityToken(Secret::new(token)));
        }
        if let Some(token) = given(self.registrytoken) {
            return Ok(Credential::RegistryToken(Secret::new(token)));
        }
        let Some(auth) = given(self.auth) else {
            return Ok(login(&self.username.unwrap_or_default(), &self.password.unwrap_or_default()));
        };
        let invalid = "has an \"auth\" that is not the base64 form of user:password";
        let bytes = BASE64.decode(auth.trim()).map_err(|_| invalid)?;
        let text = String::from_utf8(bytes).map_err(|_| invalid)?;
        let (username, password) = text.split_once(':').ok_or(invalid)?;
        // Old versions of Docker padded with zero bytes.
        Ok(login(username, password.trim_end_matches('\0')))
    }
}

/// The credential that a user name and password stand for.
pub(super) fn login(username: &str, password: &str) -> Credential {
    match username {
        "" => Credential::Anonymous,
        TOKEN_USER => Credential::IdentityToken(Secret::new(password)),
        _ => Credential::Basic { username: username.to_owned(), password: Secret::new(password) },
    }
}

/// The key in the form that lookups use: host, or host and path, without scheme and without Docker's `/v1/`.
fn normal_key(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let host = match host.to_ascii_lowercase() {
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => DOCKER_HUB.to_owned(),
        host => host,
    };
    let path = path.trim_matches('/');
    // Docker writes keys with a scheme; only keys without one may name repositories.
    if bare.is_some() || matches!(path, "" | "v1" | "v2") { host } else { format!("{host}/{path}") }
}

/// The name under which helpers store the credential of `registry`.
fn server(registry: &Registry) -> String {
    if registry.is_docker_hub() { DOCKER_HUB_KEY.to_owned() } else { registry.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> CredentialLocation {
        CredentialLocation::File(Credential::Basic {
            username: username.into(),
            password: Secret::new(password),
        })
    }

    fn find(json: &str, registry: &str, repository: &str) -> Vec<CredentialLocation> {
        let config = DockerConfig::parse(json.as_bytes()).unwrap();
        config.find(&registry.parse().unwrap(), &repository.parse().unwrap())
    }

    #[test]
    fn entry_forms_are_read() {
        for (entry, expect) in [
            (r#"{"auth":"YW5uOnB3"}"#, Some(basic("ann", "pw"))),
            (r#"{"auth":"YW5uOnA6dw=="}"#, Some(basic("ann", "p:w"))),
            (r#"{"auth":"YW5uOnA6dw"}"#, Some(basic("ann", "p:w"))),
            (r#"{"auth":"YW5uOnB3AAA="}"#, Some(basic("ann", "pw"))),
            (r#"{"username":"ann","password":"pw"}"#, Some(basic("ann", "pw"))),
            (
                r#"{"auth":"YW5uOg==","identitytoken":"t"}"#,
                Some(CredentialLocation::File(Credential::IdentityToken(Secret::new("t")))),
            ),
            (
                r#"{"auth":"PHRva2VuPjp0"}"#,
                Some(CredentialLocation::File(Credential::IdentityToken(Secret::new("t")))),
            ),
            (
                r#"{"registrytoken":"t"}"#,
                Some(CredentialLocation::File(Credential::RegistryToken(Secret::new("t")))),
            ),
            ("{}", None),
            ("null", None),
            (r#"{"auth":null,"username":null,"identitytoken":null}"#, None),
            (r#"{"auth":"YW5uOnB3","email":null,"identitytoken":null}"#, Some(basic("ann", "pw"))),
        ] {
            let json = format!(r#"{{"auths":{{"r.io":{entry}}}}}"#);
            assert_eq!(find(&json, "r.io", "a").first(), expect.as_ref(), "{entry}");
        }
    }

    #[test]
    fn key_forms_are_matched() {
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
    fn longest_key_wins_and_helpers_precede_plain_entries() {
        let json = r#"{
            "auths": {"r.io": {"auth":"YTph"}, "r.io/x": {"auth":"Yjpi"}, "r.io/x/y": {"auth":"Yzpj"}, "h.io": {"auth":"YTph"}},
            "credsStore": "desktop", "credHelpers": {"h.io": "ecr-login", "https://index.docker.io/v1/": "pass"}
        }"#;
        let store = |server: &str| CredentialLocation::Helper {
            name: "desktop".into(),
            server: server.into(),
            own: false,
        };
        assert_eq!(find(json, "r.io", "x/y/z"), [basic("c", "c"), store("r.io"), basic("a", "a")]);
        assert_eq!(find(json, "r.io", "x/z")[0], basic("b", "b"));
        assert_eq!(find(json, "r.io", "q"), [store("r.io"), basic("a", "a")]);
        let own = CredentialLocation::Helper { name: "ecr-login".into(), server: "h.io".into(), own: true };
        assert_eq!(find(json, "h.io", "q"), [own]);
        let hub =
            CredentialLocation::Helper { name: "pass".into(), server: DOCKER_HUB_KEY.into(), own: true };
        assert_eq!(find(json, "docker.io", "library/q"), [hub]);
    }

    #[test]
    fn null_means_absent() {
        for json in [
            "null",
            r#"{"auths":null}"#,
            r#"{"credsStore":null}"#,
            r#"{"credHelpers":null}"#,
            r#"{"credHelpers":{"r.io":null}}"#,
            r#"{"auths":{"r.io":null},"credsStore":null,"credHelpers":null,"psFormat":null}"#,
        ] {
            assert_eq!(find(json, "r.io", "a"), [], "{json}");
        }
    }

    #[test]
    fn empty_helper_name_means_the_file_itself() {
        let json =
            r#"{"auths":{"r.io":{"auth":"YW5uOnB3"}},"credsStore":"desktop","credHelpers":{"r.io":""}}"#;
        assert_eq!(find(json, "r.io", "a"), [basic("ann", "pw")]);
    }

    #[test]
    fn malformed_file_is_an_error_without_secrets() {
        for json in ["", "[]", r#"{"auths":{"r.io":{"auth":"hunter2"#, r#"{"auths":"hunter2"}"#] {
            let error = DockerConfig::parse(json.as_bytes()).unwrap_err();
            assert!(!error.contains("hunter2"), "{json}: {error}");
        }
        let config = DockerConfig::parse(br#"{"auths":{"r.io":{"auth":"YW5uOmh1bnRlcjI="}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn unreadable_entry_concerns_its_registry_only() {
        for (json, why) in [
            (r#"{"auths":{"bad.io":{"auth":"hunter2!"},"r.io":{"auth":"YW5uOnB3"}}}"#, "base64"),
            (r#"{"auths":{"bad.io":{"auth":"aHVudGVyMg=="},"r.io":{"auth":"YW5uOnB3"}}}"#, "base64"),
            (r#"{"auths":{"bad.io":"hunter2","r.io":{"auth":"YW5uOnB3"}}}"#, "docker login"),
            (r#"{"auths":{"bad.io":{"auth":["hunter2"]},"r.io":{"auth":"YW5uOnB3"}}}"#, "docker login"),
            (r#"{"credHelpers":{"bad.io":"../x"},"auths":{"r.io":{"auth":"YW5uOnB3"}}}"#, "valid name"),
            (r#"{"credHelpers":{"bad.io":"a b"},"auths":{"r.io":{"auth":"YW5uOnB3"}}}"#, "valid name"),
        ] {
            assert_eq!(find(json, "r.io", "a"), [basic("ann", "pw")], "{json}");
            let bad = find(json, "bad.io", "a");
            let [CredentialLocation::Unreadable(shown)] = bad.as_slice() else { panic!("{json}: {bad:?}") };
            assert!(shown.contains(why) && !shown.contains("hunter2"), "{json}: {shown}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_file_does_not_panic(
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
