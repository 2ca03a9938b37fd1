//! The registry options of the command line, resolved.

use crate::cli::args::registry::RegistryArgs;
use crate::cli::config::Environment;
use crate::credentials::{RegistrySettings, contains};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use std::collections::BTreeSet;
use std::ffi::OsString;
use url::Url;

/// Resolves the options.
///
/// # Errors
/// `InvalidInput` that names the option or environment variable and says why it cannot be used.
pub(super) fn resolve(args: &RegistryArgs, environment: &Environment) -> Result<RegistrySettings> {
    let mut settings = RegistrySettings::docker_default(|name| environment.get(name).map(OsString::from))?;
    let plain_http = hosts("--plain-http", &args.plain_http)?;
    for text in &args.mirror {
        let (registry, urls) = mirror(text, &plain_http)?;
        settings =
            urls.into_iter().fold(settings, |settings, url| settings.with_mirror(registry.clone(), url));
    }
    for path in &args.ca_file {
        settings = settings.with_ca_file(path).map_err(|error| {
            Error::new(error.kind(), format!("--ca-file {}", error.subject()), error.message())
        })?;
    }
    for dir in args.cert_dir.iter().rev() {
        if !dir.is_dir() {
            return Err(invalid("--cert-dir", &dir.display().to_string(), "no such directory"));
        }
        settings = settings.with_cert_dir(dir);
    }
    settings = plain_http.into_iter().fold(settings, RegistrySettings::with_plain_http);
    let insecure_tls = hosts("--insecure-tls", &args.insecure_tls)?;
    Ok(insecure_tls.into_iter().fold(settings, RegistrySettings::with_insecure_tls))
}

/// Warnings about hosts that options name and that no image of the run comes from: probably misspelt.
pub(super) fn unused(settings: &RegistrySettings, registries: &BTreeSet<Registry>) -> Vec<String> {
    let mirrors = settings.mirrors().values().flatten().filter_map(authority);
    let mirrors: Vec<Registry> = mirrors.filter_map(|host| host.parse().ok()).collect();
    let is_used = |host: &Registry| {
        let host = BTreeSet::from([host.clone()]);
        registries.iter().chain(&mirrors).any(|registry| contains(&host, registry))
    };
    let warning = |flag: &'static str, host: &Registry| {
        let near = registries.iter().find(|registry| registry.host() == host.host());
        let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        format!("{flag} {host}: no image comes from this registry{near}")
    };
    let mut unused = Vec::new();
    for (flag, hosts) in
        [("--plain-http", settings.plain_http()), ("--insecure-tls", settings.insecure_tls())]
    {
        unused.extend(hosts.iter().filter(|host| !is_used(host)).map(|host| warning(flag, host)));
    }
    let mirrored = settings.mirrors().keys().filter(|host| !registries.contains(*host));
    unused.extend(mirrored.map(|host| warning("--mirror", host)));
    unused
}

fn invalid(flag: &str, value: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{flag} {value}"), why)
}

fn hosts(flag: &str, values: &[String]) -> Result<BTreeSet<Registry>> {
    let read = |value: &String| {
        let value =
            if flag == "--plain-http" { value.strip_prefix("http://").unwrap_or(value) } else { value };
        let value = value.strip_suffix('/').unwrap_or(value);
        if value.contains("://") || value.contains('/') {
            return Err(invalid(flag, value, "expected HOST or HOST:PORT, without scheme or path"));
        }
        value.parse::<Registry>().map_err(|error| invalid(flag, value, error.message()))
    };
    values.iter().map(read).collect()
}

/// Parses `HOST=URL[,URL]`.
fn mirror(text: &str, plain_http: &BTreeSet<Registry>) -> Result<(Registry, Vec<Url>)> {
    let refuse = |why: String| {
        invalid("--mirror", text, why)
            .with_hint("write HOST=URL[,URL], such as docker.io=https://mirror.local/hub")
    };
    let (host, urls) = text.split_once('=').ok_or_else(|| refuse("missing '='".into()))?;
    let registry: Registry = host.parse().map_err(|error: Error| refuse(error.message().to_owned()))?;
    let urls = urls.split(',').map(|url| {
        // For loopback hosts, http:// means that the client detects TLS.
        let local = format!("http://{url}").parse().ok().and_then(|url| authority(&url));
        let local =
            local.and_then(|host| host.parse::<Registry>().ok()).is_some_and(|host| host.is_loopback());
        let full = match url {
            _ if url.contains("://") => url.to_owned(),
            _ if local => format!("http://{url}"),
            _ => format!("https://{url}"),
        };
        let parsed = Url::parse(&full).map_err(|cause| refuse(format!("{url:?} is not a URL: {cause}")))?;
        let host = authority(&parsed).and_then(|host| host.parse::<Registry>().ok());
        let host = host.ok_or_else(|| refuse(format!("{url:?} has no host")))?;
        match parsed.scheme() {
            "https" => Ok(parsed),
            "http" if host.is_loopback() || contains(plain_http, &host) => Ok(parsed),
            "http" => Err(invalid("--mirror", text, "a mirror over plain HTTP must be allowed by name")
                .with_hint(format!("add --plain-http {host}, or write https://"))),
            scheme => Err(refuse(format!("unknown scheme {scheme:?} (supported: https, http)"))),
        }
    });
    Ok((registry, urls.collect::<Result<_>>()?))
}

/// `HOST[:PORT]` of a URL.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command_line::Cli;
    use clap::Parser;

    fn resolve(argv: &[&str]) -> Result<RegistrySettings> {
        let cli = Cli::try_parse_from(std::iter::once("saver").chain(argv.iter().copied())).unwrap();
        super::resolve(&cli.save.run.fetch.registry, &Environment::default())
    }

    fn registry(name: &str) -> Registry {
        name.parse().unwrap()
    }

    #[test]
    fn options_for_unknown_registries_are_reported() {
        let argv = ["--plain-http", "a.io:1,b.io", "--insecure-tls", "c.io", "--mirror", "docker.io=m.io"];
        let settings = resolve(&argv).unwrap();
        assert!(settings.session_options(&registry("c.io")).unwrap().insecure_tls);
        let unused = unused(&settings, &BTreeSet::from([registry("a.io:2"), registry("c.io")]));
        assert_eq!(
            unused,
            [
                "--plain-http a.io:1: no image comes from this registry (did you mean a.io:2?)",
                "--plain-http b.io: no image comes from this registry",
                "--mirror docker.io: no image comes from this registry",
            ]
        );
    }

    #[test]
    fn invalid_values_name_the_option_and_the_reason() {
        for (argv, why) in [
            (["--plain-http", "https://a.io"], "expected HOST or HOST:PORT"),
            (["--insecure-tls", "http://a.io"], "expected HOST or HOST:PORT"),
            (["--insecure-tls", "a.io/x"], "expected HOST or HOST:PORT"),
            (["--plain-http", "a_ b"], "host name"),
            (["--mirror", "a.io"], "missing '='"),
            (["--mirror", "a.io=ftp://b.io"], "unknown scheme"),
            (["--mirror", "a.io=http://b.io"], "allowed by name"),
            (["--mirror", "a.io="], "not a URL"),
            (["--ca-file", "/no/such.pem"], "cannot read"),
            (["--cert-dir", "/no/such"], "no such directory"),
        ] {
            let error = resolve(&argv).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = error.to_string();
            assert!(shown.contains(argv[0]) && shown.contains(why), "{argv:?}: {shown}");
        }
    }

    #[test]
    fn mirrors_over_plain_http_need_permission_or_loopback() {
        assert!(resolve(&["--mirror", "a.io=http://b.io:5", "--plain-http", "b.io:5"]).is_ok());
        assert!(resolve(&["--mirror", "a.io=http://localhost:5"]).is_ok());
        let local = resolve(&["--mirror", "a.io=127.0.0.1:5", "--plain-http", "http://vm:1"]).unwrap();
        let mirrors = local.session_options(&registry("a.io")).unwrap().mirrors;
        assert_eq!(mirrors[0].as_str(), "http://127.0.0.1:5/");
        assert!(local.session_options(&registry("vm:1")).unwrap().plain_http);
    }
}
