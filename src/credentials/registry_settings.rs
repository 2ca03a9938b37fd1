//! Per-registry connection settings.

use super::certificates;
use super::config_home;
use crate::error::Result;
use crate::oci::Registry;
use crate::registry::{ProxySettings, SessionOptions, SettingsSource};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use url::Url;

/// Connection settings for each registry: plain HTTP, certificates, mirrors, proxies.
///
/// Hosts without a port apply to every port of the host.
///
/// ```no_run
/// # fn example() -> saver::Result<()> {
/// use saver::credentials::RegistrySettings;
///
/// let settings = RegistrySettings::docker_default(|name| std::env::var_os(name))?
///     .with_plain_http("registry.lan:5000".parse()?)
///     .with_ca_file("/etc/ssl/company-ca.pem")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    session: SessionOptions,
    plain_http: BTreeSet<Registry>,
    insecure_tls: BTreeSet<Registry>,
    cert_dirs: Vec<PathBuf>,
    mirrors: BTreeMap<Registry, Vec<Url>>,
}

impl RegistrySettings {
    /// Verified HTTPS to every registry, without mirrors or proxies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The certificates and proxies that Docker and the containers tools would use.
    ///
    /// Certificate directories are `$XDG_CONFIG_HOME/containers/certs.d` (by default under `$HOME/.config`),
    /// `/etc/containers/certs.d` and `/etc/docker/certs.d`. Proxies come from `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY` and `NO_PROXY`. `env` looks up these variables: `|name| std::env::var_os(name)`.
    ///
    /// # Errors
    /// `InvalidInput` for a proxy variable that cannot be used. Certificates are read when their registry is first used.
    pub fn docker_default(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let user = config_home(&env).map(|config| config.join("containers/certs.d"));
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        let settings = Self { cert_dirs: user.into_iter().chain(system).collect(), ..Self::default() };
        Ok(settings.with_proxies(ProxySettings::from_env(env)?))
    }

    /// Uses these options where nothing more specific is set for a registry: timeouts, limits, the user agent.
    ///
    /// Replaces certificate authorities and proxies that were set before.
    #[must_use]
    pub fn with_session_options(self, session: SessionOptions) -> Self {
        Self { session, ..self }
    }

    /// Uses plain HTTP for `host`. Loopback hosts do not need this.
    #[must_use]
    pub fn with_plain_http(mut self, host: Registry) -> Self {
        self.plain_http.insert(host);
        self
    }

    /// Does not verify the certificate of `host`.
    #[must_use]
    pub fn with_insecure_tls(mut self, host: Registry) -> Self {
        self.insecure_tls.insert(host);
        self
    }

    /// Trusts the certificates in a PEM file in addition to the system's authorities.
    ///
    /// # Errors
    /// `InvalidInput` for a file that cannot be read or contains no certificate.
    pub fn with_ca_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.session.ca_certificates.push(certificates::read_authorities(path.as_ref())?);
        Ok(self)
    }

    /// Looks for a registry's certificates in `DIR/HOST[:PORT]` before the directories that are set already.
    #[must_use]
    pub fn with_cert_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cert_dirs.insert(0, dir.into());
        self
    }

    /// Tries `mirror` before `registry`, and after the mirrors that are set already.
    #[must_use]
    pub fn with_mirror(mut self, registry: Registry, mirror: Url) -> Self {
        self.mirrors.entry(registry).or_default().push(mirror);
        self
    }

    /// Uses these proxies.
    #[must_use]
    pub fn with_proxies(mut self, proxies: ProxySettings) -> Self {
        self.session.proxy = proxies;
        self
    }

    /// The hosts that plain HTTP is used for.
    #[must_use]
    pub fn plain_http(&self) -> &BTreeSet<Registry> {
        &self.plain_http
    }

    /// The hosts whose certificates are not verified.
    #[must_use]
    pub fn insecure_tls(&self) -> &BTreeSet<Registry> {
        &self.insecure_tls
    }

    /// The mirrors of each registry.
    #[must_use]
    pub fn mirrors(&self) -> &BTreeMap<Registry, Vec<Url>> {
        &self.mirrors
    }

    /// The settings of one registry. Reads its certificate directories.
    ///
    /// # Errors
    /// `InvalidInput` for certificates that exist and cannot be used.
    pub fn session_options(&self, registry: &Registry) -> Result<SessionOptions> {
        let mut options = self.session.clone();
        options.plain_http |= contains(&self.plain_http, registry);
        options.insecure_tls |= contains(&self.insecure_tls, registry);
        options.mirrors.extend(self.mirrors.get(registry).into_iter().flatten().cloned());
        for dir in &self.cert_dirs {
            let found = certificates::read_directory(&dir.join(registry.as_str()))?;
            options.ca_certificates.extend(found.authorities);
            options.client_identity = options.client_identity.or(found.identity);
        }
        Ok(options)
    }
}

impl SettingsSource for RegistrySettings {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        self.session_options(registry).map(Some)
    }
}

/// Whether `hosts` has `registry`, or its host without the port.
pub(crate) fn contains(hosts: &BTreeSet<Registry>, registry: &Registry) -> bool {
    let without_port = match registry.as_str().rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry.as_str(),
    };
    hosts.contains(registry) || hosts.iter().any(|host| host.as_str() == without_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn registry(name: &str) -> Registry {
        name.parse().unwrap()
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(["reg.io".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn host_without_port_covers_every_port() {
        let settings =
            RegistrySettings::new().with_plain_http(registry("a.io:1")).with_plain_http(registry("b.io"));
        for (name, expect) in [
            ("a.io:1", true),
            ("b.io", true),
            ("b.io:1", true),
            ("a.io", false),
            ("a.io:2", false),
            ("c.io", false),
        ] {
            assert_eq!(settings.session_options(&registry(name)).unwrap().plain_http, expect, "{name}");
        }
    }

    #[test]
    fn mirrors_are_kept_in_order() {
        let settings = RegistrySettings::new()
            .with_mirror(registry("docker.io"), "https://m.io/".parse().unwrap())
            .with_mirror(registry("docker.io"), "https://n.io/hub".parse().unwrap());
        let mirrors = settings.session_options(&registry("index.docker.io")).unwrap().mirrors;
        assert_eq!(
            mirrors.iter().map(Url::as_str).collect::<Vec<_>>(),
            ["https://m.io/", "https://n.io/hub"]
        );
    }

    #[test]
    fn cert_dir_has_docker_s_layout() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.io:5000");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("ca.crt"), certificate()).unwrap();
        fs::write(host.join("me.cert"), "-----BEGIN cert-----\n").unwrap();
        fs::write(host.join("me.key"), "-----BEGIN key-----\n").unwrap();
        fs::write(host.join("note.txt"), "no certificate").unwrap();
        let settings = RegistrySettings::new().with_cert_dir(dir.path());
        let options = settings.session_options(&registry("reg.io:5000")).unwrap();
        assert_eq!(options.ca_certificates.len(), 1);
        let identity = String::from_utf8(options.client_identity.unwrap()).unwrap();
        assert_eq!(identity, "-----BEGIN cert-----\n\n-----BEGIN key-----\n");
        assert!(settings.session_options(&registry("reg.io")).unwrap().client_identity.is_none());
        fs::remove_file(host.join("me.key")).unwrap();
        let error = settings.session_options(&registry("reg.io:5000")).unwrap_err();
        assert!(error.to_string().contains("me.key does not exist"), "{error}");
    }

    #[test]
    fn ca_file_without_a_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for (text, why) in [
            ("nothing", "no PEM block"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "not valid PEM"),
        ] {
            fs::write(&path, text).unwrap();
            let error = RegistrySettings::new().with_ca_file(&path).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains(why), "{text}: {error}");
        }
        fs::write(&path, certificate()).unwrap();
        assert!(RegistrySettings::new().with_ca_file(&path).is_ok());
        let missing = RegistrySettings::new().with_ca_file(dir.path().join("none.pem")).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
    }

    #[test]
    fn docker_default_rejects_an_unusable_proxy() {
        let env = |name: &str| (name == "HTTPS_PROXY").then(|| "htp://proxy".into());
        let error = RegistrySettings::docker_default(env).unwrap_err();
        assert!(error.to_string().starts_with("HTTPS_PROXY: "), "{error}");
    }
}
