//! Which redirects are followed.
//!
//! A registry redirects to content servers. A hostile one could redirect to services of this machine, to plain HTTP, or to a
//! host that should not see our credentials. The last is prevented where requests are made: each carries only what its own
//! host may see.

use super::transport::Peers;
use reqwest::Response;
use reqwest::header::LOCATION;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// The most redirects that are followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Where a response to a request to `from` redirects to; `None` when it is no redirect.
///
/// # Errors
/// Why the redirect is not followed.
pub(super) fn next(
    response: &Response,
    from: &Url,
    seen: &[Url],
    peers: &Peers,
) -> Option<Result<Url, String>> {
    if !is_redirect(response) {
        return None;
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| "a redirect without a Location header".to_owned());
    Some(location.and_then(|location| target(from, location, seen, peers)))
}

/// Whether a response is a redirect.
pub(super) fn is_redirect(response: &Response) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The URL that `location` names, resolved against `from`, if it may be followed.
///
/// # Errors
/// Why it may not.
pub(super) fn target(from: &Url, location: &str, seen: &[Url], peers: &Peers) -> Result<Url, String> {
    if seen.len() > MAX_REDIRECTS {
        return Err(format!("more than {MAX_REDIRECTS} redirects"));
    }
    let to = from.join(location).map_err(|error| format!("a redirect to an invalid URL: {error}"))?;
    let mut to = upgraded(from, to);
    to.set_fragment(None);
    if !matches!(to.scheme(), "http" | "https") {
        return Err(format!("a redirect to the scheme {:?}", to.scheme()));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(format!("a redirect from HTTPS to plain HTTP at {}", to.host_str().unwrap_or_default()));
    }
    if to.scheme() == "http" && is_loopback(from) && !is_loopback(&to) {
        // Loopback registries may use plain HTTP because nobody can listen in.
        let host = to.host_str().unwrap_or_default();
        return Err(format!("a redirect from this machine to plain HTTP at {host}"));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("a redirect with a user in the URL".into());
    }
    check_reach(from, &to, peers).map_err(|why| format!("a redirect {why}"))?;
    if seen.contains(&to) {
        return Err("a redirect loop".into());
    }
    Ok(to)
}

/// `to` over HTTPS where `from` is, if both are the same server.
///
/// A registry behind a proxy that terminates TLS often does not know of it and names itself in plain HTTP. The port must be
/// the one that was used, or the default port that such a registry would name.
pub(super) fn upgraded(from: &Url, to: Url) -> Url {
    let same_server =
        to.host() == from.host() && (matches!(to.port(), None | Some(443)) || to.port() == from.port());
    if from.scheme() != "https" || to.scheme() != "http" || !same_server {
        return to;
    }
    let mut secure = to.clone();
    match secure.set_scheme("https").and_then(|()| secure.set_port(from.port())) {
        Ok(()) => secure,
        Err(()) => to,
    }
}

/// Refuses an address literal of a private network that a public host names: the way into networks that the host can't
/// reach itself. A host is public unless the connection to it went to a private address.
///
/// # Errors
/// Why it is refused, to continue "a redirect ..." or "it leads ...".
pub(super) fn check_reach(from: &Url, to: &Url, peers: &Peers) -> Result<(), String> {
    let from_private = is_private(from) || peers.address(from).is_some_and(is_private_address);
    if is_private(to) && !from_private && from.host() != to.host() {
        return Err(format!(
            "to the private address {} from the public host {}",
            to.host_str().unwrap_or_default(),
            from.host_str().unwrap_or_default()
        ));
    }
    Ok(())
}

/// Whether two URLs have the same origin: scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether the host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) => is_private(url),
        None => false,
    }
}

/// Whether the host is `localhost`, or an address literal of a private network.
pub(super) fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => is_private_v4(address),
        Some(Host::Ipv6(address)) => is_private_v6(address),
        None => true,
    }
}

/// Whether an address belongs to this machine or to a private network.
fn is_private_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || a == 0
        // Shared address space (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    if let IpAddr::V4(mapped) = address.to_canonical() {
        return is_private_v4(mapped);
    }
    let head = address.segments()[0];
    address.is_loopback() || address.is_unspecified() || head & 0xfe00 == 0xfc00 || head & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirect_is_followed_or_refused() {
        for (from, location, expect) in [
            ("https://r.io/v2/a", "https://cdn.io/x?sig=1#f", Ok("https://cdn.io/x?sig=1")),
            ("https://r.io/v2/a", "/other", Ok("https://r.io/other")),
            ("https://r.io/v2/a", "//cdn.io/x", Ok("https://cdn.io/x")),
            ("http://r.io/v2/a", "https://cdn.io/x", Ok("https://cdn.io/x")),
            ("http://127.0.0.1:5000/a", "http://127.0.0.1:6000/b", Ok("http://127.0.0.1:6000/b")),
            ("http://127.0.0.1:5000/a", "http://localhost:6000/b", Ok("http://localhost:6000/b")),
            ("http://127.0.0.1:5000/a", "https://cdn.io/b", Ok("https://cdn.io/b")),
            ("http://127.0.0.1:5000/a", "http://cdn.io/b", Err("plain HTTP at cdn.io")),
            ("http://localhost:5000/a", "http://10.0.0.2/b", Err("plain HTTP at 10.0.0.2")),
            ("http://10.0.0.1/a", "http://10.0.0.2/b", Ok("http://10.0.0.2/b")),
            ("https://r.io/v2/a", "http://cdn.io/v2/b", Err("plain HTTP")),
            ("https://r.io/v2/a", "http://r.io:8080/v2/b", Err("plain HTTP")),
            ("https://r.io/v2/a", "http://r.io/v2/b", Ok("https://r.io/v2/b")),
            ("https://r.io:5000/v2/a", "http://r.io/v2/b", Ok("https://r.io:5000/v2/b")),
            ("https://r.io:5000/v2/a", "http://r.io:5000/v2/b", Ok("https://r.io:5000/v2/b")),
            ("https://r.io/v2/a", "http://r.io/v2/a", Err("loop")),
            ("https://r.io/v2/a", "https://127.0.0.1/", Err("private")),
            ("https://r.io/v2/a", "https://2130706433/", Err("private")),
            ("https://r.io/v2/a", "https://0x7f.1/", Err("private")),
            ("https://r.io/v2/a", "https://localhost./", Err("private")),
            ("https://r.io/v2/a", "https://169.254.169.254/latest", Err("private")),
            ("https://r.io/v2/a", "https://[::1]/", Err("private")),
            ("https://r.io/v2/a", "https://[::ffff:10.0.0.1]/", Err("private")),
            ("https://r.io/v2/a", "https://[fd00::1]/", Err("private")),
            ("https://r.io/v2/a", "https://100.64.0.1/", Err("private")),
            ("https://r.io/v2/a", "file:///etc/passwd", Err("scheme")),
            ("https://r.io/v2/a", "https://ann:pw@cdn.io/", Err("user")),
            ("https://r.io/v2/a", "https://[bad", Err("invalid URL")),
            ("https://r.io/v2/a", "https://r.io/v2/a", Err("loop")),
        ] {
            let start = url(from);
            let result = target(&start, location, std::slice::from_ref(&start), &Peers::default());
            match (result, expect) {
                (Ok(to), Ok(expect)) => assert_eq!(to.as_str(), expect),
                (Err(why), Err(part)) => assert!(why.contains(part), "{location}: {why}"),
                (result, _) => panic!("{location}: {result:?}"),
            }
        }
    }

    #[test]
    fn host_is_public_or_private_by_the_address_connected_to() {
        let (from, to) = (url("https://r.corp/v2/a"), "https://10.0.0.2/b");
        let peers = Peers::default();
        assert!(target(&from, to, &[], &peers).is_err());
        peers.insert(&from, "192.0.2.1".parse().unwrap());
        assert!(target(&from, to, &[], &peers).is_err(), "it resolved to a public address");
        peers.insert(&from, "10.0.0.1".parse().unwrap());
        assert_eq!(target(&from, to, &[], &peers).unwrap().as_str(), to);
        assert!(target(&url("https://other.io/"), to, &[], &peers).is_err());
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        for (one, other, same) in [
            ("https://r.io/a", "https://r.io:443/b", true),
            ("https://r.io/a", "http://r.io/b", false),
            ("https://r.io/a", "https://r.io:444/b", false),
            ("https://r.io/a", "https://s.io/b", false),
        ] {
            assert_eq!(same_origin(&url(one), &url(other)), same, "{one} {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_location_leads_to_plain_http_or_a_private_address(
            location in r"(https?:|)(//|/|)([0-9a-fx.:\[\]@%]{0,20}|localhost|127\.1|cdn\.io)(:[0-9]{1,5})?/\PC{0,8}",
        ) {
            let start = url("https://r.io/v2/a");
            if let Ok(to) = target(&start, &location, std::slice::from_ref(&start), &Peers::default()) {
                proptest::prop_assert_eq!(to.scheme(), "https");
                proptest::prop_assert!(!is_private(&to), "{}", to);
            }
        }
    }
}
