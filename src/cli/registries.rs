//! How each registry is reached: flags, certificate directories and proxies, resolved.

use crate::cli::args::RegistryArgs;
use crate::cli::config::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::registry::{ProxySettings, SessionOptions, SettingsSource};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind as IoError;
use std::path::{Path, PathBuf};
use url::Url;

/// The largest certificate or key file that is read, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The settings of all registries.
pub(super) struct Registries {
    plain_http: BTreeSet<Registry>,
    insecure_tls: BTreeSet<Registry>,
    ca_certificates: Vec<Vec<u8>>,
    cert_dirs: Vec<PathBuf>,
    mirrors: BTreeMap<Registry, Vec<Url>>,
    proxy: ProxySettings,
}

impl SettingsSource for Registries {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        self.session(registry).map(Some)
    }
}

impl Registries {
    /// Resolves the flags.
    ///
    /// # Errors
    /// `InvalidInput` naming the flag and what is wrong with it.
    pub(super) fn resolve(args: &RegistryArgs, environment: &Environment) -> Result<Self> {
        let plain_http = hosts("--plain-http", &args.plain_http)?;
        let mut mirrors = BTreeMap::new();
        for text in &args.mirror {
            let (registry, urls) = mirror(text, &plain_http)?;
            mirrors.entry(registry).or_insert_with(Vec::new).extend(urls);
        }
        let ca_certificates =
            args.ca_file.iter().map(|path| pem(path, "--ca-file")).collect::<Result<Vec<_>>>()?;
        for dir in &args.cert_dir {
            if !dir.is_dir() {
                let subject = format!("--cert-dir {}", dir.display());
                return Err(Error::new(ErrorKind::InvalidInput, subject, "there is no such directory"));
            }
        }
        Ok(Self {
            insecure_tls: hosts("--insecure-tls", &args.insecure_tls)?,
            plain_http,
            ca_certificates,
            cert_dirs: args.cert_dir.iter().cloned().chain(default_cert_dirs(environment)).collect(),
            mirrors,
            proxy: proxy(environment),
        })
    }

    /// The settings of one registry.
    ///
    /// # Errors
    /// `InvalidInput` for certificates that are there and can't be read.
    pub(super) fn session(&self, registry: &Registry) -> Result<SessionOptions> {
        let mut options = SessionOptions {
            plain_http: covers(&self.plain_http, registry),
            insecure_tls: covers(&self.insecure_tls, registry),
            ca_certificates: self.ca_certificates.clone(),
            mirrors: self.mirrors.get(registry).cloned().unwrap_or_default(),
            proxy: self.proxy.clone(),
            ..SessionOptions::default()
        };
        for dir in &self.cert_dirs {
            let found = certificates(&dir.join(registry.as_str()))?;
            options.ca_certificates.extend(found.authorities);
            options.client_identity = options.client_identity.or(found.identity);
        }
        Ok(options)
    }

    /// The hosts that flags speak of and that are no registry of the run: likely misspelt.
    pub(super) fn unused(&self, registries: &BTreeSet<Registry>) -> Vec<String> {
        let mirror_hosts: BTreeSet<String> = self.mirrors.values().flatten().filter_map(authority).collect();
        let mirror_hosts: Vec<Registry> = mirror_hosts.iter().filter_map(|host| host.parse().ok()).collect();
        let known = |host: &Registry| {
            registries.iter().chain(&mirror_hosts).any(|registry| covers(&[host.clone()].into(), registry))
        };
        let told = |flag: &'static str, host: &Registry| {
            let near = registries.iter().find(|registry| registry.host() == host.host());
            let near = near.map(|near| format!("; the list has {near}")).unwrap_or_default();
            format!("{flag} {host}: no image is in this registry{near}")
        };
        let flags = [("--plain-http", &self.plain_http), ("--insecure-tls", &self.insecure_tls)];
        let mut unused: Vec<String> = flags
            .into_iter()
            .flat_map(|(flag, hosts)| {
                hosts.iter().filter(|host| !known(host)).map(move |host| told(flag, host))
            })
            .collect();
        unused.extend(
            self.mirrors.keys().filter(|host| !registries.contains(*host)).map(|host| told("--mirror", host)),
        );
        unused
    }
}

fn wrong(flag: &str, value: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{flag} {value}"), why)
}

fn hosts(flag: &str, values: &[String]) -> Result<BTreeSet<Registry>> {
    let read = |value: &String| {
        let value =
            if flag == "--plain-http" { value.strip_prefix("http://").unwrap_or(value) } else { value };
        let value = value.strip_suffix('/').unwrap_or(value);
        if value.contains("://") || value.contains('/') {
            return Err(wrong(flag, value, "write HOST or HOST:PORT, nothing before or after"));
        }
        value.parse::<Registry>().map_err(|error| wrong(flag, value, error.message()))
    };
    values.iter().map(read).collect()
}

/// Whether `registry` was named: with its port, or its host alone, which covers every port.
fn covers(named: &BTreeSet<Registry>, registry: &Registry) -> bool {
    let bare = match registry.as_str().rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => registry.as_str(),
    };
    named.contains(registry) || named.iter().any(|host| host.as_str() == bare)
}

/// `HOST=URL[,URL]`.
fn mirror(text: &str, plain_http: &BTreeSet<Registry>) -> Result<(Registry, Vec<Url>)> {
    let refuse = |why: String| {
        wrong("--mirror", text, why)
            .with_hint("write HOST=URL[,URL], such as docker.io=https://mirror.local/hub")
    };
    let (host, urls) = text.split_once('=').ok_or_else(|| refuse("it has no =".into()))?;
    let registry: Registry = host.parse().map_err(|error: Error| refuse(error.message().to_owned()))?;
    let urls = urls.split(',').map(|url| {
        // What a mirror on this machine speaks is found out: http:// stands for that.
        let local = format!("http://{url}").parse().ok().and_then(|url| authority(&url));
        let local =
            local.and_then(|host| host.parse::<Registry>().ok()).is_some_and(|host| host.is_loopback());
        let full = match url {
            _ if url.contains("://") => url.to_owned(),
            _ if local => format!("http://{url}"),
            _ => format!("https://{url}"),
        };
        let parsed = Url::parse(&full).map_err(|cause| refuse(format!("{url:?} is no address: {cause}")))?;
        let host = authority(&parsed).and_then(|host| host.parse::<Registry>().ok());
        let host = host.ok_or_else(|| refuse(format!("{url:?} names no host")))?;
        match parsed.scheme() {
            "https" => Ok(parsed),
            "http" if host.is_loopback() || covers(plain_http, &host) => Ok(parsed),
            "http" => Err(wrong("--mirror", text, "a mirror without TLS has to be allowed by name")
                .with_hint(format!("add --plain-http {host}, or write https://"))),
            scheme => Err(refuse(format!("the scheme {scheme:?} is neither https nor http"))),
        }
    });
    Ok((registry, urls.collect::<Result<_>>()?))
}

/// `HOST[:PORT]` of an address.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Where Docker and the containers tools keep certificates: the user's own first.
fn default_cert_dirs(environment: &Environment) -> Vec<PathBuf> {
    let config = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| environment.home().map(|home| home.join(".config")));
    let own = config.map(|config| config.join("containers/certs.d"));
    own.into_iter().chain(["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()]).collect()
}

/// The proxies that the environment names. Lower case wins over upper case, as with curl.
fn proxy(environment: &Environment) -> ProxySettings {
    let get = |name: &str| {
        let value = environment.get(&name.to_ascii_lowercase()).or_else(|| environment.get(name));
        value.map(str::to_owned)
    };
    let all = get("ALL_PROXY");
    ProxySettings {
        https: get("HTTPS_PROXY").or_else(|| all.clone()),
        http: get("HTTP_PROXY").or(all),
        no_proxy: get("NO_PROXY"),
    }
}

/// What a registry's certificate directory holds.
#[derive(Default)]
struct Certificates {
    authorities: Vec<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

/// Reads `*.crt` as authorities and `NAME.cert` with `NAME.key` as what the client shows of itself
/// (Docker's layout of certs.d). No directory means no certificates.
fn certificates(dir: &Path) -> Result<Certificates> {
    let cannot = |cause: std::io::Error| {
        Error::new(ErrorKind::InvalidInput, dir.display(), format!("cannot read the certificates: {cause}"))
    };
    let mut names = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry.map_err(cannot)?.path());
            }
        }
        // Others' directories are often closed to us; what we may not read, we do not use.
        Err(error)
            if matches!(
                error.kind(),
                IoError::NotFound | IoError::NotADirectory | IoError::PermissionDenied
            ) => {}
        Err(error) => return Err(cannot(error)),
    }
    names.sort();
    let mut found = Certificates::default();
    for path in names {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("crt") => found.authorities.push(pem(&path, "")?),
            Some("cert") if found.identity.is_none() => {
                let key = path.with_extension("key");
                if !key.exists() {
                    let why = format!("the certificate has no key beside it: {} is missing", key.display());
                    return Err(Error::new(ErrorKind::InvalidInput, path.display(), why));
                }
                let mut identity = pem(&path, "")?;
                identity.push(b'\n');
                identity.extend(pem(&key, "")?);
                found.identity = Some(identity);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Reads a PEM file. `flag` is what named it, if a flag did.
fn pem(path: &Path, flag: &str) -> Result<Vec<u8>> {
    let subject = format!("{flag} {}", path.display());
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, subject.trim_start(), why);
    let size = fs::metadata(path).map_err(|cause| refuse(format!("cannot read it: {cause}")))?.len();
    if size > MAX_PEM_BYTES {
        return Err(refuse("it is too large to be a certificate".into()));
    }
    let bytes = fs::read(path).map_err(|cause| refuse(format!("cannot read it: {cause}")))?;
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(refuse("it holds no PEM block (-----BEGIN ...)".into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser;

    fn resolve(argv: &[&str], variables: &[(&str, &str)]) -> Result<Registries> {
        let cli = Cli::try_parse_from(std::iter::once("saver").chain(argv.iter().copied())).unwrap();
        Registries::resolve(&cli.save.run.registry, &Environment::of(variables))
    }

    fn registry(name: &str) -> Registry {
        name.parse().unwrap()
    }

    #[test]
    fn flags_speak_of_their_registry_only() {
        let argv = [
            "--plain-http",
            "a.io:1,b.io",
            "--insecure-tls",
            "c.io",
            "--mirror",
            "docker.io=m.io,https://n.io/hub",
        ];
        let registries = resolve(&argv, &[]).unwrap();
        let plain = |name| registries.session(&registry(name)).unwrap().plain_http;
        assert!(
            plain("a.io:1")
                && plain("b.io")
                && plain("b.io:1")
                && !plain("a.io")
                && !plain("a.io:2")
                && !plain("c.io")
        );
        assert!(registries.session(&registry("c.io")).unwrap().insecure_tls);
        let hub = registries.session(&registry("index.docker.io")).unwrap();
        let mirrors: Vec<&str> = hub.mirrors.iter().map(Url::as_str).collect();
        assert_eq!(mirrors, ["https://m.io/", "https://n.io/hub"]);
        let unused = registries.unused(&BTreeSet::from([registry("a.io:2"), registry("c.io")]));
        assert_eq!(
            unused,
            [
                "--plain-http a.io:1: no image is in this registry; the list has a.io:2",
                "--plain-http b.io: no image is in this registry",
                "--mirror docker.io: no image is in this registry",
            ]
        );
    }

    #[test]
    fn wrong_flags_say_why() {
        for (argv, why) in [
            (["--plain-http", "https://a.io"], "write HOST or HOST:PORT"),
            (["--insecure-tls", "http://a.io"], "write HOST or HOST:PORT"),
            (["--insecure-tls", "a.io/x"], "write HOST or HOST:PORT"),
            (["--plain-http", "a_ b"], "host name"),
            (["--mirror", "a.io"], "no ="),
            (["--mirror", "a.io=ftp://b.io"], "neither https nor http"),
            (["--mirror", "a.io=http://b.io"], "allowed by name"),
            (["--mirror", "a.io="], "no address"),
            (["--ca-file", "/no/such.pem"], "cannot read"),
            (["--cert-dir", "/no/such"], "no such directory"),
        ] {
            let error = resolve(&argv, &[]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(
                error.to_string().contains(argv[0]) && error.to_string().contains(why),
                "{argv:?}: {error}"
            );
        }
        assert!(resolve(&["--mirror", "a.io=http://b.io:5", "--plain-http", "b.io:5"], &[]).is_ok());
        assert!(resolve(&["--mirror", "a.io=http://localhost:5"], &[]).is_ok());
        let local = resolve(&["--mirror", "a.io=127.0.0.1:5", "--plain-http", "http://vm:1"], &[]).unwrap();
        assert_eq!(local.session(&registry("a.io")).unwrap().mirrors[0].as_str(), "http://127.0.0.1:5/");
        assert!(local.session(&registry("vm:1")).unwrap().plain_http);
    }

    #[test]
    fn certificates_are_found_where_docker_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.io:5000");
        fs::create_dir(&host).unwrap();
        for (name, text) in [("ca.crt", "ca"), ("me.cert", "cert"), ("me.key", "key"), ("note.txt", "no")] {
            fs::write(host.join(name), format!("-----BEGIN {text}-----\n")).unwrap();
        }
        let registries = resolve(&["--cert-dir", dir.path().to_str().unwrap()], &[]).unwrap();
        let options = registries.session(&registry("reg.io:5000")).unwrap();
        assert_eq!(options.ca_certificates.len(), 1);
        let identity = String::from_utf8(options.client_identity.unwrap()).unwrap();
        assert_eq!(identity, "-----BEGIN cert-----\n\n-----BEGIN key-----\n");
        assert!(registries.session(&registry("reg.io")).unwrap().client_identity.is_none());
        fs::remove_file(host.join("me.key")).unwrap();
        let error = registries.session(&registry("reg.io:5000")).unwrap_err();
        assert!(error.to_string().contains("me.key is missing"), "{error}");
    }

    #[test]
    fn proxies_come_from_the_environment_in_both_cases() {
        let settings = proxy(&Environment::of(&[
            ("HTTPS_PROXY", "http://big:1"),
            ("https_proxy", "http://small:1"),
            ("NO_PROXY", "a.io"),
            ("ALL_PROXY", "socks5://all:1"),
        ]));
        assert_eq!(settings.https.as_deref(), Some("http://small:1"));
        assert_eq!(settings.http.as_deref(), Some("socks5://all:1"));
        assert_eq!(settings.no_proxy.as_deref(), Some("a.io"));
    }
}
