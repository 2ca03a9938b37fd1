//! Proxy settings: which requests go through a proxy, and through which one.
//!
//! `NO_PROXY` follows Go's `httpproxy` package, because Docker, containerd and Kubernetes nodes are
//! configured for it. An address that cannot be used is an error and never means a direct connection:
//! a host behind a mandatory proxy must not be contacted around it.

use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use url::{Host, Url};

/// The proxy schemes that the HTTP client supports.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxies of a registry session. Loopback hosts are always contacted directly.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// For HTTPS requests.
    pub https: Option<ProxyUrl>,
    /// For plain HTTP requests.
    pub http: Option<ProxyUrl>,
    /// Hosts to contact directly.
    pub no_proxy: NoProxy,
}

impl ProxySettings {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` through `env`.
    ///
    /// The lower-case name takes precedence, as in curl. Empty values count as unset.
    ///
    /// # Errors
    /// `InvalidInput` that names the variable, for a value that is not a proxy URL. The value itself is not
    /// repeated because it may contain a password.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let all = proxy_variable(&env, "ALL_PROXY")?;
        let https = proxy_variable(&env, "HTTPS_PROXY")?.or_else(|| all.clone());
        let http = proxy_variable(&env, "HTTP_PROXY")?.or(all);
        let no_proxy = match variable(&env, "NO_PROXY") {
            Some((_, value)) => NoProxy::parse(&value.to_string_lossy()),
            None => NoProxy::default(),
        };
        Ok(Self { https, http, no_proxy })
    }

    /// The proxy for a request to `url`; `None` for a direct connection.
    #[must_use]
    pub fn proxy_for(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        (!self.no_proxy.matches(url)).then_some(&proxy.0)
    }
}

/// The first of the lower-case and the upper-case variable that is set and not empty.
fn variable(env: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<(String, OsString)> {
    [name.to_ascii_lowercase(), name.to_owned()].into_iter().find_map(|name| {
        let value = env(&name).filter(|value| !value.to_string_lossy().trim().is_empty())?;
        Some((name, value))
    })
}

fn proxy_variable(env: impl Fn(&str) -> Option<OsString>, name: &str) -> Result<Option<ProxyUrl>> {
    let Some((name, value)) = variable(env, name) else { return Ok(None) };
    let value = value.to_str().ok_or("it is not valid UTF-8".to_owned());
    let url = value.and_then(ProxyUrl::parse);
    url.map(Some).map_err(|why| {
        Error::new(ErrorKind::InvalidInput, name, format!("not a usable proxy URL: {why}"))
            .with_hint("write it like http://proxy.example:3128, or unset the variable")
    })
}

/// The URL of a proxy: `http`, `https`, `socks4`, `socks4a`, `socks5` or `socks5h`. `Debug` hides user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// The URL, which may contain a password.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Parses `value`. Without a scheme it is an HTTP proxy, as for curl and Go. The error text never contains `value`.
    fn parse(value: &str) -> Result<Self, String> {
        let value = value.trim();
        if value.starts_with(['"', '\'']) || value.ends_with(['"', '\'']) {
            return Err("the value contains quotation marks".to_owned());
        }
        let (scheme, rest) = match value.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => ("http".to_owned(), value),
        };
        if !SCHEMES.contains(&scheme.as_str()) {
            return Err(format!("unknown scheme (supported: {})", SCHEMES.join(", ")));
        }
        // In a URL these would end the host name; in a proxy variable they come from a user name or password.
        if rest.contains(['\\', '#', '?']) || rest.split_once('/').is_some_and(|(_, path)| path.contains('@'))
        {
            return Err("special characters in the user name or password must be percent-encoded".to_owned());
        }
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| error.to_string())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it has no host name")?;
        // `http:proxy:3128` and `http:/proxy:3128` would otherwise name a host called "http".
        if SCHEMES.contains(&host) {
            return Err(format!("\"//\" is missing after \"{host}:\""));
        }
        if url.port() == Some(0) {
            return Err("the port is 0".to_owned());
        }
        Ok(Self(url))
    }
}

impl FromStr for ProxyUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).map_err(|why| Error::new(ErrorKind::InvalidInput, "proxy URL", why))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::error::shown_url(&self.0))
    }
}

/// Hosts to contact without a proxy, as `NO_PROXY` lists them.
///
/// Entries are separated by commas or white space: `*` (every host), an IP address, a CIDR block
/// (`10.0.0.0/8`), a domain with its subdomains (`example.com`), or subdomains alone (`.example.com`,
/// `*.example.com`). All but `*` and CIDR blocks may end in `:PORT`; an IPv6 address is then written in brackets.
#[derive(Clone, Debug, Default)]
pub struct NoProxy {
    all: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    hosts: Hosts,
    /// `None` for any port.
    port: Option<String>,
}

#[derive(Clone, Debug)]
enum Hosts {
    Address(IpAddr),
    Network(IpAddr, u32),
    /// A suffix with its leading dot, and whether the domain itself matches as well.
    Domain(String, bool),
}

impl NoProxy {
    /// Parses a `NO_PROXY` value. Entries that name no host are ignored, as in Go.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let entries = text.split(|c: char| c == ',' || c.is_whitespace());
        let entries: Vec<String> = entries.map(str::to_lowercase).filter(|entry| !entry.is_empty()).collect();
        let all = entries.iter().any(|entry| entry == "*");
        Self { all, rules: entries.iter().filter_map(|entry| Rule::parse(entry)).collect() }
    }

    /// Whether requests to `url` go out directly.
    #[must_use]
    pub fn matches(&self, url: &Url) -> bool {
        let Some(host) = url.host() else { return true };
        let address = match host {
            Host::Domain(domain) => domain.trim_matches(['[', ']']).parse().ok(),
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
        };
        let address: Option<IpAddr> = address.map(|address| address.to_canonical());
        let name = url.host_str().unwrap_or_default().to_ascii_lowercase();
        if self.all || name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let port = url.port_or_known_default().map(|port| port.to_string()).unwrap_or_default();
        self.rules.iter().any(|rule| {
            let port_matches = rule.port.as_ref().is_none_or(|expected| *expected == port);
            port_matches && rule.hosts.matches(&name, address)
        })
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if let Some((address, length)) = entry.split_once('/')
            && let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u32>())
            && length <= width(address)
        {
            return Some(Self { hosts: Hosts::Network(address, length), port: None });
        }
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Some(Self { hosts: Hosts::Address(address.to_canonical()), port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            // The colons of "[::1]" are part of the address.
            Some((host, port)) if !port.contains(']') => (host, Some(port.to_owned())),
            _ => (entry, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self { hosts: Hosts::Address(address.to_canonical()), port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let hosts = match host.strip_prefix('.') {
            Some("") => return None,
            Some(_) => Hosts::Domain(host.to_owned(), false),
            None if host.is_empty() => return None,
            None => Hosts::Domain(format!(".{}", ascii(host)), true),
        };
        Some(Self { hosts, port })
    }
}

/// The host name in the form that URLs have it (punycode).
fn ascii(host: &str) -> String {
    match Host::parse(host) {
        Ok(Host::Domain(domain)) => domain,
        _ => host.to_owned(),
    }
}

impl Hosts {
    fn matches(&self, name: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::Address(expected) => address == Some(*expected),
            Self::Network(network, length) => address.is_some_and(|address| {
                width(*network) == width(address) && prefix(*network, *length) == prefix(address, *length)
            }),
            Self::Domain(suffix, domain_itself) => {
                name.ends_with(suffix) || (*domain_itself && name == &suffix[1..])
            }
        }
    }
}

/// The number of bits of an address.
fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS }
}

/// The first `length` bits of an address.
fn prefix(address: IpAddr, length: u32) -> u128 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    bits.checked_shr(width(address) - length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_env(variables: &[(&str, &str)]) -> Result<ProxySettings> {
        ProxySettings::from_env(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn text(proxy: Option<ProxyUrl>) -> Option<String> {
        proxy.map(|proxy| proxy.as_url().as_str().to_owned())
    }

    #[test]
    fn environment_lower_case_and_specific_names_win() {
        let settings = from_env(&[
            ("HTTPS_PROXY", "http://big:1"),
            ("https_proxy", "http://small:1"),
            ("http_proxy", ""),
            ("NO_PROXY", "a.io"),
            ("ALL_PROXY", "socks5://all:1"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(text(settings.https).as_deref(), Some("http://small:1/"));
        assert_eq!(text(settings.http).as_deref(), Some("socks5://all:1"));
        assert!(settings.no_proxy.matches(&Url::parse("https://a.io/").unwrap()));
    }

    #[test]
    fn environment_usable_values_are_accepted() {
        for (value, expect) in [
            ("proxy.example:3128", "http://proxy.example:3128/"),
            ("proxy.example", "http://proxy.example/"),
            ("10.0.0.1:3128", "http://10.0.0.1:3128/"),
            (" http://proxy:3128\r\n", "http://proxy:3128/"),
            ("HTTPS://proxy", "https://proxy/"),
            ("http://ann:pw@proxy:3128", "http://ann:pw@proxy:3128/"),
            ("ann:pw@proxy:3128", "http://ann:pw@proxy:3128/"),
            ("socks5h://proxy:1080", "socks5h://proxy:1080"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128/"),
        ] {
            let settings = from_env(&[("HTTPS_PROXY", value)]).unwrap();
            assert_eq!(text(settings.https).as_deref(), Some(expect), "{value:?}");
        }
    }

    #[test]
    fn environment_unusable_value_names_the_variable() {
        for (value, why) in [
            ("\"http://ann:hunter2@proxy:3128\"", "quotation marks"),
            ("'http://proxy:3128'", "quotation marks"),
            ("htp://ann:hunter2@proxy", "unknown scheme"),
            ("socks://proxy:1", "unknown scheme"),
            ("ftp://proxy", "unknown scheme"),
            ("http:proxy:3128", ""),
            ("http:/proxy:3128", "\"//\" is missing"),
            ("https:/proxy:3128", "\"//\" is missing"),
            ("http//proxy:3128", "\"//\" is missing"),
            ("http://", ""),
            ("http://ann:hunter2@[bad", ""),
            ("http://DOM\\ann:hunter2@proxy", "percent-encoded"),
            ("http://ann:p#hunter2@proxy", "percent-encoded"),
            ("http://ann:p?hunter2@proxy", "percent-encoded"),
            ("http://ann:p/hunter2@proxy", "percent-encoded"),
            ("http://proxy:99999", "port"),
            ("http://proxy:0", "port"),
            ("proxy.example:hunter2", "port"),
        ] {
            for variable in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"] {
                let error = from_env(&[(variable, value)]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                let shown = error.to_string();
                assert!(
                    shown.starts_with(&format!("{variable}: not a usable proxy URL: ")),
                    "{value}: {shown}"
                );
                assert!(shown.contains(why) && !shown.contains("hunter2"), "{value}: {shown}");
            }
        }
    }

    #[test]
    fn no_proxy_matches_as_go_httpproxy_does() {
        for (list, url, direct) in [
            ("*", "https://any.example/", true),
            ("a.io, *", "https://any.example/", true),
            ("example.com", "https://example.com/", true),
            ("Example.COM", "https://r.example.com/", true),
            ("example.com", "https://notexample.com/", false),
            (".example.com", "https://r.example.com/", true),
            (".example.com", "https://example.com/", false),
            ("*.example.com", "https://a.r.example.com/", true),
            ("*.example.com", "https://example.com/", false),
            ("example.com:5000", "https://example.com:5000/", true),
            ("example.com:5000", "https://example.com/", false),
            ("example.com:443", "https://example.com/", true),
            ("*.example.com:5000", "https://r.example.com:5000/", true),
            ("10.1.2.3", "https://10.1.2.3/", true),
            ("10.1.2.3", "https://10.1.2.4/", false),
            ("10.1.2.3:80", "http://10.1.2.3/", true),
            ("10.1.2.3:80", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://10.9.9.9:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("0.0.0.0/0", "https://11.0.0.1/", true),
            ("0.0.0.0/0", "https://r.io/", false),
            ("fd00::/8", "https://[fd12::1]:5000/", true),
            ("fd00::/8", "https://[fe80::1]/", false),
            ("fd00::1", "https://[fd00::1]/", true),
            ("[fd00::1]", "https://[fd00::1]/", true),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/", true),
            ("[fd00::1]:5000", "https://[fd00::1]/", false),
            ("10.1.2.3", "https://[::ffff:10.1.2.3]/", true),
            ("bücher.example", "https://r.xn--bcher-kva.example/", true),
            ("a.io b.io", "https://b.io/", true),
            (",, :5000,.", "https://r.io:5000/", false),
            ("", "https://localhost:5000/", true),
            ("", "http://127.9.9.9/", true),
            ("", "http://[::1]:5000/", true),
            ("", "https://r.io/", false),
        ] {
            assert_eq!(NoProxy::parse(list).matches(&Url::parse(url).unwrap()), direct, "{list:?} {url}");
        }
    }

    #[test]
    fn proxy_is_selected_by_scheme_of_the_request() {
        let settings =
            from_env(&[("HTTPS_PROXY", "http://s:1"), ("HTTP_PROXY", "p:2"), ("NO_PROXY", "a.io")]).unwrap();
        let proxy = |url: &str| settings.proxy_for(&Url::parse(url).unwrap()).map(Url::to_string);
        assert_eq!(proxy("https://r.io/").as_deref(), Some("http://s:1/"));
        assert_eq!(proxy("http://r.io/").as_deref(), Some("http://p:2/"));
        assert_eq!(proxy("https://a.io/"), None);
    }

    #[test]
    fn proxy_url_debug_hides_the_password() {
        let url: ProxyUrl = "http://ann:hunter2@proxy".parse().unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
